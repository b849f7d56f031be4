"""`remix sweep --status` and `--cancel`: how far a sweep is, and how to stop it, from another terminal."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from remix_toolkit.console import info
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.launch.screen import named
from remix_toolkit.launch.state import Command, State, is_alive, load


def tell(command: Command, runs: Path) -> None:
    """Say how far the sweep is, wherever it runs."""
    for folder, state in _states(command, runs):
        here = is_alive(folder)
        if state.launcher == "local" and not here:
            state.stopped()  # a killed one had no time to say so
        counts = ", ".join(f"{n} {kind}" for kind, n in state.count().items())
        how = "with SLURM" if state.launcher == "slurm" else f"runs, process {state.pid}" if here else "does not run"
        info(f"{folder.name}: {how}: {counts}")
        for entry in state.jobs.values():
            if entry.state in ("running", "failed"):
                info(f"  {entry.state}: {named(entry)}: {entry.said}")


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
                raise RunFailed(f"{folder.name}: process {state.pid} is not there any more; look at --status") from None
            info(f"{folder.name}: process {state.pid} is told to stop")


def _states(command: Command, runs: Path) -> Iterator[tuple[Path, State]]:
    folders = sorted((runs / "sweeps").glob(f"{command.id}*"))
    found = [folder for folder in folders if (folder / "state.json").exists()]
    if not found:
        raise BadInput(f"{command.sweep}: was not begun in {runs} with these settings")
    for folder in found:
        state = load(folder)
        if state.launcher == "slurm":
            from remix_toolkit.launch.slurm import refresh

            state = refresh(folder, runs)
        yield folder, state
