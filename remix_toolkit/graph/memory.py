"""Does a stage fit into a device's memory? An estimate from the base model's shape, before anything is loaded.

Weights, gradients and optimizer state follow from the precision, by recipe/schema.py's rule for what is in fp32.
Activations are what a Llama-like layer keeps for the backward pass with fused attention (no table of scores).
benchmarks/tracker.py compares the sum with what torch's memory tracker counts. Not counted: the allocator's rounding
and what the libraries take for themselves, for which a tenth of the device is left.
"""

from dataclasses import dataclass
from typing import Any

from remix_toolkit.evaluate import budget
from remix_toolkit.evaluate.interference import PARTS
from remix_toolkit.graph.devices import launch_of
from remix_toolkit.recipe.remedies import KL
from remix_toolkit.recipe.schema import Recipe, Stage
from remix_toolkit.recipe.setup import Shape
from remix_toolkit.recipe.sft_fields import device_batch
from remix_toolkit.recipe.tiny_size import VOCABULARY, tiny_size

GB = 1e9
HEADROOM = 0.1  # of a device's memory
BYTES = {"fp32": 4.0, "bf16": 2.0}


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while a stage trains."""

    weights: float
    gradients: float
    optimizer: float
    activations: float  # with every layer's kept
    checkpointed: float  # with each layer's computed again in the backward pass
    accumulates: bool  # does a step take several batches? Gradients are then held beside the next one's activations

    def parts(self, checkpointing: bool) -> dict[str, float]:
        """The bytes that each part takes, by name."""
        parts = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer}
        return {**parts, "activations": self.checkpointed if checkpointing else self.activations}

    def total(self, checkpointing: bool) -> float:
        """The most bytes at one time: in a backward pass, gradients come as activations go."""
        parts = self.parts(checkpointing)
        if self.accumulates:
            return sum(parts.values())
        return self.weights + self.optimizer + max(self.gradients, parts["activations"])


def estimate(recipe: Recipe, stage: str, length: int, launched: tuple[bool, int] | None = None) -> Memory | None:
    """The memory of one stage whose longest examples have `length` tokens; None where the base's shape is unknown.

    `launched`: are the weights sharded, and over how many processes; where that is not known yet, as the recipe's
    accelerate_config says.
    """
    recipe = recipe.of_stage(stage)
    shape, train = recipe.shape, recipe.stages[stage].train
    if shape is None or recipe.parameters is None:
        return None
    sharded, processes = launched or launch_of(recipe).shards
    share = processes if sharded else 1
    base, trained = recipe.parameters, trained_weights(recipe)
    copies = 4 if recipe.is_osf else 1  # of OSF's factors, those that are trained and those of the start, each twice
    adapter = copies * trained if recipe.adapter else 0.0
    full = BYTES[recipe.trained_in]
    weights = (_quantized(recipe.quantization) if recipe.quantization else BYTES[recipe.loaded_in]) * base
    half = BYTES[recipe.published_in]
    if sharded:  # the layer at work is whole on every device, and all the time what is in none: embeddings and the head
        at_work = half * (base / shape.layers + 2 * shape.vocabulary * shape.hidden)
    else:  # autocast keeps a bf16 copy of what is trained
        at_work = 2.0 * trained if recipe.precision == "bf16" else 0.0
    moments = 2.0 if "8bit" in str(train.get("optim", "")) else 2.0 * full
    kl = recipe.stages[stage].kl
    length = max(length, KL.TOKENS) if kl and kl.on == "generated" else length
    per_device = min(device_batch(train), max(1, recipe.global_batch_size // processes))
    tokens = per_device * length
    layer = tokens * _layer(shape, half, full)
    head = tokens * shape.vocabulary * (half + 4.0 + 4.0)  # logits, in fp32 for the loss, and their gradient
    kept = tokens * shape.hidden * half
    return Memory(
        weights=(weights + full * adapter) / share + at_work + _copies(recipe, recipe.stages[stage]),
        gradients=full * trained / share,
        optimizer=moments * trained / share,
        activations=shape.layers * layer + head,
        checkpointed=shape.layers * kept + layer + head,
        accumulates=per_device * processes < recipe.global_batch_size,
    )


def _copies(recipe: Recipe, stage: Stage) -> float:
    """Bytes of weights that remedies hold a second time: those at the start, their importance, another model."""
    copies = sum(map(bool, (stage.sam, stage.l2))) + 2 * bool(stage.ewc)
    whole = BYTES[recipe.published_in] if stage.kl else 0.0
    return (BYTES[recipe.trained_in] * copies + whole) * (recipe.parameters or 0.0)


@dataclass(frozen=True)
class Measuring:
    """Bytes while a published stage is measured, of the measurement that takes most; the model is whole on a device."""

    device: float
    host: float  # gradients and the later model, for interference
    gradient_passes: int  # of interference, over its data

    @property
    def summary(self) -> str:
        """`about 21.4 GB on a device; interference: 47.7 GB of the machine's memory, 13 passes over the data`."""
        text = f"about {self.device / GB:.1f} GB on a device"
        if not self.gradient_passes:
            return text
        passes = "1 pass" if self.gradient_passes == 1 else f"{self.gradient_passes} passes"
        return f"{text}; interference: {self.host / GB:.1f} GB of the machine's memory, {passes} over the data"


def measuring(recipe: Recipe, stage: str) -> Measuring | None:
    """What measuring a stage takes: evaluate/budget.py says how much is held; None where the shape is unknown."""
    shape, asked = recipe.shape, recipe.stages[stage]
    if shape is None or recipe.parameters is None:
        return None
    half = BYTES[recipe.published_in]
    weights = half * recipe.parameters
    layer = half * (3 * shape.intermediate + 4 * shape.hidden)  # of a token, in the layer at work
    tokens = budget.TOKENS * (layer + half * 2 * shape.layers * shape.key_value)  # with a cache, as in generating
    host, passes = 0.0, 0
    if "interference" in asked.probe:
        parts = PARTS * (3 if any(source for _, source in asked.mix) else 2)
        passes = budget.gradient_passes(recipe.parameters, parts, half)
        share = recipe.parameters / passes
        host = weights + share * (parts * half + 4 + half)
        gradients = 4 * share + half * shape.vocabulary * shape.hidden  # summed in fp32, beside the largest of a batch
        tokens = max(tokens, budget.GRADIENT_TOKENS * shape.layers * _layer(shape, half, half) + gradients)
    return Measuring(weights + tokens + budget.LARGEST * (half + 3 * 4), host, passes)


def trained_weights(recipe: Recipe) -> float:
    """How many weights are trained: an adapter's, where the shape of the base model gives them, or all."""
    shape = recipe.shape
    if size := tiny_size(recipe.base):
        h, mlp = size.hidden, size.intermediate
        shape = Shape(layers=size.layers, hidden=h, intermediate=mlp, key_value=h, vocabulary=VOCABULARY)
    if recipe.adapter and shape:
        return _adapter_weights(recipe.adapter, shape)
    return recipe.parameters or 0.0


def held_in(recipe: Recipe) -> str:
    """`trained in fp32, frozen in bf16`: the dtypes in which a stage's weights are held while it trains."""
    if not recipe.adapter:
        return f"trained in {recipe.trained_in}"
    frozen: str = recipe.loaded_in
    if recipe.quantization:
        frozen = f"{'4' if recipe.quantization.get('load_in_4bit') else '8'} bits, the rest in {frozen}"
    return f"trained in {recipe.trained_in}, frozen in {frozen}"


def needs_checkpointing(memory: Memory | None, device_bytes: float) -> bool:
    """Are the activations to be computed again in the backward pass? A third of the speed, so only where it must be."""
    return memory is None or memory.total(checkpointing=False) > (1 - HEADROOM) * device_bytes


def describe(memory: Memory, checkpointing: bool) -> str:
    """`about 63.0 GB: weights 19.0, optimizer 32.0, activations 12.0 or, later, gradients 8.0`."""
    parts = {name: f"{name} {size / GB:.1f}" for name, size in memory.parts(checkpointing).items()}
    together = " and " if memory.accumulates else " or, later, "
    listed = f"{parts['weights']}, {parts['optimizer']}, {parts['activations']}{together}{parts['gradients']}"
    return f"about {memory.total(checkpointing) / GB:.1f} GB: {listed}"


def advice(memory: Memory | None, checkpointing: bool, per_device: int, sharded: bool) -> str:
    """What helps where a device's memory ran out; the estimate beside it, where there is one."""
    knobs = []
    if not checkpointing:
        knobs.append("train.activation_checkpointing=true computes activations again, for a third of the speed")
    if per_device > 1:
        half = f"train.per_device_train_batch_size={per_device // 2}"
        knobs.append(f"{half} keeps half of the activations, and the global batch")
    if not sharded:
        knobs.append("train.optim=adamw_8bit keeps the optimizer's state in 8 bits")
    knobs.append("an adapter (adapter={r: 16}) trains few weights")
    knobs.append("more GPUs, each with its share: another accelerate_config")
    estimated = f" The estimate was {describe(memory, checkpointing)}." if memory else ""
    return f"out of memory on the device.{estimated} What helps:\n" + "\n".join(f"  {knob}" for knob in knobs)


def _layer(shape: Shape, half: float, full: float) -> float:
    """Bytes that a layer keeps for the backward pass, for each token."""
    norms = 2 * (shape.hidden * 4.0 + 2 * shape.hidden * half)  # the input in fp32, its normalized form, the output
    attention = (2 * shape.hidden + 2 * shape.key_value) * half + 2 * shape.hidden * half  # q, k, v, what comes out
    rotary = (shape.hidden + shape.key_value) * half
    mlp = 4 * shape.intermediate * half  # gate, its activation, up, their product
    return norms + attention + rotary + mlp


def _adapter_weights(adapter: dict[str, Any], shape: Shape) -> float:
    """How many weights are trained: as many for each input and output of a layer (all linear ones) as its rank."""
    h, kv, mlp = shape.hidden, shape.key_value, shape.intermediate
    ends = {"q_proj": (h, h), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (h, h)}
    ends |= {"gate_proj": (h, mlp), "up_proj": (h, mlp), "down_proj": (mlp, h)}
    targets = adapter.get("target_modules", "all-linear")
    chosen = ends.keys() if isinstance(targets, str) else [name for name in targets if name in ends]
    ranks = dict.fromkeys(chosen, adapter.get("r", 8))
    if adapter.get("peft_type") == "OSF":  # what is not kept
        kept = adapter.get("effective_rank") or 0.5
        ranks = {n: max(0, min(ends[n]) - (kept if kept >= 1 else int(kept * min(ends[n])))) for n in chosen}
    return float(shape.layers * sum(ranks[name] * sum(ends[name]) for name in chosen))


def _quantized(quantization: dict[str, Any]) -> float:
    """Bytes of a quantized weight with its share of the scales and of what stays in 16 bits."""
    return 0.7 if quantization.get("load_in_4bit") else 1.2
