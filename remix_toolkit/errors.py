"""How a command ends that does not succeed, and the one door through which every error leaves.

Bad input ends with exit code 2; a failed run, a disk that refuses and an error that nobody foresaw with 1; Ctrl-C and
SIGTERM with 130. Only the standard library is imported here: the door is open before anything else is loaded.
"""

import errno
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path


class BadInput(Exception):
    """The user's input cannot be used. The message names the place, what is wrong and what would be right."""


class RunFailed(Exception):
    """The input is valid, and still the work could not be finished (a loss diverged, a launcher gave up)."""


class MeasurementFailed(RunFailed):
    """A published stage could not be measured in full. It stays; the same command measures what is missing."""


class Busy(RunFailed):
    """Another run is doing the same work: later it is done, or can be tried again."""


class Interrupted(BaseException):
    """Somebody asked the process to end: Ctrl-C or SIGTERM. No KeyboardInterrupt, which libraries catch."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest valid one and, where there are few, all of them."""
    from difflib import get_close_matches

    known = sorted(known)
    close = get_close_matches(str(name), known, n=1, cutoff=0.5)
    hints = [f"did you mean {close[0]!r}?"] if close else []
    if len(known) <= 25 or not close:
        hints.append(f"valid: {', '.join(known) or 'none'}")
    return " ".join(hints)


# What a disk may answer, and the remedy.
AGAIN = "the same command goes on from there"
DISK_ERRORS = {
    errno.ENOSPC: f"make room (`remix store prune` deletes weights), and {AGAIN}",
    errno.EDQUOT: f"make room within the quota, and {AGAIN}",
    errno.EFBIG: "the file system, or a limit of this process, allows no larger file",
    errno.EROFS: "only commands that write nothing can use it",
    errno.EACCES: "its permissions forbid that",
    errno.EPERM: "its permissions forbid that",
    errno.EIO: "the disk may be faulty",
    errno.ESTALE: "it was removed or moved on its server",
    errno.EISDIR: "a file belongs there: delete it",
    errno.ELOOP: "a file belongs there: delete it",
}
LATER = {errno.ENOSPC, errno.EDQUOT, errno.EIO}  # of these, what the disk may say to one write and not to the next
PROBE_BYTES = 1 << 20


def exit_on_error(command: Callable[[], object], runs: Path | None = None, interruptible: bool = True) -> None:
    """Run a command, and end the process with a line on stderr and an exit code where it does not succeed.

    `runs` is the store that it works on; by default, that of `--runs` on the command line. A process that another one
    ends is not `interruptible`: signals do to it what they do by default.
    """
    try:
        with _interruptible() if interruptible else nullcontext():
            command()
    except Interrupted:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # asked again, while everything is taken down: end at once
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write("interrupted; the same command goes on from what is published and the last checkpoint\n")
        raise SystemExit(130) from None
    except Exception as error:
        bad = isinstance(error, BadInput)
        sys.stderr.write(f"{'error' if bad else 'failed'}: {describe(error, runs or _runs_option())}\n")
        raise SystemExit(2 if bad else 1) from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise Interrupted, where they are not ignored (under nohup, in a background job).

    A launcher's process leaves SIGTERM alone: it may wait for another one inside a library, and would never hear of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    numbers = [signal.SIGINT] if "LOCAL_RANK" in os.environ else [signal.SIGINT, signal.SIGTERM]
    former = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            if former[number] is not signal.SIG_IGN:
                signal.signal(number, interrupt)
        yield
    finally:
        for number in numbers:
            signal.signal(number, former[number])


def _runs_option() -> Path:
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    try:
        runs: Path = parser.parse_known_args()[0].runs
    except argparse.ArgumentError:
        return Path("runs")
    return runs


def describe(error: Exception, runs: Path) -> str:
    """What went wrong, in one line for what can happen to anybody.

    Of an error that nobody foresaw, the traceback is written to a file under the store `runs`, or among the temporary
    files, and two lines ask for a report.
    """
    if isinstance(error, BadInput | RunFailed):
        return str(error)
    if problem := disk_problem(error, runs):
        return problem
    first = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's is no MemoryError
        return f"{first}; less of train.per_device_train_batch_size or train.max_length needs less memory"
    if str(runs) in first and not (runs / "stages").is_dir():
        return f"{runs}: was deleted, or moved, while a command worked in it ({first})"
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = frames[-1].f_globals["__name__"] if frames else "a process"
    unforeseen = f"remix-toolkit did not foresee this error, which {module} raised"
    text = f"remix {' '.join(sys.argv[1:])}\n\n{''.join(traceback.format_exception(error))}"
    prefix = f"remix-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.environ.get('RANK', '0')}-"
    for folder in ([runs / "errors"] if runs.is_dir() else []) + [Path(tempfile.gettempdir())]:
        try:
            folder.mkdir(exist_ok=True)
            descriptor, file = tempfile.mkstemp(".txt", prefix, folder)
            with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(text)
            return f"{first}\n{unforeseen}: please report it with {file}"
        except OSError:
            continue  # into the next folder, or onto the screen
    return f"{text}{unforeseen}: please report it with these lines"


def disk_problem(error: Exception, runs: Path) -> str | None:
    """The file and what is wrong with the disk, where that is the reason of an error; else None.

    Libraries that write in C++ or Rust raise what they like. So where the error and its causes have no errno, the disk
    of the store is asked.
    """
    for cause in causes(error):
        number = cause.errno if isinstance(cause, OSError) else _errno_in(str(cause))
        if number in DISK_ERRORS:
            file = cause.filename if isinstance(cause, OSError) else None
            place = file or (runs if _ask_disk(runs) else f"{runs}, or a folder of temporary files")
            return f"{place}: {os.strerror(number)}; {DISK_ERRORS[number]}"
    if (number := _ask_disk(runs)) in LATER:
        return f"{runs}: {os.strerror(number)}; {DISK_ERRORS[number]} ({type(error).__name__}: {error})"
    return None


def causes(error: BaseException | None) -> list[BaseException]:
    """The error, what it was raised from, and so on."""
    chain: list[BaseException] = []
    while error and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _errno_in(text: str) -> int | None:
    """What Rust writes behind its messages."""
    match = re.search(r"\(os error (\d+)\)", text)
    return int(match[1]) if match else None


def _ask_disk(runs: Path) -> int | None:
    """The errno of an attempt to write into the store; None where it succeeds, or where no store is."""
    if not runs.is_dir():
        return None
    try:
        with tempfile.TemporaryFile(dir=runs) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return None
