"""Whose weights stay on disk: results always do, weights are deleted once nothing needs them any more.

A stage's weights are needed by the stages that start from its model and by the questions that are asked of it. What a
sweep's `keep` names stays in any case, and so does what the sweep did not train itself.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from remix_toolkit import store
from remix_toolkit.errors import BadInput
from remix_toolkit.graph.jobs import Job
from remix_toolkit.graph.sweep import Keep
from remix_toolkit.recipe.schema import Recipe


def users(jobs: Mapping[str, Job]) -> dict[str, set[str]]:
    """Each stage's key -> the jobs that load its weights: its children, and those that ask what it knows."""
    found: dict[str, set[str]] = {key: set() for key, job in jobs.items() if job.node}
    for key, job in jobs.items():
        if job.parent:
            found[job.parent].add(key)
        for split in (jobs[need] for need in job.needs if jobs[need].task):
            for asked in split.needs:
                found[asked] |= {split.key, key}
    return found


def is_kept(keep: Keep, stage: str, used: bool) -> bool:
    """Does `keep` (all, leaves, none, or stages' names) say that this stage's weights stay?"""
    if isinstance(keep, list):
        return stage in keep
    return keep == "all" or (keep == "leaves" and not used)


def to_do(jobs: Mapping[str, Job], runs: Path) -> set[str]:
    """The jobs still to run: what is not published or not measured, and what is needed again and has no weights.

    Raises BadInput for a published stage that lacks files.
    """
    published = store.published(runs)
    loaded_by = users(jobs)
    todo: set[str] = set()
    loading: set[str] = set()  # of those, the ones that load another stage's weights
    for key, job in reversed(list(jobs.items())):
        folder = published.get(key)
        if job.task:
            if any(key in jobs[other].needs for other in todo):  # cheap where it is asked already
                todo.add(key)
                loading.add(key)
            continue
        if folder and (wrong := store.damage(folder, checksums=False)):
            raise BadInput(f"{folder}: {wrong}; {store.AGAIN}, or --retrain-damaged does")
        due, loads = still_due(folder, job.lists, needed=bool(loaded_by[key] & loading))
        todo |= {key} if due else set()
        loading |= {key} if loads else set()
    return todo


def still_due(folder: Path | None, wanted: Collection[str], needed: bool) -> tuple[bool, bool]:
    """Is a stage still to be run, and does that load its parent's weights? What is only measured does not.

    `wanted` is what is to be measured of it: interference alone compares the two. Its own weights may be `needed`.
    """
    missing = set(wanted) - (store.measured(folder) if folder else set())
    again = folder is None or (store.is_pruned(folder) and (needed or bool(missing)))
    return again or bool(missing), again or "interference" in missing


def spare(jobs: Mapping[str, Job], done: Collection[str], keep: Keep, sweep: str, runs: Path) -> dict[str, Path]:
    """The stages, by key, whose weights this sweep made and needs no more. `done` are published and measured."""
    loaded_by = users(jobs)
    published = store.published(runs)
    found = {}
    for key in done:
        node, folder = jobs[key].node, published.get(key)
        if node is None or folder is None or is_kept(keep, node.stage, bool(loaded_by[key])):
            continue
        if not (loaded_by[key] - set(done) or store.is_pruned(folder)) and store.made_by(folder) == sweep:
            found[key] = folder
    return found


def spare_of_all(runs: Path, keep: Keep, needed: Collection[str]) -> dict[str, Path]:
    """The stages of a whole store, by key, whose weights no run needs any more, nor those who say what is `needed`.

    A run needs the weights of its stages until all of them are published and measured.
    """
    published = store.published(runs)
    names: dict[str, str] = {}
    inner: set[str] = set()
    unfinished: set[str] = set()
    for record in store.records(runs):
        lists = {stage["key"]: {*stage["recall"], *stage.get("also", [])} for stage in record["stages"]}
        names |= {stage["key"]: stage["stage"] for stage in record["stages"]}
        inner |= set(list(lists)[:-1])
        if any(key not in published or not ids <= store.measured(published[key]) for key, ids in lists.items()):
            unfinished |= set(lists)
    spare = names.keys() & published.keys() - unfinished - set(needed)
    return {
        key: published[key]
        for key in sorted(spare)
        if not is_kept(keep, names[key], key in inner) and not store.is_pruned(published[key])
    }


def peak(jobs: Mapping[str, Job], todo: Collection[str], keep: Keep, at_once: int = 1) -> int | None:
    """The most bytes that the jobs to do hold at one time, in the graph's order; None if a base's size is unknown."""
    loaded_by = users(jobs)
    waiting = {key: by & set(todo) for key, by in loaded_by.items()}
    held: dict[str, int] = {}
    most = largest = 0
    for key in (key for key in jobs if key in todo):
        node, recipe = jobs[key].node, jobs[key].cell.recipe
        if recipe.parameters is None:
            return None
        if node:
            working = _working(recipe, node.stage)
            most = max(most, sum(held.values()) + working)
            largest = max(largest, working)
            held[key] = _weights(recipe)
        for by in waiting.values():
            by.discard(key)
        for other in list(held):
            other_node = jobs[other].node
            assert other_node
            if not waiting[other] and not is_kept(keep, other_node.stage, bool(loaded_by[other])):
                del held[other]
        most = max(most, sum(held.values()))
    return most + (at_once - 1) * largest


def _weights(recipe: Recipe) -> int:
    return int((recipe.parameters or 0) * (4 if recipe.precision == "fp32" else 2))


def _working(recipe: Recipe, stage: str) -> int:
    """Checkpoints (weights and two moments each) and the draft of what is published."""
    train = recipe.stages[stage].train
    each = 0 if recipe.adapter else (recipe.parameters or 0) * (6 if recipe.precision == "pure_bf16" else 12)
    kept = 0 if train.get("save_strategy") == "no" else 1 + (train.get("save_total_limit") or 1)
    return int(kept * each) + _weights(recipe)
