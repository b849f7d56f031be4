"""What a measurement holds at one time, whatever the model's size: tokens, logits, gradients."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

TOKENS = 2**14  # in one forward pass, padding included; while an answer is generated, those that it may get included
GRADIENT_TOKENS = 2**11  # the same where all activations are kept
LARGEST = 2**26  # numbers in a tensor of logits, or of gradients side by side: 268 MB in fp32
GRADIENTS = 32 * 10**9  # bytes of gradients in the machine's memory at one time


def gradient_passes(parameters: float, parts: int, weight_bytes: float, available: float = GRADIENTS) -> int:
    """In how many passes over the data the gradients of so many parts are computed, each for a share of the weights.

    Of each weight, a pass holds a gradient for each part in the dtype of the weights, its displacement and its value.
    """
    return max(1, math.ceil(parameters * (parts * weight_bytes + 4 + weight_bytes) / available))


def batches(
    rows: Iterable[T], length: Callable[[T], int], tokens: int = TOKENS, most: int | None = None
) -> Iterator[list[T]]:
    """The rows in order, as many at once as have so many tokens when padded to the longest: one at least."""
    batch: list[T] = []
    longest = 0
    for row in rows:
        longest = max(longest, length(row))
        if batch and (len(batch) == most or (len(batch) + 1) * longest > tokens):
            yield batch
            batch, longest = [], length(row)
        batch.append(row)
    if batch:
        yield batch
