"""Plots of what was found, made to be read in light and in dark, in print, and without colours."""

import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remix_toolkit.errors import BadInput
from remix_toolkit.report.retention import remembered
from remix_toolkit.report.series import Panels, curves, over_seeds
from remix_toolkit.report.tables import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Entry = dict[str, Any]

INK, MUTED, RULE, ACCENT = "#1f2430", "#667085", "#d9dde3", "#0072b2"
# Okabe and Ito's colours, told apart by colour-blind readers too, without yellow, which is lost on white.
COLORS = (ACCENT, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", MUTED)
STYLES = ("-", "--", ":", "-.")
PAPER = "#ffffff"
DARK = {
    PAPER: "#14171c",
    INK: "#e6e8ec",
    MUTED: "#98a2b3",
    RULE: "#343a46",
    ACCENT: "#3a8fd4",
    "#56b4e9": "#a3d8f6",
    "#d55e00": "#f0803c",
    "#009e73": "#2fc79b",
}
WIDTH = 6.8  # inches
CROWDED = 10  # arms, beyond which lines of single seeds cannot be told apart

STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "text.parse_math": False,  # an arm's name may hold a dollar sign
    "svg.hashsalt": "remix",  # the same picture, the same bytes
    "pdf.fonttype": 42,
}


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures; they are drawn and saved inside."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


@style()
def settle(figure: "Figure") -> None:
    """Lay a figure out for good: it is then saved several times, and each would do that again."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


@style()
def svgs(figure: "Figure") -> tuple[str, str]:
    """The figure as SVG on no background: for light pages and, with other colours, for dark ones."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    light = re.sub(r"<!--.*?-->\s*", "", out.getvalue()[out.getvalue().index("<svg") :], flags=re.DOTALL)
    return light, re.sub("|".join(DARK), lambda color: DARK[color[0]], light)


@style()
def saved(figure: "Figure", ending: str) -> bytes:
    """The figure as a file of this kind (png, pdf or svg), on white."""
    out = io.BytesIO()
    figure.savefig(out, format=ending, dpi=150, facecolor="white", metadata=None if ending == "png" else {})
    return out.getvalue()


def plot_arms(entries: Sequence[Entry], file: Path) -> None:
    """Recall of the facts to remember after the first and after the last stage, a line per arm (`arms_figure`)."""
    task = (remembered(entries) or [entries[0]["task"]])[0]
    seeds = sorted({entry["seed"] for entry in entries})
    which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    figure = arms_figure(entries, task, f"{entries[0]['recipe']} on {entries[0]['profile']}, {which}")
    _write(figure, file)


def plot_curves(entries: Sequence[Entry], file: Path) -> None:
    """Recall of the first stage's facts while each later stage trained: a panel per stage, a colour per arm.

    A thin line is a seed, the thick one the mean over seeds. Raises BadInput where no stage has a retention curve.
    """
    if len(found := sorted({f"{entry['recipe']} on {entry['profile']}" for entry in entries})) > 1:
        raise BadInput(f"curves of {', '.join(found)} cannot be told apart in one plot; say --recipe NAME")
    panels = curves(entries)
    if not panels:
        raise BadInput(
            "no stage has a retention curve; say `curve: {epochs: 1}` in a later stage, before it is trained"
        )
    _write(curves_figure(panels, entries[0]["stage"]), file)


def _write(figure: "Figure", file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(saved(figure, file.suffix[1:]))


@style()
def arms_figure(entries: Sequence[Entry], task: str, title: str = "") -> "Figure":
    """Recall of a task's facts after the first stage (a ring) and after the last (a dot), a line per arm.

    Both are means over seeds; a small tick is a seed, the bar the 95% interval of the last one.
    """
    from remix_toolkit.report.seeds import aggregate

    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    arms = list(dict.fromkeys(entry["arm"] for entry in entries))
    rows = {(row["arm"], row["stage"]): row for row in aggregate(entries) if row["task"] == task}
    figure, axes = _rows_figure(arms, f"recall of {plain(task)} (%)", title)
    last = [(y, rows[arm, stages[-1]]) for y, arm in enumerate(arms) if (arm, stages[-1]) in rows]
    first = {y: rows[arm, stages[0]]["mean"] for y, arm in enumerate(arms) if (arm, stages[0]) in rows}
    if len(stages) > 1:
        both = [(y, first[y], row["mean"]) for y, row in last if y in first]
        heights, lefts, rights = _columns(both, 3)
        axes.hlines(heights, lefts, rights, colors=RULE, linewidth=1.5, zorder=1)
        axes.plot(*_columns([(before, y) for y, before, _ in both], 2), "o", mfc=PAPER, mec=MUTED, markersize=6)
    _intervals(axes, last, ACCENT)
    asked = [entry for entry in entries if (entry["stage"], entry["task"]) == (stages[-1], task)]
    seeds = [(entry["recall"], arms.index(entry["arm"])) for entry in asked if entry["recall"] is not None]
    axes.plot(*_columns(seeds, 2), "|", color=INK, markersize=7, markeredgewidth=0.8)
    for y, row in last:
        axes.text(104, y, f"{row['mean']:.1f}", va="center", fontsize=9)
    axes.set_xlim(-3, 103)
    _legend_of_marks(axes, stages)
    return figure


@style()
def differences_figure(rows: Sequence[Entry]) -> "Figure":
    """`compared`'s rows of one task: each arm's difference from the first one, with its 95% interval."""
    figure, axes = _rows_figure([row["second"] for row in rows], f"difference from {plain(rows[0]['first'])} (points)")
    axes.axvline(0, color=MUTED, linewidth=1)
    for clear in (True, False):
        mine = [(y, {**row, "mean": row["difference"]}) for y, row in enumerate(rows) if is_clear(row) == clear]
        _intervals(axes, mine, ACCENT if clear else MUTED, filled=clear)
    for y, row in enumerate(rows):
        axes.text(1.02, y, f"{row['difference']:+.1f}", va="center", fontsize=9, transform=axes.get_yaxis_transform())
    return figure


def curves_figure(panels: Panels, first: str) -> "Figure":
    """Retention curves: recall of the first stage's facts against the epochs of each later stage."""
    xs = {stage: f"epochs of {plain(stage)}" for stage in panels}
    figure, axes = lines_figure(panels, xs, f"recall of {plain(first)}'s facts (%)")
    for panel in axes:
        panel.set_ylim(-2, 102)
    return figure


def losses_figure(panels: Panels) -> "Figure":
    """Training losses against optimizer steps, on a logarithmic scale."""
    figure, axes = lines_figure(panels, {stage: f"steps of {plain(stage)}" for stage in panels}, "training loss")
    for panel in axes:
        panel.set_yscale("log", nonpositive="mask")
        panel.yaxis.set_major_formatter("{x:g}")  # the usual one would need mathematics in text
    return figure


def occurrence_figure(panels: Panels) -> "Figure":
    """At which layers the right token is among the first ten: the share of all its occurrences, by layer."""
    figure, axes = lines_figure(panels, {panel: f"layer, {plain(panel)}" for panel in panels}, "share of occurrences")
    for panel in axes:
        panel.set_ylim(0, 1.08 * panel.dataLim.ymax)
        panel.locator_params(axis="x", integer=True)
    return figure


def plot_lens(found: Sequence[Mapping[str, Any]], file: Path) -> None:
    """What `remix probe lens` found, as figure 4: a line for each model."""
    by_model: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for one in found:
        by_model[Path(one["model"]).name] = {0: [(n, share) for n, share in enumerate(one["occurrence"], start=1)]}
    _write(occurrence_figure({str(found[0]["task"]): by_model}), file)


@style()
def lines_figure(panels: Panels, xs: Mapping[str, str], y: str) -> tuple["Figure", list["Axes"]]:
    """A panel for each key, a colour per arm: thin lines are seeds (of few arms), the thick one is their mean."""
    arms = list(dict.fromkeys(arm for by_arm in panels.values() for arm in by_arm))
    looks = dict(zip(arms, list(product(STYLES, COLORS)) * (1 + len(arms) // 28), strict=False))
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    from matplotlib.figure import Figure

    names = [label(arm) for arm in arms]
    abreast = 4 if max(map(len, names)) < 14 else 2
    height = 2.7 * lines + 0.4 + 0.19 * sum(1 + name.count("\n") for name in names) / abreast
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    handles: dict[str, Any] = {}
    for panel, (name, by_arm) in zip(axes, panels.items(), strict=False):
        for arm, by_seed in by_arm.items():
            dashes, color = looks[arm]
            for points in by_seed.values() if len(by_seed) > 1 and len(arms) <= CROWDED else ():
                panel.plot(*zip(*points, strict=True), color=color, linewidth=0.5, alpha=0.5)
            mean = over_seeds(by_seed)
            for points in [mean] if mean else by_seed.values():  # seeds that share no point have no mean
                handles[arm] = panel.plot(*zip(*points, strict=True), dashes, color=color, linewidth=1.8)[0]
        panel.set_xlabel(xs[name])
        panel.grid(axis="y")
    for panel in axes[len(panels) :]:
        panel.remove()
    for panel in axes[::columns]:
        panel.set_ylabel(y)
    # A name that begins with "_" would be left out of a legend; a word joiner in front of it is not seen.
    names = [f"\u2060{name}" if name.startswith("_") else name for name in map(label, handles)]
    figure.legend(list(handles.values()), names, loc="outside lower left", ncols=abreast, fontsize=9)
    return figure, axes[: len(panels)]


@style()
def points_figure(panels: Mapping[str, Mapping[str, Sequence[Entry]]], arms: Sequence[str], x: str) -> "Figure":
    """A panel for each key, a row per arm, a dot per seed with its own interval `low`, `high` about `mean`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.1 + 0.45 * len(arms)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (name, by_arm) in zip(axes, panels.items(), strict=True):
        panel.axvline(0, color=MUTED, linewidth=1)
        each = {y: by_arm.get(arm, ()) for y, arm in enumerate(arms)}
        dots = [(y + _shift(i, len(rows)), row) for y, rows in each.items() for i, row in enumerate(rows)]
        _intervals(panel, dots, ACCENT)
        panel.set_title(name)
        panel.set_xlabel(x)
        panel.grid(axis="x")
    axes[0].set_yticks(range(len(arms)), [label(arm) for arm in arms])
    axes[0].set_ylim(len(arms) - 0.5, -0.5)
    return figure


def label(name: str, width: int = 30) -> str:
    """A name on an axis, in lines of that many characters, three at most."""
    return textwrap.fill(plain(name), width, max_lines=3, placeholder=" ...") or " "


def _rows_figure(names: Sequence[str], x: str, title: str = "") -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    labels = [label(name) for name in names]
    height = 1.15 + sum(0.17 + 0.15 * (1 + text.count("\n")) for text in labels)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(x)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    if title:
        figure.suptitle(plain(title), fontsize=10, x=0.01, ha="left")
    return figure, axes


def is_clear(row: Entry) -> bool:
    """Does the interval leave zero out?"""
    return bool(row["low"] > 0 or row["high"] < 0)


def _intervals(axes: "Axes", rows: Sequence[tuple[float, Entry]], color: str, filled: bool = True) -> None:
    """At each height a dot at the mean, and a bar from low to high where there is an interval."""
    wide = [(y, row["low"], row["high"]) for y, row in rows if row["low"] is not None and row["high"] is not None]
    heights, lefts, rights = _columns(wide, 3)
    axes.hlines(heights, lefts, rights, colors=color, linewidth=2.5, alpha=0.45)
    dots = _columns([(row["mean"], y) for y, row in rows], 2)
    axes.plot(*dots, "o", color=color, markersize=6, markerfacecolor=color if filled else PAPER)


def _shift(i: int, many: int) -> float:
    """How far from its arm's line one of several seeds is drawn."""
    return (i - (many - 1) / 2) * 0.6 / max(many, 3)


def _columns(rows: Sequence[tuple[Any, ...]], many: int) -> list[list[Any]]:
    """The rows' columns, of no rows too."""
    return [[row[i] for row in rows] for i in range(many)]


def _legend_of_marks(axes: "Axes", stages: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    ring = Line2D([], [], marker="o", linestyle="", markerfacecolor=PAPER, markeredgecolor=MUTED)
    dot = Line2D([], [], marker="o", color=ACCENT, linewidth=2.5)
    tick = Line2D([], [], marker="|", linestyle="", color=INK, markersize=7)
    marks = {f"after {label(stages[0])}": ring} if len(stages) > 1 else {}
    marks |= {f"after {label(stages[-1])}, 95% interval": dot, "a seed": tick}
    axes.legend(
        list(marks.values()),
        list(marks),
        fontsize=9,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        borderaxespad=0.2,
    )
