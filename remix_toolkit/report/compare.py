"""`remix compare`: two stages, arms, sweeps or runs directories side by side, as data and on the screen.

Recall is compared on the same facts only, seed by seed and fact by fact; where the two were asked others, that is said.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from remix_toolkit.console import warn
from remix_toolkit.errors import BadInput
from remix_toolkit.graph.why import flatten
from remix_toolkit.report import summary
from remix_toolkit.report.facts import outcomes
from remix_toolkit.report.frame import Frame, load
from remix_toolkit.report.parts import Table, plain
from remix_toolkit.report.results import until
from remix_toolkit.report.retention import FLIPS, in_columns
from remix_toolkit.report.screen import as_records, console, print_lines, print_table
from remix_toolkit.report.sides import side_of
from remix_toolkit.report.stage import Stage
from remix_toolkit.report.summary import FLOOR, Comparison, retrained
from remix_toolkit.report.words import explain_comparisons, premise, seeds_text

Row = dict[str, Any]
SHOWN = 3  # facts that only one knows, of each list
LOSS_APART = 0.01  # losses part at the first step where they differ by more than this share of the larger one
RECALL_APART = 5.0  # retention curves at the first moment where they differ by at least as many points
NO_SETTING = {"name", "source", "train", "paths", "parameters", "shape", "device_gb"}  # `train` stands in the stages
MADE_WITH = {"device", "processes", "python", "libraries"}
FACT = ["stage", "task", "list", "seed", "prompt", "gold", "known_by", "a_said", "b_said"]
TITLES = {
    "settings": "declared differently",
    "made_with": "trained with",
    "held_out": "loss on held-out rows, right results in percent",
    "losses": "training loss, last step",
    "curves": "retention curves, recall at their end",
}


def compare(a: str, b: str, runs: Path) -> Row:
    """`{a, b, kind, pairs, only_a, only_b}`: each pair what differs between two stages or arms, see `_pair`.

    `a` and `b` as `side_of` has them. Of two sweeps or runs directories, arms of the same name are compared. Raises
    BadInput where a name means nothing or several things, the two are of different kinds, or a file is damaged.
    """
    load_once = cache(load)
    left, right = side_of(a, runs, load_once), side_of(b, runs, load_once)
    if left.kind != right.kind:
        raise BadInput(f"{a} is {left.kind}, {b} is {right.kind}: two of a kind can be compared")
    names = [(name, name) for name in left.arms if name in right.arms]
    if len(left.arms) == len(right.arms) == 1:
        names = list(zip(left.arms, right.arms, strict=True))
    stages = {**left.frame.stages, **right.frame.stages}
    pairs = [
        {"a": one, "b": other, **_pair(left.arms[one], right.arms[other], stages, left.kind == "a stage")}
        for one, other in names
    ]
    every = [compared for pair in pairs for compared in pair["recall"]]
    for at in {(one.stage, one.list) for one in every}:  # of all arms, those that are of the same facts
        summary.correct_p([one for one in every if (one.stage, one.list) == at])
    return {
        "a": a,
        "b": b,
        "kind": left.kind,
        "pairs": pairs,
        "only_a": [name for name in left.arms if name not in {one for one, _ in names}],
        "only_b": [name for name in right.arms if name not in {other for _, other in names}],
    }


def as_json(compared: Row) -> Row:
    """Recall in percent, differences (b - a) in points, losses in nats a token."""
    names = {"of_first": "a", "of_second": "b", "one_to_zero": "only_a", "zero_to_one": "only_b"}

    def row(one: Comparison) -> Row:
        values = {names.get(name, name): value for name, value in vars(one).items() if name not in ("first", "second")}
        return {**values, "flips": one.flips.to_dict("records")}

    return {**compared, "pairs": [{**pair, "recall": list(map(row, pair["recall"]))} for pair in compared["pairs"]]}


def write_facts(compared: Row, file: Path) -> None:
    """Every fact that only one of the two knows, as CSV, and what each said; several right answers with a | between."""
    rows = [{"a": pair["a"], "b": pair["b"], **fact} for pair in compared["pairs"] for fact in pair["facts"]]
    facts = pd.DataFrame(rows, columns=["a", "b", *FACT])
    facts.assign(gold=facts["gold"].str.join(" | ")).to_csv(file, index=False)


# --- two of a kind -----------------------------------------------------------------------------------------------


def _pair(a: pd.DataFrame, b: pd.DataFrame, stages: Mapping[str, Stage], of_stages: bool) -> Row:
    """What differs: `{settings, made_with, recall, facts, held_out, losses, curves, notes}`, each a list.

    Compared are stages of the same name or, where there is none, the last ones. `facts` are those that only one of the
    two knows.
    """
    frame = Frame(pd.concat([a, b]), [], stages, warn, strict=True)
    names = [list(side["stage"].unique()) for side in (a, b)]
    same = [(name, name) for name in names[0] if name in names[1]]
    pair: Row = {name: [] for name in ("recall", "facts", "held_out", "losses", "curves", "notes")}
    last = stages[a["path"].iloc[-1]], stages[b["path"].iloc[-1]]
    for one, other in same if same and not of_stages else [(names[0][-1], names[1][-1])]:
        at = one if one == other else f"{one} / {other}"
        left, right = (
            side[side["stage"] == stage].drop_duplicates(["seed", "list"], keep="last").sort_values("seed")
            for side, stage in ((a, one), (b, other))
        )
        _compare_recall(frame, pair, at, left, right)
        both = left.drop_duplicates("seed").merge(right.drop_duplicates("seed"), on="seed", suffixes=("_a", "_b"))
        pair["notes"] += [f"{at}: no seed in common, so nothing is compared"] * both.empty
        for row in both.itertuples():
            last = stages[row.path_a], stages[row.path_b]
            for part, rows in _measured({"stage": at, "seed": row.seed}, *last).items():
                pair[part] += rows
            if why := retrained(*last):
                pair["notes"].append(f"{at}, seed {row.seed}: facts are not compared: {why}")
    pair["notes"] += _notes((a, b), last, of_stages)
    one, other = (stage.record.model_dump(include=MADE_WITH) for stage in last)
    return {"settings": _settings(*last), "made_with": _differences(one, other), **pair}


def _notes(sides: tuple[pd.DataFrame, pd.DataFrame], last: tuple[Stage, Stage], of_stages: bool) -> Iterator[str]:
    """What else is to be known of the two."""
    keys = [stage.record.key for stage in last]
    for name, side, other, stage in (("A", *sides, last[0]), ("B", *sides[::-1], last[1])):
        if more := sorted(set(side["seed"]) - set(other["seed"])):
            yield f"only {name} has {seeds_text(more)}"
        if set(keys) & set(stage.record.ancestors):
            yield f"{name} was trained from the other: what only the other knows was forgotten since"
        for row in side[side["own"] & (side["recall"] < FLOOR)].itertuples():
            seed = "" if of_stages else f", seed {row.seed}"
            yield f"{name}{seed}: {premise(row.stage, f'{row.recall:.1f}%')}"
    if keys[0] == keys[1]:
        yield "both are the same stage"


def _compare_recall(frame: Frame, pair: Row, at: str, a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Recall of every list of facts that both were asked, and which only one was."""
    a, b = (side[side["recall"].notna()] for side in (a, b))
    for list_id, asked in a[a["list"].isin(b["list"])].groupby("list", sort=False):
        task = asked["task"].iloc[0]
        others = b[b["list"] == list_id]
        compared = summary.compare(frame, asked.itertuples(), others.itertuples())
        if compared is None:
            pair["notes"].append(f"{task} after {at}: no seed and fact in common, not compared")
            continue
        compared.stage, compared.task = at, task
        pair["recall"].append(compared)
        pair["facts"] += _facts(frame, compared, asked, others)
    for name, side, other in (("A", a, b), ("B", b, a)):
        for row in side[~side["list"].isin(other["list"])].drop_duplicates("list").itertuples():
            pair["notes"].append(f"{row.task} after {at}: only {name} was asked the facts {row.list}, not compared")


def _facts(frame: Frame, compared: Comparison, a: pd.DataFrame, b: pd.DataFrame) -> list[Row]:
    """The facts that only one of the two knows under a seed, and what each said."""
    paths, facts = ({row.seed: row.path for row in side.itertuples()} for side in (a, b)), []
    for seed, *both in zip(compared.seeds, *([of[seed] for seed in compared.seeds] for of in paths), strict=True):
        verdicts = [frame.stages[path].verdicts(compared.list) for path in both]
        about = {"seed": seed, "prompt": verdicts[0]["prompt"], "gold": verdicts[0]["gold"].to_pylist()}
        facts.append(outcomes(*verdicts).assign(**about))
    every = pd.concat(facts).rename(columns={"first": "a_said", "last": "b_said"})
    known_by = every["outcome"].map({"lost": "a", "gained": "b"})
    every = every.assign(stage=compared.stage, task=compared.task, list=compared.list, known_by=known_by)
    return as_records(every.dropna(subset="known_by")[FACT])


def _measured(at: Row, a: Stage, b: Stage) -> dict[str, list[Row]]:
    """What else both have: losses on held-out rows, training losses, retention curves; and where these are apart."""
    held_out = []
    if a.held_out and b.held_out:
        for what in ("loss", "accuracy"):
            row = {**at, "rows": a.held_out.rows, "what": what, "a": getattr(a.held_out, what)}
            held_out.append({**row, "b": getattr(b.held_out, what)})
    held_out = [row for row in held_out if None not in (row["a"], row["b"])]
    losses = a.losses.merge(b.losses, on="step", suffixes=("_a", "_b")).set_index("step")
    apart = (losses["loss_a"] - losses["loss_b"]).abs() > LOSS_APART * losses.max(axis="columns")
    ends = {"a": a.record.last_loss, "b": b.record.last_loss, "same_stage": a.record.key == b.record.key}
    ends |= {"steps_a": a.record.steps, "steps_b": b.record.steps, "parts_at_step": _first(apart)}
    curves = []
    both = a.curves.merge(b.curves, on=["list", "epoch"], how="outer", suffixes=("_a", "_b"))
    for list_id, of_list in both.groupby("list", sort=False):
        points = of_list.set_index("epoch")[["recall_a", "recall_b"]]
        if points.notna().any().all():
            row = {**at, "list": list_id, "a": points["recall_a"].dropna().iloc[-1]}
            row |= {"b": points["recall_b"].dropna().iloc[-1]}
            parts = _first((points["recall_a"] - points["recall_b"]).abs() >= RECALL_APART)
            curves.append({**row, "parts_at_epoch": parts})
    return {"held_out": held_out, "losses": [{**at, **ends}], "curves": curves}


def _first(apart: "pd.Series[bool]") -> Any:
    """The first moment of those that are true, None where none is."""
    return next(iter(apart[apart].index.tolist()), None)


def _settings(a: Stage, b: Stage) -> list[Row]:
    """What the two declare differently, by dotted key; of a stage that only one has, its task."""
    left, right = (
        {key: value for key, value in until(stage.recipe, stage.record.stage).items() if key not in NO_SETTING}
        for stage in (a, b)
    )
    for one, other in ((left, right), (right, left)):
        one["stages"] = {
            name: stage if name in other["stages"] else stage["data"]["task"] for name, stage in one["stages"].items()
        }
    # Where all of it is the same, a file under the same name may be another one.
    return _differences(left, right) or _differences(a.record.declaration, b.record.declaration, "declaration")


def _differences(a: Row, b: Row, path: str = "") -> list[Row]:
    left, right = dict(flatten(a, path)), dict(flatten(b, path))
    keys = dict.fromkeys([*left, *right])
    return [{"key": key, "a": left.get(key), "b": right.get(key)} for key in keys if left.get(key) != right.get(key)]


# --- on the screen -----------------------------------------------------------------------------------------------


def print_compared(compared: Row) -> None:
    """`remix compare` on the screen."""
    of_stages = compared["kind"] == "a stage"
    for pair in compared["pairs"]:
        console().print(f"A: {plain(pair['a'])}\nB: {plain(pair['b'])}", style="bold")
        if not pair["settings"]:
            print_lines(["Both declare the same."])
        _print_parts(pair, ["settings", "made_with"], of_stages)
        _print_recall(pair["recall"], of_stages)
        _print_facts(pair["facts"], of_stages)
        _print_parts(pair, ["held_out", "losses", "curves"], of_stages)
        print_lines([*pair["notes"], ""])
    if not compared["pairs"]:
        print_lines(["No arm of one has the name of an arm of the other."])
    for side in "ab":
        if only := compared[f"only_{side}"]:
            print_lines([f"Only {side.upper()} has: {', '.join(only)}"])


def _print_parts(pair: Row, parts: list[str], of_stages: bool) -> None:
    for part in parts:
        if rows := pair[part]:
            shown = pd.DataFrame(rows, dtype=object).drop(columns=["seed"] if of_stages else [], errors="ignore")
            shown = shown.map(lambda cell: f"{cell:.6g}" if isinstance(cell, float) else cell)
            shown.columns = [name.upper() if name in "ab" else name.replace("_", " ") for name in shown.columns]
            print_table(Table("", TITLES[part], shown, words=tuple(shown.columns)))


def _print_recall(compared: list[Comparison], of_stages: bool) -> None:
    """Of stages, without seeds and p."""
    if compared:
        shown = in_columns(compared).drop(columns=["seeds", "p", "p (Holm)"] if of_stages else [])
        shown.insert(0, "A", [one.of_first for one in compared])
        shown.insert(1, "B", [one.of_second for one in compared])
        shown.index = pd.Index([f"{one.task} after {one.stage}" for one in compared], name="of")
        caption = "recall in percent, on the same facts, B less A"
        print_table(Table("", caption, shown, notes=[explain_comparisons(compared), FLIPS]))


def _print_facts(facts: list[Row], of_stages: bool) -> None:
    """A few of the facts that only one of the two knows, of each list."""
    by_list = pd.DataFrame(facts, columns=FACT).groupby(["list", "stage", "task", "known_by"], sort=False)
    for (_, stage, task, known_by), rows in by_list:
        other = "b" if known_by == "a" else "a"
        print_lines([f"{task} after {stage}, known to {known_by.upper()} only:"])
        for fact in rows.head(SHOWN).to_dict("records"):
            answer = plain(fact[f"{other}_said"]) or "nothing"
            seed = "" if of_stages else f", seed {fact['seed']}"
            gold = next(iter(fact["gold"]), "")
            console().print(f"  {plain(fact['prompt'])} {plain(gold)} ({other.upper()} says {answer}{seed})")
        if len(rows) > SHOWN:
            console().print(f"  and {len(rows) - SHOWN} more: --facts FILE has all")
