"""What a store's records and results have to hold to be read, and which records are of the same weights."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter, ValidationError

from remix_toolkit.errors import BadInput

SAME = ("recipe", "arm", "profile", "seed", "overrides")


class _Stage(BaseModel):
    stage: str
    key: str
    task: str
    own: str
    recall: dict[str, str]


class _Record(BaseModel):
    recipe: str
    arm: str
    place: str = ""
    profile: str
    seed: int
    overrides: list[str]
    stages: list[_Stage] = Field(min_length=1)
    written: int = 0


class _Counts(BaseModel):
    facts: int | None = None
    mixing: dict[str, int] = {}
    dropped: dict[str, int] = {}


class _About(BaseModel):
    """Of stage.json, what is read of it; a loss may be no number, and that is said where it is shown."""

    key: str
    steps: int
    counts: _Counts = _Counts()
    declaration: dict[str, Any] = {}
    libraries: dict[str, str] = {}
    epochs: float | None = None
    last_loss: float | None = None
    seconds: FiniteFloat | None = None
    sweep: str | None = None


class _Recall(BaseModel):
    recall: FiniteFloat
    facts: int


class _HeldOut(BaseModel):
    rows: int
    loss: FiniteFloat
    accuracy: FiniteFloat | None = None


@dataclass(frozen=True)
class Results:
    """What a published stage's folder says was measured: recall.json, the steps of stage.json, held_out.json."""

    recall: dict[str, dict[str, Any]]
    steps: int
    held_out: dict[str, Any] | None


_RECALL = TypeAdapter(dict[str, _Recall])


def read_record(file: Path) -> dict[str, Any]:
    """A run's record. Raises BadInput where it is none, FileNotFoundError where it is gone."""
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        _Record.model_validate(record, strict=True)
    except ValueError as error:
        said = f"{file}: is no record of a run ({_wrong(error)}); the run's own command writes it anew"
        raise BadInput(said) from None
    return record


def read_results(folder: Path) -> Results:
    """What was measured of a published stage. Raises BadInput where one of its files is not as it should be."""
    file = folder / "recall.json"
    try:
        recall = json.loads(file.read_text(encoding="utf-8"))
        _RECALL.validate_python(recall, strict=True)
        about = json.loads((file := folder / "stage.json").read_text(encoding="utf-8"))
        _About.model_validate(about, strict=True)
        held_out = None
        if (file := folder / "held_out.json").exists():
            held_out = json.loads(file.read_text(encoding="utf-8"))
            _HeldOut.model_validate(held_out, strict=True)
            held_out = {"accuracy": None, **held_out}
    except (OSError, ValueError) as error:
        raise BadInput(f"{file}: cannot be read ({_wrong(error)}): this stage is left out") from None
    return Results(recall, about["steps"], held_out)


def _wrong(error: OSError | ValueError) -> str:
    """The first thing that is wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join([*filter(None, [".".join(map(str, first["loc"]))]), first["msg"]])
    return f"{type(error).__name__}: {error}"


def merged(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records, in their order, those of the same stages under one arm and seed as one: the same weights.

    Overrides that are in no key (how often a checkpoint is saved, where data lies, what is measured) make a record of
    their own, but no other model. The newest is kept, with all that was measured, and its overrides stand for the
    others' under every seed.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    newest: dict[str, dict[str, Any]] = {}  # overrides of an arm -> a record whose overrides stand for them
    for record in records:
        runs.setdefault(_text(record, [record["seed"], [stage["key"] for stage in record["stages"]]]), []).append(
            record
        )

    def stands(record: dict[str, Any]) -> dict[str, Any]:
        while (other := newest.get(_text(record, record["overrides"]), record)) is not record:
            record = other
        return record

    for same in runs.values():
        for record in same[:-1]:
            if _text(old := stands(record), old["overrides"]) != _text(new := stands(same[-1]), new["overrides"]):
                newest[_text(old, old["overrides"])] = new
    found = []
    for same in runs.values():
        stages = [
            {**stage, "recall": {id_: name for record in same for id_, name in record["stages"][at]["recall"].items()}}
            for at, stage in enumerate(same[-1]["stages"])
        ]
        found.append({**same[-1], "overrides": stands(same[-1])["overrides"], "stages": stages})
    return sorted(found, key=lambda record: int(record.get("written", 0)))


def _text(record: dict[str, Any], more: list[Any]) -> str:
    return json.dumps([*(record.get(name, "") for name in ("recipe", "arm", "profile", "place")), more])
