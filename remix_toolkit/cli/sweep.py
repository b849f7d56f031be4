"""`remix sweep`: a recipe under every arm and seed, on this machine or on a cluster."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from remix_toolkit.cli.options import JobsAtOnce, Overrides, Runs, Seeds, SweepArg, SweepProfile
from remix_toolkit.cli.output import check_plot_file
from remix_toolkit.errors import BadInput, RunFailed

if TYPE_CHECKING:
    from remix_toolkit.graph.sweep import Sweep
    from remix_toolkit.records import RunRecord

commands = typer.Typer()


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
    launcher: Annotated[Literal["local", "slurm"], typer.Option(help="slurm: hand all jobs to a cluster")] = "local",
    slurm: Annotated[Path | None, typer.Option(help="a YAML file of sbatch's options")] = None,
    status: Annotated[bool, typer.Option("--status", help="only say how far this sweep is")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="only stop this sweep, wherever it runs")] = False,
) -> None:
    """Run a recipe under every arm and seed of a sweep; a stage that runs share is trained once."""
    if slurm and launcher != "slurm":
        raise BadInput("--slurm needs --launcher slurm: its file says how jobs are handed to a cluster")
    if launcher == "slurm" and plot:
        raise BadInput("--plot is for --launcher local, which draws what a cluster has published, too")
    check_plot_file(plot, "--plot")
    from remix_toolkit.graph.sweep_state import Command

    command = Command(sweep=sweep, profile=profile, seeds=seed, overrides=overrides or [])
    if status or cancel:
        from remix_toolkit.launch.status import show_status, stop

        return stop(command, runs) if cancel else show_status(command, runs)
    from remix_toolkit.api import begin_sweep
    from remix_toolkit.graph.sweep import parse_keep
    from remix_toolkit.launch.sweep import failures, run_sweep

    declared, cells, records = begin_sweep(command, runs, parse_keep(keep) if keep else None, f"--keep {keep}")
    if retrain_damaged:
        from remix_toolkit.cli.store import verify

        verify(runs, remove=True, keys={key for cell in cells for node in cell.nodes for key in node.keys})
    if launcher == "slurm":
        from remix_toolkit.launch.slurm import submit

        state = submit(command, cells, declared.keep, runs, slurm, jobs)
        queued = sum(job.is_queued for job in state.jobs.values())
        waiting = state.count()["waiting"] + state.count()["running"] - queued
        typer.echo(
            f"{queued} jobs are with SLURM, {waiting} wait for them; the same command with --status says how far"
        )
        return
    state = run_sweep(command, cells, declared.keep, runs, jobs)
    print_sweep(declared, records, runs, plot)
    if failed := failures(state):
        raise RunFailed(failed)


def print_sweep(declared: "Sweep", records: Sequence["RunRecord"], runs: Path, plot: Path | None) -> None:
    """What a sweep came to: its arms side by side, over seeds, and the plot of its arms if one is asked for."""
    from remix_toolkit.report import screen
    from remix_toolkit.report.frame import load

    frame = load(runs, records=records)
    if frame.measured.empty:
        return
    screen.print_seeds(frame, declared.paper)
    if plot:
        from remix_toolkit.report.figures import plot_arms

        plot_arms(frame, plot)
        typer.echo(f"plot: {plot}")
    screen.print_shown(frame, declared.paper)
    typer.echo(f"all of it on one page: remix report {shlex.quote(str(runs))} --open")
