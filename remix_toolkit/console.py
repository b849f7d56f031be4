"""Lines on the screen: progress on stdout, warnings on stderr, once for all processes of a launcher."""

import os
import sys


def info(text: str) -> None:
    """Print one line at once; of several processes that a launcher started, the first one prints."""
    if int(os.environ.get("RANK", "0")) == 0:
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # a path may not be text


def warn(text: str) -> None:
    """Print a warning on stderr."""
    sys.stderr.write(f"warning: {text}\n")


def format_duration(seconds: float) -> str:
    """`1:05` or `2:03:09`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def silence_libraries() -> None:
    """Leave the screen to this toolkit's lines; warnings and errors of the libraries still show."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
