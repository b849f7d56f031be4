"""Facts kept, lost, gained and never learnt, and how many wrong answers are right ones of facts trained later."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from remix_toolkit.report.answers import right_answers, share_of
from remix_toolkit.report.parts import Explorer, Table
from remix_toolkit.report.summary import Sweep

if TYPE_CHECKING:
    import pyarrow as pa

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

    `facts` has `prompt` and `gold` of each, by the number of the list and the place in it. `answers` has a row for each
    run and fact: `label`, `seed`, `list`, `fact`, `outcome`, and `first` and `last`, the wrong answers after the two
    stages, null where the answer was right; `complete` where `last` was not cut off. `runs` has a row for each run: the
    number of facts of each outcome, and `later_at_least` and `later_at_most`, which share of its wrong answers after
    the last stage are answers of facts that later stages trained, in percent; NaN where there are no such facts or no
    wrong answers.
    """

    sweep: Sweep
    task: str
    before: str
    after: str
    facts: pd.DataFrame
    answers: pd.DataFrame
    runs: pd.DataFrame

    @property
    def name(self) -> str:
        return f"facts-{self.sweep.slug}-{self.task}"

    def table(self) -> Table:
        """How many facts were kept, lost, gained and never learnt, in percent, the mean over an arm's seeds."""
        counts = self.runs[OUTCOMES]
        shares = counts.div(counts.sum(axis="columns"), axis="index").mul(100)
        shown = shares.groupby("label", sort=False).mean()
        shown.insert(0, "seeds", counts.groupby("label").size())
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
        facts = self.facts
        is_known = self.answers["outcome"].isin(["kept", "gained"])
        known = is_known.groupby([self.answers[name] for name in FACT]).sum().reindex(facts.index)
        shown = [facts.index.get_level_values("fact"), facts["prompt"], facts["gold"].map(_gold), known]
        arms = {str(arm): self._cells(rows) for arm, rows in self.answers.groupby("label", sort=False)}
        rows = list(zip(*(column.to_list() for column in (*shown, *arms.values())), strict=True))
        runs = f"{len(self.runs)} run{'s' * (len(self.runs) > 1)}"
        title = f"{self.sweep.title}: {self.task}, {len(facts):,} facts in {runs}"
        columns = ["no.", "fact", "right answer", f"known, of {len(self.runs)}", *arms]
        return Explorer(f"{self.name}-all", title, columns, rows, self.every_answer)

    def every_answer(self) -> pd.DataFrame:
        """A row for each run and fact, with the wrong answers."""
        names = {"prompt": "fact", "gold": "right_answers", "label": "arm", "seed": "seed", "outcome": "outcome"}
        stages = {self.before: "first", self.after: "last"}  # one, if they are the same
        names |= {column: f"wrong_answer_after_{stage}" for stage, column in stages.items()}
        facts = self.facts.assign(gold=self.facts["gold"].map("; ".join))
        return self.answers.join(facts, on=FACT)[list(names)].set_axis(list(names.values()), axis="columns")

    def _cells(self, answers: pd.DataFrame) -> "pd.Series[str]":
        """What became of each fact under an arm's seeds, and what was answered where it is not known."""
        cells = []
        for number, rows in answers.groupby("list"):
            facts = self.facts.loc[[number]].index
            columns = (rows["outcome"].cat.codes.to_numpy(), rows["last"].to_numpy(object, na_value=None))
            outcomes, wrong = (column.reshape(-1, len(facts)).T.tolist() for column in columns)  # a list for each fact
            cells.append(pd.Series(list(map(_cell, outcomes, wrong)), facts))
        return pd.concat(cells).reindex(self.facts.index, fill_value="-")


def facts_of(sweep: Sweep, task: str) -> Facts | None:
    """A task's facts; None where no run was asked for them both by the first such stage and by the last stage.

    A run without its last stage would count what it knows as kept; one without its first, what it lost as never learnt.
    """
    rows = sweep.rows[(sweep.rows["task"] == task) & sweep.rows["recall"].notna()]
    before, after = min(rows["stage"], key=sweep.stages.index), sweep.stages[-1]
    first, last = rows[rows["stage"] == before], rows[rows["stage"] == after]
    lists: list[pa.Table] = []  # the facts of each list; of one id, models may have others (`familiarity`)
    answers = []
    for run in first.merge(last, on=[*RUN, "list"], suffixes=("_first", "_last")).itertuples():
        read = [sweep.frame.verdicts(path, run.list) for path in (run.path_first, run.path_last)]
        if read[0] is None or read[1] is None:
            continue
        if (facts := read[0].select(["prompt", "gold"])) not in lists:
            lists.append(facts)
        answers.append(outcomes(*read).assign(label=run.label, seed=run.seed, list=lists.index(facts)))
    if not answers:
        return None
    whole = pd.concat(answers, ignore_index=True)
    for column, right in (("first", ["kept", "lost"]), ("last", ["kept", "gained"])):
        whole[column] = whole[column].mask(whole["outcome"].isin(right))
    counts = whole.groupby(RUN, sort=False)["outcome"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=OUTCOMES, fill_value=0)
    facts = pd.concat([one.to_pandas() for one in lists], keys=range(len(lists)), names=FACT)
    return Facts(sweep, task, before, after, facts, whole, counts.join(_later(sweep, before, task, whole)))


def outcomes(first: "pa.Table", last: "pa.Table") -> pd.DataFrame:
    """What became of each fact of a list between two stages; a row for each, from the verdicts of both.

    `first` and `last` are what was answered then, with ... where scoring cut it off; `complete`: `last` is whole.
    """
    import pyarrow.compute as pc

    known = [rows["correct"].to_numpy() for rows in (first, last)]
    dots = [pc.if_else(rows["prediction_complete"], "", "...") for rows in (first, last)]
    answers = [
        pc.binary_join_element_wise(rows["prediction"], end, "").to_pandas()
        for rows, end in zip((first, last), dots, strict=True)
    ]
    return pd.DataFrame(
        {
            "fact": range(len(first)),
            "outcome": pd.Categorical.from_codes(2 * ~known[0] + ~known[1], OUTCOMES),
            "first": answers[0],
            "last": answers[1],
            "complete": last["prediction_complete"].to_numpy(),
        }
    )


def _later(sweep: Sweep, since: str, task: str, answers: pd.DataFrame) -> pd.DataFrame:
    """`later_at_least` and `later_at_most` of each run that has them, see `Facts`."""
    stages = sweep.stages[sweep.stages.index(since) :]
    rows = sweep.rows[sweep.rows["stage"].isin(stages) & sweep.rows["own"] & sweep.rows["recall"].notna()]
    gold: dict[tuple[str, int], list[pa.ChunkedArray]] = {}
    for row in rows[rows["task"] != task].itertuples():
        if (trained := sweep.frame.verdicts(row.path, row.list)) is not None:  # it may be unreadable
            gold.setdefault((row.label, row.seed), []).append(trained["gold"])
    shares, former, texts = {}, None, []
    for run, of_run in answers[answers["last"].notna()].groupby(RUN, sort=False):
        if run in gold:
            if gold[run] != former:  # most runs have the same
                former, texts = gold[run], right_answers(gold[run])
            shares[run] = share_of(texts, of_run["last"].tolist(), of_run["complete"].tolist())
    index = pd.MultiIndex.from_tuples(shares, names=RUN) if shares else pd.MultiIndex.from_arrays([[], []], names=RUN)
    return pd.DataFrame(list(shares.values()), index, ["later_at_least", "later_at_most"], dtype=float)


def _cell(outcomes: Sequence[int], answers: Sequence[str | None]) -> str:
    """What became of a fact, and the wrong answers, of a model for each seed: `kept 2 of 3; lost 1 of 3: Leeds`."""
    parts = []
    for outcome in sorted(set(outcomes)):
        count = f" {outcomes.count(outcome)} of {len(outcomes)}" if len(outcomes) > 1 else ""
        of_outcome = [answer for one, answer in zip(outcomes, answers, strict=True) if one == outcome]
        wrong = dict.fromkeys(_short(answer or "(nothing)") for answer in of_outcome if answer is not None)
        parts.append(f"{OUTCOMES[outcome]}{count}{': ' * bool(wrong)}{', '.join(wrong)}")
    return "; ".join(parts)


def _gold(answers: Sequence[str]) -> str:
    more = f"; and {len(answers) - GOLD} more" if len(answers) > GOLD else ""
    return "; ".join(answers[:GOLD]) + more


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
