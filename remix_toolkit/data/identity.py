"""What determines the rows that a recipe trains on or measures: the data's share of the lineage key, and ids of lists.

A declaration describes which rows are taken, without reading them; local files count by their content.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from remix_toolkit.data.files import sha256
from remix_toolkit.data.tasks import VERSIONS
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import Factoid, Instruction, Recipe, Rows

MOST_FILES = 20_000  # of a folder that is hashed: MATH's has 12,500, and `/` is no data


def source_declaration(task: Rows, data_seed: int) -> dict[str, Any]:
    """What determines the task's rows, for the lineage key; a local file counts by its content, not by its path."""
    excluded = {"size", "start", "familiarity", "prompt", "held_out", "path"}
    declared: dict[str, Any] = {"data_seed": data_seed, "version": VERSIONS[task.task]}
    if (path := getattr(task, "path", None)) is not None:  # then it is read, and not the hub
        excluded |= {"hub", "config", "revision"}
        declared["files"] = hash_source(path)
    return task.model_dump(exclude=excluded) | declared


def declaration(task: Rows, recipe: Recipe) -> dict[str, Any]:
    """What determines the rows that the recipe takes from the task."""
    declared = {**source_declaration(task, recipe.data_seed), "size": task.size, "start": task.start}
    if isinstance(task, Instruction) and task.size is None:
        declared["held_out"] = task.held_out  # all rows but these are trained on
    if isinstance(task, Factoid) and (task.familiarity or task.prompt != "plain"):
        declared |= {"prompt": task.prompt, "few_shot": recipe.few_shot.model_dump(exclude_none=True)}
        if task.familiarity:  # to the base model, or to that of a stage, named by its position
            base = recipe.position(recipe.base_stage) if recipe.base_stage else None
            declared |= {"familiarity": task.familiarity, "base_stage": base}
    return declared


def list_id(task: Rows, recipe: Recipe) -> str:
    """The id of a list of facts in a recipe's `recall`: the task's name and a hash of the rows' declaration."""
    return f"{task.task}-{short_hash(declaration(task, recipe))[:8]}"


def facts_ids(recipe: Recipe) -> dict[str, str]:
    """The ids of the stages' own facts, by stage; facts that overlap with those of stages before are left out."""
    declarations = (declaration(stage.data, recipe) for stage in recipe.stages.values())
    return dict(zip(recipe.stages, _ids_so_far(declarations), strict=True))


def trained_list(declarations: Iterable[Mapping[str, Any]]) -> str:
    """The id of the last stage's own facts, from the declarations of what each stage so far trains on."""
    return list(_ids_so_far(declarations))[-1]


def _ids_so_far(declarations: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """For each stage, its task and a hash: of its declaration, or of the list of those so far, where it has several.

    One hash is carried along: the lists of a long recipe grow with every stage.
    """
    listed = hashlib.sha256()
    for number, declared in enumerate(declarations):
        text = _canonical(declared)
        listed.update((b", " if number else b"[") + text)
        total = listed.copy() if number else hashlib.sha256(text)
        total.update(b"]" if number else b"")
        yield f"{declared['task']}-{total.hexdigest()[:8]}"


def short_hash(declared: Any) -> str:
    """A hash of a declaration: 16 hexadecimal digits."""
    return hashlib.sha256(_canonical(declared)).hexdigest()[:16]


def _canonical(declared: Any) -> bytes:
    return json.dumps(declared, sort_keys=True).encode()


def hash_source(path: str, without: Collection[str] = ()) -> str:
    """A hash of a local file, or of a folder's files except those named `without`, for the lineage key.

    A path that does not exist gives `absent: <path>`: a plan can be made before all data is here, with keys that are
    not yet those of a run. Whoever reads the data refuses a missing file. Raises BadInput for what cannot be hashed.
    """
    root = Path(path)
    if not os.path.exists(root):
        return f"absent: {path}"
    try:
        below = list(islice(root.rglob("*"), MOST_FILES + 1)) if root.is_dir() else [root]
        if len(below) > MOST_FILES:
            raise BadInput(f"{path}: holds more than {MOST_FILES:,} files; a folder with the data alone is expected")
        files = sorted(file for file in below if file.is_file() and file.name not in without)
        return _hash(root, tuple((file, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files))
    except OSError as error:
        raise BadInput(f"{error.filename}: cannot be read ({error.strerror})") from None


@cache  # the cells of a sweep read the same files, hundreds of times; size and date notice a change
def _hash(root: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    total = hashlib.sha256()
    for file, size, _ in files:
        total.update(f"{file.relative_to(root) if file != root else ''}\0{size}\0".encode())
        total.update(bytes.fromhex(sha256(file)))
    return total.hexdigest()
