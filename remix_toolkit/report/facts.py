"""Facts kept, lost and never learnt: every fact under every arm and seed, for the page's table and as CSV."""

import base64
import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from remix_toolkit.report.group import Group
from remix_toolkit.report.tables import Table
from remix_toolkit.report.verdicts import gold as right_answers

OUTCOMES = {"k": "kept", "l": "lost", "g": "gained", "n": "never learnt"}
GOLD, LONGEST = 3, 300  # on the page: right answers of a fact, characters of what a model said


@dataclass
class Asked:
    """One run's answers to the facts, in their order: `outcomes` a letter each (`-`: not asked in this run)."""

    arm: str
    seed: int
    outcomes: str
    first: list[str | None]  # what it said wrongly after the first measurement, and after the last
    last: list[str | None]


@dataclass
class Facts:
    """One task's facts under the runs of a group, between the stages `before` and `after` (the same, if only one)."""

    name: str
    title: str
    before: str
    after: str
    prompts: list[str]
    gold: list[list[str]]
    runs: list[Asked]

    def packed(self) -> str:
        """For the page: JSON, compressed, as base64. A wrong answer is said once, and then named by its place."""
        said: dict[str, int] = {}
        runs = []
        for run in self.runs:
            answers = [
                [-1 if text is None else said.setdefault(_short(text), len(said)) for text in answers]
                for answers in (run.first, run.last)
            ]
            runs.append({"arm": run.arm, "seed": run.seed, "outcomes": run.outcomes, "answers": answers})
        whole = {
            "before": self.before,
            "after": self.after,
            "prompts": self.prompts,
            "gold": [_gold(answers) for answers in self.gold],
            "said": list(said),
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
            mine = [count for name, _, count in counts if name == arm and count]
            shares = [[100 * count[letter] / count.total() for letter in OUTCOMES] for count in mine]
            means = [f"{sum(column) / len(mine):.1f}" for column in zip(*shares, strict=True)]
            rows.append([arm, str(len(mine)), *means])
        data = [
            {"arm": arm, "seed": seed, **{name: count[letter] for letter, name in OUTCOMES.items()}}
            for arm, seed, count in counts
        ]
        caption = f"{self.title}: facts in percent, mean over seeds"
        return Table(self.name, caption, ["arm", "seeds", *OUTCOMES.values()], rows, data=data)


def facts_of(group: Group) -> Iterator[Facts]:
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
        answers = {at: [group.answers.of(entry["path"], entry["list"]) for entry in asked[at]] for at in asked}
        before, after = next(iter(asked.values()))
        yield Facts(
            name=f"facts-{group.slug}-{task}",
            title=f"{group.title}: {task}",
            before=before["stage"],
            after=after["stage"],
            prompts=list(gold),
            gold=list(gold.values()),
            runs=[_asked(arm, seed, list(gold), *answers[arm, seed]) for arm, seed in asked],
        )


def _newest(rows: Sequence[dict[str, Any]], stage: str) -> dict[str, Any]:
    return [row for row in rows if row["stage"] == stage][-1]


def _asked(
    arm: str, seed: int, prompts: Sequence[str], before: dict[str, str | None], after: dict[str, str | None]
) -> Asked:
    letters = []
    first: list[str | None] = []
    last: list[str | None] = []
    for prompt in prompts:
        then, now = before.get(prompt), after.get(prompt)
        if prompt not in before or prompt not in after:
            letters.append("-")
        else:
            letters.append(("k" if now is None else "l") if then is None else ("g" if now is None else "n"))
        first.append(then)
        last.append(now)
    return Asked(arm, seed, "".join(letters), first, last)


def _gold(answers: Sequence[str]) -> str:
    more = f"; and {len(answers) - GOLD} more" if len(answers) > GOLD else ""
    return "; ".join(answers[:GOLD]) + more


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
