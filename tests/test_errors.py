"""The door through which every error leaves: what is said, where a traceback goes, and the exit code."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from remix_toolkit.errors import BadInput, RunFailed, describe, exit_on_error

# Ends the process, or breaks it, at the moment when typer is imported: the first tenth of a second of any command.
AT_IMPORT = """\
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            {what}
sys.meta_path.insert(0, Finder())
from remix_toolkit.{module} import {function}
{function}({arguments})
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  a test run in the background ignores it
    line = [sys.executable, "-c", code]
    return subprocess.run(
        line, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, preexec_fn=heard
    )


def ended(capsys: pytest.CaptureFixture, error: Exception, runs: Path) -> tuple[object, str]:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ending:
        exit_on_error(command, runs)
    return ending.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_the_first_moment_ends_with_a_line(name: str) -> None:
    what = f"os.kill(os.getpid(), signal.{name})"
    for module, function, arguments in (("cli.main", "main", ""), ("stage.__main__", "main", "")):
        done = python(AT_IMPORT.format(what=what, module=module, function=function, arguments=arguments))
        assert (done.returncode, done.stderr) == (
            130,
            "interrupted; the same command goes on from what is published and the last checkpoint\n",
        )


def test_a_signal_that_is_ignored_stays_so() -> None:
    what = "signal.raise_signal(signal.SIGINT)"
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + AT_IMPORT
    done = python(code.format(what=what, module="cli.main", function="main", arguments=""))
    assert (done.returncode, "Usage" in done.stdout + done.stderr) == (2, True)  # no command was given


def test_each_error_has_its_exit_code(capsys, tmp_path: Path) -> None:
    assert ended(capsys, BadInput("recipe.yaml:3: x"), tmp_path) == (2, "error: recipe.yaml:3: x\n")
    assert ended(capsys, RunFailed("the loss"), tmp_path) == (1, "failed: the loss\n")
    assert not list(tmp_path.iterdir())


def test_an_error_that_nobody_foresaw_leaves_its_traceback_in_a_file(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(sys, "argv", ["remix", "show", "--runs", str(tmp_path / "runs")])
    for runs, folder in ((None, tmp_path / "runs" / "errors"), (tmp_path / "no-runs", tmp_path / "temp")):
        code, text = ended(capsys, KeyError("a\nb"), runs)
        (file,) = folder.iterdir()
        first, second = text.splitlines()
        assert (code, first) == (1, "failed: KeyError: 'a\\nb'")
        assert (
            second == f"remix-toolkit did not foresee this error, which {__name__} raised: please report it with {file}"
        )
        report = file.read_text(encoding="utf-8")
        assert report.startswith(f"remix show --runs {tmp_path / 'runs'}\n\nTraceback (most recent call last):\n")
        assert report.endswith("in command\n    raise error\nKeyError: 'a\\nb'\n")
    monkeypatch.setattr("tempfile.tempdir", str(file))  # no folder
    assert "raise error" in ended(capsys, KeyError("a"), tmp_path / "no-runs")[1]  # nowhere to write: on the screen


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/f"), "/x/f: No space left on device; make room ("),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/x/f"), "/x/f: Disk quota exceeded; make room within"),
        (OSError(errno.EIO, "Input/output error", "/x/f"), "/x/f: Input/output error; the disk may be faulty"),
        (OSError(errno.EROFS, "Read-only file system", "/x/f"), "/x/f: Read-only file system; only commands that"),
        (
            Exception("while serializing: No space left on device (os error 28)"),
            ", or a folder of temporary files: No space left on device",
        ),
    ],
)
def test_a_disk_that_refuses_is_named(tmp_path: Path, error: Exception, text: str) -> None:
    assert text in describe(error, tmp_path)
    later = ValueError("a library's own words")
    later.__context__ = error
    assert text in describe(later, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_store_that_was_deleted_is_named(tmp_path: Path) -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", f"{tmp_path}/work/key/draft")
    (tmp_path / "store.json").write_text("{}")  # written once more, by the command that worked in it
    assert describe(error, tmp_path).startswith(f"{tmp_path}: was deleted, or moved, while a command worked in it (")


def test_too_little_memory_is_nobodys_mistake(tmp_path: Path) -> None:
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError()):
        assert describe(error, tmp_path).endswith("needs less memory")
    assert not list(tmp_path.iterdir())
