"""`remix plan` and `remix sweep`: what a sweep will cost, and running it here or on a cluster."""

import json
from pathlib import Path
from typing import Annotated

import typer

from remix_toolkit.cli.options import JobsAtOnce, Json, Overrides, Runs, Seeds, SweepArg, SweepProfile, check_plot_file
from remix_toolkit.errors import BadInput, RunFailed

commands = typer.Typer()


@commands.command()
def plan(
    sweep: SweepArg,
    overrides: Overrides = None,
    profile: SweepProfile = None,
    seed: Seeds = None,
    runs: Runs = Path("runs"),
    jobs: JobsAtOnce = None,
    utilization: Annotated[float, typer.Option(min=0.01, max=1, help="of the GPUs' peak, for the hours")] = 0.4,
    tflops: Annotated[float, typer.Option(min=0.001, help="a GPU's peak; an H100's is the default")] = 989.0,
    graph: Annotated[str | None, typer.Option(help="print the graph of stages: mermaid")] = None,
    as_json: Json = False,
) -> None:
    """What a sweep will train, once, and what that costs: nothing is loaded."""
    if graph not in (None, "mermaid"):
        raise BadInput(f"--graph {graph}: mermaid")
    from time import perf_counter

    from remix_toolkit.cli.print_plan import draw, print_plan
    from remix_toolkit.data.missing_files import absent_sources
    from remix_toolkit.graph.plan import plan as make
    from remix_toolkit.graph.sweep import load_sweep

    started = perf_counter()
    declared, cells = load_sweep(sweep, profile, seed, overrides)
    made = make(cells, declared.keep, runs, jobs or 1, utilization, tflops)
    absent = absent_sources(stage for cell in cells for stage in cell.recipe.stages.values())
    made |= {"absent": sorted(absent), "seconds": round(perf_counter() - started, 3)}
    if graph:
        typer.echo(draw(made))
    elif as_json:
        typer.echo(json.dumps(made, indent=1))
    else:
        print_plan(made)


@commands.command()
def sweep(
    sweep: SweepArg,
    overrides: Overrides = None,
    profile: SweepProfile = None,
    seed: Seeds = None,
    runs: Runs = Path("runs"),
    jobs: JobsAtOnce = None,
    keep: Annotated[str | None, typer.Option(help="all, leaves, none, or stages' names: whose weights stay")] = None,
    plot: Annotated[Path | None, typer.Option(help="draw the arms into this .png or .pdf")] = None,
    retrain_damaged: Annotated[
        bool, typer.Option("--retrain-damaged", help="train a stage again whose files are not what was published")
    ] = False,
    launcher: Annotated[str, typer.Option(help="local, or slurm: hand all jobs to a cluster")] = "local",
    slurm: Annotated[Path | None, typer.Option(help="a YAML file of sbatch's options")] = None,
    status: Annotated[bool, typer.Option("--status", help="only say how far this sweep is")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="only stop this sweep, wherever it runs")] = False,
) -> None:
    """Run a recipe under every arm and seed of a sweep; a stage that runs share is trained once."""
    if launcher not in ("local", "slurm"):
        raise BadInput(f"--launcher {launcher}: local or slurm")
    if slurm and launcher != "slurm":
        raise BadInput("--slurm needs --launcher slurm: its file says how jobs are handed to a cluster")
    if launcher == "slurm" and (jobs or plot):
        raise BadInput("--jobs and --plot are for --launcher local, which draws what a cluster has published, too")
    check_plot_file(plot, "--plot")
    from remix_toolkit.launch.state import Command

    command = Command(sweep=sweep, profile=profile, seeds=seed, overrides=overrides or [])
    if status or cancel:
        from remix_toolkit.launch.status import show_status, stop

        return stop(command, runs) if cancel else show_status(command, runs)
    from remix_toolkit import store
    from remix_toolkit.api import begin_sweep
    from remix_toolkit.graph.sweep import parse_keep
    from remix_toolkit.launch.sweep import failures, run_sweep

    declared, cells, records = begin_sweep(command, runs, parse_keep(keep) if keep else None, f"--keep {keep}")
    if retrain_damaged:
        from remix_toolkit.cli.print_store import verify

        verify(runs, remove=True, keys={node.key for cell in cells for node in cell.nodes})
    if launcher == "slurm":
        from remix_toolkit.launch.slurm import submit

        queued = sum(bool(job.job_id) for job in submit(command, cells, declared.keep, runs, slurm).jobs.values())
        return typer.echo(f"{queued} jobs are with SLURM; the same command with --status says how far they are")
    state = run_sweep(command, cells, declared.keep, runs, jobs)
    from remix_toolkit.cli.print_sweep import print_sweep

    print_sweep(declared, records, store.entries(runs), plot)
    if failed := failures(state):
        raise RunFailed(failed)
