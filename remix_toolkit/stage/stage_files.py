"""What a stage leaves beside its weights: stage.json, its resolved recipe, its loss curve."""

import csv
import io
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState

from remix_toolkit.graph.lineage import Node
from remix_toolkit.graph.memory import Memory
from remix_toolkit.graph.parent_weights import weights
from remix_toolkit.recipe.load import resolved_yaml
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import Fingerprints, StageCounts, StageRecord, write_text
from remix_toolkit.stage import private_api, train
from remix_toolkit.stage.data import StageData

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "nltk", "remix-toolkit")


@dataclass(frozen=True)
class Conditions:
    """Under which conditions a stage is trained, as far as its record has them."""

    source: str  # directory or hub id of the model that it starts from
    memory: Memory | None  # the estimate of what a device needs, where the sizes of the base model are known
    checkpointing: bool  # of activations
    checkpoint: Path | None  # from which it resumes
    sweep: str | None  # that it is trained for


def stage_record(
    recipe: Recipe, node: Node, data: StageData, trainer: train.StageTrainer, conditions: Conditions, seconds: float
) -> StageRecord:
    """The content of stage.json, once training is over and before the trainer goes."""
    processes, ended, config = PartialState(), trainer.state, trainer.accelerator.unwrap_model(trainer.model).config
    memory, checkpointing = conditions.memory, conditions.checkpointing
    return StageRecord(
        stage=node.stage,
        key=node.key,
        ancestors=list(node.ancestors),
        started_from=conditions.source,
        parent_weights=weights(Path(conditions.source)) if node.ancestors else None,
        started_from_commit=getattr(config, "_commit_hash", None),
        counts=StageCounts.model_validate(data.counts),
        fingerprints=Fingerprints.model_validate(data.fingerprints),
        steps=ended.global_step,
        steps_planned=ended.max_steps,
        trained_tokens=train.trained_tokens(recipe, data.examples, ended.global_step),
        epochs=ended.epoch,
        sweep=conditions.sweep,
        stop_fired=bool(recipe.stages[node.stage].stop) and ended.global_step < ended.max_steps,
        last_loss=loss_history(trainer)[-1]["loss"],
        seconds=round(seconds, 1),
        resumed_from=conditions.checkpoint.name if conditions.checkpoint else None,
        processes=processes.num_processes,
        device=str(processes.device),
        precision=recipe.precision,
        activation_checkpointing=checkpointing,
        memory_estimated=round(memory.total(checkpointing)) if memory else None,
        memory_peak=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        distributed=_distributed(processes, trainer.is_fsdp_enabled),
        attention=private_api.attention_of(config),
        python=platform.python_version(),
        libraries={name: version(name) for name in LIBRARIES},
        declaration=node.declaration,
    )


def _distributed(processes: PartialState, sharded: bool) -> Literal["FSDP2", "DDP", "no"]:
    """How it was distributed; callbacks.Sharded refuses FSDP1."""
    return "FSDP2" if sharded else "DDP" if processes.num_processes > 1 else "no"


def loss_history(trainer: train.StageTrainer) -> list[dict[str, float]]:
    """The logged values of each optimizer step, those before a resumption included."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def write_files(folder: Path, record: StageRecord, recipe: Recipe, history: list[dict[str, float]]) -> None:
    """stage.json, recipe.yaml and loss.csv, which has a line for each optimizer step."""
    record.write(folder / "stage.json")
    write_text(folder / "recipe.yaml", resolved_yaml(recipe))
    losses = io.StringIO()
    writer = csv.DictWriter(losses, ["step", "epoch", "loss", "learning_rate"], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(history)
    write_text(folder / "loss.csv", losses.getvalue())
