"""The two ways in which a command fails: the input was wrong (exit code 2), or the run failed (exit code 1)."""

import errno
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches


class BadInput(Exception):
    """The user's input cannot be used. The message names the place, what is wrong and what would be right."""


class RunFailed(Exception):
    """The input is valid, and still the work could not be finished (a loss diverged, a launcher gave up)."""


class MeasurementFailed(RunFailed):
    """A published stage could not be measured in full. It stays; the same command measures what is missing."""


class Busy(RunFailed):
    """Another run is doing the same work: later it is done, or can be tried again."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest valid one and, where there are few, all of them."""
    known = sorted(known)
    close = get_close_matches(str(name), known, n=1, cutoff=0.5)
    hints = [f"did you mean {close[0]!r}?"] if close else []
    if len(known) <= 25 or not close:
        hints.append(f"valid: {', '.join(known) or 'none'}")
    return " ".join(hints)


def exit_on_error(command: Callable[[], object]) -> None:
    """Run a command. Bad input ends the process with exit code 2, a failed run or a full disk with 1."""
    try:
        command()
    except BadInput as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
    except RunFailed as error:
        sys.stderr.write(f"failed: {error}\n")
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.stderr.write(f"failed: the disk is full ({error.filename or 'no file named'})\n")
        raise SystemExit(1) from None
