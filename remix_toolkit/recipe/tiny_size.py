"""The sizes of the tiny base model: `tiny` and, named by hidden size and layers, others, such as `tiny-128x2`."""

import re
from dataclasses import dataclass

NAME = re.compile(r"tiny-(\d{1,5})x(\d{1,5})")
VOCABULARY = 1024
HEADS = 4
LARGEST, DEEPEST = 2048, 64  # beyond these, nobody would call it tiny


@dataclass(frozen=True)
class TinySize:
    """A Llama's sizes, and the standard deviation of the random weights that it starts from."""

    hidden: int
    layers: int
    initializer_range: float

    @property
    def intermediate(self) -> int:
        """The size of the MLP."""
        return self.hidden * 11 // 4

    @property
    def parameters(self) -> int:
        """How many weights the model has."""
        layer = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return 2 * VOCABULARY * self.hidden + self.layers * layer + self.hidden


def tiny_size(base: str) -> TinySize | None:
    """The size of a tiny base model; None for any other base.

    `tiny` has the weights that transformers draws by default, 0.02. Others have 1 / sqrt(hidden), which is more: a
    narrow model learns facts in a third of the epochs then.
    """
    if base == "tiny":
        return TinySize(256, 4, 0.02)
    if not (sizes := NAME.fullmatch(base)):
        return None
    hidden, layers = map(int, sizes.groups())
    return TinySize(hidden, layers, round(max(hidden, 1) ** -0.5, 4))


def problem(base: str) -> str | None:
    """What is wrong with the sizes that a base's name gives, or None."""
    size = tiny_size(base)
    if size is None or (0 < size.hidden <= LARGEST and size.hidden % (2 * HEADS) == 0 and 0 < size.layers <= DEEPEST):
        return None
    return (
        f"{base}: is no size of the tiny model; tiny-HIDDENxLAYERS is expected, such as tiny-128x2: a hidden size of "
        f"at most {LARGEST:,} that {2 * HEADS} divides, and 1 to {DEEPEST} layers"
    )
