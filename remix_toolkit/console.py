"""Plain words on the screen."""

import sys


def say(text: str) -> None:
    """One plain line, at once (a log file shows where a run is)."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # a path may be no text


def duration(seconds: float) -> str:
    """`1:05` or `2:03:09`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def quieten() -> None:
    """Leave the screen to this toolkit's own lines; warnings and errors of the libraries still show."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
