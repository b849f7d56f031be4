"""A sweep: a recipe under every setting of a grid, every named arm and every seed.

recipe: ../kvr.yaml                              # beside the sweep file
grid:                                            # every combination of these
  stages.stage2.data.task: [lama, webqa]
arms:                                            # each of them under each of these
  none: {}
  random: {stages.stage1.mix: {random_words: {ratio: 2}}}
seeds: [0, 1, 2]
exclude: [{stages.stage2.data.task: webqa, arm: random}]

A key is any dotted key of the recipe, `recipe` (another recipe file) or `profile`. `profiles` holds what is different
under one profile: its `grid`, `arms`, ... stand in place of the sweep's own. A sweep that `extends` another one is that
one with what stands in it instead.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.graph.lineage import Node, lineage, run_record
from remix_toolkit.recipe.check import validate
from remix_toolkit.recipe.difference import difference
from remix_toolkit.recipe.draft import Setting, mapping
from remix_toolkit.recipe.load import SWEEP_KEYS, check_sections, find_recipe, load_recipe, parse_override
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.strict import Strict
from remix_toolkit.recipe.yaml_file import Locations, dotted, load_mapping
from remix_toolkit.records import RunRecord

KEYS = ("recipe", "profile")  # of a grid or an arm, besides the recipe's own
Keep = Literal["all", "leaves", "none"] | list[str]  # whose weights stay on disk; a list names stages


class Sweep(Strict):
    recipe: str = Field(description="the recipe file, relative to the sweep file")
    profile: str = Field("tiny", description="where the command line names none")
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {}, min_length=1, description="dotted key -> its values"
    )
    arms: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = Field(
        {"": {}}, description="name -> dotted keys and their values"
    )
    set: dict[str, Any] = Field({}, description="dotted keys and their values, for every cell")
    seeds: list[int] = Field([0], min_length=1)
    exclude: list[dict[str, Any]] = Field([], description="cells left out: grid keys, `arm`, and their value or values")
    keep: Keep = Field("all", description="whose weights stay on disk: all, leaves, none, or stages' names")
    paper: dict[str, float] = Field({}, description="arm -> what the paper prints for it in the end")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: an arm and a seed, resolved."""

    arm: str
    recipe: Recipe
    nodes: list[Node]
    grid_point: str = ""  # of a grid that arms stand in: arms at one point are compared with one another
    overrides: dict[str, Any] | None = None  # settings that the command line changed; None without a sweep: all of them

    def record(self) -> RunRecord:
        """Which stages this run consists of, and what is measured after each."""
        return run_record(self.recipe, self.nodes, self.arm, self.grid_point, self.overrides)


def is_sweep(name: str) -> bool:
    """Is this file a sweep? Raises BadInput where there is no file of that name."""
    return bool(load_mapping(find_recipe(name))[0].keys() & SWEEP_KEYS)


def load_cells(
    name: str, profile: str | None = None, seeds: list[int] | None = None, overrides: list[str] | None = None
) -> tuple[Keep, list[Cell]]:
    """Whose weights stay on disk, and the cells of a sweep or of a recipe (one for each seed)."""
    if is_sweep(name):
        declared, cells = load_sweep(name, profile, seeds, overrides)
        return declared.keep, cells
    _refuse_repeated(seeds or [], "--seed")
    of_seed: list[int | None] = [*(seeds or [])] or [None]  # None: the recipe's own
    recipes = [load_recipe(name, profile or "tiny", overrides, seed) for seed in of_seed]
    return "all", [Cell(recipe.name, recipe, lineage(recipe)) for recipe in recipes]


def parse_keep(text: str) -> Keep:
    """`all`, `leaves`, `none` or names of stages, as the command line has them."""
    return text if text in ("all", "leaves", "none") else [name.strip() for name in text.split(",")]  # type: ignore[return-value]


def check_keep(keep: Keep, stages: Iterable[str], origin: str) -> None:
    """Refuse a stage name that does not exist: it would delete the weights that were meant to stay."""
    known = set(stages)
    for name in keep if isinstance(keep, list) else ():
        if name not in known:
            raise BadInput(f"{origin}: keep: no stage {name!r}; {nearest(name, known | {'all', 'leaves', 'none'})}")


def stage_names(cells: Iterable[Cell]) -> set[str]:
    """The names of all stages of some cells."""
    return {node.stage for cell in cells for node in cell.nodes}


def load_sweep(
    sweep: str, profile: str | None = None, seeds: list[int] | None = None, overrides: list[str] | None = None
) -> tuple[Sweep, list[Cell]]:
    """The sweep, and a cell for every arm and seed, an arm's seeds together.

    The command line's overrides come after the arm's. Raises BadInput for a mistake in any cell, before anything runs.
    """
    path = find_recipe(sweep)
    if not is_sweep(sweep):
        raise BadInput(f"{path}: is a recipe, a single run: `remix run` runs it; a sweep has a grid, arms or seeds")
    declared, locations = _load(path, profile)
    if unknown := declared.paper.keys() - declared.arms.keys():
        at = locations[("paper",)]
        raise BadInput(f"{at}: paper: no arm {min(unknown)!r}; {nearest(min(unknown), declared.arms)}")
    _refuse_repeated(seeds or declared.seeds, "--seed" if seeds else f"{locations.get(('seeds',), path)}: seeds")
    command_line = [parse_override(override) for override in overrides or []]
    if any(key == "seed" for key, _, _ in command_line):
        raise BadInput("seed: a sweep has several; use --seed 3, as often as you like")
    cells: list[Cell] = []
    locations_by_label: dict[str, str] = {}
    for point in _grid_points(declared, locations):
        arms: dict[str, _Arm] = {}
        for name in declared.arms:
            if _is_excluded(declared, {"arm": name, **point}):
                continue
            arm = arms[name] = _resolve(declared, locations, path, profile, point, name, command_line)
            if arm.label in locations_by_label:
                other = locations_by_label[arm.label]
                raise BadInput(f"{arm.location}: two arms are called {arm.label!r}; the other is at {other}")
            locations_by_label[arm.label] = arm.location
        for arm in arms.values():
            cells += [arm.cell(seed, arms) for seed in seeds or declared.seeds]
    if not cells:
        raise BadInput(f"{locations[('exclude',)]}: exclude: leaves no cell of the sweep")
    check_keep(declared.keep, stage_names(cells), locations.get(("keep",), str(path)))
    return declared, cells


def _refuse_repeated(seeds: Sequence[int], origin: str) -> None:
    if repeated := [seed for seed, n in Counter(seeds).items() if n > 1]:
        raise BadInput(f"{origin}: seed {repeated[0]} is listed twice")


def _load(path: Path, profile: str | None) -> tuple[Sweep, Locations]:
    """The sweep, what it extends and its section for the profile merged; the location of every key."""
    tree, locations = _merge(path, profile, ())
    declared = validate(Sweep, tree, locations, str(path))
    for above in (("set",), ("grid",), *(("arms", arm) for arm in declared.arms)):
        if (*above, "seed") in locations:
            raise BadInput(f"{locations[(*above, 'seed')]}: seed: use `seeds: [...]` at the top of the sweep")
    known: dict[str, list[Any]] = {"arm": list(declared.arms), **declared.grid}
    for number, cell in enumerate(declared.exclude):
        at = locations.get(("exclude", number), str(path))
        for key, values in cell.items():
            if key not in known:
                raise BadInput(f"{at}: exclude: {key}: no key of the grid; {nearest(key, known)}")
            for value in _as_list(values):
                if value not in known[key]:
                    hint = nearest(value, map(str, known[key]))
                    raise BadInput(f"{at}: exclude: {key} has no value {value!r}; {hint}")
    if profile and profile in declared.grid.get("profile", []):
        declared = declared.model_copy(update={"grid": {**declared.grid, "profile": [profile]}})
    return declared, locations


def _merge(path: Path, profile: str | None, seen: tuple[Path, ...]) -> tuple[dict[str, Any], Locations]:
    """The file over the one that it extends, its section for the profile over both."""
    if path.resolve() in seen:
        raise BadInput(f"{path}: extends: the files extend one another in a circle")
    tree, locations = load_mapping(path)
    sections = tree.pop("profiles", None) or {}
    check_sections(sections, Path(profile or "tiny").stem, path, locations)
    for part in (tree, *sections.values()):
        _anchor_recipes(path, part)
    if "extends" in tree:
        try:
            base_file = find_recipe(path.parent / str(tree.pop("extends")))
        except BadInput as error:
            raise BadInput(f"{locations[('extends',)]}: extends: {error}") from None
        profile = profile or str(tree.get("profile") or "") or None
        base, base_locations = _merge(base_file, profile, (*seen, path.resolve()))
        kept = {at: line for at, line in base_locations.items() if at[:1] not in {(key,) for key in tree}}
        tree, locations = {**base, **tree}, {**kept, **locations}
    if not profile and "profile" in mapping(tree.get("grid")):
        return tree, locations  # several profiles: no section belongs to all of them
    name = Path(profile or str(tree.get("profile") or "tiny")).stem
    for key, value in sections.get(name, {}).items():
        tree[key] = value
        moved = {at[2:]: line for at, line in locations.items() if at[:3] == ("profiles", name, key)}
        locations = {at: line for at, line in locations.items() if at[:1] != (key,)} | moved
    return tree, locations


def _anchor_recipes(path: Path, part: dict[str, Any]) -> None:
    """A recipe is named relative to the file that names it."""
    grid, arms = part.get("grid"), part.get("arms")
    for settings in (part, part.get("set"), *(arms.values() if isinstance(arms, dict) else ())):
        if isinstance(settings, dict) and isinstance(settings.get("recipe"), str):
            settings["recipe"] = str(path.parent / settings["recipe"])
    if isinstance(grid, dict) and isinstance(grid.get("recipe"), list):
        grid["recipe"] = [str(path.parent / str(recipe)) for recipe in grid["recipe"]]


def _grid_points(declared: Sweep, locations: Locations) -> Iterator[dict[str, Any]]:
    for key, values in declared.grid.items():
        if len({json.dumps(value, sort_keys=True, default=str) for value in values}) < len(values):
            raise BadInput(f"{locations[('grid', key)]}: grid: {key}: a value is listed twice")
    for combination in product(*declared.grid.values()):
        yield dict(zip(declared.grid, combination, strict=True))


def _is_excluded(declared: Sweep, cell: dict[str, Any]) -> bool:
    return any(all(cell[key] in _as_list(value) for key, value in one.items()) for one in declared.exclude)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _resolve(
    declared: Sweep,
    locations: Locations,
    path: Path,
    profile: str | None,
    point: dict[str, Any],
    name: str,
    command_line: list[Setting],
) -> "_Arm":
    """One arm's recipe, without a seed. Raises BadInput with the arm and the line of what is wrong in it."""
    varied = [key for key, values in declared.grid.items() if len(values) > 1]
    grid_point = ", ".join(_short_name(key, point[key], varied) for key in varied)
    label = ", ".join(part for part in (grid_point, name) if part) or path.stem
    location = locations.get(("arms", name), str(path))
    settings = {**declared.set, **point, **declared.arms[name]}
    file = str(settings.pop("recipe", declared.recipe))
    arm_profile = settings.pop("profile", None)
    if profile and arm_profile not in (None, profile):
        raise BadInput(f"{location}: arm {label}: has profile {arm_profile}; run it without --profile {profile}")
    lines = {
        key: locations[at]
        for key in settings
        for at in (("set", key), ("grid", key), ("arms", name, key))
        if at in locations
    }
    declared_settings = [(key, value, lines.get(key, location)) for key, value in settings.items()]
    resolved_profile = str(arm_profile or profile or declared.profile)
    try:
        recipe = load_recipe(file, resolved_profile, seed=0, settings=[*declared_settings, *command_line])
        unchanged = load_recipe(file, resolved_profile, seed=0, settings=declared_settings) if command_line else recipe
    except BadInput as error:
        raise BadInput(f"{location}: arm {label}: {error}") from None
    compared = grid_point if len(declared.arms) > 1 else ""  # a grid without arms: its points are what is compared
    overrides = difference(unchanged, recipe)
    return _Arm(name, label, location, recipe.model_copy(update={"name": path.stem}), compared, overrides)


@dataclass
class _Arm:
    """One arm at one point of the grid, before its seeds."""

    name: str
    label: str
    location: str
    recipe: Recipe
    grid_point: str
    overrides: dict[str, Any]
    keys: dict[tuple[int, str], str] = field(default_factory=dict)  # (seed, stage) -> key, as far as worked out

    def cell(self, seed: int, arms: dict[str, "_Arm"]) -> Cell:
        """The arm under one seed, each `match` resolved to the key of the other arm's stage."""
        recipe = self._with_seed(seed, list(self.recipe.stages), arms, ())
        return Cell(self.label, recipe, lineage(recipe), self.grid_point, self.overrides)

    def key(self, seed: int, stage: str, arms: dict[str, "_Arm"], seen: tuple[tuple[str, str], ...]) -> str:
        """The key of one stage; the keys of the stages that it is matched with come first.

        Raises BadInput where stages are matched with one another in a circle.
        """
        if (self.name, stage) in seen:
            circle = " -> ".join(name for name, _ in [*seen, (self.name, stage)])
            raise BadInput(f"{self.location}: stages.{stage}.match: arms match one another in a circle: {circle}")
        if stage not in self.recipe.stages:
            raise BadInput(f"{self.location}: arm {self.label} has no stage {stage!r} to match")
        if (seed, stage) not in self.keys:
            until = list(self.recipe.stages)[: self.recipe.position(stage) + 1]
            self.keys[seed, stage] = lineage(self._with_seed(seed, until, arms, seen), until=stage)[-1].key
        return self.keys[seed, stage]

    def _with_seed(
        self, seed: int, stages: list[str], arms: dict[str, "_Arm"], seen: tuple[tuple[str, str], ...]
    ) -> Recipe:
        changed = dict(self.recipe.stages)
        for name in stages:
            match = changed[name].match
            if match is None:
                continue
            if match.other not in arms:
                problem = f"no arm {match.other!r} beside it; {nearest(match.other, arms)}"
                raise BadInput(f"{self.location}: arm {self.label}: stages.{name}.match: {problem}")
            key = arms[match.other].key(seed, name, arms, (*seen, (self.name, name)))
            resolved = match.model_copy(update={"steps_of" if match.steps_of else "tokens_of": key})
            changed[name] = changed[name].model_copy(update={"match": resolved})
        return self.recipe.model_copy(update={"seed": seed, "stages": changed})


def _short_name(key: str, value: Any, varied: list[str]) -> str:
    """`lama`, `ratio=2`: a string names itself, anything else follows as much of its key as is unique."""
    if isinstance(value, str):
        return Path(value).stem if key in KEYS else value
    parts = key.split(".")
    for n in range(1, len(parts) + 1):
        short = dotted(tuple(parts[-n:]))
        if sum(other.endswith(f".{short}") or other == short for other in varied) == 1:
            break
    return f"{short}={json.dumps(value, default=str)}"
