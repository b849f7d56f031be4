"""What a sweep will cost, before anything is loaded or trained: counts, steps, tokens, FLOPs, GPU-hours, disk, order.

Counts and steps follow from the declaration. Tokens are estimated from the mean length of a task's pairs, and with them
FLOPs (6 for each weight and trained token, 2 for each token of a question) and hours.
"""

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from remix_toolkit.data import tasks
from remix_toolkit.errors import BadInput
from remix_toolkit.graph import devices, memory
from remix_toolkit.graph.jobs import Job, due, graph, loaders
from remix_toolkit.graph.prune import has_children, is_kept
from remix_toolkit.graph.sweep import Cell, Keep
from remix_toolkit.graph.why import Published, published_declarations, why_new
from remix_toolkit.recipe.catalog import catalog
from remix_toolkit.recipe.schema import Capitals, Factoid, Pairs, Recipe, Rows, Stage
from remix_toolkit.recipe.sft_fields import max_length
from remix_toolkit.recipe.tiny_size import tiny_size

TFLOPS = 989.0  # an H100's or H200's dense bf16 peak
UTILIZATION = 0.4
CHARACTERS_PER_TOKEN, OF_TINY = 4.0, 2.4
FORMAT = 12  # tokens of the Tulu format around a pair
EOS = 1  # the token that ends a response
WORD = {"nltk": 10.6, "text": 6.0}  # characters of a word and its space: NLTK's words are long
INSTRUCTION = 42  # characters of the prompt before a passage
LONGEST = 1.5  # the longest example of a task of facts, as a multiple of the mean
FEW_SHOT_PAIRS = 6  # pairs in a few-shot prompt


def plan(
    cells: Sequence[Cell],
    keep: Keep,
    runs: Path,
    at_once: int = 1,
    utilization: float = UTILIZATION,
    tflops: float = TFLOPS,
) -> dict[str, Any]:
    """The whole plan, as `remix plan --json` prints it."""
    jobs = graph(cells)
    device_counts = {devices.count(job.cells[0].recipe) for job in jobs.values() if job.kind == "train"}
    todo = due(jobs, runs)
    cost = costs(jobs)
    stages = {key: job for key, job in jobs.items() if job.kind == "train"}
    training = [key for key in stages if key in todo]
    flops = _sum(cost[key].flops for key in jobs if key in todo)
    position = {key: number for number, key in enumerate(jobs)}
    on_gpus = all(tiny_size(job.cells[0].recipe.base) is None for job in jobs.values())
    published = published_declarations(runs)
    return {
        "name": cells[0].recipe.name,
        "profiles": sorted({cell.recipe.profile for cell in cells}),
        "arms": len({cell.arm for cell in cells}),
        "seeds": sorted({cell.recipe.seed for cell in cells}),
        "runs": len(cells),
        "stages_requested": sum(len(cell.nodes) for cell in cells),
        "stages_distinct": len(stages),
        "stages_published": len(stages) - len(training),
        "stages_to_train": len(training),
        "splits": sum(job.kind == "split" for job in jobs.values()),
        "steps": _sum(cost[key].steps for key in training),
        "tokens": _sum(cost[key].tokens for key in training),
        "flops": flops,
        "gpu_hours": flops / (tflops * 1e12 * utilization) / 3600 if flops is not None and on_gpus else None,
        "utilization": utilization,
        "tflops": tflops,
        "memory": max(filter(None, map(_memory, stages.values())), key=lambda memory: memory["bytes"], default=None),
        "devices_per_stage": sorted(device_counts),
        "disk_peak_bytes": peak(jobs, todo, keep, at_once),
        "disk_peak_bytes_keep_all": peak(jobs, todo, "all", at_once),
        "keep": keep,
        "order": [
            {
                "key": key,
                "kind": job.kind,
                "name": job.name,
                "task": job.name if job.task else job.cells[0].recipe.stages[job.name].data.task,
                "needs": sorted(job.needs, key=position.__getitem__),
                "runs": job.runs,
                "to_do": key in todo,
                "why": _why(job, published) if job.kind == "train" and key in todo else None,
                "steps": cost[key].steps,
                "tokens": cost[key].tokens,
                "flops": cost[key].flops,
            }
            for key, job in jobs.items()
        ],
    }


def _why(job: Job, published: dict[int, Published]) -> str | None:
    assert job.node
    stages = list(job.cells[0].recipe.stages)[: job.node.position + 1]
    return why_new(job.node.declaration, stages, published)


def _sum(values: Iterable[float | None]) -> Any:
    """The sum, or None where one of them is not known."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _memory(job: Job) -> dict[str, Any] | None:
    """The bytes that a stage takes on each of its devices, and whether they fit; None where that is not known."""
    recipe = job.cells[0].recipe
    stage = recipe.stages[job.name]
    pairs = _pairs(recipe, stage)
    if pairs is None or recipe.device_gb is None:
        return None
    length = max_length(stage.train)
    if isinstance(stage.data, Factoid):
        length = round(min(length, LONGEST * max(tokens for _, tokens, _ in pairs)))
    needed = memory.estimate(recipe, job.name, length)
    if needed is None:
        return None
    device_bytes = recipe.device_gb * memory.GB
    checkpointing = stage.train.get("activation_checkpointing")
    if checkpointing is None:
        checkpointing = memory.needs_checkpointing(needed, device_bytes)
    return {
        "stage": f"{job.name} ({job.runs[0]})",
        "precision": recipe.precision,
        "bytes": round(needed.total(checkpointing)),
        "parts": {name: round(value) for name, value in asdict(needed).items()},
        "activation_checkpointing": checkpointing,
        "device_bytes": round(device_bytes),
        "fits": needed.total(checkpointing) <= (1 - memory.HEADROOM) * device_bytes,
        "summary": memory.describe(needed, checkpointing),
    }


@dataclass
class Cost:
    """What one job takes. None: the declaration does not say."""

    steps: int | None
    tokens: float | None  # of the sequences, without padding; of a split, those of its questions
    flops: float | None
    trained_tokens: float = 0.0  # those with a loss


def costs(jobs: dict[str, Job]) -> dict[str, Cost]:
    """Each job's cost, in the graph's order."""
    by_job: dict[str, Cost] = {}
    for key, job in jobs.items():
        by_job[key] = _training_cost(job, by_job) if job.kind == "train" else _asking_cost(job)
    return by_job


def _training_cost(job: Job, before: dict[str, Cost]) -> Cost:
    recipe = job.cells[0].recipe
    stage = recipe.stages[job.name]
    pairs = _pairs(recipe, stage)
    if pairs is None:
        return Cost(None, None, None)
    examples = sum(n for n, _, _ in pairs)
    length = sum(n * tokens for n, tokens, _ in pairs) / examples
    trained = sum(n * tokens for n, _, tokens in pairs) / examples
    batch = recipe.global_batch_size
    if problem := recipe.too_few(examples):
        raise BadInput(f"{recipe.name}: {job.name}: {problem}")
    steps: int | None = math.ceil(stage.train.get("num_train_epochs", 3) * (examples // batch))
    if stage.match:
        other = before.get(stage.match.other, Cost(None, None, None))  # nothing is known here of another sweep's stage
        steps = other.steps
        if stage.match.tokens_of and other.tokens is not None:
            steps = round(other.trained_tokens / (batch * trained))
    elif stage.train.get("max_steps", -1) > 0:
        steps = stage.train["max_steps"]
    tokens = None if steps is None else round(steps * batch * length)
    flops = recipe.parameters and tokens and 6 * recipe.parameters * tokens
    return Cost(steps, tokens, flops, (steps or 0) * batch * trained)


def _asking_cost(job: Job) -> Cost:
    """The cost of a split if all rows qualify, or of a measurement: one pass over all facts (the rest is small)."""
    recipe = job.cells[0].recipe
    tokens: float | None
    if job.task:
        rows = _size(job.task) if job.rows is None else job.rows
        tokens = None if rows is None else rows * FEW_SHOT_PAIRS * _lengths(recipe, job.task)[0]
    else:
        stages = list(recipe.stages.values())[: recipe.position(job.name) + 1]
        lists = [stage.data for stage in stages if isinstance(stage.data, Factoid)] + stages[-1].recall
        tokens = sum((rows.size or 0) * _lengths(recipe, rows)[0] for rows in lists)
    return Cost(None, tokens, tokens and recipe.parameters and 2 * recipe.parameters * tokens)


def _pairs(recipe: Recipe, stage: Stage) -> list[tuple[int, float, float]] | None:
    """(how many, tokens of each, trained ones): the stage's own pairs and each mixing source. None: not declared."""
    if (size := _size(stage.data)) is None:
        return None
    pairs = [(size, *_lengths(recipe, stage.data))]
    halves = [(corpus.ratio, corpus.words * WORD["text"]) for corpus in stage.mix.corpora().values()]
    if words := stage.mix.random_words:  # the words of a vocabulary are longer than those of its text
        halves.insert(0, (words.ratio, words.words * WORD.get(words.text, 8.0)))
    pairs += [(round(ratio * size), *_tokens(recipe, INSTRUCTION + half, half)) for ratio, half in halves]
    if stage.mix.replay:
        replayed = recipe.stages[stage.mix.replay.stage].data
        if (facts := _size(replayed)) is None:
            return None
        pairs.append((round(stage.mix.replay.ratio * facts), *_lengths(recipe, replayed)))
    return pairs


def _size(rows: Rows) -> int | None:
    """How many pairs; of a local file of one's own, or of the package, as many as it has."""
    is_here = isinstance(rows, Capitals) or (isinstance(rows, Pairs) and rows.path and os.path.exists(rows.path))
    if rows.size is None and is_here:
        return len(tasks.load_rows(rows, 0))
    return rows.size


def _lengths(recipe: Recipe, rows: Rows) -> tuple[float, float]:
    return _tokens(recipe, *catalog()[rows.task].characters)


def _tokens(recipe: Recipe, prompt: float, response: float) -> tuple[float, float]:
    """The tokens of a pair with so many characters, and how many of them are trained on."""
    characters = OF_TINY if tiny_size(recipe.base) else CHARACTERS_PER_TOKEN
    return FORMAT + (prompt + response) / characters, EOS + response / characters


def peak(jobs: Mapping[str, Job], todo: Collection[str], keep: Keep, at_once: int = 1) -> int | None:
    """The most bytes that the jobs to do hold at one time, in the graph's order; None if a base's size is unknown."""
    loading = loaders(jobs)
    waiting = {key: sum(job in todo for job in by) for key, by in loading.items()}  # jobs still to load it
    trained: dict[str, int] = {}  # bytes of weights, by stage
    held = most = largest = 0  # bytes on disk
    for key in (key for key in jobs if key in todo):
        job, recipe = jobs[key], jobs[key].cells[0].recipe
        if recipe.parameters is None:
            return None
        if job.kind == "train":
            working = _working(recipe, job.name)
            most = max(most, held + working)
            largest = max(largest, working)
            trained[key] = _weights(recipe)
            held += trained[key]
        for stage in job.loads & waiting.keys():
            waiting[stage] -= 1
        for stage in {key, *job.loads} & trained.keys():
            if not waiting[stage] and not is_kept(keep, jobs[stage].name, has_children(stage, loading[stage])):
                held -= trained.pop(stage)
    return most + (at_once - 1) * largest


def _weights(recipe: Recipe) -> int:
    """Bytes of a published model's weights."""
    return int((recipe.parameters or 0) * (4 if recipe.precision == "fp32" else 2))


def _working(recipe: Recipe, stage: str) -> int:
    """Bytes on disk while a stage trains: checkpoints (weights and two moments each) and the draft of its model."""
    train = recipe.stages[stage].train
    each = 0 if recipe.adapter else (recipe.parameters or 0) * (6 if recipe.precision == "pure_bf16" else 12)
    kept = 0 if train.get("save_strategy") == "no" else 1 + (train.get("save_total_limit") or 1)
    return int(kept * each) + _weights(recipe)
