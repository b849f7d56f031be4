"""What was measured besides recall: where facts are stored, how gradients stand to one another, other abilities."""

from collections.abc import Mapping

import pandas as pd

from remix_toolkit.evaluate.interference import Interference
from remix_toolkit.evaluate.lens import Lens
from remix_toolkit.evaluate.robustness import Drift, Noise, Relearn
from remix_toolkit.report.figures import occurrence
from remix_toolkit.report.parts import Figure, Heading, Part, Table
from remix_toolkit.report.summary import Sweep

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
ROBUSTNESS: dict[type[Noise | Relearn | Drift], tuple[dict[str, str], str]] = {
    Noise: (
        {"at_1": "noise of 1%", "at_3": "3%", "at_10": "10%"},
        "recall in percent with noise on every weight, in percent of the root mean square of its tensor",
    ),
    Relearn: (
        {"before": "before", "after": "after"},
        "recall in percent of nine tenths of the facts, before and after a few steps on the other tenth",
    ),
    Drift: (
        {"divergence": "nats a token"},
        "divergence of the answers' tokens from those of the model that the stage started from",
    ),
}
AT = ["arm", "stage", "seed"]


def probes(sweep: Sweep) -> list[Part]:
    """Tables and figures of all that was measured besides recall and held-out loss."""
    parts = [*_lens(sweep), *_interference(sweep), *_robustness(sweep)]
    numbers = sweep.frame.numbers()
    if len(numbers):
        means = numbers.groupby(["arm", "stage", "measure"], sort=False)["value"].mean().map("{:.4g}".format)
        shown = means.unstack(sort=False).rename_axis(index={"stage": "after"})
        caption = f"{sweep.title}: perplexity and other abilities, means over seeds"
        parts += [Heading("Other abilities"), Table(f"abilities-{sweep.slug}", caption, shown, numbers)]
    return parts


def _over_seeds(rows: pd.DataFrame, by: list[str], values: Mapping[str, str], style: str) -> pd.DataFrame:
    """A row for each of `by`, the number of seeds, and means of `values` under their heads, in this style."""
    groups = rows.astype(dict.fromkeys(values, "float64")).groupby(by, sort=False)
    means = groups[list(values)].mean().map(f"{{:{style}}}".format, na_action="ignore")
    means.insert(0, "seeds", groups["seed"].nunique())
    return means.rename(columns=values).rename_axis(index={"stage": "after"})


def _lens(sweep: Sweep) -> list[Part]:
    """Figure 4 of the paper: at which layers the right token is among the first ten, per arm."""
    parts: list[Part] = []
    results = pd.DataFrame(sweep.frame.results(Lens()))
    for task in sweep.tasks if len(results) else ():
        rows = results[results["item"].isin(sweep.rows.loc[sweep.rows["task"] == task, "list"])]
        if rows.empty:
            continue
        caption = (
            f"{sweep.title}: where the right tokens of {task} are among the first ten, by layer "
            "(the occurrences of all layers sum to 1; figure 4 of the paper)"
        )
        name = f"lens-{sweep.slug}-{task}"
        draw = occurrence(rows.assign(panel="after " + rows["stage"], label=rows["arm"]), sweep.arms)
        parts.append(Figure(name, draw, caption))
        shown = _over_seeds(rows, ["arm", "stage"], LENS, ".1f")
        caption = f"{sweep.title}: logit lens on {task}, means over seeds"
        parts.append(Table(name, caption, shown, rows[[*AT, *LENS]]))
    return [Heading("Where the facts are stored (logit lens)"), *parts] if parts else []


def _interference(sweep: Sweep) -> list[Part]:
    """Cosines of the gradients of the whole model, and what they foretell of the earlier facts' loss."""
    results = pd.DataFrame(sweep.frame.results(Interference()))
    if results.empty:
        return []
    parts: list[Part] = [Heading("Do the gradients oppose one another?"), _cosines(sweep, results)]
    losses = results[results["loss_after"].notna()]
    if len(losses):
        losses = losses.assign(**{"facts of": [sources.get("a") for sources in losses["sources"]]})
        shown = _over_seeds(losses, ["arm", "stage", "facts of"], LOSSES, ".3f")
        caption = f"{sweep.title}: loss on the earlier facts, before and after the stage, and its change as foretold"
        parts.append(Table(f"foretold-{sweep.slug}", caption, shown, losses[[*AT, "facts of", *LOSSES]]))
    return parts


def _robustness(sweep: Sweep) -> list[Part]:
    """How firmly facts are held: a table for each kind of measurement, of each list of facts."""
    parts: list[Part] = []
    for one, (values, caption) in ROBUSTNESS.items():
        results = pd.DataFrame(sweep.frame.results(one()))
        if len(results):
            results["facts of"] = results["item"].str.rpartition("-")[0]
            shown = _over_seeds(results, ["arm", "stage", "facts of"], values, ".4g")
            name = f"{one.name}-{sweep.slug}"
            parts.append(Table(name, f"{sweep.title}: {caption}", shown, results[[*AT, "facts of", "item", *values]]))
    return [Heading("How firmly are the facts held?"), *parts] if parts else []


def _cosines(sweep: Sweep, results: pd.DataFrame) -> Table:
    angles = pd.DataFrame(
        {"arm": row.arm, "stage": row.stage, "seed": row.seed, "weights": weights, "pair": pair, **angle}
        for row in results.itertuples()
        for weights, pairs in row.groups.items()
        for pair, angle in pairs.items()
    )
    whole = angles[angles["weights"] == "whole"]
    arms = whole.assign(pair=whole["pair"].replace(PAIRS)).groupby(["arm", "stage", "pair"], sort=False)
    mean, low, high = arms["cosine"].mean(), arms["low"].min(), arms["high"].max()
    interval = low.map("[{:+.3f}, ".format) + high.map("{:+.3f}]".format)
    cells = {
        "cosine": mean.map("{:+.3f}".format).where(mean.notna(), "noise"),
        "95% interval": interval.where(mean.notna()),
        "seeds": arms.size(),
        "of these noise": arms.size() - arms["cosine"].count(),
    }
    shown = pd.DataFrame(cells).rename_axis(index={"stage": "after", "pair": "gradients of"})
    notes = [
        "Below zero, a step that helps the one harms the other. The interval is from the lowest to the highest end \
of the seeds' own."
    ]
    if shown["of these noise"].any():
        notes.append("Noise: one of the two gradients cannot be told from zero, so that their angle means nothing.")
    caption = f"{sweep.title}: cosines of gradients over the whole model"
    return Table(f"cosines-{sweep.slug}", caption, shown, angles, notes)
