"""What is measured of a published stage: recall of each list of facts, the loss on held-out rows, probes."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from remix_toolkit import store
from remix_toolkit.console import info
from remix_toolkit.data.tulu import encode_all, load_tokenizer
from remix_toolkit.evaluate import held_out
from remix_toolkit.evaluate.recall import percent, recall, row
from remix_toolkit.graph.lineage import Node, measurements
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.stage import train
from remix_toolkit.stage.data import MAX_LENGTH, StageData

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def is_measured(recipe: Recipe, node: Node, data: StageData, folder: Path) -> bool:
    """Has everything that this recipe asks been measured in a published directory?"""
    held_out = store.read_if_there(folder / "held_out.json").get("rows", 0)
    return measurements(recipe, node.position) <= store.measured(folder) and len(data.held_out) in (0, held_out)


def measure(recipe: Recipe, node: Node, data: StageData, folder: Path) -> Loaded | None:
    """Recall of every list of facts that has none yet in this directory, and the loss on held-out rows.

    Each process takes its share of the rows. Returns the model, for whatever else is asked of it; None where all that
    this recipe asks, probes included, is there already and nothing was loaded.
    """
    state = PartialState()
    known = folder / "recall.json"
    summary = store.read_if_there(known)
    if known.exists() and is_measured(recipe, node, data, folder):
        return None
    lists = {id_: facts for id_, facts in data.measured.items() if id_ not in summary}
    tokenizer = load_tokenizer(str(folder))
    init = {"trust_remote_code": bool(recipe.stages[node.stage].train.get("trust_remote_code"))}
    model = train.load_model(str(folder), None, "auto", init).to(state.device)
    details = store.verdicts(folder)
    for id_, facts in lists.items():
        mine = list(range(state.process_index, len(facts), state.num_processes))
        shares = recall(model, tokenizer, [facts[i] for i in mine]) if mine else []
        verdicts = [v for _, v in sorted(gather_object(list(zip(mine, shares, strict=True))), key=lambda item: item[0])]
        summary[id_] = {
            "recall": percent(verdicts),
            "facts": len(facts),
            "correct": sum(v.correct for v in verdicts),
            "settled_by": dict(Counter(v.settled_by for v in verdicts)),
        }
        details += "".join(json.dumps({"list": id_, **row(v)}, ensure_ascii=False) + "\n" for v in verdicts)
        info(f"{node.stage}: recall on {id_}: {summary[id_]['recall']:.1f}% of {len(facts)} facts")
    if data.held_out:
        longest = recipe.stages[node.stage].train.get("max_length") or MAX_LENGTH
        _measure_held_out(node, data, folder, model, tokenizer, longest)
    if state.is_main_process:
        store.write_text(folder / "recall.jsonl", details)
        store.write_json(known, summary)
    state.wait_for_everyone()
    return model, tokenizer


def _measure_held_out(node: Node, data: StageData, folder: Path, model: Any, tokenizer: Any, max_length: int) -> None:
    """The loss on the rows that the stage held out and, where they have one (GSM8K), how many results are right."""
    state = PartialState()
    mine = data.held_out[state.process_index :: state.num_processes]
    examples = [e for e in encode_all(tokenizer, mine, max_length)[0] if e]
    losses = gather_object([held_out.loss_sum(model, tokenizer, examples)])
    total, tokens = sum(loss for loss, _ in losses), sum(n for _, n in losses)
    result = {"rows": len(data.held_out), "loss": total / max(tokens, 1), "tokens": tokens, "accuracy": None}
    said: list[dict[str, Any]] = []
    if data.held_out[0].source == "gsm8k":
        said = gather_object(held_out.results(model, tokenizer, mine))
        result["accuracy"] = 100.0 * sum(row["correct"] for row in said) / len(said)
    if state.is_main_process:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in said)
        store.write_text(folder / "held_out.jsonl", "".join(lines))
        store.write_json(folder / "held_out.json", result)
    right = "" if result["accuracy"] is None else f", {result['accuracy']:.1f}% of the results right"
    info(f"{node.stage}: loss {result['loss']:.3f} on {result['rows']} held-out rows{right}")
