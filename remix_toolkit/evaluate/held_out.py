"""What mixing costs a stage's own instruction task: the loss on rows of it that are never trained on.

GSM8K's rows also have a result after `####`; there, the share that greedy decoding gets right is measured too.
"""

import re
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from remix_toolkit.data.encoding import Example
from remix_toolkit.data.pair import Pair
from remix_toolkit.evaluate.recall import batches, greedy, prompt_batch, trained_logits
from remix_toolkit.evaluate.records import HeldOutRow

BATCH = 16
MAX_NEW_TOKENS = 512  # the longest answers of GSM8K have about 400 tokens of a large vocabulary


def loss_sum(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> tuple[float, int]:
    """The summed loss, in nats, over the trained tokens of the examples, and their number."""
    losses = example_losses(model, tokenizer, examples)
    return sum(loss for loss, _ in losses), sum(tokens for _, tokens in losses)


@torch.no_grad()
def example_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> list[tuple[float, int]]:
    """For each example, in order, the summed loss over its trained tokens, in nats, and their number."""
    model.eval()
    by_length = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
    losses: dict[int, tuple[float, int]] = {}
    for rows in batches(by_length, BATCH):
        logits, targets = trained_logits(model, tokenizer, [examples[i] for i in rows])
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        sums, tokens = loss.view(targets.shape).sum(dim=1), (targets != -100).sum(dim=1)
        losses |= dict(zip(rows, zip(sums.tolist(), tokens.tolist(), strict=True), strict=True))
    return [losses[i] for i in range(len(examples))]


@torch.no_grad()
def answer_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[HeldOutRow]:
    """The greedy answer to each row; it is correct if the number after `####` is the same."""
    model.eval()
    model.generation_config = greedy(tokenizer, MAX_NEW_TOKENS)
    answers: list[HeldOutRow] = []
    for rows in batches(pairs, BATCH):
        prompts = prompt_batch(model, tokenizer, rows)
        out = model.generate(**prompts)[:, prompts["input_ids"].shape[1] :]  # type: ignore[operator]
        for pair, ids in zip(rows, out.tolist(), strict=True):
            text, gold = str(tokenizer.decode(ids, skip_special_tokens=True)), result(pair.response)
            answers.append(HeldOutRow(prompt=pair.prompt, gold=gold, prediction=text, correct=result(text) == gold))
    return answers


def result(text: str) -> str | None:
    """The number after `####`, without thousands separators and currency; None if there is none."""
    match = re.search(r"####\s*\$?\s*(-?[\d.,]*\d)", text)
    if match is None:
        return None
    number = match[1].replace(",", "")
    return re.sub(r"(\.\d*?)0+$", r"\1", number).removesuffix(".") if "." in number else number
