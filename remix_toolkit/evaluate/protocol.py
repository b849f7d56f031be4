"""What a measurement is, what it is given, and how the processes of a launcher share its work."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import RunFailed
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import FactList, Record

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from remix_toolkit.data.encoding import Example

Row = TypeVar("Row")
Value = TypeVar("Value")


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
        from remix_toolkit.data.encoding import encode_all

        return [example for example in encode_all(tokenizer, pairs, self.max_length)[0] if example]


@dataclass(frozen=True)
class Models:
    """The model that a stage published, and the one that it started from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    load_parent: Callable[[], PreTrainedModel]  # raises BadInput where its weights are gone


class Measurement(Protocol):
    """One kind of measurement. Ids, unique to the kind, say what is requested and what has been measured."""

    name: str  # the stem of its file
    record: type[Record]  # what that file holds
    shared: bool  # True: all processes of a launcher share the work. False: the main process does it alone
    needs_parent: bool = False  # does it load the model that the stage started from too?

    def requested(self, recipe: Recipe, stage: str) -> set[str]:
        """The ids of what a recipe asks to be measured after a stage."""
        ...

    def measured(self, folder: Path) -> set[str]:
        """The ids of what has been measured. Raises BadInput where its file cannot be read."""
        ...

    def check(self, subject: Subject) -> None:
        """Raise BadInput where the subject's data cannot be measured; called before the stage is trained."""
        return

    def run(self, subject: Subject, models: Models, folder: Path, missing: Collection[str]) -> None:
        """Measure what the missing ids stand for, and write the file."""
        ...


def in_shares(rows: Sequence[Row], compute: Callable[[Sequence[Row]], Sequence[Value]]) -> list[Value]:
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
