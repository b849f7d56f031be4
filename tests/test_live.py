"""Recall and retention reach the reporters that `train.report_to` names."""

import pytest

RECIPE = """
train: {num_train_epochs: 2, report_to: tensorboard}
global_batch_size: 8
stages:
  stage1: {data: {task: kvr, size: 16}}
  stage2: {data: {task: invented_facts, size: 16}, curve: {epochs: 1}}
"""


def test_tensorboard_gets_losses_retention_and_recall(here, runs, tmp_path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = tmp_path / "live.yaml"
    recipe.write_text(RECIPE)
    here("run", recipe, "--runs", runs)
    first, second = sorted((runs / "logs").iterdir())
    assert first.name.startswith("live-stage1-seed0-")
    seen = {}
    for folder in (first, second):
        for file in folder.iterdir():
            read = events.EventAccumulator(str(file))
            read.Reload()
            for tag in read.Tags()["scalars"]:
                seen[folder, tag] = [event.step for event in read.Scalars(tag)]
    assert seen[first, "train/loss"] == [1, 2, 3, 4]
    assert seen[first, "eval/recall_kvr"] == [4]
    assert seen[second, "eval/retention_kvr"] == [0, 2, 4]
    assert seen[second, "eval/recall_kvr"] == seen[second, "eval/recall_invented_facts"] == [4]
