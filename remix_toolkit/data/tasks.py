"""Tasks: named sources of (prompt, response) pairs, each with the paper's prompt.

`read_task` returns every usable row of a task and counts the others; `select_rows` takes the rows
`start .. start + size` of those that qualify, in upstream order.

To add a task: its keys in recipe/schema.py, its entry in recipe/catalog.yaml, a reader of its files and a function from
a row to a Pair in factoid.py or instruction.py, and a line in FORMATS. Raise a task's version when its rows change for
the same declaration: versions are part of the lineage key.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from remix_toolkit.data import factoid, files, generated, hub, instruction
from remix_toolkit.data.missing_files import missing
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.catalog import local_alternative
from remix_toolkit.recipe.check import missing_path
from remix_toolkit.recipe.schema import (
    APPS,
    KVR,
    TASKS,
    Factoid,
    InventedFacts,
    Pairs,
    Rows,
    Source,
    UltraChat,
)

VERSIONS = dict.fromkeys(TASKS, 1)  # of how rows become pairs
GENERATED_ROWS = 10_000  # how many generated facts there are to choose from by familiarity
LONGEST_ANSWER = 1000  # characters; an upstream row with a longer answer is not a fact
HTML = re.compile(r"</?[a-zA-Z][^<>]*>|&(?:[a-zA-Z]+|#\d+);")


class Format(NamedTuple):
    """How a task's rows are read, and what becomes of each."""

    read_files: Callable[[Any], files.LocatedRows]  # from the task, whose `path` is upstream's file or folder
    to_pair: Callable[..., Pair]  # from a row; raises UnusableRow or BadInput
    hub_columns: tuple[str, ...] = ()  # of the dataset on the hub, if there is one


FORMATS = {
    "popqa": Format(factoid.read_popqa, factoid.popqa, ("subj", "obj", "question", "possible_answers")),
    "triviaqa": Format(factoid.read_triviaqa, factoid.triviaqa, ("question", "answer")),
    "lama": Format(factoid.read_lama, factoid.lama),
    "entityquestions": Format(factoid.read_entityquestions, factoid.entityquestions),
    "webqa": Format(factoid.read_webqa, factoid.webqa, ("question", "answers")),
    "pairs": Format(factoid.read_pairs, factoid.pairs),  # its columns are keys of the task
    "gsm8k": Format(instruction.read_lines, instruction.gsm8k, ("question", "answer")),
    "math": Format(instruction.read_math, instruction.math, ("problem", "solution")),
    "evolcode": Format(instruction.read_evolcode, instruction.evolcode, ("instruction", "output")),
    "apps": Format(instruction.read_lines, instruction.apps, ("question", "solutions", "difficulty")),
    "ultrachat": Format(instruction.read_lines, instruction.ultrachat, ("data",)),
}


@dataclass
class TaskRows:
    """The usable rows of a task: `rows` = len(pairs) + the sum of `dropped`, which counts the others by reason."""

    pairs: list[Pair]
    rows: int
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)  # kept, but worth a look
    locations: list[str] = field(default_factory=list)  # of each pair, as messages name it; empty for generated ones


def read_task(task: Rows, data_seed: int) -> TaskRows:
    """Every usable row, in upstream order; of rows that ask the same, the first.

    Raises BadInput for files that are missing or not in upstream's format, and for any mistake in the user's own rows;
    RunFailed where a download from the hub breaks off.
    """
    if isinstance(task, KVR | InventedFacts):
        count = GENERATED_ROWS if task.familiarity else task.start + task.size
        return TaskRows(generated.generate_facts(task, count, data_seed), count)
    result = TaskRows([], 0)
    first_of: dict[tuple[object, str], int] = {}  # dialogue so far and prompt -> index of the pair that has them
    to_pair = FORMATS[task.task].to_pair
    if isinstance(task, Pairs):
        to_pair = partial(to_pair, prompt_column=task.prompt_column, response_column=task.response_column)
    for where, row in _read_rows(task):
        result.rows += 1
        try:
            pair = to_pair(row)
            if isinstance(task, Factoid) and not isinstance(task, Pairs) and len(pair.response) > LONGEST_ANSWER:
                raise files.UnusableRow(f"an answer of more than {LONGEST_ANSWER} characters")
            index = first_of.setdefault((pair.history, pair.prompt), len(result.pairs))
            if index < len(result.pairs):
                _accept_answers(result, index, pair, same_response=isinstance(task, Pairs))
                raise files.UnusableRow("asks the same as an earlier row")
        except files.UnusableRow as reason:
            result.dropped[str(reason)] += 1
            continue
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None
        if isinstance(task, Factoid) and HTML.search(f"{pair.prompt} {pair.response}"):
            result.noted["HTML in it"] += 1
        result.pairs.append(pair)
        result.locations.append(where)
    return result


def _accept_answers(result: TaskRows, index: int, pair: Pair, same_response: bool) -> None:
    """Of two rows that ask the same, the first row's answer is trained on, and recall accepts those of both.

    Raises BadInput where their responses must be the same and are not.
    """
    first = result.pairs[index]
    if same_response and first.response != pair.response:
        raise BadInput(
            f"the prompt {pair.prompt!r} has the response {pair.response!r} here and {first.response!r} at "
            f"{result.locations[index]}; a fact has one response"
        )
    result.pairs[index] = replace(first, answers=tuple(dict.fromkeys([*first.answers, *pair.answers])))


def _read_rows(task: Rows) -> files.LocatedRows:
    path = getattr(task, "path", None)
    if path is None and isinstance(task, Source):
        return hub.read_rows(hub_selection(task))
    if mistake := missing_path(task):
        raise BadInput(f"{task.task}: path: {mistake}")
    if not Path(str(path)).exists():
        raise BadInput(missing(task.task, str(path)))
    return FORMATS[task.task].read_files(task)


def hub_selection(task: Source) -> hub.Selection:
    """What is downloaded from the hub for this task. Raises BadInput where it has neither a path nor a hub id."""
    name = task.task  # type: ignore[attr-defined]
    if not task.hub:
        raise BadInput(f"{name}: has neither `path` nor `hub`")
    own_columns = (task.prompt_column, task.response_column) if isinstance(task, Pairs) else None
    return hub.Selection(
        task.hub,
        task.config,
        task.split,
        task.revision,
        own_columns or FORMATS[name].hub_columns,
        first=task.first if isinstance(task, UltraChat) else None,
        data_dir=task.data_dir if isinstance(task, APPS) else None,
        local_alternative=local_alternative(name),
    )


def select_rows(task: Rows, pairs: Sequence[Pair], kind: str = "", note: str = "") -> list[Pair]:
    """Rows `start .. start + size` of those that qualify. Raises BadInput where there are too few.

    `kind` ("unfamiliar ") and `note` (" 100 of them held out,") are words of that message.
    """
    end = len(pairs) if task.size is None else task.start + task.size
    if end > len(pairs) or task.start >= len(pairs):
        requested = f"{kind}rows {task.start} to {end}" if task.start else f"{end} {kind}rows"
        raise BadInput(f"{describe(task)}: {requested} requested,{note} but the data has {len(pairs)}")
    return list(pairs[task.start : end])


def load_rows(task: Rows, data_seed: int) -> list[Pair]:
    """The task's rows where none is left out for its familiarity or for an overlap with another stage."""
    return select_rows(task, read_task(task, data_seed).pairs)


def describe(task: Rows) -> str:
    """The task as messages name it: `popqa (../popQA.tsv)`."""
    source = getattr(task, "path", None) or getattr(task, "hub", None)
    return f"{task.task} ({source})" if source else task.task
