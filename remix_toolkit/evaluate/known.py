"""What the base model knew before: facts that it answers under a few-shot prompt are asked again after each stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from remix_toolkit.console import info
from remix_toolkit.data import tasks
from remix_toolkit.data.identity import list_id
from remix_toolkit.data.pair import Pair
from remix_toolkit.evaluate.base import Measurement, Models, Row, Subject, in_shares
from remix_toolkit.evaluate.recall import matches, recall
from remix_toolkit.recipe.schema import PromptFormat, Recipe
from remix_toolkit.records import Count, Part, Positive


@dataclass(frozen=True)
class KnownFact:
    """A fact that a base model knew."""

    number: int  # among the facts that it was asked
    fact: Pair
    asked: dict[PromptFormat, Pair]  # under the few-shot prompt, in each format in which it is asked
    before: tuple[PromptFormat, ...]  # the formats in which the base model's answer is right
    guess: bool  # that answer is what it says to most questions of the relation


class KnownRow(Row):
    """A line of known.jsonl: what is answered now to a fact that the base model knew."""

    fact: Count = Field(description="its index among the facts that the base model was asked")
    prompt: str
    gold: tuple[str, ...]
    before: tuple[PromptFormat, ...] = Field(description="the formats in which the base model's answer is right")
    guess: bool = Field(description="is that what it says to most questions of the relation?")
    answers: dict[PromptFormat, str] = Field(description="now; one that cannot be right any more may be cut off")
    correct: bool = Field(description="is one of them right?")

    def right(self) -> list[PromptFormat]:
        """The formats in which the answer is right now."""
        return [form for form, answer in self.answers.items() if matches(answer, self.gold)]


class KnownBefore(Part):
    """Of the facts that the base model knew, how many are left."""

    task: str
    asked: Positive = Field(description="facts that the base model was asked")
    facts: Count = Field(description="those that it knew, in one format of the few-shot prompt at least")
    guesses: Count = Field(description="of these, how many it says to most questions of their relation")
    kept: Count = Field(description="of these facts, how many are answered right now")
    before: dict[PromptFormat, Count] = Field(description="format -> how many the base model knew in it")
    after: dict[PromptFormat, Count] = Field(description="format -> how many of all of them are right in it now")


class Known(Measurement[KnownBefore]):
    """Recall of what the base model knew of the facts of `evaluate.known`; it knew none of them: said, not an error."""

    name, result, row, shared = "known", KnownBefore, KnownRow, True

    def requested(self, recipe: Recipe, stage: str) -> list[str]:
        task = recipe.known
        return [list_id(task.model_copy(update={"familiarity": "familiar"}), recipe)] if task else []

    def check(self, subject: Subject) -> None:
        if task := subject.recipe.known:
            tasks.load_rows(task, subject.recipe.data_seed)

    def measure(self, item: str, subject: Subject, models: Models) -> tuple[KnownBefore, list[KnownRow]]:
        asked, facts = subject.known()
        formats = subject.recipe.few_shot.formats(either=True)
        answers: dict[PromptFormat, list[str]] = {}
        for form in formats if facts else ():
            pairs = [fact.asked[form] for fact in facts]
            verdicts = in_shares(pairs, lambda share: recall(models.model, models.tokenizer, share))
            answers[form] = [verdict.prediction for verdict in verdicts]
        rows = []
        for number, fact in enumerate(facts):
            given = {form: answers[form][number] for form in formats}
            row = KnownRow(
                list=item,
                fact=fact.number,
                prompt=fact.fact.prompt,
                gold=fact.fact.answers,
                before=fact.before,
                guess=fact.guess,
                answers=given,
                correct=any(matches(answer, fact.fact.answers) for answer in given.values()),
            )
            rows.append(row)
        task = subject.recipe.known
        assert task
        result = _counted(task.task, asked, formats, rows)
        left = f"{result.kept} of {result.facts} that the base model knew" if rows else "the base model knew none"
        info(f"{subject.stage}: {result.task}: {left}, of {asked} that it was asked")
        return result, rows

    def problem(self, result: KnownBefore, rows: Sequence[KnownRow]) -> str | None:
        if any(row.correct != bool(row.right()) for row in rows):
            return "an answer is not as right as its row says"
        counted = _counted(result.task, result.asked, tuple(result.before), rows)
        return None if counted == result else f"its rows give {counted!r}"


def _counted(task: str, asked: int, formats: Sequence[PromptFormat], rows: Sequence[KnownRow]) -> KnownBefore:
    return KnownBefore(
        task=task,
        asked=asked,
        facts=len(rows),
        guesses=sum(row.guess for row in rows),
        kept=sum(row.correct for row in rows),
        before={form: sum(form in row.before for row in rows) for form in formats},
        after={form: sum(form in row.right() for row in rows) for form in formats},
    )
