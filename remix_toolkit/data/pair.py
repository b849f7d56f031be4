"""A (prompt, response) pair, which every task and every mixing source produces, and files of pairs."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class Pair:
    """One (prompt, response) pair. Recall accepts any of `answers`."""

    prompt: str
    response: str
    source: str  # the task or mixing source that it comes from
    answers: tuple[str, ...] = ()  # the trained response, then other gold answers; none for instructions, mixing data
    subject: str = ""  # what the fact is about, if known; the search for overlaps looks for it beside an answer
    history: tuple[tuple[str, str], ...] = ()  # the earlier turns of a dialogue, (user, assistant), trained on as well
    one_line: bool = False  # under a few-shot prompt the answer ends with its line, as the exemplars' answers do
    plain: bool = False  # the prompt stands before the response as it is, with a space between them, not as Tulu's turn

    @property
    def text(self) -> str:
        """All of its text: earlier turns, prompt and response, a line each."""
        return "\n".join([*(turn for turns in self.history for turn in turns), self.prompt, self.response])


_VALIDATOR = TypeAdapter(Pair)


def _fields(pair: Pair) -> dict[str, Any]:
    """What is written and hashed; `plain`, which came later, only where it is set: fingerprints stay as they were."""
    return {name: value for name, value in asdict(pair).items() if name != "plain" or value}


def write_pairs(file: Path, pairs: Iterable[Pair]) -> None:
    """Write a file of pairs, one JSON object a line."""
    lines = (json.dumps(_fields(pair), ensure_ascii=False) for pair in pairs)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_pairs(file: Path) -> list[Pair]:
    """The pairs of a file that `write_pairs` wrote."""
    with file.open(encoding="utf-8") as lines:  # not splitlines: an answer may hold U+2028
        return [_VALIDATOR.validate_json(line) for line in lines]


def fingerprint(pairs: Iterable[Pair]) -> str:
    """A hash of the pairs themselves, in order: recorded with the stage that trains on them."""
    lines = (json.dumps(_fields(pair), sort_keys=True, ensure_ascii=False) for pair in pairs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
