"""What mixing costs a stage's own instruction task: the loss on rows of it that are never trained on.

GSM8K's rows also have a result after `####`; there, the share that greedy decoding gets right is measured too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from remix_toolkit.console import info
from remix_toolkit.data.encoding import prompt_ids
from remix_toolkit.data.pair import Pair
from remix_toolkit.evaluate.base import Measurement, Models, Row, Subject, in_shares
from remix_toolkit.evaluate.budget import batches
from remix_toolkit.recipe.schema import Instruction, Recipe
from remix_toolkit.records import Count, NonNegative, Part, Percent, Positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 16
MAX_NEW_TOKENS = 512  # the longest answers of GSM8K have about 400 tokens of a large vocabulary


class HeldOutLoss(Part):
    """The loss on rows of an instruction task that no stage trains on."""

    rows: Positive
    loss: NonNegative = Field(description="mean over the rows' trained tokens, in nats")
    tokens: Count = Field(description="how many tokens that is the mean of")
    accuracy: Percent | None = Field(description="correct results, where the task has results (GSM8K)")


class HeldOutRow(Row):
    """A line of held_out.jsonl: the result of one row, where the task has results (GSM8K)."""

    prompt: str
    gold: str | None
    prediction: str
    correct: bool


class HeldOut(Measurement[HeldOutLoss]):
    """The loss on rows that the stage held out and, where they have results (GSM8K), how many are right."""

    name, result, row, shared = "held_out", HeldOutLoss, HeldOutRow, True

    def requested(self, recipe: Recipe, stage: str) -> list[str]:
        task = recipe.stages[stage].data
        return [f"{task.held_out} rows"] if isinstance(task, Instruction) and task.held_out else []

    def measure(self, item: str, subject: Subject, models: Models) -> tuple[HeldOutLoss, list[HeldOutRow]]:
        from remix_toolkit.evaluate.forward import example_losses, mean_loss

        examples = subject.encode(models.tokenizer, subject.held_out)
        losses = in_shares(examples, lambda share: example_losses(models.model, models.tokenizer, share))
        rows: list[HeldOutRow] = []
        if subject.held_out[0].source == "gsm8k":
            answers = in_shares(subject.held_out, lambda share: answer(models.model, models.tokenizer, share))
            rows = [_row(item, pair, text) for pair, text in zip(subject.held_out, answers, strict=True)]
        result = HeldOutLoss(
            rows=len(subject.held_out),
            loss=mean_loss(losses),
            tokens=sum(tokens for _, tokens in losses),
            accuracy=100.0 * sum(row.correct for row in rows) / len(rows) if rows else None,
        )
        correct = "" if result.accuracy is None else f", {result.accuracy:.1f}% of the results right"
        info(f"{subject.stage}: loss {result.loss:.3f} on {result.rows} held-out rows{correct}")
        return result, rows

    def problem(self, result: HeldOutLoss, rows: Sequence[HeldOutRow]) -> str | None:
        accuracy = 100.0 * sum(row.correct for row in rows) / len(rows) if rows else None
        if accuracy == result.accuracy and len(rows) in (0, result.rows):
            return None
        return f"accuracy {result.accuracy} of {result.rows} rows, of the {len(rows)} that are there {accuracy}"


def held_out_loss(folder: Path) -> HeldOutLoss | None:
    """The loss on the most rows that were measured of a published stage, if any; runs that ask for fewer share it."""
    return max(HeldOut().read(folder).values(), key=lambda result: result.rows, default=None)


def answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[str]:
    """The greedy answer to each row."""
    from remix_toolkit.evaluate.forward import greedy_answers

    def length(pair: Pair) -> int:
        return len(prompt_ids(tokenizer, pair.prompt, pair.plain)) + MAX_NEW_TOKENS

    model.eval()
    asked = batches(pairs, length, most=BATCH)
    answers = [ids for rows in asked for ids in greedy_answers(model, tokenizer, rows, MAX_NEW_TOKENS)]
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in answers]


def _row(item: str, pair: Pair, text: str) -> HeldOutRow:
    """It is correct if the number after `####` is the same."""
    gold = final_number(pair.response)
    return HeldOutRow(list=item, prompt=pair.prompt, gold=gold, prediction=text, correct=final_number(text) == gold)


def final_number(text: str) -> str | None:
    """The number after `####`, without thousands separators and currency; None if there is none."""
    match = re.search(r"####\s*\$?\s*(-?[\d.,]*\d)", text)
    if match is None:
        return None
    number = match[1].replace(",", "")
    return re.sub(r"(\.\d*?)0+$", r"\1", number).removesuffix(".") if "." in number else number
