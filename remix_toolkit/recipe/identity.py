"""What of a recipe determines weights, and what only says where things are or how fast they go.

Fields of a recipe or stage that do not determine weights are marked so where they are declared, in schema.py; those of
SFTConfig are listed here. Comparisons of runs leave both out. The key is made in graph/lineage.py, of what it lists.
"""

from collections.abc import Mapping
from typing import Any

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
    model, path = (Stage, parts[2:]) if parts[0] == "stages" and len(parts) > 2 else (Recipe, parts)
    field = model.model_fields.get(path[0])
    marked = field is not None and NOT_IDENTITY in field.metadata
    return not marked and not (path[0] == "train" and path[-1] in NOT_IN_KEY)


def identity_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that determine weights."""
    return {key: value for key, value in settings.items() if is_identity(key)}
