"""runs/: published stages, each complete or absent, and which runs they belong to.

    runs/store.json                               the format of the store
    runs/stages/<recipe>-<stage>-seed<S>-<key>/   a plain model directory, with stage.json, recipe.yaml, loss.csv,
                                                  manifest.json, data/ and the measurements' files beside the weights
                                                  (pruned.json, and no weights, where those were deleted)
    runs/records/<run>.json                       which stages a run of a recipe consists of
    runs/sweeps/<sweep>/                          what a sweep does: state.json, and a folder for each job
    runs/work/<key>/                              a stage in training: its data, checkpoints and draft; gone once it is
                                                  published (or, after a kill, with the next run or prune)
    runs/bases/                                   base models that were built here: the tiny one, and those of GGUF
                                                  files, each with a manifest.json too
    runs/measured/<key>/                          what was measured of a base model itself, for comparison
    runs/familiar/<task>-<key>/                   which facts a base model knows (stage/familiar.py)
    runs/logs/<stage's directory>/                TensorBoard's files
    runs/errors/                                  tracebacks of errors that nobody foresaw

A stage is found by its key, never by its name. It is written under work/ and renamed into place.
Whoever loads a model from here verifies it first: stage.train.load_model calls `verify_model`.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

from remix_toolkit.console import info, warn
from remix_toolkit.data import gguf, pretrained, tiny
from remix_toolkit.data.files import sha256
from remix_toolkit.data.identity import short_hash
from remix_toolkit.disk import Damaged, OtherVersion, delete, file_lock
from remix_toolkit.errors import LATER, BadInput, nearest
from remix_toolkit.evaluate.measurements import FILES
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.tiny_size import tiny_size
from remix_toolkit.recipe.yaml_file import load_mapping
from remix_toolkit.records import FileSeal, Manifest, Pruned, Record, RunRecord, StageRecord
from remix_toolkit.seals import MANIFEST, PRUNED, WEIGHTS, find_damage, leads_out, sealed_files

Warn = Callable[[str], object]

FORMAT: Literal[4] = 4

# Files of a published stage that change after its publication: neither in its manifest nor in a key.
UNSEALED = {*FILES, MANIFEST, PRUNED}

NAME = re.compile(r".+-seed\d+-([0-9a-f]{16})")  # of a published stage's directory, which ends in its key


class Store(Record):
    """store.json: the format of everything else in the store."""

    version: Literal[4] = FORMAT


def open_store(runs: Path) -> Path:
    """Make the runs directory if need be. Raises BadInput if nothing can be written there, or for an older store."""
    check_format(runs)
    try:
        for folder in ("stages", "records", "work", "bases", "sweeps"):
            (runs / folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs / "work"):
            pass
        if not (runs / "store.json").exists():
            Store().write(runs / "store.json")
    except OSError as error:
        if error.errno in LATER:
            raise
        raise BadInput(
            f"{runs}: cannot be used as the runs directory: {error.strerror}; set --runs (or RUNS=)"
        ) from None
    return runs


def check_format(runs: Path) -> None:
    """Refuse a store that another version of the toolkit wrote: its stages would be read wrongly, or not at all."""
    file = runs / "store.json"
    try:
        if not Store.read_if_exists(file) and (any((runs / "records").glob("*.json")) or published_stages(runs)):
            raise Damaged(file, "is missing: the store was written by an earlier version of this toolkit")
    except Damaged as error:
        hint = "" if isinstance(error, OtherVersion) else f'; a store of this version has {{"version": {FORMAT}}} there'
        raise BadInput(f"{file}: {error.problem}; use another --runs (or RUNS=){hint}") from None


def work_dir(runs: Path, key: str) -> Path:
    """Where a stage is trained and put together before it is published."""
    return runs / "work" / key


def lock_file(runs: Path, key: str) -> Path:
    """What a run has locked while it is at the stage (`.data` behind the key: at its data), until it ends or dies."""
    return runs / "work" / f"{key}.lock"


def find_stage(runs: Path, key: str) -> Path | None:
    """The published stage with this key, or None.

    Raises BadInput where its directory lacks files: somebody deleted them after it was published.
    """
    if folder := published_stages(runs, key).get(key):
        verify(folder, checksums=False)
    return folder


def published_stages(runs: Path, key: str = "") -> dict[str, Path]:
    """Every published stage by its key, or one, unchecked; no other directory, no link that leads out of the store."""
    root = runs / "stages"
    names = sorted(name for name in os.listdir(root) if name.endswith(key)) if root.is_dir() else []
    matches = ((NAME.fullmatch(name), root / name) for name in names)
    return {name[1]: folder for name, folder in matches if name and not leads_out(folder, runs)}


def published_bases(runs: Path) -> list[Path]:
    """The directories of base models that were built in the store, unchecked."""
    folders = sorted((runs / "bases").glob("*"))  # and their locks
    return [folder for folder in folders if folder.is_dir() and not leads_out(folder, runs)]


def base_model(recipe: Recipe, runs: Path) -> tuple[str, str | None]:
    """The recipe's base model, as a path or hub id, and its revision.

    The tiny one and those of GGUF files are built once, and verified each time. Of one from the hub, the revision is
    its commit. Raises BadInput, also where a published stage started from another commit of it.
    """
    if size := tiny_size(recipe.base):
        name, build = tiny.folder_name(recipe.base), partial(tiny.build, size)
    else:
        model = pretrained.locate(recipe)
        if model.gguf is None and os.path.exists(model.source):
            return model.source, None
        if model.gguf is None:
            sha = pretrained.commit(model.source, model.revision)
            _check_commit(recipe, sha, runs)
            return model.source, sha
        name, build = gguf.folder_name(model.gguf), partial(gguf.build, model.gguf)
    folder = runs / "bases" / name
    with file_lock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            draft = work_dir(runs, folder.name)
            shutil.rmtree(draft, ignore_errors=True)
            build(draft)
            seal(draft)
            draft.rename(folder)
    verify(folder)
    return str(folder), None


def _check_commit(recipe: Recipe, sha: str, runs: Path) -> None:
    """Raise BadInput where stages are published that started from another commit of the same base and revision."""
    for folder in [] if recipe.revision == sha else published_stages(runs).values():
        try:
            record = StageRecord.read(folder / "stage.json")
        except Damaged:
            continue  # whoever needs this stage is told
        former = record.started_from_commit or sha
        if record.started_from == recipe.base and former != sha:
            declared = load_mapping(folder / "recipe.yaml")[0].get("revision")
            if declared == recipe.revision:
                raise BadInput(
                    f"base {recipe.base}: it is at commit {sha[:12]} now, and {folder.name} started from "
                    f"{former[:12]}: their results would not compare. Start all runs from one commit, by "
                    f"`revision: {former}` in the profile or recipe, or use another store: --runs"
                )


def is_pruned(folder: Path) -> bool:
    """Were the weights of this published stage deleted, and only its results kept?"""
    return os.path.lexists(folder / PRUNED)


def trained_for(folder: Path) -> str | None:
    """The sweep that trained the stage, if it was one."""
    return StageRecord.read(folder / "stage.json").sweep


def delete_weights(folder: Path) -> None:
    """Delete a published stage's weights and nothing else. Its results stay, and so does the weights' checksum.

    Two sweeps may come to it at the same moment, or one after a crash: the second one only finishes it.
    """
    weights = [name for name in sealed_files(folder) if name.endswith(WEIGHTS)]
    if not is_pruned(folder):
        Pruned(weights=weights).write(folder / PRUNED)
    for name in weights:
        (folder / name).unlink(missing_ok=True)


def remove(runs: Path, folder: Path) -> None:
    """Take a damaged stage, base model or split out of the store, in one step, and delete it."""
    aside = work_dir(runs, folder.name)
    aside.parent.mkdir(exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)  # of a removal that was killed
    os.rename(folder, aside)
    delete(aside)


def verify(folder: Path, checksums: bool = True, inner: str = "", but: Collection[str] = ()) -> None:
    """Raise Damaged where `find_damage` finds any in a published stage or a base model."""
    if damage := find_damage(folder, checksums, inner, but):
        raise damage


def verify_model(folder: Path) -> None:
    """Verify a directory that a model is to be loaded from, if it is a stage (or a copy of one) or a store's base."""
    base = folder.parent.name == "bases" and (folder.parent.parent / "store.json").exists()
    if base or (folder / "stage.json").exists() or NAME.fullmatch(folder.name):
        verify(folder)


def is_whole(folder: Path, otherwise: str) -> bool:
    """Is a sealed folder of a stage in training as it was sealed? A warning says what happens `otherwise`.

    One without a manifest was never completed. Raises Damaged where it cannot be read for now.
    """
    if not os.path.lexists(folder / MANIFEST):
        return False
    if damage := find_damage(folder, checksums=True):
        if not damage.lasting:
            raise damage
        warn(f"{damage.file}: {damage.problem}: {otherwise}")
    return damage is None


def seal(draft: Path) -> None:
    """Write the manifest of a directory, and see to it that all of it is on the disk."""
    files = sorted(f for f in draft.rglob("*") if f.is_file() and str(f.relative_to(draft)) not in UNSEALED)
    with ThreadPoolExecutor() as threads:  # of large files, several are read at once
        seals = dict(threads.map(partial(_seal_file, draft), files))
    Manifest(files=seals).write(draft / MANIFEST)
    _sync(draft / MANIFEST)


def _seal_file(folder: Path, file: Path) -> tuple[str, FileSeal]:
    _sync(file)
    return file.relative_to(folder).as_posix(), FileSeal(bytes=file.stat().st_size, sha256=sha256(file))


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def publish(runs: Path, draft: Path, name: str) -> Path:
    """Seal a draft directory and move it to stages/ in one step.

    A stage with that key, whatever its name, whose weights were deleted makes room, and so does all that was measured
    of it: training again may have come out with other bits.
    """
    seal(draft)
    final = runs / "stages" / name
    if leads_out(final, runs):  # a link that is no stage
        final.unlink()
    if former := next(iter(published_stages(runs, name.rpartition("-")[2]).values()), None):
        info(f"{former}: its weights had been deleted; it is replaced, and measured again")
        os.rename(former, draft.with_name("former"))
    os.rename(draft, final)
    return final


# --- runs: which stages each consists of ---------------------------------------------------------------------------


def record_runs(runs: Path, records: Sequence[RunRecord]) -> None:
    """Write down which stages some runs consist of.

    A run of stage1 alone and one of stage1 and stage2, of one recipe, arm, profile and seed, are one run: the longer
    record stays, with all that was measured. A record that cannot be read is named in a warning and left as it is.
    """
    files: dict[str, set[Path]] = {}  # those of each run: their names begin alike, and end in a key
    with file_lock(runs / "records" / ".lock"):
        for file in (runs / "records").glob("*.json"):
            files.setdefault(file.stem.rpartition("-")[0], set()).add(file)
        for record in records:
            _record_run(runs / "records", record, files)


def _record_run(folder: Path, record: RunRecord, files: dict[str, set[Path]]) -> None:
    identity = short_hash([record.recipe, record.arm, record.grid_point, record.profile, record.seed])[:8]
    recipe = re.sub(r"[^\w.+-]", "_", record.recipe)
    stem = f"{recipe}-seed{record.seed}-{identity}"
    known = dict(_readable(files.setdefault(stem, set()), warn))
    n = len(record.keys)
    if longer := [file for file, other in known.items() if len(other.keys) > n and other.keys[:n] == record.keys]:
        for file in longer:
            _merge(known[file], record).write(file)
        return
    for file, other in known.items():
        if record.keys[: len(other.keys)] == other.keys:
            record = _merge(record, other)
            file.unlink()
            files[stem].remove(file)
    file = folder / f"{stem}-{record.keys[-1]}.json"
    record.model_copy(update={"written": time.time_ns()}).write(file)
    files[stem].add(file)


def _merge(record: RunRecord, other: RunRecord) -> RunRecord:
    """The record, with all that another one of the same stages, or of the first of them, measures besides."""
    measured = {stage.key: stage for stage in other.stages}
    stages = []
    for stage in record.stages:
        same = measured.get(stage.key, stage)
        ids = sorted({*same.measurements, *stage.measurements})
        stages.append(stage.model_copy(update={"lists": {**same.lists, **stage.lists}, "measurements": ids}))
    return record.model_copy(update={"stages": stages})


def records(runs: Path, warn: Warn | None = None, recipe: str | None = None) -> list[RunRecord]:
    """Every run's record, or those of one recipe or sweep, in the order in which they were written.

    One that cannot be read is handed to `warn` and left out; without `warn` it raises BadInput, for whoever deletes
    what no record needs. Raises BadInput where no run is of that recipe.
    """
    check_format(runs)
    readable = [record for _, record in _readable((runs / "records").glob("*.json"), warn)]
    if recipe is not None and recipe not in (names := {record.recipe for record in readable}):
        raise BadInput(f"--recipe {recipe}: no run of it is in {runs}; {nearest(recipe, names)}")
    return sorted((record for record in readable if recipe in (None, record.recipe)), key=lambda one: one.written)


def _readable(files: Iterable[Path], warn: Warn | None) -> Iterator[tuple[Path, RunRecord]]:
    """The files and their records, as `records` treats those that cannot be read."""
    for file in sorted(files):
        try:
            yield file, RunRecord.read(file)
        except BadInput as error:
            if warn is None:
                raise
            warn(str(error))
