"""Two stages, or two arms over their seeds, side by side: settings, facts kept, losses and retention curves.

Recall is compared on the same facts only, seed by seed and fact by fact; where the two were asked others, that is said.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from remix_toolkit.report import verdicts
from remix_toolkit.report.results import read_stage, until
from remix_toolkit.report.retention import FLOOR, premise
from remix_toolkit.report.seeds import other_parents, paired
from remix_toolkit.report.series import read_curves, read_losses

Entry = dict[str, Any]
LOSS_APART = 0.01  # losses part at the first step where they differ by more than this share of the larger one
RECALL_APART = 5.0  # retention curves at the first moment where they differ by at least as many points
NO_SETTING = {"name", "source", "train", "paths", "parameters", "shape", "device_gb"}  # `train` stands in the stages


def pair(a: list[Entry], b: list[Entry], one_each: bool) -> dict[str, Any]:
    """What differs: `{settings, made_with, recall, facts, held_out, losses, curves, notes}`, each a list of rows.

    Compared are stages of the same name or, where there is none, the last ones. Recall is in percent, differences (b -
    a) in points, as `seeds.paired` has them; losses in nats a token. `facts` are those that only one of the two knows.
    """
    parts: dict[str, Any] = {"settings": [], "made_with": [], "recall": [], "facts": [], "held_out": []}
    parts |= {"losses": [], "curves": [], "notes": []}
    names = [list(dict.fromkeys(entry["stage"] for entry in side)) for side in (a, b)]
    stages = [(name, name) for name in names[0] if name in names[1]]
    if one_each or not stages:
        stages = [(names[0][-1], names[1][-1])]
    for one, other in stages:
        label = one if one == other else f"{one} / {other}"
        left, right = [e for e in a if e["stage"] == one], [e for e in b if e["stage"] == other]
        _recall(parts, left, right, label)
        folders = [{entry["seed"]: Path(entry["path"]) for entry in side} for side in (left, right)]
        shared = sorted(folders[0].keys() & folders[1].keys())
        if not shared:
            parts["notes"].append(f"{label}: no seed in common, so nothing is compared")
        for seed in shared:
            at = {"stage": label, "seed": seed}
            if why := other_parents({"path": folders[0][seed]}, {"path": folders[1][seed]}):
                parts["notes"].append(f"{label}, seed {seed}: facts are not compared: {why}")
            _went(parts, at, folders[0][seed], folders[1][seed])
    last = [side[shared[0] if shared else min(side)] for side in folders]  # of the seeds, one stands for all
    parts["settings"], parts["made_with"] = _settings(*last), _made_with(*last)
    ran = [{entry["seed"] for entry in side} for side in (a, b)]
    for side, more in (("A", ran[0] - ran[1]), ("B", ran[1] - ran[0])):
        if more and not one_each:
            parts["notes"].append(f"only {side} has seed{'s' * (len(more) > 1)} {', '.join(map(str, sorted(more)))}")
    keys = [read_stage(folder) for folder in last]
    for one, other, side in ((keys[0], keys[1], "B"), (keys[1], keys[0], "A")):
        if one.key in other.ancestors:
            parts["notes"].append(f"{side} was trained from the other: what only the other knows was forgotten since")
    if keys[0].key == keys[1].key:
        parts["notes"].append("both are the same stage")
    for side, entries in (("a", a), ("b", b)):
        for entry in entries:
            if entry["own"] and entry["recall"] is not None and entry["recall"] < FLOOR:
                seed = "" if one_each else f", seed {entry['seed']}"
                low = premise(entry["stage"], f"{entry['recall']:.1f}%")
                parts["notes"].append(f"{side.upper()}{seed}: {low}")
    return parts


def _recall(parts: dict[str, Any], left: list[Entry], right: list[Entry], label: str) -> None:
    """Recall of every list of facts that both have, and those that only one has."""
    lists = [{e["list"]: e["task"] for e in side if e["recall"] is not None} for side in (left, right)]
    for id_, task in lists[0].items():
        if id_ not in lists[1]:
            continue
        alike = {"recipe": "", "profile": "", "overrides": [], "stage": label, "task": id_}
        sides = {"a": left, "b": right}
        rows = [{**e, **alike, "arm": arm} for arm, side in sides.items() for e in side if e.get("list") == id_]
        result = paired(rows, "a", "b", label, id_)
        if result is None:
            parts["notes"].append(f"{task} after {label}: no seed and fact in common, not compared")
            continue
        shares, apart = _facts(rows, result["seeds"], id_, {"stage": label, "task": task})
        names = ("difference", "low", "high", "p", "over", "seeds_to_halve", "seeds", "facts", "flips")
        row = {name: result[name] for name in names}
        only = {"only_a": result["one_to_zero"], "only_b": result["zero_to_one"]}
        parts["recall"].append({"stage": label, "task": task, "list": id_, **shares, **row, **only})
        parts["facts"] += apart
    for asked_here, others, side in ((lists[0], lists[1], "A"), (lists[1], lists[0], "B")):
        for id_, task in asked_here.items():
            if id_ in others:
                continue
            same = [other for other, name in others.items() if name == task and other not in asked_here]
            if same and side == "A":
                asked = f"A was asked {id_}, B {', '.join(same)}"
                parts["notes"].append(f"{task} after {label}: not the same facts, not compared ({asked})")
            elif not same:
                parts["notes"].append(f"{task} after {label}: only {side} was asked {id_}")


def _facts(
    rows: list[Entry], seeds: list[int], id_: str, about: dict[str, str]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Recall of each, in percent of what both were asked, and the facts that only one of them knows.

    Those are `{stage, task, list, seed, prompt, gold, known_by, a_said, b_said}`.
    """
    paths = {(entry["arm"], entry["seed"]): entry["path"] for entry in rows}  # the newest of a seed, as `paired` has it
    asked, known, apart = 0, {"a": 0, "b": 0}, []
    for seed in seeds:
        a, b = ({row.prompt: row for row in verdicts.rows(paths[side, seed], id_)} for side in "ab")
        for prompt in [prompt for prompt in a if prompt in b]:
            one, other = a[prompt], b[prompt]
            asked += 1
            known["a"] += one.correct
            known["b"] += other.correct
            if one.correct == other.correct:
                continue
            fact = {**about, "list": id_, "seed": seed, "prompt": prompt, "gold": list(one.gold)}
            fact |= {"known_by": "a" if one.correct else "b"}
            fact |= {"a_said": str(verdicts.answer(one)), "b_said": str(verdicts.answer(other))}
            apart.append(fact)
    return {side: 100.0 * many / asked for side, many in known.items()}, apart


def _went(parts: dict[str, Any], at: dict[str, Any], a: Path, b: Path) -> None:
    """How two stages trained: their losses, their retention curves, and the loss on held-out rows."""
    left, right = read_stage(a), read_stage(b)
    losses = _losses(a), _losses(b)
    apart = (
        step
        for step in losses[0]
        if step in losses[1]
        and abs(losses[0][step] - losses[1][step]) > LOSS_APART * max(losses[0][step], losses[1][step])
    )
    parts["losses"].append(
        {**at, "same_stage": left.key == right.key, "steps_a": left.steps, "steps_b": right.steps}
        | {"a": left.last_loss, "b": right.last_loss, "parts_at_step": next(apart, None)}
    )
    curves = read_curves(a), read_curves(b)
    for id_ in [id_ for id_ in curves[0] if id_ in curves[1]]:
        one, other = dict(curves[0][id_]), dict(curves[1][id_])
        epochs = [epoch for epoch in one if epoch in other and abs(one[epoch] - other[epoch]) >= RECALL_APART]
        row = {**at, "list": id_, "a": list(one.values())[-1], "b": list(other.values())[-1]}
        parts["curves"].append({**row, "parts_at_epoch": epochs[0] if epochs else None})
    if left.held_out and right.held_out:
        for name in ("loss", "accuracy"):
            values = {"a": getattr(left.held_out, name), "b": getattr(right.held_out, name)}
            if None not in values.values():
                parts["held_out"].append({**at, "what": name, "rows": left.held_out.rows, **values})


def _losses(folder: Path) -> dict[int, float]:
    """Step -> loss; steps without a finite one are left out."""
    return {int(step): loss for step, loss in read_losses(folder / "loss.csv") if math.isfinite(loss)}


# --- settings ----------------------------------------------------------------------------------------------------


def _settings(a: Path, b: Path) -> list[dict[str, Any]]:
    """What the two declare differently, by dotted key; a stage that only one has is one row."""
    left, right = _declared(a), _declared(b)
    stages = left["stages"], right["stages"]
    rows = []
    for name in [*stages[0], *stages[1]]:
        if (name in stages[0]) != (name in stages[1]):
            tasks = [side.pop(name)["data"]["task"] if name in side else None for side in stages]
            rows.append({"key": f"stages.{name}", "a": tasks[0], "b": tasks[1]})
    rows += _differences(left, right)
    if not rows and (differ := _differences(read_stage(a).declaration, read_stage(b).declaration)):
        return [{**row, "key": f"declaration.{row['key']}"} for row in differ]  # other files under the same name
    return rows


def _declared(folder: Path) -> dict[str, Any]:
    stage = read_stage(folder).stage
    recipe = until(yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")), stage)
    return {key: value for key, value in recipe.items() if key not in NO_SETTING}


def _made_with(a: Path, b: Path) -> list[dict[str, Any]]:
    names = {"device", "processes", "python", "libraries"}
    return _differences(read_stage(a).model_dump(include=names), read_stage(b).model_dump(include=names))


def _differences(a: Any, b: Any) -> list[dict[str, Any]]:
    left, right = dict(_flat(a)), dict(_flat(b))
    keys = dict.fromkeys([*left, *right])
    return [{"key": key, "a": left.get(key), "b": right.get(key)} for key in keys if left.get(key) != right.get(key)]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key, value; of lists, the places count as keys."""
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict | list):
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        for key, one in items:
            yield from _flat(one, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
