"""`remix stage`: one stage of a recipe, in this process, or in each process that accelerate starts."""

import os
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from remix_toolkit.errors import BadInput, MeasurementFailed

if TYPE_CHECKING:
    from remix_toolkit.recipe.schema import Factoid, Recipe


def stage(
    recipe: Annotated[str, typer.Argument(help="a recipe; with --key, a resolved one: a job's recipe.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ...; not with --key")] = None,
    stage: Annotated[str | None, typer.Option(help="which stage; those before it must be published")] = None,
    key: Annotated[str | None, typer.Option(help="the key of the stage (or familiarity split) to do")] = None,
    profile: Annotated[str, typer.Option(help="a profile's name, or its file")] = "tiny",
    seed: Annotated[int | None, typer.Option(help="seed of order and mixing data")] = None,
    runs: Annotated[Path, typer.Option(help="where stages are published")] = Path("runs"),
    only: Annotated[Literal["train", "measure"] | None, typer.Option(help="one of the two [default: both]")] = None,
    sweep: Annotated[str | None, typer.Option(help="the sweep that this stage is trained for")] = None,
    parent: Annotated[int | None, typer.Option(help="a process with which this one ends")] = None,
) -> None:
    """One stage of a recipe by its name, or of a resolved recipe by its key, in this process."""
    from remix_toolkit import store
    from remix_toolkit.data.missing_files import require_sources
    from remix_toolkit.graph.lineage import lineage, run_record
    from remix_toolkit.recipe.load import load_recipe, read_resolved

    if (stage is None) == (key is None):
        raise BadInput("stage: give --stage NAME, or --key KEY with a resolved recipe")
    if parent:
        end_with(parent)
    if "LOCAL_RANK" in os.environ:
        end_with(os.getppid())  # the launcher
    resolved = read_resolved(Path(recipe)) if key else load_recipe(recipe, profile, overrides, seed)
    name = find_key(resolved, key)[0] if key else str(stage)
    nodes = lineage(resolved, until=name)
    require_sources((resolved.stages[node.stage] for node in nodes), [resolved.known])
    records = [run_record(resolved, nodes, resolved.name)] if stage else []  # now: the recipe's file may change
    from accelerate import PartialState  # which takes seconds: a mistake in the recipe is answered before
    from accelerate.utils import parse_flag_from_env

    # Its state is made before anything asks for it, with the recipe's time-out for the other processes.
    timeout = timedelta(seconds=resolved.stages[name].train.get("ddp_timeout", 1800))
    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timeout)
    store.open_store(runs)
    failure: MeasurementFailed | None = None
    try:
        run_key(resolved, key or nodes[-1].key, runs, only, sweep)
    except MeasurementFailed as error:  # the stage is published all the same
        failure = error
    if records and PartialState().is_main_process:
        store.record_runs(runs, records)
    if failure:
        raise failure


def find_key(recipe: "Recipe", key: str) -> "tuple[str, Factoid | None]":
    """The stage of a resolved recipe that has this key; or, of a familiarity split, its task and the stage it is for.

    Raises BadInput where nothing has the key: what it was worked out from has changed since.
    """
    from remix_toolkit.graph.lineage import lineage, split_key
    from remix_toolkit.recipe.schema import Factoid

    keys = {node.stage: node.key for node in lineage(recipe)}
    for name, stage in recipe.stages.items():
        if keys[name] == key:
            return name, None
        asked = [task for task in (stage.data, *stage.recall) if isinstance(task, Factoid) and task.familiarity]
        for task in (*asked, *([recipe.known] if recipe.known else [])):
            if split_key(recipe, task) == key:
                return name, task
    listed = ", ".join(f"{name} {key}" for name, key in keys.items())
    raise BadInput(
        f"{recipe.name}: no stage has the key {key}: the recipe, its data or the base model changed since that key was "
        f"worked out; the keys are now {listed}"
    )


def run_key(
    recipe: "Recipe",
    key: str,
    runs: Path,
    only: Literal["train", "measure"] | None = None,
    sweep: str | None = None,
    wait: bool = True,
) -> None:
    """Do the stage (or familiarity split) with this key: train it if it is not published, measure what is missing.

    `only` is train or measure. `sweep` is noted as the one that trained the stage. Raises Busy where another run is at
    the stage and this one is not to `wait`.
    """
    from remix_toolkit import store
    from remix_toolkit.graph.lineage import lineage
    from remix_toolkit.stage import familiar
    from remix_toolkit.stage.prepare import prepare
    from remix_toolkit.stage.run import run_stage

    name, task = find_key(recipe, key)
    if task:
        familiar.ask_until(recipe, task, None if task.size is None else task.start + task.size, runs)
        return
    *earlier, node = lineage(recipe, until=name)
    for before in earlier:
        if store.find_stage(runs, before.key) is None:
            raise BadInput(
                f"{recipe.name}: {name} starts from {before.stage}, which is not published in {runs} yet: "
                f"run it first, with the same settings and --stage {before.stage}"
            )
    (prepared,) = prepare(recipe, [node], runs)
    run_stage(prepared, only != "measure", sweep, wait, only)


def end_with(pid: int) -> None:
    """From now on, end this process once another one has ended.

    A launcher that is killed (-9) informs nobody: its processes would hold their devices for ever.
    """
    import psutil

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            other = psutil.Process(pid)
            while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
                time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
