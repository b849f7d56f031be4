"""What of a recipe determines weights, and what only says where things are or how fast they go.

Fields of a recipe or stage that do not determine weights are marked so where they are declared, in schema.py; those of
SFTConfig are listed here. Comparisons of runs leave both out. The key is made in graph/lineage.py, of what it lists.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from remix_toolkit.recipe.schema import NOT_IDENTITY, Recipe, Stage

# Fields of `train` that change speed, memory, logs or files, but not what is computed (up to rounding).
NOT_IN_KEY = {
    "per_device_train_batch_size",  # the global batch is in the key
    "padding_free",
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "activation_offloading",
    "report_to",
    "run_name",
    "project",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "torch_compile",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "logging_first_step",
    "ddp_timeout",
}


def is_identity(key: str) -> bool:
    """Does this dotted key (`train.save_steps`, `stages.stage1.data.size`) determine weights?"""
    parts = key.split(".")
    if _is_marked(Recipe, parts[0]):
        return False
    if parts[0] == "stages" and len(parts) > 2:
        if _is_marked(Stage, parts[2]):
            return False
        parts = parts[2:]
    return not (parts[0] == "train" and len(parts) > 1 and parts[1] in NOT_IN_KEY)


def _is_marked(model: type[BaseModel], field: str) -> bool:
    return field in model.model_fields and NOT_IDENTITY in model.model_fields[field].metadata


def identity_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that determine weights."""
    return {key: value for key, value in settings.items() if is_identity(key)}
