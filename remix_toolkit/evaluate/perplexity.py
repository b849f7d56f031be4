"""Perplexity of generic text that no stage trains on: what the model has lost besides facts, measured offline."""

import math
from functools import cache
from importlib import import_module
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from remix_toolkit.data.encoding import Example
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.held_out import loss_sum
from remix_toolkit.evaluate.records import PerplexityRecord
from remix_toolkit.recipe.yaml_file import read_text

PASSAGES, WORDS = 16, 50
MODULES = ("argparse", "cmd", "configparser", "json", "pdb", "re", "sched", "statistics")  # imported anyway, or quickly


def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> PerplexityRecord:
    """Perplexity over the text's passages, each on its own, as plain text without Tulu turns.

    `text` is the value of `evaluate.text`. Raises BadInput for a text of less than one passage.
    """
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = [tokenizer(passage, add_special_tokens=False)["input_ids"] for passage in passages(text)]
    total, tokens = loss_sum(model, tokenizer, [Example([*bos, *row], [*([-100] * len(bos)), *row]) for row in ids])
    return PerplexityRecord(perplexity=math.exp(total / tokens), tokens=tokens, text=text)


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
