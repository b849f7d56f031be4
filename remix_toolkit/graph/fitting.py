"""Where a stage does not fit into a device's memory: which settings would, by the same estimate."""

import shlex
from collections.abc import Iterator
from typing import Any

from remix_toolkit.errors import BadInput
from remix_toolkit.graph import memory
from remix_toolkit.graph.devices import launch_of, one_process_remedy
from remix_toolkit.graph.memory import GB
from remix_toolkit.recipe.check import validate
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.sft_fields import device_batch

LORA = {"adapter": {"r": 16}}
FOUR_BITS = {"quantization": {"load_in_4bit": True}}
GPUS = (2, 4, 8)
BATCH = "per_device_train_batch_size"
Launched = tuple[bool, int]  # are the weights sharded, and over how many processes?


def misfit(
    recipe: Recipe, stage: str, length: int, device_bytes: float, launched: Launched | None = None
) -> str | None:
    """How much a stage takes that does not fit, and which settings would; None where it fits, or that is not known.

    The arguments are those of memory.estimate, and a device's memory.
    """
    needed = memory.estimate(recipe, stage, length, launched)
    if needed is None or _fits(needed, recipe, stage, device_bytes):
        return None
    total = f"about {needed.total(_may_checkpoint(recipe, stage)) / GB:.1f} GB of memory"
    problem = f"{total} do not fit into a device of {device_bytes / GB:.1f} GB with {memory.HEADROOM:.0%} left free"
    if settings := settings_that_fit(recipe, stage, length, device_bytes, launched):
        return "\n  ".join([f"{problem}; by the same estimate, each of these would:", *settings])
    return (
        f"{problem}, and neither would any of these that the recipe can have: a smaller batch, pure_bf16, 8-bit AdamW, "
        f"LoRA, QLoRA, FSDP over up to {GPUS[-1]} GPUs"
    )


def settings_that_fit(
    recipe: Recipe, stage: str, length: int, device_bytes: float, launched: Launched | None = None
) -> list[str]:
    """Each setting, as words of a command line, that makes a stage fit; with a smaller batch where it takes one."""
    launched = launched or launch_of(recipe).shards
    one_process = any(one_process_remedy(recipe, name) for name in recipe.stages)
    recipe = recipe.of_stage(stage)
    lines = []
    for words, changes, train, shards in _candidates(recipe, stage, launched):
        optimizer = str({**recipe.stages[stage].train, **train}.get("optim"))
        if shards[0] and (one_process or "8bit" in optimizer):  # which reads sharded weights as if they were whole
            continue
        largest = min(device_batch(recipe.stages[stage].train), max(1, recipe.global_batch_size // shards[1]))
        for halved in range(largest.bit_length()):
            batch = largest >> halved
            changed = _changed(recipe, stage, changes, {**train, BATCH: batch})
            needed = changed and memory.estimate(changed, stage, length, shards)
            if changed and needed and _fits(needed, changed, stage, device_bytes):
                lines.append(" ".join([*words, *([f"train.{BATCH}={batch}"] if halved else [])]))
                break
    return lines


def _candidates(
    recipe: Recipe, stage: str, launched: Launched
) -> Iterator[tuple[list[str], dict[str, Any], dict[str, Any], Launched]]:
    """Settings that take less memory: their words, the keys of the recipe and of `train`, and how it is launched."""
    sharded, processes = launched
    train = recipe.stages[stage].train
    yield [], {}, {}, launched
    if not _may_checkpoint(recipe, stage):
        yield ["train.activation_checkpointing=true"], {}, {"activation_checkpointing": True}, launched
    if recipe.precision != "pure_bf16" and not recipe.adapter:
        yield ["precision=pure_bf16"], {"precision": "pure_bf16"}, {}, launched
    if "8bit" not in str(train.get("optim", "")):
        yield ["train.optim=adamw_8bit"], {}, {"optim": "adamw_8bit"}, launched
    adapter, lora = {} if recipe.adapter else LORA, shlex.quote("adapter={r: 16}")
    if adapter:
        yield [lora], adapter, {}, launched
    if not recipe.quantization:
        words = [lora] if adapter else []
        words.append(shlex.quote("quantization={load_in_4bit: true}"))
        alone = ["accelerate_config=accelerate_configs/one_gpu.yaml"] if sharded else []  # FSDP shards no such weights
        yield [*words, *alone], {**adapter, **FOUR_BITS}, {}, (False, 1) if sharded else launched
        for gpus in GPUS:
            if gpus > (processes if sharded else 1):
                yield [f"FSDP over {gpus} GPUs (accelerate_config)"], {}, {}, (True, gpus)


def _changed(recipe: Recipe, stage: str, changes: dict[str, Any], train: dict[str, Any]) -> Recipe | None:
    """The recipe with other settings; None where a recipe cannot have them."""
    tree = {**recipe.model_dump(), **changes}
    tree["stages"][stage]["train"] |= train
    try:
        return validate(Recipe, tree, {}, recipe.name)
    except BadInput:
        return None


def _may_checkpoint(recipe: Recipe, stage: str) -> bool:
    return recipe.stages[stage].train.get("activation_checkpointing") is not False


def _fits(needed: memory.Memory, recipe: Recipe, stage: str, device_bytes: float) -> bool:
    return needed.total(_may_checkpoint(recipe, stage)) <= (1 - memory.HEADROOM) * device_bytes
