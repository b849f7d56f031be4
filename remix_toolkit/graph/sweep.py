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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.graph.lineage import Node, lineage
from remix_toolkit.recipe.check import validate
from remix_toolkit.recipe.draft import Setting
from remix_toolkit.recipe.load import SWEEP_KEYS, check_sections, find_recipe, load_recipe, parse_override
from remix_toolkit.recipe.schema import Recipe, Strict
from remix_toolkit.recipe.yaml_file import Locations, dotted, load_mapping

KEYS = ("recipe", "profile")  # of a grid or an arm, besides the recipe's own
Keep = Literal["all", "leaves", "none"] | list[str]  # whose weights stay on disk; a list has stages' names


class Sweep(Strict):
    recipe: str = Field(description="the recipe file, relative to the sweep file")
    profile: str = Field("tiny", description="where the command line says none")
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
    file: str  # the recipe, as the command line names it
    overrides: list[str]  # with which that file resolves to this recipe
    place: str = ""  # in the grid, where arms stand in it: those at one place are compared with one another


def is_sweep(name: str) -> bool:
    """Is this file a sweep? Raises BadInput where there is none of that name."""
    return bool(load_mapping(find_recipe(name))[0].keys() & SWEEP_KEYS)


def load_cells(
    name: str, profile: str | None = None, seeds: list[int] | None = None, overrides: list[str] | None = None
) -> tuple[Keep, list[Cell]]:
    """What stays on disk, and the cells of a sweep, or of a recipe: one for each seed."""
    if is_sweep(name):
        declared, cells = load_sweep(name, profile, seeds, overrides)
        return declared.keep, cells
    found = []
    if len(set(seeds or [])) < len(seeds or []):
        raise BadInput("--seed: one of them stands there twice")
    for seed in list[int | None](seeds or []) or [None]:
        recipe = load_recipe(name, profile or "tiny", overrides, seed)
        found.append(Cell(recipe.name, recipe, lineage(recipe), name, list(overrides or [])))
    return "all", found


def keep_of(text: str) -> Keep:
    """`all`, `leaves`, `none` or names of stages, as the command line gives them."""
    return text if text in ("all", "leaves", "none") else [name.strip() for name in text.split(",")]  # type: ignore[return-value]


def check_keep(keep: Keep, stages: Iterable[str], origin: str) -> None:
    """A name that no stage has would delete what was meant to stay. Raises BadInput."""
    known = set(stages)
    for name in keep if isinstance(keep, list) else ():
        if name not in known:
            raise BadInput(f"{origin}: keep: no stage {name!r}; {nearest(name, known | {'all', 'leaves', 'none'})}")


def stages_of(cells: Iterable[Cell]) -> set[str]:
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
        raise BadInput(f"{path}: is a recipe, of one run: `remix run` runs it; a sweep has a grid, arms or seeds")
    declared, where = _load(path, profile)
    if unknown := declared.paper.keys() - declared.arms.keys():
        raise BadInput(f"{where[('paper',)]}: paper: no arm {min(unknown)!r}; {nearest(min(unknown), declared.arms)}")
    if len(set(seeds or declared.seeds)) < len(seeds or declared.seeds):
        raise BadInput(f"{path if seeds else where[('seeds',)]}: seeds: one of them stands there twice")
    own = [parse_override(override) for override in overrides or []]
    if any(key == "seed" for key, _, _ in own):
        raise BadInput("seed: say --seed 3, as often as you like: a sweep has several")
    cells: list[Cell] = []
    named: dict[str, str] = {}  # arm -> where it is
    for grid in _combinations(declared, where):
        arms: dict[str, _Arm] = {}
        for name in declared.arms:
            if _excluded(declared, {"arm": name, **grid}):
                continue
            arm = arms[name] = _resolve(declared, where, path, profile, grid, name, own)
            if arm.label in named:
                raise BadInput(f"{arm.place}: two arms are called {arm.label!r}; the other is at {named[arm.label]}")
            named[arm.label] = arm.place
        for arm in arms.values():
            cells += [arm.cell(seed, arms) for seed in seeds or declared.seeds]
    if not cells:
        raise BadInput(f"{where[('exclude',)]}: exclude: leaves no cell of the sweep")
    check_keep(declared.keep, stages_of(cells), where.get(("keep",), str(path)))
    return declared, cells


def _load(path: Path, profile: str | None) -> tuple[Sweep, Locations]:
    """The sweep with what it extends, and its section for the profile, put into one."""
    tree, where = _merged(path, profile, ())
    declared = validate(Sweep, tree, where, str(path))
    for above in (("set",), ("grid",), *(("arms", arm) for arm in declared.arms)):
        if (*above, "seed") in where:
            raise BadInput(f"{where[(*above, 'seed')]}: seed: say `seeds: [...]` at the top of the sweep")
    known: dict[str, list[Any]] = {"arm": list(declared.arms), **declared.grid}
    for number, cell in enumerate(declared.exclude):
        place = where.get(("exclude", number), str(path))
        for key, values in cell.items():
            if key not in known:
                raise BadInput(f"{place}: exclude: {key}: no key of the grid; {nearest(key, known)}")
            for value in _listed(values):
                if value not in known[key]:
                    has = nearest(value, map(str, known[key]))
                    raise BadInput(f"{place}: exclude: {key} has no value {value!r}; {has}")
    if profile and profile in declared.grid.get("profile", []):
        declared = declared.model_copy(update={"grid": {**declared.grid, "profile": [profile]}})
    return declared, where


def _merged(path: Path, profile: str | None, seen: tuple[Path, ...]) -> tuple[dict[str, Any], Locations]:
    if path.resolve() in seen:
        raise BadInput(f"{path}: extends: goes round in a circle")
    tree, where = load_mapping(path)
    where = dict(where)
    sections = tree.pop("profiles", None) or {}
    check_sections(sections, Path(profile or "tiny").stem, path, where)
    for part in (tree, *sections.values()):
        _beside(path, part)
    if "extends" in tree:
        other = find_recipe(path.parent / str(tree.pop("extends")))
        profile = profile or tree.get("profile")
        below, places = _merged(other, profile, (*seen, path.resolve()))
        for key in tree:
            places = {place: line for place, line in places.items() if place[:1] != (key,)}
        tree, where = {**below, **tree}, {**places, **where}
    name = Path(profile or tree.get("profile") or "tiny").stem
    if not profile and "profile" in (tree.get("grid") or {}):
        sections = {}  # several profiles: none of them is the sweep's
    for key, value in sections.get(name, {}).items():
        tree[key] = value
        places = {at[2:]: line for at, line in where.items() if at[:3] == ("profiles", name, key)}
        where = {at: line for at, line in where.items() if at[:1] != (key,)} | places
    return tree, where


def _beside(path: Path, part: dict[str, Any]) -> None:
    """A recipe is named from the file that names it."""
    grid, arms = part.get("grid"), part.get("arms")
    for settings in (part, part.get("set"), *(arms.values() if isinstance(arms, dict) else ())):
        if isinstance(settings, dict) and isinstance(settings.get("recipe"), str):
            settings["recipe"] = str(path.parent / settings["recipe"])
    if isinstance(grid, dict) and isinstance(grid.get("recipe"), list):
        grid["recipe"] = [str(path.parent / str(recipe)) for recipe in grid["recipe"]]


def _combinations(declared: Sweep, where: Locations) -> Iterator[dict[str, Any]]:
    for key, values in declared.grid.items():
        if len({json.dumps(value, sort_keys=True, default=str) for value in values}) < len(values):
            raise BadInput(f"{where[('grid', key)]}: grid: {key}: one value stands there twice")
    for combination in product(*declared.grid.values()):
        yield dict(zip(declared.grid, combination, strict=True))


def _excluded(declared: Sweep, cell: dict[str, Any]) -> bool:
    return any(all(cell[key] in _listed(value) for key, value in one.items()) for one in declared.exclude)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _resolve(
    declared: Sweep,
    where: Locations,
    path: Path,
    profile: str | None,
    grid: dict[str, Any],
    name: str,
    own: list[Setting],
) -> "_Arm":
    """One cell's recipe, without a seed. Raises BadInput with the arm and the line of what is wrong in it."""
    varied = [key for key, values in declared.grid.items() if len(values) > 1]
    point = ", ".join(_shown(key, grid[key], varied) for key in varied)
    label = ", ".join(part for part in (point, name) if part) or path.stem
    place = where.get(("arms", name), str(path))
    settings = {**declared.set, **grid, **declared.arms[name]}
    file = str(settings.pop("recipe", declared.recipe))
    own_profile = settings.pop("profile", None)
    if profile and own_profile not in (None, profile):
        raise BadInput(f"{place}: arm {label}: says profile {own_profile}; run it without --profile {profile}")
    profile = str(own_profile or profile or declared.profile)
    lines = {
        key: where[at] for key in settings for at in (("set", key), ("grid", key), ("arms", name, key)) if at in where
    }
    said = [(key, value, lines.get(key, place)) for key, value in settings.items()]
    try:
        recipe = load_recipe(file, profile, seed=0, settings=[*said, *own])
    except BadInput as error:
        raise BadInput(f"{place}: arm {label}: {error}") from None
    # JSON is YAML, and it is one line: a setting becomes an override as on the command line.
    overrides = [f"{key}={json.dumps(value, default=str, ensure_ascii=False)}" for key, value, _ in [*said, *own]]
    compared = point if len(declared.arms) > 1 else ""  # the grid alone makes arms that are compared
    return _Arm(name, label, place, file, recipe.model_copy(update={"name": path.stem}), overrides, compared)


@dataclass
class _Arm:
    """One setting of a sweep before its seeds."""

    name: str
    label: str
    place: str
    file: str
    recipe: Recipe
    overrides: list[str]
    place_in_grid: str
    keys: dict[tuple[int, str], str] = field(default_factory=dict)  # (seed, stage) -> its key, where one was asked

    def cell(self, seed: int, arms: dict[str, "_Arm"]) -> Cell:
        """The arm under one seed, each `match` resolved to the key of the other arm's stage."""
        recipe = self._seeded(seed, list(self.recipe.stages), arms, ())
        matched = {name: stage.match for name, stage in recipe.stages.items() if stage.match}
        keys = [f"stages.{name}.match={match.model_dump_json(exclude_none=True)}" for name, match in matched.items()]
        return Cell(self.label, recipe, lineage(recipe), self.file, [*self.overrides, *keys], self.place_in_grid)

    def key(self, seed: int, stage: str, arms: dict[str, "_Arm"], seen: tuple[tuple[str, str], ...]) -> str:
        """The key of one stage, those that it is matched with worked out before. Raises BadInput for a circle."""
        if (self.name, stage) in seen:
            circle = " -> ".join(name for name, _ in [*seen, (self.name, stage)])
            raise BadInput(f"{self.place}: stages.{stage}.match: goes round in a circle: {circle}")
        if stage not in self.recipe.stages:
            raise BadInput(f"{self.place}: arm {self.label} has no stage {stage!r} to match")
        if (seed, stage) not in self.keys:
            until = list(self.recipe.stages)[: self.recipe.position(stage) + 1]
            self.keys[seed, stage] = lineage(self._seeded(seed, until, arms, seen), until=stage)[-1].key
        return self.keys[seed, stage]

    def _seeded(
        self, seed: int, stages: list[str], arms: dict[str, "_Arm"], seen: tuple[tuple[str, str], ...]
    ) -> Recipe:
        changed = dict(self.recipe.stages)
        for name in stages:
            match = changed[name].match
            if match is None:
                continue
            if match.other not in arms:
                what = f"no arm {match.other!r} beside it; {nearest(match.other, arms)}"
                raise BadInput(f"{self.place}: arm {self.label}: stages.{name}.match: {what}")
            key = arms[match.other].key(seed, name, arms, (*seen, (self.name, name)))
            resolved = match.model_copy(update={"steps_of" if match.steps_of else "tokens_of": key})
            changed[name] = changed[name].model_copy(update={"match": resolved})
        return self.recipe.model_copy(update={"seed": seed, "stages": changed})


def _shown(key: str, value: Any, varied: list[str]) -> str:
    """`lama`, `ratio=2`: a word stands for itself, anything else after as much of its key as is its own."""
    if isinstance(value, str):
        return Path(value).stem if key in KEYS else value
    parts = key.split(".")
    for n in range(1, len(parts) + 1):
        short = dotted(tuple(parts[-n:]))
        if sum(other.endswith(f".{short}") or other == short for other in varied) == 1:
            break
    return f"{short}={json.dumps(value, default=str)}"
