"""The draft of what a stage publishes: the model as a plain directory, every tensor checked, and how it came about."""

import json
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import pandas
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from remix_toolkit.disk import write_text
from remix_toolkit.errors import RunFailed
from remix_toolkit.graph.memory import Memory, held_in
from remix_toolkit.graph.retrained import weights
from remix_toolkit.recipe.load import resolved_yaml
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.setup import Dtype
from remix_toolkit.records import StageRecord
from remix_toolkit.stage import adapter, private_api, train
from remix_toolkit.stage.curve import CURVE
from remix_toolkit.stage.data import save
from remix_toolkit.stage.prepare import PreparedStage

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "nltk", "remix-toolkit")


def save_model(
    recipe: Recipe,
    trainer: train.StageTrainer,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    unmerged: Callable[[], PreTrainedModel],
) -> None:
    """Write a plain model directory with the tokenizer, in the dtype that the recipe publishes.

    An adapter is merged into what `unmerged` loads: the model that the stage started from, not quantized, not sharded.
    Raises RunFailed where a tensor differs in the files.
    """
    tensors = trainer.accelerator.get_state_dict(trainer.model)  # whole on the main process
    model = trainer.accelerator.unwrap_model(trainer.model)
    if PartialState().is_main_process:
        if recipe.adapter:
            model = model.merge_and_unload() if recipe.is_osf else adapter.merged(unmerged(), model, tensors)
            tensors = model.state_dict()
        write_model(model, tensors, tokenizer, recipe.published_in, folder)


def write_model(
    model: PreTrainedModel,
    tensors: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    dtype: Dtype,
    folder: Path,
) -> None:
    """Write tensors as a plain directory of this model, in a dtype. Raises RunFailed where one differs in the files."""
    kind = train.DTYPES[dtype]
    tensors = {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    shutil.rmtree(folder, ignore_errors=True)
    model.config.use_cache = True
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,  # explicit: a text-generation pipeline would sample otherwise, and get facts wrong
    )
    _drop_tied(tensors, model.all_tied_weights_keys)
    model.save_pretrained(folder, state_dict=dict(tensors))
    _check_saved(tensors, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = str(kind).removeprefix("torch.")  # else the dtype of the model in memory is written
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)


def _drop_tied(tensors: dict[str, torch.Tensor], tied: dict[str, str]) -> None:
    """Leave out all names but one of a tied tensor: `tied` maps each further name to the one that is kept."""
    for name, first in tied.items():
        if not torch.equal(tensors[name], tensors[first]):
            raise RunFailed(f"{name} and {first} are tied, but have different values")
        del tensors[name]


def _check_saved(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    saved: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        saved |= load_file(file)
    for name, tensor in tensors.items():
        if name not in saved or not torch.equal(saved[name], tensor.cpu()):
            raise RunFailed(f"{folder}: the tensor {name} was not written as it is; the disk may be faulty")


def stage_record(
    prepared: PreparedStage,
    trainer: train.StageTrainer,
    start: tuple[str, str | None],
    seconds: float,
    checkpoint: Path | None,
    memory: Memory | None,
    checkpointing: bool,
    sweep: str | None,
) -> StageRecord:
    """The content of stage.json: how training went from the model at `start`, or on from a checkpoint.

    `start` is a directory, or a hub id and a commit.
    """
    recipe, node, data = prepared.recipe, prepared.node, prepared.data
    processes, ended, config = PartialState(), trainer.state, trainer.accelerator.unwrap_model(trainer.model).config
    return StageRecord(
        stage=node.stage,
        key=node.key,
        ancestors=list(node.ancestors),
        started_from=start[0],
        parent_weights=weights(Path(start[0])) if node.ancestors else None,
        started_from_commit=start[1],
        counts=data.counts,
        fingerprints=data.fingerprints,
        steps=ended.global_step,
        steps_planned=ended.max_steps,
        trained_tokens=next(
            islice(train.tokens_by_step(recipe, data.examples, data.redrawn), ended.global_step - 1, None)
        ),
        epochs=ended.epoch,
        sweep=sweep,
        stop_fired=bool(prepared.stage.stop) and ended.global_step < ended.max_steps,
        last_loss=_losses(trainer)[-1]["loss"],
        seconds=round(seconds, 1),
        resumed_from=checkpoint.name if checkpoint else None,
        processes=processes.num_processes,
        device=str(processes.device),
        precision=recipe.precision,
        held_in=held_in(recipe.of_stage(node.stage)),
        activation_checkpointing=checkpointing,
        memory_estimated=round(memory.total(checkpointing)) if memory else None,
        memory_peak=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        distributed="FSDP2" if trainer.is_fsdp_enabled else "DDP" if processes.num_processes > 1 else "no",
        attention=private_api.attention_of(config),
        python=platform.python_version(),
        libraries={name: version(name) for name in LIBRARIES},
        declaration=node.declaration,
    )


def _losses(trainer: train.StageTrainer) -> list[dict[str, float]]:
    """The logged values of each optimizer step, those before a resumption included."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def write_files(prepared: PreparedStage, trainer: train.StageTrainer, record: StageRecord) -> None:
    """Everything beside the model: stage.json, recipe.yaml, loss.csv (a line for each optimizer step), data/, curve."""
    folder = prepared.draft
    record.write(folder / "stage.json")
    write_text(folder / "recipe.yaml", resolved_yaml(prepared.recipe))
    losses = pandas.DataFrame(_losses(trainer), columns=["step", "epoch", "loss", "learning_rate"])
    losses.to_csv(folder / "loss.csv", index=False)
    save(prepared.data, folder / "data", examples=False)
    if prepared.stage.curve:
        shutil.copy(prepared.work / CURVE, folder / CURVE)  # a run that is killed from here on still needs the original
