"""The few-shot prompt: other facts of the task come first, as turns of one dialogue, and show the form of an answer.

    <|user|>\\n{exemplar's prompt}\\n<|assistant|>\\n{its response}\\n<|user|>\\n ... {prompt}\\n<|assistant|>\\n

The exemplars do not end with EOS: to a base model it would mean that what came before is another document.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from remix_toolkit.data import generated
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import KVR, FewShot, InventedFacts, Rows

VERSION = 1


def draw_exemplars(task: Rows, pairs: Sequence[Pair], spec: FewShot) -> tuple[list[Pair], list[Pair]]:
    """The exemplars, drawn by their seed, and the remaining facts in order: an exemplar is never asked or trained on.

    The exemplars of generated facts are generated with another seed, so none is taken from `pairs`. Raises BadInput
    where no fact would remain.
    """
    if isinstance(task, KVR | InventedFacts):
        return generated.generate_facts(task, spec.exemplars, f"few_shot {spec.seed}"), list(pairs)
    if spec.exemplars >= len(pairs):
        raise BadInput(f"few_shot.exemplars: {spec.exemplars} requested, but the data has only {len(pairs)} rows")
    drawn = random.Random(f"few_shot {spec.seed}").sample(range(len(pairs)), spec.exemplars)
    excluded = set(drawn)
    return [pairs[i] for i in drawn], [pair for i, pair in enumerate(pairs) if i not in excluded]


def with_exemplars(exemplars: Sequence[Pair], pair: Pair) -> Pair:
    """The same fact under the few-shot prompt."""
    turns = [f"{shot.prompt}\n<|assistant|>\n{shot.response}\n<|user|>\n" for shot in exemplars]
    return replace(pair, prompt="".join([*turns, pair.prompt]), subject=pair.subject or pair.prompt, one_line=True)
