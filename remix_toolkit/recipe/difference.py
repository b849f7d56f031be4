"""What makes a run different: the dotted keys in which its resolved recipe departs from its file under its profile.

    settings_of(load_recipe("kvr", overrides=["train.learning_rate=5e-4"]))    # {"train.learning_rate": 0.0005}

The mapping depends on the two recipes alone, not on how a change was typed: every spelling of it has the same settings.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from pydantic import BaseModel

from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.draft import KEPT_WITH_A_NEW_TASK
from remix_toolkit.recipe.load import find_recipe, resolve
from remix_toolkit.recipe.schema import Recipe, Rows
from remix_toolkit.recipe.yaml_file import read_text

NOT_SETTINGS = {"name", "source", "profile", "seed"}  # recorded beside the settings
_ABSENT = object()  # equal to no value of a recipe


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The fewest settings with which the recipe's own file, under its profile, resolves to this recipe.

    Keys that follow from others are left out: `paths.lama` sets the path of every stage that reads LAMA. Raises
    BadInput where the file is gone, or where it changed so that no settings lead to this recipe any more.
    """
    candidates = (changes for changes in _candidates(recipe) if _resolves(recipe, changes))
    if (changes := next(candidates, None)) is None:
        raise BadInput(
            f"{recipe.source}: changed since {recipe.name} was resolved: it does not lead to that recipe now"
        )
    for key, value in list(changes.items()):
        fewer = {other: changes[other] for other in changes if other != key}
        if _resolves(recipe, fewer):
            changes = fewer
            continue
        for field in list(value) if isinstance(value, dict) else ():
            shorter = {name: changes[key][name] for name in changes[key] if name != field}
            if _resolves(recipe, {**changes, key: shorter}):
                changes = {**changes, key: shorter}
    return changes


def difference(declared: Recipe, resolved: Recipe) -> dict[str, Any]:
    """Dotted key -> its value in `resolved`, for every key in which two recipes with the same file and profile differ.

    A training argument that is another one for all stages is `train.<field>`; a stage's own follows only where it is
    neither that nor what the stage had. Another task comes with all its fields that are not at their defaults.
    """
    changes = {f"train.{field}": value for field, value in _changed(declared.train, resolved.train).items()}
    before, after = dict(declared), dict(resolved)
    for field in (*NOT_SETTINGS, "train"):
        del before[field], after[field]
    if list(declared.stages) == list(resolved.stages):  # else they are given whole
        for name, stage in declared.stages.items():
            train = {**stage.train, **_changed(declared.train, resolved.train)}  # `train.<field>` is for every stage
            before["stages"] = {**before["stages"], name: stage.model_copy(update={"train": train})}
    else:
        before["stages"] = {}
    for key in after:
        _compare(key, before[key], after[key], changes)
    return changes


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings as arguments of a command line, `key=value`, each value on one line, as JSON that YAML reads too."""
    return [f"{key}={_one_line(value)}" for key, value in settings.items()]


def _compare(key: str, before: Any, after: Any, changes: dict[str, Any]) -> None:
    """Add to `changes` the keys at and below `key` in which two values differ."""
    if before == after:
        return
    if isinstance(after, BaseModel) and type(before) is type(after):
        for field in type(after).model_fields:
            _compare(f"{key}.{field}", getattr(before, field), getattr(after, field), changes)
    elif isinstance(after, Rows) and isinstance(before, Rows):
        fields = _plain(after)
        for field in KEPT_WITH_A_NEW_TASK:
            if field in type(after).model_fields and getattr(before, field, None) != getattr(after, field):
                fields[field] = getattr(after, field)
        changes[f"{key}.task"] = fields.pop("task")
        changes |= {f"{key}.{field}": value for field, value in fields.items()}
    elif isinstance(after, dict) and isinstance(before, dict) and _has_all_keys_of(before, after):
        for name in after:
            _compare(f"{key}.{name}", before.get(name, _ABSENT), after[name], changes)
    else:
        changes[key] = _plain(after)


def _has_all_keys_of(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """A mapping that lost a key, or has one that cannot be part of a dotted key, is given whole."""
    return bool(before) and before.keys() <= after.keys() and not any("." in name or not name for name in after)


def _changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in after.items() if key not in before or before[key] != value}


def _plain(value: Any) -> Any:
    """A value as JSON has it, a model's fields without those at their defaults."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _candidates(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Settings that may lead to the recipe: what differs; else every key, for a file that is no recipe without some."""
    text = read_text(find_recipe(recipe.source))
    with suppress(BadInput):  # the file leaves a key to the command line or to a sweep
        yield difference(_declared(recipe.source, recipe.profile, text), recipe)
    top = recipe.model_dump(mode="json", exclude=NOT_SETTINGS)
    train, stages = top.pop("train"), top.pop("stages")
    top |= {f"train.{field}": value for field, value in train.items()}
    yield top | {f"stages.{name}.{field}": value for name, stage in stages.items() for field, value in stage.items()}
    yield {**top, "stages": stages}


def _resolves(recipe: Recipe, settings: Mapping[str, Any]) -> bool:
    """Do these settings make this recipe of its file?"""
    given = [(key, value, f"{key} of {recipe.name}") for key, value in settings.items()]
    try:
        other, _ = resolve(recipe.source, recipe.profile, (), recipe.seed, given)
    except BadInput:
        return False
    same = {"name": recipe.name, "source": recipe.source}
    return other.model_copy(update=same) == recipe and list(other.stages) == list(recipe.stages)


@cache
def _declared(file: str, profile: str, text: str) -> Recipe:
    """The recipe of a file alone; `text` is what the file holds now."""
    return resolve(file, profile, (), None, ())[0]


def _one_line(value: Any) -> str:
    """JSON, with the characters escaped that YAML takes for line breaks or refuses."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(
        c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in text
    )
