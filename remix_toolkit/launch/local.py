"""Run a recipe's stages in order on this machine, each one only if it is not published yet."""

from pathlib import Path

from remix_toolkit import store
from remix_toolkit.data import tasks
from remix_toolkit.data.missing_files import require_sources
from remix_toolkit.errors import MeasurementFailed
from remix_toolkit.graph import devices
from remix_toolkit.graph.jobs import due, graph, measure_key
from remix_toolkit.graph.lineage import lineage, run_record, split_key
from remix_toolkit.graph.prune import delete_left_behind
from remix_toolkit.graph.sweep import Cell
from remix_toolkit.launch.job import launch
from remix_toolkit.launch.state import write_resolved
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import RunRecord


def run(recipe: Recipe, runs: Path, stage: str | None = None) -> RunRecord:
    """Train, publish and measure all stages, or one and those before it; returns the record of the run.

    Every stage's data, training arguments and adapter are checked before the first one is trained (with `base_stage`,
    those of the stages behind it once it is published). With `accelerate_config`, each stage that is not done runs as
    its own `accelerate launch`.
    """
    nodes = lineage(recipe, until=stage)
    require_sources((recipe.stages[node.stage] for node in nodes), [recipe.known])
    store.open_store(runs)
    delete_left_behind(runs)
    devices.launch_of(recipe)
    jobs = graph([Cell(recipe.name, recipe, nodes)])
    todo = due(jobs, runs)
    loaded = {key for job in todo for key in jobs[job].loads}
    from remix_toolkit.stage import familiar
    from remix_toolkit.stage.prepare import prepare
    from remix_toolkit.stage.run import run_stage

    failures: list[str] = []
    known = recipe.position(recipe.base_stage) + 1 if recipe.base_stage else 0
    if known:
        for node in nodes[known:]:  # at least that they can be read; the rest is checked once base_stage is published
            for task in (recipe.stages[node.stage].data, *recipe.stages[node.stage].recall):
                tasks.read_task(task, recipe.data_seed)
    whole = record = run_record(recipe, nodes, recipe.name)  # before anything takes time: the recipe's file may change
    for part in (nodes[:known], nodes[known:]):  # what is familiar to base_stage's model is known only after it
        for prepared in prepare(recipe, part, runs) if part else []:
            node = prepared.node
            if recipe.known and split_key(recipe, recipe.known) in todo:  # before anything is trained, in one process
                familiar.ask_rows(recipe, recipe.known, runs)
            try:
                if recipe.accelerate_config and {node.key, measure_key(node.key)} & todo:
                    file = store.work_dir(runs, node.key).with_suffix(".yaml")
                    write_resolved(recipe, file)
                    launch(recipe, file, node.key, runs)
                else:
                    run_stage(prepared, node.key in loaded)
            except MeasurementFailed as error:  # the stage is published: the next one can start from it
                failures.append(str(error))
            record = whole.model_copy(update={"stages": whole.stages[: node.position + 1]})
            store.record_runs(runs, [record])
    if failures:
        raise MeasurementFailed("\n".join(failures))
    return record
