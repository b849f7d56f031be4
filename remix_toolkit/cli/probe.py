"""`remix probe`: at which layers a model's facts appear, and how training on other data interferes with them."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from remix_toolkit.cli.options import Json, check_plot_file
from remix_toolkit.errors import BadInput

if TYPE_CHECKING:
    from remix_toolkit.recipe.schema import Rows

commands = typer.Typer(no_args_is_help=True, help="At which layers facts appear, and what interferes with them.")
DataSeed = Annotated[int, typer.Option(help="which draw of generated facts")]


@commands.command("lens")
def probe_lens(
    arguments: Annotated[list[str], typer.Argument(help="models (published stages, directories, hub ids), key=value")],
    task: Annotated[str, typer.Option(help="which facts: kvr, popqa, pairs, ...")] = "kvr",
    data_seed: DataSeed = 0,
    plot: Annotated[Path | None, typer.Option(help="draw the models' lines into this .png, .pdf or .svg")] = None,
    as_json: Json = False,
) -> None:
    """At which layers the right token is among the ten likeliest (figure 4); key=value are the task's settings."""
    from remix_toolkit.recipe.load import load_task

    models = [argument for argument in arguments if "=" not in argument]
    if not models:
        raise BadInput("probe lens: name at least one model")
    declared = load_task(task, [argument for argument in arguments if "=" in argument])
    check_plot_file(plot, "--plot")
    from remix_toolkit.cli.any_model import lens_of

    results = lens_of(models, declared, data_seed)
    if plot:
        from remix_toolkit.report.plot import plot_lens

        plot_lens(results, plot)
    if as_json:
        typer.echo(json.dumps(results, indent=1))
    else:
        print_lens(results)


@commands.command("interference")
def probe_interference(
    model: Annotated[str, typer.Argument(help="a published stage, any model directory, or a hub id")],
    a: Annotated[str, typer.Option(help="the facts to keep, with their settings: 'kvr size=100'")],
    b: Annotated[str, typer.Option(help="what is trained on after them: 'invented_facts size=100'")],
    mix: Annotated[str | None, typer.Option(help="mixing data too: random_words, or 'passages={words: 20}'")] = None,
    after: Annotated[str | None, typer.Option(help="the model after training on B")] = None,
    profile: Annotated[str, typer.Option(help="whose defaults the mixing source takes")] = "tiny",
    parts: Annotated[int, typer.Option(min=4, help="gradients of each data set, all in memory at once")] = 8,
    data_seed: DataSeed = 0,
    as_json: Json = False,
) -> None:
    """Do the gradients of two tasks oppose each other, and did the weights move against the first?"""
    from remix_toolkit.recipe.load import load_mix

    data = {name: _task(text, name) for name, text in (("a", a), ("b", b))}
    declared = load_mix(mix, profile) if mix else None
    from remix_toolkit.cli.any_model import interference_of

    record = interference_of(model, data, declared, after, data_seed, parts)
    if as_json:
        typer.echo(json.dumps(record, indent=1))
    else:
        print_interference(record)


def _task(text: str, option: str) -> "Rows":
    from remix_toolkit.recipe.load import load_task

    name, *settings = shlex.split(text) or [""]
    if not name:
        raise BadInput(f"--{option}: name a task, such as 'kvr size=100'")
    return load_task(name, settings)


def print_lens(results: list[dict[str, Any]]) -> None:
    """For each model, a row per layer and a summary."""
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    for result in results:
        table = Table(
            title=f"{result['task']} in {result['model']}: {result['facts']:,} facts, {result['tokens']:,} tokens"
        )
        for column in ("layer", "% in top 10", "median rank", "probability", "share of occurrences", "seen first"):
            table.add_column(column, justify="right")
        for layer in range(result["layers"]):
            shares = f"{result['occurrence'][layer]:.3f}", f"{result['first'][layer]:.3f}"
            rank = f"{result['median_rank'][layer]:,.0f}"
            table.add_row(
                str(layer + 1), f"{result['top10'][layer]:.1f}", rank, f"{result['probability'][layer]:.3f}", *shares
            )
        console.print(table)
        first = "never" if result["first_layer"] is None else f"in layer {result['first_layer']:.2f} on average"
        console.print(
            f"first seen {first}; {result['never']:.1f}% of the tokens never; in "
            f"{result['layers_per_token']:.2f} layers each; spread over {result['spread']:.2f} layers"
        )


def _angle(angle: dict[str, float | None]) -> str:
    if angle["cosine"] is None:
        return "noise"
    return f"{angle['cosine']:+.3f} [{angle['low']:+.3f}, {angle['high']:+.3f}]"


def print_interference(record: dict[str, Any]) -> None:
    """Cosines for each group of weights, norms, and the change of the loss, predicted and measured."""
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    table = Table(title=f"gradients at {record['model']}: cosine [95% interval over {record['parts']} parts]")
    pairs = list(record["groups"]["whole"])
    moved = record["displacement"] or {}
    for column in ("weights", *(pair.upper().replace(".", " and ") for pair in pairs), *(["moved"] if moved else [])):
        table.add_column(column, justify="left" if column == "weights" else "right")
    for group, angles in record["groups"].items():
        cells = [_angle(angles[pair]) for pair in pairs]
        table.add_row(group, *cells, *([f"{100 * moved[group]['relative']:.1f}%"] if moved else []))
    console.print(table)
    for name, norm in record["norms"].items():
        noise = "indistinguishable from noise" if norm["noise"] else "distinguishable from noise"
        console.print(
            f"gradient of {name.upper()}: norm {norm['norm']:.3g}, shared by all parts {norm['signal']:.3g}, {noise}"
        )
    if moved:
        console.print(
            f"loss on A: {record['loss_before']:.3g} before, {record['loss_after']:.3g} after; change expected to "
            f"first order: {record['predicted']:+.3g} [{record['predicted_low']:+.3g}, {record['predicted_high']:+.3g}]"
        )
