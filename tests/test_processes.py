"""A stage in two processes on CPUs: FSDP2 over gloo and DDP, against one process on the same global batches."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import ROOT, SMALL
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.utils._pytree import keystr, tree_flatten_with_path
from transformers import AutoConfig, AutoModelForCausalLM

from remix_toolkit import store
from remix_toolkit.data.files import sha256
from remix_toolkit.disk import file_lock
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.graph.lineage import lineage
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.records import StageRecord

pytestmark = pytest.mark.slow

DDP = {"ACCELERATE_USE_CPU": "true"}
FSDP = {
    **DDP,
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}
LORA = ["adapter={r: 4}", "train.learning_rate=1e-2", "stages.stage1.stop={loss_below: 100, times: 3}"]
LONGER = [*SMALL, "global_batch_size=6", "stages.stage1.train.num_train_epochs=10", "train.save_steps=2"]  # 20 steps
DROPOUT = [*SMALL, "adapter={r: 4, lora_dropout: 0.3}", "checkpoint_minutes=1e-9"]  # 4 steps, a checkpoint at each


def case(stage: str, runs: Path, how: dict[str, str], *overrides: str, **more: object) -> dict:
    arguments = ["kvr", "--stage", stage, "--runs", str(runs), *overrides]
    return {"arguments": arguments, "environment": how, **more}


def launch(cases: list[dict], folder: Path, processes: int = 2) -> subprocess.Popen:
    """Processes, all at one case after the other."""
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    line += ["tests/cpu_fsdp.py", str(folder / "cases.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = (folder / "out.txt").open("a", encoding="utf-8")
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)


def run(cases: list[dict], folder: Path, processes: int = 2) -> list[str]:
    """Run the cases; what the failed ones said."""
    assert launch(cases, folder, processes).wait(timeout=900) == 0, (folder / "out.txt").read_text(encoding="utf-8")
    said: list[str] = json.loads((folder / "cases.json.failed").read_text(encoding="utf-8"))
    return said


def folder_of(runs: Path, stage: str) -> Path:
    (found,) = (runs / "stages").glob(f"*-{stage}-*")
    return found


def result(runs: Path, stage: str) -> dict:
    return StageRecord.read(folder_of(runs, stage) / "stage.json").model_dump()


def recalls(runs: Path, stage: str) -> dict[str, dict]:
    return {id_: one.model_dump() for id_, one in Recall().read(folder_of(runs, stage)).items()}


def losses(runs: Path, stage: str) -> list[float]:
    lines = (folder_of(runs, stage) / "loss.csv").read_text(encoding="utf-8").splitlines()
    return [float(line.split(",")[2]) for line in lines[1:]]


def difference(one: Path, other: Path, stage: str) -> float:
    """The largest one between the weights that two stores have of a stage."""
    a, b = (load_file(folder_of(runs, stage) / "model.safetensors") for runs in (one, other))
    assert a.keys() == b.keys()
    return max((a[name].float() - b[name].float()).abs().max().item() for name in a)


@pytest.fixture
def tied(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny base with its embeddings tied, and with more rows in them than its tokenizer has tokens."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_base, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config)
    model.resize_token_embeddings(1030)
    model.save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    for file in tiny_base.glob("token*"):
        (tmp_path / "tied" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "tied"


@pytest.fixture
def stores(tiny_base: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes stores that have the tiny base, by their names."""

    def store_named(name: str) -> Path:
        bases = tmp_path / name / "bases"
        if not bases.exists():
            bases.mkdir(parents=True)
            (bases / tiny_base.name).symlink_to(tiny_base)
        return tmp_path / name

    return store_named


def test_two_processes_train_what_one_does(here, stores, tiny_base: Path, tmp_path: Path, subtests) -> None:
    curve = "stages.stage2.curve={epochs: 1}"
    replay = "stages.stage2.mix={replay: {stage: stage1, ratio: 0.5, redraw: true}}"
    here("run", "kvr", "--runs", stores("one"), *SMALL, curve, replay)
    here("run", "kvr", "--runs", stores("lora"), "--stage", "stage1", *SMALL, *LORA)
    failed = run(
        [
            case("stage1", stores("fsdp"), FSDP, *SMALL),
            case("stage2", stores("fsdp"), FSDP, *SMALL, curve, replay),
            case("stage1", stores("ddp"), DDP, *SMALL),
            case("stage1", stores("fsdp-lora"), FSDP, *SMALL, *LORA, sums=str(tmp_path / "sum")),
            case("stage1", stores("refused"), FSDP, *SMALL, plain=True),
        ],
        tmp_path,
    )

    for how, stage, distributed in (("fsdp", "stage1", "FSDP2"), ("fsdp", "stage2", "FSDP2"), ("ddp", "stage1", "DDP")):
        with subtests.test(how, stage=stage):
            record = result(stores(how), stage)
            assert (record["processes"], record["distributed"]) == (2, distributed)
            assert losses(stores(how), stage) == pytest.approx(losses(stores("one"), stage), abs=1e-5)
            assert difference(stores(how), stores("one"), stage) < 1e-5
            measured = [recalls(stores(name), stage) for name in (how, "one")]
            for one in [*measured[0].values(), *measured[1].values()]:
                del one["settled_by"]  # rounding, which differs, decides what is a near tie
            assert measured[0] == measured[1]
            store.verify(folder_of(stores(how), stage))
    with subtests.test("one process of a machine loads the weights, for all"):
        base = load_file(tiny_base / "model.safetensors")
        sums = [float((tmp_path / f"sum-{rank}").read_text(encoding="utf-8")) for rank in (0, 1)]
        assert sums[0] == pytest.approx(sum(float(weight.abs().sum()) for weight in base.values()), rel=1e-4)
        assert sums[1] != pytest.approx(sums[0], rel=1e-2)
    with subtests.test("retention curve"):
        curves = [(folder_of(stores(name), "stage2") / "retention.jsonl").read_text() for name in ("fsdp", "one")]
        assert curves[0] == curves[1]
        assert len(curves[0].splitlines()) == 3
    with subtests.test("LoRA, and the stop on both processes at one step"):
        two, one = (result(stores(name), "stage1") for name in ("fsdp-lora", "lora"))
        assert (
            (two["steps"], two["stop_fired"], two["distributed"]) == (one["steps"], True, "FSDP2") == (3, True, "FSDP2")
        )
        assert losses(stores("fsdp-lora"), "stage1") == pytest.approx(losses(stores("lora"), "stage1"), abs=1e-5)
        assert difference(stores("fsdp-lora"), stores("lora"), "stage1") < 1e-5
        assert difference(stores("fsdp-lora"), stores("fsdp"), "stage1") > 1e-3  # it was merged
    with subtests.test("what was not asked for is refused"):
        (message,) = failed
        assert (
            "FSDP was asked for, and the weights are not sharded: accelerate started MULTI_CPU on 2 processes"
            in message
        )
        assert not (stores("refused") / "stages").exists() or not list((stores("refused") / "stages").iterdir())


@pytest.mark.faults
def test_two_processes_in_bf16(here, stores, tied: Path, tmp_path: Path, subtests) -> None:
    """Of an adapter and of all weights: as one process trains, to bf16's rounding."""
    lora = [*SMALL, *LORA, "precision=bf16"]
    full = [*SMALL, f"base={tied}", "precision=bf16", "train.activation_checkpointing=true"]
    full += ["stages.stage1.freeze.half=true"]
    here("run", "kvr", "--runs", stores("lora"), "--stage", "stage1", *lora)
    here("run", "kvr", "--runs", stores("tied"), "--stage", "stage1", *full)
    cases = [
        case("stage1", stores(f"fsdp-{name}"), FSDP, *settings) for name, settings in (("lora", lora), ("tied", full))
    ]
    assert run(cases, tmp_path) == []
    with subtests.test("LoRA in fp32 on frozen weights in bf16"):
        two, one = (result(stores(name), "stage1") for name in ("fsdp-lora", "lora"))
        assert (two["distributed"], two["held_in"], one["held_in"]) == (
            "FSDP2",
            *["trained in fp32, frozen in bf16"] * 2,
        )
        assert losses(stores("fsdp-lora"), "stage1") == pytest.approx(losses(stores("lora"), "stage1"), abs=0.02)
    with subtests.test("tied embeddings, a resized vocabulary, activation checkpointing"):
        published = load_file(folder_of(stores("fsdp-tied"), "stage1") / "model.safetensors")
        assert {tensor.dtype for tensor in published.values()} == {torch.bfloat16}
        assert "lm_head.weight" not in published
        assert published["model.embed_tokens.weight"].shape[0] == 1030
        assert losses(stores("fsdp-tied"), "stage1") == pytest.approx(losses(stores("tied"), "stage1"), abs=0.02)
    with subtests.test("half of the matrices, which are frozen"):
        base, one = (load_file(folder / "model.safetensors") for folder in (tied, folder_of(stores("tied"), "stage1")))
        matrices = {name: base[name].bfloat16() for name in base if "_proj" in name}
        stay = [{name for name in matrices if torch.equal(after[name], matrices[name])} for after in (published, one)]
        assert stay[0] == stay[1]
        assert 0.4 * len(matrices) < len(stay[0]) < 0.6 * len(matrices)


@pytest.mark.faults
def test_a_wait_for_another_run_outlasts_the_time_out_of_the_processes(stores, tmp_path: Path) -> None:
    runs = stores("waits")
    store.open_store(runs)
    (node,) = lineage(load_recipe("kvr", "tiny", SMALL), until="stage1")
    with file_lock(store.lock_file(runs, node.key)):
        launcher = launch([case("stage1", runs, DDP, *SMALL, "train.ddp_timeout=5")], tmp_path)
        deadline = time.monotonic() + 300
        while "waiting for it to be published" not in (tmp_path / "out.txt").read_text(encoding="utf-8"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(10)
        assert launcher.poll() is None
    assert launcher.wait(timeout=300) == 0, (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert result(runs, "stage1")["processes"] == 2


def until_a_new_checkpoint(runs: Path, launcher: subprocess.Popen) -> list[psutil.Process]:
    """Wait for one that was not there before; returns the processes at work."""
    complete = lambda: set(runs.glob("work/*/checkpoints/*/manifest.json"))  # noqa: E731
    before, deadline = complete(), time.monotonic() + 300
    while not complete() - before:
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return psutil.Process(launcher.pid).children()


def saved(checkpoint: Path) -> dict[str, Any]:
    """The weights of a sharded checkpoint and its optimizer's state, put together: names and values."""
    found: dict[str, Any] = {}
    for part in ("pytorch_model_fsdp_0", "optimizer_0"):
        dcp_to_torch_save(checkpoint / part, checkpoint / f"{part}.whole")
        content = torch.load(checkpoint / f"{part}.whole", weights_only=True)
        found |= {keystr(path): value for path, value in tree_flatten_with_path(content)[0]}
    return found


@pytest.mark.faults
def test_killed_and_resumed(here, runs: Path, tmp_path: Path, subtests) -> None:
    """Of three processes, the launcher is killed, then a rank of two: the stage goes on from shards to the same end."""

    def copy(name: str) -> Path:
        return shutil.copytree(runs, tmp_path / name)

    def training(place: Path, *overrides: str, **more: object) -> dict:
        return case("stage1", place, FSDP, "--only", "train", *overrides, **more)

    def same_bits(*stores: Path) -> None:
        assert result(stores[0], "stage1")["resumed_from"].startswith("checkpoint-")
        for file in ("model.safetensors", "loss.csv"):
            assert len({sha256(folder_of(place, "stage1") / file) for place in stores}) == 1

    whole, lora, whole_lora = copy("whole"), copy("lora"), copy("whole-lora")
    for processes in (3, 2):
        launcher = launch([training(runs, *LONGER)], tmp_path, processes)
        ranks = until_a_new_checkpoint(runs, launcher)
        assert len(ranks) == processes
        (psutil.Process(launcher.pid) if processes == 3 else ranks[1]).kill()
        assert launcher.wait(timeout=120) != 0
        _, alive = psutil.wait_procs(ranks, timeout=30)
        assert not alive  # nobody is left behind on the devices
        if processes == 3:
            once = copy("once")
            kept = shutil.copytree(next(once.glob("work/*/checkpoints")), tmp_path / "kept")
            damaged = copy("damaged")
            shards = damaged.glob("work/*/checkpoints/*/pytorch_model_fsdp_0/__2_*.distcp")
            for shard in shards:
                content = bytearray(shard.read_bytes())
                content[len(content) // 2] ^= 1
                shard.write_bytes(content)
    with subtests.test("without FSDP"):
        refused = here("run", "kvr", "--runs", once, "--stage", "stage1", *LONGER, check=False)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
        assert ": was written in shards, and this run is not under FSDP" in refused.stderr
    said = run(
        [
            training(runs, *LONGER),
            training(once, *LONGER, loaded=str(tmp_path / "loaded")),
            training(whole, *LONGER),
            training(damaged, *LONGER),
            training(lora, *DROPOUT, dies_at=3),
            training(lora, *DROPOUT),
            training(whole_lora, *DROPOUT, "train.save_strategy=no"),
        ],
        tmp_path,
    )
    assert said == ["as the case says"]
    with subtests.test("a rank of two was killed: bit for bit what it would have been"):
        same_bits(runs, once)
    with subtests.test("a shard of each checkpoint is damaged: the stage is trained anew, and says so"):
        screen = (tmp_path / "out.txt").read_text(encoding="utf-8")
        assert re.search(r"warning: .*pytorch_model_fsdp_0/__2_0\.distcp is not the file .*, or anew\n", screen)
        assert result(damaged, "stage1")["resumed_from"] is None
        assert sha256(folder_of(damaged, "stage1") / "loss.csv") == sha256(folder_of(whole, "stage1") / "loss.csv")
    with subtests.test("LoRA, by time, with the random state of each process: as if it had not been interrupted"):
        same_bits(lora, whole_lora)
    with subtests.test("two processes load what three wrote"):
        loaded, expected = saved(tmp_path / "loaded"), saved(kept / result(once, "stage1")["resumed_from"])
        assert loaded.keys() == expected.keys()
        for name, value in loaded.items():
            assert torch.equal(value, expected[name]) if torch.is_tensor(value) else value == expected[name], name
        assert losses(once, "stage1") == pytest.approx(losses(whole, "stage1"), abs=1e-5)
        assert difference(once, whole, "stage1") < 1e-5
