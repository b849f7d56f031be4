"""What probes of a stage measured: where its facts are stored, how gradients stand to one another, other abilities."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from remix_toolkit.evaluate.harness import Harness
from remix_toolkit.evaluate.interference import Interference
from remix_toolkit.evaluate.known import Known
from remix_toolkit.evaluate.lens import Lens
from remix_toolkit.evaluate.perplexity import Perplexity
from remix_toolkit.report.figures import ACCENT, MUTED, draw_intervals, occurrence, rows_figure
from remix_toolkit.report.parts import Figure, Heading, Part, Table, shortened
from remix_toolkit.report.summary import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

PAIRS = {
    "a.b": "earlier facts and this stage's",
    "a.m": "earlier facts and mixing data",
    "b.m": "this stage's facts and mixing data",
}
LENS = {
    "first_layer": "first layer",
    "layers_per_token": "layers a token",
    "spread": "spread, layers",
    "never": "never seen, %",
}
LOSSES = {"loss_before": "loss before", "loss_after": "loss after", "predicted": "foretold by gradients"}
AT = ["arm", "stage", "seed"]


def probes(sweep: Sweep) -> list[Part]:
    """Tables and figures of what was measured besides recall and held-out loss."""
    parts: list[Part] = []
    shown = (
        (Known(), _known),
        (Perplexity(), _perplexity),
        (Lens(), _lens),
        (Harness(), _lm_eval),
        (Interference(), _interference),
    )
    for measurement, show in shown:
        results = sweep.frame.results(measurement)
        if len(results):
            parts += show(sweep, results)
    return parts


def _over_seeds(rows: pd.DataFrame, by: list[str], values: Mapping[str, str], style: str) -> pd.DataFrame:
    """A row for each of `by`, the number of seeds, and means of `values` under their heads, in this style."""
    groups = rows.astype(dict.fromkeys(values, "float64")).groupby(by, sort=False)
    means = groups[list(values)].mean().map(f"{{:{style}}}".format, na_action="ignore")
    means.insert(0, "seeds", groups["seed"].nunique())
    return means.rename(columns=values).rename_axis(index={"stage": "after"})


def _lens(sweep: Sweep, results: pd.DataFrame) -> list[Part]:
    """Figure 4 of the paper: at which layers the right token is among the first ten, per arm."""
    parts: list[Part] = []
    for task in sweep.tasks:
        rows = results[results["item"].isin(sweep.rows.loc[sweep.rows["task"] == task, "list"])]
        if rows.empty:
            continue
        shown = _over_seeds(rows, ["arm", "stage"], LENS, ".1f")
        peaks = [
            f"{arm} after {stage}: first at layer {row['first layer']}, spread over {row['spread, layers']} layers"
            for (arm, stage), row in shown.iterrows()
        ]
        alt = f"Share of all occurrences of the right {task} tokens at each layer, by arm. {shortened(peaks)}."
        caption = (
            f"{sweep.title}: where the right tokens of {task} are among the first ten, by layer "
            "(the occurrences of all layers sum to 1; figure 4 of the paper)"
        )
        name = f"lens-{sweep.slug}-{task}"
        draw = occurrence(rows.assign(panel="after " + rows["stage"], label=rows["arm"]), sweep.arms)
        parts.append(Figure(name, draw, caption, alt))
        caption = f"{sweep.title}: logit lens on {task}, means over seeds"
        parts.append(Table(name, caption, shown, rows[[*AT, *LENS]]))
    return [Heading("Where the facts are stored (logit lens)"), *parts] if parts else []


def _interference(sweep: Sweep, results: pd.DataFrame) -> list[Part]:
    """Cosines of the gradients of the whole model, and what they foretell of the earlier facts' loss."""
    angles = pd.DataFrame(
        {"arm": row.arm, "stage": row.stage, "seed": row.seed, "weights": weights, "pair": pair, **angle}
        for row in results.itertuples()
        for weights, pairs in row.groups.items()
        for pair, angle in pairs.items()
    )
    parts: list[Part] = [Heading("Do the gradients oppose one another?"), *_cosines(sweep, angles)]
    losses = results[results["loss_after"].notna()]
    if len(losses):
        losses = losses.assign(**{"facts of": [sources.get("a") for sources in losses["sources"]]})
        shown = _over_seeds(losses, ["arm", "stage", "facts of"], LOSSES, ".3f")
        caption = f"{sweep.title}: loss on the earlier facts, before and after the stage, and its change as foretold"
        parts.append(Table(f"foretold-{sweep.slug}", caption, shown, losses[[*AT, "facts of", *LOSSES]]))
    return parts


def _cosines(sweep: Sweep, angles: pd.DataFrame) -> list[Part]:
    whole = angles[angles["weights"] == "whole"].rename(columns={"cosine": "mean"})
    whole = whole.assign(pair=whole["pair"].replace(PAIRS), label=whole["arm"])
    if whole["stage"].nunique() > 1:
        whole["label"] += ", " + whole["stage"]
    arms = whole.groupby(["label", "pair"], sort=False)
    mean, low, high = arms["mean"].mean(), arms["low"].min(), arms["high"].max()
    interval = low.map("{:+.3f}".format) + " to " + high.map("{:+.3f}".format)
    cells = {
        "cosine": mean.map("{:+.3f}".format).where(mean.notna(), "noise"),
        "95% interval": interval.where(mean.notna()),
        "seeds": arms.size(),
        "of these noise": arms.size() - arms["mean"].count(),
    }
    shown = pd.DataFrame(cells).rename_axis(index={"label": "arm", "pair": "gradients of"})
    notes = ["Below zero, a step that helps the one harms the other. a: earlier facts, b: this stage's, m: mixing."]
    if shown["of these noise"].any():
        notes.append("Noise: one of the two gradients cannot be told from zero, so that their angle means nothing.")
    name, caption = f"cosines-{sweep.slug}", f"{sweep.title}: cosines of gradients over the whole model"
    interval_of = "the interval from the lowest to the highest end of the seeds' own"
    table = Table(name, f"{caption}; {interval_of}", shown, angles, notes)
    if mean.isna().all():
        return [table]
    numbers = [f"{', '.join(at)}: {row['cosine']} ({row['95% interval']})" for at, row in shown.iterrows()]
    alt = f"Cosines of gradients, by arm. {shortened(numbers)}."
    draw = partial(_draw_cosines, whole)
    return [Figure(name, draw, f"{caption}, each seed with its 95% interval", alt), table]


def _draw_cosines(angles: pd.DataFrame) -> "Drawing":
    """A panel for each `pair` of gradients, a row for each `label`, a dot for each seed: `mean`, `low`, `high`."""
    pairs = list(angles["pair"].unique())
    figure, axes = rows_figure(list(angles["label"].unique()), "cosine", panels=len(pairs))
    seed = angles["seed"].rank(method="dense")
    beside = (seed - (seed.max() + 1) / 2) * 0.6 / max(seed.max(), 3)
    angles = angles.assign(y=angles["label"].factorize()[0] + beside)
    for panel, pair in zip(axes, pairs, strict=True):
        panel.axvline(0, color=MUTED, linewidth=1)
        draw_intervals(panel, angles[angles["pair"] == pair], ACCENT)
        panel.set_title(pair.replace(" and ", "\nand "), loc="left", fontsize="medium")
    return figure


def _known(sweep: Sweep, results: pd.DataFrame) -> list[Part]:
    """What is left of what the base model knew; in the table's file, by the format of the few-shot prompt too."""
    formats = [pd.json_normalize(results[name].tolist()).add_prefix(f"{name}_") for name in ("before", "after")]
    rows = results.drop(columns=["before", "after"]).join(formats)
    rows = rows.assign(percent=100 * rows["kept"] / rows["facts"])
    values = {"facts": "known before", "guesses": "of these guesses", "kept": "known now", "percent": "percent"}
    shown = _over_seeds(rows, ["arm", "stage", "task", "asked"], values, ".4g")
    caption = f"{sweep.title}: what is left of what the base model knew, means over seeds"
    return [Heading("What the base model knew before"), Table(f"known-{sweep.slug}", caption, shown, rows)]


def _perplexity(sweep: Sweep, results: pd.DataFrame) -> list[Part]:
    rows = results.rename(columns={"item": "text"})
    shown = _over_seeds(rows, ["arm", "stage", "text"], {"perplexity": "perplexity"}, ".2f")
    caption = f"{sweep.title}: perplexity on other text, mean over seeds"
    table = Table(f"perplexity-{sweep.slug}", caption, shown, rows[[*AT, "text", "perplexity"]])
    return [Heading("Other text"), table]


def _lm_eval(sweep: Sweep, results: pd.DataFrame) -> list[Part]:
    rows = pd.DataFrame(
        {"arm": row.arm, "stage": row.stage, "seed": row.seed, "task": row.item, "metric": metric, "value": value}
        for row in results.itertuples()
        for metric, value in row.metrics.items()
    )
    if rows.empty:
        return []
    shown = _over_seeds(rows, ["arm", "stage", "task", "metric"], {"value": "value"}, ".3f")
    by = [f"lm-evaluation-harness {version}" for version in sorted(results["version"].unique()) if version]
    by += [f"the first {limit:.0f} examples of a task" for limit in sorted(results["limit"].dropna().unique())]
    notes = [f"Measured by {', '.join(by)}."] if by else []
    caption = f"{sweep.title}: other abilities, mean over seeds"
    return [Heading("Other abilities"), Table(f"lm_eval-{sweep.slug}", caption, shown, rows, notes)]
