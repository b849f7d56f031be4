"""A sweep: one recipe under several named settings (arms) and seeds.

recipe: kvr.yaml                      # beside the sweep file
arms:
  none: {}
  random: {stages.stage1.mix: {random_words: {ratio: 2}}}
seeds: [0, 1, 2]
"""

import json
from typing import Any

from pydantic import Field

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe import Recipe, Strict
from remix_toolkit.resolve import check, find_recipe, load_recipe
from remix_toolkit.yaml_file import load_mapping


class Sweep(Strict):
    recipe: str = Field(description="the recipe file, relative to the sweep file")
    arms: dict[str, dict[str, Any]] = Field(min_length=1, description="arm -> dotted keys and their values")
    seeds: list[int] = Field([0], min_length=1)
    paper: dict[str, float] = Field({}, description="arm -> what the paper prints for it in the end")


def is_sweep(name: str) -> bool:
    """Does this file have arms? Raises BadInput where there is none of that name."""
    return "arms" in load_mapping(find_recipe(name))[0]


def load_sweep(
    sweep: str, profile: str, seeds: list[int] | None = None, overrides: list[str] | None = None
) -> tuple[Sweep, list[tuple[str, Recipe, list[str]]]]:
    """The sweep, and (arm, resolved recipe, its overrides) for every arm and seed, an arm's seeds together.

    The command line's overrides come after the arm's. Raises BadInput for a mistake in any arm, before anything runs.
    """
    path = find_recipe(sweep)
    tree, where = load_mapping(path)
    declared = check(Sweep, tree, where, str(path))
    if unknown := declared.paper.keys() - declared.arms.keys():
        raise BadInput(f"{where[('paper',)]}: paper: no arm {min(unknown)!r}; {nearest(min(unknown), declared.arms)}")
    cells = []
    for arm, settings in declared.arms.items():
        # JSON is YAML, and it is one line: an arm's setting becomes an override as on the command line.
        own = [f"{key}={json.dumps(value, default=str)}" for key, value in settings.items()] + (overrides or [])
        for seed in seeds or declared.seeds:
            try:
                recipe = load_recipe(path.parent / declared.recipe, profile, own, seed)
            except BadInput as error:
                raise BadInput(f"{where.get(('arms', arm), path)}: arm {arm}: {error}") from None
            cells.append((arm, recipe.model_copy(update={"name": path.stem}), own))
    return declared, cells
