"""Tasks: named sources of (prompt, response) pairs, each with its paper's prompt.

`read(task, data_seed)` gives every row that is usable and says what became of the others; `choose` takes the rows
`start .. start + size` of those that qualify, in upstream order. Version numbers go into the lineage key: raise a
task's when its rows change for the same declaration.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from remix_toolkit.data import factoid, files, generated, hub, instruction
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.catalog import catalog, instead
from remix_toolkit.recipe.schema import (
    APPS,
    GSM8K,
    KVR,
    LAMA,
    MATH,
    TASKS,
    EntityQuestions,
    EvolCode,
    Factoid,
    Instruction,
    InventedFacts,
    Pairs,
    PopQA,
    Recipe,
    Rows,
    Source,
    TriviaQA,
    UltraChat,
    WebQA,
)

VERSIONS = dict.fromkeys(TASKS, 1)  # of how rows become pairs
GENERATED_ROWS = 10_000  # how many generated facts there are to choose from by familiarity
LONGEST_ANSWER = 1000  # characters; upstream's row with a longer answer is no fact
HTML = re.compile(r"</?[a-zA-Z][^<>]*>|&(?:[a-zA-Z]+|#\d+);")


@dataclass
class TaskRows:
    """A task's rows as far as they are usable: `rows` = len(pairs) + the sum of `dropped`, reason by reason."""

    pairs: list[Pair]
    rows: int
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)  # kept, but worth a look
    locations: list[str] = field(default_factory=list)  # of each pair, as messages name it; none of generated ones


def read_task(task: Rows, data_seed: int) -> TaskRows:
    """Every usable row, in upstream order; of two that ask the same, the first.

    Raises BadInput for files that are missing or in another format than upstream's, and for anything wrong in the
    user's own rows; RunFailed where the hub's stream breaks.
    """
    if isinstance(task, KVR | InventedFacts):
        count = GENERATED_ROWS if task.familiarity else task.start + task.size
        return TaskRows(generated.generate_facts(task, count, data_seed), count)
    _must_exist(task)
    result = TaskRows([], 0)
    seen: dict[tuple[object, str], int] = {}
    for place, row in _rows(task):
        result.rows += 1
        try:
            pair = _pair(task, row, place)
            if isinstance(task, Factoid) and not isinstance(task, Pairs) and len(pair.response) > LONGEST_ANSWER:
                raise files.UnusableRow(f"an answer of more than {LONGEST_ANSWER} characters")
            at = seen.setdefault((pair.history, pair.prompt), len(result.pairs))
            if at < len(result.pairs):
                first = result.pairs[at]
                if isinstance(task, Pairs) and first.response != pair.response:
                    raise BadInput(
                        f"{place}: the prompt {pair.prompt!r} has the response {pair.response!r} here and "
                        f"{first.response!r} at {result.locations[at]}; a fact has one response"
                    )
                # Trained on is the first row's answer; to recall, this one is right too.
                result.pairs[at] = replace(first, answers=tuple(dict.fromkeys([*first.answers, *pair.answers])))
                raise files.UnusableRow("asks the same as an earlier row")
        except files.UnusableRow as reason:
            result.dropped[str(reason)] += 1
            continue
        if isinstance(task, Factoid) and HTML.search(f"{pair.prompt} {pair.response}"):
            result.noted["HTML in it"] += 1
        result.pairs.append(pair)
        result.locations.append(place)
    return result


def select_rows(task: Rows, pairs: Sequence[Pair], what: str = "", how: str = "") -> list[Pair]:
    """Rows `start .. start + size` of those that qualify (`what`: "unfamiliar "). Raises BadInput for too few."""
    end = len(pairs) if task.size is None else task.start + task.size
    if end > len(pairs) or task.start >= len(pairs):
        asked = f"rows {task.start} to {end}" if task.start else f"{end} rows"
        raise BadInput(f"{describe(task)}: {what}{asked} asked,{how} the data has {len(pairs)}")
    return list(pairs[task.start : end])


def load_rows(task: Rows, data_seed: int) -> list[Pair]:
    """The task's rows where none is left out for its familiarity or its overlap with another stage."""
    return select_rows(task, read_task(task, data_seed).pairs)


def describe(task: Rows) -> str:
    """The task as messages name it: `popqa (../popQA.tsv)`."""
    source = getattr(task, "path", None) or getattr(task, "hub", None)
    return f"{task_name(task)} ({source})" if source else task_name(task)


def task_name(task: Rows) -> str:
    """`kvr`, `popqa`, ...: the task's own name."""
    return str(task.task)  # type: ignore[attr-defined]


def is_factoid(task: Rows) -> bool:
    """Is recall measured on it? Instruction tasks report the loss on held-out rows instead."""
    return isinstance(task, Factoid)


def source_declaration(task: Rows, data_seed: int) -> dict[str, Any]:
    """What determines which rows the task has; a local file counts by its content, not by its path."""
    rows = {"size", "start", "familiarity", "prompt", "held_out"}
    declared = task.model_dump(exclude={*rows, "path"})
    path = getattr(task, "path", None)
    if path is not None:
        _must_exist(task)
        declared = {key: value for key, value in declared.items() if key not in {"hub", "config", "revision"}}
        declared["files"] = hash_source(path)  # the file is what is read
    return {**declared, "data_seed": data_seed, "version": VERSIONS[task_name(task)]}


def _must_exist(task: Rows) -> None:
    path = getattr(task, "path", None)
    if path is not None and not os.path.exists(path) and _absent.get() is None:
        local = catalog()[task_name(task)].local
        raise BadInput(f"{task_name(task)}: {path}: no such file or directory; expected: {local}")


def declaration(task: Rows, recipe: Recipe) -> dict[str, Any]:
    """What determines the rows that the recipe takes of the task."""
    declared = {**source_declaration(task, recipe.data_seed), "size": task.size, "start": task.start}
    if isinstance(task, Instruction) and task.size is None:
        declared["held_out"] = task.held_out  # all rows but these are trained on
    if isinstance(task, Factoid) and (task.familiarity or task.prompt != "plain"):
        declared |= {"prompt": task.prompt, "few_shot": recipe.few_shot.model_dump()}
        if task.familiarity:  # as whose model sees it: the base's, or that of a stage, by its place
            base = recipe.position(recipe.base_stage) if recipe.base_stage else None
            declared |= {"familiarity": task.familiarity, "base_stage": base}
    return declared


def list_id(task: Rows, recipe: Recipe) -> str:
    """Which rows, of a recipe's `recall`: the task's name and a hash of their declaration. Recall is filed under it."""
    return f"{task_name(task)}-{short_hash(declaration(task, recipe))[:8]}"


def facts_id(recipe: Recipe, stage: str) -> str:
    """The same of a stage's own rows: they leave out what overlaps with the stages before, so these count too."""
    stages = list(recipe.stages.values())[: recipe.position(stage) + 1]
    name = task_name(stages[-1].data)
    declared = [declaration(stage.data, recipe) for stage in stages]
    return f"{name}-{short_hash(declared[0] if len(declared) == 1 else declared)[:8]}"


def short_hash(declared: Any) -> str:
    """A hash of a declaration: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()[:16]


# --- rows --------------------------------------------------------------------------------------------------------

COLUMNS = {
    "popqa": factoid.POPQA_COLUMNS,
    "triviaqa": factoid.TRIVIAQA_COLUMNS,
    "webqa": factoid.WEBQA_COLUMNS,
    "gsm8k": instruction.GSM8K_COLUMNS,
    "math": instruction.MATH_COLUMNS,
    "evolcode": instruction.EVOLCODE_COLUMNS,
    "apps": instruction.APPS_COLUMNS,
    "ultrachat": instruction.ULTRACHAT_COLUMNS,
}

PAIR_OF = {
    "popqa": factoid.popqa,
    "triviaqa": factoid.triviaqa,
    "lama": factoid.lama,
    "entityquestions": factoid.entityquestions,
    "webqa": factoid.webqa,
    "gsm8k": instruction.gsm8k,
    "math": instruction.math,
    "evolcode": instruction.evolcode,
    "apps": instruction.apps,
    "ultrachat": instruction.ultrachat,
}


def hub_selection(task: Source) -> hub.Selection:
    """What is read of the hub for this task. Raises BadInput where it names neither a path nor a hub id."""
    name = task_name(task)  # type: ignore[arg-type]
    if not task.hub:
        raise BadInput(f"{name}: says neither `path` nor `hub`")
    columns = (task.prompt_column, task.response_column) if isinstance(task, Pairs) else COLUMNS[name]
    first = task.first if isinstance(task, UltraChat) else None
    folder = task.data_dir if isinstance(task, APPS) else None
    return hub.Selection(task.hub, task.config, task.split, task.revision, columns, first, folder, instead(name))


def _rows(task: Rows) -> Iterator[tuple[str, dict[str, Any]]]:
    match task:
        case LAMA():
            return factoid.lama_rows(task)
        case EntityQuestions():
            return factoid.entityquestions_rows(task)
        case Source() if task.path is None:
            return hub.read_rows(hub_selection(task))
        case PopQA():
            return factoid.popqa_rows(Path(str(task.path)))
        case TriviaQA():
            return factoid.triviaqa_rows(Path(str(task.path)))
        case WebQA():
            return factoid.webqa_rows(task)
        case Pairs():
            return factoid.own_rows(task)
        case MATH():
            return instruction.math_rows(task)
        case EvolCode():
            return instruction.evolcode_rows(Path(str(task.path)))
        case GSM8K() | APPS():
            return files.read_jsonl(Path(str(task.path)))
        case UltraChat():
            return files.read_jsonl(Path(str(task.path)), task.first)
    raise TypeError(f"no reader for {type(task).__name__}")


def _pair(task: Rows, row: dict[str, Any], place: str) -> Pair:
    return factoid.own_pair(task, row, place) if isinstance(task, Pairs) else PAIR_OF[task_name(task)](row, place)


_absent: ContextVar[set[str] | None] = ContextVar("_absent", default=None)


@contextmanager
def noting_absent() -> Iterator[set[str]]:
    """A plan may be made before all data is here: local sources that are not, by path, instead of an error.

    The keys worked out inside are not those that a run will have.
    """
    noted: set[str] = set()
    token = _absent.set(noted)
    try:
        yield noted
    finally:
        _absent.reset(token)


def hash_source(path: str | None, without: Collection[str] = ()) -> str | None:
    """A hash of a local file, or of all files under a folder but some names, for the lineage key; None for no path."""
    if path is None:
        return None
    root = Path(path)
    if not root.exists():
        noted = _absent.get()
        if noted is None:
            raise BadInput(f"{path}: no such file or directory")
        noted.add(path)
        return f"absent: {path}"
    if root.is_file():
        return _hash(root, ((root, *_state(root)),))
    files = sorted(f for f in root.rglob("*") if f.is_file() and f.name not in without)
    return _hash(root, tuple((file, *_state(file)) for file in files))


def _state(file: Path) -> tuple[int, int]:
    state = file.stat()
    return state.st_size, state.st_mtime_ns


@cache  # a sweep asks for one file in hundreds of cells
def _hash(root: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    total = hashlib.sha256()
    for file, size, _ in files:
        total.update(f"{file.relative_to(root) if file != root else ''}\0{size}\0".encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
