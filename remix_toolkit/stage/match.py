"""Compute-matched controls: how many optimizer steps another arm's stage is worth, in steps or in trained tokens."""

from itertools import islice
from pathlib import Path

from remix_toolkit import store
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import Match, Recipe
from remix_toolkit.records import StageRecord
from remix_toolkit.stage.data import StageData
from remix_toolkit.stage.train import tokens_by_step


def matched_steps(recipe: Recipe, match: Match, data: StageData, runs: Path) -> int:
    """How many optimizer steps give a stage as many steps, or as nearly as many trained tokens, as the other one had.

    Raises BadInput where the other stage is not published yet.
    """
    folder = store.find(runs, match.other)
    if folder is None:
        raise BadInput(f"{recipe.name}: match: the stage {match.other} is not published in {runs} yet: run it first")
    other = StageRecord.read(folder / "stage.json")
    if match.steps_of:
        return other.steps
    below = 0
    for step, tokens in enumerate(tokens_by_step(data.examples, recipe.seed, recipe.global_batch_size), start=1):
        if tokens >= other.trained_tokens:
            return step if tokens - other.trained_tokens <= other.trained_tokens - below else max(1, step - 1)
        below = tokens
    raise AssertionError("the epochs never end")


def trained_tokens(data: StageData, recipe: Recipe, steps: int) -> int:
    """How many tokens with a loss so many optimizer steps saw."""
    by_step = tokens_by_step(data.examples, recipe.seed, recipe.global_batch_size)
    return next(islice(by_step, steps - 1, None))
