"""Run a recipe's stages in order on this machine, each one only if it is not published yet."""

import subprocess
from pathlib import Path

from remix_toolkit import store
from remix_toolkit.data import tasks
from remix_toolkit.data.sources import require_sources
from remix_toolkit.errors import MeasurementFailed, RunFailed
from remix_toolkit.evaluate.measurements import is_measured
from remix_toolkit.graph import devices
from remix_toolkit.graph.lineage import Node, lineage, measurements, run_record
from remix_toolkit.graph.prune import still_due
from remix_toolkit.recipe.schema import Recipe


def run(
    recipe: Recipe,
    runs: Path,
    file: str,
    stage: str | None = None,
    arm: str | None = None,
    overrides: list[str] | None = None,
) -> str:
    """All stages, or one and those before it; returns the id under which the run is recorded.

    Every stage's data, training arguments and adapter are checked before the first one is trained (with `base_stage`,
    those of the stages behind it once it is published). With
    `accelerate_config`, each stage that is not done runs as its own `accelerate launch` of the recipe's `file`.
    """
    nodes = lineage(recipe, until=stage)
    require_sources(recipe.stages[node.stage] for node in nodes)
    store.open_store(runs)
    devices.check(recipe)
    from remix_toolkit.stage.run import prepare, run_stage

    id_, failures = "", list[str]()
    known = recipe.position(recipe.base_stage) + 1 if recipe.base_stage else 0
    if known:
        for node in nodes[known:]:  # at least that they can be read; the rest is checked once base_stage is there
            for task in (recipe.stages[node.stage].data, *recipe.stages[node.stage].recall):
                tasks.read_task(task, recipe.data_seed)
    wanted = _loaded(recipe, nodes, runs)
    try:
        for part in (nodes[:known], nodes[known:]):  # what is familiar to base_stage's model is known only after it
            data = prepare(recipe, part, runs) if part else {}
            for node in part:
                done = store.find(runs, node.key)
                loaded = node.key in wanted
                whole = done and not (loaded and store.is_pruned(done))
                there = done and whole and is_measured(recipe, node.stage, done)
                if there or not recipe.accelerate_config:
                    try:
                        run_stage(recipe, node, data[node.stage], runs, loaded)
                    except MeasurementFailed as error:  # the stage is published: the next one can start from it
                        failures.append(str(error))
                else:
                    line = devices.command(recipe, node, devices.stage(file, overrides or [], recipe, runs))
                    if code := subprocess.run(line, check=False).returncode:
                        failure = f"{node.stage}: accelerate launch ended with exit code {code}; see above"
                        if store.find(runs, node.key) is None:
                            raise RunFailed(failure)
                        failures.append(failure)
                record = run_record(recipe, nodes[: node.position + 1], arm or recipe.name, overrides or [])
                (id_,) = store.record_runs(runs, [record])
    except KeyboardInterrupt:
        raise RunFailed("stopped; the same command goes on from the last checkpoint") from None
    if failures:
        raise MeasurementFailed("\n".join(failures))
    return id_


def _loaded(recipe: Recipe, nodes: list[Node], runs: Path) -> set[str]:
    """The stages, by key, whose weights the one after them loads: to be trained, or to be compared with them."""
    found: set[str] = set()
    for node in reversed(nodes):
        wanted = measurements(recipe, node.position)
        _, loads = still_due(store.find(runs, node.key), wanted, needed=node.key in found)
        found |= set(node.ancestors[-1:]) if loads else set()
    return found
