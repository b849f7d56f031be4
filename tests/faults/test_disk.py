"""A disk that is full, faulty, over its quota, read-only or gone, at any moment of a stage's life."""

import errno
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import victim
from stores import assert_undisturbed, contents, fresh_store, some, wipe
from trained_store import TrainedStore

SIZE_MB = 120  # of a disk that is to be filled


def mounted(folder: Path, *options: str) -> bool:
    return subprocess.run(["mount", *options, folder], capture_output=True).returncode == 0


@pytest.fixture
def disk(trained, tmp_path: Path) -> Iterator[Path]:
    """A folder whose store, which is fresh, is on a small disk of its own."""
    runs = tmp_path / "runs"
    runs.mkdir()
    if not mounted(runs, "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs"):
        pytest.skip("no disk can be mounted here: that takes root")
    try:
        fresh_store(trained, tmp_path)
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", runs], check=True)


def fill(ballast: Path, leave: int = 0) -> None:
    """Leave no room on the disk, or so many bytes."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while shutil.disk_usage(ballast.parent).free > leave or not leave:
                    file.write(bytes(size))
            except OSError:
                continue  # with smaller pieces


def refuse(number: int) -> None:
    """What the disk answers to the call that was about to be made."""
    raise OSError(number, os.strerror(number))


def remove(runs: Path) -> None:
    """Somebody deletes the store."""
    for path in runs.iterdir():
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


@dataclass(frozen=True)
class Fault:
    """Something that happens to the disk, what a command says of it, and what makes it good again."""

    happens: Callable[[Any], object]
    what: Callable[[Path], Any]
    text: str
    wipes: bool = False  # nothing is left

    def strike(self, folder: Path, trained: TrainedStore, moment: str) -> str:
        """Let it happen to a run at a moment: `said`, `nothing` where the run ended well, `late` where it had passed.

        Then the disk is made good again. Weights that are published by then are those of an undisturbed run.
        """
        ended = victim.run("run", "trained", folder=folder, at=moment, happens=self.happens, what=self.what(folder))
        assert "Traceback" not in ended.err, ended.err
        (folder / "runs" / "ballast").unlink(missing_ok=True)
        outcome = "said" if ended.code else "nothing" if moment in ended.moments else "late"
        if ended.code:
            assert ended.code in (1, 2), ended.err
            assert re.search(self.text, ended.err), f"{moment}: {ended.err}"
            assert "did not foresee this error" not in ended.err, ended.err
            weights = {name: sha for name, sha in contents(folder / "runs").items() if name.endswith(".safetensors")}
            assert weights.items() <= contents(trained.runs).items()
        if outcome != "said":
            assert_undisturbed(folder, trained)
        if outcome != "said" or self.wipes:
            wipe(folder, trained)
        return outcome


FULL = Fault(fill, lambda folder: folder / "runs" / "ballast", "No space left on device; make room")
FAULTS = {
    "full": FULL,
    "quota": Fault(refuse, lambda _: errno.EDQUOT, "Disk quota exceeded; make room within the quota"),
    "faulty": Fault(refuse, lambda _: errno.EIO, "Input/output error; the disk may be faulty"),
    "removed": Fault(
        remove, lambda folder: folder / "runs", "was deleted, or moved|tensor .* was not written as it is", wipes=True
    ),
}
QUICK = ["checkpoints/checkpoint-2/optimizer.pt", "draft/model.safetensors"]  # written in C++ and in Rust


def test_a_full_disk(disk: Path, trained) -> None:
    fill(disk / "runs" / "ballast", leave=8 << 20)
    full = victim.run("sweep", "trained", folder=disk)
    assert (full.code, "Traceback" in full.err + full.out) == (1, False), full.err
    assert re.search(r"failed: stage1 \(trained, seed 0\): runs\b.*: No space left on device; make room", full.err), (
        full.err
    )
    (disk / "runs" / "ballast").unlink()
    assert not list((disk / "runs" / "stages").iterdir())
    for file in QUICK:
        ended = victim.run(
            "run",
            "trained",
            folder=disk,
            at=f"victim.begins work/*/{file}",
            happens=fill,
            what=disk / "runs" / "ballast",
        )
        assert ended.code == 1, ended.err
        assert ended.err.splitlines()[-1].startswith(f"failed: runs: {FULL.text}"), ended.err
        (disk / "runs" / "ballast").unlink()
        assert not list((disk / "runs" / "stages").iterdir())
    assert victim.run("run", "trained", "--stage", "stage1", folder=disk).code == 0
    weights = f"stages/{trained.stages[0].name}/model.safetensors"
    assert contents(disk / "runs")[weights] == contents(trained.runs)[weights]


def test_a_read_only_store_is_read_and_not_written(disk: Path, trained, here) -> None:
    runs = disk / "runs"
    shutil.rmtree(runs / "bases")
    shutil.copytree(trained.runs, runs, dirs_exist_ok=True)
    stage1, stage2 = (runs / "stages" / folder.name for folder in trained.stages)
    assert mounted(runs, "-o", "remount,ro")
    store = ("--runs", "runs")
    for line in (
        ("show",),
        ("plan", "trained"),
        ("store", "list"),
        ("store", "verify"),
        ("store", "prune", "--dry-run"),
    ):
        here(*line, *store, folder=disk)
    here("recall", stage2, "--task", "kvr", "size=4", folder=disk)
    pruned = here("store", "prune", "--keep", "none", *store, folder=disk, check=False)
    text = f"failed: runs/stages/{stage1.name}/pruned.json."
    assert (pruned.returncode, pruned.stderr[: len(text)]) == (1, text), pruned.stderr
    assert pruned.stderr.endswith("Read-only file system; only commands that write nothing can use it\n")
    for command in ("run", "sweep"):
        refused = here(command, "trained", *store, folder=disk, check=False)
        assert (refused.returncode, "runs: cannot be used as the runs directory: Read-only" in refused.stderr) == (
            2,
            True,
        )


@pytest.mark.faults
@pytest.mark.parametrize(("name", "share"), [("full", 0.5), ("quota", 0.25), ("faulty", 0.25), ("removed", 0.25)])
def test_a_disk_that_fails_at_every_moment(disk: Path, trained, name: str, share: float) -> None:
    """Or at a share of them."""
    every = victim.run("run", "trained", folder=disk).moments
    assert_undisturbed(disk, trained)
    wipe(disk, trained)
    moments = some([moment for moment in every if moment.startswith(("open", "os.rename", "victim"))], share)
    outcomes = Counter(FAULTS[name].strike(disk, trained, moment) for moment in moments)
    assert victim.run("run", "trained", folder=disk).code == 0
    assert_undisturbed(disk, trained)
    print(f"{name}: {dict(outcomes)} at {len(moments)} moments")
