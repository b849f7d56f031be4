"""A recipe, a profile and settings, merged into one checked declaration.

    recipe = load_recipe("recipes/kvr.yaml", profile="tiny", overrides=["stages.stage1.data.size=50"], seed=0)

The layers, each over the one before: the profile (base model, precision, batch, training arguments), the recipe, the
recipe's own `profiles: {<profile>: ...}` section, the settings of a sweep and of the command line. Nothing heavy is
imported here.
"""

import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe import shipped
from remix_toolkit.recipe.check import validate
from remix_toolkit.recipe.credentials import redacted
from remix_toolkit.recipe.draft import Draft, Setting, with_defaults
from remix_toolkit.recipe.schema import TASKS, Mix, Recipe, Rows
from remix_toolkit.recipe.setup import Profile
from remix_toolkit.recipe.tiny_size import tiny_size
from remix_toolkit.recipe.yaml_file import Locations, load_mapping, load_value, location_of

SWEEP_KEYS = {"recipe", "arms", "grid", "extends"}  # a file with one of these is a sweep
PROFILES = Path(str(resources.files("remix_toolkit.recipe.profiles")))


def load_recipe(
    recipe: str | Path,
    profile: str = "tiny",
    overrides: Sequence[str] | None = None,
    seed: int | None = None,
    settings: Sequence[Setting] = (),
) -> Recipe:
    """Merge a recipe (a file, or the name of one in recipes/), a profile and overrides (`stages.stage1.data.size=50`).

    `settings` are a sweep's; they come before the overrides. Raises BadInput, each mistake with its file, line and key,
    and what would be right.
    """
    return RecipeFile(recipe, profile).resolve([*settings, *map(parse_override, overrides or [])], seed)


class RecipeFile:
    """A recipe's file under a profile, read once, and resolved under as many settings as are wanted."""

    def __init__(self, recipe: str | Path, profile: str) -> None:
        self.path, self.profile = find_recipe(recipe), profile
        file, locations = load_mapping(self.path)
        self.base, base_locations = load_profile(profile)
        self.mix_defaults = self.base.pop("mix")
        sections = file.pop("profiles", None) or {}
        for key in [key for key in file if key in SWEEP_KEYS]:
            raise BadInput(f"{locations[(key,)]}: {key}: this is a sweep, not a recipe: run it with `remix sweep`")

        if isinstance(train := file.get("train") or {}, dict):  # its fields go over the profile's one by one
            file["train"] = {**self.base["train"], **train}
        tree = {"name": self.path.stem, **self.base, **file}
        self.draft = Draft(tree, {**base_locations, **locations}, str(self.path))
        name = Path(profile).stem  # a profile of the user's own is a file
        check_sections(sections, name, self.path, locations)
        section = sections.get(name, {}).items()
        origins = {key: location_of(locations, ("profiles", name, key), str(self.path)) for key, _ in section}
        self.draft.apply((key, value, origins[key]) for key, value in section)

    def resolve(self, settings: Iterable[Setting], seed: int | None = None) -> Recipe:
        """The recipe under some settings. Raises BadInput."""
        draft = self.draft.copy()
        draft.apply(settings)
        tree = draft.tree
        if "profile" in tree:
            raise BadInput(f"{draft.locations[('profile',)]}: profile: choose it with --profile {tree['profile']}")
        tree |= {"profile": self.profile, "source": str(self.path)}
        if seed is not None:
            tree["seed"], draft.locations[("seed",)] = seed, "--seed"
        if tree["base"] != self.base["base"] and tree.get("parameters") == self.base.get("parameters"):
            size = tiny_size(str(tree["base"]))
            tree["parameters"] = (size and size.parameters) or None  # not those of the profile's base
        if isinstance(config := tree.get("accelerate_config"), str):
            tree["accelerate_config"] = str(shipped.locate(config, "accelerate_configs") or config)
        draft.complete(self.mix_defaults)
        return validate(Recipe, tree, draft.locations, str(self.path))


def resolved_yaml(recipe: Recipe) -> str:
    """A resolved recipe as YAML, which `read_resolved` reads back to an equal one."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast, where libyaml is installed
    return str(yaml.dump(_without_empty(recipe), Dumper=dumper, sort_keys=False))


def _without_empty(value: Any) -> Any:
    """A model as a mapping, without the fields that are None by default; a None in place of a default stays."""
    if isinstance(value, BaseModel):
        defaults = {name: field.default for name, field in type(value).model_fields.items()}
        value = {name: part for name, part in value if part is not None or defaults[name] is not None}
    if isinstance(value, dict):
        return {key: _without_empty(part) for key, part in value.items()}
    return [_without_empty(part) for part in value] if isinstance(value, list) else value


def read_resolved(file: Path) -> Recipe:
    """A recipe that was resolved and written to a file: nothing is merged into it, and it is checked like any other.

    Its relative paths start from the folder in which it was resolved. Raises BadInput, with file, line and key.
    """
    tree, locations = load_mapping(file)
    return validate(Recipe, tree, locations, str(file))


def parse_override(override: str) -> Setting:
    """The key, the value and the name in messages of an override such as `stages.stage1.data.size=50`.

    Raises BadInput.
    """
    key, equals, text = override.partition("=")
    origin = f"override {redacted(override)!r:.300}"
    if not equals or not key:
        raise BadInput(f"{origin}: write it as key=value, such as stages.stage1.data.size=100")
    return key, load_value(text, origin), origin


def find_recipe(recipe: str | Path, tasks: Iterable[str] = ()) -> Path:
    """A path to a recipe, or a name (`kvr`): in the user's recipes/ or, failing that, among those of the package.

    Raises BadInput with the nearest name; `tasks` are names that would have been valid too.
    """
    if path := shipped.locate(recipe, "recipes"):
        return path
    path = Path(recipe)
    if os.path.exists(path):  # a name that is too long for the system is none that exists
        raise BadInput(f"{path}: is a directory; a recipe file is expected")
    folders = (path.parent, shipped.in_package(path).parent, Path("recipes"))
    names = {file.stem for folder in folders for file in folder.glob("*.yaml")} | shipped.names().keys() | set(tasks)
    hint = nearest(path.stem if path.suffix == ".yaml" else recipe, names)
    raise BadInput(f"{recipe}: no such {'task or ' if tasks else ''}recipe; {hint}")


def load_profile(profile: str) -> tuple[dict[str, Any], Locations]:
    """The keys of a profile: one of the package by its name, or the user's own by its path. Raises BadInput."""
    if not profile.endswith(".yaml") and profile not in profile_names():
        raise BadInput(f"no profile {profile!r}; {nearest(profile, profile_names())} or a .yaml file of your own")
    path = Path(profile) if profile.endswith(".yaml") else PROFILES / f"{profile}.yaml"
    settings, locations = load_mapping(path)
    validate(Profile, settings, locations, str(path))
    return {"train": {}, "mix": {}, **settings}, locations


def profile_names() -> set[str]:
    """The profiles of the package."""
    return {file.stem for file in PROFILES.glob("*.yaml")}


def load_base(profile: str) -> Recipe:
    """The profile as a recipe of one stage, for what depends on the base model and its tokenizer alone."""
    settings, locations = load_profile(profile)
    del settings["mix"]
    stages = {"stage1": {"data": {"task": "kvr"}}}
    return validate(Recipe, {"name": "base", **settings, "profile": profile, "stages": stages}, locations, profile)


def load_task(task: str, overrides: list[str]) -> Rows:
    """A task by its name, its keys as overrides: `remix data popqa path=... size=200`. Raises BadInput."""
    if task not in TASKS:
        raise BadInput(f"no task {task!r}; {nearest(task, TASKS)}")
    settings = [parse_override(override) for override in overrides]
    tree = {"task": task, **{key: value for key, value, _ in settings}}
    locations: Locations = {(key,): origin for key, _, origin in settings}
    return validate(TASKS[task], tree, locations, f"task {task}")


def load_mix(source: str, profile: str) -> Mix:
    """One mixing source by its name, or with options (`passages={words: 20}`), at a ratio of 1 unless that is given."""
    defaults = load_profile(profile)[0]["mix"]
    name, options, origin = parse_override(source) if "=" in source else (source, {}, f"mix {source!r}")
    if name not in (alone := Mix.model_fields.keys() - {"replay", "format_anchor", "paraphrases"}):  # of a stage
        raise BadInput(f"no mixing source {name!r}; {nearest(name, alone)}")
    if not isinstance(options, dict):
        raise BadInput(f"{origin}: options in braces are expected, such as {name}={{words: 20}}")
    mix = {name: {"ratio": 1, **with_defaults(options, defaults.get(name, {}))}}
    return validate(Mix, mix, {(name,): origin}, origin)


def check_sections(sections: Any, profile: str, path: Path, locations: Locations) -> None:
    """`profiles:` maps names of profiles to mappings; a name that is nearly one is a mistake. Raises BadInput."""
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise BadInput(f"{locations[('profiles',)]}: profiles: maps a profile's name to dotted keys and their values")
    known = profile_names()
    for name in sections.keys() - known - {profile}:
        if get_close_matches(name, known, cutoff=0.7):
            origin = location_of(locations, ("profiles", name), str(path))
            raise BadInput(f"{origin}: profiles.{name}: no such profile; {nearest(name, known)}")
