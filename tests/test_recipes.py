"""Every sweep that is shipped, on `tiny`: each task and each arm once, 8 rows a task, through to the last recall."""

import gc
from pathlib import Path

import pytest
from conftest import ROOT

from remix_toolkit import store
from remix_toolkit.data.tulu import load_tokenizer
from remix_toolkit.evaluate.measurements import measured
from remix_toolkit.evaluate.recall import percent, recall
from remix_toolkit.evaluate.records import RecallRecord
from remix_toolkit.graph.jobs import graph
from remix_toolkit.graph.lineage import labels
from remix_toolkit.graph.sweep import Cell, load_sweep
from remix_toolkit.launch.job import task_of
from remix_toolkit.launch.state import Command
from remix_toolkit.launch.worker import do
from remix_toolkit.stage.data import build_all
from remix_toolkit.stage.train import load_model

SWEEPS = sorted([*(ROOT / "recipes" / "paper").glob("*.yaml"), *(ROOT / "recipes" / "ablations").glob("*.yaml")])


def small(sweep: Path, text: Path) -> list[Cell]:
    """The sweep's cells under one seed: 8 rows of each task, few steps, and the perplexity of little text."""
    recipe = load_sweep(str(sweep), "tiny")[1][0].recipe
    settings = ["global_batch_size=8", "train.max_steps=4", "train.save_strategy=no", "train.learning_rate=2e-3"]
    settings += [f"evaluate.text={text}"]
    settings += [f"stages.{stage}.data.size=8" for stage in recipe.stages]
    if recipe.base_stage:  # it is asked about facts beyond those that it was taught, and knows these
        settings += [f"stages.{recipe.base_stage}.train.max_steps=40"]
        settings += ["stages.stage2.recall=[{task: invented_facts, familiarity: familiar, prompt: few_shot, size: 2}]"]
    return load_sweep(str(sweep), "tiny", [0], settings)[1]


def each_once(cells: list[Cell]) -> list[Cell]:
    """As few of the cells as hold every task (at its stage) and every arm."""
    chosen: list[Cell] = []
    seen: set[object] = set()
    for cell in cells:
        arm = cell.arm.removeprefix(cell.place)
        tasks = {(name, str(stage.data)) for name, stage in cell.recipe.stages.items()}
        if not {arm, *tasks} <= seen:
            chosen.append(cell)
            seen |= {arm, *tasks}
    return chosen


def test_every_task_and_every_arm_of_every_sweep(subtests, runs: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    text = tmp_path / "text.txt"
    text.write_text("word " * 50)
    store.open_store(runs)
    gc.freeze()  # as a sweep's worker does: each stage has the garbage looked for several times
    for sweep in SWEEPS:
        with subtests.test(sweep=f"{sweep.parent.name}/{sweep.stem}"):
            cells = each_once(small(sweep, text))
            jobs = graph(cells)
            id_ = Command(str(sweep), "tiny", [0], []).id
            for key in jobs:
                how, said = do(task_of(key, jobs, set(jobs), id_, runs, wait=False), runs)
                assert how == "done", said
            for cell in cells:
                last = store.find_stage(runs, cell.nodes[-1].key)
                assert last
                wanted = labels(cell.recipe, cell.nodes[-1].position)
                assert wanted
                assert wanted.keys() <= measured(last)


def test_recall_changes_when_the_weights_change(runs: Path, tiny_base: Path, monkeypatch) -> None:
    """The same facts: the base model knows none of them, the stage all, and half of each other's weights neither."""
    monkeypatch.chdir(ROOT)
    store.open_store(runs)
    longer = ["global_batch_size=8", "stages.stage1.data.size=8", "train.learning_rate=2e-3", "train.max_steps=40"]
    cell = load_sweep(str(ROOT / "recipes" / "paper" / "table1.yaml"), "tiny", [0], longer)[1][0]
    jobs = graph([cell])
    first = cell.nodes[0]
    assert do(task_of(first.key, jobs, set(jobs), "test", runs, wait=False), runs)[0] == "done"
    folder = store.find_stage(runs, first.key)
    assert folder
    tokenizer = load_tokenizer(str(folder))
    facts = build_all(cell.recipe, ["stage1"], tokenizer, runs)["stage1"].facts
    trained, base = (load_model(str(source), None, "fp32", {}) for source in (folder, tiny_base))
    (recorded,) = RecallRecord.read(folder / "recall.json").lists.values()
    assert percent(recall(trained, tokenizer, facts)) == recorded.recall == 100.0
    assert percent(recall(base, tokenizer, facts)) == 0.0
    for weight, other in zip(trained.parameters(), base.parameters(), strict=True):
        weight.data.lerp_(other.data, 0.7)
    assert percent(recall(trained, tokenizer, facts)) < 100.0


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_sweep_opens_with_what_it_is_and_how_it_is_run(sweep: Path) -> None:
    opening = sweep.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    assert opening[0].startswith("# ")
    assert any(
        f"remix sweep {sweep.parent.name}/{sweep.stem}" in line or "make ablation" in line for line in opening
    ) or any(f"remix sweep recipes/{sweep.parent.name}/{sweep.name}" in line for line in opening)
