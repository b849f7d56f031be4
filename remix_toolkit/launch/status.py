"""How far a sweep is: on the screen while it runs, and `--status` and `--cancel` from another terminal."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from remix_toolkit.console import format_duration, info
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph.sweep_state import Command, SweepState
from remix_toolkit.launch.state import is_alive, last_line, load


class Screen:
    """A line for each job that ends and, on a terminal, below them those that run.

    `work` is each job's share of the whole, from which the time that is left is estimated, once a stage is trained:
    what the base knows, and measurements, may be in the store already and take no time.
    """

    def __init__(self, state: SweepState, folder: Path, work: dict[str, float]) -> None:
        self.state, self.folder, self.work = state, folder, work
        self.done, self.started = 0.0, time.monotonic()
        console = Console(force_jupyter=False, markup=False)
        self.live = Live(get_renderable=self._running, console=console, refresh_per_second=2, transient=True)

    def show_end(self, key: str) -> None:
        """A job is done or failed, or is left out."""
        job, counts = self.state.jobs[key], self.state.count()
        self.done += self.work[key]
        over = counts["done"] + counts["failed"] + counts["left out"]
        message = f": {job.message}" if job.message else ""
        info(f"[{over}/{len(self.state.jobs)}] {job.title}: {job.status}{message}{self._left()}")

    def _left(self) -> str:
        left = sum(self.work.values()) - self.done
        trained = [self.state.jobs[key].status == "done" for key in self.work if self.state.jobs[key].kind == "train"]
        if not self.done or left <= 0 or (trained and not any(trained)):
            return ""
        return f"; about {format_duration((time.monotonic() - self.started) / self.done * left)} left"

    def _running(self) -> Group:
        counts = ", ".join(f"{n} {status}" for status, n in self.state.count().items())
        table = Table(box=None, show_header=False)
        for key, job in self.state.jobs.items():
            if job.status == "running":
                table.add_row(job.title, Text(last_line(self.folder, key), overflow="ellipsis", no_wrap=True))
        return Group(Text(f"{self.state.id}: {counts}{self._left()}", style="bold"), table)


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
        for key, job in state.jobs.items():
            if job.status in ("running", "failed"):
                info(f"  {job.status}: {job.title}: {job.message or last_line(folder, key)}")
        waiting = [job for job in state.jobs.values() if job.status == "waiting"]
        if state.launcher == "slurm" and waiting and not any(job.is_queued for job in state.jobs.values()):
            reason = next((f" ({job.message})" for job in waiting if job.message), "")
            info(f"  none of its jobs is with SLURM{reason}: the same command without --status goes on")


def stop(command: Command, runs: Path) -> None:
    """Stop the sweep; what is trained so far stays, and the same command goes on from the last checkpoints."""
    for folder, state in _states(command, runs):
        if state.launcher == "slurm":
            from remix_toolkit.launch.slurm import cancel

            info(f"{folder.name}: {cancel(folder)} jobs taken off SLURM's queue")
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
    folders = [f for f in sorted((runs / "sweeps").glob(f"{command.id}*")) if os.path.lexists(f / "state.json")]
    if not folders:
        raise BadInput(f"{command.sweep}: was not begun in {runs} with these settings")
    for folder in folders:
        state = load(folder)
        if state.launcher == "slurm":
            from remix_toolkit.launch.slurm import refresh

            state = refresh(folder)
        yield folder, state
