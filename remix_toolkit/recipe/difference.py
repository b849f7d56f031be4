"""What makes a run different: the dotted keys in which its resolved recipe departs from its file under its profile.

    settings_of(load_recipe("kvr", overrides=["train.learning_rate=5e-4"]))    # {"train.learning_rate": 0.0005}

The mapping depends on the two recipes alone, not on how a change was typed: every spelling of it has the same settings.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.draft import KEPT_WITH_A_NEW_TASK
from remix_toolkit.recipe.load import RecipeFile
from remix_toolkit.recipe.schema import TASKS, Recipe

NOT_SETTINGS = {"name", "source", "profile", "seed"}  # recorded beside the settings
_ABSENT = object()  # equal to no value of a recipe


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The fewest settings with which the recipe's own file, under its profile, resolves to this recipe.

    Keys that follow from others are left out: `paths.lama` sets the path of every stage that reads LAMA. Raises
    BadInput where the file is gone, or where it changed so that no settings lead to this recipe any more.
    """
    file = RecipeFile(recipe.source, recipe.profile)
    changes = next((changes for changes in _candidates(file, recipe) if _resolves(file, recipe, changes)), None)
    if changes is None:
        what = f"changed since {recipe.name} was resolved: it does not lead to that recipe now"
        raise BadInput(f"{recipe.source}: {what}")
    for key, value in list(changes.items()):
        fewer = {other: changes[other] for other in changes if other != key}
        if _resolves(file, recipe, fewer):
            changes = fewer
            continue
        for field in list(value) if isinstance(value, dict) else ():
            shorter = {name: changes[key][name] for name in changes[key] if name != field}
            if _resolves(file, recipe, {**changes, key: shorter}):
                changes = {**changes, key: shorter}
    return changes


def difference(declared: Mapping[str, Any], resolved: Recipe, with_defaults: bool = False) -> dict[str, Any]:
    """Dotted key -> its value in `resolved`, wherever that is not the one of `declared`, a recipe of the same file.

    A training argument that is another one for all stages is `train.<field>`; a stage's own follows only where it is
    neither that nor what the stage had. Another task comes with all its fields that are not at their defaults, and so
    does any other new part, unless it is wanted `with_defaults`.
    """
    after = resolved.model_dump(exclude=NOT_SETTINGS)
    short = resolved.model_dump(exclude=NOT_SETTINGS, exclude_defaults=not with_defaults)
    train = {name: value for name, value in after.pop("train").items() if declared["train"].get(name, _ABSENT) != value}
    stages = {
        name: {**stage, "train": {**stage.get("train", {}), **train}} for name, stage in declared["stages"].items()
    }
    before = {**declared, "stages": stages}
    changes = {f"train.{name}": value for name, value in train.items()}
    for key, value in after.items():
        _compare(key, before.get(key, _ABSENT), value, short.get(key, value), changes)
    return changes


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings as arguments of a command line, `key=value`, each value on one line of YAML."""
    lines = []
    for key, value in settings.items():
        text = json.dumps(value, ensure_ascii=False)
        lines.append(f"{key}=" + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text))
    return lines


def _compare(key: str, before: Any, after: Any, short: Any, changes: dict[str, Any]) -> None:
    """Add to `changes` the keys at and below `key` in which two values differ; `short` is `after` without defaults."""
    if before == after:
        return
    if not isinstance(before, dict) or not isinstance(after, dict):
        changes[key] = short
        return
    if "task" in after and before.get("task") != after["task"]:
        changes[f"{key}.task"] = after["task"]  # before the fields that it has
        kept = {name: before[name] for name in KEPT_WITH_A_NEW_TASK if name in before}
        fields = TASKS[after["task"]].model_fields
        before = {name: kept.get(name, field.default) for name, field in fields.items()}
    if not before.keys() <= after.keys() or any("." in name or not name for name in after):
        changes[key] = short  # a mapping that lost a key, or has one that cannot be part of a dotted key
        return
    for name, value in after.items():
        _compare(f"{key}.{name}", before.get(name, _ABSENT), value, short.get(name, value), changes)


def _candidates(file: RecipeFile, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Settings that may lead to the recipe: what differs; else every key, for a file that is no recipe without some."""
    with suppress(BadInput):  # the file leaves a key to the command line or to a sweep
        yield difference(file.resolve([]).model_dump(), recipe)
    for names in (list(recipe.stages), []):  # the stages' keys one by one, or all stages as they are
        yield difference({"train": {}, "stages": {name: {} for name in names}}, recipe, with_defaults=True)


def _resolves(file: RecipeFile, recipe: Recipe, settings: Mapping[str, Any]) -> bool:
    """Do these settings make this recipe of its file?"""
    given = [(key, value, f"{key} of {recipe.name}") for key, value in settings.items()]
    try:
        other = file.resolve(given, recipe.seed)
    except BadInput:
        return False
    same = {"name": recipe.name, "source": recipe.source}
    return other.model_copy(update=same) == recipe and list(other.stages) == list(recipe.stages)
