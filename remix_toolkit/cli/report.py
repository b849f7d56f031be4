"""Commands that read what is published: show, report, card, results, compare, and the JSON Schemas."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from remix_toolkit.cli.options import Json, Runs
from remix_toolkit.cli.output import check_plot_file, check_writable, write_output
from remix_toolkit.console import info, warn
from remix_toolkit.errors import BadInput

commands = typer.Typer()


@commands.command()
def show(
    runs: Runs = Path("runs"),
    each: Annotated[bool, typer.Option("--each", help="every run by itself, whatever the number of seeds")] = False,
    seeds: Annotated[bool, typer.Option("--seeds", help="over seeds, whatever their number; with --json too")] = False,
    recipe: Annotated[str | None, typer.Option(help="only the runs of this recipe or sweep")] = None,
    curves: Annotated[Path | None, typer.Option(help="draw its retention curves into this .png or .pdf")] = None,
    as_json: Json = False,
) -> None:
    """What is published: recall of each task after each stage, by run or, of several seeds, over them."""
    from remix_toolkit.report import screen
    from remix_toolkit.report.frame import load

    check_plot_file(curves, "--curves")
    frame = load(runs, recipe)
    if as_json:
        return typer.echo(json.dumps(screen.seeds_as_json(frame) if seeds else screen.as_entries(frame), indent=1))
    if frame.measured.empty:
        return typer.echo(f"{runs}: nothing is published yet")
    if curves:
        from remix_toolkit.report.figures import plot_curves

        plot_curves(frame, curves)
        return typer.echo(f"plot: {curves}")
    screen.print_runs(frame, each, seeds)


StageArg = typer.Argument(
    help="a published stage: its directory, its key, or enough of its name to tell it from others"
)
Output = Annotated[Path | None, typer.Option("--output", "-o", help="write it into this file [default: the screen]")]


@commands.command()
def card(stage: Annotated[str, StageArg], runs: Runs = Path("runs"), output: Output = None) -> None:
    """A model card: what a stage knows, its lineage, data and licences, how to load it and to train it again."""
    from remix_toolkit.report.card import card as write
    from remix_toolkit.report.sides import find_stage

    write_output(output, write(find_stage(stage, runs)))


@commands.command()
def results(
    stage: Annotated[str | None, StageArg] = None,
    runs: Runs = Path("runs"),
    recipe: Annotated[str | None, typer.Option(help="only the runs of this recipe or sweep")] = None,
    output: Output = None,
) -> None:
    """results.json, for machines: recall, settings, versions; of a stage and its lineage, or of all that is there."""
    from remix_toolkit.report.results import as_json, of_stage, of_store
    from remix_toolkit.report.sides import find_stage

    if stage and recipe:
        raise BadInput(f"--recipe {recipe}: is of all stages of a recipe; leave it out, or {stage}")
    write_output(output, as_json(of_stage(find_stage(stage, runs)) if stage else of_store(runs, recipe)))


@commands.command()
def compare(
    a: Annotated[str, typer.Argument(help="a stage (directory, key, name), an arm, a recipe, or a runs directory")],
    b: Annotated[str, typer.Argument(help="another one")],
    runs: Runs = Path("runs"),
    facts: Annotated[Path | None, typer.Option(help="write all facts that only one of them knows, as CSV")] = None,
    as_json: Json = False,
) -> None:
    """Two stages, arms, sweeps or runs directories side by side: settings, facts kept, losses, retention curves."""
    check_writable(facts, "--facts")
    from remix_toolkit.report import compare as side_by_side

    compared = side_by_side.compare(a, b, runs)
    if facts:
        side_by_side.write_facts(compared, facts)
    if as_json:
        return typer.echo(json.dumps(side_by_side.as_json(compared), indent=1, ensure_ascii=False))
    side_by_side.print_compared(compared)


@commands.command()
def report(
    runs: Annotated[Path, typer.Argument(help="where stages are published")] = Path("runs"),
    out: Annotated[Path | None, typer.Option("-o", "--out", help="the report's folder [default: RUNS/report]")] = None,
    recipe: Annotated[str | None, typer.Option(help="only the runs of this recipe or sweep")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="open the page in a browser")] = False,
) -> None:
    """All that is published as one HTML page, its figures and tables as files beside it."""
    import webbrowser

    from remix_toolkit.report.page import write_report

    page = write_report(runs, out or runs / "report", recipe)
    info(f"report: {page}" if page else f"{runs}: nothing is published yet")
    if page and open_page and not webbrowser.open(page.resolve().as_uri()):
        warn(f"no browser was found here: open {page} in one")


@commands.command()
def schema(
    what: Annotated[Literal["recipe", "results"], typer.Argument(help="results: of `remix results`")] = "recipe",
) -> None:
    """The JSON Schema of a recipe, for editors, or of results.json."""
    if what == "recipe":
        from remix_toolkit.recipe.json_schema import json_schema
    else:
        from remix_toolkit.report.results import json_schema
    typer.echo(json.dumps(json_schema(), indent=1))
