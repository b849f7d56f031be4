"""Plots of what was found."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remix_toolkit.errors import BadInput
from remix_toolkit.report.retention import remembered


def plot_arms(entries: Sequence[dict[str, Any]], file: Path) -> None:
    """Recall of the facts to remember after the first and after the last stage, a pair of bars per arm.

    A bar is the mean over seeds; each seed is a dot.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    task = (remembered(entries) or [entries[0]["task"]])[0]
    arms = list(dict.fromkeys(entry["arm"] for entry in entries))
    figure, axes = plt.subplots(figsize=(1.5 + 1.1 * len(arms), 3.6), layout="constrained")
    for offset, (stage, color) in enumerate({stages[0]: "#c9d1d9", stages[-1]: "#1f6f8b"}.items()):
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


def plot_curves(entries: Sequence[dict[str, Any]], file: Path) -> None:
    """Recall of the first stage's facts while each later stage trained: a panel per stage, a colour per arm.

    A thin line is a seed, the thick one the mean over seeds. Raises BadInput where no stage has a retention curve.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if len(found := sorted({f"{entry['recipe']} on {entry['profile']}" for entry in entries})) > 1:
        raise BadInput(f"curves of {', '.join(found)} cannot be told apart in one plot; say --recipe NAME")
    first = entries[0]["stage"]
    facts = {entry["list"] for entry in entries if entry["stage"] == first and entry["own"]}
    curves: dict[str, dict[str, dict[int, list[tuple[float, float]]]]] = {}  # stage -> arm -> seed -> points
    for entry in entries:
        written = Path(entry["path"], "retention.jsonl")
        if not written.exists():
            continue
        lines = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]
        points = [(line["epoch"], line["recall"]) for line in lines if line["list"] in facts]
        curves.setdefault(entry["stage"], {}).setdefault(entry["arm"], {})[entry["seed"]] = points
    if not curves:
        raise BadInput(
            "no stage has a retention curve; say `curve: {epochs: 1}` in a later stage, before it is trained"
        )
    size = (1.5 + 4 * len(curves), 3.6)
    figure, panels = plt.subplots(1, len(curves), figsize=size, sharey=True, squeeze=False, layout="constrained")
    arms = list(dict.fromkeys(arm for by_arm in curves.values() for arm in by_arm))
    shades = plt.get_cmap("viridis")([0.85 * i / max(len(arms) - 1, 1) for i in range(len(arms))])
    colors = dict(zip(arms, shades, strict=True))
    for panel, (stage, by_arm) in zip(panels[0], curves.items(), strict=True):
        for arm, by_seed in by_arm.items():
            for points in by_seed.values():
                panel.plot(*zip(*points, strict=True), color=colors[arm], linewidth=0.6)
            epochs = [epoch for epoch, _ in min(by_seed.values(), key=len)]
            columns = zip(*(points[: len(epochs)] for points in by_seed.values()), strict=True)
            means = [sum(recall for _, recall in column) / len(column) for column in columns]
            panel.plot(epochs, means, color=colors[arm], linewidth=2, label=arm)
        panel.set_xlabel(f"epochs of {stage}")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel(f"recall of {first}'s facts (%)")
    panels[0][0].set_ylim(0, 102)
    panels[0][-1].legend(frameon=False, fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    plt.close(figure)
