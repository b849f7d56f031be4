"""What the models said to each fact: recall.jsonl, read line by line."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from remix_toolkit.errors import BadInput


class Said(NamedTuple):
    """A model's answer to one fact. `gold` are the right ones."""

    correct: bool
    prediction: str
    gold: tuple[str, ...]


def verdicts(path: str, facts: str) -> dict[str, Said]:
    """Prompt -> what was said, of one list of facts in a stage's folder. Raises BadInput where it cannot be read."""
    file, wanted = Path(path) / "recall.jsonl", json.dumps(facts)
    found = {}
    try:
        with file.open(encoding="utf-8") as lines:  # not splitlines: an answer may hold U+2028
            for line in lines:
                # Whole lines of other lists are not parsed: that is most of the time.
                if wanted not in line and line.endswith("}\n"):
                    continue
                if (row := json.loads(line))["list"] == facts:
                    # The same prompts and answers come in many runs: one copy of each is kept.
                    gold = tuple(sys.intern(str(answer)) for answer in row.get("gold", ()))
                    said = sys.intern(str(row.get("prediction", "")))
                    found[sys.intern(str(row["prompt"]))] = Said(bool(row["correct"]), said, gold)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: cannot be read ({type(error).__name__}: {error}): arms cannot be compared") from None
    return found


def known(path: str, facts: str) -> Mapping[str, bool]:
    """Prompt -> was it answered right?"""
    return {prompt: said.correct for prompt, said in verdicts(path, facts).items()}
