"""Whether a model's wrong answers are right ones of other facts."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def right_answers(gold: "Sequence[pa.ChunkedArray]") -> list[str]:
    """All of the right answers to some lists of facts, as they are compared, sorted."""
    return sorted({answer.strip().lower() for of in gold for answers in of.to_pylist() for answer in answers})


def share_of(texts: Sequence[str], wrong: Sequence[str], complete: Sequence[bool]) -> tuple[float, float]:
    """How many of some wrong answers are among these sorted texts, in percent: at least, and at most.

    An answer that is not `complete`, because scoring cut it off, may still become one that begins like it.
    """
    matching = [whole for text, whole in zip(wrong, complete, strict=True) if _begins_one(text, whole, texts)]
    return 100 * sum(matching) / len(wrong), 100 * len(matching) / len(wrong)


def _begins_one(answer: str, complete: bool, texts: Sequence[str]) -> bool:
    """Is an answer one of these sorted texts or, where it was cut off, the beginning of one?"""
    text = (answer if complete else answer.removesuffix("...").rstrip("\ufffd")).strip().lower()
    at = bisect_left(texts, text)
    return at < len(texts) and (texts[at] == text if complete else texts[at].startswith(text))
