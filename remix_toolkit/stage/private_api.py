"""What this toolkit uses of TRL, transformers, accelerate and torch beyond their documented interfaces, all of it here.

Seen in transformers 5.20 to 5.24, TRL 1.8 to 1.16 and accelerate 1.12 to 1.15, the ranges in pyproject.toml; where only
some of these versions have a thing, the comment at it says so. `make test-versions` runs the invariants at both ends.
"""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils.constants import FSDP_MODEL_NAME
from torch.distributed.distributed_c10d import Store, _get_default_store
from torch.utils.data import Sampler
from transformers import PreTrainedConfig, TrainingArguments
from transformers.distributed.utils import is_local_dist_rank_0
from transformers.integrations.fsdp import is_fsdp_enabled
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

FORMER_NAMES = {  # of fields of TrainingArguments, before transformers 5.23
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
}


def sft_config(**settings: Any) -> SFTConfig:
    """An SFTConfig, with the names that its fields have in the installed transformers."""
    names = {field.name for field in fields(SFTConfig)}
    return SFTConfig(**{name if name in names else FORMER_NAMES.get(name, name): settings[name] for name in settings})


def use_one_device(args: TrainingArguments) -> None:
    """Keep transformers from wrapping the model in DataParallel: one process is one device.

    TrainingArguments counts the visible GPUs in `_n_gpu`; its public `n_gpu` cannot be set.
    """
    args._n_gpu = min(args.n_gpu, 1)


def forget_devices() -> None:
    """Let the next Accelerator of this process choose its device anew.

    accelerate keeps the first choice for the whole process, and an SFTConfig with `use_cpu` chooses the CPU.
    """
    AcceleratorState._reset_state(reset_partial_state=True)


def fsdp_requested() -> bool:
    """Did the launcher's config ask for FSDP? `accelerate launch` tells its processes in this variable."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def configure_fsdp(activation_checkpointing: bool) -> None:
    """Have FSDP write checkpoints in shards, and recompute activations in the backward pass if asked to.

    accelerate's plugin reads these variables when it is made; whatever the launcher's config says of them is replaced.
    """
    os.environ["FSDP_STATE_DICT_TYPE"] = "SHARDED_STATE_DICT"
    os.environ["FSDP_ACTIVATION_CHECKPOINTING"] = str(activation_checkpointing).lower()


def is_given_weights() -> bool:
    """Does FSDP give this process the weights that the first one of its machine loads? It needs none itself then.

    transformers goes by the same where it loads a model, and gives such a process the buffers that it needs. On CPUs,
    accelerate does not do FSDP.
    """
    return sharded_on(PartialState().device) and bool(is_fsdp_enabled()) and not is_local_dist_rank_0()


def sharded_on(device: torch.device) -> bool:
    """Does accelerate do FSDP on such devices, where it is asked to?"""
    return device.type != "cpu"


def rendezvous() -> Store:
    """Where the processes of a launcher found each other: what one sets there, all can read."""
    store: Store = _get_default_store()
    return store


def in_shards(checkpoint: Path) -> bool:
    """Was a checkpoint written in shards, under FSDP? accelerate puts each process's share of the weights here."""
    return (checkpoint / f"{FSDP_MODEL_NAME}_0").is_dir()


def attention_of(config: PreTrainedConfig) -> str:
    """The attention implementation of a loaded model's config, such as `sdpa`: the default is transformers' choice."""
    return str(config._attn_implementation)


def set_train_order(trainer: SFTTrainer, order: Sampler[int]) -> None:
    """Train on the examples in this order; transformers asks for it in a private method."""
    trainer._get_train_sampler = lambda train_dataset=None: order  # type: ignore[method-assign]


def reporters_of(trainer: SFTTrainer) -> list[Any]:
    """The callbacks that transformers made for `report_to`; the table of their classes is not documented."""
    kinds = tuple(INTEGRATION_TO_CALLBACK.values())
    return [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, kinds)]


@torch.no_grad()
def project_osf(model: torch.nn.Module) -> None:
    """Project what PEFT's OSF trains as it projects the gradients: by its hooks on them, which torch keeps here."""
    for name, weight in model.named_parameters():
        if "osf_svd_params" in name:
            for project in (weight._backward_hooks or {}).values():
                weight.copy_(project(weight))  # type: ignore[arg-type]
