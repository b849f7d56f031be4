"""The runs of a store, or those of one recipe or sweep in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from remix_toolkit import store
from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.records import RunRecord

Entry = dict[str, Any]


def select_runs(runs: Path, recipe: str | None, warn: Callable[[str], object]) -> tuple[list[Entry], list[RunRecord]]:
    """`store.entries` and `store.records`, or those of one recipe or sweep; what is damaged is handed to `warn`.

    Raises BadInput where `runs` is no directory, or holds no run of the recipe.
    """
    if not runs.is_dir():
        raise BadInput(f"{runs}: is no directory; name the one that `remix run --runs` wrote to")
    found, records = store.entries(runs, warn), store.records(runs, warn=lambda _: None)  # said once
    if recipe is None:
        return found, records
    if recipe not in (names := {record.recipe for record in records}):
        raise BadInput(f"--recipe {recipe}: no run of it is in {runs}; {nearest(recipe, names)}")
    return [row for row in found if row["recipe"] == recipe], [one for one in records if one.recipe == recipe]
