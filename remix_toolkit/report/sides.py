"""What a name on the command line means: a published stage, an arm, a sweep, a runs directory."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from remix_toolkit import store
from remix_toolkit.console import warn
from remix_toolkit.data.identity import trained_list
from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.report.frame import MEASURED, Frame, measured_lists, path_text
from remix_toolkit.report.stage import Stage


@dataclass
class Side:
    """What one of two names means: a stage, an arm (over its seeds), or the arms of a sweep or a store."""

    kind: str
    frame: Frame
    arms: dict[str, pd.DataFrame]  # name -> its rows of `frame.measured`


def find_stage(name: str, runs: Path) -> Path:
    """The published stage that is meant: by its directory, or by enough of its name or key to tell it from others.

    Raises BadInput where that is none, or several.
    """
    if Path(name, "stage.json").is_file():
        return Path(name).resolve()  # `.` too has a name
    if Path(name).is_dir():
        raise BadInput(f"{name}: is no published stage (it holds no stage.json); they are under {runs / 'stages'}")
    matching = _stages_called(name, runs)
    if len(matching) > 1:
        some = ", ".join(folder.name for folder in matching[:3]) + (", ..." if len(matching) > 3 else "")
        raise BadInput(f"{name}: {len(matching)} stages are called that: {some}; say more of the name, or the key")
    if not matching:
        close = _close_stages(name, runs)
        hint = f"did you mean {close[0]!r}?" if close else f"`remix store list --runs {runs}` names them"
        raise BadInput(f"{name}: no such stage in {runs}; {hint}")
    return matching[0]


def side_of(name: str, runs: Path, load: Callable[[Path], Frame]) -> Side:
    """A published stage (its directory, key or name), a runs directory, or an arm, recipe or sweep that `runs` has.

    Raises BadInput where it is nothing of that, or several.
    """
    if Path(name, "stage.json").is_file():
        return _stage(find_stage(name, runs))
    if Path(name, "stages").is_dir():
        arms = _arms(frame := load(Path(name)))
        if not arms:
            raise BadInput(f"{name}: nothing is measured there yet")
        several = len({recipe for recipe, _, _ in arms}) > 1
        return Side("a runs directory", frame, {_names(*arm)[3 if several else 1]: arms[arm] for arm in arms})
    arms = _arms(frame := load(runs))
    called = [arm for arm in arms if name in _names(*arm)]
    if len(called) == 1:
        return Side("an arm", frame, {name: arms[called[0]]})
    if of_recipe := {_names(*arm)[1]: rows for arm, rows in arms.items() if arm[0] == name}:
        return Side("a sweep", frame, of_recipe)
    if called:
        raise BadInput(f"{name}: several arms are called that: {', '.join(_names(*arm)[3] for arm in called)}")
    if _stages_called(name, runs):
        return _stage(find_stage(name, runs))
    known = {known for arm in arms for known in (arm[0], *_names(*arm)[::2])}
    hint = nearest(name, known | set(_close_stages(name, runs)))
    place = "is neither a published stage nor a runs directory" if Path(name).is_dir() else f"is not in {runs}"
    raise BadInput(f"{name}: {place}: name two stages, arms, recipes or runs directories; {hint}")


def _arms(frame: Frame) -> dict[tuple[str, str, str], pd.DataFrame]:
    """(recipe, arm, profile) -> its rows; an arm that was run with several overrides counts as several."""
    return dict(list(frame.measured.groupby(["recipe", "label", "profile"], sort=False)))


def _names(recipe: str, arm: str, profile: str) -> list[str]:
    """What an arm may be called."""
    return [arm, f"{arm} on {profile}", f"{recipe}/{arm}", f"{recipe}/{arm} on {profile}"]


def _stages_called(name: str, runs: Path) -> list[Path]:
    stages = store.published_stages(runs).items()
    return [folder for key, folder in stages if name and (key.startswith(name) or folder.name.startswith(name))]


def _close_stages(name: str, runs: Path) -> list[str]:
    """How the name of a stage begins that may be meant, if any."""
    beginnings = {folder.name[: len(name)] for folder in store.published_stages(runs).values()}
    return get_close_matches(name, beginnings, n=1, cutoff=0.8) if name else []


def _stage(folder: Path) -> Side:
    """A stage as rows, of one seed whatever its own: two models are compared, not two seeds."""
    stage = Stage(folder)
    stage.verify()
    lists = measured_lists(stage) or [{"key": stage.record.key, "path": path_text(folder), "list": None}]
    rows = pd.DataFrame(lists, columns=list(MEASURED)).assign(seed=0, stage=stage.record.stage, label=folder.name)
    data, recalls = [declared["data"] for declared in stage.record.declaration["stages"]], stage.results(Recall())
    rows["own"] = rows["list"].isna() | (rows["list"] == trained_list(data))
    rows["task"] = [recalls[id_].label if id_ in recalls else data[-1]["task"] for id_ in rows["list"]]
    return Side("a stage", Frame(rows, [], {path_text(folder): stage}, warn), {folder.name: rows})
