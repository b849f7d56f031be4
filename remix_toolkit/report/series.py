"""What is drawn as lines: retention curves and losses, read from the stages' folders."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from remix_toolkit.errors import BadInput
from remix_toolkit.records import RetentionPoint, read_rows

Points = list[tuple[float, float]]
Panels = dict[str, dict[str, dict[int, Points]]]  # stage -> arm -> seed -> points
DRAWN = 150  # points of a line, at most


def _warn(text: str) -> object:
    raise BadInput(text)


def curves(entries: Sequence[dict[str, Any]], warn: Callable[[str], object] = _warn) -> Panels:
    """Epochs and recall in percent of the first stage's facts, of every later stage that has a retention.jsonl.

    A file that cannot be read is handed to `warn`; by itself that raises BadInput.
    """
    first = entries[0]["stage"]
    facts = {entry["list"] for entry in entries if entry["stage"] == first and entry["own"] and entry.get("list")}
    panels: Panels = {}
    for stage, arm, seed, folder in folders(entries):
        try:
            points = [point for id_, curve in read_curves(folder).items() if id_ in facts for point in curve]
        except BadInput as error:
            warn(f"{error}: left out of the retention curves")
            continue
        if points:
            panels.setdefault(stage, {}).setdefault(arm, {})[seed] = points
    return panels


def losses(entries: Sequence[dict[str, Any]], warn: Callable[[str], object] = _warn) -> Panels:
    """Optimizer steps and training loss of every stage, thinned to means over as many steps as can be drawn.

    A loss that is no number is left out and handed to `warn`, as is a file that cannot be read.
    """
    panels: Panels = {}
    for stage, arm, seed, folder in folders(entries):
        try:
            points = read_losses(folder / "loss.csv")
        except BadInput as error:
            warn(f"{error}: left out of the losses")
            continue
        sound = [point for point in points if math.isfinite(point[1])]
        if len(sound) < len(points):
            at = next(int(step) for step, loss in points if not math.isfinite(loss))
            many = len(points) - len(sound)
            warn(f"{arm}, seed {seed}: the loss of {stage} is no number at {many} steps, first at step {at}")
        if sound:
            panels.setdefault(stage, {}).setdefault(arm, {})[seed] = sound
    for by_arm in panels.values():
        longest = max(len(points) for by_seed in by_arm.values() for points in by_seed.values())
        many = -(-longest // DRAWN)
        for by_seed in by_arm.values():
            for seed, points in by_seed.items():
                by_seed[seed] = _thinned(points, many)
    return panels


def read_losses(file: Path) -> Points:
    """Optimizer step and loss, which may be no number, of a loss.csv. Raises BadInput where it cannot be read."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            names, *rows = csv.reader(lines)
        step_at, loss_at = names.index("step"), names.index("loss")
        return [(float(row[step_at]), float(row[loss_at])) for row in rows]
    except (OSError, ValueError, IndexError) as error:
        raise BadInput(f"{file}: cannot be read ({type(error).__name__}: {error})") from None


def read_curves(folder: Path) -> dict[str, Points]:
    """List of facts -> epochs and recall in percent, where the stage has a retention.jsonl. Raises BadInput."""
    points_by_list: dict[str, Points] = {}
    for point in read_rows(folder / "retention.jsonl", RetentionPoint):
        points_by_list.setdefault(point.list, []).append((point.epoch, point.recall))
    return points_by_list


def folders(entries: Sequence[dict[str, Any]]) -> list[tuple[str, str, int, Path]]:
    """Stage, arm, seed and folder of each published stage, the newest where a seed was run twice."""
    newest = {(entry["stage"], entry["arm"], entry["seed"]): Path(entry["path"]) for entry in entries}
    return [(*at, folder) for at, folder in newest.items()]


def over_seeds(by_seed: Mapping[int, Points]) -> Points:
    """The mean over seeds, wherever all of them have a point; empty where they share none."""
    each = [dict(points) for points in by_seed.values()]
    shared = [x for x in each[0] if all(x in points for points in each)]
    return [(x, sum(points[x] for points in each) / len(each)) for x in shared]


def _thinned(points: Points, many: int) -> Points:
    parts = [points[i : i + many] for i in range(0, len(points), many)]
    return [(part[0][0], sum(loss for _, loss in part) / len(part)) for part in parts]
