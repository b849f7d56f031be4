"""Measuring any model, a directory or a hub id, on the rows of a task: recall, the logit lens, interference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remix_toolkit import store
from remix_toolkit.console import silence_libraries
from remix_toolkit.data import encoding, few_shot, mixing, tasks
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import Factoid, FewShot, Mix, Rows
from remix_toolkit.records import write_lines

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def read_rows(task: Rows, data_seed: int) -> list[Pair]:
    """A task's rows as a model is prompted with them. Raises BadInput where they depend on a recipe's base model."""
    if isinstance(task, Factoid) and task.familiarity:
        raise BadInput(
            "familiarity: it depends on a recipe's base model; name the task in a recipe's `recall`, or run "
            "`remix familiar`"
        )
    pairs = tasks.read_task(task, data_seed).pairs
    if isinstance(task, Factoid) and task.prompt == "few_shot":
        shots, pairs = few_shot.draw_exemplars(task, pairs, FewShot())
        pairs = [few_shot.with_exemplars(shots, fact) for fact in pairs]
    return tasks.select_rows(task, pairs)


def read_facts(task: Rows, data_seed: int) -> list[Pair]:
    """A task's facts. Raises BadInput for instructions."""
    if not isinstance(task, Factoid):
        raise BadInput(f"{task.task}: instructions have no recall; a stage reports the loss on held-out rows")
    return read_rows(task, data_seed)


def load(model: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A model in the dtype it was saved in, on the GPU if there is one. Raises BadInput."""
    silence_libraries()
    if Path(model).exists() and not (Path(model) / "config.json").is_file():
        raise BadInput(f"{model}: not a model directory (it has no config.json)")
    if (folder := Path(model)).exists() and store.is_pruned(folder):
        raise BadInput(f"{model}: its weights were deleted, only its results are left; run that stage again")
    tokenizer = encoding.load_tokenizer(model)
    import torch

    from remix_toolkit.stage.train import load_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_model(model, None, "auto", {}).to(device), tokenizer  # type: ignore[arg-type]


def recall_of(model: str, task: Rows, data_seed: int, details: Path | None) -> dict[str, Any]:
    """`{model, task, recall, facts, correct}` of any model directory or hub id."""
    facts = read_facts(task, data_seed)
    loaded, tokenizer = load(model)
    from remix_toolkit.evaluate.recall import percent, recall, verdict_record

    verdicts = recall(loaded, tokenizer, facts)
    if details:
        rows = (verdict_record(task.task, index, verdict) for index, verdict in enumerate(verdicts))
        write_lines(details, rows)
    return {
        "model": model,
        "task": task.task,
        "recall": percent(verdicts),
        "facts": len(facts),
        "correct": sum(verdict.correct for verdict in verdicts),
    }


def lens_of(models: Sequence[str], task: Rows, data_seed: int) -> list[dict[str, Any]]:
    """For each model, `{model, task}` and the fields of a LensResult."""
    facts = read_facts(task, data_seed)
    from remix_toolkit.evaluate.lens import lens

    results = []
    for model in models:
        loaded, tokenizer = load(model)
        results.append({"model": model, "task": task.task, **lens(loaded, tokenizer, facts).model_dump()})
    return results


def interference_of(
    model: str, data: Mapping[str, Rows], mix: Mix | None, after: str | None, data_seed: int, parts: int
) -> dict[str, Any]:
    """`{model, after}` and the fields of an InterferenceRecord; D_M is drawn for D_B as in a stage."""
    pairs = {name: read_rows(task, data_seed) for name, task in data.items()}
    if mix:
        pairs["m"], _ = mixing.draw(mix, pairs["b"], {"stage1": pairs["a"]}, seed=0, position=1)
    loaded, tokenizer = load(model)
    later_model = load(after)[0] if after else None
    from remix_toolkit.evaluate.interference import interference

    examples = {name: [encoding.encode(tokenizer, pair) for pair in rows] for name, rows in pairs.items()}
    sources = {name: task.task for name, task in data.items()}
    record = interference(loaded, tokenizer, examples, later_model, parts, sources)
    return {"model": model, "after": after, **record.model_dump(exclude={"version"})}
