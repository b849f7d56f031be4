"""runs/: published stages, each complete or absent.

    runs/stages/<recipe>-<stage>-seed<S>-<key>/   a plain model directory, with stage.json, recipe.yaml, loss.csv,
                                                  recall.json, recall.jsonl and manifest.json beside the weights
                                                  (pruned.json, and no weights, where a sweep deleted those)
    runs/records/<run>.json                       which stages a run of a recipe consists of
    runs/sweeps/<sweep>/                          what a sweep does: state.json, and a log of each stage
    runs/work/<key>/                              checkpoints of a stage in training; gone once it is published
    runs/bases/                                   the tiny base model

A stage is found by its key, never by its name. It is written under work/ and renamed into place.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from remix_toolkit.console import info, warn
from remix_toolkit.data.identity import short_hash
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.measurements import FILES, measured
from remix_toolkit.evaluate.records import HeldOutRecord, ListRecall, RecallRecord
from remix_toolkit.records import SAME, StageRecord, merged, read_record

__all__ = ["measured"]  # of a published stage

MANIFEST = "manifest.json"
AGAIN = "`remix store verify --remove` takes it away, and the same command then trains the stage anew"
PRUNED = "pruned.json"  # its weights were deleted, and which files those were
RESTORED = "restored.json"  # its weights were deleted and trained again, for which sweep
# Files of a published stage that a later measurement replaces: neither in its manifest nor in a key.
GROWS = {*FILES, "manifest.json", "restored.json"}

NAME = re.compile(r".+-seed\d+-([0-9a-f]{16})")  # of a published stage's directory, which ends in its key


def open_store(runs: Path) -> Path:
    """Make the runs directory if need be. Raises BadInput if nothing can be written there."""
    try:
        for folder in ("stages", "records", "work", "bases", "sweeps"):
            (runs / folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs / "work"):
            pass
    except OSError as error:
        raise BadInput(
            f"{runs}: cannot be used as the runs directory: {error.strerror}; set --runs (or RUNS=)"
        ) from None
    return runs


def work_dir(runs: Path, key: str) -> Path:
    """Where a stage is trained and put together before it is published."""
    return runs / "work" / key


def find(runs: Path, key: str) -> Path | None:
    """The published stage with this key, or None.

    Raises BadInput where its directory lacks files: somebody deleted them after it was published.
    """
    return sound(published(runs).get(key))


def sound(folder: Path | None) -> Path | None:
    """A published stage's directory, where it has one. Raises BadInput where it lacks files."""
    if folder and (wrong := damage(folder, checksums=False)):
        raise BadInput(f"{folder}: {wrong}; {AGAIN}")
    return folder


def published(runs: Path) -> dict[str, Path]:
    """Every published stage by its key, unchecked; a directory of another name is none of ours."""
    found = ((NAME.fullmatch(folder.name), folder) for folder in sorted((runs / "stages").glob("*")))
    return {name[1]: folder for name, folder in found if name}


def is_pruned(folder: Path) -> bool:
    """Were the weights of this published stage deleted, and only its results kept?"""
    return (folder / PRUNED).exists()


def made_by(folder: Path) -> str | None:
    """The sweep that trained the stage, if it was one; of deleted weights, the one that trained them again."""
    if (folder / RESTORED).exists():
        return read_json(folder / RESTORED).get("sweep")  # type: ignore[no-any-return]
    return StageRecord.read(folder / "stage.json").sweep


def prune(folder: Path) -> None:
    """Delete a published stage's weights and nothing else. Its results stay, and so does the weights' checksum.

    Two sweeps may come to it at the same moment, or one after a crash: the second one only finishes it.
    """
    weights = [name for name in read_json(folder / MANIFEST)["files"] if name.endswith(".safetensors")]
    if not is_pruned(folder):
        write_json(folder / PRUNED, {"weights": weights})
    for name in weights:
        (folder / name).unlink(missing_ok=True)


def remove(runs: Path, folder: Path) -> None:
    """Take a damaged stage out of the store, in one step, and delete it."""
    aside = work_dir(runs, folder.name) / "removed"
    aside.parent.mkdir(parents=True, exist_ok=True)
    os.rename(folder, aside)
    shutil.rmtree(aside.parent)


def verify(folder: Path) -> None:
    """Raise BadInput unless every file of a published stage is as it was published."""
    if wrong := damage(folder, checksums=True):
        raise BadInput(f"{folder}: {wrong}; {AGAIN}")


def damage(folder: Path, checksums: bool) -> str | None:
    """What is wrong with a published stage's files, in words; None if they are as they were published."""
    try:
        manifest = read_json(folder / MANIFEST)["files"]
        files: dict[str, tuple[int, str]] = {name: (one["bytes"], one["sha256"]) for name, one in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is missing or unreadable"
    for name, (size, checksum) in files.items():
        file = folder / name
        try:
            same = file.stat().st_size == size and not (checksums and sha256(file) != checksum)
        except FileNotFoundError:
            if is_pruned(folder) and name in read_json(folder / PRUNED)["weights"]:  # by a sweep just now, perhaps
                continue
            return f"{name} is missing"
        if not same:
            return f"{name} is not the file that was published (its checksum differs)"
    return None


def publish(runs: Path, draft: Path, name: str) -> Path:
    """Seal a draft directory with a manifest of checksums and move it to stages/ in one step.

    Over a stage of that key, whatever its name, whose weights were deleted: if these weights are the same, they are put
    back. If not, that stage and all that was measured of it makes room, and that is said.
    """
    files = sorted(f for f in draft.rglob("*") if f.is_file() and f.name not in GROWS)
    manifest = {str(f.relative_to(draft)): {"bytes": f.stat().st_size, "sha256": sha256(f)} for f in files}
    write_json(draft / MANIFEST, {"files": manifest})
    for file in [*files, draft / MANIFEST]:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    final = published(runs).get(name.rpartition("-")[2], runs / "stages" / name)
    if final.exists() and _restore(draft, final, manifest):
        shutil.rmtree(draft.parent, ignore_errors=True)
        return final
    if final.exists():  # not to the same bits: all that was measured is of the former weights
        info(f"{final}: trained again, to other weights than the deleted ones: its former results are replaced")
        os.rename(final, draft.with_name("former"))
    os.rename(draft, final)
    shutil.rmtree(draft.parent, ignore_errors=True)
    return final


def _restore(draft: Path, final: Path, manifest: dict[str, Any]) -> bool:
    """Put weights back beside the results that they once had. False where they are others."""
    former = read_json(final / MANIFEST)["files"]
    names = read_json(final / PRUNED)["weights"]
    if any(manifest.get(name) != former[name] for name in names):
        return False
    for name in names:
        (draft / name).replace(final / name)
    write_json(final / RESTORED, {"sweep": made_by(draft)})
    (final / PRUNED).unlink()
    return True


def sha256(file: Path) -> str:
    """The file's checksum, as `sha256sum` prints it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def read_if_there(file: Path) -> dict[str, Any]:
    """A file's JSON; nothing where there is no file."""
    return read_json(file) if file.exists() else {}


def write_json(file: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    write_text(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a file in one step: beside it, then over it."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


# --- runs and their recall ---------------------------------------------------------------------------------------


def record_runs(runs: Path, records: Sequence[dict[str, Any]]) -> list[str]:
    """Note which stages some runs of recipes consist of; returns the runs' ids, the key of the last stage of each.

    A run of stage1 alone and one of stage1 and stage2, of one recipe with the same overrides, are one run: the longer
    record stays, with all that was measured.
    """
    ids = []
    with FileLock(runs / "records" / ".lock"):
        known: dict[str, list[Path]] = {}  # runs of one recipe, arm, ... -> their files
        for file in (runs / "records").glob("*.json"):
            known.setdefault(_same(read_record(file)), []).append(file)
        for record in records:
            ids.append(_record(runs, record, known))
    return ids


def _same(record: dict[str, Any]) -> str:
    return json.dumps([record[name] for name in SAME], sort_keys=True)


def _record(runs: Path, record: dict[str, Any], known: dict[str, list[Path]]) -> str:
    keys = [stage["key"] for stage in record["stages"]]
    former: list[Path] = []
    for file in known.get(_same(record), []):
        other = read_json(file)
        others = [stage["key"] for stage in other["stages"]]
        shorter = min(len(keys), len(others))
        if keys[:shorter] != others[:shorter]:
            continue
        measured = {stage["key"]: stage["recall"] for stage in other["stages"]}
        probed = {stage["key"]: stage.get("also", []) for stage in other["stages"]}
        stages = record["stages"] + other["stages"][len(keys) :]
        stages = [
            {
                **stage,
                "recall": {**measured.get(stage["key"], {}), **stage["recall"]},
                "also": sorted({*probed.get(stage["key"], []), *stage.get("also", [])}),
            }
            for stage in stages
        ]
        record = {**record, "stages": stages}
        former.append(file)
    record["written"] = time.time_ns()
    run = str(record["stages"][-1]["key"])
    name = "--".join([*(str(record[name]) for name in SAME[:4]), short_hash(record["overrides"]), run])
    written = runs / "records" / f"{name.replace('/', '_')}.json"
    write_json(written, record)
    for file in former:
        if file != written:
            file.unlink()
    known[_same(record)] = [written, *(file for file in known.get(_same(record), []) if file not in former)]
    return run


def records(runs: Path, warn: Callable[[str], object] | None = None) -> list[dict[str, Any]]:
    """Every run's record, in the order in which they were written.

    One that cannot be read is handed to `warn` and left out; without that it raises BadInput, for whoever deletes
    what no record needs.
    """
    found = []
    for file in sorted((runs / "records").glob("*.json")):
        try:
            found.append(read_record(file))
        except BadInput as error:
            if warn is None:
                raise
            warn(str(error))
    return sorted(found, key=lambda record: int(record.get("written", 0)))


def entries(runs: Path, warn: Callable[[str], object] = warn) -> list[dict[str, Any]]:
    """What is published, one entry per measured task of each run's stages; recall in percent, facts their number.

    An instruction task has no recall (None) but `held_out`: the rows, the loss, and GSM8K's accuracy in percent.
    `run` is the run's id; runs come in the order in which they ended, those of the same weights as one. A damaged stage
    or record is left out, with a warning.
    """
    found: list[dict[str, Any]] = []
    folders = published(runs)
    read: dict[str, Results | None] = {}  # once, however many runs a stage is part of
    for record in merged(records(runs, warn)):
        for stage in record["stages"]:
            key = stage["key"]
            if key not in read:
                read[key] = _results(folders.get(key), warn)
            if (results := read[key]) is None:
                continue
            common = {
                **{name: record[name] for name in SAME},
                "place": record.get("place", ""),
                "run": record["stages"][-1]["key"],
                "stage": stage["stage"],
                "steps": results.steps,
                "key": key,
                "path": str(folders[key]),
            }
            for facts, task in stage["recall"].items():
                if recall := results.recall.get(facts):
                    one = {"recall": recall.recall, "facts": recall.facts}
                    own = facts == stage["own"]
                    found.append({**common, "task": task, "list": facts, **one, "own": own, "held_out": None})
            if results.held_out:
                held_out = results.held_out.model_dump(exclude={"version"})
                found.append(
                    {**common, "task": stage["task"], "recall": None, "facts": 0, "own": True, "held_out": held_out}
                )
    return found


@dataclass(frozen=True)
class Results:
    """What is shown of a published stage: its steps, recall by the id of a list of facts, the loss on held-out rows."""

    steps: int
    recall: dict[str, ListRecall]
    held_out: HeldOutRecord | None


def _results(folder: Path | None, warn: Callable[[str], object]) -> Results | None:
    """The results of a stage; one that is damaged is handed to `warn` and left out."""
    try:
        if (folder := sound(folder)) is None:
            return None
        recall = RecallRecord.read_if_exists(folder / "recall.json")
        held_out = HeldOutRecord.read_if_exists(folder / "held_out.json")
        return Results(StageRecord.read(folder / "stage.json").steps, recall.lists if recall else {}, held_out)
    except BadInput as error:
        warn(f"{error}: this stage is left out")
        return None
