"""What mixing costs the stage's own task, where that is no list of facts: the loss on rows that it never saw.

GSM8K's rows also have a result after `####`: the share of them that greedy decoding gets right.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from remix_toolkit.data.pair import Pair
from remix_toolkit.data.tulu import Example
from remix_toolkit.evaluate.recall import batches, greedy, prompt_batch, trained_logits

BATCH = 16
MAX_NEW_TOKENS = 512  # GSM8K's longest worked-out answers have about 400 tokens of a large vocabulary


@torch.no_grad()
def loss_sum(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> tuple[float, int]:
    """The summed loss, in nats, over the trained tokens of the examples, and their number."""
    model.eval()
    total, tokens = 0.0, 0
    for rows in batches(sorted(examples, key=lambda e: len(e.input_ids)), BATCH):
        logits, targets = trained_logits(model, tokenizer, rows)
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
        total += float(loss)
        tokens += int((targets != -100).sum())
    return total, tokens


@torch.no_grad()
def results(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """`{prompt, gold, said, correct}` per row: the results after `####` compared as numbers; greedy decoding."""
    model.eval()
    model.generation_config = greedy(tokenizer, MAX_NEW_TOKENS)
    said: list[dict[str, Any]] = []
    for rows in batches(pairs, BATCH):
        prompts = prompt_batch(model, tokenizer, rows)
        out = model.generate(**prompts)[:, prompts["input_ids"].shape[1] :]  # type: ignore[operator]
        for pair, row in zip(rows, out.tolist(), strict=True):
            text = str(tokenizer.decode(row, skip_special_tokens=True))
            gold = result(pair.response)
            said.append({"prompt": pair.prompt, "gold": gold, "said": text, "correct": result(text) == gold})
    return said


def result(text: str) -> str | None:
    """The number after `####`, without signs of thousands or currency; None where there is none."""
    found = re.search(r"####\s*\$?\s*(-?[\d.,]*\d)", text)
    if found is None:
        return None
    number = found[1].replace(",", "")
    return re.sub(r"(\.\d*?)0+$", r"\1", number).removesuffix(".") if "." in number else number
