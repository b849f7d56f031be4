"""The processes of a sweep on this machine, and the GPUs that it may use."""

import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from remix_toolkit.disk import make_room
from remix_toolkit.errors import RunFailed
from remix_toolkit.stage.command import end_with

# Forked from a process that has the libraries loaded, a job starts at once. Apple's libraries do not survive a fork.
CONTEXT = multiprocessing.get_context("forkserver") if sys.platform == "linux" else multiprocessing.get_context("spawn")
CONTEXT.set_forkserver_preload(["remix_toolkit.launch.preload"])


def set_up(log: Path, environment: dict[str, str]) -> None:
    """Begin a process of a sweep: it writes into a log, and ends with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep: it ends its processes
    sweep = multiprocessing.parent_process()  # not the fork server, which lives as long as any job
    assert sweep
    assert sweep.pid
    end_with(sweep.pid)
    make_room(log)
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    if threads := environment.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(int(threads))  # the fork server has read the environment already
    gc.freeze()  # a million objects of libraries, which are looked through several times a stage otherwise


def visible_devices() -> list[str]:
    """The GPUs that this process may use, by their ids; none without NVIDIA's tools."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        raise RunFailed(
            "nvidia-smi gave no answer within 60 seconds; CUDA_VISIBLE_DEVICES= goes without GPUs"
        ) from None
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    return [str(number) for number, line in enumerate(line for line in lines if line.startswith("GPU "))]
