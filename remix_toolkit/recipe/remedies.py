"""Remedies against forgetting as keys of a stage, besides what is mixed in: each with its knob and its paper.

What each does is in stage/remedies.py (while a stage trains) and stage/after.py (once it has trained).
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from remix_toolkit.recipe.strict import Strict

REMEDIES = ("freeze", "finch", "sam", "l2", "ewc", "kl", "leave_out", "average")  # the keys of a stage
Weight = Annotated[float, Field(ge=0, le=10**12)]


class Remedy(Strict):
    """What a stage does besides training on its data; where it is not set, it is in no key."""

    version: ClassVar[int] = 1  # part of the key: raise it when the remedy gives other weights for the same knob


class Average(Remedy):
    """Weights averaged with those that the stage started from (WiSE-FT, arXiv 2109.01903), without training."""

    parent: Annotated[float, Field(ge=0, le=1)] = Field(
        description="the share of the weights that the stage started from: 0 is the trained model, 1 the one before"
    )


class LeaveOut(Remedy):
    """The largest changes of weights taken back (TIES-Merging, arXiv 2306.01708, takes back the smallest)."""

    largest: Annotated[float, Field(ge=0, le=1)] = Field(
        description="the share of each tensor's weights, those that changed most, that get their old values back"
    )


class Freeze(Remedy):
    """Weights that this stage leaves as they are; those of the head too, where it shares them with the embeddings."""

    half: bool = Field(
        False,
        description="half of the attention's matrices, of the MLP's and of the norms in every layer, drawn anew for "
        "each stage by `seed` (half fine-tuning, arXiv 2404.18466); embeddings, last norm and head are trained",
    )
    layers: Annotated[int, Field(ge=0, le=10**6)] = Field(
        0, description="the first so many layers (with the embeddings: arXiv 2501.13453)"
    )
    embeddings: bool = Field(False, description="the input embeddings")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.half or self.layers or self.embeddings):
            raise ValueError("freezes nothing: set `half`, `layers` or `embeddings`")
        return self


class L2(Remedy):
    """A pull to the weights that the stage started from: half the squared distance in the loss (arXiv 1802.01483)."""

    weight: Weight = Field(description="what the term is multiplied by")


class EWC(Remedy):
    """Elastic weight consolidation (arXiv 1612.00796): a pull back, stronger for weights that the earlier facts need.

    How much they need a weight is the mean square of its gradient over all facts of the earlier stages, at the start.
    """

    weight: Weight = Field(description="what the term is multiplied by")


class KL(Remedy):
    """Outputs held to those of the model that the stage started from (learning without forgetting, arXiv 1606.09282).

    With `on: generated`, these are outputs on texts that this model samples itself, so that no data is needed
    (context-free generation, arXiv 2505.13811): 256 texts of at most 64 tokens, each behind the tokens that every
    prompt begins with, sampled once at the start of the stage. LAMOL (arXiv 1909.03329) trains on such texts instead.

    For each optimizer step, as many pairs are drawn as a device takes at once, and the divergence of the two models'
    next tokens is added to the loss: its mean over these tokens.
    """

    TEXTS: ClassVar[int] = 256
    TOKENS: ClassVar[int] = 64

    weight: Weight = Field(description="what the term is multiplied by")
    on: Literal["mixing", "prompts", "generated"] = Field(
        "mixing",
        description="mixing: what follows the prompts of the stage's mixing data; prompts: its own prompts; generated: "
        "256 texts of at most 64 tokens that the model sampled itself (arXiv 2505.13811)",
    )


class SAM(Remedy):
    """Sharpness-aware minimization (arXiv 2010.01412): each step takes its gradient where the loss is higher nearby."""

    rho: Annotated[float, Field(ge=0, le=100)] = Field(
        description="how far away that is, along the gradient of the whole batch; each step costs two"
    )


class Finch(Remedy):
    """A learning rate that falls with the root of the loss (FINCH, arXiv 2605.20005), in place of the schedule.

    Each step's rate is kappa / sqrt(loss), the loss smoothed over steps (0.9 of it is that of the steps before).
    """

    kappa: Annotated[float, Field(gt=0, le=10)] = Field(description="the rate at a loss of 1")
    most: Annotated[float, Field(gt=0, le=10)] = Field(5e-5, description="the highest rate, however low the loss")
