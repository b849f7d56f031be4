"""What the models said to each fact: recall.jsonl, as it is read by the report and by all comparisons."""

import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.recall import Recall


def wrong(path: str, facts: str) -> dict[str, str | None]:
    """Prompt -> what was said wrongly, None where it was right, of one list of facts in a stage's folder.

    Raises BadInput where that cannot be read.
    """
    return {sys.intern(row["prompt"]): None if row["correct"] else said(row) for row in rows(path, facts)}


@dataclass
class Answers:
    """What was said to each fact, of every stage that was asked for: each recall.jsonl is read once."""

    read: dict[tuple[str, str], dict[str, str | None]] = field(default_factory=dict)

    def of(self, path: str, facts: str) -> dict[str, str | None]:
        """As `wrong`, kept."""
        if (path, facts) not in self.read:
            self.read[path, facts] = wrong(path, facts)
        return self.read[path, facts]

    def known(self, path: str, facts: str) -> dict[str, bool]:
        """Prompt -> was it answered right?"""
        return {prompt: said is None for prompt, said in self.of(path, facts).items()}


def said(row: Mapping[str, Any]) -> str:
    """What the model said; where scoring settled it, up to the first wrong token, and that is shown."""
    return str(row.get("prediction", "")) + ("" if row.get("prediction_complete", True) else "...")


def known(path: str, facts: str) -> Mapping[str, bool]:
    """Prompt -> was it answered right? Raises BadInput as `wrong` does."""
    return {prompt: said is None for prompt, said in wrong(path, facts).items()}


def gold(path: str, facts: str) -> dict[str, list[str]]:
    """Prompt -> its right answers. Raises BadInput as `wrong` does."""
    return {row["prompt"]: [str(answer) for answer in row.get("gold", ())] for row in rows(path, facts)}


def rows(path: str, facts: str) -> list[dict[str, Any]]:
    """The lines of recall.jsonl of one list of facts. Raises BadInput where they cannot be read."""
    file, wanted = Path(path) / "recall.jsonl", json.dumps(facts)
    try:
        lines = io.StringIO(Recall().rows_text(Path(path)))  # not splitlines: an answer may hold U+2028
        # Whole lines of other lists are not parsed, and those of this one all at once: a large store has millions.
        mine = [line for line in lines if wanted in line or not line.endswith("}\n")]
        found = [row for row in json.loads(f"[{','.join(mine)}]") if row["list"] == facts]
        if not all(isinstance(row["prompt"], str) and isinstance(row["correct"], bool) for row in found):
            raise ValueError("a line has no prompt, or does not say whether the answer is right")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: cannot be read ({type(error).__name__}: {error}): arms cannot be compared") from None
    return found
