"""The files of a store on the disk: read whole or found damaged, written in one step, deleted."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from remix_toolkit.console import warn
from remix_toolkit.errors import BadInput

T = TypeVar("T")

REMEDY = "`remix store verify --remove` removes it, and the command that made it makes it again"
GONE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}  # other errors of a disk may pass
LARGEST = 1 << 30  # bytes of a file that is read at once; the toolkit writes none that is half as large


class Damaged(BadInput):
    """A file of a store is not what was written. `lasting`: making it again is the remedy."""

    def __init__(self, file: Path, problem: str, remedy: str = REMEDY, lasting: bool = True) -> None:
        super().__init__(f"{file}: {problem}; {remedy}")
        self.file, self.problem, self.lasting = file, problem, lasting


class OtherVersion(Damaged):
    """A file that another version of the toolkit wrote."""


def unreadable(file: Path, error: OSError, name: str = "") -> Damaged:
    """The verdict on a file, or on one called `name` in a folder, that the system does not let this process read."""
    problem = f"{name} cannot be read ({error.strerror})".strip()
    if error.errno in GONE:
        return Damaged(file, problem)
    return Damaged(file, problem, "see to its permissions and its disk: it need not be damaged", lasting=False)


def read_file(file: Path, size: int | None = None) -> bytes:
    """The content of a file or, where its size is known, as many bytes of it. Raises Damaged."""
    try:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode):  # to open a pipe would wait for its writer
            raise Damaged(file, "is no file")
        if size is None and about.st_size > LARGEST:
            raise Damaged(file, f"has {about.st_size:,} bytes")
        with file.open("rb") as stream:
            return stream.read(size)
    except OSError as error:
        raise unreadable(file, error) from None


def read_sound(read: Callable[[], T], otherwise: T, consequence: str) -> T:
    """What is read or, where that is damaged and can be made again, `otherwise`, and a warning with the consequence.

    Raises Damaged where it cannot be read for now.
    """
    try:
        return read()
    except Damaged as error:
        if not error.lasting:
            raise
        _warn_once(f"{error}: {consequence}")
        return otherwise


@cache
def _warn_once(text: str) -> None:
    """Whoever plans, measures and deletes asks for the same files."""
    warn(text)


def write_text(file: Path, text: str) -> None:
    """Write a file in one step: beside it, then over it, or over an empty directory or a link in its place.

    Raises BadInput where a directory is there that is not empty.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    try:
        make_room(file)
        partial.replace(file)
    except (OSError, BadInput):
        partial.unlink()
        raise


def make_room(file: Path) -> None:
    """Remove an empty directory in a file's place. Raises BadInput where it is not empty."""
    try:
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        raise BadInput(f"{file}: is a directory with files in it; a file is to be written there: delete it") from None


def file_lock(file: Path, timeout: float = -1) -> FileLock:
    """A lock on a file, which the system frees when its owner dies; `timeout` in seconds, -1: wait for ever."""
    make_room(file)
    return FileLock(file, timeout=timeout)


def delete(path: Path) -> None:
    """Delete a file, or whatever stands in its place; nothing where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
