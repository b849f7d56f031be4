"""What a person sees of a sweep: a live table on a terminal, a line for each job elsewhere."""

import sys
import time
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from remix_toolkit.console import format_duration, info
from remix_toolkit.launch.state import SweepState


class Screen:
    """Shows a state; `done` and `whole` are in units of work, from which the time that is left is estimated."""

    def __init__(self, state: SweepState, whole: float) -> None:
        self.state, self.whole, self.done = state, whole, 0.0
        self.started = time.monotonic()
        self.live = Live(auto_refresh=False) if sys.stdout.isatty() else None
        if self.live:
            self.live.start()

    def show_line(self, key: str, text: str) -> None:
        """A running job printed a line."""
        self.state.jobs[key].message = text
        self._draw()

    def show_end(self, key: str, work: float) -> None:
        """A job is done or failed, or is left out."""
        job = self.state.jobs[key]
        self.done += work
        if self.live is None:
            counts = self.state.count()
            over = counts["done"] + counts["failed"] + counts["left out"]
            message = f": {job.message}" if job.message else ""
            info(f"[{over}/{len(self.state.jobs)}] {job.title}: {job.status}{message}{self._left()}")
        self._draw()

    def note(self, text: str) -> None:
        """Something else worth a line."""
        if self.live:
            self.live.console.print(text, highlight=False, markup=False)
        else:
            info(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.live:
            self.live.stop()

    def _left(self) -> str:
        if not self.done or self.done >= self.whole:
            return ""
        left = (time.monotonic() - self.started) / self.done * (self.whole - self.done)
        return f"; about {format_duration(left)} left"

    def _draw(self) -> None:
        if self.live is None:
            return
        counts = ", ".join(f"{n} {status}" for status, n in self.state.count().items())
        table = Table(box=None, show_header=False)
        for job in self.state.jobs.values():
            if job.status in ("running", "failed"):
                message = Text(job.message, overflow="ellipsis", no_wrap=True)
                table.add_row(job.status, job.title, message, style="red" if job.status == "failed" else "")
        parts: list[Any] = [Text(f"{self.state.id}: {counts}{self._left()}", style="bold"), table]
        self.live.update(Group(*parts), refresh=True)
