"""What a recipe may write under `train:`, read from the installed TRL without importing it.

Importing TRL costs about ten seconds, and a typing mistake should not. SFTConfig is a dataclass, so its fields stand
in its source, and in that of its two parents, as plain annotated assignments: parsing the three takes 0.1 s.
"""

import ast
import importlib.util
import math
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from remix_toolkit.errors import nearest

SOURCES = (("transformers", "training_args.py"), ("trl", "trainer/base_config.py"), ("trl", "trainer/sft_config.py"))

# The runner sets these itself; a recipe that sets them is told what to write instead.
OURS = {
    "output_dir": "checkpoints live under --runs",
    "seed": "set `seed` at the top of the recipe, or --seed",
    "data_seed": "set `data_seed` at the top of the recipe",
    "gradient_accumulation_steps": "it follows from global_batch_size and per_device_train_batch_size",
    "gradient_checkpointing": "transformers calls it activation_checkpointing now",
    "gradient_checkpointing_kwargs": "transformers calls it activation_checkpointing_kwargs now",
    "bf16": "set `precision` at the top of the recipe",
    "fp16": "set `precision` at the top of the recipe",
    "logging_steps": "every step is logged: the loss curve and `stop` read it",
    "logging_strategy": "every step is logged: the loss curve and `stop` read it",
    "logging_nan_inf_filter": "a loss that is not finite ends the run",
    "resume_from_checkpoint": "an interrupted stage resumes by itself",
    "ignore_data_skip": "an interrupted stage resumes by itself, at the batch where it was",
    "restore_callback_states_from_checkpoint": "an interrupted stage resumes by itself",
    "save_only_model": "a checkpoint without its optimizer cannot be resumed",
    "dataloader_drop_last": "the last partial batch of an epoch is always dropped",
    "train_sampling_strategy": "the order is new each epoch and never grouped by length",
    "shuffle_dataset": "the order is new each epoch",
    "packing": "a batch is global_batch_size pairs; `padding_free: true` drops the padding and keeps the batch",
    "packing_strategy": "pairs are not packed",
    "completion_only_loss": "the loss is on the response and its EOS alone",
    "assistant_only_loss": "the loss is on the response and its EOS alone",
    "loss_type": "the loss is transformers' own",
    "label_smoothing_factor": "the loss is transformers' own",
    "auto_find_batch_size": "the batch is part of the method",
    "average_tokens_across_devices": "the loss is always the mean over all trained tokens of a step",
    "eos_token": "the base model's tokenizer says it",
    "pad_token": "the base model's tokenizer says it",
    "chat_template_path": "pairs are in the Tulu format",
    "use_cpu": "a stage runs on an accelerator where there is one; CUDA_VISIBLE_DEVICES= hides it",
    "disable_tqdm": "the runner shows its own progress",
    "eval_strategy": "recall is what is measured, after each stage",
    "load_best_model_at_end": "the last model is the stage's model",
    "push_to_hub": "publish a stage's directory yourself, with `hf upload`",
    "hub_token": "no token goes into a recipe",
    "dataloader_pin_memory": "memory is pinned where there is a GPU",
    "remove_unused_columns": "the runner prepares the columns",
}

POSITIVE = {"learning_rate", "num_train_epochs", "per_device_train_batch_size", "max_length"}


@cache
def sft_fields() -> dict[str, str]:
    """Field name -> annotation as written in the source, for every field of the installed SFTConfig."""
    fields: dict[str, str] = {}
    for package, file in SOURCES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"{package} is not installed", name=package)
        source = Path(spec.submodule_search_locations[0], file).read_text(encoding="utf-8")
        classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
        config = next(node for node in classes if node.name in {"TrainingArguments", "_BaseConfig", "SFTConfig"})
        for node in config.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            annotation = ast.unparse(node.annotation)
            if not node.target.id.startswith("_") and "ClassVar" not in annotation:
                fields[node.target.id] = annotation
    return fields


class _Names(dict[str, Any]):
    """Evaluates annotations without importing what they name: an enum of transformers is a string to a recipe."""

    def __missing__(self, name: str) -> Any:
        return str


@cache
def field_type(name: str) -> TypeAdapter[Any]:
    """A strict checker of the type that SFTConfig gives the field (an integer is accepted for a float)."""
    builtins = {t.__name__: t for t in (int, float, str, bool, dict, list)} | {"Any": Any, "Literal": Literal}
    # The text is the installed TRL's own source, never a recipe's.
    annotation = eval(sft_fields()[name], {"__builtins__": {}}, _Names(builtins))
    return TypeAdapter(annotation, config=ConfigDict(strict=True))


def train_mistake(name: str, value: Any) -> str | None:
    """What is wrong with `train: {name: value}`, or None."""
    if name in OURS:
        return f"is not for recipes: {OURS[name]}"
    if name not in sft_fields():
        return f"no such SFTConfig field; {nearest(name, set(sft_fields()) - set(OURS))}"
    try:
        field_type(name).validate_python(value)
    except ValidationError:
        return f"is {value!r}; SFTConfig wants {sft_fields()[name]}"
    if name == "model_init_kwargs" and isinstance(value, dict) and value.keys() & {"token", "use_auth_token"}:
        return "holds a token; a recipe is saved with each stage: use `hf auth login` or HF_TOKEN"
    if name == "save_total_limit" and value is not None and value < 2:
        return f"is {value!r}; at least 2: the checkpoint before is needed until a new one is whole"
    if name == "max_steps" and value != -1 and value < 1:
        return f"is {value!r}; a number greater than 0 is expected, or -1 for whole epochs"
    if name in POSITIVE and not (isinstance(value, int | float) and 0 < value < math.inf):
        return f"is {value!r}; a number greater than 0 is expected"
    return None
