"""What a recipe's `probe` and `evaluate` ask of a published stage, beside recall; each written to a file of its own.

lens.json           list of facts -> what lens.lens returns
interference.json   what interference.interference returns, at the model that the stage started from: D_A are the first
                    stage's facts, D_B the stage's own data, D_M its mixing data; `after` is the stage
perplexity.json     of generic text; measured of every stage
lm_eval.json        task -> version, limit, metrics
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remix_toolkit import store
from remix_toolkit.console import info
from remix_toolkit.data.identity import facts_id
from remix_toolkit.data.pair import Pair
from remix_toolkit.data.tulu import Example, encode_all
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate import harness
from remix_toolkit.evaluate.interference import LEAST, PARTS, interference
from remix_toolkit.evaluate.lens import lens
from remix_toolkit.evaluate.perplexity import perplexity
from remix_toolkit.graph.lineage import Node
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.stage.data import MAX_LENGTH, StageData

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def examine(
    recipe: Recipe,
    node: Node,
    data: StageData,
    folder: Path,
    runs: Path,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
) -> None:
    """Measure what is asked and not there yet; `model` is what is published in the folder. By one process.

    It comes after the stage is published: whatever goes wrong here, no training is lost.
    """
    stage, known = recipe.stages[node.stage], store.measured(folder)
    if f"perplexity {recipe.evaluate.text}" not in known:
        store.write_json(folder / "perplexity.json", perplexity(model, tokenizer, recipe.evaluate.text))
    if "lens" in stage.probe:
        seen = store.read_if_there(folder / "lens.json")
        for id_, facts in data.measured.items():
            if id_ not in seen:
                seen[id_] = lens(model, tokenizer, facts)
                first = seen[id_]["first_layer"]
                where = "in no layer" if first is None else f"from layer {first:.1f} on"
                info(f"{node.stage}: lens on {id_}: {where}, of {seen[id_]['layers']}")
        store.write_json(folder / "lens.json", seen)
    limit = recipe.evaluate.limit
    if asked := [task for task in recipe.evaluate.lm_eval if store.harness_id(task, limit) not in known]:
        done = store.read_if_there(folder / "lm_eval.json")
        done |= harness.harness(model, tokenizer, asked, limit)
        store.write_json(folder / "lm_eval.json", done)
    if "interference" in stage.probe and "interference" not in known:  # last: it moves the model off its device
        found = _interference(recipe, node, data, runs, model, tokenizer)
        store.write_json(folder / "interference.json", found)
        cosine = found["groups"]["whole"]["a.b"]["cosine"]
        angle = "one of them is noise" if cosine is None else f"cosine {cosine:+.3f}"
        info(f"{node.stage}: gradients of {found['of']['a']} and {found['of']['b']}: {angle}")


def check_probes(recipe: Recipe, node: Node, data: StageData) -> None:
    """Raise BadInput, before anything is trained, for data that interference cannot be measured on."""
    if "interference" in recipe.stages[node.stage].probe:
        first = data.measured[facts_id(recipe, next(iter(recipe.stages)))]
        if (few := min(len(first), len(data.facts))) < LEAST:
            raise BadInput(f"{recipe.name}: {node.stage}: probe: interference takes {LEAST} facts or more, not {few}")


def _interference(
    recipe: Recipe,
    node: Node,
    data: StageData,
    runs: Path,
    after: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
) -> dict[str, Any]:
    from remix_toolkit.stage.train import load_model

    parent = store.find(runs, node.ancestors[-1])
    if parent is None or store.is_pruned(parent):
        raise BadInput(f"{node.stage}: probe: interference: the weights that it started from are gone; run that again")
    first = next(iter(recipe.stages))
    longest = recipe.stages[node.stage].train.get("max_length") or MAX_LENGTH

    def examples(pairs: Sequence[Pair]) -> list[Example]:
        return [example for example in encode_all(tokenizer, pairs, longest)[0] if example]

    sets = {"a": examples(data.measured[facts_id(recipe, first)]), "b": examples(data.facts)}
    parts = min(PARTS, *map(len, sets.values()))
    if len(mixing := examples(data.mixing)) >= parts:
        sets["m"] = mixing
    before = load_model(str(parent), None, "auto", {})
    of = {"a": first, "b": node.stage} | ({"m": "mixing"} if "m" in sets else {})
    return {"of": of, **interference(before, tokenizer, sets, after, parts)}
