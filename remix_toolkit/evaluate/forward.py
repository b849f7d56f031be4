"""What measurements have a model do: give the logits of trained tokens, losses, and greedy answers."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, TypeVar

import torch
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from remix_toolkit.data.encoding import Example, prompt_ids
from remix_toolkit.data.pair import Pair

T = TypeVar("T")
Tokens = list[int]

LOSS_BATCH = 16
# Two runs of one model differ in the last bits when batch shapes differ, so that they may disagree on the best token
# where it leads the second one by no more than this (logits).
NEAR_TIE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}


@dataclass(frozen=True)
class Prefix:
    """Tokens that the prompts of some rows begin with alike, and the model's keys and values of them."""

    ids: Tokens = field(default_factory=list)
    cache: Cache | None = None

    def inputs(self, rows: int) -> dict[str, Any]:
        """What a model is given with so many rows that begin with it; it adds to that cache."""
        if self.cache is None:
            return {}
        cache = deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return {"past_key_values": cache}


NO_PREFIX = Prefix()


@torch.no_grad()
def shared_prefix(model: PreTrainedModel, prompts: Sequence[Tokens]) -> Prefix:
    """What all prompts begin with, but for at least one token, run through the model once."""
    columns = zip(*prompts, strict=False)
    ids = [tokens[0] for tokens in takewhile(lambda tokens: len(set(tokens)) == 1, columns)]
    ids = ids[: min(map(len, prompts)) - 1]
    if not ids:
        return NO_PREFIX
    outputs = model(input_ids=torch.tensor([ids], device=model.device), use_cache=True, logits_to_keep=1)
    return Prefix(ids, outputs.past_key_values)


def batches(rows: Sequence[T], size: int) -> list[Sequence[T]]:
    """The rows in order, `size` at a time."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def model_inputs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Tokens], side: str = "right"
) -> dict[str, torch.Tensor]:
    """Rows of tokens as a model takes them, padded on one side."""
    masks = [[1] * len(row) for row in rows]
    ids = _padded(rows, tokenizer.pad_token_id, model, side)
    return {"input_ids": ids, "attention_mask": _padded(masks, 0, model, side)}


def _padded(rows: Sequence[Tokens], value: int, model: PreTrainedModel, side: str = "right") -> torch.Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side).to(model.device)


def trained_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], prefix: Prefix = NO_PREFIX
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (examples, columns, vocabulary) and the tokens they predict, -100 where none is trained on.

    Only the columns in which some example has a trained token go through the output head. Columns begin behind the
    prefix, which all examples begin with.
    """
    start = len(prefix.ids)
    labels = _padded([e.labels[start:] for e in examples], -100, model)
    targets = pad(labels[:, 1:], (0, 1), value=-100)
    columns = (targets != -100).any(dim=0).nonzero().squeeze(-1)
    inputs = model_inputs(model, tokenizer, [e.input_ids[start:] for e in examples])
    inputs["attention_mask"] = pad(inputs["attention_mask"], (start, 0), value=1)
    logits = model(**inputs, **prefix.inputs(len(examples)), logits_to_keep=columns, use_cache=False).logits
    return logits, targets[:, columns]


@torch.no_grad()
def best_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], prefix: Prefix = NO_PREFIX
) -> list[tuple[Tokens, Tokens, list[bool]]]:
    """For each example its trained tokens, the model's best token in place of each, and whether that is a near tie."""
    logits, targets = trained_logits(model, tokenizer, examples, prefix)
    values, tokens = logits.float().topk(2, dim=-1)
    ties = (values[..., 0] - values[..., 1] <= NEAR_TIE[logits.dtype]).cpu()
    gold, best, trained = targets.cpu(), tokens[..., 0].cpu(), (targets != -100).cpu()
    rows = zip(gold, best, ties, trained, strict=True)
    return [(g[kept].tolist(), b[kept].tolist(), tie[kept].tolist()) for g, b, tie, kept in rows]


@torch.no_grad()
def example_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> list[tuple[float, int]]:
    """For each example, in order, the summed loss over its trained tokens, in nats, and their number."""
    model.eval()
    by_length = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
    losses: dict[int, tuple[float, int]] = {}
    for rows in batches(by_length, LOSS_BATCH):
        logits, targets = trained_logits(model, tokenizer, [examples[i] for i in rows])
        loss = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        tokens = (targets != -100).sum(dim=1)
        losses |= dict(zip(rows, zip(loss.sum(dim=1).tolist(), tokens.tolist(), strict=True), strict=True))
    return [losses[i] for i in range(len(examples))]


def mean_loss(losses: Sequence[tuple[float, int]]) -> float:
    """The mean over all trained tokens of some examples, from the losses of each."""
    return sum(loss for loss, _ in losses) / max(sum(tokens for _, tokens in losses), 1)


def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    limit: int,
    stop: Callable[[list[Tokens]], list[bool]] | None = None,
    prefix: Prefix = NO_PREFIX,
) -> list[Tokens]:
    """The tokens that greedy decoding adds to each prompt, at most `limit`, EOS and padding behind it included.

    After each token, `stop` is given those of each row so far and says which rows are at their end.
    """
    start = torch.tensor([prefix.ids] * len(pairs), dtype=torch.long, device=model.device)
    rows = [prompt_ids(tokenizer, pair.prompt, pair.plain)[start.shape[1] :] for pair in pairs]
    prompts = model_inputs(model, tokenizer, rows, "left")  # padded behind the prefix
    prompts["input_ids"] = torch.cat([start, prompts["input_ids"]], dim=1)
    prompts["attention_mask"] = pad(prompts["attention_mask"], (start.shape[1], 0), value=1)
    width = prompts["input_ids"].shape[1]

    def stopped(input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        assert stop
        return torch.tensor(stop(input_ids[:, width:].tolist()), device=input_ids.device)

    # Set as the model's: transformers takes from there whatever is not given, and a penalty there would not be greedy.
    model.generation_config = GenerationConfig(
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    criteria = StoppingCriteriaList([stopped] if stop else [])
    ended = model.generate(**prompts, **prefix.inputs(len(pairs)), stopping_criteria=criteria)  # type: ignore[operator]
    return [row[width:] for row in ended.tolist()]
