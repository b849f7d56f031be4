"""What a sweep came to, at its end: its arms side by side, and over seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remix_toolkit.console import info
from remix_toolkit.graph.sweep import Sweep
from remix_toolkit.records import RunRecord
from remix_toolkit.report.retention import print_arms


def print_sweep(
    declared: Sweep, records: Sequence[RunRecord], entries: Sequence[dict[str, Any]], plot: Path | None
) -> None:
    """The tables of a sweep's runs, and the plot of its arms if one is asked for."""
    runs = {(record.recipe, record.arm, record.keys[-1]) for record in records}
    rows = [entry for entry in entries if (entry["recipe"], entry["arm"], entry["run"]) in runs]
    order = list(dict.fromkeys(record.arm for record in records))
    rows.sort(key=lambda entry: order.index(entry["arm"]))
    if not rows:
        return
    print_arms(rows, declared.paper)
    seeds: dict[tuple[str, str, str], set[int]] = {}
    for record in records:
        seeds.setdefault((record.recipe, record.arm, record.profile), set()).add(record.seed)
    if max(map(len, seeds.values())) > 1:
        from remix_toolkit.report.seeds import print_seeds

        print_seeds(rows, seeds)
    if plot:
        from remix_toolkit.report.plot import plot_arms

        plot_arms(rows, plot)
        info(f"plot: {plot}")
