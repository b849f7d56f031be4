"""A sweep in numbers: means over seeds, and arms compared fact by fact.

All runs of a sweep share their facts (`data_seed`), so seeds and arms are paired: each model was asked the same ones.
The formulas are those of `stats`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
import pandas as pd

from remix_toolkit.graph.retrained import retrained_ancestor
from remix_toolkit.report import stats
from remix_toolkit.report.frame import SWEEP, Frame
from remix_toolkit.report.stage import Stage

FLOOR = 99.0  # the paper's premise: a stage ends at 100% recall of its own facts (section 2.1)
CELL = [*SWEEP, "label", "stage", "task"]  # what means over seeds are of


@dataclass(frozen=True)
class Comparison(stats.Difference):
    """How two arms differ in recall of one task's facts: the same seeds, and the same facts of one list, in both.

    `of_first` and `of_second` are each one's recall in percent there, and `flips` the facts that only one of them
    knows: `prompt`, and under how many seeds the first (`one_to_zero`) and the second (`zero_to_one`) alone does.
    `p_holm` is p corrected for the comparisons that it is shown with; None under one seed, which compares no arms.
    """

    first: str
    second: str
    stage: str
    task: str
    list: str
    seeds: Sequence[int]
    facts: int
    of_first: float
    of_second: float
    flips: pd.DataFrame
    p_holm: float | None = None

    @property
    def is_clear(self) -> bool:
        """Does the interval leave zero out?"""
        return self.low > 0 or self.high < 0

    @property
    def is_clear_under_one_seed(self) -> bool:
        """Does it, for other facts alone? That compares no arms: other seeds may differ by more."""
        return self.is_clear and self.p_holm is None


@dataclass
class Sweep:
    """One recipe or sweep under one profile, at one point of a grid; where a seed was run twice, the newest counts."""

    frame: Frame

    @property
    def rows(self) -> pd.DataFrame:
        return self.frame.measured

    @cached_property
    def published(self) -> pd.DataFrame:
        """A row of each stage of each arm and seed, that of the newest run."""
        return self.rows.drop_duplicates(["stage", "label", "seed"], keep="last")

    @cached_property
    def recipe(self) -> str:
        return str(self.rows["recipe"].iloc[0])

    @cached_property
    def profile(self) -> str:
        return str(self.rows["profile"].iloc[0])

    @cached_property
    def title(self) -> str:
        point = self.rows["grid_point"].iloc[0]
        return f"{self.recipe} on {self.profile}" + (f", {point}" if point else "")

    @cached_property
    def slug(self) -> str:
        """In the names of its files."""
        return slug(*self.rows[SWEEP].iloc[0])

    @cached_property
    def stages(self) -> list[str]:
        return list(self.rows["stage"].unique())

    @cached_property
    def arms(self) -> list[str]:
        return list(self.rows["label"].unique())

    @cached_property
    def seeds(self) -> list[int]:
        return sorted(self.rows["seed"].unique().tolist())

    @cached_property
    def tasks(self) -> list[str]:
        """Those whose recall after the last stage says what was kept."""
        return remembered(self.rows)

    @cached_property
    def means(self) -> pd.DataFrame:
        return over_seeds(self.frame)

    @cached_property
    def _means(self) -> dict[tuple[str, str, str], Any]:
        return {(row.label, row.stage, row.task): row for row in self.means.itertuples()}

    def mean(self, arm: str, stage: str, task: str) -> Any:
        """The row of `means` of one arm, stage and task; None where there is none."""
        return self._means.get((arm, stage, task))

    def ranked(self, task: str) -> pd.DataFrame:
        """The means of a task after the last stage, the best arm first."""
        rows = self.means[(self.means["stage"] == self.stages[-1]) & (self.means["task"] == task)]
        return rows.sort_values("mean", ascending=False, kind="stable")

    @cached_property
    def _kept(self) -> dict[tuple[str, str], list[Any]]:
        """Recall after the last stage: (arm, task) -> a row for each seed."""
        rows: dict[tuple[str, str], list[Any]] = {}
        for row in self.rows[(self.rows["stage"] == self.stages[-1]) & self.rows["recall"].notna()].itertuples():
            rows.setdefault((row.label, row.task), []).append(row)
        return rows

    def compare(self, first: str, second: str, task: str) -> Comparison | None:
        """Two arms after the last stage, see `compare`."""
        return compare(self.frame, *(self._kept.get((arm, task), []) for arm in (first, second)))

    @cached_property
    def against_first(self) -> dict[str, list[Comparison]]:
        """For each task to remember, every arm that can be compared with the first one."""
        first, *others = self.arms
        compared = {task: [self.compare(first, arm, task) for arm in others] for task in self.tasks}
        return {task: with_holm([one for one in of_task if one]) for task, of_task in compared.items()}

    def unlearned(self) -> set[str]:
        """The arms whose first stage does not know its own facts under some seed: what they lack later was not lost."""
        rows = self.rows[(self.rows["stage"] == self.stages[0]) & self.rows["own"]]
        return set(rows.loc[rows["recall"] < FLOOR, "label"])


def sweeps(frame: Frame) -> list[Sweep]:
    """One for each recipe, profile and point of a grid, in the order of the frame."""
    frame = newest(frame)
    groups = frame.measured.groupby(SWEEP, sort=False).groups.values()
    return [Sweep(frame.where(frame.measured.index.isin(rows))) for rows in groups]


def newest(frame: Frame) -> Frame:
    """The frame without what a newer run of the same seed measured again."""
    return frame.where(~frame.measured.duplicated([*CELL, "seed"], keep="last"))


def over_seeds(frame: Frame) -> pd.DataFrame:
    """Recall over seeds: a row for each sweep, arm, stage and task, in the frame's order.

    `mean`, `sd` (NaN for one seed), the 95% interval `low`, `high`, what it is `over` and `seeds_to_halve` are those of
    `stats.recall`. `n` and `seeds` are those that were measured; `missing` are those that anything else of this recipe
    and profile has, or under which the arm was begun. `facts` is the number of facts, `lists` their ids: more than one,
    and the seeds were asked different facts. Where one seed was run twice, the newest counts.
    """
    rows = newest(frame).measured
    means = (
        rows[rows["recall"].notna()]
        .groupby(CELL, sort=False)
        .agg(
            arm=("arm", "last"),
            overrides=("overrides", "last"),
            own=("own", "last"),
            facts=("facts", "last"),
            fewest=("facts", "min"),
            recalls=("recall", list),
            n=("seed", "size"),
            seeds=("seed", sorted),
            lists=("list", lambda ids: sorted(set(ids))),
        )
        .reset_index()
    )
    recalls = [vars(stats.recall(row.recalls, row.fewest)) for row in means.itertuples()]
    means = means.join(pd.DataFrame(recalls, columns=list(stats.Recall.__annotations__), index=means.index))
    ran = frame.measured.groupby(["recipe", "profile"])["seed"].agg(set)
    begun: dict[tuple[str, str, str], set[int]] = {}
    for run in frame.begun:
        begun.setdefault((run.recipe, run.arm, run.profile), set()).add(run.seed)
    means["missing"] = [
        sorted((ran[row.recipe, row.profile] | begun.get((row.recipe, row.arm, row.profile), set())) - set(row.seeds))
        for row in means.itertuples()
    ]
    return means.drop(columns=["fewest", "recalls"]).astype({"seeds_to_halve": "Int64"})


def pairs_of(frame: Frame, first: Iterable[Any], second: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Rows of `frame.measured`, of one stage each, of one seed and list of facts side by side.

    Seeds under which the two descend from other weights of one stage, see `retrained`, are left out.
    """
    others = {(row.seed, row.list): row for row in second}
    pairs = [(row, others[row.seed, row.list]) for row in first if (row.seed, row.list) in others]
    return [pair for pair in pairs if not retrained(*(frame.stages[row.path] for row in pair))]


def compare(frame: Frame, first: Iterable[Any], second: Iterable[Any]) -> Comparison | None:
    """How the second arm differs from the first; rows of `frame.measured` of one stage and task for each seed.

    They are compared over the pairs of `pairs_of`, on the list that most of these were asked (a recipe may have been
    edited between seeds). Seeds whose answers cannot be read are left out. None if no seed or fact is left.
    """
    pairs = pairs_of(frame, first, second)
    lists = Counter(row.list for row, _ in pairs)
    list_id = max(lists, key=lists.__getitem__, default="")
    pairs = sorted((pair for pair in pairs if pair[0].list == list_id), key=lambda pair: pair[0].seed)
    paths = [row.path for pair in pairs for row in pair]
    read = {path: rows for path in paths if (rows := frame.verdicts(path, list_id)) is not None}
    pairs = [pair for pair in pairs if all(row.path in read for row in pair)]
    if not pairs:
        return None
    asked = [read[row.path] for side in zip(*pairs, strict=True) for row in side]
    numbers, known = ([rows[name].to_numpy() for rows in asked] for name in ("fact", "correct"))
    facts = reduce(np.intersect1d, numbers)
    if not len(facts):
        return None
    a, b = np.split(np.stack([one[np.isin(fact, facts)] for fact, one in zip(numbers, known, strict=True)]), 2)
    lost, gained = stats.flips(a, b)
    apart = (lost > 0) | (gained > 0)
    prompts = frame.facts(list_id)["prompt"].reindex(facts[apart])
    flips = {"prompt": prompts, "one_to_zero": lost[apart], "zero_to_one": gained[apart]}
    one, other = pairs[0]
    return Comparison(
        **vars(stats.difference(a, b)),
        first=one.label,
        second=other.label,
        stage=other.stage,
        task=other.task,
        list=list_id,
        seeds=[row.seed for row, _ in pairs],
        facts=len(facts),
        of_first=100.0 * float(a.mean()),
        of_second=100.0 * float(b.mean()),
        flips=pd.DataFrame(flips),
    )


def with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons that are shown together, each with its `p_holm`."""
    several = [one for one in comparisons if len(one.seeds) > 1]
    corrected = dict(zip(map(id, several), stats.holm([one.p for one in several]), strict=True))
    return [replace(one, p_holm=corrected.get(id(one))) for one in comparisons]


def retrained(one: Stage, other: Stage) -> str | None:
    """Why two stages cannot be compared fact by fact: one that both descend from was trained again, to other weights.

    Raises BadInput where their records cannot be read.
    """
    descents = [{stage.record.key, *stage.record.ancestors} for stage in (one, other)]
    key = retrained_ancestor(one.lineage, other.lineage) if set.intersection(*descents) else None
    return key and f"the stage {key}, from which both descend, was trained again in between, to other weights"


def remembered(measured: pd.DataFrame) -> list[str]:
    """The tasks whose recall after the last stage says what was kept: the first stage's own, and what is only measured.

    Several are the first stage's own where arms begin with different ones. Of a single stage, its own facts say
    nothing: it has only just learnt them.
    """
    stages, rows = measured["stage"].unique(), measured[measured["recall"].notna()]
    own = rows.loc[(rows["stage"] == stages[0]) & rows["own"], "task"].unique()
    last = rows[(rows["stage"] == stages[-1]) & ~rows["list"].isin(rows.loc[rows["own"], "list"])]
    only_measured = last["task"].unique()
    return list(dict.fromkeys([*(own if len(stages) > 1 or not len(only_measured) else []), *only_measured]))


def slug(*names: str) -> str:
    """Part of a file's name: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(filter(None, names))).strip("-.")[:80] or "unnamed"
