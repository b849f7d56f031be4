"""Interference: do the gradients of D_A, D_B and D_M oppose one another, and did the weights move against D_A?

The paper argues with the angles between these gradients (sections 4.1 and A.1 to A.3) and measures none. How they are
measured is in gradients.py.
"""

from typing import Annotated

from pydantic import Field, FiniteFloat

from remix_toolkit.console import info
from remix_toolkit.data.identity import facts_ids
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.base import Measurement, Models, Subject
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import NonNegative, Part, Positive

PARTS = 8  # gradients of each data set
MIN_PARTS = 4  # with fewer, noise cannot be separated from what the parts share
Cosine = Annotated[FiniteFloat, Field(ge=-1, le=1)]
DataSet = Annotated[str, Field(pattern="^[abm]$")]  # D_A, D_B, D_M


class Angle(Part):
    """How the gradients of two data sets stand to one another in one group of weights."""

    cosine: Cosine | None = Field(description="none where a gradient is no more than noise")
    low: Cosine | None = Field(description="end of the 95% interval")
    high: Cosine | None
    inner: FiniteFloat = Field(description="inner product of the mean gradients")


class GradientNorm(Part):
    norm: NonNegative = Field(description="of the mean gradient")
    signal: NonNegative = Field(description="of what all parts of the data set share")
    noise: bool = Field(description="True where the signal is indistinguishable from zero")


class Displacement(Part):
    norm: NonNegative
    relative: NonNegative = Field(description="to the norm of the weights before")


class InterferenceResult(Part):
    """Gradients of D_A, D_B and D_M at the model that a stage started from, and how the stage moved it."""

    sources: dict[DataSet, str] = Field({}, description="what a, b and m are: stages, or mixing")
    parts: Positive = Field(description="gradients of each data set")
    examples: dict[DataSet, Positive]
    norms: dict[DataSet, GradientNorm]
    groups: dict[str, dict[str, Angle]] = Field(description="whole, layers, kinds of weight -> a.b, a.m, b.m")
    displacement: dict[str, Displacement] | None = Field(None, description="by group; with a later model only")
    loss_before: NonNegative | None = Field(None, description="on D_A, in nats a token")
    loss_after: NonNegative | None = None
    predicted: FiniteFloat | None = Field(None, description="change of that loss to first order")
    predicted_low: FiniteFloat | None = Field(None, description="end of the 95% interval")
    predicted_high: FiniteFloat | None = None


class Interference(Measurement[InterferenceResult]):
    """Gradients at the model that the stage started from: D_A are the first stage's facts, D_B the stage's own data."""

    name, result, needs_parent = "interference", InterferenceResult, True

    def requested(self, recipe: Recipe, stage: str) -> list[str]:
        wanted = "interference" in recipe.stages[stage].probe
        return [next(iter(facts_ids(recipe).values()))] if wanted else []

    def check(self, subject: Subject) -> None:
        (first,) = self.requested(subject.recipe, subject.stage)
        fewest = min(len(subject.facts[first]), len(subject.pairs))
        if fewest < MIN_PARTS:
            where = f"{subject.recipe.name}: {subject.stage}: probe"
            raise BadInput(f"{where}: interference takes {MIN_PARTS} facts or more, not {fewest}")

    def measure(self, item: str, subject: Subject, models: Models) -> tuple[InterferenceResult, tuple[()]]:
        from remix_toolkit.evaluate.gradients import interference

        pairs = {"a": subject.facts[item], "b": subject.pairs, "m": subject.mixing}
        examples = {name: subject.encode(models.tokenizer, rows) for name, rows in pairs.items()}
        sources = {"a": next(iter(subject.recipe.stages)), "b": subject.stage, "m": "mixing"}
        parts = min(PARTS, len(examples["a"]), len(examples["b"]))
        if len(examples["m"]) < parts:
            del examples["m"], sources["m"]
        result = interference(models.load_parent(), models.tokenizer, examples, models.model, parts, sources)
        cosine = result.groups["whole"]["a.b"].cosine
        angle = "one of them is no more than noise" if cosine is None else f"cosine {cosine:+.3f}"
        info(f"{subject.stage}: gradients of {sources['a']} and {sources['b']}: {angle}")
        return result, ()
