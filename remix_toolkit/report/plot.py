"""Plots of what was found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_arms(entries: Sequence[dict[str, Any]], file: Path) -> None:
    """Recall of the first stage's facts after the first and after the last stage, a pair of bars per arm.

    A bar is the mean over seeds; each seed is a dot.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    task = next(entry["task"] for entry in entries if entry["stage"] == stages[0])
    arms = list(dict.fromkeys(entry["arm"] for entry in entries))
    figure, axes = plt.subplots(figsize=(1.5 + 1.1 * len(arms), 3.6), layout="constrained")
    for offset, (stage, color) in enumerate(zip((stages[0], stages[-1]), ("#c9d1d9", "#1f6f8b"), strict=True)):
        for x, arm in enumerate(arms):
            recalls = [e["recall"] for e in entries if (e["arm"], e["stage"], e["task"]) == (arm, stage, task)]
            if recalls:
                place, mean = x + 0.4 * offset - 0.2, sum(recalls) / len(recalls)
                axes.bar(place, mean, 0.38, color=color, label=f"after {stage}" if x == 0 else None)
                axes.annotate(f"{mean:.0f}", (place, mean), (0, 3), textcoords="offset points", ha="center", fontsize=8)
                axes.plot([place] * len(recalls), recalls, "o", color="black", markersize=2.5)
    axes.set_xticks(range(len(arms)), arms)
    axes.set_ylabel(f"recall of {task} (%)")
    axes.set_ylim(0, 112)
    axes.spines[["top", "right"]].set_visible(False)
    seeds = sorted({entry["seed"] for entry in entries})
    which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    axes.set_title(f"{entries[0]['recipe']} on {entries[0]['profile']}, {which}", fontsize=10)
    axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    plt.close(figure)
