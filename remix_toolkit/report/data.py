"""What `remix data` and `remix recall` show: pairs as text and as tokens, counts, one model's recall of one task."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from remix_toolkit import store
from remix_toolkit.data import tasks, tulu
from remix_toolkit.data.tasks import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe import Recipe, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def show_task(task: Rows, recipe: Recipe, limit: int, tokens: bool, runs: Path) -> dict[str, Any]:
    """`{task, counts, pairs}`: a task's rows, the first `limit` of them in full."""
    facts = tasks.load(task, recipe.data_seed)
    tokenizer = _tokenizer(recipe, runs) if tokens else None
    return {
        "task": tasks.name_of(task),
        "counts": {"facts": len(facts)},
        "pairs": [_pair(pair, tokenizer) for pair in facts[:limit]],
    }


def show_recipe(recipe: Recipe, limit: int, tokens: bool, runs: Path) -> dict[str, Any]:
    """`{recipe, profile, seed, stages: [{stage, counts, pairs}]}`: what each stage trains on, after every check."""
    from remix_toolkit.data.build import build_all

    tokenizer = _tokenizer(recipe, runs)
    stages = []
    for name, built in build_all(recipe, list(recipe.stages), tokenizer).items():
        sample: dict[str, list[Pair]] = {}
        for pair in [*built.facts, *built.mixing]:
            sample.setdefault(pair.source, []).append(pair)
        pairs = [_pair(pair, tokenizer if tokens else None) for kind in sample.values() for pair in kind[:limit]]
        stages.append({"stage": name, "counts": built.counts, "pairs": pairs})
    return {"recipe": recipe.name, "profile": recipe.profile, "seed": recipe.seed, "stages": stages}


def recall_of(model: str, task: Rows, data_seed: int, details: Path | None) -> dict[str, Any]:
    """`{model, task, recall, facts, correct}` of any model directory or hub id, in the dtype it was saved in."""
    facts = tasks.load(task, data_seed)
    if Path(model).exists() and not (Path(model) / "config.json").is_file():
        raise BadInput(f"{model}: is no model directory (it holds no config.json)")
    tokenizer = tulu.load_tokenizer(model)
    import torch

    from remix_toolkit.recall import percent, recall, row
    from remix_toolkit.train import load_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_model(model, None, "auto", {}).to(device)  # type: ignore[arg-type]
    verdicts = recall(loaded, tokenizer, facts)
    if details:
        store.write_text(details, "".join(json.dumps(row(v), ensure_ascii=False) + "\n" for v in verdicts))
    correct = sum(v.correct for v in verdicts)
    return {
        "model": model,
        "task": tasks.name_of(task),
        "recall": percent(verdicts),
        "facts": len(facts),
        "correct": correct,
    }


def print_data(shown: dict[str, Any]) -> None:
    """The same for a person."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for part in shown.get("stages", [shown]):
        counts = {name: value for name, value in part["counts"].items() if value != {}}
        listed = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in counts.items())
        console.print(f"{part.get('stage', shown.get('task'))}: {listed}", style="bold")
        for pair in part["pairs"]:
            console.print(f"  [{pair['source']}] {pair['prompt']!r} -> {pair['response']!r}")
            if "trained" in pair:
                console.print(f"    trained on: {pair['trained']!r}")
                console.print(f"    input_ids: {pair['input_ids']}\n    labels:    {pair['labels']}")


def _plain(value: Any) -> str:
    return " + ".join(f"{n} {source}" for source, n in value.items()) if isinstance(value, dict) else str(value)


def _pair(pair: Pair, tokenizer: "PreTrainedTokenizerBase | None") -> dict[str, Any]:
    shown: dict[str, Any] = {"source": pair.source, "prompt": pair.prompt, "response": pair.response}
    if pair.answers:
        shown["answers"] = pair.answers
    if tokenizer:
        example = tulu.encode(tokenizer, pair)
        shown |= {"input_ids": example.input_ids, "labels": example.labels}
        shown["trained"] = tokenizer.decode([label for label in example.labels if label != -100])
    return shown


def _tokenizer(recipe: Recipe, runs: Path) -> "PreTrainedTokenizerBase":
    from remix_toolkit.tiny import base_model

    if recipe.base == "tiny":
        store.open_store(runs)
    return tulu.load_tokenizer(*base_model(recipe, runs))
