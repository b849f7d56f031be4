"""What one stage trains on and is measured on, drawn before anything is trained."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from remix_toolkit.data import mixing, tasks, tulu
from remix_toolkit.data.tasks import Pair, facts_id
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_LENGTH = 2048  # tokens; a recipe's or profile's `train.max_length` comes first


@dataclass
class StageData:
    """A stage's pairs, the examples made of them, and what was counted on the way."""

    facts: list[Pair]
    mixing: list[Pair]
    examples: list[tulu.Example]
    counts: dict[str, Any]
    fingerprints: dict[str, str]  # of the facts and of the mixing data
    earlier: list[str]  # fingerprints of the facts of the stages before
    measured: dict[str, list[Pair]]  # facts' id -> the facts that recall is measured on after this stage


def build_all(recipe: Recipe, stages: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> dict[str, StageData]:
    """The data of some stages of a recipe, by name. Raises BadInput for any mistake in any of them.

    A stage is measured on the facts of all stages up to it, and on those that its own `recall` names.
    """
    names = list(recipe.stages)
    last = max((recipe.position(stage) for stage in stages), default=-1)
    facts = {name: tasks.load(recipe.stages[name].data, recipe.data_seed) for name in names[: last + 1]}
    return {name: _build(recipe, name, facts, tokenizer) for name in stages}


def _build(recipe: Recipe, name: str, facts: dict[str, list[Pair]], tokenizer: "PreTrainedTokenizerBase") -> StageData:
    stage, position = recipe.stages[name], recipe.position(name)
    own = facts[name]
    earlier = {stage: facts[stage] for stage in list(recipe.stages)[:position]}
    try:
        extra = mixing.draw(stage.mix, own, earlier, recipe.seed, position)
        examples, dropped = tulu.encode_all(tokenizer, [*own, *extra], stage.train.get("max_length") or MAX_LENGTH)
    except BadInput as error:
        raise BadInput(f"{recipe.name}, {name}: {error}") from None
    if len(examples) < recipe.global_batch_size:
        raise BadInput(
            f"{recipe.name}, {name}: {len(examples)} examples are fewer than one batch of {recipe.global_batch_size}, "
            f"so no step would be taken; set global_batch_size to at most {len(examples)}"
        )
    counts = {
        "facts": len(own),
        "mixing": mixing.count_by_source(extra),
        "examples": len(examples),
        "dropped_too_long": dropped,
        "steps_per_epoch": len(examples) // recipe.global_batch_size,
        "tokens": sum(len(example.input_ids) for example in examples),
        "trained_tokens": sum(label != -100 for example in examples for label in example.labels),
        "longest": max(len(example.input_ids) for example in examples),
    }
    measured = {facts_id(recipe.stages[n].data, recipe.data_seed): facts[n] for n in (*earlier, name)}
    for task in stage.recall:
        measured[facts_id(task, recipe.data_seed)] = tasks.load(task, recipe.data_seed)
    fingerprints = {"facts": fingerprint(own), "mixing": fingerprint(extra)}
    return StageData(own, extra, examples, counts, fingerprints, [fingerprint(f) for f in earlier.values()], measured)


def fingerprint(pairs: list[Pair]) -> str:
    """A hash of the pairs themselves, in order: recorded with the stage that trains on them, checked by later uses."""
    lines = (json.dumps(asdict(pair), sort_keys=True, ensure_ascii=False) for pair in pairs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
