"""`remix advise`: which remedy keeps a recipe's facts, by a pilot on them."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from remix_toolkit.cli.options import JobsAtOnce, Json, Overrides, Profile, RecipeArg, Runs
from remix_toolkit.cli.output import emit, keep_stdout_for_json

commands = typer.Typer()


@commands.command()
def advise(
    recipe: RecipeArg,
    overrides: Overrides = None,
    profile: Profile = "tiny",
    runs: Runs = Path("runs"),
    jobs: JobsAtOnce = None,
    can_redo_stage1: Annotated[
        Literal["yes", "no"], typer.Option(help="may the first stage be trained in another way than it was?")
    ] = "yes",
    keeps_old_data: Annotated[
        Literal["yes", "no"], typer.Option(help="are the first stage's facts at hand when a later one is trained?")
    ] = "yes",
    as_json: Json = False,
) -> None:
    """Which remedy keeps the first stage's facts: a pilot on them, of every remedy that your situation allows."""
    from remix_toolkit.advise import advise as run_pilot

    with keep_stdout_for_json(as_json):
        advice = run_pilot(
            recipe, profile, overrides or [], runs, jobs, can_redo_stage1 == "yes", keeps_old_data == "yes"
        )
    if as_json:
        emit(asdict(advice), True, print, default=str)
        return
    from remix_toolkit.report import screen
    from remix_toolkit.report.frame import load

    screen.print_seeds(load(runs, f"{advice.page.parents[1].name}-advice"), {})
    screen.print_lines(["advice:", *advice.lines, f"what was tried, on one page: {advice.page}"])
