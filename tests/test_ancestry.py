"""Stages of one key and other bits: their children are not compared fact by fact."""

from pathlib import Path

import pytest
from conftest import SMALL

from remix_toolkit.data.files import sha256
from remix_toolkit.graph.parent_weights import lineage_weights, retrained_ancestor
from remix_toolkit.records import StageRecord

FAST = [*SMALL, "train.save_strategy=no"]
MIX = "stages.stage2.mix={passages: {ratio: 1}}"


@pytest.fixture
def two_arms(here, runs: Path) -> tuple[Path, Path]:
    """Two second stages that start from one first stage."""
    here("run", "kvr", "--runs", runs, *FAST)
    here("run", "kvr", "--runs", runs, *FAST, MIX)
    one, other = sorted((runs / "stages").glob("*-stage2-*"), key=lambda folder: folder.stat().st_mtime)
    return one, other


def test_a_stage_records_the_weights_that_it_started_from(two_arms, runs: Path, here) -> None:
    one, other = two_arms
    (first,) = (runs / "stages").glob("*-stage1-*")
    record = StageRecord.read(one / "stage.json")
    assert record.parent_weights == {"model.safetensors": sha256(first / "model.safetensors")}
    assert StageRecord.read(first / "stage.json").parent_weights is None
    assert lineage_weights(one).keys() == {*record.ancestors, record.key}
    assert retrained_ancestor(one, other) is None
    assert retrained_ancestor(first, one) is None
    same = here("compare", one, other, "--runs", runs).stdout
    assert "recall in percent, on the same facts" in same
    assert "trained again" not in here("show", "--runs", runs, "--seeds").stdout

    # The other one's parent was trained again before it, to other bits.
    text = (other / "stage.json").read_text(encoding="utf-8")
    checksum = record.parent_weights["model.safetensors"]
    (other / "stage.json").write_text(text.replace(checksum, checksum[::-1]), encoding="utf-8")
    key = record.ancestors[0]
    assert retrained_ancestor(one, other) == retrained_ancestor(first, other) == key
    refused = here("compare", one, other, "--runs", runs).stdout
    assert "recall in percent, on the same facts" not in refused
    assert f"facts are not compared: the stage {key}" in " ".join(refused.split())
    shown = " ".join(here("show", "--runs", runs, "--seeds").stdout.split())
    assert f"the stage {key}, from which both descend, was trained again" in shown
    assert "0 -> 1" not in shown
    probed = here("run", "kvr", "--runs", runs, *FAST, MIX, "stages.stage2.probe=[interference]", check=False)
    assert (probed.returncode, "trained again" in probed.stderr) == (1, True)  # it would compare strangers
    assert not (other / "interference.json").exists()
