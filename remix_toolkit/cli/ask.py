"""`remix recall` and `remix familiar`: what a model answers, whoever trained it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from remix_toolkit.cli.options import Json, Profile, Runs, check_writable, keep_stdout_for_json
from remix_toolkit.errors import BadInput

commands = typer.Typer()


@commands.command()
def familiar(
    task: Annotated[str, typer.Argument(help="which facts: popqa, pairs, ...")],
    overrides: Annotated[list[str] | None, typer.Argument(help="the task's settings: path=facts.csv")] = None,
    profile: Profile = "tiny",
    base: Annotated[str | None, typer.Option(help="another base model than the profile's")] = None,
    exemplars: Annotated[int, typer.Option(min=1, help="facts in front of each question, as few_shot.exemplars")] = 5,
    few_shot_seed: Annotated[int, typer.Option(help="which ones, as few_shot.seed")] = 0,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Which facts of a task the base model already answers; recipes with `familiarity` reuse what is found."""
    from remix_toolkit.recipe.load import load_base, load_task
    from remix_toolkit.recipe.schema import Factoid, FewShot

    declared = load_task(task, overrides or [])
    if not isinstance(declared, Factoid):
        raise BadInput(f"{task}: instructions are not familiar or unfamiliar; name a task of facts")
    declared = declared.model_copy(update={"familiarity": "familiar"})  # of generated facts, all that can be chosen
    recipe = load_base(profile)
    changes = {"few_shot": FewShot(exemplars=exemplars, seed=few_shot_seed), "base": base or recipe.base}
    from remix_toolkit import store
    from remix_toolkit.stage.familiar import split

    store.open_store(runs)
    with keep_stdout_for_json(as_json):
        result = split(recipe.model_copy(update=changes), declared, runs)
    typer.echo(
        json.dumps(result)
        if as_json
        else f"{result['task']}: {result['familiar']:,} of {result['facts']:,} facts are familiar to "
        f"{result['model']}, {result['unfamiliar']:,} are not; each with its answer in {result['path']}"
    )


@commands.command()
def recall(
    model: Annotated[str, typer.Argument(help="a published stage, any model directory, or a hub id")],
    overrides: Annotated[list[str] | None, typer.Argument(help="the task's settings: size=100 path=facts.csv")] = None,
    task: Annotated[str, typer.Option(help="which facts: kvr, popqa, pairs, ...")] = "kvr",
    data_seed: Annotated[int, typer.Option(help="which draw of generated facts")] = 0,
    details: Annotated[Path | None, typer.Option(help="write each fact's verdict here, as JSON lines")] = None,
    as_json: Json = False,
) -> None:
    """Recall of a task's facts by a model, in percent."""
    from remix_toolkit.recipe.load import load_task

    declared = load_task(task, overrides or [])
    check_writable(details, "--details")
    from remix_toolkit.cli.any_model import recall_of

    result = recall_of(model, declared, data_seed, details)
    typer.echo(
        json.dumps(result)
        if as_json
        else f"{result['recall']:.1f}% of {result['facts']} facts ({result['correct']} correct)"
    )
