"""What probes of a stage found: where its facts are stored, how gradients stand to one another, other abilities."""

from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Any

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.base import Measurement
from remix_toolkit.evaluate.measurements import MEASUREMENTS
from remix_toolkit.report.group import Group
from remix_toolkit.report.parts import Figure, Heading, Part, Warn, number, said
from remix_toolkit.report.plot import occurrence_figure, points_figure
from remix_toolkit.report.series import Panels, folders
from remix_toolkit.report.tables import Table

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
Found = list[tuple[str, str, int, dict[str, Any]]]  # stage, arm, seed, the results by what was asked


def probes(group: Group, warn: Warn) -> list[Part]:
    """Tables and figures of whatever lens.json, interference.json, perplexity.json and lm_eval.json there are."""
    parts: list[Part] = []
    shown = {"lens": _lens, "interference": _interference, "perplexity": _perplexity, "lm_eval": _lm_eval}
    for measurement in MEASUREMENTS:
        if show := shown.get(measurement.name):
            parts += _shown(group, measurement, show, warn)
    return parts


def _shown(
    group: Group, measurement: Measurement[Any], show: Callable[[Group, Found], list[Part]], warn: Warn
) -> list[Part]:
    """The parts of one kind of file; one that is not as it should be is handed to `warn` and left out."""
    found: Found = []
    for stage, arm, seed, folder in folders(group.entries):
        try:
            if results := measurement.read(folder):
                found.append((stage, arm, seed, {item: result.model_dump() for item, result in results.items()}))
        except BadInput as error:
            warn(f"{error}: left out of the probes")
    return show(group, found) if found else []


def _lens(group: Group, found: Found) -> list[Part]:
    """Figure 4 of the paper: at which layers the right token is among the first ten, per arm."""
    parts: list[Part] = [Heading("Where the facts are stored (logit lens)")]
    for task in group.tasks:
        lists = {entry["list"] for entry in group.entries if entry["task"] == task and entry.get("list")}
        rows = [
            (stage, arm, seed, one) for stage, arm, seed, kept in found for id_, one in kept.items() if id_ in lists
        ]
        if not rows:
            continue
        panels: Panels = {}
        for stage, arm, seed, one in rows:
            points = [(float(layer), float(share)) for layer, share in enumerate(one["occurrence"], start=1)]
            panels.setdefault(f"after {stage}", {}).setdefault(arm, {})[seed] = points
        columns = ["arm", "after", "seeds", *LENS.values()]
        shown, data = [], []
        for stage, arm in dict.fromkeys((stage, arm) for stage, arm, _, _ in rows):
            mine = [(seed, one) for s, a, seed, one in rows if (s, a) == (stage, arm)]
            means = {key: _average([one.get(key) for _, one in mine]) for key in LENS}
            shown.append([arm, stage, str(len(mine)), *(number(means[key]) for key in LENS)])
            data += [{"arm": arm, "stage": stage, "seed": seed, **{k: one.get(k) for k in LENS}} for seed, one in mine]
        peaks = [f"{row[0]} after {row[1]}: first at layer {row[3]}, spread over {row[5]} layers" for row in shown]
        alt = f"Share of all occurrences of the right {task} tokens at each layer, by arm. {said(peaks)}."
        caption = (
            f"{group.title}: where the right tokens of {task} are among the first ten, by layer "
            "(the occurrences of all layers sum to 1; figure 4 of the paper)"
        )
        parts.append(Figure(f"lens-{group.slug}-{task}", partial(occurrence_figure, panels), caption, alt))
        caption = f"{group.title}: logit lens on {task}, means over seeds"
        parts.append(Table(f"lens-{group.slug}-{task}", caption, columns, shown, heads=2, data=data))
    return parts if len(parts) > 1 else []


def _interference(group: Group, found: Found) -> list[Part]:
    """Cosines of the gradients of the whole model, and what they foretell of the earlier facts' loss."""
    panels: dict[str, dict[str, list[dict[str, Any]]]] = {}
    data, losses, noise = [], [], []
    several = len({stage for stage, *_ in found}) > 1
    for stage, arm, seed, one in [(*at, one) for *at, kept in found for one in kept.values()]:
        name = f"{arm}, {stage}" if several else arm
        weak = [what for what, norm in one.get("norms", {}).items() if norm.get("noise")]
        noise += [f"{name}, seed {seed}: {', '.join(f'the gradient of {what}' for what in weak)}"] if weak else []
        for part, pairs in one["groups"].items():
            for pair, angle in pairs.items():
                row = {"arm": arm, "stage": stage, "seed": seed, "weights": part, "pair": pair}
                data.append({**row, **{key: angle.get(key) for key in ("cosine", "low", "high", "inner")}})
                if part == "whole" and angle["cosine"] is not None:  # else one of the two is no more than noise
                    drawn = {"mean": float(angle["cosine"]), "low": angle.get("low"), "high": angle.get("high")}
                    panels.setdefault(pair, {}).setdefault(name, []).append(drawn)
        if one.get("loss_after") is not None:
            row_ = {key: one.get(key) for key in ("loss_before", "loss_after", "predicted")}
            losses.append({"arm": arm, "stage": stage, "seed": seed, "of": one["sources"].get("a"), **row_})
    rows = []
    for pair, by_name in panels.items():
        for name, points in by_name.items():
            ends = [[p[key] for p in points if p[key] is not None] for key in ("low", "high")]
            interval = f"{min(ends[0]):+.3f} to {max(ends[1]):+.3f}" if all(ends) else "-"
            mean = fmean(p["mean"] for p in points)
            rows.append([name, PAIRS.get(pair, pair), f"{mean:+.3f}", interval, str(len(points))])
    if not rows:
        return []
    names = list(dict.fromkeys(row[0] for row in rows))
    alt = f"Cosines of gradients, by arm. {said([f'{r[0]}, {r[1]}: {r[2]} ({r[3]})' for r in rows])}."
    caption = f"{group.title}: cosines of the gradients of two data sets, each seed with its own 95% interval"
    titled = {PAIRS.get(pair, pair).replace(" and ", "\nand "): by_name for pair, by_name in panels.items()}
    parts: list[Part] = [
        Heading("Do the gradients oppose one another?"),
        Figure(f"cosines-{group.slug}", partial(points_figure, titled, names, "cosine"), caption, alt),
        Table(
            f"cosines-{group.slug}",
            f"{group.title}: cosines of gradients over the whole model; the interval from the lowest to the highest "
            "end of the seeds' own",
            ["arm", "gradients of", "cosine", "95% interval", "seeds"],
            rows,
            heads=2,
            notes=[
                "Below zero, a step that helps the one harms the other. a: earlier facts, b: this stage's, m: mixing.",
                *([f"No more than noise, so that its angles mean nothing: {said(noise)}."] if noise else []),
            ],
            data=data,
        ),
    ]
    if losses:
        columns = ["arm", "after", "facts of", "seeds", "loss before", "loss after", "foretold by gradients"]
        shown = []
        for arm, stage in dict.fromkeys((row["arm"], row["stage"]) for row in losses):
            mine = [row for row in losses if (row["arm"], row["stage"]) == (arm, stage)]
            means = [_average([row[key] for row in mine]) for key in ("loss_before", "loss_after", "predicted")]
            shown.append([arm, stage, str(mine[0]["of"]), str(len(mine)), *(number(mean, ".3f") for mean in means)])
        caption = f"{group.title}: loss on the earlier facts, before and after the stage, and its change as foretold"
        parts.append(Table(f"foretold-{group.slug}", caption, columns, shown, heads=3, data=losses))
    return parts


def _perplexity(group: Group, found: Found) -> list[Part]:
    data = [
        {"arm": arm, "stage": stage, "seed": seed, "text": text, "perplexity": one["perplexity"]}
        for stage, arm, seed, kept in found
        for text, one in kept.items()
    ]
    values: dict[tuple[str, ...], list[float]] = {}
    for row in data:
        values.setdefault((row["arm"], row["stage"], row["text"]), []).append(row["perplexity"])
    rows = [[*at, str(len(seeds)), f"{fmean(seeds):.2f}"] for at, seeds in values.items()]
    caption = f"{group.title}: perplexity on other text, mean over seeds"
    columns = ["arm", "after", "text", "seeds", "perplexity"]
    return [Heading("Other text"), Table(f"perplexity-{group.slug}", caption, columns, rows, heads=3, data=data)]


def _lm_eval(group: Group, found: Found) -> list[Part]:
    data = [
        {"arm": arm, "stage": stage, "seed": seed, "task": task, "metric": metric, "value": float(value)}
        for stage, arm, seed, kept in found
        for task, result in kept.items()
        for metric, value in result["metrics"].items()
        if isinstance(value, int | float)  # the harness may say "N/A" of an error
    ]
    if not data:
        return []
    rows: dict[tuple[str, ...], list[float]] = {}
    for row in data:
        rows.setdefault((row["arm"], row["stage"], row["task"], row["metric"]), []).append(row["value"])
    results = [result for *_, kept in found for result in kept.values()]
    said = sorted({f"lm-evaluation-harness {result['version']}" for result in results if result.get("version")})
    said += sorted({f"the first {result['limit']} examples of a task" for result in results if result.get("limit")})
    return [
        Heading("Other abilities"),
        Table(
            f"lm_eval-{group.slug}",
            f"{group.title}: other abilities, mean over seeds",
            ["arm", "after", "task", "metric", "value", "seeds"],
            [[*at, f"{fmean(values):.3f}", str(len(values))] for at, values in rows.items()],
            heads=4,
            notes=[f"Measured by {', '.join(said)}."] if said else [],
            data=data,
        ),
    ]


def _average(values: list[float | None]) -> float | None:
    """The mean of those that are there, None if none is."""
    found = [float(value) for value in values if value is not None]
    return fmean(found) if found else None
