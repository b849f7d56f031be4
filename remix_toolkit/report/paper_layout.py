"""The paper as data (paper.yaml): its tables and claims; and where in its tables a published run belongs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from remix_toolkit.recipe.strict import Strict
from remix_toolkit.report.retention import FLOOR
from remix_toolkit.report.seeds import aggregate

Entry = dict[str, Any]
Setting = tuple[str, ...]  # the profile, then whatever else was said on the command line that changes the weights
At = tuple[str, str, str]  # D_A, arm, D_B: a cell, as the paper names them


class Tiny(Strict):
    """What stands in for a table's rows, arms and columns under profile `tiny`: the paper's name -> ours."""

    rows: dict[str, str]
    arms: dict[str, str]
    factoid: list[str]
    show: list[str] | None = None
    set: list[str] = Field([])  # keys that the sweep itself sets


class Layout(Strict):
    """One table or figure of the paper; paper.yaml says what its keys mean."""

    title: str
    profile: list[str]
    also: list[str] = Field([])
    last: str = "stage2"
    measured: bool = False  # D_A is trained in no stage: its facts are only measured (tables 5 and 6)
    rows: list[str]
    arms: list[str]
    same: dict[str, list[str]] = Field({})
    factoid: list[str] = Field([])
    nonfactoid: list[str] = Field([])
    show: list[str]
    printed: dict[str, dict[str, list[float | Literal["-"] | None]]] = Field({})
    tiny: Tiny
    notes: list[str] = Field([])


class Side(Strict):
    """One side of a comparison; what it does not say, the check says."""

    arm: str | list[str] | None = None
    after: str | list[str] | None = None
    table: str | None = None


class Check(Strict):
    """`more` keeps more than `less` by more than `by` points, in each of `rows`."""

    table: str
    rows: list[str]
    arm: str | None = None
    after: str | list[str] | None = None
    each: str | list[str] | None = None
    more: Side
    less: Side
    by: float = 0.0
    value: Literal["recall", "first_layer", "spread"] = "recall"


class Said(Strict):
    """One claim of the paper, and what has to be seen for it to hold."""

    id: str
    says: str
    where: str
    note: str = ""
    checks: list[Check]


class Paper(Strict):
    groups: dict[str, Any]  # only there to be referred to
    tables: dict[str, Layout]
    claims: list[Said]


@cache
def paper() -> Paper:
    """paper.yaml, checked."""
    text = (resources.files("remix_toolkit.report") / "paper.yaml").read_text(encoding="utf-8")
    return Paper.model_validate(yaml.safe_load(text))


@dataclass(frozen=True)
class View:
    """A table under one profile: the names in print -> ours."""

    rows: dict[str, str]
    arms: dict[str, list[str]]
    groups: dict[str, list[str]]  # factoid, nonfactoid and all -> their columns
    show: list[str]
    set: list[str]

    def named(self, arm: str) -> str:
        """What an arm of the paper is called here."""
        ours = self.arms.get(arm, [])
        return ours[0] if len(ours) == 1 else arm


@cache
def view(table: str, profile: str) -> View:
    """The rows, arms and columns that a table has under a profile: `tiny` has its own, any other the paper's."""
    layout = paper().tables[table]
    if Path(profile).stem == "tiny":  # a file of the user's own too: the sweeps have the same section for it
        own = layout.tiny
        average = ["avg_factoid"] if len(own.factoid) > 1 else []
        groups = {"factoid": own.factoid, "nonfactoid": [], "all": own.factoid}
        arms = {name: [ours] for name, ours in own.arms.items()}
        return View(own.rows, arms, groups, own.show or [*own.factoid, *average], own.set)
    groups = {"factoid": layout.factoid, "nonfactoid": layout.nonfactoid}
    groups["all"] = layout.factoid + layout.nonfactoid
    arms = {name: layout.same.get(name, [name]) for name in layout.arms}
    return View({row: row for row in layout.rows}, arms, groups, layout.show, [])


def comparable(table: str, setting: Setting) -> bool:
    """May the paper's numbers stand beside ours? Only where profile and overrides are the paper's.

    A sweep's file that was edited under its name is not seen: its stages' keys are known only where its data lies.
    """
    return len(setting) == 1 and setting[0] in paper().tables[table].profile


# --- the cells among what is published ---------------------------------------------------------------------------


@dataclass
class Found:
    """What is published of one table under one setting."""

    cells: dict[At, list[Entry]]  # renamed: the table as recipe, D_A as task, no overrides
    unlearned: dict[tuple[str, str, str, int], float]  # D_A, arm, stage, seed -> recall of its own facts, under 99%


def find(entries: Sequence[Entry]) -> dict[tuple[str, Setting], Found]:
    """(table, setting) -> its cells among `store.entries`. An entry that no table has a place for is left out."""
    runs: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        run = (entry["recipe"], entry["arm"], entry["profile"], entry["seed"], tuple(entry["overrides"]), entry["run"])
        runs.setdefault(run, []).append(entry)
    found: dict[tuple[str, Setting], Found] = {}
    for mine in runs.values():
        for table, layout in paper().tables.items():
            if mine[0]["recipe"] in (table, *layout.also):
                for (row, arm, column), entry, setting in _places(table, layout, mine):
                    there = found.setdefault((table, setting), Found({}, {}))
                    renamed = {"recipe": table, "arm": arm, "task": row, "overrides": [], "grid_point": ""}
                    there.cells.setdefault((row, arm, column), []).append({**entry, **renamed})
                    for low in mine:
                        if low["own"] and low["recall"] is not None and low["recall"] < FLOOR:
                            there.unlearned[row, arm, low["stage"], low["seed"]] = low["recall"]
    return found


def _places(table: str, layout: Layout, run: Sequence[Entry]) -> list[tuple[At, Entry, Setting]]:
    """The cells of a table that one run fills: one, or one for each task that is only measured."""
    profile, label = run[0]["profile"], run[0]["arm"]
    models = {name for other in paper().tables.values() for name in other.profile}
    if run[0]["recipe"] != table and profile in models and profile not in layout.profile:
        return []  # figure 9 holds two models: each of them has a table of its own
    seen = view(table, profile)
    named = [(name, ours) for name, all_ in seen.arms.items() for ours in all_ if f", {label}".endswith(f", {ours}")]
    if not named:
        return []
    arm, ours = named[0]
    point = label.removesuffix(ours).rstrip(", ").split(", ") if label != ours else []
    if point[:1] == [profile]:
        point = point[1:]
    rows = {ours: row for row, ours in seen.rows.items()}
    row = None if layout.measured else next(iter(rows.values())) if len(rows) == 1 else ""
    if not layout.measured and point and point[0] in rows:
        row, point = rows[point[0]], point[1:]
    columns = seen.groups["all"]
    column = ", ".join(point) or (columns[0] if len(columns) == 1 else "")
    if row == "" or column not in columns:
        return []
    setting = (profile, *run[0]["overrides"])
    last = [entry for entry in run if entry["stage"] == layout.last and entry["recall"] is not None]
    if layout.measured:
        own = {entry["list"] for entry in run if entry["own"] and entry["recall"] is not None}
        tasks = [(rows.get(entry["task"].split()[0]), entry) for entry in last if entry["list"] not in own]
        return [((task, arm, column), entry, setting) for task, entry in tasks if task]
    first = {entry["list"] for entry in run if entry["stage"] == "stage1" and entry["own"]}
    return [((str(row), arm, column), entry, setting) for entry in last if entry["list"] in first]


def average(cells: Mapping[At, Sequence[Entry]], row: str, arm: str, columns: Sequence[str]) -> list[Entry]:
    """The mean over columns as an entry for each seed that all of them have; none where a column is missing."""
    by_seed = [{entry["seed"]: entry for entry in cells.get((row, arm, column), ())} for column in columns]
    seeds = [seed for seed in (by_seed[0] if by_seed else ()) if all(seed in one for one in by_seed)]
    mean = {seed: sum(one[seed]["recall"] for one in by_seed) / len(by_seed) for seed in seeds}
    return [{**by_seed[0][seed], "recall": mean[seed]} for seed in seeds]


def over_seeds(entries: Sequence[Entry]) -> Entry | None:
    """`aggregate` of one cell's entries; None where there are none."""
    rows = aggregate(entries)
    return rows[0] if rows else None
