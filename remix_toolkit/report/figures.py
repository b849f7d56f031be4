"""The figures of a sweep, in one style for screen, print and the colour-blind; a dark page inverts their lightness."""

import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from remix_toolkit.errors import BadInput
from remix_toolkit.report.frame import Frame
from remix_toolkit.report.parts import Figure, plain
from remix_toolkit.report.stage import Stage
from remix_toolkit.report.summary import Sweep, newest
from remix_toolkit.report.words import seeds_text, some

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

INK, MUTED, RULE, PAPER, ACCENT = "#1f2430", "#667085", "#d9dde3", "#ffffff", "#0072b2"
# Okabe and Ito's colours, told apart by colour-blind readers too, without yellow, which is lost on white.
COLORS = (ACCENT, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", MUTED)
LOOKS = [{"linestyle": dashes, "color": color} for dashes, color in product(("-", "--", ":", "-."), COLORS)]
WIDTH = 6.8  # inches
CROWDED = 10  # arms, beyond which lines of single seeds cannot be told apart
DRAWN = 150  # points of a line, at most
LINE = ["panel", "label"]  # points are rows of a panel, an arm's label, a seed, x and y
STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # an arm's name may hold a dollar sign
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "legend.frameon": False,
    "svg.hashsalt": "remix",
    "pdf.fonttype": 42,
    "figure.dpi": 150,
}
UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}  # the same figure, the same bytes


def rendered(draw: "Callable[[], Drawing]", endings: Iterable[str]) -> dict[str, bytes]:
    """The files of a figure, by their endings: png, pdf or svg. It is drawn and laid out once for all of them."""
    import matplotlib
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    files = {}
    with matplotlib.rc_context(STYLE):
        figure = draw()
        ConstrainedLayoutEngine().execute(figure)  # set in the figure, it would be done for each file
        for ending in endings:
            out = io.BytesIO()
            figure.savefig(out, format=ending, metadata=UNDATED.get(ending))
            files[ending] = out.getvalue()
    return files


def plot_arms(frame: Frame, file: Path) -> None:
    """Draw recall of the facts to remember after the first and the last stage, a row for each arm of a sweep."""
    sweep = Sweep(newest(frame))
    task = (sweep.tasks or list(sweep.rows["task"]))[0]
    title = f"{sweep.recipe} on {sweep.profile}, {seeds_text(sweep.seeds)}"
    _write(partial(_draw_arms, sweep, task, title), file)


def plot_curves(frame: Frame, file: Path) -> None:
    """Draw the retention curves of one recipe or sweep. Raises BadInput where there are several, or no curve."""
    several = frame.measured[["recipe", "profile"]].drop_duplicates().agg(" on ".join, axis=1)
    if len(several) > 1:
        raise BadInput(f"curves of {', '.join(sorted(several))} cannot be told apart in one plot; say --recipe NAME")
    if not (figure := curves(Sweep(newest(frame)))):
        raise BadInput("no stage has a retention curve; say `curve: {epochs: 1}` in a later one before it is trained")
    _write(figure.draw, file)


def plot_lens(lenses: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw what `remix probe lens` measured, as figure 4 of the paper: a line for each model."""
    names = [Path(lens["model"]).name for lens in lenses]
    rows = pd.DataFrame(lenses).assign(panel=str(lenses[0]["task"]), label=names, seed=0)
    _write(occurrence(rows, list(dict.fromkeys(names))), file)


def _write(draw: "Callable[[], Drawing]", file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(rendered(draw, [file.suffix[1:]])[file.suffix[1:]])


def arms(sweep: Sweep, task: str) -> Figure:
    """Mean recall of a task's facts after the first stage (a ring) and the last (a dot), a row for each arm."""
    caption = f"{sweep.title}: recall of {task} after {sweep.stages[0]} and after {sweep.stages[-1]}"
    return Figure(f"arms-{sweep.slug}-{task}", partial(_draw_arms, sweep, task), caption)


def _draw_arms(sweep: Sweep, task: str, title: str = "") -> "Drawing":
    from matplotlib.figure import Figure

    first, last = sweep.stages[0], sweep.stages[-1]
    names, heights = list(map(_label, sweep.arms)), {arm: height for height, arm in enumerate(sweep.arms)}
    figure = Figure(figsize=(WIDTH, 1.15 + sum(0.32 + 0.15 * name.count("\n") for name in names)))
    axes = figure.subplots()
    axes.set(xlim=(-3, 103), ylim=(len(names) - 0.4, -0.6), xlabel=f"recall of {plain(task)} (%)")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    figure.suptitle(plain(title), fontsize=10, x=0.01, ha="left")
    means = sweep.ranked(task).assign(y=lambda means: means["label"].map(heights))
    if first != last:
        both = means.assign(before=sweep.ranked(task, first)["mean"])
        axes.hlines(both["y"], both["before"], both["mean"], colors=RULE, linewidth=1.5, zorder=1)
        axes.plot(both["before"], both["y"], "o", mfc=PAPER, color=MUTED, label=f"after {_label(first)}")
    ends = [means["mean"] - means["low"], means["high"] - means["mean"]]
    look: dict[str, Any] = {"fmt": "o", "color": ACCENT, "ecolor": (ACCENT, 0.45), "elinewidth": 2.5}
    axes.errorbar(means["mean"], means["y"], xerr=ends, label=f"after {_label(last)}, 95% interval", **look)
    for row in means.itertuples():
        axes.text(1.02, row.y, f"{row.mean:.1f}", va="center", fontsize=9, transform=axes.get_yaxis_transform())
    seeds = sweep.rows[(sweep.rows["stage"] == last) & (sweep.rows["task"] == task)]
    axes.plot(seeds["recall"], seeds["label"].map(heights), "|", color=INK, zorder=3, label="a seed")
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return figure


def _label(name: str) -> str:
    """A name on an axis, in three lines at most."""
    return textwrap.fill(plain(name), 30, max_lines=3, placeholder=" ...") or " "


def curves(sweep: Sweep) -> Figure | None:
    """Recall of the first stage's facts while later stages trained; None where no stage has a retention curve."""
    first = sweep.stages[0]
    facts = sweep.rows.loc[(sweep.rows["stage"] == first) & sweep.rows["own"], "list"]
    points = _points(sweep, lambda stage: stage.curves, "the retention curves", x="epoch", y="recall")
    points = points[points["list"].isin(facts)].drop_duplicates([*LINE, "seed", "x"])
    if points.empty:
        return None
    y = f"recall of {plain(first)}'s facts (%)"
    return Figure(
        f"curves-{sweep.slug}",
        partial(draw_lines, points, sweep.arms, "epochs of", y, ylim=(-2, 102)),
        f"{sweep.title}: recall of {first}'s facts while later stages train, mean over seeds",
        f"Recall in percent from the stage's begin to its end. {_ends(points, '.0f')}.",
    )


def losses(sweep: Sweep) -> Figure | None:
    """Training losses against optimizer steps; those that are no numbers are left out, with a warning."""
    points = _points(sweep, lambda stage: stage.losses, "the losses", x="step", y="loss")
    sound = np.isfinite(points["y"].astype(float))
    for (stage, label, seed), rows in points[~sound].groupby([*LINE, "seed"], sort=False):
        at = f"{len(rows)} steps, first at step {rows['x'].iloc[0]}"
        sweep.frame.warn(f"{label}, seed {seed}: the loss of {stage} is no number at {at}")
    if not sound.any():
        return None
    block = -(-points.groupby("panel")["x"].transform("max") // DRAWN)  # steps, whose mean is one point
    points = points.assign(x=points["x"] - (points["x"] - 1) % block)[sound]
    points = points.groupby([*LINE, "seed", "x"], sort=False, as_index=False)["y"].mean()
    return Figure(
        f"losses-{sweep.slug}",
        partial(draw_lines, points, sweep.arms, "steps of", "training loss", yscale="log"),
        f"{sweep.title}: training loss, mean over all trained tokens of a step; the thick line is the mean of seeds",
        f"Training loss from the stage's begin to its end. {_ends(points, '.2g')}.",
    )


def occurrence(lenses: pd.DataFrame, arms: Sequence[str]) -> "Callable[[], Drawing]":
    """At which layers the right token is among the first ten: the share of all its occurrences, by layer."""
    shares = lenses.reset_index(drop=True).explode("occurrence").astype({"occurrence": "float64"})
    points = shares.assign(x=shares.groupby(level=0).cumcount() + 1, y=shares["occurrence"])
    top = 1.08 * points["y"].max()
    return partial(draw_lines, points, arms, "layer,", "share of occurrences", ylim=(0, top))


def _points(sweep: Sweep, read: Callable[[Stage], pd.DataFrame], what: str, x: str, y: str) -> pd.DataFrame:
    """What `read` has of each stage; `what` it is left out of is for the warning of a damaged file."""
    parts = {}
    for row in sweep.published.itertuples():
        rows = sweep.frame.read(row.path, read, what)
        if rows is not None and len(rows):
            parts[row.stage, row.label, row.seed] = rows
    if not parts:
        return pd.DataFrame(columns=[*LINE, "seed", "list", "x", "y"])
    return pd.concat(parts, names=[*LINE, "seed"]).reset_index([*LINE, "seed"]).rename(columns={x: "x", y: "y"})


def _ends(points: pd.DataFrame, style: str) -> str:
    """Where each arm's line begins and ends, the mean of its seeds."""
    ends = points.groupby([*LINE, "seed"], sort=False)["y"].agg(["first", "last"])
    means = ends.groupby(LINE, sort=False).mean().itertuples()
    return some([f"{row.Index[1]} in {row.Index[0]}: {row.first:{style}} to {row.last:{style}}" for row in means], 12)


def draw_lines(points: pd.DataFrame, arms: Sequence[str], x: str, y: str, **scale: Any) -> "Drawing":
    """A panel for each stage, a colour for each arm: thin lines are seeds (of few arms), the thick one their mean."""
    from matplotlib.figure import Figure

    panels, drawn = list(points["panel"].unique()), set(points["label"])
    names = {arm: _label(arm) for arm in arms if arm in drawn}
    looks = {arm: LOOKS[place % len(LOOKS)] for place, arm in enumerate(arms)}
    rows, columns = -(-len(panels) // 2), min(2, len(panels))
    abreast = 4 if max(map(len, names.values())) < 14 else 2
    height = 2.7 * rows + 0.4 + 0.19 * sum(1 + name.count("\n") for name in names.values()) / abreast
    figure = Figure(figsize=(WIDTH, height))
    places = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    axes = dict(zip(panels, places, strict=False))
    if len(names) <= CROWDED:
        for (panel, arm, _), line in points.groupby([*LINE, "seed"], sort=False):
            axes[panel].plot(line["x"], line["y"], color=looks[arm]["color"], linewidth=0.5, alpha=0.5)
    shared = points.groupby([*LINE, "x"])["y"].transform("size") == points.groupby(LINE)["seed"].transform("nunique")
    means = points[shared].groupby([*LINE, "x"], sort=False)["y"].mean().reset_index()
    handles: dict[str, Any] = {}
    for (panel, arm), line in means.groupby(LINE, sort=False):
        handles[arm] = axes[panel].plot(line["x"], line["y"], **looks[arm], linewidth=1.8)[0]
    for name, panel in axes.items():
        panel.set(xlabel=f"{x} {plain(name)}", **scale)
        panel.locator_params(axis="x", integer=True, min_n_ticks=3)
        low, high = panel.get_ylim()
        panel.yaxis.set_major_formatter("{x:g}")  # those of logarithms would need mathematics in text
        panel.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else "")
        panel.grid(axis="y")
    for unused in places[len(panels) :]:
        unused.remove()
    for leftmost in places[::columns]:
        leftmost.set_ylabel(y)
    labels = {arm: name for arm, name in names.items() if arm in handles}
    figure.legend([handles[arm] for arm in labels], list(labels.values()), loc="outside lower left", ncols=abreast)
    return figure
