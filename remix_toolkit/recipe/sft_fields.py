"""What a recipe may write under `train:`: the fields of TRL's SFTConfig with their types, and those that are reserved.

Importing TRL takes about ten seconds, and a typing mistake should be answered at once, so the fields are listed in
sft_fields.yaml. Under other versions than the list's, a field that it lacks is looked up in the installed SFTConfig.
`python -m remix_toolkit.recipe.sft_fields > remix_toolkit/recipe/sft_fields.yaml` makes the list anew.
"""

import inspect
import re
from collections.abc import Mapping
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints  # noqa: F401 - Literal is in some types

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from remix_toolkit.errors import nearest
from remix_toolkit.recipe.ranges import TRAIN, out_of_range
from remix_toolkit.recipe.strict import refuse
from remix_toolkit.recipe.yaml_file import load_mapping

# The toolkit sets these itself; a recipe that sets one is told what to write instead, or why not.
RESERVED = {
    "output_dir": "checkpoints are kept under --runs",
    "seed": "set `seed` at the top of the recipe, or --seed",
    "data_seed": "set `data_seed` at the top of the recipe",
    "gradient_accumulation_steps": "it follows from global_batch_size and per_device_train_batch_size",
    "gradient_checkpointing": "transformers calls it activation_checkpointing now",
    "gradient_checkpointing_kwargs": "transformers calls it activation_checkpointing_kwargs now",
    **dict.fromkeys(("bf16", "fp16"), "set `precision` at the top of the recipe"),
    **dict.fromkeys(("logging_steps", "logging_strategy"), "every step is logged, for the loss curve and for `stop`"),
    "logging_nan_inf_filter": "a loss that is not finite ends the run",
    "resume_from_checkpoint": "an interrupted stage resumes by itself",
    "ignore_data_skip": "an interrupted stage resumes by itself, at the batch where it stopped",
    "restore_callback_states_from_checkpoint": "an interrupted stage resumes by itself",
    "save_only_model": "a checkpoint without its optimizer cannot be resumed",
    "dataloader_drop_last": "the last partial batch of an epoch is always dropped",
    "train_sampling_strategy": "each epoch has a new order, which never groups by length",
    "shuffle_dataset": "each epoch has a new order",
    "packing": "a batch is global_batch_size pairs; `padding_free: true` removes the padding and keeps the batch",
    "packing_strategy": "pairs are not packed",
    **dict.fromkeys(("completion_only_loss", "assistant_only_loss"), "the loss is on the response and its EOS alone"),
    **dict.fromkeys(("loss_type", "label_smoothing_factor"), "the loss is that of transformers"),
    "auto_find_batch_size": "the batch is part of the method",
    "average_tokens_across_devices": "the loss is always the mean over all trained tokens of a step",
    **dict.fromkeys(("eos_token", "pad_token"), "it is that of the base model's tokenizer"),
    "chat_template_path": "pairs are in the Tulu format",
    "use_cpu": "a stage runs on an accelerator where there is one; CUDA_VISIBLE_DEVICES= hides it",
    "disable_tqdm": "the toolkit shows its own progress",
    **dict.fromkeys(
        ("eval_strategy", "eval_on_start"), "recall is measured after each stage; `curve` measures it during one"
    ),
    "parallelism_config": "processes are the accelerate config's",
    "load_best_model_at_end": "the last model is the stage's model",
    "push_to_hub": "publish a stage's directory yourself, with `hf upload`",
    "hub_token": "no token goes into a recipe: use `hf auth login` or HF_TOKEN",
    "dataloader_pin_memory": "memory is pinned where there is a GPU",
    "remove_unused_columns": "the toolkit prepares the columns",
}

MAX_LENGTH = 2048  # tokens; the toolkit's default, and what `max_length: null` means
DEVICE_BATCH = 8  # examples; SFTConfig's default


def max_length(train: Mapping[str, Any]) -> int:
    """The most tokens that an example may have under these fields of `train:`; a longer one is dropped."""
    return int(train.get("max_length") or MAX_LENGTH)


def device_batch(train: Mapping[str, Any]) -> int:
    """The examples that a device takes at once under these fields of `train:`."""
    return int(train.get("per_device_train_batch_size", DEVICE_BATCH))


def trusts_code(train: Mapping[str, Any]) -> bool:
    """Do these fields of `train:` let the code that comes with a model run?"""
    return bool(train.get("trust_remote_code"))


def sets_saving(train: Mapping[str, Any]) -> bool:
    """Do these fields of `train:` set when a checkpoint is written? Otherwise, `checkpoint_minutes` does."""
    return not {"save_steps", "save_strategy"}.isdisjoint(train)


def field_type(name: str) -> str | None:
    """The type of an SFTConfig field, such as `float | None`; None where there is no such field."""
    listed = _listed()
    fields: dict[str, str] = listed["fields"]
    if name not in fields and listed["versions"] != _installed_versions():
        fields = installed_fields()
    return fields.get(name)


def train_mistake(name: str, value: Any) -> str | None:
    """What is wrong with `train: {name: value}`, or None."""
    if name in RESERVED:
        return f"cannot be set in a recipe: {RESERVED[name]}"
    expected = field_type(name)
    if expected is None:
        return f"no such SFTConfig field; {nearest(name, _listed()['fields'].keys() - RESERVED.keys())}"
    try:
        _type_adapter(expected).validate_python(value)
    except ValidationError:
        return f"is {value!r:.200}; SFTConfig expects {expected}"
    return None if value is None else out_of_range(TRAIN, name, value)


def _check_train(train: dict[str, Any]) -> dict[str, Any]:
    refuse(train, {field: what for field, value in train.items() if (what := train_mistake(field, value))})
    return train


Train = Annotated[dict[str, Any], AfterValidator(_check_train)]


@cache
def installed_fields() -> dict[str, str]:
    """Every field of the installed SFTConfig with its type; imports TRL."""
    import dataclasses

    from trl.trainer.sft_config import SFTConfig

    hints = get_type_hints(SFTConfig)
    return {field.name: _type_name(hints[field.name]) for field in dataclasses.fields(SFTConfig) if field.init}


def _type_name(annotation: Any) -> str:
    """A type as the list has it; an enum, or any other class that YAML has no word for, is given as a string."""
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    names = [inspect.formatannotation(member).replace("typing.", "").replace("NoneType", "None") for member in members]
    return " | ".join(dict.fromkeys(re.sub(r"\w+(\.\w+)+", "str", name) for name in names))


@cache
def _type_adapter(name: str) -> TypeAdapter[Any]:
    """A strict validator of a type in the list; an integer is accepted for a float."""
    return TypeAdapter(name, config=ConfigDict(strict=True))  # type: ignore[arg-type]


@cache
def _listed() -> dict[str, Any]:
    return load_mapping(Path(str(resources.files("remix_toolkit.recipe")), "sft_fields.yaml"))[0]


@cache
def _installed_versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in ("trl", "transformers")}


if __name__ == "__main__":
    print("# The fields of TRL's SFTConfig. `python -m remix_toolkit.recipe.sft_fields` prints this file.")
    for title, mapping in (("versions", _installed_versions()), ("fields", installed_fields())):
        print(f"{title}:", *(f"  {key}: {value}" for key, value in mapping.items()), sep="\n")
