"""What tests of sweeps share: sweeps to look at, those that are shipped, stages on disk that nobody trained."""

import sys
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from forged import recall_record, stage_record

from remix_toolkit import store
from remix_toolkit.cli.main import main
from remix_toolkit.evaluate.records import PerplexityRecord
from remix_toolkit.graph.jobs import Job
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


def command(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: object) -> tuple[int, str, str]:
    """Run the command in this process, for speed: exit code, stdout, stderr."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["remix", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def publish(
    runs: Path, job: Job, pruned: bool = False, measured: set[str] | None = None, sweep: str | None = None
) -> Path:
    """Publish the stage of a train or measure job as training does, with as much in it as is looked at here.

    If it is there, it is measured anew: by default, all that a measure job asks for, and nothing for a train job.
    """
    assert job.node
    ids = job.requested if measured is None else measured
    folder = runs / "stages" / f"mine-{job.name}-seed0-{job.node.key}"
    if not folder.exists():
        draft = store.work_dir(store.open_store(runs), job.node.key) / "draft"
        draft.mkdir(parents=True)
        (draft / "model.safetensors").write_bytes(b"weights")
        stage_record(job.name, job.node.key, sweep=sweep).write(draft / "stage.json")
        store.publish(runs, draft, folder.name)
    recall_record({id_: [1] for id_ in ids if not id_.startswith("perplexity")}).write(folder / "recall.json")
    if any(id_.startswith("perplexity") for id_ in ids):
        PerplexityRecord(perplexity=9.0, tokens=9, text="docstrings").write(folder / "perplexity.json")
    if pruned and not store.is_pruned(folder):
        store.delete_weights(folder)
    return folder
