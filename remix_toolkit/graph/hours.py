"""How long a stage takes on GPUs: an estimate, as a sum over what it waits for, with every rate of it stated here.

A training step takes as long as its matrix products or, under FSDP, as the exchange of weights and gradients between
GPUs, whichever is longer: they overlap. A stage also starts, loads, writes checkpoints, and publishes its model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from pydantic import Field

from remix_toolkit.graph import memory
from remix_toolkit.graph.devices import launch_of
from remix_toolkit.graph.memory import GB
from remix_toolkit.recipe.check import validate
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.sft_fields import device_batch
from remix_toolkit.recipe.strict import Strict

Rate = Annotated[float, Field(gt=0, le=1e9)]


class Rates(Strict):
    """What a machine reaches. The defaults are for an H100; `make gpu-check` prints what it measures of them."""

    tflops: Rate = Field(default=989.0, description="a GPU's dense bf16 peak, in 10^12 operations a second")
    utilization: Annotated[float, Field(gt=0, le=1)] = Field(default=0.4, description="share of it that is reached")
    memory_gb_per_s: Rate = Field(default=2500.0, description="a GPU's memory; three quarters of an H100's peak")
    exchange_gb_per_s: Rate = Field(default=240.0, description="what a GPU sends or receives; NVLink of one machine")
    read_gb_per_s: Rate = Field(default=2.0, description="from the disk with the models; a guess")
    write_gb_per_s: Rate = Field(default=1.0, description="to that disk; a guess")
    start_seconds: Rate = Field(default=60.0, description="until a job's processes have imported and met; a guess")


@dataclass(frozen=True)
class Seconds:
    """How long a job holds its GPUs, by cause."""

    computing: float = 0.0
    exchanging: float = 0.0  # beyond what hides behind computing
    starting: float = 0.0  # with loading the model
    checkpoints: float = 0.0
    publishing: float = 0.0
    asking: float = 0.0  # recall, and which facts the base model knows

    @property
    def total(self) -> float:
        """All of them together."""
        return float(sum(asdict(self).values()))


def hours(jobs: Iterable[tuple[Seconds, int]]) -> dict[str, float]:
    """GPU-hours by cause, of jobs and the number of GPUs that each of them holds."""
    totals = {field.name: 0.0 for field in fields(Seconds)}
    for seconds, devices in jobs:
        for cause, value in asdict(seconds).items():
            totals[cause] += value * devices / 3600
    return totals


def training(recipe: Recipe, stage: str, rates: Rates, steps: int, flops: float, checkpointing: bool) -> Seconds:
    """The seconds of training a stage, of `flops` in all its steps, but for its checkpoints."""
    launch = launch_of(recipe)
    processes = launch.num_processes
    weights, trained = recipe.parameters or 0.0, memory.trained_weights(recipe)
    each = memory.BYTES[recipe.trained_in]  # of a weight, its gradient and each of its moments
    batches = max(1, recipe.global_batch_size // (processes * device_batch(recipe.stages[stage].train)))
    recomputed = 1 + 2 / passes(recipe) if checkpointing else 1
    products = flops * recomputed / steps / (processes * rates.tflops * 1e12 * rates.utilization)
    read = 3 * 2 * weights * batches / (rates.memory_gb_per_s * GB)  # forward, and twice backward, in bf16
    update = 7 * each * trained / (processes if launch.fsdp else 1)  # weight, gradient, moments
    computing = max(products, read) + update / (rates.memory_gb_per_s * GB)
    share = (processes - 1) / processes
    # Under FSDP, weights are gathered in bf16 for each pass, and gradients scattered; otherwise, gradients are summed.
    exchanged = (2 * 2 * weights + 2 * trained) * batches if launch.fsdp else 2 * each * trained
    exchanging = max(0.0, share * exchanged / (rates.exchange_gb_per_s * GB) - products)
    return Seconds(
        computing=steps * computing,
        exchanging=steps * exchanging,
        starting=starting(recipe, rates),
        publishing=published_bytes(recipe) / (rates.write_gb_per_s * GB),
    )


def asking(recipe: Recipe, rates: Rates, flops: float) -> Seconds:
    """The seconds of a job that loads a model and asks it."""
    rate = launch_of(recipe).num_processes * rates.tflops * 1e12 * rates.utilization
    return Seconds(starting=starting(recipe, rates), asking=flops / rate)


def starting(recipe: Recipe, rates: Rates) -> float:
    """Seconds until a job of this recipe has loaded its model."""
    return rates.start_seconds + published_bytes(recipe) / (rates.read_gb_per_s * GB)


def passes(recipe: Recipe) -> float:
    """Operations for each weight and trained token: forward, and backward to the activations and to the weights.

    Under an adapter, the last are only the adapter's. OSF also passes through the factors of each matrix, both as they
    are and as they were at the start.
    """
    if recipe.is_osf and recipe.parameters:
        return 4 + 12 * memory.trained_weights(recipe) / recipe.parameters
    return 4 if recipe.adapter else 6


def published_bytes(recipe: Recipe) -> float:
    """Bytes of a published model's weights."""
    return (recipe.parameters or 0.0) * memory.BYTES[recipe.published_in]


def rates_of(rates: Mapping[str, Any]) -> Rates:
    """Some rates as they were set, and the defaults of the others. Raises BadInput."""
    return validate(Rates, dict(rates), {}, "--rate")
