"""Facts kept, lost and never learnt: every fact under every arm and seed, for the page's table and as CSV."""

import base64
import csv
import gzip
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, TextIO

from remix_toolkit.errors import BadInput
from remix_toolkit.report.tables import Table
from remix_toolkit.report.verdicts import Answer
from remix_toolkit.report.verdicts import gold as right_answers

if TYPE_CHECKING:
    from remix_toolkit.report.group import Group

OUTCOMES = {"k": "kept", "l": "lost", "g": "gained", "n": "never learnt"}
GOLD, LONGEST = 3, 300  # on the page: right answers of a fact, characters of a model's answer
LATER = "answers of later facts, % of wrong"
LATER_NOTE = (
    "Answers of later facts: how many of the wrong answers are right ones of facts that a later stage trained. Where "
    "scoring cut answers off at their first wrong token, from those that are whole to those that may still become one."
)


@dataclass
class Asked:
    """One run's answers to the facts, in their order: `outcomes` a letter each (`-`: not asked in this run).

    `later`: which share of its wrong answers after the last measurement are answers of facts that later stages trained,
    in percent, at least and at most; None without such facts, or without wrong answers.
    """

    arm: str
    seed: int
    outcomes: str
    first: list[str | None]  # its wrong answers after the first measurement, and after the last
    last: list[str | None]
    later: tuple[float, float] | None


@dataclass
class Facts:
    """One task's facts under the runs of a group, between the stages `before` and `after` (the same, if only one)."""

    name: str
    task: str
    title: str
    before: str
    after: str
    prompts: list[str]
    gold: list[list[str]]
    runs: list[Asked]

    def packed(self) -> str:
        """For the page: JSON, compressed, as base64. A wrong answer is said once, and then named by its place."""
        texts: dict[str, int] = {}
        runs = []
        for run in self.runs:
            answers = [
                [-1 if text is None else texts.setdefault(_short(text), len(texts)) for text in answers]
                for answers in (run.first, run.last)
            ]
            runs.append({"arm": run.arm, "seed": run.seed, "outcomes": run.outcomes, "answers": answers})
        whole = {
            "before": self.before,
            "after": self.after,
            "prompts": self.prompts,
            "gold": [_gold(answers) for answers in self.gold],
            "said": list(texts),
            "runs": runs,
        }
        return base64.b64encode(gzip.compress(json.dumps(whole).encode(), 6, mtime=0)).decode()

    def write(self, out: TextIO) -> None:
        """All rows as CSV."""
        writer = csv.writer(out)
        last = ["fact", "right_answers", "arm", "seed", "outcome"]
        writer.writerow([*last, f"said_after_{self.before}_if_wrong", f"said_after_{self.after}_if_wrong"])
        right = ["; ".join(answers) for answers in self.gold]
        for run in self.runs:
            rows = zip(self.prompts, right, run.outcomes, run.first, run.last, strict=True)
            writer.writerows(
                (prompt, gold, run.arm, run.seed, OUTCOMES[outcome], first, last)
                for prompt, gold, outcome, first, last in rows
                if outcome != "-"
            )

    def table(self) -> Table:
        """How many facts were kept, lost, gained and never learnt, in percent, the mean over an arm's seeds."""
        counts = [(run.arm, run.seed, Counter(run.outcomes.replace("-", ""))) for run in self.runs]
        rows = []
        for arm in dict.fromkeys(run.arm for run in self.runs):
            of_arm = [count for name, _, count in counts if name == arm and count]
            shares = [[100 * count[letter] / count.total() for letter in OUTCOMES] for count in of_arm]
            means = [f"{fmean(column):.1f}" for column in zip(*shares, strict=True)]
            rows.append([arm, str(len(of_arm)), *means, self.later(arm)])
        data = [
            {"arm": run.arm, "seed": run.seed, **{name: count[letter] for letter, name in OUTCOMES.items()}}
            | dict(zip(("later_at_least", "later_at_most"), run.later or (None, None), strict=True))
            for run, (*_, count) in zip(self.runs, counts, strict=True)
        ]
        caption = f"{self.title}: facts in percent, mean over seeds"
        columns = ["arm", "seeds", *OUTCOMES.values(), LATER]
        return Table(self.name, caption, columns, rows, notes=[LATER_NOTE], data=data)

    def later(self, arm: str) -> str:
        """The mean of `Asked.later` over an arm's seeds, at least and, where that is another number, at most."""
        shares = [run.later for run in self.runs if run.arm == arm and run.later]
        ends = [f"{fmean(column):.1f}" for column in zip(*shares, strict=True)]
        return " to ".join(dict.fromkeys(ends)) or "-"


def facts_of(group: "Group") -> Iterator[Facts]:
    """For each task to remember, every run's answers after the first and after the last stage that asked for it."""
    for task in group.tasks:
        runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for entry in group.readable:
            if entry["task"] == task and entry["recall"] is not None:
                runs.setdefault((entry["arm"], entry["seed"]), []).append(entry)
        asked = {at: (_newest(rows, rows[0]["stage"]), rows[-1]) for at, rows in runs.items()}
        # A run without its last stage would count what it knows as kept; one without its first, lost as never learnt.
        first = min((pair[0]["stage"] for pair in asked.values()), key=group.stages.index, default=None)
        ends = (first, group.stages[-1])
        asked = {at: pair for at, pair in asked.items() if (pair[0]["stage"], pair[1]["stage"]) == ends}
        if not asked:
            continue
        gold: dict[str, list[str]] = {}
        for id_, path in {entry["list"]: entry["path"] for pair in asked.values() for entry in pair}.items():
            gold = {**right_answers(path, id_), **gold}
        later = _later_answers(group, asked)
        all_runs = []
        for at, (before, after) in asked.items():
            answers = [group.answers.of(entry["path"], entry["list"]) for entry in (before, after)]
            all_runs.append(_asked(*at, list(gold), answers[0], answers[1], later[at]))
        yield Facts(
            name=f"facts-{group.slug}-{task}",
            task=task,
            title=f"{group.title}: {task}",
            before=before["stage"],
            after=after["stage"],
            prompts=list(gold),
            gold=list(gold.values()),
            runs=all_runs,
        )


def _newest(rows: Sequence[dict[str, Any]], stage: str) -> dict[str, Any]:
    return [row for row in rows if row["stage"] == stage][-1]


def _later_answers(
    group: "Group", asked: Mapping[tuple[str, int], tuple[dict[str, Any], dict[str, Any]]]
) -> dict[tuple[str, int], list[str]]:
    """For each run the answers, sorted, of all facts trained since it was first `asked`, as `matches` compares them."""
    since = group.stages.index(next(iter(asked.values()))[0]["stage"])
    by_list: dict[str, list[str]] = {}  # runs share lists
    later: dict[tuple[str, int], list[str]] = {at: [] for at in asked}
    for entry in group.readable:
        at = (entry["arm"], entry["seed"])
        if not entry["own"] or entry["recall"] is None or group.stages.index(entry["stage"]) < since:
            continue
        if at not in asked or (id_ := entry["list"]) in {row["list"] for row in asked[at]}:
            continue
        try:
            if id_ not in by_list:
                gold = right_answers(entry["path"], id_).values()
                by_list[id_] = [answer.strip().lower() for answers in gold for answer in answers]
        except BadInput as error:
            group.warnings.append(str(error))
            continue
        later[at] += by_list[id_]
    return {at: sorted(answers) for at, answers in later.items()}


def _asked(
    arm: str,
    seed: int,
    prompts: Sequence[str],
    before: Mapping[str, Answer | None],
    after: Mapping[str, Answer | None],
    later: Sequence[str],
) -> Asked:
    letters = []
    first, last = [before.get(prompt) for prompt in prompts], [after.get(prompt) for prompt in prompts]
    for prompt, then, now in zip(prompts, first, last, strict=True):
        if prompt not in before or prompt not in after:
            letters.append("-")
        else:
            letters.append(("k" if now is None else "l") if then is None else ("g" if now is None else "n"))
    texts = [None if answer is None else str(answer) for answer in (*first, *last)]
    wrong = [answer for answer in after.values() if answer]
    share = 100 / len(wrong) if wrong else 0.0
    matching = [answer.complete for answer in wrong if _begins_one(answer, later)]
    shares = (share * sum(matching), share * len(matching)) if later and wrong else None
    return Asked(arm, seed, "".join(letters), texts[: len(first)], texts[len(first) :], shares)


def _begins_one(answer: Answer, texts: Sequence[str]) -> bool:
    """Is an answer one of these sorted texts or, where it is not complete, the beginning of one?"""
    text = answer.text.strip().lower() if answer.complete else answer.text.rstrip("\ufffd").strip().lower()
    at = bisect_left(texts, text)
    return at < len(texts) and (texts[at] == text if answer.complete else texts[at].startswith(text))


def _gold(answers: Sequence[str]) -> str:
    more = f"; and {len(answers) - GOLD} more" if len(answers) > GOLD else ""
    return "; ".join(answers[:GOLD]) + more


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
