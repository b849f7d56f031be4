"""Tasks: named sources of (prompt, response) pairs, each with the paper's prompt.

`read_task` returns every usable row of a task and counts the others; `select_rows` takes the rows
`start .. start + size` of those that qualify, in upstream order.

To add a task: its keys in recipe/schema.py, its entry in recipe/catalog.yaml, a function from a row to a Pair in
factoid.py or instruction.py (and a reader, where upstream's files are not simply rows), and a line in FORMATS. Raise a
task's version when its rows change for the same declaration: versions are part of the lineage key.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from remix_toolkit.data import factoid, generated, hub, instruction
from remix_toolkit.data.files import Row, UnusableRow, read_rows
from remix_toolkit.data.missing_files import missing_message
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import KVR, TASKS, Capitals, Factoid, InventedFacts, Pairs, Rows, Source, UltraChat

VERSIONS = dict.fromkeys(TASKS, 1)  # of how rows become pairs
GENERATED_ROWS = 10_000  # how many generated facts there are to choose from by familiarity
CAPITALS = Path(str(resources.files("remix_toolkit.data") / "capitals.csv"))
LONGEST_ANSWER = 1000  # characters; an upstream row with a longer answer is not a fact
HTML = re.compile(r"</?[a-zA-Z][^<>]*>|&(?:[a-zA-Z]+|#\d+);")


class Format(NamedTuple):
    """What becomes of a task's rows, and how they are read."""

    to_pair: Callable[..., Pair]  # from a row; raises UnusableRow or BadInput
    hub_columns: tuple[str, ...] = ()  # of the dataset on the hub, if there is one
    read: Callable[[Path, str], Iterator[Row]] = read_rows  # from upstream's file or folder, a split of it


FORMATS = {
    "capitals": Format(factoid.capitals),
    "popqa": Format(factoid.popqa, ("subj", "obj", "question", "possible_answers")),
    "triviaqa": Format(factoid.triviaqa, ("question", "answer"), factoid.read_triviaqa),
    "lama": Format(factoid.lama, (), factoid.read_lama),
    "entityquestions": Format(factoid.entityquestions, (), factoid.read_entityquestions),
    "webqa": Format(factoid.webqa, ("question", "answers"), factoid.read_webqa),
    "pairs": Format(factoid.pairs),  # its columns are keys of the task
    "gsm8k": Format(instruction.gsm8k, ("question", "answer")),
    "math": Format(instruction.math, ("problem", "solution"), instruction.read_math),
    "evolcode": Format(instruction.evolcode, ("instruction", "output"), instruction.read_evolcode),
    "apps": Format(instruction.apps, ("question", "solutions", "difficulty")),
    "ultrachat": Format(instruction.ultrachat, ("data",)),
}


@dataclass
class TaskRows:
    """The usable rows of a task, and what became of the others."""

    pairs: list[Pair]
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    noted: Counter[str] = field(default_factory=Counter)  # kept, but worth a look
    places: list[str] = field(default_factory=list)  # of each pair, as messages name it; empty for generated ones

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return len(self.pairs) + self.dropped.total()


def read_task(task: Rows, data_seed: int) -> TaskRows:
    """Every usable row, in upstream order; of rows that ask the same, the first.

    Raises BadInput for files that are missing or not in upstream's format, and for any mistake in the user's own rows;
    RunFailed where a download from the hub breaks off.
    """
    if isinstance(task, KVR | InventedFacts):
        count = GENERATED_ROWS if task.familiarity else task.start + task.size
        return TaskRows(generated.generate_facts(task, count, data_seed))
    dropped, noted = Counter[str](), Counter[str]()
    kept: dict[tuple[object, str], tuple[Pair, str]] = {}  # dialogue so far and prompt -> the pair, and its place
    to_pair = FORMATS[task.task].to_pair
    if isinstance(task, Pairs):
        to_pair = partial(to_pair, prompt_column=task.prompt_column, response_column=task.response_column)
    for row in _read_rows(task):
        try:
            pair = to_pair(row)
            if isinstance(task, Factoid) and not isinstance(task, Pairs) and len(pair.response) > LONGEST_ANSWER:
                raise UnusableRow(f"an answer of more than {LONGEST_ANSWER} characters")
        except UnusableRow as reason:
            dropped[str(reason)] += 1
            continue
        first, place = kept.setdefault((pair.history, pair.prompt), (pair, row.place))
        if first is not pair:  # its answer is trained on, and recall accepts those of both rows
            if isinstance(task, Pairs) and first.response != pair.response:
                raise BadInput(
                    f"{row.place}: the prompt {pair.prompt!r} has the response {pair.response!r} here and "
                    f"{first.response!r} at {place}; a fact has one response"
                )
            answers = tuple(dict.fromkeys([*first.answers, *pair.answers]))
            kept[pair.history, pair.prompt] = replace(first, answers=answers), place
            dropped["asks the same as an earlier row"] += 1
        elif isinstance(task, Factoid) and HTML.search(f"{pair.prompt} {pair.response}"):
            noted["HTML in it"] += 1
    pairs, places = [pair for pair, _ in kept.values()], [place for _, place in kept.values()]
    return TaskRows(pairs, dropped, noted, places)


def _read_rows(task: Rows) -> Iterator[Row]:
    path = CAPITALS if isinstance(task, Capitals) else getattr(task, "path", None)
    if path is None and isinstance(task, Source):
        return hub.read_rows(hub_selection(task))
    if not os.path.exists(str(path)):
        raise BadInput(missing_message(task.task, str(path)))
    rows = FORMATS[task.task].read(Path(str(path)), getattr(task, "split", "train"))
    return islice(rows, task.first) if isinstance(task, UltraChat) else rows


def hub_selection(task: Source) -> hub.Selection:
    """What is downloaded from the hub for this task. Raises BadInput where it has neither a path nor a hub id."""
    name: str = task.task  # type: ignore[attr-defined]
    own_columns = (task.prompt_column, task.response_column) if isinstance(task, Pairs) else None
    return hub.select(name, task, own_columns or FORMATS[name].hub_columns)


def select_rows(task: Rows, pairs: Sequence[Pair], familiarity: str | None = None, held_out: int = 0) -> list[Pair]:
    """Rows `start .. start + size` of those that qualify, and the held-out ones behind them; at least one row.

    Raises BadInput where there are too few, with their `familiarity` in the message.
    """
    size = max(1, len(pairs) - task.start - held_out) if task.size is None else task.size
    end = task.start + size + held_out
    if familiarity == "familiar" and not pairs:
        raise BadInput(f"{describe(task)}: the base model answers none of its facts under the few-shot prompt")
    if end > len(pairs):
        rows = f"{familiarity} rows" if familiarity else "rows"
        requested = f"{rows} {task.start} to {end}" if task.start else f"{end} {rows}"
        note = f" {held_out} of them held out," if held_out else ""
        raise BadInput(f"{describe(task)}: {requested} requested,{note} but the data has {len(pairs)}")
    return list(pairs[task.start : end])


def load_rows(task: Rows, data_seed: int) -> list[Pair]:
    """The task's rows where none is left out for its familiarity or for an overlap with another stage."""
    return select_rows(task, read_task(task, data_seed).pairs)


def paraphrases(task: Pairs, facts: Sequence[Pair], column: str) -> list[Pair]:
    """Some facts of the user's own under the prompts of another column. Raises BadInput where that lacks one."""
    rows, others = read_task(task, 0), read_task(task.model_copy(update={"prompt_column": column}), 0)
    places = {pair.prompt: place for pair, place in zip(rows.pairs, rows.places, strict=True)}
    at = dict(zip(others.places, others.pairs, strict=True))
    return [at[place] for fact in facts if (place := places[fact.prompt]) in at]  # of equal ones, the first is there


def other_rows(task: Rows, count: int, data_seed: int) -> list[Pair]:
    """All rows of a task or, of generated facts, as many as `count` by another seed than a stage's own."""
    if isinstance(task, KVR | InventedFacts):
        return generated.generate_facts(task, count, f"{data_seed} of a format anchor")
    return read_task(task, data_seed).pairs


def describe(task: Rows) -> str:
    """The task as messages name it: `popqa (../popQA.tsv)`."""
    source = getattr(task, "path", None) or getattr(task, "hub", None)
    return f"{task.task} ({source})" if source else task.task
