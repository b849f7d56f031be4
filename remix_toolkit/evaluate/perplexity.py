"""Perplexity of generic text that no stage trains on: what the model has lost besides facts, measured offline."""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from remix_toolkit.data.encoding import Example, text_ids
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.base import Measurement, Models, Subject
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.yaml_file import read_text
from remix_toolkit.records import Part, Positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PASSAGES, WORDS = 16, 50
MODULES = ("argparse", "cmd", "configparser", "json", "pdb", "re", "sched", "statistics")  # imported anyway, or quickly


class TextPerplexity(Part):
    """The perplexity of one text."""

    perplexity: Annotated[float, Field(ge=1)]
    tokens: Positive


class Perplexity(Measurement[TextPerplexity]):
    """Perplexity of the text that `evaluate.text` names."""

    name, result, of_base = "perplexity", TextPerplexity, True

    def requested(self, recipe: Recipe, stage: str) -> list[str]:
        return [recipe.evaluate.text]

    def check(self, subject: Subject) -> None:
        passages(subject.recipe.evaluate.text)

    def measure(self, item: str, subject: Subject, models: Models) -> tuple[TextPerplexity, tuple[()]]:
        return perplexity(models.model, models.tokenizer, item), ()


def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> TextPerplexity:
    """Perplexity over the text's passages, each on its own, as plain text without Tulu turns.

    `text` is the value of `evaluate.text`. Raises BadInput for a text of less than one passage.
    """
    from remix_toolkit.evaluate.forward import example_losses, mean_loss

    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = text_ids(tokenizer, list(passages(text)))
    losses = example_losses(model, tokenizer, [Example([*bos, *row], [*([-100] * len(bos)), *row]) for row in ids])
    return TextPerplexity(perplexity=math.exp(mean_loss(losses)), tokens=sum(tokens for _, tokens in losses))


@cache
def passages(text: str) -> tuple[str, ...]:
    """The text's first 16 passages of 50 words. Raises BadInput for a text of less than one passage."""
    if text == "docstrings":  # of Python's own library, on every machine; pydoc's topics may be mixed into a stage
        words = " ".join(import_module(name).__doc__ or "" for name in MODULES).split()
    else:
        words = read_text(Path(text)).split()
    if len(words) < WORDS:
        raise BadInput(f"evaluate.text: {text}: {len(words)} words, and a passage has {WORDS}")
    whole = range(0, len(words) // WORDS * WORDS, WORDS)
    return tuple(" ".join(words[start : start + WORDS]) for start in whole)[:PASSAGES]
