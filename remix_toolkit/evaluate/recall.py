"""Recall: greedy exact match, in percent, on a list of facts.

A response whose every token, EOS included, is the argmax given the gold prefix is what greedy decoding emits: one
scoring pass decides it. The same pass shows the first token at which greedy decoding leaves the gold response; if no
gold answer can begin that way, the verdict is known too. Only the rest are generated, and only as far as a match is
still possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from remix_toolkit.data.encoding import Example, encode, prompt_ids
from remix_toolkit.data.pair import Pair
from remix_toolkit.evaluate.records import VerdictRecord

T = TypeVar("T")

BATCH = 64
# Two runs of one model differ in the last bits when batch shapes differ. A verdict is read off the scoring pass only
# where the best token leads the second by more than this (logits); the others are generated and counted.
NEAR_TIE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
EXTRA_TOKENS = 8  # generated beyond the longest gold answer: room for other spellings in tokens and for white space


@dataclass(frozen=True, slots=True)
class Verdict:
    """The model's answer to one fact. `complete` is False where it was cut off because it could no longer match."""

    pair: Pair
    correct: bool
    prediction: str
    complete: bool
    settled_by: Literal["scoring", "generation", "generation, near tie"]


def recall(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Pair],
    batch_size: int = BATCH,
    whole: bool = False,
) -> list[Verdict]:
    """One verdict per fact, in order. The model is put into eval mode and left there.

    `whole`: generate each answer to its end (or the limit), even where no gold answer can be matched any more.
    """
    model.eval()
    limit = max_new_tokens(tokenizer, facts)
    verdicts: dict[int, Verdict] = {}
    open_rows: dict[int, bool] = {}  # row -> was it a near tie?
    by_length = sorted(range(len(facts)), key=lambda i: (len(facts[i].prompt) + len(facts[i].response), i))
    for rows in batches(by_length, batch_size):
        for i, result in zip(rows, _score(model, tokenizer, [facts[i] for i in rows]), strict=True):
            if isinstance(result, Verdict) and (result.complete or not whole):
                verdicts[i] = result
            else:
                open_rows[i] = result == "near tie"
    for rows in batches(list(open_rows), batch_size):
        for i, verdict in zip(rows, _generate(model, tokenizer, [facts[i] for i in rows], limit, whole), strict=True):
            verdicts[i] = replace(verdict, settled_by="generation, near tie") if open_rows[i] else verdict
    return [verdicts[i] for i in range(len(facts))]


def verdict_record(list_id: str, index: int, verdict: Verdict) -> VerdictRecord:
    """A verdict on the fact with this index in its list, as a line of recall.jsonl."""
    return VerdictRecord(
        list=list_id,
        fact=index,
        prompt=verdict.pair.prompt,
        correct=verdict.correct,
        prediction=verdict.prediction,
        prediction_complete=verdict.complete,
        settled_by=verdict.settled_by,
        gold=verdict.pair.answers,
    )


def percent(verdicts: Sequence[Verdict]) -> float:
    """Recall in percent, [0, 100]."""
    return 100.0 * sum(verdict.correct for verdict in verdicts) / len(verdicts)


def matches(text: str, answers: Sequence[str]) -> bool:
    """Exact match as in the paper: stripped and lower-cased on both sides, any gold answer counts."""
    return text.strip().lower() in {answer.strip().lower() for answer in answers}


def can_match(text: str, answers: Sequence[str]) -> bool:
    """Could this unfinished output still become an exact match?"""
    beginning = _open_end(text)
    return any(_open_end(answer).startswith(beginning) for answer in answers)


def _open_end(text: str) -> str:
    # A half-decoded character ends in U+FFFD; a sigma is written otherwise at the end of a word than inside it.
    return text.rstrip("\ufffd").strip().lower().replace("ς", "σ")


def max_new_tokens(tokenizer: PreTrainedTokenizerBase, facts: Sequence[Pair]) -> int:
    """How long an output may get: the longest gold answer of the list in tokens, EOS, and a little room."""
    answers = {answer for fact in facts for answer in fact.answers}
    return max(len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers) + 1 + EXTRA_TOKENS


def greedy(tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> GenerationConfig:
    """Greedy decoding, to be set as the model's own config: transformers takes from there whatever is not given, and a
    penalty there would not be greedy."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )


@torch.no_grad()
def _score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Pair]
) -> list[Verdict | Literal["near tie", "open"]]:
    """One scoring pass over prompt + trained response: a verdict where it settles the fact, or why it does not."""
    logits, targets = trained_logits(model, tokenizer, [encode(tokenizer, fact) for fact in facts])
    best, chosen = logits.float().topk(2, dim=-1)
    lead, greedy = best[..., 0] - best[..., 1], chosen[..., 0]
    bound = NEAR_TIE[logits.dtype]

    results: list[Verdict | Literal["near tie", "open"]] = []
    for fact, gold_row, greedy_row, lead_row in zip(
        facts, targets.tolist(), greedy.tolist(), lead.tolist(), strict=True
    ):
        trained = [i for i, token in enumerate(gold_row) if token != -100]
        gold = [gold_row[i] for i in trained]
        predicted = [greedy_row[i] for i in trained]
        left = next((k for k, (a, b) in enumerate(zip(gold, predicted, strict=True)) if a != b), len(gold))
        predicted = predicted[: left + 1]  # beyond the first token that leaves the gold response, nothing is known
        if min(lead_row[i] for i in trained[: left + 1]) <= bound:
            results.append("near tie")
        elif predicted[-1] == tokenizer.eos_token_id:  # greedy decoding ends here: with the gold response, or before
            text, _ = _answer(_decode(tokenizer, predicted[:-1]), fact)
            results.append(Verdict(fact, matches(text, fact.answers), text.strip(), True, "scoring"))
        elif (line := _answer(_decode(tokenizer, predicted), fact))[1]:
            results.append(Verdict(fact, matches(line[0], fact.answers), line[0].strip(), True, "scoring"))
        elif can_match(text := line[0], fact.answers):
            results.append("open")
        else:
            results.append(Verdict(fact, False, text.strip(), False, "scoring"))
    return results


@torch.no_grad()
def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Pair], limit: int, whole: bool
) -> list[Verdict]:
    """Greedy decoding from the prompts, each row until EOS or until no gold answer can be matched (not if `whole`)."""
    prompts = prompt_batch(model, tokenizer, facts)
    width = prompts["input_ids"].shape[1]
    model.generation_config = greedy(tokenizer, limit)
    stopped = _NoMatchPossible(tokenizer, facts, width, whole)
    out = model.generate(**prompts, stopping_criteria=StoppingCriteriaList([stopped]))  # type: ignore[operator]
    verdicts = []
    for fact, row, cut in zip(facts, out[:, width:].tolist(), stopped.lengths, strict=True):
        generated = row[:cut]
        ended = tokenizer.eos_token_id in generated
        answer = generated[: generated.index(tokenizer.eos_token_id)] if ended else generated
        text, line_ended = _answer(_decode(tokenizer, answer), fact)
        verdicts.append(Verdict(fact, matches(text, fact.answers), text.strip(), ended or line_ended, "generation"))
    return verdicts


class _NoMatchPossible(StoppingCriteria):
    """Stops a row as soon as no gold answer can be matched; `lengths` are the tokens it has by then, else None.

    A `whole` answer is stopped only where its line ends, if it ends there.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Pair], width: int, whole: bool) -> None:
        self.tokenizer, self.facts, self.width, self.whole = tokenizer, facts, width, whole
        self.lengths: list[int | None] = [None] * len(facts)

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        for i, (row, fact) in enumerate(zip(input_ids[:, self.width :].tolist(), self.facts, strict=True)):
            running = self.lengths[i] is None and self.tokenizer.eos_token_id not in row
            text = _decode(self.tokenizer, row) if running else ""
            if running and (_answer(text, fact)[1] if self.whole else not can_match(text, fact.answers)):
                self.lengths[i] = len(row)
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)


def _answer(text: str, fact: Pair) -> tuple[str, bool]:
    """What counts as the answer, and whether the model ended it: under a few-shot prompt, its first line."""
    line, newline, _ = text.lstrip().partition("\n")
    return (line, True) if fact.one_line and newline else (text, False)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def trained_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (examples, columns, vocabulary) and the tokens they predict, -100 where none is trained on.

    Only the columns in which some example has a trained token go through the output head.
    """
    ids = padded([e.input_ids for e in examples], tokenizer.pad_token_id, model)
    labels = padded([e.labels for e in examples], -100, model)
    mask = padded([[1] * len(e.input_ids) for e in examples], 0, model)
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    columns = (targets != -100).any(dim=0).nonzero().squeeze(-1)
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=columns, use_cache=False).logits
    return logits, targets[:, columns]


def prompt_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]
) -> dict[str, torch.Tensor]:
    """The prompts as `generate` takes them, padded on the left."""
    prompts = [prompt_ids(tokenizer, pair.prompt) for pair in pairs]
    width = max(map(len, prompts))
    ids = [[tokenizer.pad_token_id] * (width - len(p)) + p for p in prompts]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
    return {
        "input_ids": torch.tensor(ids, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }


def padded(rows: list[list[int]], value: int, model: PreTrainedModel) -> torch.Tensor:
    """Rows of tokens as one tensor on the model's device, filled up on the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], device=model.device)


def batches(rows: Sequence[T], size: int) -> list[Sequence[T]]:
    """The rows in order, `size` at a time."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]
