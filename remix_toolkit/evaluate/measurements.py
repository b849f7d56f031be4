"""What can be measured of a published stage, in one list that everything else reads.

A new probe is a file beside this one, with a class like those below, and a line in MEASUREMENTS. If recipes ask for it
under `probe`, its name is added to `Probe` in recipe/schema.py; report/probes.py shows it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remix_toolkit.disk import Damaged
from remix_toolkit.evaluate.base import Measurement
from remix_toolkit.evaluate.harness import Harness
from remix_toolkit.evaluate.held_out import HeldOut
from remix_toolkit.evaluate.interference import Interference
from remix_toolkit.evaluate.known import Known
from remix_toolkit.evaluate.lens import Lens
from remix_toolkit.evaluate.perplexity import Perplexity
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.evaluate.robustness import Drift, Noise, Relearn
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.tiny_size import tiny_size

# In the order in which they run. Interference comes last: it moves the published model off its device.
MEASUREMENTS: tuple[Measurement[Any], ...] = (
    *(Recall(), HeldOut(), Known(), Perplexity(), Lens(), Harness()),
    *(Noise(), Relearn(), Drift(), Interference()),
)
FILES = frozenset(f"{measurement.name}.{suffix}" for measurement in MEASUREMENTS for suffix in ("json", "jsonl"))


def requested(recipe: Recipe, stage: str) -> set[str]:
    """All that a recipe asks to be measured after a stage: `lens kvr-8f14e45f`, `lm_eval arc_easy on 8 rows`."""
    return {f"{kind.name} {item}" for kind in MEASUREMENTS for item in kind.requested(recipe, stage)}


def measured(folder: Path) -> set[str]:
    """All that has been measured of a published stage; what is damaged is not, and is named in a warning.

    Of rows, the checksum is compared, no more: a sweep asks this of hundreds of stages.
    """
    return {f"{kind.name} {item}" for kind in MEASUREMENTS for item in kind.sound(folder)}


def damaged(folder: Path) -> Iterator[tuple[Measurement[Any], Damaged]]:
    """The measurements of a published stage whose files are damaged, each with what is wrong, rows included."""
    for kind in MEASUREMENTS:
        try:
            kind.verify(folder)
        except Damaged as error:
            yield kind, error


def is_measured(recipe: Recipe, stage: str, folder: Path) -> bool:
    """Has all been measured that the recipe asks for?"""
    return not any(kind.missing(recipe, stage, folder) for kind in MEASUREMENTS)


def missing_of_base(recipe: Recipe, stage: str, folder: Path) -> dict[Measurement[Any], list[str]]:
    """What is measured after a stage and, of the base model, not yet; nothing of the tiny one, which knows nothing."""
    kinds = [kind for kind in MEASUREMENTS if kind.of_base and not tiny_size(recipe.base)]
    return {kind: missing for kind in kinds if (missing := kind.missing(recipe, stage, folder))}
