"""What is still to do, and whose weights stay on disk: results always do, weights go once nothing loads them any more.

A stage's weights are loaded by the stages that start from its model and by what is measured of it. What a sweep's
`keep` names stays in any case, and so does what the sweep did not train itself.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from remix_toolkit import store
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.measurements import measured
from remix_toolkit.graph.jobs import Job, Loading, loaders, measure_key
from remix_toolkit.graph.sweep import Keep
from remix_toolkit.recipe.schema import Recipe


def is_kept(keep: Keep, stage: str, has_children: bool) -> bool:
    """Does `keep` (all, leaves, none, or stages' names) say that this stage's weights stay?"""
    if isinstance(keep, list):
        return stage in keep
    return keep == "all" or (keep == "leaves" and not has_children)


def due(jobs: Mapping[str, Job], runs: Path) -> set[str]:
    """The keys of the jobs still to run: what is not published or not measured, and weights that are needed again.

    Raises BadInput for a published stage that lacks files.
    """
    published = store.published_stages(runs)
    todo: set[str] = set()
    loaded: set[str] = set()  # the stages whose weights those jobs load
    for key, job in reversed(list(jobs.items())):
        folder = published.get(job.node.key) if job.node else None
        if job.kind == "split":
            missing = any(key in jobs[other].needs for other in todo)  # next to no work where all is known already
        elif job.kind == "measure":
            missing = folder is None or not job.requested <= measured(folder)
        else:
            if folder and (damage := store.find_damage(folder, checksums=False)):
                raise BadInput(f"{folder}: {damage}; {store.RETRAIN_HINT}, or --retrain-damaged does")
            missing = folder is None or (key in loaded and store.is_pruned(folder))
        if missing:
            todo.add(key)
            loaded |= job.loads
    return todo


def _has_children(key: str, loading: Collection[str]) -> bool:
    return bool(set(loading) - {measure_key(key)})


def spare(jobs: Mapping[str, Loading], done: Collection[str], keep: Keep, sweep: str, runs: Path) -> dict[str, Path]:
    """The stages, by key, whose weights this sweep made and needs no more; `done` are the keys of finished jobs."""
    loading = loaders(jobs)
    published = store.published_stages(runs)
    found = {}
    for key, by in loading.items():
        folder = published.get(key)
        if key not in done or folder is None or is_kept(keep, jobs[key].name, _has_children(key, by)):
            continue
        if by <= set(done) and not store.is_pruned(folder) and store.trained_for(folder) == sweep:
            found[key] = folder
    return found


def spare_in_store(runs: Path, keep: Keep, needed: Collection[str]) -> dict[str, Path]:
    """The stages of a whole store, by key, whose weights no run needs any more, nor anybody who `needed` them.

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
    return {
        key: published[key]
        for key in sorted(names.keys() & published.keys() - unfinished - set(needed))
        if not is_kept(keep, names[key], key in parents) and not store.is_pruned(published[key])
    }


def peak(jobs: Mapping[str, Job], todo: Collection[str], keep: Keep, at_once: int = 1) -> int | None:
    """The most bytes that the jobs to do hold at one time, in the graph's order; None if a base's size is unknown."""
    loading = loaders(jobs)
    waiting = {key: by & set(todo) for key, by in loading.items()}
    held: dict[str, int] = {}  # bytes of weights on disk, by stage
    most = largest = 0
    for key in (key for key in jobs if key in todo):
        job, recipe = jobs[key], jobs[key].cells[0].recipe
        if recipe.parameters is None:
            return None
        if job.kind == "train":
            working = _working(recipe, job.name)
            most = max(most, sum(held.values()) + working)
            largest = max(largest, working)
            held[key] = _weights(recipe)
        for by in waiting.values():
            by.discard(key)
        for other in list(held):
            if not waiting[other] and not is_kept(keep, jobs[other].name, _has_children(other, loading[other])):
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
