"""Every sweep that is shipped, on `tiny`: each task and each kind of arm once, 8 rows a task, to the last recall."""

import gc
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from trained_store import once

from remix_toolkit import store
from remix_toolkit.data.encoding import load_tokenizer
from remix_toolkit.evaluate.recall import Recall, percent, recall
from remix_toolkit.graph.jobs import Job, graph
from remix_toolkit.graph.lineage import fact_lists
from remix_toolkit.graph.sweep import Cell, load_sweep
from remix_toolkit.stage.command import run_key
from remix_toolkit.stage.data import build_all
from remix_toolkit.stage.train import load_model

PAPER, ABLATIONS = (ROOT / "recipes" / folder for folder in ("paper", "ablations"))
SWEEPS = sorted([*PAPER.glob("[ft]*.yaml"), *ABLATIONS.glob("*.yaml")])  # not paper.yaml, the paper's numbers


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
    """As few of the cells as hold every task (at its stage) and every arm, whatever number above 0 is in its name."""
    chosen: list[Cell] = []
    seen: set[object] = set()
    for cell in cells:
        arm = re.sub(r"0?[.1-9][\d.]*", "n", cell.arm.removeprefix(cell.grid_point))
        tasks = {(name, str(stage.data)) for name, stage in cell.recipe.stages.items()}
        if not {arm, *tasks} <= seen:
            chosen.append(cell)
            seen |= {arm, *tasks}
    return chosen


@pytest.fixture(scope="session")
def shared_runs(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """One store for the tests of all processes: a stage that sweeps share is trained by the first that needs it."""

    def make(folder: Path) -> None:
        shutil.copytree(tiny_base, folder / "bases" / tiny_base.name)
        (folder / "text.txt").write_text("word " * 50)
        store.open_store(folder)

    return once(tmp_path_factory.getbasetemp(), "recipes", make)


def run_job(job: Job, runs: Path) -> None:
    """Do one job as a worker does, waiting for another test that is at the same stage."""
    key = job.node.key if job.node else job.key
    for cell in job.cells:
        run_key(cell.recipe, key, runs, None if job.kind == "split" else job.kind)


@pytest.mark.slow
@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_task_and_every_arm_of_a_sweep(shared_runs: Path, monkeypatch, sweep: Path) -> None:
    monkeypatch.chdir(ROOT)
    gc.freeze()  # as a sweep's worker does: each stage has the garbage looked for several times
    cells = each_once(small(sweep, shared_runs / "text.txt"))
    for job in graph(cells).values():
        run_job(job, shared_runs)
    for cell in cells:
        last = store.find_stage(shared_runs, cell.nodes[-1].key)
        assert last
        lists = fact_lists(cell.recipe, cell.nodes[-1].position)
        assert lists
        assert lists.keys() <= Recall().read(last).keys()


def test_recall_changes_when_the_weights_change(runs: Path, tiny_base: Path, monkeypatch) -> None:
    """The same facts: the base model knows none of them, the stage all, and half of each other's weights neither."""
    monkeypatch.chdir(ROOT)
    store.open_store(runs)
    longer = ["global_batch_size=8", "stages.stage1.data.size=8", "train.learning_rate=2e-3", "train.max_steps=40"]
    cell = load_sweep(str(ROOT / "recipes" / "paper" / "table1.yaml"), "tiny", [0], longer)[1][0]
    first = cell.nodes[0]
    run_key(cell.recipe, first.key, runs)
    folder = store.find_stage(runs, first.key)
    assert folder
    tokenizer = load_tokenizer(str(folder))
    facts = build_all(cell.recipe, ["stage1"], tokenizer, runs)["stage1"].facts
    trained, base = (load_model(str(source), None, "fp32", {}) for source in (folder, tiny_base))
    (recorded,) = Recall().read(folder).values()
    assert percent(recall(trained, tokenizer, facts)) == recorded.recall == 100.0
    assert percent(recall(base, tokenizer, facts)) == 0.0
    for weight, other in zip(trained.parameters(), base.parameters(), strict=True):
        weight.data.lerp_(other.data, 0.7)
    assert percent(recall(trained, tokenizer, facts)) < 100.0


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_sweep_opens_with_what_it_is_and_how_it_is_run(sweep: Path) -> None:
    opening = sweep.read_text(encoding="utf-8").split("\n\n")[0]
    assert opening.startswith("# ")
    assert re.search(rf"remix sweep (recipes/)?{sweep.parent.name}/{sweep.stem}|make ablation", opening)
