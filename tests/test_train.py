"""Training: the loss, the order, the stop, checkpoints that are whole or not used."""

from itertools import accumulate, islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from remix_toolkit import store
from remix_toolkit.data import encoding, tasks
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.recipe.load import load_recipe, load_task
from remix_toolkit.recipe.training import Stop
from remix_toolkit.seals import MANIFEST
from remix_toolkit.stage.adapter import merged, quantization
from remix_toolkit.stage.callbacks import EndWithoutSave, SaveByTime, StopBelow
from remix_toolkit.stage.data import NONE_REDRAWN, Redrawn
from remix_toolkit.stage.train import Order, build_trainer, last_checkpoint, load_model, sft_config, tokens_by_step

FACTS = [
    *tasks.load_rows(load_task("kvr", ["size=11"]), 0),
    *tasks.load_rows(load_task("invented_facts", ["size=11"]), 0),
]


def trainer_for(tiny_base: Path, tokenizer, folder: Path, *overrides: str, redrawn: Redrawn = NONE_REDRAWN):
    recipe = load_recipe("kvr", "tiny", ["global_batch_size=8", "train.num_train_epochs=2", *overrides])
    stage = recipe.stages["stage1"].model_copy(update={"train": recipe.train})
    model = load_model(str(tiny_base), None, recipe.loaded_in, quantization(recipe))
    examples = [encoding.encode(tokenizer, fact) for fact in FACTS]
    return build_trainer(recipe, stage, model, tokenizer, examples, sft_config(recipe, stage, folder, 1), redrawn)


def test_the_loss_is_transformers_own(tiny_base, tokenizer, tmp_path) -> None:
    trainer = trainer_for(tiny_base, tokenizer, tmp_path, "train.per_device_train_batch_size=8")
    batch = next(iter(trainer.get_train_dataloader()))
    trained = (batch["labels"][:, 1:] != -100).sum()
    with torch.no_grad():
        reference = trainer.model(**batch).loss
        ours = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=trained)
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("other", [["train.per_device_train_batch_size=2"], ["train.padding_free=true"]])
def test_micro_batches_and_padding_do_not_change_the_trajectory(tiny_base, tokenizer, tmp_path, other) -> None:
    """A step is the global batch, whole: 1 x 8 equals 4 x 2 equals 8 pairs without padding."""
    losses = []
    for number, overrides in enumerate([["train.per_device_train_batch_size=8"], other]):
        trainer = trainer_for(tiny_base, tokenizer, tmp_path / str(number), *overrides)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses[0]) == 4  # 22 examples: two whole batches an epoch, two epochs
    assert not list(tmp_path.rglob("checkpoint-*"))  # it took less than `checkpoint_minutes`
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=2e-4, atol=2e-4)


def test_tokens_are_counted_as_the_trainer_sees_them(tiny_base, tokenizer, tmp_path) -> None:
    trainer = trainer_for(tiny_base, tokenizer, tmp_path, "train.per_device_train_batch_size=8")
    seen = list(accumulate(int((batch["labels"] != -100).sum()) for batch in trainer.get_train_dataloader()))
    recipe, examples = (
        SimpleNamespace(seed=0, global_batch_size=8),
        [encoding.encode(tokenizer, fact) for fact in FACTS],
    )
    assert seen == list(islice(tokens_by_step(recipe, examples), 2))


def test_the_order_is_new_each_epoch_and_keeps_whole_batches() -> None:
    def order(epoch: float, seed: int = 0, at_once: int = 8) -> list[int]:
        args = SimpleNamespace(seed=seed, train_batch_size=at_once)
        sampler = Order(SimpleNamespace(state=SimpleNamespace(epoch=epoch), args=args), range(22), global_batch=8)
        drawn = list(sampler)
        assert len(drawn) == len(sampler) == 16
        assert len(set(drawn)) == 16
        return drawn

    assert order(0) != order(1) != order(2)
    assert order(1.0) == order(1.5)  # a run resumed in the middle of an epoch is in the same order
    assert order(0, seed=0) != order(0, seed=1)
    in_parts = order(0, at_once=2)  # here a row's number is its length
    assert in_parts[:8] == sorted(order(0)[:8], reverse=True)
    assert in_parts[8:] == sorted(order(0)[8:], reverse=True)


def test_facts_of_a_replay_are_drawn_anew_for_each_epoch() -> None:
    """Of 12 facts and a pool of 10, of which an epoch draws 4: two batches of 8, as if the 4 were always the same."""

    def order(epoch: float, seed: int = 0, examples: int = 22, redrawn: tuple[int, int] = (4, 10)) -> list[int]:
        args = SimpleNamespace(seed=seed, train_batch_size=8)
        trainer = SimpleNamespace(state=SimpleNamespace(epoch=epoch), args=args)
        sampler = Order(trainer, range(examples), global_batch=8, redrawn=Redrawn(*redrawn))
        rows = list(sampler)
        assert len(rows) == len(sampler) == 16
        return rows

    drawn = [{row for row in order(epoch) if row >= 12} for epoch in range(20)]
    assert all(len(rows) == 4 and sorted(order(epoch))[:12] == list(range(12)) for epoch, rows in enumerate(drawn))
    assert set().union(*drawn) == set(range(12, 22))  # in the end, every fact
    assert len(set(map(frozenset, drawn))) > 10
    assert order(3.0) == order(3.5)  # a run resumed in the middle of an epoch draws the same
    assert order(0) != order(0, seed=1)
    fixed = order(0, examples=16, redrawn=(0, 0))  # the facts that are always there keep their places
    assert [row if row < 12 else None for row in order(0)] == [row if row < 12 else None for row in fixed]


def test_a_stage_that_redraws_a_replay_resumes_as_if_it_had_not_stopped(tiny_base, tokenizer, tmp_path) -> None:
    def losses(resume: bool = False) -> list[float]:
        trainer = trainer_for(tiny_base, tokenizer, tmp_path, "train.save_steps=3", redrawn=Redrawn(5, 11))
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3") if resume else None)
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    whole = losses()
    assert len(whole) == 4  # 11 facts and 5 of 11: two whole batches an epoch
    assert losses(resume=True) == whole  # from the middle of the second epoch


def test_too_large_a_device_batch_is_refused(tiny_base, tokenizer, tmp_path) -> None:
    with pytest.raises(BadInput, match="global_batch_size 8 is no multiple of per_device_train_batch_size 3 x 1"):
        trainer_for(tiny_base, tokenizer, tmp_path, "train.per_device_train_batch_size=3")


def test_an_adapter_that_lora_refuses(tiny_base, tokenizer, tmp_path) -> None:
    with pytest.raises(BadInput, match="LoraConfig refuses"):
        trainer_for(tiny_base, tokenizer, tmp_path, "adapter={rank: 8}")


@pytest.mark.parametrize(
    "precision", [["precision=bf16"], ["precision=pure_bf16", "quantization={load_in_4bit: true}"]]
)
def test_an_adapter_is_in_fp32_and_what_it_leaves_frozen_is_not(tiny_base, tokenizer, tmp_path, precision) -> None:
    """Also after a resumption, which goes on bit by bit; what is published is the sum of both, rounded once."""
    overrides = [*precision, "adapter={r: 4, target_modules: [up_proj]}", "train.learning_rate=1e-2"]

    def train(resume: bool = False):
        trainer = trainer_for(tiny_base, tokenizer, tmp_path, *overrides, "train.save_steps=3")
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3") if resume else None)
        return trainer.model

    model, resumed = train(), train(resume=True)
    for name, parameter in model.named_parameters():
        assert parameter.dtype in ([torch.float32] if "lora_" in name else [torch.bfloat16, torch.uint8])
        assert parameter.requires_grad == ("lora_" in name)
        again = resumed.get_parameter(name)
        assert (again.dtype, torch.equal(again, parameter)) == (parameter.dtype, True)
    base = load_model(str(tiny_base), None, "bf16", {})
    name = "model.layers.1.mlp.up_proj"
    before = base.get_submodule(name).weight.float()
    layer = model.base_model.model.get_submodule(name)
    added = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert added.abs().max() > 1e-3
    published = merged(base, model, model.state_dict()).get_submodule(name).weight
    assert torch.equal(published, (before + added).bfloat16())


def test_a_model_that_lacks_a_tensor_is_refused(tiny_base, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((tiny_base / name).read_bytes())
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_model(str(tmp_path), None, "fp32", {})
    weights = load_file(tiny_base / "model.safetensors")
    weights.pop("model.layers.3.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match=r"incomplete: its files lack 1 tensors, such as model\.layers\.3"):
        load_model(str(tmp_path), None, "fp32", {})
    (tmp_path / "model.safetensors").write_bytes((tiny_base / "model.safetensors").read_bytes()[:1_000_000])
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_model(str(tmp_path), None, "fp32", {})


def test_the_stop_counts_steps_not_runs_of_steps() -> None:
    """It counts in the trainer's log, which a checkpoint keeps: those before a resumption count as well."""
    stop, state = StopBelow(Stop(loss_below=0.1, times=3)), TrainerState()
    fired = []
    for loss in (0.05, 0.5, 0.01, 0.5, 0.09, 0.01):
        control = SimpleNamespace(should_training_stop=False)
        state.log_history.append({"loss": loss})
        stop.on_log(None, state, control)
        fired.append(control.should_training_stop)
    assert fired == [False, False, False, False, True, True]


def test_a_stop_that_does_not_fire_leaves_max_steps_in_force(tiny_base, tokenizer, tmp_path) -> None:
    stop = "stages.stage1.stop={loss_below: 100, times: 50}"
    trainer = trainer_for(tiny_base, tokenizer, tmp_path, stop, "train.max_steps=3", "train.save_steps=1")
    trainer.train()
    assert trainer.state.global_step == 3  # in the middle of the second epoch
    # The last step wrote no checkpoint: resuming from one would take a step more.
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    with pytest.raises(RunFailed, match="nan at step 7"):
        EndWithoutSave().on_log(None, TrainerState(global_step=7), None, {"loss": float("nan")})


def test_a_checkpoint_once_minutes_have_passed(monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    callback, state, control = SaveByTime(1), TrainerState(), TrainerControl()
    callback.on_train_begin(None, state, control)
    written = []
    for now in (159, 161, 229, 230):
        callback.on_step_end(None, state, control)
        written.append(control.should_save)
        if control.should_save:
            now += 9  # which is how long it takes to write
            callback.on_save(None, state, control)
    assert written == [False, True, False, True]


def test_a_sharded_checkpoint_with_a_damaged_shard_is_not_used(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for step in (1, 2, 3):
        for part in ("pytorch_model_fsdp_0", "optimizer_0"):
            folder = tmp_path / f"checkpoint-{step}" / part
            folder.mkdir(parents=True)
            for name in ("__0_0.distcp", "__1_0.distcp", ".metadata"):
                (folder / name).write_bytes(name.encode())
        store.seal(tmp_path / f"checkpoint-{step}")
    assert last_checkpoint(tmp_path).name == "checkpoint-3"
    (tmp_path / "checkpoint-3" / "optimizer_0" / "__1_0.distcp").write_bytes(b"__2_0.distcp")
    assert last_checkpoint(tmp_path).name == "checkpoint-2"
    assert "checkpoint-3: optimizer_0/__1_0.distcp is not the file that was" in (said := capsys.readouterr().err)
    assert "the stage goes on from the checkpoint before, or anew" in said
    (tmp_path / "checkpoint-2" / "pytorch_model_fsdp_0" / "__0_0.distcp").unlink()
    assert last_checkpoint(tmp_path).name == "checkpoint-1"
    assert "checkpoint-2: pytorch_model_fsdp_0/__0_0.distcp is missing: the stage goes on" in capsys.readouterr().err


def test_only_whole_checkpoints_are_used(tiny_base, tokenizer, tmp_path, capsys, monkeypatch) -> None:
    trainer = trainer_for(tiny_base, tokenizer, tmp_path, "checkpoint_minutes=1e-9", "train.save_total_limit=4")
    trainer.train()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(BadInput, match="checkpoint-3: was written whole, and this run is under FSDP"):
        last_checkpoint(tmp_path)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    assert last_checkpoint(tmp_path).name == "checkpoint-3"  # of four steps: the last one writes none
    (tmp_path / "checkpoint-3" / "optimizer.pt").unlink()
    assert last_checkpoint(tmp_path).name == "checkpoint-2"
    assert (
        "checkpoint-3: optimizer.pt is missing: the stage goes on from the checkpoint before" in capsys.readouterr().err
    )
    weights = tmp_path / "checkpoint-2" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert last_checkpoint(tmp_path).name == "checkpoint-1"
    assert "checkpoint-2: model.safetensors is not the file that was" in capsys.readouterr().err
    (tmp_path / "checkpoint-1" / MANIFEST).unlink()
    assert last_checkpoint(tmp_path) is None
    assert not capsys.readouterr().err  # a crash in the middle of writing
    assert not list(tmp_path.glob("checkpoint-*"))  # what cannot be used is gone, so it is not counted as one to keep
