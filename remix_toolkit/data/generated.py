"""Generated facts: they need no file, and no model has seen them."""

import random
import string
from collections.abc import Iterator

from remix_toolkit.data.pair import Pair
from remix_toolkit.recipe.schema import KVR, InventedFacts


def generate_facts(task: KVR | InventedFacts, count: int, data_seed: int | str) -> list[Pair]:
    """The first `count` facts that the task draws under a seed."""
    return list((kvr if isinstance(task, KVR) else invented_facts)(count, data_seed))


def kvr(count: int, data_seed: int | str) -> Iterator[Pair]:
    """Keys and values of 8 characters of [a-z0-9] (section 2.2), each unique across D_A and its in-domain rows."""
    rng = random.Random(f"kvr {data_seed}")
    seen: set[str] = set()

    def new_word() -> str:
        while (word := "".join(rng.choices(string.ascii_lowercase + string.digits, k=8))) in seen:
            pass
        seen.add(word)
        return word

    for _ in range(count):
        key, value = new_word(), new_word()
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
    """Facts in LAMA's form about invented entities; no subject has two objects for one relation."""
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
