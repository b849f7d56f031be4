"""Why a stage is new: in what its declaration differs from the nearest published stage's."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from remix_toolkit import store
from remix_toolkit.errors import BadInput
from remix_toolkit.records import StageRecord

Declared = dict[str, str]  # dotted key -> value, as JSON
SHOWN = 3  # differences


def published_declarations(runs: Path) -> dict[int, list[Declared]]:
    """The declarations of all published stages, by how many stages each is made of; an unreadable one is left out."""
    declarations: dict[int, list[Declared]] = {}
    for folder in store.published_stages(runs).values():
        try:
            record = StageRecord.read(folder / "stage.json")
        except BadInput:  # whatever needs the stage says so; here it only cannot be compared with
            continue
        stages = record.declaration.get("stages", [])
        declarations.setdefault(len(stages), []).append(dict(_flatten(record.declaration)))
    return declarations


def why_new(
    declaration: Mapping[str, Any], stages: Sequence[str], published: Mapping[int, list[Declared]]
) -> str | None:
    """`stages.stage1.train.learning_rate 0.001 -> 0.0005`, against the nearest published stage; None without any.

    `stages` are the names of the stages that the declaration is made of; it is compared with as many.
    """
    declared = dict(_flatten(declaration))
    candidates = published.get(len(stages), [])
    if not candidates:
        return None
    nearest = min(candidates, key=lambda other: len(declared.items() ^ other.items()))
    changed = [key for key in {**nearest, **declared} if nearest.get(key) != declared.get(key)]
    values = [(nearest.get(key, "not set"), declared.get(key, "not set")) for key in changed]
    shown = [f"{_named(key, stages)} {old} -> {new}" for key, (old, new) in zip(changed, values, strict=True)]
    more = f", and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more or "its weights were deleted"


def _flatten(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):  # an empty one gives nothing: no mixing is not a setting
        for key, below in value.items():
            yield from _flatten(below, (*path, str(key)))
    elif path == ("stages",):
        for number, stage in enumerate(value):
            yield from _flatten(stage, (*path, str(number)))
    else:
        yield ".".join(path), json.dumps(value)


def _named(key: str, stages: Sequence[str]) -> str:
    """`stages.stage1.data.size` of `stages.0.data.size`."""
    parts = key.split(".")
    if parts[0] == "stages":
        parts[1] = stages[int(parts[1])]
    return ".".join(parts)
