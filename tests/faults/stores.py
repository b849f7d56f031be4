"""A store in which something goes wrong, and the undisturbed one that it is compared with."""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from trained_store import TrainedStore

from remix_toolkit.data.files import sha256

ABOUT_THE_RUN = {"stage.json", "manifest.json"}  # how long it took, and from which checkpoint it went on


def fresh_store(trained: TrainedStore, folder: Path) -> None:
    """The recipe of the trained store and its files, and a store with nothing but the tiny base."""
    for name in ("trained.yaml", "text.txt", "gsm8k.jsonl"):
        shutil.copy(trained.folder / name, folder / name)
    shutil.copytree(trained.runs / "bases", folder / "runs" / "bases")


def wipe(folder: Path, trained: TrainedStore) -> None:
    """Begin anew."""
    for path in (folder / "runs").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(trained.runs / "bases", folder / "runs" / "bases", dirs_exist_ok=True)


def some(moments: Sequence[str], share: float) -> list[str]:
    """A share of the moments, each once, in their order; the same ones each time."""
    different = list(dict.fromkeys(moments))
    chosen = set(random.Random(13).sample(different, round(share * len(different))))
    return [moment for moment in different if moment in chosen]


def contents(runs: Path) -> dict[str, str]:
    """The checksums of all that was published and measured, and what the runs consist of."""
    files = [file for file in runs.glob("stages/*/**/*") if file.is_file() and file.suffix != ".partial"]
    found = {file.relative_to(runs).as_posix(): sha256(file) for file in files if file.name not in ABOUT_THE_RUN}
    for file in runs.glob("records/*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        when_and_where = {"written": 0, "source": "", "checksum": ""}
        found[f"records/{file.name}"] = json.dumps({**record, **when_and_where}, sort_keys=True)
    return found


def assert_undisturbed(folder: Path, trained: TrainedStore) -> None:
    """The store holds what the undisturbed one holds; nothing else is left, and no lock is held."""
    runs = folder / "runs"
    ours, theirs = contents(runs), contents(trained.runs)
    assert {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)} == set()
    assert [path for path in (runs / "work").iterdir() if path.is_dir()] == []
    assert list((runs / "stages").glob("*/*.partial")) == []
    assert not (runs / "errors").exists()
    for lock in runs.rglob("*.lock"):
        with FileLock(lock, timeout=0):
            pass
