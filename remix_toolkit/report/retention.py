"""The retention matrix: stages as rows, tasks as columns, recall in percent."""

from collections.abc import Sequence
from typing import Any

from remix_toolkit.graph.memory import GB

FLOOR = 99.0  # the paper's premise: a stage ends at 100% recall of its own facts (section 2.1)


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
