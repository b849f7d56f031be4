"""The few-shot prompt: other facts of the task come first, and show the form of an answer. It has two formats:

    tulu  <|user|>\\n{exemplar's prompt}\\n<|assistant|>\\n{its response}\\n<|user|>\\n ... {prompt}\\n<|assistant|>\\n
    qa    Q: {exemplar's prompt}\\nA: {its response}\\n\\nQ: ... {prompt}\\nA:

The exemplars do not end with EOS: to a base model it would mean that what came before is another document. In `qa`,
`A:` stands in place of the line `The answer is:`.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from remix_toolkit.data import generated
from remix_toolkit.data.factoid import ANSWER_IS
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import KVR, FewShot, InventedFacts, PromptFormat, Rows

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


def with_exemplars(exemplars: Sequence[Pair], pair: Pair, form: PromptFormat | None = None) -> Pair:
    """The same fact under the few-shot prompt, in Tulu's format unless another is named."""
    plain = form == "qa"
    prompt = f"Q: {_question(pair)}\nA:" if plain else pair.prompt
    text = exemplars_text(exemplars, form) + prompt
    return replace(pair, prompt=text, subject=pair.subject or pair.prompt, one_line=True, plain=plain)


def exemplars_text(exemplars: Sequence[Pair], form: PromptFormat | None = None) -> str:
    """What stands before each question."""
    if form == "qa":
        return "".join(f"Q: {_question(shot)}\nA: {shot.response}\n\n" for shot in exemplars)
    return "".join(f"{shot.prompt}\n<|assistant|>\n{shot.response}\n<|user|>\n" for shot in exemplars)


def _question(pair: Pair) -> str:
    return pair.prompt.removesuffix(ANSWER_IS)
