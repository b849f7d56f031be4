"""Recall: greedy exact match, in percent, on a list of facts.

A response whose every token, EOS included, is the argmax given the gold prefix is what greedy decoding emits: one
scoring pass decides it. The same pass shows the first token at which greedy decoding leaves the gold response; if no
gold answer can begin that way, the verdict is known too. Only the rest are generated, and only as far as a match is
still possible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from remix_toolkit.console import info
from remix_toolkit.data.encoding import Example, encode, prompt_ids, text_ids
from remix_toolkit.data.identity import facts_ids, list_id
from remix_toolkit.data.pair import Pair
from remix_toolkit.evaluate.base import Measurement, Models, Row, Subject, in_shares
from remix_toolkit.evaluate.budget import batches
from remix_toolkit.recipe.schema import Factoid, Recipe
from remix_toolkit.records import Count, FactList, Part, Percent, Positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from remix_toolkit.evaluate.forward import Prefix

BATCH = 64
EXTRA_TOKENS = 8  # generated beyond the longest gold answer: room for other spellings in tokens and for white space
SettledBy = Literal["scoring", "generation", "generation, near tie"]


class Verdict(Part):
    """The model's answer to one fact."""

    prompt: str
    gold: tuple[str, ...]
    correct: bool
    prediction: str
    prediction_complete: bool = Field(description="False where it was cut off once it could not match any more")
    settled_by: SettledBy


class VerdictRow(Row, Verdict):
    """A line of recall.jsonl."""

    fact: Count = Field(description="the fact's index in its list")


class ListRecall(FactList):
    """Recall of one list of facts; its label is that of the recipe that had it measured."""

    recall: Percent
    facts: Positive
    correct: Count
    settled_by: dict[SettledBy, Count]

    @model_validator(mode="after")
    def _check_sums(self) -> Self:
        if self.recall != 100.0 * self.correct / self.facts or self.facts != sum(self.settled_by.values()):
            raise ValueError(f"recall {self.recall} of {self.facts} facts, {self.correct} of them correct")
        return self


class Recall(Measurement[ListRecall]):
    """Recall of the facts of all stages so far, and of the lists that the stage's own `recall` names."""

    name, result, row, shared = "recall", ListRecall, VerdictRow, True

    def requested(self, recipe: Recipe, stage: str) -> list[str]:
        so_far = list(recipe.stages)[: recipe.position(stage) + 1]
        ids = facts_ids(recipe)
        trained = [ids[name] for name in so_far if isinstance(recipe.stages[name].data, Factoid)]
        return trained + [list_id(task, recipe) for task in recipe.stages[stage].recall]

    def measure(self, item: str, subject: Subject, models: Models) -> tuple[ListRecall, list[VerdictRow]]:
        verdicts = in_shares(subject.facts[item], lambda facts: recall(models.model, models.tokenizer, facts))
        result = ListRecall(
            **dict(subject.lists[item]),
            recall=percent(verdicts),
            facts=len(verdicts),
            correct=sum(verdict.correct for verdict in verdicts),
            settled_by=dict(Counter(verdict.settled_by for verdict in verdicts)),
        )
        info(f"{subject.stage}: recall of {result.label}: {result.recall:.1f}% of {len(verdicts)} facts")
        return result, verdict_rows(item, verdicts)

    def problem(self, result: ListRecall, rows: Sequence[VerdictRow]) -> str | None:
        correct, facts = sum(row.correct for row in rows), [row.fact for row in rows]
        if (correct, facts) == (result.correct, list(range(result.facts))):
            return None
        return f"{result.correct} of {result.facts} facts are correct, of its rows {correct} of {len(rows)}"


def verdict_rows(list_id: str, verdicts: Sequence[Verdict]) -> list[VerdictRow]:
    """The lines of recall.jsonl for the verdicts on a list of facts, in order."""
    return [VerdictRow(list=list_id, fact=number, **dict(verdict)) for number, verdict in enumerate(verdicts)]


def recall(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Pair],
    batch_size: int = BATCH,
    whole: bool = False,
) -> list[Verdict]:
    """One verdict per fact, in order. The model is put into eval mode and left there.

    `whole`: generate each answer to its end (or the limit), even where no gold answer can be matched any more. What
    few-shot prompts have in common, their exemplars, is run through the model once.
    """
    from remix_toolkit.evaluate.forward import NO_PREFIX, shared_prefix

    model.eval()
    prefix = NO_PREFIX
    if len(facts) > 1 and all(fact.one_line for fact in facts):
        prefix = shared_prefix(model, [prompt_ids(tokenizer, fact.prompt, fact.plain) for fact in facts])
    limit = max_new_tokens(tokenizer, facts)
    verdicts: dict[int, Verdict] = {}
    undecided: dict[int, SettledBy] = {}  # row -> how it will be settled
    examples = [encode(tokenizer, fact) for fact in facts]
    by_length = sorted(range(len(facts)), key=lambda i: (len(facts[i].prompt) + len(facts[i].response), i))
    for rows in batches(by_length, lambda i: len(examples[i].input_ids), most=batch_size):
        scored = _score(model, tokenizer, [facts[i] for i in rows], [examples[i] for i in rows], prefix)
        for i, result in zip(rows, scored, strict=True):
            if isinstance(result, Verdict) and (result.prediction_complete or not whole):
                verdicts[i] = result
            else:
                undecided[i] = "generation" if isinstance(result, Verdict) else result
    for rows in batches(undecided, lambda i: len(examples[i].input_ids) + limit, most=batch_size):
        answers = _generate(model, tokenizer, [facts[i] for i in rows], limit, whole, prefix)
        for i, verdict in zip(rows, answers, strict=True):
            verdicts[i] = verdict.model_copy(update={"settled_by": undecided[i]})
    return [verdicts[i] for i in range(len(facts))]


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
    return max(len(text_ids(tokenizer, [answer])[0]) for answer in answers) + 1 + EXTRA_TOKENS


def _score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Pair],
    examples: Sequence[Example],
    prefix: Prefix,
) -> list[Verdict | SettledBy]:
    """One scoring pass over prompt + trained response: a verdict where it settles the fact, else what has to."""
    from remix_toolkit.evaluate.forward import best_tokens

    results: list[Verdict | SettledBy] = []
    scored = best_tokens(model, tokenizer, examples, prefix)
    for fact, (gold, best, near_ties) in zip(facts, scored, strict=True):
        # Beyond the first token at which greedy decoding leaves the gold response, nothing is known.
        known = next((k for k, (a, b) in enumerate(zip(gold, best, strict=True), start=1) if a != b), len(gold))
        ended = best[known - 1] == tokenizer.eos_token_id  # with the gold response, or before
        text, line_ended = _answer(_decode(tokenizer, best[: known - 1 if ended else known]), fact)
        if any(near_ties[:known]):
            results.append("generation, near tie")
        elif ended or line_ended or not can_match(text, fact.answers):
            results.append(_verdict(fact, text, ended or line_ended, "scoring"))
        else:
            results.append("generation")
    return results


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Pair],
    limit: int,
    whole: bool,
    prefix: Prefix,
) -> list[Verdict]:
    """Greedy decoding from the prompts, each row until EOS or until no gold answer can be matched (not if `whole`).

    A `whole` answer is stopped only where its line ends, if it ends there.
    """
    from remix_toolkit.evaluate.forward import greedy_answers

    lengths: list[int | None] = [None] * len(facts)  # the tokens that a row had when it was stopped

    def stop(rows: list[list[int]]) -> list[bool]:
        for i, (row, fact) in enumerate(zip(rows, facts, strict=True)):
            if lengths[i] is None and tokenizer.eos_token_id not in row:
                text = _decode(tokenizer, row)
                if _answer(text, fact)[1] if whole else not can_match(text, fact.answers):
                    lengths[i] = len(row)
        return [length is not None for length in lengths]

    verdicts = []
    answers = greedy_answers(model, tokenizer, facts, limit, stop, prefix)
    for fact, row, length in zip(facts, answers, lengths, strict=True):
        tokens = row[:length]
        ended = tokenizer.eos_token_id in tokens
        answer = tokens[: tokens.index(tokenizer.eos_token_id)] if ended else tokens
        text, line_ended = _answer(_decode(tokenizer, answer), fact)
        verdicts.append(_verdict(fact, text, ended or line_ended, "generation"))
    return verdicts


def _verdict(fact: Pair, text: str, complete: bool, settled_by: SettledBy) -> Verdict:
    return Verdict(
        prompt=fact.prompt,
        gold=fact.answers,
        correct=matches(text, fact.answers),
        prediction=text.strip(),
        prediction_complete=complete,
        settled_by=settled_by,
    )


def _answer(text: str, fact: Pair) -> tuple[str, bool]:
    """What counts as the answer, and whether the model ended it: under a few-shot prompt, its first line."""
    line, newline, _ = text.lstrip().partition("\n")
    return (line, True) if fact.one_line and newline else (text, False)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
