"""The two ways a command ends badly: the input was wrong (exit 2) or the run failed (exit 1)."""

import errno
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches


class BadInput(Exception):
    """What the user gave cannot be used. The message says where, what is wrong and what would be right."""


class RunFailed(Exception):
    """The input was fine and the work still could not be finished (a loss that diverged, a launcher that gave up)."""


class MeasurementFailed(RunFailed):
    """A published stage could not be measured in full. It stays; the same command measures what is missing."""


class Busy(RunFailed):
    """Another run is at the same work; it can be done, or will be, later."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The tail of an error message: the nearest valid name and, where the list is short, all of them."""
    known = sorted(known)
    close = get_close_matches(str(name), known, n=1, cutoff=0.5)
    hints = [f"did you mean {close[0]!r}?"] if close else []
    if len(known) <= 25 or not close:
        hints.append(f"valid: {', '.join(known) or 'none'}")
    return " ".join(hints)


def exit_on_error(command: Callable[[], object]) -> None:
    """Run a command line: a mistake of the user ends in a message and exit code 2, a failed run in 1."""
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
