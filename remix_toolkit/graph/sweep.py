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
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.graph.lineage import Node, lineage, run_record
from remix_toolkit.recipe.check import validate
from remix_toolkit.recipe.difference import difference
from remix_toolkit.recipe.draft import Setting, mapping
from remix_toolkit.recipe.load import SWEEP_KEYS, RecipeFile, check_sections, find_recipe, load_recipe, parse_override
from remix_toolkit.recipe.ranges import Seed
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.strict import Strict
from remix_toolkit.recipe.yaml_file import Locations, load_mapping, location_of
from remix_toolkit.records import RunRecord, RunStage

MOST_RUNS = 20_000  # 10,000 are planned in some 10 seconds
KEYS = ("recipe", "profile")  # what a grid or an arm may set besides the recipe's own keys
Keep = Literal["all", "leaves", "none"] | list[str]  # whose weights stay on disk; a list names stages
ArmName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=200)]
Layer = tuple[dict[str, Any], Locations]  # of a sweep file: its keys, and where each is


class Sweep(Strict):
    recipe: str = Field(description="the recipe file, relative to the sweep file")
    profile: str = Field("tiny", description="where the command line names none")
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {}, min_length=1, description="dotted key -> its values"
    )
    arms: Annotated[dict[ArmName, dict[str, Any]], Field(min_length=1)] = Field(
        {"": {}}, description="name -> dotted keys and their values"
    )
    set: dict[str, Any] = Field({}, description="dotted keys and their values, for every cell")
    seeds: list[Seed] = Field([0], min_length=1, description="every arm is run under each of them")
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


def parse_keep(text: str) -> Keep:
    """`all`, `leaves`, `none` or names of stages, as the command line has them."""
    return text if text in ("all", "leaves", "none") else [name.strip() for name in text.split(",")]  # type: ignore[return-value]


def check_keep(keep: Keep, stages: Iterable[Node | RunStage], origin: str) -> None:
    """Refuse a stage name that does not exist: it would delete the weights that were meant to stay."""
    known = {stage.stage for stage in stages}
    for name in keep if isinstance(keep, list) else ():
        if name not in known:
            raise BadInput(f"{origin}: keep: no stage {name!r}; {nearest(name, known | {'all', 'leaves', 'none'})}")


def load_sweep(
    name: str, profile: str | None = None, seeds: list[int] | None = None, overrides: list[str] | None = None
) -> tuple[Sweep, list[Cell]]:
    """A sweep, and a cell for every arm and seed, an arm's seeds together; of a recipe, a cell for every seed.

    The command line's overrides come after the arm's. Raises BadInput for a mistake in any cell, before anything runs.
    """
    path = find_recipe(name)
    _refuse_repeated(seeds or [], "--seed: seed")
    if not is_sweep(name):
        of_seed: list[int | None] = [*(seeds or [])] or [None]  # None: the recipe's own
        recipes = [load_recipe(name, profile or "tiny", overrides, seed) for seed in of_seed]
        return Sweep.model_validate({"recipe": str(path)}), [
            Cell(recipe.name, recipe, lineage(recipe)) for recipe in recipes
        ]
    settings = [parse_override(override) for override in overrides or []]
    declared, locations = _load(path, profile, seeds)
    cells = _Resolver(path, declared, locations, profile, settings).cells()
    check_keep(
        declared.keep, (node for cell in cells for node in cell.nodes), location_of(locations, ("keep",), str(path))
    )
    return declared, cells


def _refuse_repeated(values: Sequence[Any], origin: str) -> None:
    if repeated := [value for value, times in Counter(values).items() if times > 1]:
        raise BadInput(f"{origin} {repeated[0]!r} is listed twice")


def _load(path: Path, profile: str | None, seeds: list[int] | None) -> tuple[Sweep, Locations]:
    """The sweep, what it extends and its section for the profile merged; the location of every key."""
    tree, locations = _merge(path, profile, ())
    if seeds:
        tree["seeds"], locations[("seeds",)] = seeds, "--seed"
    declared = validate(Sweep, tree, locations, str(path))
    _refuse_repeated(declared.seeds, f"{location_of(locations, ('seeds',), str(path))}: seeds: seed")
    axes: dict[str, list[Any]] = {"arm": list(declared.arms), **declared.grid}
    for number, entry in enumerate(declared.exclude):
        origin = f"{location_of(locations, ('exclude', number), str(path))}: exclude"
        for key, values in entry.items():
            if key not in axes:
                raise BadInput(f"{origin}: {key}: no key of the grid; {nearest(key, axes)}")
            for value in _as_list(values):
                if value not in axes[key]:
                    raise BadInput(f"{origin}: {key} has no value {value!r}; {nearest(value, map(str, axes[key]))}")
    for arm in declared.paper.keys() - declared.arms.keys():
        raise BadInput(f"{locations[('paper',)]}: paper: no arm {arm!r}; {nearest(arm, declared.arms)}")
    if profile and profile in declared.grid.get("profile", []):
        declared = declared.model_copy(update={"grid": {**declared.grid, "profile": [profile]}})
    return declared, locations


def _merge(path: Path, profile: str | None, seen: tuple[Path, ...]) -> Layer:
    """The file over the one that it extends, its section for the profile over both."""
    if path.resolve() in seen:
        raise BadInput(f"{path}: extends: the files extend one another in a circle")
    tree, locations = load_mapping(path)
    sections = tree.pop("profiles", None) or {}
    check_sections(sections, Path(profile or "tiny").stem, path, locations)
    merged = tree, locations
    if "extends" in tree:
        try:
            base_file = find_recipe(path.parent / str(tree.pop("extends")))
        except BadInput as error:
            raise BadInput(f"{locations[('extends',)]}: extends: {error}") from None
        profile = profile or str(tree.get("profile") or "") or None
        merged = _put_over(_merge(base_file, profile, (*seen, path.resolve())), merged)
    if not profile and "profile" in mapping(merged[0].get("grid")):
        return merged  # several profiles: no section belongs to all of them
    name = Path(profile or str(merged[0].get("profile") or "tiny")).stem
    lines = {at[2:]: line for at, line in locations.items() if at[:2] == ("profiles", name)}
    return _put_over(merged, (sections.get(name, {}), lines))


def _put_over(lower: Layer, upper: Layer) -> Layer:
    """The keys of one mapping in place of another's, whole; and where each is."""
    kept = {at: line for at, line in lower[1].items() if at and at[0] not in upper[0]}
    return {**lower[0], **upper[0]}, {**kept, **upper[1]}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class _Resolver:
    """A declared sweep on its way to cells."""

    path: Path
    declared: Sweep
    locations: Locations
    profile: str | None  # the command line's
    settings: list[Setting]  # the command line's
    files: dict[tuple[Path, str], RecipeFile] = field(default_factory=dict)  # each under each profile, read once

    def cells(self) -> list[Cell]:
        """A cell for every arm and seed at every point of the grid that `exclude` does not leave out."""
        axes = [*self.declared.grid.values(), self.declared.arms, self.declared.seeds]
        if (runs := math.prod(map(len, axes))) > MOST_RUNS:
            raise BadInput(f"{self.path}: {runs:,} runs; more than {MOST_RUNS:,} are no sweep: make it several")
        cells: list[Cell] = []
        labels: list[str] = []
        for point in product(*self.declared.grid.values()):
            chosen = dict(zip(self.declared.grid, point, strict=True))
            arms = {arm: self._resolve(chosen, arm) for arm in self.declared.arms if not self._is_excluded(chosen, arm)}
            labels += [cell.arm for cell in arms.values()]
            by_seed = [self._with_seed(arms, seed) for seed in self.declared.seeds]
            cells += [of_seed[arm] for arm in arms for of_seed in by_seed]
        if not cells:
            raise BadInput(f"{self.locations[('exclude',)]}: exclude: leaves no cell of the sweep")
        _refuse_repeated(labels, f"{self.path}: the arm")
        return cells

    def _is_excluded(self, point: dict[str, Any], arm: str) -> bool:
        cell = {"arm": arm, **point}
        return any(all(cell[key] in _as_list(entry[key]) for key in entry) for entry in self.declared.exclude)

    def _resolve(self, point: dict[str, Any], arm: str) -> Cell:
        """One arm's recipe, without a seed. Raises BadInput with the arm and the line of what is wrong in it."""
        grid_point = self._describe(point)
        label = ", ".join(part for part in (grid_point, arm) if part) or self.path.stem
        origin = f"{self._line('arms', arm)}: arm {label}"
        settings = {key: (key, value, self._line("set", key)) for key, value in self.declared.set.items()}
        settings |= {key: (key, value, self._line("grid", key)) for key, value in point.items()}
        settings |= {key: (key, value, self._line("arms", arm, key)) for key, value in self.declared.arms[arm].items()}
        for key, value, line in [*settings.values(), *self.settings]:
            if key == "seed":
                raise BadInput(f"{line}: seed: use `seeds: [...]` at the top of the sweep, or --seed {value}")
        _, name, line = settings.pop("recipe", ("recipe", self.declared.recipe, self._line("recipe")))
        file = Path(line.rpartition(":")[0]).parent / str(name)  # relative to the file that names it
        _, profile, _ = settings.pop("profile", ("profile", self.profile or self.declared.profile, ""))
        if self.profile not in (None, profile):
            raise BadInput(f"{origin}: has profile {profile}; run it without --profile {self.profile}")
        try:
            read = self._read(file, str(profile))
            recipe = unchanged = read.resolve(settings.values(), seed=0)
            if self.settings:
                recipe = read.resolve([*settings.values(), *self.settings], seed=0)
        except BadInput as error:
            raise BadInput(f"{origin}: {error}") from None
        compared = grid_point if len(self.declared.arms) > 1 else ""  # without arms, the grid's points are compared
        recipe = recipe.model_copy(update={"name": self.path.stem})
        return Cell(label, recipe, [], compared, difference(unchanged.model_dump(), recipe) if self.settings else {})

    def _read(self, file: Path, profile: str) -> RecipeFile:
        if (file, profile) not in self.files:
            self.files[file, profile] = RecipeFile(file, profile)
        return self.files[file, profile]

    def _line(self, *key: str) -> str:
        return location_of(self.locations, key, str(self.path))

    def _describe(self, point: dict[str, Any]) -> str:
        """A point of the grid by what varies: `kvr, lama`, `ratio=2`: strings alone, other values behind their key."""
        varied = {key: point[key] for key, values in self.declared.grid.items() if len(values) > 1}
        ends = [key.rpartition(".")[2] for key in varied]
        parts = []
        for (key, value), end in zip(varied.items(), ends, strict=True):
            name = end if ends.count(end) == 1 else key.removeprefix("stages.")
            text = Path(value).stem if key in KEYS else value
            parts.append(text if isinstance(value, str) else f"{name}={json.dumps(value)}")
        return ", ".join(parts)

    def _with_seed(self, arms: dict[str, Cell], seed: int) -> dict[str, Cell]:
        """The arms at one point of the grid under a seed; `match` names the key of the other arm's stage.

        Raises BadInput for an arm that is not there, and for arms that match one another in a circle.
        """
        recipes = {arm: cell.recipe.model_copy(update={"seed": seed}) for arm, cell in arms.items()}
        waits_for: dict[tuple[str, str], set[tuple[str, str]]] = {}  # a stage's key is over the stages before it too
        for arm, recipe in recipes.items():
            for name, match in [(name, stage.match) for name, stage in recipe.stages.items() if stage.match]:
                other = recipes.get(match.other)
                if other is None or name not in other.stages:
                    problem = f"no arm {match.other!r} beside it that has this stage; {nearest(match.other, recipes)}"
                    raise BadInput(f"{self._line('arms', arm)}: arm {arms[arm].arm}: stages.{name}.match: {problem}")
                before = list(other.stages)[: other.position(name) + 1]
                waits_for[arm, name] = {(match.other, stage) for stage in before}
        try:
            order = list(TopologicalSorter(waits_for).static_order())
        except CycleError as error:
            circle = " -> ".join(arm for arm, _ in reversed(error.args[1]))
            at = self._line("arms", error.args[1][0][0])
            raise BadInput(f"{at}: match: arms match one another in a circle: {circle}") from None
        for arm, name in order:
            stage = recipes[arm].stages[name]
            if stage.match:
                node = lineage(recipes[stage.match.other], until=name)[-1]
                key = (node.trained or node).key
                resolved = stage.match.model_copy(update={"steps_of" if stage.match.steps_of else "tokens_of": key})
                changed = {**recipes[arm].stages, name: stage.model_copy(update={"match": resolved})}
                recipes[arm] = recipes[arm].model_copy(update={"stages": changed})
        return {arm: replace(arms[arm], recipe=recipe, nodes=lineage(recipe)) for arm, recipe in recipes.items()}
