"""What a person sees of a sweep: a live table on a terminal, a line for each stage elsewhere."""

import sys
import time
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from remix_toolkit.console import format_duration, info
from remix_toolkit.launch.state import Entry, State


class Screen:
    """Shows a state; `done` and `whole` are in units of work, from which the time that is left is estimated."""

    def __init__(self, state: State, whole: float) -> None:
        self.state, self.whole, self.done = state, whole, 0.0
        self.started = time.monotonic()
        self.live = Live(auto_refresh=False) if sys.stdout.isatty() else None
        if self.live:
            self.live.start()

    def line(self, key: str, text: str) -> None:
        """A running job said something."""
        self.state.jobs[key].said = text
        self._draw()

    def ended(self, key: str, work: float) -> None:
        """A job is done or failed."""
        entry = self.state.jobs[key]
        self.done += work
        if self.live is None:
            counts = self.state.count()
            over = counts["done"] + counts["failed"] + counts["left out"]
            info(f"[{over}/{len(self.state.jobs)}] {named(entry)}: {entry.state}: {entry.said}{self._left()}")
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
        counts = ", ".join(f"{n} {kind}" for kind, n in self.state.count().items())
        table = Table(box=None, show_header=False)
        for entry in self.state.jobs.values():
            if entry.state in ("running", "failed"):
                style = "red" if entry.state == "failed" else ""
                table.add_row(
                    entry.state, named(entry), Text(entry.said, overflow="ellipsis", no_wrap=True), style=style
                )
        parts: list[Any] = [Text(f"{self.state.id}: {counts}{self._left()}", style="bold"), table]
        self.live.update(Group(*parts), refresh=True)


def named(entry: Entry) -> str:
    """`stage1 (random / -, seed 0, and 8 more runs)`."""
    more = f", and {len(entry.runs) - 1} more runs" if len(entry.runs) > 1 else ""
    return f"{entry.name} ({entry.runs[0]}{more})"
