"""How firmly facts are held: recall under noise, whether lost facts are only hidden, how far outputs moved.

Each is a probe of a published stage. As a control, name facts that no stage taught in the stage's `recall`: relearning
should bring none of them back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING

from pydantic import Field

from remix_toolkit.console import info
from remix_toolkit.data.encoding import Example, encode
from remix_toolkit.data.identity import facts_ids
from remix_toolkit.evaluate import budget
from remix_toolkit.evaluate.base import Measurement, Models, Subject
from remix_toolkit.evaluate.recall import Recall, percent, recall
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import NonNegative, Part, Percent, Positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NOISE = {"at_1": 0.01, "at_3": 0.03, "at_10": 0.1}  # standard deviations, to the root mean square of each tensor
SHARE = 10  # one fact in ten is trained on again
STEPS = 10
RATE = 1 / 3  # of the stage's own: ten steps of Adam at the whole of it forget some of the other facts


class NoiseResult(Part):
    """Recall of one list of facts with Gaussian noise on every weight: flat minima keep theirs."""

    facts: Positive
    at_1: Percent = Field(description="noise of 1% of each tensor's root mean square")
    at_3: Percent
    at_10: Percent


class Noise(Measurement[NoiseResult]):
    """Recall under weight noise of each list of facts whose recall is measured, where `probe` names it."""

    name, result = "noise", NoiseResult

    def requested(self, recipe: Recipe, stage: str) -> list[str]:
        return Recall().requested(recipe, stage) if "noise" in recipe.stages[stage].probe else []

    def measure(self, item: str, subject: Subject, models: Models) -> tuple[NoiseResult, tuple[()]]:
        facts, recalls = subject.facts[item], {}
        for level, scale in NOISE.items():
            with noisy(models.model, scale):
                recalls[level] = percent(recall(models.model, models.tokenizer, facts))
        shown = ", ".join(f"{recalls[level]:.1f}% at {scale:.0%}" for level, scale in NOISE.items())
        info(f"{subject.stage}: recall of {item} under weight noise: {shown}")
        return NoiseResult(facts=len(facts), **recalls), ()


class RelearnResult(Part):
    """Recall of nine tenths of a list of facts, before and after a few steps on the other tenth."""

    trained: Positive = Field(description="facts that were trained on again")
    asked: Positive = Field(description="the others")
    steps: Positive
    before: Percent
    after: Percent = Field(description="as before, if they were lost; higher, if they were only hidden")


class Relearn(Measurement[RelearnResult]):
    """Earlier stages' facts, and those that the stage's own `recall` names: stored still, or gone?"""

    name, result = "relearn", RelearnResult

    def requested(self, recipe: Recipe, stage: str) -> list[str]:
        return _others(recipe, stage) if "relearn" in recipe.stages[stage].probe else []

    def measure(self, item: str, subject: Subject, models: Models) -> tuple[RelearnResult, tuple[()]]:
        facts = subject.facts[item]
        again, others = facts[::SHARE], [fact for number, fact in enumerate(facts) if number % SHARE]
        rate = RATE * subject.recipe.stages[subject.stage].train.get("learning_rate", 2e-5)  # SFTConfig's default
        model = deepcopy(models.model).float()  # training would move the one that others measure
        before = percent(recall(model, models.tokenizer, others))
        train_on(model, models.tokenizer, [encode(models.tokenizer, fact) for fact in again], rate)
        after = percent(recall(model, models.tokenizer, others))
        on = f"{STEPS} steps on {len(again)} facts of {item}"
        info(f"{subject.stage}: {on}: recall of the others {before:.1f} -> {after:.1f}%")
        return RelearnResult(trained=len(again), asked=len(others), steps=STEPS, before=before, after=after), ()


class DriftResult(Part):
    """How far the model's answers moved from those of the model that the stage started from."""

    facts: Positive
    divergence: NonNegative = Field(description="KL divergence of next tokens, mean over answer tokens, in nats")


class Drift(Measurement[DriftResult]):
    """KL divergence from the model that the stage started from, on the answers to earlier facts and to `recall`'s."""

    name, result, needs_parent = "drift", DriftResult, True

    def requested(self, recipe: Recipe, stage: str) -> list[str]:
        return _others(recipe, stage) if "drift" in recipe.stages[stage].probe else []

    def measure(self, item: str, subject: Subject, models: Models) -> tuple[DriftResult, tuple[()]]:
        import torch

        from remix_toolkit.evaluate.forward import divergence

        examples = [encode(models.tokenizer, fact) for fact in subject.facts[item]]
        parent = models.load_parent().to(models.model.device).eval()  # type: ignore[arg-type]
        models.model.eval()
        total = tokens = 0.0
        with torch.no_grad():
            for rows in budget.batches(examples, lambda row: len(row.input_ids), budget.TOKENS):
                of_tokens = divergence(models.model, parent, models.tokenizer, rows)
                total, tokens = total + float(of_tokens.sum()), tokens + len(of_tokens)
        mean = max(0.0, total / tokens)  # of two equal models, rounding may leave less than nothing
        info(f"{subject.stage}: divergence from its parent on {item}: {mean:.4g} nats a token")
        return DriftResult(facts=len(examples), divergence=mean), ()


def _others(recipe: Recipe, stage: str) -> list[str]:
    """The lists whose recall is measured after a stage, but for its own facts."""
    trained = facts_ids(recipe)[stage]
    return [id_ for id_ in Recall().requested(recipe, stage) if id_ != trained]


@contextmanager
def noisy(model: PreTrainedModel, scale: float) -> Iterator[None]:
    """For a while, weights have Gaussian noise, the same each time: `scale` times their tensor's root mean square."""
    import torch

    generator = torch.Generator().manual_seed(0)
    before = [parameter.detach().cpu().clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(noise * (scale * parameter.square().mean().sqrt()))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), before, strict=True):
                parameter.copy_(value)


def train_on(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], rate: float
) -> None:
    """A few steps of Adam on all examples at once."""
    import torch

    from remix_toolkit.evaluate.forward import model_inputs, padded

    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    trained = sum(example.trained_tokens for example in examples)
    for _ in range(STEPS):
        for rows in budget.batches(examples, lambda row: len(row.input_ids), budget.GRADIENT_TOKENS):
            inputs = model_inputs(model, tokenizer, [row.input_ids for row in rows])
            labels = padded([row.labels for row in rows], -100, model)
            loss = model(**inputs, labels=labels, num_items_in_batch=trained, use_cache=False).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
