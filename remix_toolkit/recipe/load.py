"""A recipe, a profile and the command line's overrides, merged into one checked declaration.

    recipe = load_recipe("recipes/kvr.yaml", profile="tiny", overrides=["stages.stage1.data.size=50"], seed=0)

Layers, each over the one before: the profile (base model, precision, batch, training arguments), the recipe, the
recipe's own `profiles: {<profile>: ...}` section, the overrides. Nothing heavy is imported here.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe import shipped
from remix_toolkit.recipe.check import check_stages, validate
from remix_toolkit.recipe.schema import TASKS, Mix, Profile, Recipe, Rows
from remix_toolkit.recipe.yaml_file import Locations, load_mapping, load_value

SWEEP_KEYS = {"recipe", "arms", "grid", "extends"}  # a file with one of these is a sweep
Setting = tuple[str, Any, str]  # a dotted key, its value, and where that was said, as messages name it


def load_recipe(
    recipe: str | Path,
    profile: str = "tiny",
    overrides: Sequence[str] | None = None,
    seed: int | None = None,
    settings: Sequence[Setting] = (),
) -> Recipe:
    """Merge a recipe (a file, or the name of one in recipes/), a profile and overrides (`stages.stage1.data.size=50`).

    `settings` are a sweep's; they come before the overrides.

    Raises BadInput, each mistake with its file, line and key, and what would be right.
    """
    path = find_recipe(recipe)
    body, where = load_mapping(path)
    base, base_where = load_profile(profile)
    sections = body.pop("profiles", None) or {}
    mix_defaults = base.pop("mix")
    for key in SWEEP_KEYS & body.keys():
        raise BadInput(f"{where[(key,)]}: this is a sweep, not a recipe: run it with `remix sweep`")
    if "profile" in body:
        raise BadInput(f"{where[('profile',)]}: profile: say it on the command line, --profile {body['profile']}")

    common = body.pop("train", None) or {}
    tree: dict[str, Any] = {"name": path.stem, **base, **body, "profile": profile, "source": str(path)}
    where = {**base_where, **where}
    tree["train"] = {**base["train"], **common} if isinstance(common, dict) else common
    for dotted_key, value in _section(sections, profile, path, where):
        _set(tree, where, dotted_key, value, where.get(("profiles", Path(profile).stem, dotted_key), str(path)))
    said: set[str] = set()
    for dotted_key, value, origin in [*settings, *map(parse_override, overrides or [])]:
        _set(tree, where, dotted_key, value, origin, said)
    if tree.get("base") != base["base"] and tree.get("parameters") == base.get("parameters"):
        tree.pop("parameters", None)  # the profile's own base has as many; of another one that is not known
    if seed is not None:
        tree["seed"] = seed
    if isinstance(config := tree.get("accelerate_config"), str):
        tree["accelerate_config"] = str(shipped.locate(config, "accelerate_configs") or config)

    _in_domain(tree, where, str(path))
    for name, stage in tree["stages"].items() if isinstance(tree.get("stages"), dict) else ():
        if isinstance(stage, dict):
            own = ("stages", name, "train")
            for field in stage["train"] if isinstance(stage.get("train"), dict) else ():
                where.setdefault((*own, field), where.get(own, str(path)))  # not the profile's place, if it is wrong
            _with_paths(stage, tree.get("paths"))
            _with_defaults(stage, tree["train"], mix_defaults)
    checked = validate(Recipe, tree, where, str(path))
    check_stages(checked, where, str(path))
    return checked


def freeze(recipe: Recipe) -> str:
    """A resolved recipe as YAML, which `read_resolved` reads back to an equal one."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_resolved(file: Path) -> Recipe:
    """A recipe that was resolved and written down: nothing is merged into it, and it is checked like any other.

    Relative paths in it are meant from the folder in which it was resolved. Raises BadInput, with file, line and key.
    """
    tree, where = load_mapping(file)
    recipe = validate(Recipe, tree, where, str(file))
    check_stages(recipe, where, str(file))
    return recipe


def parse_override(override: str) -> Setting:
    """`stages.stage1.data.size=50` taken apart. Raises BadInput."""
    dotted_key, equals, text = override.partition("=")
    origin = f"override {override!r}"
    if not equals or not dotted_key:
        raise BadInput(f"{origin}: write it as key=value, such as stages.stage1.data.size=100")
    return dotted_key, load_value(text, origin), origin


def find_recipe(recipe: str | Path, also: Iterable[str] = ()) -> Path:
    """A path to a recipe, or a name (`kvr`): in the user's recipes/ or, failing that, among those of the package.

    Raises BadInput with the nearest name; `also` are other names that would have been valid.
    """
    if path := shipped.locate(recipe, "recipes"):
        return path
    path = Path(recipe)
    if path.exists():
        raise BadInput(f"{path}: is a directory; a recipe file is expected")
    by_path = path.suffix == ".yaml"
    names = {file.stem for file in shipped.siblings(path if by_path else Path("recipes", path))} | set(also)
    hint = nearest(path.stem, names) if by_path else nearest(recipe, names | shipped.names().keys())
    raise BadInput(f"{recipe}: no such {'task or ' if also else ''}recipe; {hint}")


def load_profile(profile: str) -> tuple[dict[str, Any], Locations]:
    """The settings of a profile: one of the package by name, or the user's own by path. Raises BadInput."""
    if not profile.endswith(".yaml") and profile not in profile_names():
        raise BadInput(f"no profile {profile!r}; {nearest(profile, profile_names())} or a .yaml file of your own")
    named = Path(str(resources.files("remix_toolkit.recipe.profiles")), f"{profile}.yaml")
    path = Path(profile) if profile.endswith(".yaml") else named
    settings, where = load_mapping(path)
    validate(Profile, settings, where, str(path))
    return {"train": {}, "mix": {}, **settings}, where


def profile_names() -> set[str]:
    """The profiles of the package."""
    return {p.stem for p in Path(str(resources.files("remix_toolkit.recipe.profiles"))).glob("*.yaml")}


def load_base(profile: str) -> Recipe:
    """The profile's own settings as a recipe of one stage: which base model and tokenizer it stands for."""
    settings, where = load_profile(profile)
    settings.pop("mix")
    stages = {"stage1": {"data": {"task": "kvr"}}}
    return validate(Recipe, {"name": "base", **settings, "profile": profile, "stages": stages}, where, profile)


def load_task(task: str, overrides: list[str]) -> Rows:
    """A task by name with its settings as overrides, as `remix data popqa path=... size=200` gives them."""
    if task not in TASKS:
        raise BadInput(f"no task {task!r}; {nearest(task, TASKS)}")
    tree: dict[str, Any] = {"task": task}
    where: Locations = {}
    for key, value, origin in map(parse_override, overrides):
        where[(key,)] = origin
        tree[key] = value
    return validate(TASKS[task], tree, where, f"task {task}")


def load_mix(source: str, profile: str) -> Mix:
    """One mixing source by name, or with settings (`passages={words: 20}`), at a ratio of 1 unless that is said."""
    defaults = load_profile(profile)[0]["mix"]
    name, settings, origin = parse_override(source) if "=" in source else (source, {}, f"mix {source!r}")
    if name not in Mix.model_fields or name == "replay":
        raise BadInput(f"no mixing source {name!r}; {nearest(name, set(Mix.model_fields) - {'replay'})}")
    if not isinstance(settings, dict):
        raise BadInput(f"{origin}: settings in braces are expected, such as {name}={{words: 20}}")
    return validate(Mix, {name: {"ratio": 1, **_source(settings, defaults.get(name, {}))}}, {(name,): origin}, origin)


def check_sections(sections: Any, profile: str, path: Path, where: Locations) -> None:
    """`profiles:` maps names of profiles to mappings; a name that is nearly one is a mistake. Raises BadInput."""
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise BadInput(f"{where[('profiles',)]}: profiles: maps a profile's name to dotted keys and their values")
    for name in sections:
        place = where.get(("profiles", name), str(path))
        if name not in profile_names() | {profile} and get_close_matches(name, profile_names(), cutoff=0.7):
            raise BadInput(f"{place}: profiles.{name}: no such profile; {nearest(name, profile_names())}")


def _section(sections: Any, profile: str, path: Path, where: Locations) -> list[tuple[str, Any]]:
    """The recipe's own settings for this profile: dotted keys, as on the command line."""
    own = Path(profile).stem  # a profile of the user's own is a file
    check_sections(sections, own, path, where)
    for name, section in sections.items():
        if wrong := [key for key in section if not isinstance(key, str)]:
            place = where.get(("profiles", name), str(path))
            raise BadInput(f"{place}: profiles.{name}: {wrong[0]!r} is no dotted key")
    return list(sections.get(own, {}).items())


def _set(
    tree: dict[str, Any], where: Locations, dotted_key: str, value: Any, origin: str, said: set[str] | None = None
) -> None:
    """Set one dotted key; a stage must be there already, an optional mapping such as `mix` is made on the way.

    `train.<field>` holds for every stage, whatever a stage said before. `said` are the keys that a sweep or the command
    line set so far: they stay where a task is switched.
    """
    if said is not None:
        said.add(dotted_key)
    *parents, last = dotted_key.split(".")
    if dotted_key == "profile":
        raise BadInput(f"{origin}: profile: say it as --profile {value}")
    if dotted_key == "train" and isinstance(value, dict):
        for field, one in value.items():
            _set(tree, where, f"train.{field}", one, origin, said)
        return
    if parents == ["train"] and isinstance(tree.get("stages"), dict):
        for stage in tree["stages"].values():  # said for all stages, later than what a stage says of itself
            if isinstance(stage, dict) and isinstance(stage.get("train"), dict):
                stage["train"].pop(last, None)
    node = tree
    for depth, part in enumerate(parents):
        if parents[:depth] == ["stages"] and part not in node:
            raise BadInput(f"{origin}: no stage {part!r}; {nearest(part, node)}")
        if node.get(part) is None:
            node[part] = {}
            where[tuple(parents[: depth + 1])] = origin
        node = node[part]
        if not isinstance(node, dict):
            raise BadInput(f"{origin}: {'.'.join(parents[: depth + 1])} is {node!r}; it has no key {last!r}")
    if parents == ["stages"] and last not in node:
        raise BadInput(f"{origin}: no stage {last!r}; {nearest(last, node)}")
    if last == "task" and node.get("task") != value:  # another task: nothing that says where the former one is stays
        known = TASKS[value].model_fields if isinstance(value, str) and value in TASKS else {"size"}
        for key in node.keys() - ({"size", "start", "familiarity", "prompt"} & set(known)):
            if ".".join((*parents, key)) not in (said or ()):  # what was said for the new one stays
                del node[key]
    node[last] = deepcopy(value)
    replaced = (*parents, last)
    for path in [path for path in where if path[: len(replaced)] == replaced]:
        del where[path]
    where[replaced] = origin


def _in_domain(tree: dict[str, Any], where: Locations, origin: str) -> None:
    """`task: id` is the first stage's own task, from the row after its last: as many rows, if not said otherwise."""
    stages = tree.get("stages")
    if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
        return  # said when the tree is checked
    names = list(stages)
    first = stages[names[0]].get("data") if names else None
    for name in names:
        stage = stages[name]
        recall = stage.get("recall")
        listed = recall if isinstance(recall, list) else []  # anything else is said when the tree is checked
        for place, rows in [("data", stage.get("data")), *(("recall", one) for one in listed)]:
            if not isinstance(rows, dict) or rows.get("task") != "id":
                continue
            at = where.get(("stages", name, place, "task"), origin)
            if rows is first or not isinstance(first, dict) or str(first.get("task")) not in TASKS:
                raise BadInput(f"{at}: task: id are further rows of {names[0]}'s task; {names[0]} itself names its own")
            size = first.get("size", TASKS[first["task"]].model_fields["size"].default)
            if not isinstance(size, int) or not isinstance(first.get("start", 0), int):
                raise BadInput(f"{at}: task: id are the rows after {names[0]}'s last; say {names[0]}'s data.size")
            own = {key: value for key, value in rows.items() if key != "task"}
            rows |= {**first, "start": first.get("start", 0) + size, "size": size, **own}


def _with_paths(stage: dict[str, Any], paths: Any) -> None:
    """Give tasks and corpora that say no source the local one that the recipe names in `paths`."""
    paths = paths if isinstance(paths, dict) else {}
    recall, mix = stage.get("recall"), stage.get("mix")
    for rows in (stage.get("data"), *(recall if isinstance(recall, list) else [])):
        if isinstance(rows, dict) and str(rows.get("task")) in paths and not rows.keys() & {"path", "hub"}:
            rows["path"] = paths[rows["task"]]
        if isinstance(rows, dict) and isinstance(rows.get("path"), str):
            rows["path"] = shipped.here_or_shipped(rows["path"])
    for source, own in mix.items() if isinstance(mix, dict) else ():
        if isinstance(own, dict) and source in paths and not own.keys() & {"path", "hub", "text"}:
            own["path"] = paths[source]


def _with_defaults(stage: dict[str, Any], train: Any, mix_defaults: dict[str, Any]) -> None:
    """Put the profile's and the recipe's common settings under a stage's own."""
    if isinstance(train, dict) and isinstance(stage.get("train") or {}, dict):
        stage["train"] = {**train, **(stage.get("train") or {})}
    if stage.get("mix") is None:
        stage["mix"] = {}
    if stage.get("recall") is None:
        stage["recall"] = []
    for source, own in stage["mix"].items() if isinstance(stage["mix"], dict) else ():
        if isinstance(own, dict):
            stage["mix"][source] = _source(own, mix_defaults.get(source, {}))


def _source(own: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A mixing source's settings over the profile's, of which those of the text's origin go with the text."""
    if own.keys() & {"text", "hub", "path"}:
        defaults = {key: value for key, value in defaults.items() if key == "words"}
    return {**defaults, **own}
