"""`remix plan`: what a sweep or recipe will train, what that costs and in which order, before anything is trained."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from remix_toolkit.cli.options import JobsAtOnce, Json, Overrides, Runs, Seeds, SweepArg, SweepProfile
from remix_toolkit.cli.output import emit, print_record, print_table

commands = typer.Typer()
SHOWN = 12  # jobs; all are in --json


@commands.command()
def plan(
    sweep: SweepArg,
    overrides: Overrides = None,
    profile: SweepProfile = None,
    seed: Seeds = None,
    runs: Runs = Path("runs"),
    jobs: JobsAtOnce = None,
    rate: Annotated[
        list[str] | None, typer.Option(help="for the hours: utilization=0.5, write_gb_per_s=3, ...")
    ] = None,
    graph: Annotated[Literal["mermaid"] | None, typer.Option(help="print the graph of stages")] = None,
    as_json: Json = False,
) -> None:
    """What a sweep will train, once, and what that costs: nothing is loaded."""
    from remix_toolkit import api
    from remix_toolkit.recipe.load import parse_override

    rates = {key: value for key, value, _ in map(parse_override, rate or [])}
    planned = api.plan(sweep, profile, overrides, seed, runs, jobs or 1, rates)
    if graph:
        typer.echo(as_mermaid(planned))
    else:
        emit(planned, as_json, print_plan)


def print_plan(planned: dict[str, Any]) -> None:
    """A plan's numbers, and the first jobs of its order."""
    left_out = {"order"} if planned["gpu_hours"] else {"order", "rates"}
    print_record({name: value for name, value in planned.items() if name not in left_out})
    todo = [job for job in planned["order"] if job["to_do"] and job["kind"] != "measure"]
    rows = [
        {**job, "runs": len(job["runs"]), "first run": job["runs"][0], "GPU minutes": job["minutes"]}
        for job in todo[:SHOWN]
    ]
    timed = ("GPU minutes",) if planned["gpu_hours"] else ()
    print_table(rows, ("kind", "name", "task", "steps", *timed, "runs", "first run", "why"))
    if len(todo) > SHOWN:
        typer.echo(f"... and {len(todo) - SHOWN:,} more, in the order in which they run")


def as_mermaid(planned: dict[str, Any]) -> str:
    """The graph of stages and splits in the language of Mermaid; what is published is drawn dashed."""
    lines = ["flowchart LR"]
    for job in [job for job in planned["order"] if job["kind"] != "measure"]:
        label = f"{job['name']}: {job['task']}" if job["kind"] == "train" else f"which {job['task']} are known?"
        label = f"{label}, {job['runs'][0]}".replace('"', "'")
        lines.append(f'  {job["key"]}["{label}"]' + ("" if job["to_do"] else ":::published"))
        lines += [f"  {need} --> {job['key']}" for need in job["needs"]]
    return "\n".join([*lines, "  classDef published stroke-dasharray: 4"])
