"""`remix recall`, `familiar` and `probe`: what a model answers, whoever trained it, and what goes on inside it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from remix_toolkit.cli.options import Json, Profile, Runs
from remix_toolkit.cli.output import (
    check_plot_file,
    check_writable,
    emit,
    keep_stdout_for_json,
    print_record,
    print_table,
)
from remix_toolkit.errors import BadInput

commands = typer.Typer()
probe = typer.Typer(no_args_is_help=True, help="At which layers facts appear, and what interferes with them.")
commands.add_typer(probe, name="probe")
TaskSettings = Annotated[list[str] | None, typer.Argument(help="the task's settings: size=100 path=facts.csv")]
Task = Annotated[str, typer.Option(help="which facts: kvr, popqa, pairs, ...")]
DataSeed = Annotated[int, typer.Option(help="which draw of generated facts")]


@commands.command()
def familiar(
    task: Annotated[str, typer.Argument(help="which facts: popqa, pairs, ...")],
    overrides: TaskSettings = None,
    profile: Profile = "tiny",
    base: Annotated[str | None, typer.Option(help="another base model than the profile's")] = None,
    exemplars: Annotated[int, typer.Option(min=1, help="facts in front of each question, as few_shot.exemplars")] = 5,
    few_shot_seed: Annotated[int, typer.Option(help="which ones, as few_shot.seed")] = 0,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Which facts of a task the base model already answers; recipes with `familiarity` reuse what is found."""
    from remix_toolkit import api
    from remix_toolkit.recipe.schema import FewShot

    few_shot = FewShot(exemplars=exemplars, seed=few_shot_seed)
    with keep_stdout_for_json(as_json):
        split = api.familiar(_with_settings(task, overrides), profile, base, few_shot, runs)
    emit(split, as_json, print_record, indent=None)


@commands.command()
def recall(
    model: Annotated[str, typer.Argument(help="a published stage, any model directory, or a hub id")],
    overrides: TaskSettings = None,
    task: Task = "kvr",
    data_seed: DataSeed = 0,
    details: Annotated[Path | None, typer.Option(help="write each fact's verdict here, as JSON lines")] = None,
    as_json: Json = False,
) -> None:
    """Recall of a task's facts by a model, in percent."""
    from remix_toolkit import api

    check_writable(details, "--details")
    emit(api.recall(model, _with_settings(task, overrides), data_seed, details), as_json, print_record, indent=None)


@probe.command("lens")
def probe_lens(
    arguments: Annotated[list[str], typer.Argument(help="models (published stages, directories, hub ids), key=value")],
    task: Task = "kvr",
    data_seed: DataSeed = 0,
    plot: Annotated[Path | None, typer.Option(help="draw the models' lines into this .png, .pdf or .svg")] = None,
    as_json: Json = False,
) -> None:
    """At which layers the right token is among the ten likeliest (figure 4); key=value are the task's settings."""
    from remix_toolkit import api

    models = [argument for argument in arguments if "=" not in argument]
    if not models:
        raise BadInput("probe lens: name at least one model")
    check_plot_file(plot, "--plot")
    facts = _with_settings(task, [argument for argument in arguments if "=" in argument])
    results = [api.lens(model, facts, data_seed) for model in models]
    if plot:
        from remix_toolkit.report.figures import plot_lens

        plot_lens(results, plot)
    emit(results, as_json, _print_lenses)


@probe.command("interference")
def probe_interference(
    model: Annotated[str, typer.Argument(help="a published stage, any model directory, or a hub id")],
    a: Annotated[str, typer.Option(help="the facts to keep, with their settings: 'kvr size=100'")],
    b: Annotated[str, typer.Option(help="what is trained on after them: 'invented_facts size=100'")],
    mix: Annotated[str | None, typer.Option(help="mixing data too: random_words, or 'passages={words: 20}'")] = None,
    after: Annotated[str | None, typer.Option(help="the model after training on B")] = None,
    profile: Annotated[str, typer.Option(help="whose defaults the mixing source takes")] = "tiny",
    parts: Annotated[int, typer.Option(min=4, help="gradients of each data set")] = 8,
    data_seed: DataSeed = 0,
    as_json: Json = False,
) -> None:
    """Do the gradients of two tasks oppose each other, and did the weights move against the first?"""
    from remix_toolkit import api

    emit(api.interference(model, a, b, mix, after, profile, parts, data_seed), as_json, _print_interference)


def _with_settings(task: str, settings: Sequence[str] | None) -> str:
    return shlex.join([task, *(settings or [])])


def _print_lenses(results: list[dict[str, Any]]) -> None:
    """For each model, its numbers, then a row for each layer."""
    for result in results:
        by_layer = {name: value for name, value in result.items() if isinstance(value, list)}
        print_record({name: value for name, value in result.items() if not isinstance(value, list)})
        layers = zip(*by_layer.values(), strict=True)
        rows = [{"layer": n, **dict(zip(by_layer, values, strict=True))} for n, values in enumerate(layers, start=1)]
        print_table(rows, list(rows[0]))


def _print_interference(record: dict[str, Any]) -> None:
    """Cosines with their 95% intervals for each group of weights, and how far it moved; then all other numbers."""
    moved = record["displacement"] or {}
    rows = []
    for group, angles in record["groups"].items():
        row = {"weights": group} | {f"cosine {pair}": _interval(angle) for pair, angle in angles.items()}
        rows.append(row | ({"moved": moved[group]["relative"]} if moved else {}))
    print_table(rows, list(rows[0]))
    print_record({name: value for name, value in record.items() if name not in ("groups", "displacement")})


def _interval(angle: dict[str, float | None]) -> str:
    if angle["cosine"] is None:
        return "noise"
    return f"{angle['cosine']:+.3f} [{angle['low']:+.3f}, {angle['high']:+.3f}]"
