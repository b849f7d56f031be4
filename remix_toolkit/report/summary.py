"""A sweep in numbers: means over seeds, and arms compared fact by fact.

All runs of a sweep share their facts (`data_seed`), so seeds and arms are paired: each model was asked the same ones.
The formulas are those of `stats`.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress, product
from typing import Any

import numpy as np
import pandas as pd

from remix_toolkit.graph.retrained import retrained_ancestor
from remix_toolkit.report import stats
from remix_toolkit.report.frame import SWEEP, Frame
from remix_toolkit.report.stage import Stage

FLOOR = 99.0  # the paper's premise: a stage ends at 100% recall of its own facts (section 2.1)
LEARNT = 95.0  # percent of its own facts that a later stage knows in an arm that counts
LOSS_ABOVE = 0.02  # or the share by which its loss on held-out rows may be above that of NONE
NONE = "none"  # the arm without a remedy
CELL = ["label", "stage", "task"]  # what means over seeds are of


@dataclass
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

    @property
    def winner(self) -> str | None:
        """The arm that is ahead, even when p is corrected for all that is compared; None where neither is."""
        if self.p_holm is None or self.p_holm >= stats.LEVEL:
            return None
        return self.second if self.difference > 0 else self.first


class Sweep:
    """One recipe or sweep under one profile, at one point of a grid; its frame has the `newest` measurements alone."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.rows = rows = frame.measured
        about = rows.iloc[0]
        self.recipe, self.profile = str(about["recipe"]), str(about["profile"])
        self.title = ", ".join(filter(None, [f"{self.recipe} on {self.profile}", about["grid_point"]]))
        self.slug = slug(*about[SWEEP])  # in the names of its files
        self.stages: list[str] = list(rows["stage"].unique())
        self.arms: list[str] = list(rows["label"].unique())
        self.seeds: list[int] = sorted(rows["seed"].unique().tolist())
        self.tasks = remembered(rows)  # those whose recall after the last stage says what was kept
        self.published = rows.drop_duplicates(["stage", "label", "seed"], keep="last")

    @cached_property
    def means(self) -> pd.DataFrame:
        """Recall over seeds: a row for each arm, stage and task.

        `mean`, `sd` (NaN for one seed), the 95% interval `low`, `high`, what it is `over` and `seeds_to_halve` are
        those of `stats.recall`. `n` and `seeds` are those that were measured; `missing` are those that anything else of
        the sweep has, or under which the arm was begun. `facts` is the number of facts, `lists` their ids: more than
        one, and the seeds were asked different facts.
        """
        groups = self.rows[self.rows["recall"].notna()].groupby([*SWEEP, *CELL], sort=False)
        means = groups[["arm", "overrides", "own", "facts"]].last()
        columns = groups.agg(recalls=("recall", list), fewest=("facts", "min")).itertuples()
        recalls = [vars(stats.recall(row.recalls, row.fewest)) for row in columns]
        begun: dict[str, set[int]] = defaultdict(lambda: set(self.seeds))
        for run in self.frame.begun:
            if (run.recipe, run.profile) == (self.recipe, self.profile):
                begun[run.arm].add(run.seed)
        means["n"] = groups.size()
        means["seeds"] = groups["seed"].agg(sorted)
        means["lists"] = groups["list"].agg(lambda ids: sorted(set(ids)))
        means[list(stats.Recall.__annotations__)] = pd.DataFrame(recalls, means.index)
        means["missing"] = [sorted(begun[row.arm] - set(row.seeds)) for row in means.itertuples()]
        return means.reset_index().astype({"sd": float, "seeds_to_halve": "Int64"})

    @cached_property
    def uncounted(self) -> dict[str, str]:
        """Arms that do not count, because a stage did not learn what it was for; and why.

        Of the first stage's facts, all have to be known under every seed (see FLOOR), of the last one's LEARNT in the
        mean over seeds; of instructions, the loss on held-out rows may be LOSS_ABOVE that of the arm `none`, if any.
        """
        first, last = self.stages[0], self.stages[-1]
        own = self.rows[self.rows["own"]]
        low = own[(own["stage"] == first) & (own["recall"] < FLOOR)].sort_values("recall", ascending=False)
        means = own[own["stage"] == last].groupby("label", sort=False)[["recall", "held_out_loss"]].mean()
        most = (1 + LOSS_ABOVE) * means["held_out_loss"].get(NONE, math.inf)
        reasons = {
            row.label: f"{first} knows {row.recall:.1f}% of its own facts under seed {row.seed}"
            for row in low.itertuples()
        }
        for arm, recall, loss in means.itertuples():
            if recall < LEARNT:
                reasons.setdefault(arm, f"{last} knows {recall:.1f}% of its own facts, under {LEARNT:.0f}%")
            elif loss > most:
                reasons.setdefault(arm, f"the loss of {last} is {loss:.2f}, over {LOSS_ABOVE:.0%} above that of {NONE}")
        return reasons

    def ranked(self, task: str, after: str | None = None) -> pd.DataFrame:
        """The means of a task after the last stage, or another one, by arm, the best one first."""
        rows = self.means[(self.means["stage"] == (after or self.stages[-1])) & (self.means["task"] == task)]
        return rows.sort_values("mean", ascending=False, kind="stable").set_index("label", drop=False)

    @cached_property
    def _kept(self) -> dict[tuple[str, str], list[Any]]:
        """Recall after the last stage: (arm, task) -> a row for each seed."""
        rows: dict[tuple[str, str], list[Any]] = {}
        for row in self.rows[(self.rows["stage"] == self.stages[-1]) & self.rows["recall"].notna()].itertuples():
            rows.setdefault((row.label, row.task), []).append(row)
        return rows

    def compare(self, task: str, pairs: Iterable[tuple[str, str]]) -> list[Comparison]:
        """Pairs of arms after the last stage that can be compared, see `compare`; they are shown together."""
        compared = (compare(self.frame, *(self._kept.get((arm, task), []) for arm in pair)) for pair in pairs)
        correct_p(together := [one for one in compared if one])
        return together

    @cached_property
    def against_first(self) -> dict[str, list[Comparison]]:
        """For each task to remember, every arm that can be compared with the first one."""
        return {task: self.compare(task, product(self.arms[:1], self.arms[1:])) for task in self.tasks}


def sweeps(frame: Frame) -> list[Sweep]:
    """One for each recipe, profile and point of a grid, in the order of the frame."""
    frame = newest(frame)
    groups = frame.measured.groupby(SWEEP, sort=False).groups.values()
    return [Sweep(frame.where(frame.measured.index.isin(rows))) for rows in groups]


def newest(frame: Frame) -> Frame:
    """The frame without what a newer run of the same seed measured again."""
    return frame.where(~frame.measured.duplicated([*SWEEP, *CELL, "seed"], keep="last"))


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
    edited between seeds). Seeds whose answers cannot be read are left out. None if no seed is left.
    """
    pairs = pairs_of(frame, first, second)
    lists = Counter(row.list for row, _ in pairs)
    list_id = max(lists, key=lists.__getitem__, default="")
    pairs = sorted((pair for pair in pairs if pair[0].list == list_id), key=lambda pair: pair[0].seed)
    asked = [[frame.verdicts(row.path, list_id) for row in pair] for pair in pairs]
    read = [rows for pair in asked for rows in pair if rows is not None]
    # A list of facts that a model decides on (`familiarity`) is another one under another model.
    same = [all(rows is not None and rows["prompt"].equals(read[0]["prompt"]) for rows in pair) for pair in asked]
    if not any(same):
        return None
    pairs, sides = list(compress(pairs, same)), zip(*compress(asked, same), strict=True)
    a, b = (np.stack([rows["correct"].to_numpy() for rows in side]) for side in sides)
    lost, gained = stats.flips(a, b)
    apart = (lost > 0) | (gained > 0)
    prompts = read[0]["prompt"].filter(apart).to_pylist()
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
        facts=len(lost),
        of_first=100.0 * float(a.mean()),
        of_second=100.0 * float(b.mean()),
        flips=pd.DataFrame(flips),
    )


def correct_p(compared: Sequence[Comparison]) -> None:
    """Set `p_holm` of comparisons that are shown together."""
    several = [one for one in compared if len(one.seeds) > 1]
    for one, p in zip(several, stats.holm([one.p for one in several]), strict=True):
        one.p_holm = p


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
