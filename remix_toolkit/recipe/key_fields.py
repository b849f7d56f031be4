"""Which fields of a recipe are in a stage's key, because they determine its weights, and which are not.

Those that are not say where things are, how fast they go or what is measured. In a recipe or a stage they are marked
where they are declared, in schema.py; the ones of SFTConfig are listed here. Comparisons of runs leave both out. The
key itself, with all that goes into it, is made in graph/lineage.py.
"""

from collections.abc import Mapping
from typing import Any

from remix_toolkit.recipe.schema import Recipe, Stage
from remix_toolkit.recipe.setup import OUTSIDE_KEY

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


def determines_weights(key: str) -> bool:
    """Does this dotted key (`train.save_steps`, `stages.stage1.data.size`) determine weights?"""
    parts = key.split(".")
    model, path = (Stage, parts[2:]) if parts[0] == "stages" and len(parts) > 2 else (Recipe, parts)
    field = model.model_fields.get(path[0])
    marked = field is not None and OUTSIDE_KEY in field.metadata
    return not marked and not (path[0] == "train" and path[-1] in NOT_IN_KEY)


def determining_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that determine weights."""
    return {key: value for key, value in settings.items() if determines_weights(key)}
