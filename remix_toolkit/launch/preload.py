"""What the fork server of a sweep imports: jobs that are forked from it start at once.

A process that is forked once CUDA is initialised cannot use it; to import bitsandbytes, or to ask whether there is a
GPU, initialises it. So a child asks, and where there is a GPU, each job imports what follows torch by itself.
"""

import os

import torch

if (child := os.fork()) == 0:
    os._exit(torch.accelerator.is_available())
if os.waitpid(child, 0)[1] == 0:
    import remix_toolkit.stage.run  # noqa: F401
