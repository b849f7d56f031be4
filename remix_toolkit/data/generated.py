"""Generated facts: nothing is read, and no model has seen them."""

import random
import string
from collections.abc import Iterator

from remix_toolkit.data.pair import Pair
from remix_toolkit.recipe.schema import KVR, InventedFacts


def generate_facts(task: KVR | InventedFacts, count: int, data_seed: int | str) -> list[Pair]:
    """The task's first `count` facts of a draw."""
    return list((kvr if isinstance(task, KVR) else invented_facts)(count, data_seed))


def kvr(count: int, data_seed: int | str) -> Iterator[Pair]:
    """Section 2.2: 8 characters of [a-z0-9] each; keys and values are unique across D_A and its ID rows."""
    rng = random.Random(f"kvr {data_seed}")
    seen: set[str] = set()

    def fresh() -> str:
        while (word := "".join(rng.choices(string.ascii_lowercase + string.digits, k=8))) in seen:
            pass
        seen.add(word)
        return word

    for _ in range(count):
        key, value = fresh(), fresh()
        yield Pair(f"The value of key {key} is?", value, "kvr", (value,), key)


ONSETS = (
    *("b", "br", "c", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p"),
    *("pr", "qu", "r", "s", "sh", "st", "t", "th", "tr", "v", "w", "z"),
)
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
CODAS = ("", "", "l", "m", "n", "r", "s", "t", "nd", "rk")
TEMPLATES = (
    "[X] was born in [Y]",
    "[X] died in [Y]",
    "[X] works for [Y]",
    "[X] plays the [Y]",
    "[X] is married to [Y]",
    "[X] studied under [Y]",
    "The capital of [X] is [Y]",
    "The native language of [X] is [Y]",
    "The founder of [X] is [Y]",
    "[X] is located in [Y]",
    "[X] is named after [Y]",
    "[X] was written by [Y]",
)


def invented_facts(count: int, data_seed: int | str) -> Iterator[Pair]:
    """LAMA's form with invented subjects and objects; no subject has two objects for one relation."""
    rng = random.Random(f"invented_facts {data_seed}")

    def name(syllables: int) -> str:
        return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables)).title()

    seen: set[tuple[str, str]] = set()
    while len(seen) < count:
        template, subject, answer = rng.choice(TEMPLATES), f"{name(2)} {name(2)}", name(2)
        if (subject, template) not in seen and subject != answer:
            seen.add((subject, template))
            prompt = template.replace("[X]", subject).removesuffix(" [Y]")
            yield Pair(prompt, answer, "invented_facts", (answer,), subject)
