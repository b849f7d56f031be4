"""What a measurement is: what a recipe asks of it, what it is given, and the files that it leaves in a stage's folder.

    <name>.json      its results by what was asked: a list of facts, a text, a benchmark
    <name>.jsonl     where a result is made of rows, these rows

Keys and plans are made from what recipes ask, so a measurement's file imports torch and numpy only where it measures.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import Field

from remix_toolkit.data.encoding import Example, encode_all
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import RunFailed
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import FactList, Part, Record, read_rows, write_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

R = TypeVar("R", bound=Part)
Item = TypeVar("Item")
Value = TypeVar("Value")


class Results(Record, Generic[R]):
    """<name>.json"""

    version: Literal[2] = 2
    results: dict[str, R] = Field(description="by what was asked")


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

    def read(self, folder: Path) -> dict[str, R]:
        """The results in a stage's folder. Raises BadInput where they cannot be read."""
        record = self._record_class().read_if_exists(folder / f"{self.name}.json")
        return dict(record.results) if record else {}

    def record(self, results: Mapping[str, R]) -> Results[R]:
        """The content of <name>.json."""
        record: Results[R] = self._record_class()(results=results)
        return record

    def missing(self, recipe: Recipe, stage: str, folder: Path) -> list[str]:
        """What a recipe asks for and has not been measured yet."""
        measured = self.read(folder)
        return [item for item in dict.fromkeys(self.requested(recipe, stage)) if item not in measured]

    def run(self, items: Iterable[str], subject: Subject, models: Models, folder: Path) -> None:
        """Measure some items and write each result as soon as it is there, its rows before it."""
        for item in items:
            result, rows = self.measure(item, subject, models)
            if not is_main_process():
                continue
            results = self.read(folder)
            if self.row:  # rows without a result are of a run that was ended between the two
                file = folder / f"{self.name}.jsonl"
                write_rows(file, [*(row for row in read_rows(file, self.row) if row.list in results), *rows])
            self.record(results | {item: result}).write(folder / f"{self.name}.json")

    def _record_class(self) -> Any:
        return Results[self.result]  # type: ignore[name-defined]


def in_shares(rows: Sequence[Item], compute: Callable[[Sequence[Item]], Sequence[Value]]) -> list[Value]:
    """A value for each row, in order, in all processes; each process computes those of its share of the rows.

    Where one process fails, all raise RunFailed: the others would wait for its share.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState()
    if state.num_processes == 1:
        return list(compute(rows))
    share, values, error = rows[state.process_index :: state.num_processes], list[Value](), ""
    try:
        values = list(compute(share)) if share else []
    except Exception as problem:
        traceback.print_exc()
        error = f"process {state.process_index}: {type(problem).__name__}: {problem}"
    outcomes: list[tuple[list[Value], str]] = gather_object([(values, error)])
    for _, error in outcomes:
        if error:
            raise RunFailed(error)
    return [outcomes[i % state.num_processes][0][i // state.num_processes] for i in range(len(rows))]


def is_main_process() -> bool:
    """Is this the only process, or the first of a launcher's?"""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
