"""The local files and folders that a recipe reads its data from, and the message about those that are missing."""

import os
from collections.abc import Iterable
from itertools import chain

from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.catalog import catalog
from remix_toolkit.recipe.schema import Rows, Stage

BUILT_IN = {"nltk", "pydoc"}  # texts that are named, not read from a path


def absent_sources(stages: Iterable[Stage], measured: Iterable[Rows | None] = ()) -> dict[str, str]:
    """Paths at which there is nothing, each with the task or mixing source that reads it.

    They are those of some stages, and of tasks that are only `measured`.
    """
    absent: dict[str, str] = {}
    listed: list[Iterable[tuple[str, object]]] = [((task.task, task) for task in measured if task)]
    listed += [[*((task.task, task) for task in (stage.data, *stage.recall)), *stage.mix] for stage in stages]
    for name, source in chain.from_iterable(listed):
        path = getattr(source, "path", None) or getattr(source, "text", None)
        if path and path not in BUILT_IN and not os.path.exists(path):
            absent.setdefault(path, name)
    return absent


def require_sources(stages: Iterable[Stage], measured: Iterable[Rows | None] = ()) -> None:
    """Raise BadInput, with a line for each missing file or folder, if there is any."""
    if absent := absent_sources(stages, measured):
        raise BadInput("\n".join(missing_message(name, path) for path, name in absent.items()))


def missing_message(name: str, path: str) -> str:
    """The message about a path at which there is nothing, with the file that is expected there."""
    return f"{name}: {path}: no such file or directory; expected: {catalog()[name].local}"
