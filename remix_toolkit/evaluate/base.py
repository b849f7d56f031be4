"""What a measurement is: what a recipe asks of it, what it is given, and the files that it leaves in a stage's folder.

    <name>.json      its results by what was asked: a list of facts, a text, a benchmark
    <name>.jsonl     where a result is made of rows, these rows

Both are written after the stage was published, and again when more is asked, so that its manifest does not have them:
<name>.json has a checksum of itself, and one of the rows that belong to it. Rows are written first; what a run that was
ended left behind those that are sealed counts for nothing. Reading a damaged file raises Damaged; whoever asks what is
missing takes it for missing, and it is measured again.

Keys and plans are made from what recipes ask, so a measurement's file imports torch and numpy only where it measures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import Field

from remix_toolkit.data.encoding import Example, encode_all
from remix_toolkit.data.pair import Pair
from remix_toolkit.disk import Damaged, delete, read_sound, write_text
from remix_toolkit.errors import RunFailed
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import (
    FactList,
    FileSeal,
    Part,
    SealedRecord,
    parse_rows,
    read_text,
    rows_text,
    seal,
    sealed_content,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from remix_toolkit.evaluate.known import KnownFact

R = TypeVar("R", bound=Part)
Item = TypeVar("Item")
Value = TypeVar("Value")


class Results(SealedRecord, Generic[R]):
    """<name>.json"""

    version: Literal[3] = 3
    results: dict[str, R] = Field(description="by what was asked")
    rows: FileSeal | None = Field(None, description="of the beginning of <name>.jsonl that belongs to the results")


class Row(Part):
    """A line of <name>.jsonl."""

    list: str = Field(description="the result that it is part of; of recall, the id of the list of facts")


@dataclass(frozen=True)
class Subject:
    """A stage and the data that it is measured on."""

    recipe: Recipe
    stage: str
    lists: Mapping[str, FactList]  # the lists of facts that are measured after it, by id
    facts: Mapping[str, Sequence[Pair]]  # the facts of each of these lists
    pairs: Sequence[Pair]  # what the stage trains on
    mixing: Sequence[Pair]
    held_out: Sequence[Pair]  # rows of its instruction task that no stage trains on
    max_length: int  # tokens; a longer example is left out
    known: Callable[[], tuple[int, Sequence[KnownFact]]]  # of the facts of `evaluate.known`, how many were asked

    def encode(self, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[Example]:
        """The examples of some pairs, as they are trained on."""
        return [example for example in encode_all(tokenizer, pairs, self.max_length)[0] if example]


@dataclass(frozen=True)
class Models:
    """The model that a stage published, and the one that it started from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    load_parent: Callable[[], PreTrainedModel]  # raises BadInput where its weights are gone


class Measurement(ABC, Generic[R]):
    """One kind of measurement."""

    name: str  # the stem of its files
    result: type[R]
    row: type[Row] | None = None
    shared: bool = False  # True: all processes of a launcher share the work. False: the main process does it alone
    of_base: bool = False  # is the base model measured too, once for all recipes?
    needs_parent: bool = False  # does it load the model that the stage started from too?

    @abstractmethod
    def requested(self, recipe: Recipe, stage: str) -> list[str]:
        """What a recipe asks of it after a stage; each becomes the name of a result."""

    def check(self, subject: Subject) -> None:
        """Raise BadInput where the subject's data cannot be measured; called before the stage is trained."""
        return

    @abstractmethod
    def measure(self, item: str, subject: Subject, models: Models) -> tuple[R, Sequence[Row]]:
        """The result for one of the items that are requested, and its rows."""

    def problem(self, result: R, rows: Sequence[Any]) -> str | None:
        """In what a result is not what its rows give; None where it is, or where it is made of no rows."""
        return None

    def read(self, folder: Path) -> dict[str, R]:
        """The results in a stage's folder. Raises Damaged where they are, or where rows are gone."""
        return dict(self._read_beside_rows(folder).results)

    def rows_text(self, folder: Path) -> str:
        """The text of <name>.jsonl, as far as it belongs to the results. Raises Damaged."""
        return self._rows_text(folder, self._read(folder))

    def verify(self, folder: Path) -> dict[str, R]:
        """As `read`, with every row: its checksum, its fields, and whether the results are what the rows give."""
        record = self._read_beside_rows(folder)
        if self.row and record.rows:
            rows = parse_rows(folder / f"{self.name}.jsonl", self._rows_text(folder, record), self.row)
            for item, result in record.results.items():
                if problem := self.problem(result, [row for row in rows if row.list == item]):
                    raise Damaged(folder / f"{self.name}.json", f"{item}: {problem}")
        return dict(record.results)

    def sound(self, folder: Path, rows: bool = False) -> dict[str, R]:
        """As `read`, with the checksum of the rows, or with all `rows` as `verify`; none, and a warning, if damaged."""

        def read() -> dict[str, R]:
            if rows:
                return self.verify(folder)
            record = self._read(folder)
            if record.rows:
                self._rows_text(folder, record)
            return dict(record.results)

        return read_sound(read, {}, "it counts as not measured")

    def remove(self, folder: Path) -> None:
        """Delete what was measured."""
        for suffix in ("json", "jsonl"):
            delete(folder / f"{self.name}.{suffix}")

    def record(self, results: Mapping[str, R], rows: FileSeal | None = None) -> Results[R]:
        """The content of <name>.json, sealed."""
        record: Results[R] = _record_class(self.result)(results=results, rows=rows)
        return record.sealed()

    def missing(self, recipe: Recipe, stage: str, folder: Path) -> list[str]:
        """What a recipe asks for and has not been measured yet, or is damaged."""
        if not (requested := dict.fromkeys(self.requested(recipe, stage))):
            return []
        measured = self.sound(folder, rows=True)
        return [item for item in requested if item not in measured]

    def run(self, items: Iterable[str], subject: Subject, models: Models, folder: Path) -> None:
        """Measure some items and write each result as soon as it is there, its rows before it."""
        writes = is_main_process()
        kept = self.sound(folder, rows=True) if writes else {}
        text = self.rows_text(folder) if kept and self._read(folder).rows else ""
        for item in items:
            result, rows = self.measure(item, subject, models)
            if not writes:
                continue
            kept[item], sealed = result, None
            if self.row:
                text += rows_text(rows)
                write_text(folder / f"{self.name}.jsonl", text)
                sealed = seal(text.encode())
            self.record(kept, sealed).write(folder / f"{self.name}.json")

    def _read(self, folder: Path) -> Results[R]:
        kind = _record_class(self.result)
        record: Results[R] = kind.read_if_exists(folder / f"{self.name}.json") or kind(results={})
        return record

    def _read_beside_rows(self, folder: Path) -> Results[R]:
        record, file = self._read(folder), folder / f"{self.name}.jsonl"
        if record.rows and not (file.is_file() and file.stat().st_size >= record.rows.bytes):
            raise Damaged(file, "is missing, or shorter than what was measured")
        return record

    def _rows_text(self, folder: Path, record: Results[R]) -> str:
        file = folder / f"{self.name}.jsonl"
        return sealed_content(file, record.rows).decode("utf-8") if record.rows else read_text(file)


@cache  # pydantic forgets the class with its last record, and to make it again takes longer than to read a file
def _record_class(result: type[Part]) -> Any:
    return Results[result]  # type: ignore[valid-type]


def in_shares(rows: Sequence[Item], compute: Callable[[Sequence[Item]], Sequence[Value]]) -> list[Value]:
    """A value for each row, in order, in all processes; each process computes those of its share of the rows.

    Where one process fails, it raises its error, and the others RunFailed: they would wait for its share.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState()
    if state.num_processes == 1:
        return list(compute(rows))
    share, values, failure = rows[state.process_index :: state.num_processes], list[Value](), None
    try:
        values = list(compute(share)) if share else []
    except Exception as error:
        failure = error
    reason = f"process {state.process_index}: {type(failure).__name__}: {failure}" if failure else ""
    outcomes: list[tuple[list[Value], str]] = gather_object([(values, reason)])
    if failure:
        raise failure
    for _, reason in outcomes:
        if reason:
            raise RunFailed(reason)
    return [outcomes[i % state.num_processes][0][i // state.num_processes] for i in range(len(rows))]


def is_main_process() -> bool:
    """Is this the only process, or the first of a launcher's?"""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
