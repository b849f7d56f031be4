"""A command in a process of its own that something happens to at a chosen moment.

The process is forked from one that has the libraries loaded, so that it costs tenths of a second. Its moments are those
at which it is about to change something in the store: to open a file for writing, to rename or delete one, to make a
folder; and, for what is written in C++ and Rust, just before that and just after.
"""

import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import wraps
from pathlib import Path
from typing import Any

import psutil

from remix_toolkit.launch.processes import CONTEXT

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "victim.begins", "victim.ended"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TIMEOUT_S = 600


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int  # minus the signal's number where one ended it
    out: str
    err: str
    moments: list[str]  # that it lived to see, as `os.rename work/0123456789abcdef/draft`


def send(number: int) -> None:
    """Send a signal to this process."""
    os.kill(os.getpid(), number)


def run(
    *arguments: object, folder: Path, at: str | None = None, happens: Callable[[Any], object] = send, what: Any = None
) -> Ended:
    """`remix ...` in a folder whose store is runs/.

    When it comes to the moment `at`, which may have wildcards, `happens(what)` is called there, or a signal is sent.
    """
    files = [folder / name for name in ("out.txt", "err.txt", "moments.txt")]
    process = CONTEXT.Process(target=_victim, args=([*map(str, arguments)], folder, files, at, happens, what))
    process.start()
    alive = psutil.Process(process.pid)
    process.join(TIMEOUT_S)
    assert process.exitcode is not None, "it hangs"
    assert not alive.is_running()
    out, err, moments = (file.read_text(encoding="utf-8") for file in files)
    return Ended(process.exitcode, out, err, moments.splitlines())


def _victim(
    arguments: Sequence[str],
    folder: Path,
    files: Sequence[Path],
    at: str | None,
    happens: Callable[[Any], object],
    what: Any,
) -> None:
    gc.freeze()  # the libraries' million objects, which would be looked through, and copied, again and again
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where the tests run
    for descriptor, file in zip((1, 2), files, strict=False):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    moments = os.open(files[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.chdir(folder)
    store = str(folder / "runs") + os.sep
    done = False

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal done
        if event not in CHANGES or (event == "open" and not args[2] & WRITES):
            return
        path = _path(event, args)
        if not path.startswith(store) or path.endswith(".lock"):
            return
        moment = f"{event} {re.sub(r'[.][0-9]+[.]partial', '.partial', path.removeprefix(store))}"
        os.write(moments, f"{moment}\n".encode())
        if at and not done and fnmatchcase(moment, at):
            done = True
            happens(what)

    import safetensors.torch
    import torch

    _announce(torch, "save", 1)
    _announce(safetensors.torch, "serialize_file", 1)
    sys.addaudithook(watch)
    sys.argv = ["remix", *arguments]
    from remix_toolkit.cli.main import main

    main()


def _path(event: str, args: tuple[Any, ...]) -> str:
    """The file that an event is about; shutil.rmtree names it relative to an open folder."""
    if not isinstance(args[0], str | bytes | os.PathLike):
        return ""
    path = os.fsdecode(args[0])
    if event in ("os.remove", "os.rmdir") and args[1] >= 0:
        return os.path.join(os.readlink(f"/proc/self/fd/{args[1]}"), path)
    return os.path.abspath(path)


def _announce(module: Any, name: str, argument: int) -> None:
    """Let a function say when it begins to write a file, and when it has."""
    function = getattr(module, name)

    @wraps(function)
    def announced(*args: Any, **kwargs: Any) -> Any:
        file = args[argument] if len(args) > argument else kwargs.get("f", kwargs.get("filename"))
        sys.audit("victim.begins", file)
        result = function(*args, **kwargs)
        sys.audit("victim.ended", file)
        return result

    setattr(module, name, announced)
