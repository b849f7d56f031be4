"""Facts kept, lost, gained and never learnt, and how many wrong answers are right ones of facts trained later."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from remix_toolkit.report.frame import Frame
from remix_toolkit.report.parts import Explorer, Table
from remix_toolkit.report.summary import Sweep

RUN, FACT = ["label", "seed"], ["list", "fact"]
OUTCOMES = ["kept", "lost", "gained", "never learnt"]  # known before and after, only before, only after, in neither
GOLD, LONGEST = 3, 300  # on the page: right answers of a fact, characters of a model's answer
LATER = "answers of later facts, % of wrong"
LATER_NOTE = (
    "Answers of later facts: how many of the wrong answers are right ones of facts that a later stage trained. Where "
    "scoring cut answers off at their first wrong token, from those that are whole to those that may still become one."
)


@dataclass
class Facts:
    """One task's facts under the runs of a sweep, between the stages `before` and `after` (the same, if only one).

    `answers` has a row for each run and fact: `label`, `seed`, `list`, `fact`, `outcome`, and `first` and `last`, the
    wrong answers after the two stages, null where the answer was right; `complete` where `last` was not cut off. `runs`
    has a row for each run: the number of facts of each outcome, and `later_at_least` and `later_at_most`, which share
    of its wrong answers after the last stage are answers of facts that later stages trained, in percent; NaN where
    there are no such facts or no wrong answers.
    """

    sweep: Sweep
    task: str
    before: str
    after: str
    answers: pd.DataFrame
    runs: pd.DataFrame

    @property
    def name(self) -> str:
        return f"facts-{self.sweep.slug}-{self.task}"

    def table(self) -> Table:
        """How many facts were kept, lost, gained and never learnt, in percent, the mean over an arm's seeds."""
        counts = self.runs[OUTCOMES]
        shares = counts.div(counts.sum(axis="columns"), axis="index").mul(100)
        shown = shares.groupby("label", sort=False, observed=True).mean()
        shown.insert(0, "seeds", counts.groupby("label", observed=True).size())
        shown[LATER] = [self.later(arm) for arm in shown.index]
        caption = f"{self.sweep.title}: {self.task}: facts in percent, mean over seeds"
        numbers = self.runs.reset_index(names=["arm", "seed"])
        return Table(self.name, caption, shown.rename_axis("arm"), numbers, notes=[LATER_NOTE])

    def later(self, arm: str) -> str:
        """The mean over an arm's seeds of `later_at_least` and, where that is another number, of `later_at_most`."""
        ends = self.runs.loc[self.runs.index.get_level_values("label") == arm, ["later_at_least", "later_at_most"]]
        return " to ".join(dict.fromkeys(f"{end:.1f}" for end in ends.mean().dropna())) or "-"

    def explorer(self) -> Explorer:
        """Every fact, with what became of it in each arm; the CSV has every answer."""
        frame, arms = self.sweep.frame, list(self.answers["label"].unique())
        facts = pd.concat({list_id: frame.facts(list_id) for list_id in self.answers["list"].unique()}, names=FACT)
        is_known = self.answers["outcome"].isin(["kept", "gained"])
        known = is_known.groupby([self.answers[name] for name in FACT], observed=True).sum().reindex(facts.index)
        shown = [facts.index.get_level_values("fact"), facts["prompt"], facts["gold"].map(_gold), known]
        by_arm = [self._cells(arm).reindex(facts.index, fill_value="-") for arm in arms]
        rows = list(zip(*(column.to_list() for column in (*shown, *by_arm)), strict=True))
        runs = f"{len(self.runs)} run{'s' * (len(self.runs) > 1)}"
        title = f"{self.sweep.title}: {self.task}, {len(facts):,} facts in {runs}"
        columns = ["no.", "fact", "right answer", f"known, of {len(self.runs)}", *arms]
        names = {"prompt": "fact", "gold": "right_answers", "label": "arm", "seed": "seed", "outcome": "outcome"}
        stages = {self.before: "first", self.after: "last"}  # one, if they are the same
        names |= {column: f"wrong_answer_after_{stage}" for stage, column in stages.items()}
        answers = self.answers.join(facts.assign(gold=facts["gold"].map("; ".join)), on=FACT)
        answers = answers[list(names)].set_axis(list(names.values()), axis="columns")
        return Explorer(f"{self.name}-all", title, columns, rows, answers)

    def _cells(self, arm: str) -> "pd.Series[str]":
        """What became of each fact under an arm's seeds, and what was answered where it is not known."""
        by_fact: dict[tuple[str, int], dict[str, list[str | None]]] = {}
        rows = self.answers[self.answers["label"] == arm]
        columns = (rows[name].to_numpy(object, na_value=None) for name in (*FACT, "outcome", "last"))
        for list_id, fact, outcome, answer in zip(*columns, strict=True):
            by_fact.setdefault((list_id, fact), {}).setdefault(outcome, []).append(answer)
        return pd.Series({at: _cell(answers) for at, answers in by_fact.items()})


def facts_of(sweep: Sweep, task: str) -> Facts | None:
    """A task's facts; None where no run was asked for them both by the first such stage and by the last stage.

    A run without its last stage would count what it knows as kept; one without its first, what it lost as never learnt.
    """
    rows = sweep.rows[(sweep.rows["task"] == task) & sweep.rows["recall"].notna()]
    before, after = min(rows["stage"], key=sweep.stages.index), sweep.stages[-1]
    first, last = rows[rows["stage"] == before], rows[rows["stage"] == after]
    runs = first.merge(last, on=[*RUN, "list"], suffixes=("_first", "_last"))
    by_list = [outcomes(sweep.frame, str(list_id), of_list) for list_id, of_list in runs.groupby("list", sort=False)]
    if not by_list or (answers := pd.concat(by_list, ignore_index=True)).empty:
        return None
    for column, right in (("first", ["kept", "lost"]), ("last", ["kept", "gained"])):
        answers[column] = answers[column].mask(answers["outcome"].isin(right))
    counts = answers.groupby(RUN, sort=False, observed=True)["outcome"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=OUTCOMES, fill_value=0)
    return Facts(sweep, task, before, after, answers, counts.join(_later(sweep, before, answers)))


def outcomes(frame: Frame, list_id: str, runs: pd.DataFrame) -> pd.DataFrame:
    """What became of each fact of a list between two stages, of runs: `label`, `seed`, `path_first`, `path_last`.

    `first` and `last` are what was answered then, with ... where scoring cut it off; `complete`: `last` is whole.
    """
    asked = frame.answers(list_id).reset_index(names="place")
    places = asked.pivot(index="path", columns="fact", values="place").dropna(axis="columns")
    runs = runs[runs["path_first"].isin(list(places.index)) & runs["path_last"].isin(list(places.index))]
    first, last = (places.loc[runs[path]].to_numpy(int).ravel() for path in ("path_first", "path_last"))
    known, complete = asked["correct"].to_numpy(bool), asked["prediction_complete"].to_numpy(bool)
    said = asked["prediction"] + pd.array(np.where(complete, "", "..."), asked["prediction"].dtype)
    answers = {
        "label": pd.Categorical(runs["label"].repeat(places.shape[1])),
        "seed": runs["seed"].repeat(places.shape[1]).to_numpy(),
        "list": pd.Categorical([list_id]).repeat(len(first)),
        "fact": np.tile(places.columns, len(runs)),
        "outcome": pd.Categorical.from_codes(2 * ~known[first] + ~known[last], OUTCOMES),
        "first": said.array.take(first),
        "last": said.array.take(last),
        "complete": complete[last],
    }
    return pd.DataFrame(answers)


def _later(sweep: Sweep, since: str, answers: pd.DataFrame) -> pd.DataFrame:
    """`later_at_least` and `later_at_most` of each run that has them, see `Facts`."""
    stages = sweep.stages[sweep.stages.index(since) :]
    rows = sweep.rows[sweep.rows["stage"].isin(stages) & sweep.rows["own"] & sweep.rows["recall"].notna()]
    rows = rows[~rows["list"].isin(list(answers["list"].unique()))]

    @cache
    def right(lists: tuple[str, ...]) -> list[str]:
        gold = [answers for list_id in lists for answers in sweep.frame.facts(list_id)["gold"]]
        return sorted({answer.strip().lower() for answers in gold for answer in answers})

    trained = {run: tuple(of_run["list"].unique()) for run, of_run in rows.groupby(RUN)}
    trained = {run: lists for run, lists in trained.items() if right(lists)}  # they may be unreadable
    shares = {}
    for run, of_run in answers[answers["last"].notna()].groupby(RUN, sort=False, observed=True):
        if run in trained:
            texts = zip(of_run["last"].tolist(), of_run["complete"], strict=True)
            matching = [complete for text, complete in texts if _begins_one(text, complete, right(trained[run]))]
            shares[run] = [100 * sum(matching) / len(of_run), 100 * len(matching) / len(of_run)]
    index = pd.MultiIndex.from_tuples(shares, names=RUN) if shares else pd.MultiIndex.from_arrays([[], []], names=RUN)
    return pd.DataFrame(list(shares.values()), index, ["later_at_least", "later_at_most"], dtype=float)


def _begins_one(answer: str, complete: bool, texts: Sequence[str]) -> bool:
    """Is an answer one of these sorted texts or, where it was cut off, the beginning of one?"""
    text = (answer if complete else answer.removesuffix("...").rstrip("\ufffd")).strip().lower()
    at = bisect_left(texts, text)
    return at < len(texts) and (texts[at] == text if complete else texts[at].startswith(text))


def _cell(answers: Mapping[str, Sequence[str | None]]) -> str:
    """What became of a fact, from the answers of each outcome: `kept 2 of 3; lost 1 of 3: Leeds`."""
    runs = sum(map(len, answers.values()))
    parts = []
    for outcome in OUTCOMES:
        if outcome in answers:
            count = f" {len(answers[outcome])} of {runs}" if runs > 1 else ""
            wrong = dict.fromkeys(_short(answer or "(nothing)") for answer in answers[outcome] if answer is not None)
            parts.append(f"{outcome}{count}{': ' * bool(wrong)}{', '.join(wrong)}")
    return "; ".join(parts)


def _gold(answers: Sequence[str]) -> str:
    more = f"; and {len(answers) - GOLD} more" if len(answers) > GOLD else ""
    return "; ".join(answers[:GOLD]) + more


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
