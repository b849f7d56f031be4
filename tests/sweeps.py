"""What tests of sweeps share: sweeps to look at, and those that are shipped."""

from contextlib import chdir
from functools import cache
from pathlib import Path

from conftest import ROOT

from remix_toolkit.graph.sweep import Cell, load_sweep

NOWHERE = Path("no such runs directory")

FACTS = """\
stages:
  stage1:
    data: {task: kvr, size: 64}
  stage2:
    data: {task: invented_facts, size: 64}
"""
RANDOM = "stages.stage1.mix: {random_words: {ratio: 2}}"
SHARED = """\
arms:
  none: {}
  generic: {stages.stage2.mix: {passages: {ratio: 2}}}
  replay: {stages.stage2.mix: {replay: {stage: stage1, ratio: 0.5}}}
"""
CONTROL = f"""\
grid: {{stages.stage2.data.size: [32, 64]}}
arms:
  control: {{stages.stage1.match: {{steps_of: random}}, stages.stage2.match: {{tokens_of: random}}}}
  random: {{{RANDOM}, stages.stage2.mix: {{passages: {{ratio: 1}}}}}}
seeds: [0, 1]
"""


def keys(of: list[Cell]) -> set[str]:
    return {node.key for cell in of for node in cell.nodes}


def find(of: list[Cell], arm: str, seed: int = 0) -> Cell:
    (cell,) = (cell for cell in of if (cell.arm, cell.recipe.seed) == (arm, seed))
    return cell


@cache
def shipped(name: str, profile: str | None = None) -> list[Cell]:
    """The cells of a file of recipes/, as a plan makes them on a machine that has no data."""
    with chdir(ROOT):
        return load_sweep(f"recipes/{name}.yaml", profile)[1]
