"""`remix sweep --status` and `--cancel`: how far a sweep is, and how to stop it, from another terminal."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from remix_toolkit.console import info
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.launch.state import Command, SweepState, is_alive, load


def show_status(command: Command, runs: Path) -> None:
    """Print how far the sweep is, wherever it runs."""
    for folder, state in _states(command, runs):
        alive = is_alive(folder)
        if state.launcher == "local" and not alive:
            state.interrupt()  # a sweep that was killed had no time to write that down
        counts = ", ".join(f"{n} {status}" for status, n in state.count().items())
        local = f"runs, process {state.pid}" if alive else "does not run"
        where = "with SLURM" if state.launcher == "slurm" else local
        info(f"{folder.name}: {where}: {counts}")
        for job in state.jobs.values():
            if job.status in ("running", "failed"):
                info(f"  {job.status}: {job.title}: {job.message}")


def stop(command: Command, runs: Path) -> None:
    """Stop the sweep; what is trained so far stays, and the same command goes on from the last checkpoints."""
    for folder, state in _states(command, runs):
        if state.launcher == "slurm":
            from remix_toolkit.launch.slurm import cancel

            info(f"{folder.name}: {cancel(folder, state)} jobs taken off SLURM's queue")
        elif not is_alive(folder):
            info(f"{folder.name}: does not run")
        elif state.host != socket.gethostname():
            raise BadInput(f"{folder.name}: runs on {state.host}, process {state.pid}: stop it there")
        else:
            try:
                os.kill(state.pid, signal.SIGTERM)
            except ProcessLookupError:  # it ends this moment, or another has only just begun
                raise RunFailed(f"{folder.name}: process {state.pid} is gone; look at --status") from None
            info(f"{folder.name}: asked process {state.pid} to stop")


def _states(command: Command, runs: Path) -> Iterator[tuple[Path, SweepState]]:
    folders = [f for f in sorted((runs / "sweeps").glob(f"{command.id}*")) if (f / "state.json").exists()]
    if not folders:
        raise BadInput(f"{command.sweep}: was not begun in {runs} with these settings")
    for folder in folders:
        state = load(folder)
        if state.launcher == "slurm":
            from remix_toolkit.launch.slurm import refresh

            state = refresh(folder)
        yield folder, state
