"""`remix advise`: which remedy keeps a recipe's facts, by a pilot on them."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from remix_toolkit.cli.options import JobsAtOnce, Json, Overrides, Profile, RecipeArg, Runs
from remix_toolkit.cli.output import emit, keep_stdout_for_json

if TYPE_CHECKING:
    from remix_toolkit.advise import Advice

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
    screen.print_lines(_lines(advice))


def _lines(advice: "Advice") -> list[str]:
    lines = [f"not counted: {arm}: {why}" for arm, why in advice.left_out.items()]
    seeds = f"{advice.seeds} seeds" if advice.seeds > 1 else "one seed"
    if advice.arm is None or advice.gain is None:
        lines.append(f"advice: no arm is better than none, which keeps {advice.kept_without:.1f}% ({seeds})")
    else:
        low, high = advice.gain
        settings = {key: value for key, value in advice.settings.items() if value}
        lines += [
            f"advice: {advice.arm}: {json.dumps(settings)}",
            f"it keeps {advice.kept:.1f}%, and none {advice.kept_without:.1f}%: the difference is between {low:+.1f} "
            f"and {high:+.1f} points (95%, {seeds}); it takes {advice.compute:.1f} times the steps",
            f"to train it: remix sweep {shlex.quote(str(advice.sweep))}",
        ]
    return [*lines, f"what was tried, on one page: {advice.page}"]
