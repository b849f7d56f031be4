"""`python -m remix_toolkit.stage`: one stage of a recipe, in this process or in each that accelerate launches.

    accelerate launch --config_file accelerate_configs/fsdp_4gpu.yaml -m remix_toolkit.stage \\
        recipes/kvr.yaml --profile llama3-8b --stage stage1
"""

import os
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import psutil
import typer
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from remix_toolkit import store
from remix_toolkit.data.sources import require_sources
from remix_toolkit.errors import BadInput, exit_on_error
from remix_toolkit.graph.lineage import lineage, run_record
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.stage.run import prepare, run_stage


def main(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of one in recipes/")],
    stage: Annotated[str, typer.Option(help="which stage; those before it must be published")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ...")] = None,
    profile: Annotated[str, typer.Option(help="a profile's name, or its file")] = "tiny",
    seed: Annotated[int | None, typer.Option(help="seed of order and mixing data")] = None,
    runs: Annotated[Path, typer.Option(help="where stages are published")] = Path("runs"),
    record: Annotated[bool, typer.Option(help="note the run, so that `remix show` lists it")] = True,
    key: Annotated[str | None, typer.Option(help="the stage's key, if it must be this one")] = None,
    sweep: Annotated[str | None, typer.Option(help="the sweep that this stage is trained for")] = None,
    parent: Annotated[int | None, typer.Option(help="a process with which this one ends")] = None,
) -> None:
    """One stage of a recipe, in this process, or in each process that accelerate starts."""
    end_with(parent)
    resolved = load_recipe(recipe, profile, overrides, seed)
    nodes = lineage(resolved, until=stage)
    require_sources(resolved.stages[node.stage] for node in nodes)
    # Of all processes, before anything asks for it; what transformers says later of how long they wait is not heard.
    patience = timedelta(seconds=resolved.stages[stage].train.get("ddp_timeout", 1800))
    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=patience)
    if key is not None and nodes[-1].key != key:
        raise BadInput(f"{recipe}: {stage} has the key {nodes[-1].key} now, not {key}: the recipe or its data changed")
    store.open_store(runs)
    for earlier in nodes[:-1]:
        if store.find(runs, earlier.key) is None:
            raise BadInput(
                f"{resolved.name}: {stage} starts from {earlier.stage}, which is not published in {runs} yet: "
                f"run it first, with the same settings and --stage {earlier.stage}"
            )
    run_stage(resolved, nodes[-1], prepare(resolved, nodes[-1:], runs)[stage], runs, sweep=sweep)
    if record and PartialState().is_main_process:
        store.record_runs(runs, [run_record(resolved, nodes, resolved.name, overrides or [])])


def end_with(parent: int | None) -> None:
    """From now on, end this process when its launcher dies, or the process that started that one.

    A launcher that is killed (-9) tells nobody: its processes would hold their devices for ever.
    """
    launcher = os.getppid()

    def watch() -> None:
        while (parent is None or psutil.pid_exists(parent)) and (
            "LOCAL_RANK" not in os.environ or os.getppid() == launcher
        ):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    exit_on_error(lambda: typer.run(main))
