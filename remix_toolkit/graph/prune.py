"""Whose weights stay on disk: results always do, weights go once nothing loads them any more.

A stage's weights are loaded by the stages that start from its model and by what is measured of it. What a sweep's
`keep` names stays in any case, and so does what the sweep did not train itself.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from remix_toolkit import store
from remix_toolkit.evaluate.measurements import measured
from remix_toolkit.graph.jobs import LoadsWeights, loaders, measure_key
from remix_toolkit.graph.sweep import Keep


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
        if users <= finished and not store.is_pruned(folder) and store.trained_for(folder) == sweep:
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
    return {
        key: published[key]
        for key in sorted(names.keys() & published.keys() - unfinished - set(needed))
        if not is_kept(keep, names[key], key in parents) and not store.is_pruned(published[key])
    }
