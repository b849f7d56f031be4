"""One stage: its data, its training, its publication, its measurements."""

import logging

# On a CPU, importing it warns of a missing kernel for 4-bit products, even where no weight is quantized.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
