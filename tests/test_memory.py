"""The estimate of a device's memory against what a real layer keeps, and what is said where it does not fit."""

import json
import shlex
import sys
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, SMALL
from sweeps import NOWHERE
from transformers import LlamaConfig, LlamaForCausalLM

from remix_toolkit import store
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph import fitting, memory
from remix_toolkit.graph.lineage import lineage
from remix_toolkit.graph.plan import plan
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.recipe.load import load_base, load_recipe, profile_names
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.stage import run, train
from remix_toolkit.stage.prepare import prepare
from remix_toolkit.stage.run import run_stage
from remix_toolkit.store import base_model

sys.path.insert(0, str(ROOT / "benchmarks"))
import tracker

LENGTH, BATCH = 128, 4
MIXED = "stages.stage2.mix={random_words: {ratio: 2}}"
PROBED = "stages.stage2.probe=[interference]"
HEADS = {"smollm2": 64}  # the size of a head, where it is not 128


@pytest.mark.parametrize("profile", sorted(profile_names()))
def test_a_profile_has_as_many_parameters_as_a_model_of_its_shape(profile: str, tiny_base: Path) -> None:
    base = load_base(profile)
    config = LlamaConfig.from_pretrained(tiny_base)
    if shape := base.shape:
        config = LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.hidden // HEADS.get(profile, 128),
            num_key_value_heads=shape.key_value // HEADS.get(profile, 128),
            tie_word_embeddings=profile == "smollm2",
        )
    with torch.device("meta"):
        assert LlamaForCausalLM(config).num_parameters() == pytest.approx(base.parameters, rel=1e-3)


def test_a_tiny_model_of_another_size(tmp_path: Path) -> None:
    small = load_recipe("kvr", "tiny", ["base=tiny-16x1"])
    source, _ = base_model(small, tmp_path)
    model = LlamaForCausalLM.from_pretrained(source)
    assert (model.num_parameters(), model.config.hidden_size) == (small.parameters, 16)
    assert model.lm_head.weight.std().item() == pytest.approx(0.25, rel=0.02)  # 1 / sqrt(16)
    others = [
        lineage(load_recipe("kvr", "tiny", [f"base={base}"]))[0].key for base in ("tiny", "tiny-16x2", "tiny-24x1")
    ]
    assert len({lineage(small)[0].key, *others}) == 4
    for name in ("tiny-100x1", "tiny-128x0", "tiny-0x1", "tiny-4096x1"):
        with pytest.raises(BadInput, match=f"base: {name}: is no size of the tiny model; tiny-HIDDENxLAYERS"):
            load_recipe("kvr", "tiny", [f"base={name}"])


def kept_bytes(layers: int, dtype: torch.dtype) -> int:
    """What autograd keeps of one forward pass through a small Llama of `layers` layers, weights not counted."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=896,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).to(dtype)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(input_ids=torch.randint(0, 512, (BATCH, LENGTH)), use_cache=False).logits.sum()
    return sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "pure_bf16"])
def test_a_layer_keeps_what_is_estimated(precision: str) -> None:
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    real = (kept_bytes(3, dtype) - kept_bytes(1, dtype)) / 2
    base = load_base("tiny")
    shape = {"layers": 1, "hidden": 256, "intermediate": 896, "key_value": 64, "vocabulary": 512}
    recipe = Recipe.model_validate(
        {**base.model_dump(), "shape": shape, "precision": precision, "global_batch_size": BATCH}
    )
    taller = recipe.model_copy(update={"shape": recipe.shape and recipe.shape.model_copy(update={"layers": 2})})
    one, two = (memory.estimate(each, "stage1", LENGTH) for each in (recipe, taller))
    assert one
    assert two
    assert two.activations - one.activations == pytest.approx(real, rel=0.2)


def planned(profile: str, *overrides: str) -> dict:
    """What the plan of kvr's stages says of memory."""
    cells = load_sweep(str(ROOT / "recipes" / "kvr.yaml"), profile, overrides=list(overrides))[1]
    return plan(cells, "all", NOWHERE)["memory"]


def test_an_8b_model_on_four_and_two_gpus() -> None:
    """fp32 weights, gradients and Adam's moments are 16 bytes a weight, a share of them on each device."""
    with chdir(ROOT):
        four = planned("llama3-8b")
        two = planned("llama3-8b", "accelerate_config=accelerate_configs/fsdp_2gpu.yaml")
        pure = planned("llama3-8b", "accelerate_config=accelerate_configs/fsdp_2gpu.yaml", "precision=pure_bf16")
    states = {name: four["parts"][name] for name in ("gradients", "optimizer")}
    assert states == {"gradients": pytest.approx(4 * 8.03e9 / 4), "optimizer": pytest.approx(8 * 8.03e9 / 4)}
    assert (four["fits"], four["activation_checkpointing"]) == (True, False)
    assert two["bytes"] > 64e9
    assert pure["parts"]["optimizer"] == pytest.approx(4 * 8.03e9 / 2)
    assert (pure["fits"], pure["precision"]) == (True, "pure_bf16")


def test_estimates_are_near_what_torchs_memory_tracker_counts() -> None:
    """At real shapes, with fake tensors: docs/performance.md has the table, and a count takes minutes."""
    rows = json.loads(tracker.KEPT.read_text(encoding="utf-8"))["tracker"]["rows"]
    assert rows.keys() == tracker.ROWS.keys()
    for name, row in rows.items():
        estimated = tracker.estimate(tracker.ROWS[name]).total(tracker.ROWS[name].checkpointing)
        assert estimated == row["estimated"], f'run: python benchmarks/all.py tracker --only "{name}"'
        assert estimated == pytest.approx(row["counted"], rel=tracker.BOUND), name


def test_gradients_stay_sharded_between_the_batches_of_a_step(monkeypatch, tmp_path: Path) -> None:
    """accelerate's default keeps the whole gradient on every device until the last batch."""
    recipe = load_recipe(str(ROOT / "recipes" / "kvr.yaml"), overrides=SMALL)
    args = train.sft_config(recipe, recipe.stages["stage1"], tmp_path, 1)
    assert args.accelerator_config.gradient_accumulation_kwargs is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "false")  # put back afterwards
    args = train.sft_config(recipe, recipe.stages["stage1"], tmp_path, 1)
    assert args.accelerator_config.gradient_accumulation_kwargs == {"sync_each_batch": True}


def test_what_an_adapter_leaves_frozen_takes_two_bytes_a_weight() -> None:
    """And half a byte and its scales if it is quantized; without FSDP, on one GPU."""
    alone = ["accelerate_config=null", "adapter={r: 16}"]
    with chdir(ROOT):
        plans = {precision: planned("llama3-8b", f"precision={precision}", *alone) for precision in ("bf16", "fp32")}
        in_4_bits = planned("llama3-8b-24gb", "accelerate_config=null")
    adapter = plans["fp32"]["parts"]["gradients"]  # in fp32
    assert plans["bf16"]["parts"]["gradients"] == adapter == pytest.approx(4 * 42e6, rel=0.01)
    assert plans["bf16"]["parts"]["weights"] == pytest.approx(2 * 8.03e9 + 1.5 * adapter)
    assert plans["fp32"]["parts"]["weights"] == pytest.approx(4 * 8.03e9 + adapter)
    assert plans["bf16"]["summary"].endswith("; trained in fp32, frozen in bf16")
    assert in_4_bits["summary"].endswith("; trained in fp32, frozen in 4 bits, the rest in bf16")
    assert in_4_bits["fits"]


def test_the_plan_says_what_measuring_takes() -> None:
    """Scoring: a model in bf16 and a few GB; interference: 32 GB of gradients at a time, not 24 copies of the model."""

    def measuring(*overrides: str) -> dict:
        cells = load_sweep(str(ROOT / "recipes" / "kvr.yaml"), "llama3-8b", overrides=list(overrides))[1]
        return plan(cells, "all", NOWHERE)["measuring"]

    with chdir(ROOT):
        scoring, probed = measuring(), measuring(PROBED, MIXED)
        small_card = measuring(PROBED, "device_gb=24")
    assert 16.06e9 < scoring["device_bytes"] < 22e9
    assert (scoring["host_bytes"], scoring["gradient_passes"], scoring["fits"]) == (0, 0, True)
    assert probed["gradient_passes"] == 14
    assert 46e9 < probed["host_bytes"] < (16.06 + 32) * 1e9
    assert probed["summary"].endswith("; interference: 47.0 GB of the machine's memory, 14 passes over the data")
    assert (probed["fits"], small_card["fits"], small_card["gradient_passes"]) == (True, False, 10)


def test_the_plan_counts_each_pass_of_interference() -> None:
    """Forward and back to the activations 14 times, to the weights once, over the facts of both stages."""
    with chdir(ROOT):
        cells = [load_sweep("kvr", "llama3-8b", overrides=more)[1] for more in ([], [PROBED])]
        plain, probed = (plan(each, "all", NOWHERE) for each in cells)
    facts = sum(job["tokens"] / 20 for job in plain["order"] if job["kind"] == "train")
    operations = 8.03e9 * (4 * probed["measuring"]["gradient_passes"] + 2) * facts
    assert probed["flops"] - plain["flops"] == pytest.approx(operations, rel=0.02)
    hours = probed["gpu_hours_of"]["asking"] - plain["gpu_hours_of"]["asking"]
    assert hours == pytest.approx(operations / (0.4 * 989e12) / 3600, rel=0.02)


def test_what_would_fit_where_a_stage_does_not() -> None:
    """In the plan of a card that is only pretended; each setting is tried as it is printed."""
    with chdir(ROOT):
        assert planned("llama3-8b")["misfit"] is None
        on_24_gb = planned("llama3-8b", "device_gb=24", "accelerate_config=null")
        assert not on_24_gb["fits"]
        problem, *lines = on_24_gb["misfit"].splitlines()
        assert " do not fit into a device of 24.0 GB with 10% left free; by the same estimate, each of " in problem
        *settings, sharded = map(str.strip, lines)
        assert settings == ["'adapter={r: 16}'", "'adapter={r: 16}' 'quantization={load_in_4bit: true}'"]
        assert sharded == "FSDP over 8 GPUs (accelerate_config)"
        for setting in settings:
            assert planned("llama3-8b", "device_gb=24", "accelerate_config=null", *shlex.split(setting))["fits"]
        at_once = ["device_gb=20", "accelerate_config=null", "adapter={r: 16}", "train.activation_checkpointing=false"]
        smaller = planned("llama3-8b", *at_once)["misfit"].splitlines()[1].strip()
        assert smaller == "train.per_device_train_batch_size=2"
        assert planned("llama3-8b", *at_once, smaller)["fits"]
        _, _, neither = planned("llama3-8b", "device_gb=4")["misfit"].partition(", and ")
        assert neither.startswith("neither would any of these that the recipe can have: a smaller batch, pure_bf16, ")


def test_nothing_that_is_for_one_process_is_said_to_fit_under_fsdp() -> None:
    """Where any stage has such a key, launch_of refuses FSDP: the last one has OSF for its first stage alone."""
    osf = "adapter={peft_type: OSF}"
    only_first = [osf, "stages.stage2.adapter={r: 16}"]
    with chdir(ROOT):
        for more in (["stages.stage1.l2={weight: 1}"], [osf], [f"stages.stage2.{osf}"], only_first):
            cells = load_sweep("kvr", "llama3-8b", overrides=["accelerate_config=null", *more])[1]
            for stage in ("stage1", "stage2"):
                assert not any("FSDP" in each for each in fitting.settings_that_fit(cells[0].recipe, stage, 64, 80e9))


def test_no_optimizer_of_bitsandbytes_is_named_under_fsdp() -> None:
    """It reads sharded weights as if they were whole: bitsandbytes' issue 1633."""

    def settings(*more: str) -> list[str]:
        recipe = load_sweep("kvr", "llama3-8b", overrides=more)[1][0].recipe
        return fitting.settings_that_fit(recipe, "stage1", 64, 80e9)

    with chdir(ROOT):
        assert "train.optim=adamw_8bit" in settings("accelerate_config=null", "precision=pure_bf16")
        assert not any("8bit" in each for each in settings("accelerate_config=accelerate_configs/fsdp_4gpu.yaml"))
        assert not any("FSDP" in each for each in settings("accelerate_config=null", "train.optim=adamw_8bit"))
    needed = memory.Memory(20e9, 8e9, 16e9, 40e9, 4e9, accumulates=True)
    assert "8bit" in memory.advice(needed, checkpointing=False, per_device=8, sharded=False)
    assert "8bit" not in memory.advice(needed, checkpointing=False, per_device=8, sharded=True)


def test_a_stage_that_does_not_fit_says_so_before_it_trains(monkeypatch, capsys) -> None:
    recipe = load_recipe("kvr", "llama3-8b", ["accelerate_config=null"])
    prepared = SimpleNamespace(
        recipe=recipe,
        stage=recipe.stages["stage1"],
        node=SimpleNamespace(stage="stage1"),
        data=SimpleNamespace(counts=SimpleNamespace(longest=40)),
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: SimpleNamespace(total_memory=80e9))
    estimate, checkpointing = run._plan_memory(prepared)
    assert estimate
    assert checkpointing
    assert "warning: stage1: about 145.1 GB of memory do not fit" in (shown := capsys.readouterr().err)
    assert "  precision=pure_bf16\n" in shown
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: SimpleNamespace(total_memory=200e9))
    assert not run._plan_memory(prepared)[1]
    assert not capsys.readouterr().err


def test_what_helps_where_memory_ran_out() -> None:
    needed = memory.Memory(20e9, 8e9, 16e9, 40e9, 4e9, accumulates=True)
    said = memory.advice(needed, checkpointing=False, per_device=8, sharded=False)
    first, *_ = [line for line in said.splitlines() if line.startswith("  ")]
    assert "activation_checkpointing=true" in first
    assert "about 84.0 GB: weights 20.0, optimizer 16.0, activations 40.0 and gradients 8.0" in said
    assert "activation_checkpointing" not in memory.advice(needed, checkpointing=True, per_device=1, sharded=False)
    assert "estimate" not in memory.advice(None, checkpointing=False, per_device=8, sharded=False)
    assert memory.needs_checkpointing(needed, 80e9)
    assert not memory.needs_checkpointing(needed, 100e9)
    at_once = replace(needed, accumulates=False)  # gradients come as activations go
    assert memory.describe(at_once, checkpointing=False).startswith("about 76.0 GB")
    assert memory.describe(at_once, checkpointing=True).endswith("activations 4.0 or, later, gradients 8.0")
    assert not memory.needs_checkpointing(at_once, 85e9)
    assert memory.needs_checkpointing(None, 80e9)  # nothing is known: rather slow than out of memory


def test_out_of_memory_is_a_failed_run_that_says_what_helps(runs: Path, monkeypatch) -> None:
    recipe = load_recipe(str(ROOT / "recipes" / "kvr.yaml"), overrides=SMALL)
    node = lineage(recipe)[0]

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train.StageTrainer, "training_step", full)
    store.open_store(runs)
    with pytest.raises(RunFailed, match=r"stage1: out of memory on the device\.(.|\n)*per_device_train_batch_size=4"):
        run_stage(*prepare(recipe, [node], runs))
