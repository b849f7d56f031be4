"""What a sweep found, at its end: its arms side by side, and over seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remix_toolkit.console import info
from remix_toolkit.graph.sweep import Cell, Sweep
from remix_toolkit.report.retention import print_arms


def print_sweep(
    declared: Sweep, cells: Sequence[Cell], runs: Sequence[str], entries: Sequence[dict[str, Any]], plot: Path | None
) -> None:
    """The tables of a sweep's runs (their ids, cell by cell), and the plot of its arms if one is wanted."""
    mine = {(run, cell.arm) for run, cell in zip(runs, cells, strict=True)}
    name = cells[0].recipe.name
    found = [entry for entry in entries if entry["recipe"] == name and (entry["run"], entry["arm"]) in mine]
    order = list(dict.fromkeys(cell.arm for cell in cells))
    found.sort(key=lambda entry: order.index(entry["arm"]))
    if not found:
        return
    print_arms(found, declared.paper)
    seeds: dict[tuple[str, str, str], set[int]] = {}
    for cell in cells:
        seeds.setdefault((name, cell.arm, cell.recipe.profile), set()).add(cell.recipe.seed)
    if max(map(len, seeds.values())) > 1:
        from remix_toolkit.report.seeds import print_seeds

        print_seeds(found, seeds)
    if plot:
        from remix_toolkit.report.plot import plot_arms

        plot_arms(found, plot)
        info(f"plot: {plot}")
