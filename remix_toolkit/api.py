"""The toolkit from Python: what the commands of the same names do, without printing their tables.

    from remix_toolkit import load_recipe, results, run, sweep

    recipe = load_recipe("kvr", settings={"stages.stage1.data.size": 50})
    folders = run(recipe)                   # stage -> its model directory
    frame = results()                       # a row for each fact that a stage was asked
    print(100 * frame.groupby(["recipe", "seed", "stage", "task"]).correct.mean())

A mistake in the input raises BadInput, work that could not be finished RunFailed; both are in remix_toolkit.errors.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remix_toolkit import store
from remix_toolkit.data.missing_files import require_sources
from remix_toolkit.errors import RunFailed
from remix_toolkit.graph.sweep import Cell, Keep, Sweep, check_keep, load_sweep, stage_names
from remix_toolkit.recipe import load
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import RunRecord

if TYPE_CHECKING:
    from remix_toolkit.launch.state import Command

Folders = dict[str, Path]  # stage -> its published model directory, in the order of training


def load_recipe(
    recipe: str | Path,
    profile: str = "tiny",
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    until: str | None = None,
) -> Recipe:
    """A recipe, resolved and checked: a file, or the name of one (`remix recipes` lists those of the package).

    `settings` are dotted keys and their values, such as `{"stages.stage1.data.size": 50}`; `profile` is a profile's
    name or its file; the data of stages after `until` need not be there. Raises BadInput for each mistake, with its
    file, line and key.
    """
    return load.load_recipe(recipe, profile, _overrides(settings), seed, until=until)


def run(recipe: Recipe, runs: str | Path = "runs", stage: str | None = None) -> Folders:
    """Train, publish and measure the stages of a recipe, or one and those before it; what is published is reused.

    Returns each stage's published directory. Raises BadInput, or RunFailed where training fails.
    """
    from remix_toolkit.launch.local import run as run_recipe

    record = run_recipe(recipe, Path(runs), stage)
    return _folders(record, Path(runs))


def sweep(
    name: str | Path,
    profile: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    runs: str | Path = "runs",
    jobs: int | None = None,
    keep: Keep | None = None,
) -> dict[tuple[str, int], Folders]:
    """Run a recipe under every arm and seed of a sweep on this machine; a stage that runs share is trained once.

    `jobs` stages are trained at once: by default as many as there are GPUs. `keep` says whose weights stay: "all",
    "leaves", "none", or a list of stages' names; by default the sweep itself says so. Returns the published directories
    of each arm and seed. Raises BadInput, or RunFailed where a stage failed, after all that does not start from it.
    """
    from remix_toolkit.launch.state import Command
    from remix_toolkit.launch.sweep import failures, run_sweep

    command = Command(
        sweep=str(name), profile=profile, seeds=list(seeds) if seeds else None, overrides=_overrides(settings)
    )
    declared, cells, records = begin_sweep(command, Path(runs), keep)
    if failed := failures(run_sweep(command, cells, declared.keep, Path(runs), jobs)):
        raise RunFailed(failed)
    return {(record.arm, record.seed): _folders(record, Path(runs)) for record in records}


def begin_sweep(
    command: "Command", runs: Path, keep: Keep | None = None, origin: str = "sweep"
) -> tuple[Sweep, list[Cell], list[RunRecord]]:
    """A sweep's declaration, with `keep` in place of its own if that is given, its cells, and the record of each.

    All of its runs are recorded in the store: what is published is shown, and what is missing too. Raises BadInput for
    a mistake in any cell, or data that is not there; `origin` names where `keep` was given.
    """
    declared, cells = load_sweep(command.sweep, command.profile, command.seeds, command.overrides)
    if keep is not None:
        check_keep(keep, stage_names(cells), origin)
        declared = declared.model_copy(update={"keep": keep})
    require_sources(stage for cell in cells for stage in cell.recipe.stages.values())
    store.open_store(runs)
    records = [cell.record() for cell in cells]
    store.record_runs(runs, records)
    return declared, cells, records


def _overrides(settings: Mapping[str, Any] | None) -> list[str]:
    """Settings as the command line has them. JSON is YAML."""
    return [f"{key}={json.dumps(value, default=str)}" for key, value in (settings or {}).items()]


def _folders(record: RunRecord, runs: Path) -> Folders:
    published = store.published_stages(runs)
    return {stage.stage: published[stage.key] for stage in record.stages}
