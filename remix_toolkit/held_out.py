"""What mixing costs the stage's own task, where that is no list of facts: the loss on rows that it never saw.

GSM8K's rows also have a result after `####`: the share of them that greedy decoding gets right.
"""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from remix_toolkit.data.pair import Pair
from remix_toolkit.data.tulu import Example, prompt_ids
from remix_toolkit.recall import greedy

T = TypeVar("T")

BATCH = 16
MAX_NEW_TOKENS = 512  # GSM8K's longest worked-out answers have about 400 tokens of a large vocabulary


@torch.no_grad()
def loss_sum(model: PreTrainedModel, examples: Sequence[Example]) -> tuple[float, int]:
    """The summed loss, in nats, over the trained tokens of the examples, and their number."""
    model.eval()
    total, tokens = 0.0, 0
    for rows in _batches(sorted(examples, key=lambda e: len(e.input_ids))):
        width = max(len(e.input_ids) for e in rows)
        ids = torch.tensor([e.input_ids + [0] * (width - len(e.input_ids)) for e in rows], device=model.device)
        labels = torch.tensor([e.labels + [-100] * (width - len(e.labels)) for e in rows], device=model.device)
        mask = torch.tensor(
            [[1] * len(e.input_ids) + [0] * (width - len(e.input_ids)) for e in rows], device=model.device
        )
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        columns = (targets != -100).any(dim=0).nonzero().squeeze(-1)
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=columns, use_cache=False).logits
        picked = targets[:, columns]
        total += float(
            torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), picked.flatten(), ignore_index=-100, reduction="sum"
            )
        )
        tokens += int((picked != -100).sum())
    return total, tokens


@torch.no_grad()
def results(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """`{prompt, gold, said, correct}` per row: the results after `####` compared as numbers; greedy decoding."""
    model.eval()
    model.generation_config = greedy(tokenizer, MAX_NEW_TOKENS)
    said: list[dict[str, Any]] = []
    for rows in _batches(pairs):
        prompts = [prompt_ids(tokenizer, pair.prompt) for pair in rows]
        width = max(map(len, prompts))
        ids = [[tokenizer.pad_token_id] * (width - len(p)) + p for p in prompts]
        mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
        out = model.generate(  # type: ignore[operator]
            input_ids=torch.tensor(ids, device=model.device), attention_mask=torch.tensor(mask, device=model.device)
        )
        for pair, row in zip(rows, out[:, width:].tolist(), strict=True):
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


def _batches(rows: Sequence[T]) -> list[Sequence[T]]:
    return [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
