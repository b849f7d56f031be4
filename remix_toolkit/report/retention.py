"""The retention matrix: stages as rows, tasks as columns, recall in percent."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from remix_toolkit.console import warn
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.measurements import MEASUREMENTS
from remix_toolkit.graph.memory import GB
from remix_toolkit.records import StageRecord
from remix_toolkit.report.results import numbers

FLOOR = 99.0  # the paper's premise: a stage ends at 100% recall of its own facts (section 2.1)


def print_matrices(entries: Sequence[dict[str, Any]]) -> None:
    """One matrix per run. A stage under 99% on its own facts is flagged: nothing below it can be read as forgetting."""
    console = Console(width=None if Console().is_terminal else 120)
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for entry in entries:
        run = (entry["recipe"], entry["arm"], entry["profile"], entry["seed"], tuple(entry["overrides"]), entry["run"])
        runs.setdefault(run, []).append(entry)
    for (recipe, arm, profile, seed, overrides, _), rows in runs.items():
        title = f"{recipe}" + (f", arm {arm}" if arm != recipe else "") + f" on {profile}, seed {seed}"
        console.print(matrix(rows, " ".join([title, *overrides])))
        for line in ties_and_memory(rows):
            console.print(line, markup=False, highlight=False)


def matrix(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """One run's recall after each stage."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    table = Table(title=escape(title), caption="recall in percent after each stage", title_justify="left")
    table.add_column("after")
    for task in tasks:
        table.add_column(task, justify="right")
    others = {row["stage"]: beside(Path(row["path"])) for row in rows}
    more = list(dict.fromkeys(name for values in others.values() for name in values))
    for name in more:
        table.add_column(name, justify="right")
    table.add_column("model")
    for stage in dict.fromkeys(row["stage"] for row in rows):
        cells = {row["task"]: row for row in rows if row["stage"] == stage}
        own = next((row for row in cells.values() if row["own"]), None)
        table.add_row(
            stage,
            *(_cell(cells[task], 1) if task in cells else "-" for task in tasks),
            *(f"{others[stage][name]:.4g}" if name in others[stage] else "-" for name in more),
            next(iter(cells.values()))["path"],
        )
        if own and (low := own["recall"]) is not None and low < FLOOR:
            table.caption = f"{table.caption}\n{premise(stage, f'{low:.1f}%')}"
    return table


def beside(folder: Path) -> dict[str, float]:
    """What else was measured of a published stage, as `numbers` has it; a file that is damaged is warned of.

    Perplexity only where the base was pretrained: of one with random weights it has nothing to be compared with.
    """
    pretrained = "tiny" not in StageRecord.read(folder / "stage.json").declaration["base"]
    values: dict[str, float] = {}
    for measurement in MEASUREMENTS:
        if measurement.name == "lm_eval" or (measurement.name == "perplexity" and pretrained):
            try:
                results = {item: result.model_dump() for item, result in measurement.read(folder).items()}
                values |= numbers({measurement.name: results})
            except BadInput as error:
                warn(f"{error}: left out")
    return values


def ties_and_memory(entries: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each stage: how many answers were near ties, and the most memory of a device, in GB; if any is known.

    `entries` as `store.entries` has them.
    """
    lines = []
    for stage in dict.fromkeys(entry["stage"] for entry in entries):
        rows = {(e["key"], e["task"]): e for e in entries if e["stage"] == stage}.values()  # runs share stages
        ties = sum(row["near_ties"] for row in rows)
        parts = [f"{ties:,} of {sum(row['facts'] for row in rows):,} answers were near ties"] if ties else []
        for name, what in (("memory_estimated", "estimated"), ("memory_peak", "at the peak")):
            if known := [row[name] for row in rows if row[name] is not None]:
                parts.append(f"{gigabytes(max(known))} GB of memory {what}")
        lines += [f"{stage}: {', '.join(parts)}"] if parts else []
    return lines


def gigabytes(size: int | None) -> str:
    """Bytes in GB with three digits; a dash where they are not known."""
    return "-" if size is None else f"{size / GB:.3g}"


def premise(stage: str, known: str) -> str:
    """In words: a stage knows only so much of its own facts; nothing below that can be read as forgetting."""
    return f"{stage} knows only {known} of its own facts (100% is the premise)"


def _cell(row: dict[str, Any], digits: int) -> str:
    """Recall in percent; of an instruction task, the loss on held-out rows and, where there is one, the accuracy."""
    if row["recall"] is not None:
        return f"{row['recall']:.{digits}f}"
    right = row["held_out"]["accuracy"]
    return f"loss {row['held_out']['loss']:.2f}" + ("" if right is None else f", {right:.0f}% right")


def remembered(entries: Sequence[dict[str, Any]]) -> list[str]:
    """The tasks whose recall after the last stage says what was kept: the first stage's own, and what is only measured.

    Several are the first stage's own where arms begin with different ones. Of a single stage, its own facts say
    nothing: it has only just learnt them.
    """
    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    lists = {entry["list"] for entry in entries if entry["own"] and entry["recall"] is not None}
    own = [e["task"] for e in entries if e["stage"] == stages[0] and e["own"] and e["recall"] is not None]
    last = [entry for entry in entries if entry["stage"] == stages[-1] and entry["recall"] is not None]
    measured = list(dict.fromkeys(entry["task"] for entry in last if entry["list"] not in lists))
    return list(dict.fromkeys([*(own if len(stages) > 1 or not measured else []), *measured]))


def print_arms(entries: Sequence[dict[str, Any]], paper: Mapping[str, float]) -> None:
    """Arms as rows, recall after each stage as columns; several seeds stand beside one another, in order.

    `paper` is what the paper prints for an arm: recall of the first stage's facts after the last stage. Where two arms
    are in another order here, that is said.
    """
    console = Console(width=None if Console().is_terminal else 120)
    columns = list(dict.fromkeys((row["stage"], row["task"]) for row in entries))
    seeds = sorted({row["seed"] for row in entries})
    many = f"seeds {', '.join(map(str, seeds))} beside one another" if len(seeds) > 1 else f"seed {seeds[0]}"
    table = Table(title=f"{entries[0]['recipe']} on {entries[0]['profile']}: recall in percent, {many}")
    table.add_column("arm")
    (first, task), last = columns[0], columns[-1][0]
    table.add_column(f"{first} steps", justify="right")
    for stage, column in columns:
        table.add_column(f"{column} after {stage}", justify="right")
    if paper:
        table.add_column(f"the paper's {task} after {last}", justify="right")
    kept: dict[str, float] = {}
    for arm in dict.fromkeys(row["arm"] for row in entries):
        of_arm = sorted((row for row in entries if row["arm"] == arm), key=lambda row: row["seed"])
        cells = {at: [r for r in of_arm if (r["stage"], r["task"]) == at] for at in columns}
        steps = dict.fromkeys(str(row["steps"]) for row in of_arm if row["stage"] == first)
        shown = [", ".join(_cell(row, 0) for row in rows) or "-" for rows in cells.values()]
        table.add_row(arm, ", ".join(steps), *shown, *([str(paper.get(arm, "-"))] if paper else []))
        if final := [row["recall"] for row in cells.get((last, task), []) if row["recall"] is not None]:
            kept[arm] = sum(final) / len(final)
    console.print(table)
    for row in entries:
        if row["own"] and row["recall"] is not None and row["recall"] < FLOOR:
            low = premise(row["stage"], f"{row['recall']:.1f}%")
            console.print(f"{row['arm']}, seed {row['seed']}: {low}")
    for a, b in combinations([arm for arm in kept if arm in paper], 2):
        if (paper[a] - paper[b]) * (kept[a] - kept[b]) < 0:
            console.print(
                f"Not as in the paper: there {a} keeps {paper[a]} and {b} {paper[b]}, "
                f"here {kept[a]:.0f} and {kept[b]:.0f}",
                highlight=False,
            )
