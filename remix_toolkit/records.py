"""What a store's records and results have to hold to be read, and which records are of the same weights."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

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


# --- typed records: one class for each JSON file, used by whoever writes or reads it ----------------------------------

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """The content of one JSON file. Unknown fields and other versions are refused: `read` says so with the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)

    version: int = 1

    @classmethod
    def read(cls: type[R], file: Path) -> R:
        """The record in a file. Raises BadInput with the file, the field and what is wrong with it."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"{file}: cannot be read ({type(error).__name__}: {error})") from None
        current = cls.model_fields["version"].default
        if isinstance(content, dict) and content.get("version") != current:
            version = content.get("version", "none")
            raise BadInput(f"{file}: has format version {version}; this toolkit reads version {current}")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the file"
            raise BadInput(f"{file}: {field}: {first['msg']}") from None

    def write(self, file: Path) -> None:
        """Write the file in one step: a reader sees the old content or the new one, never a part."""
        write_text(file, self.model_dump_json(indent=1) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a file in one step: beside it, then over it."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


class FileSeal(BaseModel):
    """Of one file of a published stage: its size and checksum."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0)
    sha256: str


class Manifest(Record):
    """manifest.json: the files of a published stage, as they were published."""

    files: dict[str, FileSeal]


class Pruned(Record):
    """pruned.json: the weights of the stage were deleted, and which files those were."""

    weights: list[str]


class FactList(BaseModel):
    """One list of facts that is measured: its task, and a label that tells it from other lists of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    label: str


class RunStage(BaseModel):
    """One stage of a run: its key, and what the run measures after it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    key: str = Field(pattern=r"^[0-9a-f]{16}$")
    task: str  # that it trains on
    trained: str  # the id of the list of what it trains on
    lists: dict[str, FactList]  # by id
    measurements: list[str]  # ids, as evaluate.measurements has them


class RunRecord(Record):
    """records/<run>.json: which stages a run consists of. A run is a recipe, an arm, a profile and a seed."""

    version: int = 2

    recipe: str
    arm: str
    grid_point: str = ""  # arms at one point of a sweep's grid are compared with one another
    profile: str
    seed: int
    source: str = ""  # the recipe file
    settings: dict[str, Any]  # dotted keys in which the resolved recipe differs from its file under the profile
    stages: list[RunStage] = Field(min_length=1)
    written: int = 0  # when, in nanoseconds: the newest of two records of one run counts

    @property
    def keys(self) -> list[str]:
        """The keys of its stages, in order."""
        return [stage.key for stage in self.stages]
