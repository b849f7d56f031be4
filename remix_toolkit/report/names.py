"""What a name on the command line means: a published stage, an arm, a sweep, a runs directory."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from remix_toolkit import store
from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.records import RunRecord
from remix_toolkit.report.results import of_stage
from remix_toolkit.report.seeds import named

Entry = dict[str, Any]


@dataclass
class Side:
    """What one of the two names means: a stage, an arm (over its seeds), or the arms of a sweep or a store."""

    kind: str
    arms: dict[str, list[Entry]]  # name -> entries, as `store.entries` has them


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


def stage_of(stage: str, runs: Path) -> Path:
    """The published stage that is meant: by its directory, or by enough of its name or key to tell it from others.

    Raises BadInput where that is none, or several.
    """
    if Path(stage, "stage.json").is_file():
        return Path(stage).resolve()  # `.` too has a name
    if Path(stage).is_dir():
        raise BadInput(f"{stage}: is no published stage (it holds no stage.json); they are under {runs / 'stages'}")
    there = store.published_stages(runs)
    names = [folder.name for folder in there.values()]
    found = [
        folder for key, folder in there.items() if stage and (key.startswith(stage) or folder.name.startswith(stage))
    ]
    if len(found) > 1:
        some = ", ".join(folder.name for folder in found[:3]) + (", ..." if len(found) > 3 else "")
        raise BadInput(f"{stage}: {len(found)} stages are called that: {some}; say more of the name, or the key")
    if not found:
        close = _close(stage, [*names, *there])
        hint = f"did you mean {close[0]!r}?" if close else f"`remix store list --runs {runs}` names them"
        raise BadInput(f"{stage}: no such stage in {runs}; {hint}")
    return found[0]


def side_of(what: str, runs: Path) -> Side:
    """A published stage (its directory, key or name), a runs directory, or an arm, recipe or sweep that `runs` has.

    Raises BadInput where it is nothing of that, or several.
    """
    if Path(what, "stage.json").is_file():
        return _one_stage(stage_of(what, runs))
    if Path(what, "stages").is_dir():
        if not (arms := _arms(Path(what))):
            raise BadInput(f"{what}: nothing is measured there yet")
        several = len({recipe for recipe, _, _ in arms}) > 1
        return Side(
            "a runs directory",
            {f"{r}/{arm} on {p}" if several else f"{arm} on {p}": arms[r, arm, p] for r, arm, p in arms},
        )
    there = _arms(runs)
    found = [at for at in there if what in _names(*at)]
    if len(found) == 1:
        return Side("an arm", {what: there[found[0]]})
    if of_recipe := {f"{arm} on {profile}": mine for (recipe, arm, profile), mine in there.items() if recipe == what}:
        return Side("a sweep", of_recipe)
    if found:
        raise BadInput(f"{what}: several arms are called that: {', '.join(_names(*at)[-1] for at in found)}")
    stages = [name for key, folder in store.published_stages(runs).items() for name in (key, folder.name)]
    if what and any(name.startswith(what) for name in stages):
        return _one_stage(stage_of(what, runs))
    arms_here = {name for at in there for name in (at[0], *_names(*at)[:2])}
    hint = nearest(what, arms_here | set(_close(what, stages)))
    place = "is neither a published stage nor a runs directory" if Path(what).is_dir() else f"is not in {runs}"
    raise BadInput(f"{what}: {place}: name two stages, arms, recipes or runs directories; {hint}")


def _names(recipe: str, arm: str, profile: str) -> list[str]:
    """What an arm may be called, from short to unmistakable."""
    return [arm, f"{recipe}/{arm}", f"{recipe}/{arm} on {profile}"]


def _arms(runs: Path) -> dict[tuple[str, str, str], list[Entry]]:
    """(recipe, arm, profile) -> its entries; an arm that was run with several overrides counts as several."""
    by_recipe: dict[tuple[str, str], list[Entry]] = {}
    for entry in store.entries(runs):
        by_recipe.setdefault((entry["recipe"], entry["profile"]), []).append(entry)
    arms: dict[tuple[str, str, str], list[Entry]] = {}
    for (recipe, profile), mine in by_recipe.items():
        for entry in named(mine):
            arms.setdefault((recipe, entry["arm"], profile), []).append(entry)
    return arms


def _one_stage(folder: Path) -> Side:
    """A stage as entries, of one seed whatever its own: two models are compared, not two seeds."""
    results = of_stage(folder)
    last = results.stages[-1]
    said = [stage for run in results.runs for stage in run.stages if stage.key == last.key]
    names = {id_: listed.label for stage in said for id_, listed in stage.lists.items()}
    own = {stage.trained for stage in said}
    common = {"seed": 0, "stage": last.stage, "path": str(folder), "key": last.key, "held_out": None}
    entries = [
        {**common, "list": id_, "task": names.get(id_, id_.rpartition("-")[0]), "own": id_ in own, **one.model_dump()}
        for id_, one in last.recall.items()
    ]
    if last.held_out or not entries:
        held_out = last.held_out and last.held_out.model_dump()
        task = last.recipe["stages"][last.stage]["data"]["task"]
        entries.append({**common, "list": None, "task": task, "own": True, "recall": None, "held_out": held_out})
    return Side("a stage", {last.name: entries})


def _close(start: str, names: list[str]) -> list[str]:
    """What the user may have meant by the start of a name, if anything."""
    if not start:
        return []
    return get_close_matches(start, {name[: len(start)] for name in names}, n=1, cutoff=0.8)
