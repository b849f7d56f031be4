"""What stays on disk: results always do, weights go once nothing loads them any more, checkpoints once it is published.

A stage's weights are loaded by the stages that start from its model and by what is measured of it. What a sweep's
`keep` names stays in any case, and so does what the sweep did not train itself.
"""

import re
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from filelock import Timeout

from remix_toolkit import store
from remix_toolkit.disk import file_lock
from remix_toolkit.evaluate.measurements import measured
from remix_toolkit.graph.jobs import LoadsWeights, loaders, measure_key
from remix_toolkit.graph.sweep import Keep
from remix_toolkit.seals import WEIGHTS, undamaged

HALF_WRITTEN_S = 3600  # whoever writes a file renames it within a moment, on whatever machine


def is_kept(keep: Keep, stage: str, has_children: bool) -> bool:
    """Does `keep` (all, leaves, none, or stages' names) say that this stage's weights stay?"""
    if isinstance(keep, list):
        return stage in keep
    return keep == "all" or (keep == "leaves" and not has_children)


def has_children(key: str, loading: Collection[str]) -> bool:
    """Does any of the jobs that load this stage's weights do more than measure the stage itself?"""
    return bool(set(loading) - {measure_key(key)})


def unneeded(
    jobs: Mapping[str, LoadsWeights], done: Collection[str], keep: Keep, sweep: str, runs: Path
) -> dict[str, Path]:
    """The stages, by key, whose weights this sweep made and needs no more; `done` are the keys of finished jobs."""
    loading, finished = loaders(jobs), set(done)
    published = store.published_stages(runs)
    stages = {}
    for key, users in loading.items():
        folder = published.get(key)
        if key not in finished or folder is None or is_kept(keep, jobs[key].name, has_children(key, users)):
            continue
        if users <= finished and _has_weights(folder) and store.trained_for(folder) == sweep:
            stages[key] = folder
    return stages


def unneeded_in_store(runs: Path, keep: Keep, needed: Collection[str]) -> dict[str, Path]:
    """The stages of a whole store, by key, whose weights no run needs any more and that are not among the `needed`.

    A run needs the weights of its stages until all of them are published and measured.
    """
    published = store.published_stages(runs)
    names: dict[str, str] = {}
    parents: set[str] = set()
    unfinished: set[str] = set()
    for record in store.records(runs):
        names |= {stage.key: stage.stage for stage in record.stages}
        parents |= set(record.keys[:-1])
        for stage in record.stages:
            if stage.key not in published or not set(stage.measurements) <= measured(published[stage.key]):
                unfinished |= set(record.keys)
    spare = {
        key: published[key]
        for key in sorted(names.keys() & published.keys() - unfinished - set(needed))
        if not is_kept(keep, names[key], key in parents) and _has_weights(published[key])
    }
    return undamaged(spare)


def _has_weights(folder: Path) -> bool:
    """Are there any? Of a pruned stage, too: a command may have been killed while it deleted them."""
    return any(folder.glob(f"*{WEIGHTS}"))


def left_behind(runs: Path) -> list[Path]:
    """What a killed command did not come to delete or rename.

    These are folders under work/ of published stages and of what was removed, and files that were half written an hour
    ago, beside the records of runs, sweeps and splits (those of a stage go with the next look at it).
    """
    published = store.published_stages(runs)
    places = ("records", "sweeps/*", "sweeps/*/jobs/*", "familiar/*")
    partial = sorted(file for place in places for file in runs.glob(f"{place}/*.partial"))
    folders = [file for file in partial if time.time() - file.stat().st_mtime > HALF_WRITTEN_S]
    for folder in sorted(folder for folder in (runs / "work").glob("*") if folder.is_dir()):
        stage = published.get(folder.name)
        if (stage and not store.is_pruned(stage)) or re.fullmatch(".+-[0-9a-f]{16}", folder.name):
            folders.append(folder)
    return folders


def delete_left_behind(runs: Path) -> None:
    """Delete what is left behind, except where a run is at the stage."""
    for folder in left_behind(runs):
        if folder.suffix == ".partial":
            folder.unlink(missing_ok=True)
            continue
        with suppress(Timeout), file_lock(store.lock_file(runs, folder.name[-16:]), timeout=0):
            delete_work(runs, folder)


def delete_work(runs: Path, folder: Path) -> None:
    """Delete a published stage's folder under work/ while nobody loads data there. The caller has the stage's lock."""
    with file_lock(store.lock_file(runs, f"{folder.name[-16:]}.data")):
        shutil.rmtree(folder, ignore_errors=True)
