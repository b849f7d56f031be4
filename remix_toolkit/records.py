"""The typed records of a store's JSON files: whoever writes or reads such a file does it through its record.

A file that cannot be read, or is not what was written, raises Damaged, whatever is wrong with it. Whoever shows what a
store holds warns of it and leaves it out; whoever makes such files makes it again.

Here are the records of a stage and a run. Those of measurements are beside the measurements, in evaluate/; a sweep's
are in launch/state.py, a familiarity split's in stage/familiar.py.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from pydantic_core import from_json

from remix_toolkit.disk import Damaged, OtherVersion, read_file, write_text

CANONICAL = json.JSONEncoder(sort_keys=True)  # made once: a store has thousands of sealed files
P = TypeVar("P", bound="Part")
R = TypeVar("R", bound="Record")
S = TypeVar("S", bound="SealedRecord")
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[FiniteFloat, Field(ge=0)]
Percent = Annotated[FiniteFloat, Field(ge=0, le=100)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


def _check_inside(name: str) -> str:
    parts = set(name.split("/")) - {"", "."}
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise ValueError("leads out of the folder; a relative path without .. is expected")
    return name


FileName = Annotated[str, AfterValidator(_check_inside)]  # relative to the folder that the record is in


class Part(BaseModel):
    """A part of a JSON file. Unknown fields and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, ser_json_inf_nan="constants")


class Record(Part):
    """The content of one JSON file. Unknown fields and other versions are refused: `read` says so with the file."""

    version: int = 1

    @classmethod
    def read(cls: type[R], file: Path) -> R:
        """The record in a file. Raises Damaged with the file, the field and what is wrong with it."""
        content, current = read_file(file), cls.model_fields["version"].default
        try:
            record = cls.model_validate_json(content)
        except ValidationError as error:
            problem = _first_problem(error)
        else:
            if record.version == current:
                return record
        try:
            version = from_json(content).get("version", "none")
        except (ValueError, AttributeError):
            version = current
        if version != current:
            raise OtherVersion(file, f"has format version {version!s:.20}; this toolkit reads version {current}")
        raise Damaged(file, problem)

    @classmethod
    def read_if_exists(cls: type[R], file: Path) -> R | None:
        """As `read`; None where there is no file."""
        return cls.read(file) if os.path.lexists(file) else None

    def write(self, file: Path) -> None:
        """Write the file in one step: a reader sees the old content or the new one, never a part."""
        write_text(file, self.model_dump_json(indent=1) + "\n")


class SealedRecord(Record):
    """A record with a checksum of its own content: for a file that no manifest has."""

    older_unsealed: ClassVar[bool] = False  # did earlier versions of the toolkit write it without a checksum?
    checksum: Annotated[str, Field(description="SHA-256 over the other fields")] = ""

    @classmethod
    def read(cls: type[S], file: Path) -> S:
        """As of any record. Raises Damaged where the content is not what was written, too."""
        record = super().read(file)
        if record.checksum != record.sum_of_content() and not (cls.older_unsealed and not record.checksum):
            raise Damaged(file, "is not the file that was written (its checksum differs)")
        return record

    def sealed(self) -> Self:
        """The record with its checksum."""
        return self.model_copy(update={"checksum": self.sum_of_content()})

    def sum_of_content(self) -> str:
        """SHA-256 over the other fields."""
        content = CANONICAL.encode(self.model_dump(mode="json", exclude={"checksum"}))
        return hashlib.sha256(content.encode()).hexdigest()

    def write(self, file: Path) -> None:
        """As of any record, with its checksum."""
        super(SealedRecord, self.sealed()).write(file)


def rows_text(rows: Iterable[Part]) -> str:
    """The text of a file of rows: a line of JSON each."""
    return "".join(f"{row.model_dump_json()}\n" for row in rows)


def write_rows(file: Path, rows: Iterable[Part]) -> None:
    """Write a file of rows in one step."""
    write_text(file, rows_text(rows))


def read_rows(file: Path, row: type[P]) -> list[P]:
    """The rows of a file, without a last line that a crash cut off; none where there is no file.

    Raises Damaged with the line, the field and what is wrong with it.
    """
    return parse_rows(file, read_text(file), row) if os.path.lexists(file) else []


def read_text(file: Path) -> str:
    """The text of a file. Raises Damaged."""
    try:
        return read_file(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Damaged(file, f"is not UTF-8 (byte {error.start:,})") from None


def parse_rows(file: Path, text: str, row: type[P], containing: str = "") -> list[P]:
    """As `read_rows`, of the text of a file or of its beginning, and only of the lines `containing` some text."""
    lines = text.split("\n")[:-1]  # not splitlines: an answer may hold U+2028
    numbered = {number: line for number, line in enumerate(lines, start=1) if containing in line}
    rows: TypeAdapter[list[P]] = TypeAdapter(list[row])  # type: ignore[valid-type]
    try:
        return rows.validate_json(f"[{','.join(numbered.values())}]")  # all at once, which is faster
    except ValidationError:
        for number, line in numbered.items():
            try:
                row.model_validate_json(line)
            except ValidationError as error:
                raise Damaged(Path(f"{file}:{number}"), _first_problem(error)) from None
        raise


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    if problem["type"] == "json_invalid":
        return f"cannot be read ({problem['msg']})"
    return f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"


class FileSeal(Part):
    """The size and the checksum of one file, or of the beginning of one."""

    bytes: Count
    sha256: str


def seal(content: bytes) -> FileSeal:
    """The seal of some content."""
    return FileSeal(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def sealed_content(file: Path, sealed: FileSeal) -> bytes:
    """The content of a file that was sealed; what a run that was ended wrote behind it is left out.

    Raises Damaged where it is not there any more.
    """
    content = read_file(file, sealed.bytes)
    if seal(content) != sealed:
        raise Damaged(file, "is not the file that was written (its checksum differs)")
    return content


class Manifest(SealedRecord):
    """manifest.json: the files of a published stage or a base model, as they were when it was sealed."""

    older_unsealed: ClassVar[bool] = True

    files: dict[FileName, FileSeal]


class Pruned(Record):
    """pruned.json: the weights of the stage were deleted, and which files those were."""

    weights: list[FileName]


class FactList(Part):
    """One list of facts that is measured: its task, and a label that tells it from other lists of a run."""

    task: str
    label: str


class RunStage(Part):
    """One stage of a run: its key, and what the run measures after it."""

    stage: str
    key: Key
    task: str  # that it trains on
    trained: str  # the id of the list of facts that it trains on
    lists: dict[str, FactList]  # by id
    measurements: list[str]  # as evaluate.measurements.requested has them


class RunRecord(SealedRecord):
    """records/<run>.json: which stages a run consists of. A run is a recipe, an arm, a profile and a seed."""

    older_unsealed: ClassVar[bool] = True
    version: Literal[2] = 2

    recipe: str
    arm: str
    grid_point: str = ""  # arms at one point of a sweep's grid are compared with one another
    profile: str
    seed: int
    source: str = ""  # the recipe file
    settings: dict[str, Any]  # dotted keys in which the resolved recipe differs from its file under the profile
    overrides: dict[str, Any]  # of these, what the command line changed; the rest is the sweep's
    stages: list[RunStage] = Field(min_length=1)
    written: int = 0  # when, in nanoseconds: the newest of two records of one run counts

    @property
    def keys(self) -> list[str]:
        """The keys of its stages, in order."""
        return [stage.key for stage in self.stages]


class RowCounts(Part):
    """How many rows a stage's task has, and how many were dropped or left out, by reason."""

    rows: Count
    usable: Count
    dropped: dict[str, Count]
    noted: dict[str, Count]
    exemplars: Count
    left_out: dict[str, Count]
    familiarity_unknown: Count


class OverlapCounts(Part):
    """What the search for facts in the mixing data covered, and what it left out."""

    facts: Count = Field(description="facts that were searched for in the mixing data")
    mixing_left_out: dict[str, Count]
    measured: dict[str, Count] = Field(description="list id -> its facts that this stage's own data contains")


class EpochTokens(Part):
    without_padding: Count
    with_padding: Count


class StageCounts(Part):
    """The examples of a stage, counted when its data was built."""

    facts: Count
    held_out: Count
    mixing: dict[str, Count] = Field(description="mixing source -> pairs")
    examples: Count = Field(description="that one epoch trains on, before the last partial batch is dropped")
    redrawn: Count = Field(default=0, description="of these, those drawn anew for each epoch")
    dropped: dict[str, Count] = Field(description="reason -> pairs that were not trained on")
    read: RowCounts
    overlap: OverlapCounts
    commits: dict[str, str] = Field(description="source -> its commit on the hub")
    steps_per_epoch: Count
    trained_tokens: Count = Field(description="tokens with a loss in one epoch")
    tokens: Count
    longest: Count = Field(description="tokens of the longest example")
    length_percentiles: dict[str, Count]
    tokens_per_epoch: EpochTokens


class Fingerprints(Part):
    """SHA-256 over a stage's pairs themselves, in order."""

    facts: str
    mixing: str


class RetentionPoint(Part):
    """A line of retention.jsonl: recall of one list of facts at one step of a later stage."""

    step: Count
    epoch: NonNegative
    list: str = Field(description="id of the list of facts")
    recall: Percent
    facts: Positive
    right: str = Field(pattern="^[01]+$", description="for each fact of the list, in order, 1 if it is known")


class DataRecord(Record):
    """data.json: what was counted when a stage's data was built."""

    counts: StageCounts
    fingerprints: Fingerprints


class StageRecord(Record):
    """stage.json: how a published stage came about."""

    version: Literal[2] = 2
    stage: str
    key: Key
    ancestors: list[Key] = Field(description="keys of the stages before it, the first stage first")
    started_from: str = Field(description="directory or hub id of the model that it started from")
    started_from_commit: str | None = Field(description="of a hub model")
    parent_weights: dict[str, str] | None = Field(description="file -> SHA-256 of the stage before; none: a base model")
    counts: StageCounts
    fingerprints: Fingerprints
    steps: Count
    steps_planned: Count
    trained_tokens: Count = Field(description="tokens with a loss that all its steps saw")
    epochs: NonNegative
    sweep: str | None = Field(description="the sweep that trained it")
    stop_fired: bool
    last_loss: float = Field(description="of the last optimizer step, in nats a token")
    seconds: NonNegative
    resumed_from: str | None = Field(description="the checkpoint from which its last run resumed")
    processes: Positive
    device: str
    precision: str
    held_in: str | None = Field(
        default=None, description="dtypes of what was trained, and of what an adapter left frozen"
    )
    activation_checkpointing: bool
    memory_estimated: Count | None = Field(description="bytes a device")
    memory_peak: Count | None = Field(description="bytes of a GPU")
    distributed: Literal["FSDP2", "DDP", "no"]
    attention: str | None
    python: str
    libraries: dict[str, str] = Field(description="name -> version")
    declaration: dict[str, Any] = Field(description="all that determines the weights; the key is its hash")
    made_of: Key | None = Field(
        default=None, description="the stage as it was trained, where its weights were changed after that"
    )
