"""Saves a trained model as a plain directory: gathered, merged, in the published dtype, and every tensor verified."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from remix_toolkit.errors import RunFailed
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.stage import adapter
from remix_toolkit.stage.train import StageTrainer


def save_model(
    recipe: Recipe,
    trainer: StageTrainer,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    unmerged: Callable[[], PreTrainedModel],
) -> None:
    """Write a plain model directory with the tokenizer, in the dtype that the recipe publishes.

    An adapter is merged into what `unmerged` loads: the model that the stage started from, not quantized, not sharded.
    Raises RunFailed where a tensor differs in the files.
    """
    state = PartialState()
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type(
            "FULL_STATE_DICT"
        )  # SHARDED_STATE_DICT would write nothing
    weights = trainer.accelerator.get_state_dict(trainer.model)  # whole on the main process
    model = trainer.accelerator.unwrap_model(trainer.model)
    if state.is_main_process:
        if recipe.adapter:
            model = adapter.merged(unmerged(), model, weights)
            weights = model.state_dict()
        dtype = torch.float32 if recipe.precision == "fp32" else torch.bfloat16
        weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        shutil.rmtree(folder, ignore_errors=True)
        model.config.use_cache = True
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            do_sample=False,  # explicit: a text-generation pipeline would sample otherwise, and get facts wrong
        )
        _drop_tied(weights, model.all_tied_weights_keys)
        model.save_pretrained(folder, state_dict=dict(weights))
        _check_saved(weights, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = str(dtype).removeprefix("torch.")  # else the dtype of the model in memory is written
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tokenizer.save_pretrained(folder)
    state.wait_for_everyone()


def _drop_tied(weights: dict[str, torch.Tensor], tied: dict[str, str]) -> None:
    """Leave out all names but one of a tied tensor: `tied` maps each further name to the one that is kept."""
    for name, first in tied.items():
        if not torch.equal(weights[name], weights[first]):
            raise RunFailed(f"{name} and {first} are tied, but have different values")
        del weights[name]


def _check_saved(weights: dict[str, torch.Tensor], folder: Path) -> None:
    saved: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        saved |= load_file(file)
    for name, tensor in weights.items():
        if name not in saved or not torch.equal(saved[name], tensor.cpu()):
            raise RunFailed(f"{folder}: the tensor {name} was not written as it is; the disk may be faulty")
