"""The toolkit from Python: the README's example, the frame of all answers, sweeps."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

import remix_toolkit
from remix_toolkit import load_recipe, results, run, sweep
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph.lineage import lineage
from remix_toolkit.recipe import load
from remix_toolkit.report.frame import load as load_frame

TINY = {"global_batch_size": 8, "train.max_steps": 2, "train.save_strategy": "no", "evaluate.text": "text.txt"}
COLUMNS = ["recipe", "arm", "profile", "seed", "run", "settings", "stage", "key", "task", "list"]
COLUMNS += ["fact", "correct", "prediction", "gold"]

SWEEP = """
recipe: facts.yaml
arms:
  none: {}
  slower: {stages.stage2.train.learning_rate: 1e-5}
"""


@pytest.fixture
def folder(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: it holds runs/ with the tiny base, and a text for the perplexity."""
    (runs.parent / "text.txt").write_text("word " * 50)
    monkeypatch.chdir(runs.parent)
    return runs.parent


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, remix_toolkit; print(remix_toolkit.__version__, remix_toolkit.__all__, *sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "pydantic", "pandas", "yaml", "typer"} & set(printed.split())
    with pytest.raises(AttributeError, match="nonesuch"):
        remix_toolkit.nonesuch  # noqa: B018


def test_the_example_in_the_readme(folder: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "load_recipe" in block)
    names: dict[str, object] = {}
    assert example.count("settings = {") == 1
    exec(example.replace("settings = {", 'settings = {"evaluate.text": "text.txt", '), names)  # a short text: quicker
    frame = names["frame"]
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == COLUMNS
    (published,) = names["folders"].values()
    assert published.is_dir()


def test_a_sweep_and_the_frame_of_its_answers(folder: Path, write_sweep) -> None:
    file = write_sweep(SWEEP, "two.yaml")
    with pytest.raises(BadInput, match="stage1, stage2"):
        sweep(file, settings=TINY, keep=["stage3"])
    folders = sweep(file, settings=TINY, seeds=[1], keep=["stage2"])
    assert set(folders) == {("none", 1), ("slower", 1)}
    assert folders["none", 1]["stage1"] == folders["slower", 1]["stage1"]
    assert folders["none", 1]["stage2"] != folders["slower", 1]["stage2"]
    assert (folders["none", 1]["stage2"] / "model.safetensors").exists()
    assert not (folders["none", 1]["stage1"] / "model.safetensors").exists()

    frame = results()
    assert list(frame.columns) == COLUMNS
    assert frame.correct.dtype == bool
    assert not frame.duplicated(["arm", "seed", "stage", "list", "fact"]).any()
    recall = 100 * frame.groupby(["run", "arm", "key", "list"]).correct.mean()
    measured = load_frame(Path("runs")).measured
    assert len(recall) == len(measured)
    for row in measured.itertuples():
        assert recall[row.run, row.arm, row.key, row.list] == pytest.approx(row.recall)
    gold = frame.gold.map(tuple).groupby([frame.list, frame.fact]).nunique()
    assert set(gold) == {1}, "a list and an index are one fact, whoever was asked"
    settings = {arm: json.loads(texts.iloc[0]) for arm, texts in frame.settings.groupby(frame.arm)}
    assert settings["slower"]["stages.stage2.train.learning_rate"] == 1e-5
    assert settings["none"].items() <= settings["slower"].items()


def test_an_empty_store_has_an_empty_frame(tmp_path: Path) -> None:
    frame = results(tmp_path / "runs")
    assert (list(frame.columns), len(frame)) == (COLUMNS, 0)


def test_settings_are_the_command_lines_overrides(folder: Path) -> None:
    resolved = load_recipe("kvr", settings={"stages.stage1.data.size": 50, "train.weight_decay": 0.1}, seed=3)
    same = load.load_recipe("kvr", overrides=["stages.stage1.data.size=50", "train.weight_decay=0.1"], seed=3)
    assert resolved == same
    assert [node.key for node in lineage(resolved)] == [node.key for node in lineage(same)]
    with pytest.raises(BadInput, match=r"stages\.stage1\.data\.sise.*size"):
        load_recipe("kvr", settings={"stages.stage1.data.sise": 50})
    with pytest.raises(BadInput, match="'kvr'"):
        load_recipe("kvrr")


def test_a_failed_stage_is_raised(folder: Path) -> None:
    with pytest.raises(RunFailed, match="loss"):
        run(load_recipe("kvr", settings=TINY | {"train.max_steps": 6, "train.learning_rate": 1e30}), stage="stage1")
