"""What the models answered to each fact: recall.jsonl, as it is read by the report and by all comparisons."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.recall import Recall, VerdictRow
from remix_toolkit.records import parse_rows


class Answer(NamedTuple):
    """A model's answer; where scoring settled a wrong one, it ends at the first wrong token and is not complete."""

    text: str
    complete: bool

    def __str__(self) -> str:
        return self.text + ("" if self.complete else "...")


@dataclass
class Answers:
    """The answers to each fact, of every stage that was asked for: each recall.jsonl is read once."""

    read: dict[tuple[str, str], dict[str, Answer | None]] = field(default_factory=dict)

    def of(self, path: str, facts: str) -> dict[str, Answer | None]:
        """Prompt -> the wrong answer, None where it was right, of one list of facts in a stage's folder.

        Raises BadInput as `rows` does.
        """
        if (path, facts) not in self.read:
            self.read[path, facts] = {
                sys.intern(row.prompt): None if row.correct else answer(row) for row in rows(path, facts)
            }
        return self.read[path, facts]

    def known(self, path: str, facts: str) -> dict[str, bool]:
        """Prompt -> was it answered right?"""
        return {prompt: answer is None for prompt, answer in self.of(path, facts).items()}


def answer(row: VerdictRow) -> Answer:
    """The model's answer of a row."""
    return Answer(row.prediction, row.prediction_complete)


def known(path: str, facts: str) -> dict[str, bool]:
    """Prompt -> was it answered right? Raises BadInput as `rows` does."""
    return {row.prompt: row.correct for row in rows(path, facts)}


def gold(path: str, facts: str) -> dict[str, list[str]]:
    """Prompt -> its right answers. Raises BadInput as `rows` does."""
    return {row.prompt: list(row.gold) for row in rows(path, facts)}


def rows(path: str, facts: str) -> list[VerdictRow]:
    """The lines of recall.jsonl of one list of facts. Raises BadInput where they cannot be read, or there are none."""
    file = Path(path) / "recall.jsonl"
    try:
        lines = parse_rows(file, Recall().rows_text(Path(path)), VerdictRow, containing=facts)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: cannot be read ({type(error).__name__}: {error})") from None
    if not (verdicts := [row for row in lines if row.list == facts]):
        raise BadInput(f"{file}: has no answers to the facts {facts}")
    return verdicts
