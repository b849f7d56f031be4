"""Why a stage is new: in what its declaration differs from the nearest published stage's."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from remix_toolkit import store
from remix_toolkit.errors import BadInput
from remix_toolkit.records import StageRecord

Declared = dict[str, str]  # dotted key -> value, as JSON
SHOWN = 3  # differences


class Published:
    """The declarations of published stages, as a table in which the nearest one to another is found."""

    def __init__(self, declarations: Sequence[Declared]) -> None:
        import numpy as np

        self.declarations = declarations
        self.sizes = np.array([len(declared) for declared in declarations])
        self.rows = {key: n for n, key in enumerate(dict.fromkeys(key for one in declarations for key in one))}
        self.codes: dict[tuple[str, str], int] = {}  # of a key and its value
        self.table = np.zeros((len(self.rows), len(declarations)), dtype=np.int32)  # 0: the key is not set
        for column, declared in enumerate(declarations):
            for key, value in declared.items():
                self.table[self.rows[key], column] = self.codes.setdefault((key, value), len(self.codes) + 1)

    def nearest(self, declared: Declared) -> Declared:
        """The declaration that has the fewest keys and values that this one has not, and lacks the fewest of its."""
        import numpy as np

        codes = [self.codes.get((key, declared.get(key, "")), -1) for key in self.rows]
        common = (self.table == np.array(codes)[:, None]).sum(axis=0)
        return self.declarations[int(np.argmax(2 * common - self.sizes))]


def published_declarations(runs: Path) -> dict[int, Published]:
    """The declarations of all published stages, by how many stages each is made of; an unreadable one is left out."""
    declarations: dict[int, list[Declared]] = {}
    for folder in store.published_stages(runs).values():
        with suppress(BadInput):  # whatever needs the stage says so; here it only cannot be compared with
            declaration = StageRecord.read(folder / "stage.json").declaration
            declarations.setdefault(len(declaration.get("stages", [])), []).append(_dotted(declaration))
    return {stages: Published(of_as_many) for stages, of_as_many in declarations.items()}


def why_new(declaration: Mapping[str, Any], stages: Sequence[str], published: Mapping[int, Published]) -> str | None:
    """`stages.stage1.train.learning_rate 0.001 -> 0.0005`, against the nearest published stage; None without any.

    `stages` are the names of the stages that the declaration is made of; it is compared with as many.
    """
    if len(stages) not in published:
        return None
    declared = _dotted(declaration)
    nearest = published[len(stages)].nearest(declared)
    changed = [key for key in {**nearest, **declared} if nearest.get(key) != declared.get(key)]
    shown = []
    for key in changed[:SHOWN]:
        name = re.sub(r"^stages\.(\d+)", lambda number: f"stages.{stages[int(number[1])]}", key)
        shown.append(f"{name} {nearest.get(key, 'not set')} -> {declared.get(key, 'not set')}")
    more = f", and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return ", ".join(shown) + more or "its weights were deleted"


def _dotted(declaration: Mapping[str, Any]) -> Declared:
    return {key: json.dumps(value) for key, value in flatten(declaration)}


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key, value; of lists, the places count as keys. An empty one gives nothing: no mixing is not a setting."""
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flatten(below, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
