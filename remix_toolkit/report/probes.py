"""What probes of a stage found: where its facts are stored, how gradients stand to one another, other abilities."""

from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Any

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.base import Measurement
from remix_toolkit.evaluate.interference import Angle
from remix_toolkit.evaluate.measurements import MEASUREMENTS
from remix_toolkit.report.group import Group
from remix_toolkit.report.parts import Figure, Heading, Part, Warn, number, shortened
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
LOSSES = ("loss_before", "loss_after", "predicted")
Results = list[tuple[str, str, int, dict[str, Any]]]  # stage, arm, seed, the measurement's results by what was asked


def probes(group: Group, warn: Warn) -> list[Part]:
    """Tables and figures of whatever lens.json, interference.json, perplexity.json and lm_eval.json there are."""
    parts: list[Part] = []
    shown = {"lens": _lens, "interference": _interference, "perplexity": _perplexity, "lm_eval": _lm_eval}
    for measurement in MEASUREMENTS:
        if show := shown.get(measurement.name):
            parts += _shown(group, measurement, show, warn)
    return parts


def _shown(
    group: Group, measurement: Measurement[Any], show: Callable[[Group, Results], list[Part]], warn: Warn
) -> list[Part]:
    """The parts of one kind of file; one that is not as it should be is handed to `warn` and left out."""
    measured: Results = []
    for stage, arm, seed, folder in folders(group.entries):
        try:
            if results := measurement.read(folder):
                measured.append((stage, arm, seed, results))
        except BadInput as error:
            warn(f"{error}: left out of the probes")
    return show(group, measured) if measured else []


def _lens(group: Group, measured: Results) -> list[Part]:
    """Figure 4 of the paper: at which layers the right token is among the first ten, per arm."""
    parts: list[Part] = [Heading("Where the facts are stored (logit lens)")]
    for task in group.tasks:
        lists = {entry["list"] for entry in group.entries if entry["task"] == task and entry.get("list")}
        rows = [(*at, lens) for *at, results in measured for id_, lens in results.items() if id_ in lists]
        if not rows:
            continue
        panels: Panels = {}
        for stage, arm, seed, lens in rows:
            points = [(float(layer), share) for layer, share in enumerate(lens.occurrence, start=1)]
            panels.setdefault(f"after {stage}", {}).setdefault(arm, {})[seed] = points
        columns = ["arm", "after", "seeds", *LENS.values()]
        shown, data = [], []
        for stage, arm in dict.fromkeys((stage, arm) for stage, arm, _, _ in rows):
            of_arm = {seed: lens.model_dump(include=set(LENS)) for *at, seed, lens in rows if at == [stage, arm]}
            means = [number(_average([values[key] for values in of_arm.values()])) for key in LENS]
            shown.append([arm, stage, str(len(of_arm)), *means])
            data += [{"arm": arm, "stage": stage, "seed": seed, **values} for seed, values in of_arm.items()]
        peaks = [f"{row[0]} after {row[1]}: first at layer {row[3]}, spread over {row[5]} layers" for row in shown]
        alt = f"Share of all occurrences of the right {task} tokens at each layer, by arm. {shortened(peaks)}."
        caption = (
            f"{group.title}: where the right tokens of {task} are among the first ten, by layer "
            "(the occurrences of all layers sum to 1; figure 4 of the paper)"
        )
        parts.append(Figure(f"lens-{group.slug}-{task}", partial(occurrence_figure, panels), caption, alt))
        caption = f"{group.title}: logit lens on {task}, means over seeds"
        parts.append(Table(f"lens-{group.slug}-{task}", caption, columns, shown, heads=2, data=data))
    return parts if len(parts) > 1 else []


def _interference(group: Group, measured: Results) -> list[Part]:
    """Cosines of the gradients of the whole model, and what they foretell of the earlier facts' loss."""
    angles: dict[tuple[str, str], list[Angle]] = {}  # by the data sets' names and the arm's: one for each seed
    data, losses, noise = [], [], []
    several = len({stage for stage, *_ in measured}) > 1
    for stage, arm, seed, result in [(*at, result) for *at, results in measured for result in results.values()]:
        name, at = f"{arm}, {stage}" if several else arm, {"arm": arm, "stage": stage, "seed": seed}
        if weak := [f"the gradient of {what}" for what, norm in result.norms.items() if norm.noise]:
            noise.append(f"{name}, seed {seed}: {', '.join(weak)}")
        for weights, pairs in result.groups.items():
            data += [{**at, "weights": weights, "pair": pair, **dict(angle)} for pair, angle in pairs.items()]
        for pair, angle in result.groups.get("whole", {}).items():
            angles.setdefault((PAIRS.get(pair, pair), name), []).append(angle)
        if result.loss_after is not None:
            losses.append({**at, "of": result.sources.get("a", "-"), **result.model_dump(include=set(LOSSES))})
    rows: list[list[str]] = []
    panels: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (pair, name), of_seeds in angles.items():
        points = [{"mean": one.cosine, **dict(one)} for one in of_seeds if one.cosine is not None]
        shown, interval = "noise", "-"
        if points:
            panels.setdefault(pair.replace(" and ", "\nand "), {})[name] = points
            shown = f"{fmean(point['mean'] for point in points):+.3f}"
            interval = f"{min(point['low'] for point in points):+.3f} to {max(point['high'] for point in points):+.3f}"
        seeds = f"{len(points)} of {len(of_seeds)}" if 0 < len(points) < len(of_seeds) else str(len(of_seeds))
        rows.append([name, pair, shown, interval, seeds])
    parts: list[Part] = [Heading("Do the gradients oppose one another?")]
    if panels:
        arms = list(dict.fromkeys(row[0] for row in rows))
        alt = f"Cosines of gradients, by arm. {shortened([f'{r[0]}, {r[1]}: {r[2]} ({r[3]})' for r in rows])}."
        caption = f"{group.title}: cosines of the gradients of two data sets, each seed with its own 95% interval"
        parts.append(Figure(f"cosines-{group.slug}", partial(points_figure, panels, arms, "cosine"), caption, alt))
    caption = (
        f"{group.title}: cosines of gradients over the whole model; the interval from the lowest to the highest end of "
        "the seeds' own"
    )
    notes = ["Below zero, a step that helps the one harms the other. a: earlier facts, b: this stage's, m: mixing."]
    notes += [f"No more than noise, so that its angles mean nothing: {shortened(noise)}."] if noise else []
    columns = ["arm", "gradients of", "cosine", "95% interval", "seeds"]
    parts.append(Table(f"cosines-{group.slug}", caption, columns, rows, heads=2, notes=notes, data=data))
    if losses:
        columns = ["arm", "after", "facts of", "seeds", "loss before", "loss after", "foretold by gradients"]
        shown_losses = []
        for arm, stage in dict.fromkeys((row["arm"], row["stage"]) for row in losses):
            of_arm = [row for row in losses if (row["arm"], row["stage"]) == (arm, stage)]
            means = [number(_average([row[name] for row in of_arm]), ".3f") for name in LOSSES]
            shown_losses.append([arm, stage, of_arm[0]["of"], str(len(of_arm)), *means])
        caption = f"{group.title}: loss on the earlier facts, before and after the stage, and its change as foretold"
        parts.append(Table(f"foretold-{group.slug}", caption, columns, shown_losses, heads=3, data=losses))
    return parts


def _perplexity(group: Group, measured: Results) -> list[Part]:
    data = [
        {"arm": arm, "stage": stage, "seed": seed, "text": text, "perplexity": result.perplexity}
        for stage, arm, seed, results in measured
        for text, result in results.items()
    ]
    values: dict[tuple[str, ...], list[float]] = {}
    for row in data:
        values.setdefault((row["arm"], row["stage"], row["text"]), []).append(row["perplexity"])
    rows = [[*at, str(len(seeds)), f"{fmean(seeds):.2f}"] for at, seeds in values.items()]
    caption = f"{group.title}: perplexity on other text, mean over seeds"
    columns = ["arm", "after", "text", "seeds", "perplexity"]
    return [Heading("Other text"), Table(f"perplexity-{group.slug}", caption, columns, rows, heads=3, data=data)]


def _lm_eval(group: Group, measured: Results) -> list[Part]:
    data = [
        {"arm": arm, "stage": stage, "seed": seed, "task": task, "metric": metric, "value": value}
        for stage, arm, seed, results in measured
        for task, result in results.items()
        for metric, value in result.metrics.items()
    ]
    if not data:
        return []
    rows: dict[tuple[str, ...], list[float]] = {}
    for row in data:
        rows.setdefault((row["arm"], row["stage"], row["task"], row["metric"]), []).append(row["value"])
    everything = [result for *_, results in measured for result in results.values()]
    how = sorted({f"lm-evaluation-harness {result.version}" for result in everything if result.version})
    how += sorted({f"the first {result.limit} examples of a task" for result in everything if result.limit})
    return [
        Heading("Other abilities"),
        Table(
            f"lm_eval-{group.slug}",
            f"{group.title}: other abilities, mean over seeds",
            ["arm", "after", "task", "metric", "value", "seeds"],
            [[*at, f"{fmean(values):.3f}", str(len(values))] for at, values in rows.items()],
            heads=4,
            notes=[f"Measured by {', '.join(how)}."] if how else [],
            data=data,
        ),
    ]


def _average(values: list[float | None]) -> float | None:
    """The mean of those that are there, None if none is."""
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None
