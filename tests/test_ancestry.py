"""Stages of one key and other bits: their children are not compared fact by fact."""

import shutil
from pathlib import Path

from remix_toolkit import store
from remix_toolkit.data.files import sha256
from remix_toolkit.graph.retrained import lineage_weights, retrained_ancestor
from remix_toolkit.records import StageRecord

MIX = "stages.stage2.mix={passages: {ratio: 1}}"


def other_parent(folder: Path) -> None:
    """As if its parent had been trained again before it, to other bits."""
    record = StageRecord.read(folder / "stage.json")
    (checksum,) = (record.parent_weights or {}).values()
    record.model_copy(update={"parent_weights": {"model.safetensors": checksum[::-1]}}).write(folder / "stage.json")
    store.seal(folder)


def test_a_stage_records_the_weights_that_it_started_from(trained, here, tmp_path: Path) -> None:
    first, second = trained.stages
    record = StageRecord.read(second / "stage.json")
    assert record.parent_weights == {"model.safetensors": sha256(first / "model.safetensors")}
    assert StageRecord.read(first / "stage.json").parent_weights is None
    assert lineage_weights(second).keys() == {*record.ancestors, record.key}
    copy = shutil.copytree(trained.folder, tmp_path / "copy")
    (stage,) = (copy / "runs" / "stages").glob("*-stage2-*")
    (stage / "interference.json").unlink()
    other_parent(stage)
    probed = here("run", "trained", check=False, folder=copy)
    assert (probed.returncode, "trained again" in probed.stderr) == (1, True)  # it would compare strangers
    assert not (stage / "interference.json").exists()


def test_children_of_other_weights_are_not_compared(trained, here, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first, one = trained.run(runs)
    _, other = trained.run(runs, MIX)
    assert retrained_ancestor(lineage_weights(one), lineage_weights(other)) is None
    assert retrained_ancestor(lineage_weights(first), lineage_weights(one)) is None
    assert "recall in percent, on the same facts" in here("compare", one, other, "--runs", runs).stdout
    assert "trained again" not in here("show", "--runs", runs, "--seeds").stdout
    other_parent(other)
    (key,) = StageRecord.read(one / "stage.json").ancestors
    assert (
        retrained_ancestor(lineage_weights(one), lineage_weights(other))
        == retrained_ancestor(lineage_weights(first), lineage_weights(other))
        == key
    )
    refused = here("compare", one, other, "--runs", runs).stdout
    assert "recall in percent, on the same facts" not in refused
    assert f"facts are not compared: the stage {key}" in " ".join(refused.split())
    shown = " ".join(here("show", "--runs", runs, "--seeds").stdout.split())
    assert f"the stage {key}, from which both descend, was trained again" in shown
    assert "0 -> 1" not in shown
