"""What measurements have a model do: give the logits of trained tokens, losses, and greedy answers.

The logits of a whole batch are never held: those of 16 rows of 2,048 tokens are 17 GB with a vocabulary of 128,256. The
decoder runs once over a batch, the output head over a few columns of it at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, TypeVar

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, pad
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from remix_toolkit.data.encoding import Example, prompt_ids
from remix_toolkit.data.pair import Pair
from remix_toolkit.evaluate import budget
from remix_toolkit.evaluate.budget import batches

T = TypeVar("T")
Tokens = list[int]
Reduce = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

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


def model_inputs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Tokens], side: str = "right"
) -> dict[str, torch.Tensor]:
    """Rows of tokens as a model takes them, padded on one side."""
    masks = [[1] * len(row) for row in rows]
    ids = padded(rows, tokenizer.pad_token_id, model, side)
    return {"input_ids": ids, "attention_mask": padded(masks, 0, model, side)}


def padded(rows: Sequence[Tokens], value: int, model: PreTrainedModel, side: str = "right") -> torch.Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side).to(model.device)


def reduce_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    reduce: Reduce,
    prefix: Prefix = NO_PREFIX,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `reduce` makes of the logits of trained tokens, and these tokens, both (examples, columns, ...).

    `reduce` is given logits (examples, columns, vocabulary) and the tokens that they predict, -100 where none is
    trained on, a few columns at a time. Only the columns in which some example has a trained token go through the
    output head. Columns begin behind the prefix, which all examples begin with.
    """
    start = len(prefix.ids)
    labels = padded([e.labels[start:] for e in examples], -100, model)
    targets = pad(labels[:, 1:], (0, 1), value=-100)
    columns = (targets != -100).any(dim=0).nonzero().squeeze(-1)
    inputs = model_inputs(model, tokenizer, [e.input_ids[start:] for e in examples])
    inputs["attention_mask"] = pad(inputs["attention_mask"], (start, 0), value=1)
    chunks = columns.split(max(1, budget.LARGEST // (len(examples) * vocabulary(model))))
    reduced: list[torch.Tensor] = []

    def use_states(_module: object, _inputs: object, outputs: Any) -> None:
        hook.remove()  # the decoder is not run again below
        if (states := getattr(outputs, "last_hidden_state", None)) is None:
            return
        states = states[:, columns]
        # In a backward pass, each chunk gives its share of the states' gradient, which goes through the decoder once.
        leaf = states.detach().requires_grad_(states.requires_grad)
        for part, chunk in zip(leaf.split(len(chunks[0]), dim=1), chunks, strict=True):
            reduced.append(reduce(logits_of(model, outputs, part), targets[:, chunk]))
        if leaf.grad is not None:
            states.backward(leaf.grad)

    def run(kept: int | torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(
            **inputs, **prefix.inputs(len(examples)), logits_to_keep=kept, use_cache=False
        ).logits
        return logits

    hook = model.get_decoder().register_forward_hook(use_states)
    try:
        run(1)  # in which all happens: under FSDP, processes have to agree on how many forward passes there are
    finally:
        hook.remove()
    if not reduced:  # a few architectures do not go through get_decoder(): they are run again for each chunk
        reduced = [reduce(run(chunk), targets[:, chunk]) for chunk in chunks]
    return torch.cat(reduced, dim=1), targets[:, columns]


def divergence(
    model: PreTrainedModel,
    start: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Example],
    of_prompts: bool = False,
) -> torch.Tensor:
    """KL divergence of a model's next tokens from those of another one, for each trained token of some rows, (tokens,).

    `of_prompts`: for the tokens of the prompts instead. Gradients are the model's alone.
    """
    inputs = model_inputs(model, tokenizer, [row.input_ids for row in rows])
    trained = padded([row.labels for row in rows], -100, model)[:, 1:] != -100
    counted = inputs["attention_mask"][:, 1:].bool() & ~trained if of_prompts else trained
    columns = counted.any(dim=0).nonzero().squeeze(-1)
    with torch.no_grad():
        before = log_softmax(start(**inputs, logits_to_keep=columns, use_cache=False).logits.float(), dim=-1)
    after = log_softmax(model(**inputs, logits_to_keep=columns, use_cache=False).logits.float(), dim=-1)
    return kl_div(after, before, reduction="none", log_target=True).sum(dim=-1)[counted[:, columns]]


def vocabulary(model: PreTrainedModel) -> int:
    """How many logits the model gives for a token."""
    return int(model.config.get_text_config().vocab_size)


def logits_of(model: PreTrainedModel, outputs: Any, states: torch.Tensor) -> torch.Tensor:
    """The model's logits where its decoder, whose `outputs` are given, had ended in these states (rows, columns, size).

    It is the model's own forward pass without its decoder: bias, scale and soft cap of the logits are as it has them.
    """
    with _giving(model.get_decoder(), replace(outputs, last_hidden_state=states)):
        ids = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
        logits: torch.Tensor = model.forward(input_ids=ids, use_cache=False).logits
    return logits


@contextmanager
def _giving(decoder: torch.nn.Module, outputs: Any) -> Iterator[None]:
    """For a while, the decoder gives these outputs, whatever its inputs."""
    before = vars(decoder).get("forward")  # accelerate may have set one
    decoder.forward = lambda *_, **__: outputs
    try:
        yield
    finally:
        if before:
            decoder.forward = before
        else:
            del decoder.forward


@torch.no_grad()
def best_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], prefix: Prefix = NO_PREFIX
) -> list[tuple[Tokens, Tokens, list[bool]]]:
    """For each example its trained tokens, the model's best token in place of each, and whether that is a near tie."""

    def best(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        values, tokens = logits.float().topk(2, dim=-1)
        ties = values[..., 0] - values[..., 1] <= NEAR_TIE[logits.dtype]
        return torch.stack([tokens[..., 0], ties], dim=-1)

    scored, targets = reduce_logits(model, tokenizer, examples, best, prefix)
    rows = zip(targets.cpu(), scored.cpu(), (targets != -100).cpu(), strict=True)
    return [(gold[kept].tolist(), row[kept, 0].tolist(), row[kept, 1].bool().tolist()) for gold, row, kept in rows]


@torch.no_grad()
def example_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> list[tuple[float, int]]:
    """For each example, in order, the summed loss over its trained tokens, in nats, and their number."""
    model.eval()
    lengths = [len(example.input_ids) for example in examples]
    losses: dict[int, tuple[float, int]] = {}
    for rows in batches(sorted(range(len(examples)), key=lengths.__getitem__), lengths.__getitem__, most=LOSS_BATCH):
        loss, targets = reduce_logits(model, tokenizer, [examples[i] for i in rows], token_losses)
        tokens = (targets != -100).sum(dim=1)
        losses |= dict(zip(rows, zip(loss.sum(dim=1).tolist(), tokens.tolist(), strict=True), strict=True))
    return [losses[i] for i in range(len(examples))]


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of each token in nats, (examples, columns), 0 where none is trained on."""
    return cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


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
