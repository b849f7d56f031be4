"""What a sweep will cost, before anything is loaded: counts, steps, FLOPs, GPU-hours, memory, disk, and its order."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from remix_toolkit.graph import devices, fitting, memory
from remix_toolkit.graph.cost import Cost, costs, pairs_of
from remix_toolkit.graph.hours import Rates, Seconds, asking, hours, published_bytes
from remix_toolkit.graph.hours import training as training_seconds
from remix_toolkit.graph.jobs import Job, due, graph, loaders
from remix_toolkit.graph.memory import GB
from remix_toolkit.graph.prune import has_children, is_kept
from remix_toolkit.graph.sweep import Cell, Keep
from remix_toolkit.graph.why import Published, published_declarations, why_new
from remix_toolkit.recipe.schema import Factoid, Recipe
from remix_toolkit.recipe.sft_fields import max_length, sets_saving
from remix_toolkit.recipe.tiny_size import tiny_size

LONGEST = 1.5  # the longest example of a task of facts, as a multiple of the mean


def plan(cells: Sequence[Cell], keep: Keep, runs: Path, at_once: int = 1, rates: Rates | None = None) -> dict[str, Any]:
    """The whole plan, as `remix plan --json` prints it; hours are at these `rates`."""
    rates = rates or Rates()
    jobs = graph(cells)
    todo = due(jobs, runs)
    cost = costs(jobs)
    devices_of = {key: devices.count(job.cells[0].recipe) for key, job in jobs.items()}
    stages = {key: job for key, job in jobs.items() if job.kind == "train"}
    training = [key for key in stages if key in todo]
    flops = _sum(cost[key].flops for key in jobs if key in todo)
    position = {key: number for number, key in enumerate(jobs)}
    on_gpus = all(tiny_size(job.cells[0].recipe.base) is None for job in jobs.values())
    memories = {key: taken for key, job in stages.items() if (taken := _memory(job))}
    largest = max(memories, key=lambda key: memories[key]["bytes"], default=None)
    seconds = {key: _seconds(jobs[key], cost[key], memories.get(key), rates) for key in jobs if key in todo}
    known = {key: taken for key, taken in seconds.items() if taken is not None}
    causes = hours((taken, devices_of[key]) for key, taken in known.items()) if on_gpus and known == seconds else None
    checkpoints = {key: taken.checkpoints * rates.write_gb_per_s * GB for key, taken in known.items()}
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
        "gpu_hours": causes and sum(causes.values()),
        "gpu_hours_of": causes,
        "rates": rates.model_dump(),
        "memory": largest and {**memories[largest], "misfit": _misfit(stages[largest])},
        "measuring": max(filter(None, map(_measuring, stages.values())), key=_needs, default=None),
        "devices_per_stage": sorted({devices_of[key] for key in stages}),
        "not_estimated": _not_estimated(job.cells[0].recipe for job in jobs.values()),
        "disk_written_bytes": _sum(_written(seconds[key], rates) for key in training),
        "disk_peak_bytes": peak(jobs, todo, keep, at_once, checkpoints),
        "disk_peak_bytes_keep_all": peak(jobs, todo, "all", at_once, checkpoints),
        "keep": keep,
        "order": [
            {
                **_described(job),
                "needs": sorted(job.needs, key=position.__getitem__),
                "to_do": key in todo,
                "why": _why(job, published) if job.kind == "train" and key in todo else None,
                "steps": cost[key].steps,
                "tokens": cost[key].tokens,
                "flops": cost[key].flops,
                "minutes": known[key].total / 60 if causes and key in known else None,
            }
            for key, job in jobs.items()
        ],
    }


def _described(job: Job) -> dict[str, Any]:
    task = job.name if job.task else job.cells[0].recipe.stages[job.name].data.task
    return {"key": job.key, "kind": job.kind, "name": job.name, "task": task, "runs": job.runs}


def _why(job: Job, published: dict[int, Published]) -> str | None:
    assert job.node
    stages = list(job.cells[0].recipe.stages)[: job.node.position + 1]
    return why_new(job.node.declaration, stages, published)


def _sum(values: Iterable[float | None]) -> Any:
    """The sum, or None where one of them is not known."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _misfit(job: Job) -> str | None:
    """Which settings would fit where a stage does not."""
    recipe, length = job.cells[0].recipe, _longest(job)
    assert length
    assert recipe.device_gb
    return fitting.misfit(recipe, job.name, length, recipe.device_gb * GB)


def _longest(job: Job) -> int | None:
    """The tokens of a stage's longest example, about; None where its data is not known."""
    recipe = job.cells[0].recipe
    stage = recipe.stages[job.name]
    pairs = pairs_of(recipe, stage)
    if pairs is None:
        return None
    length = max_length(stage.train)
    if isinstance(stage.data, Factoid):
        length = round(min(length, LONGEST * max(tokens for _, tokens, _ in pairs)))
    return length


def _memory(job: Job) -> dict[str, Any] | None:
    """The bytes that a stage takes on each of its devices, and whether they fit; None where that is not known."""
    recipe = job.cells[0].recipe
    stage, length = recipe.stages[job.name], _longest(job)
    if length is None or recipe.device_gb is None or stage.as_trained:
        return None
    needed = memory.estimate(recipe, job.name, length)
    if needed is None:
        return None
    device_bytes = recipe.device_gb * GB
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
        "summary": f"{memory.describe(needed, checkpointing)}; {memory.held_in(recipe.of_stage(job.name))}",
    }


def _measuring(job: Job) -> dict[str, Any] | None:
    """The bytes that measuring a stage takes on a device and in the machine's memory; None where that is not known."""
    recipe = job.cells[0].recipe
    needed = memory.measuring(recipe, job.name)
    if needed is None:
        return None
    return {
        "stage": f"{job.name} ({job.runs[0]})",
        "device_bytes": round(needed.device),
        "host_bytes": round(needed.host),
        "gradient_passes": needed.gradient_passes,
        "fits": recipe.device_gb and needed.device <= (1 - memory.HEADROOM) * recipe.device_gb * GB,
        "summary": needed.summary,
    }


def _needs(measured: dict[str, Any]) -> tuple[int, int]:
    return measured["host_bytes"], measured["device_bytes"]


def _not_estimated(recipes: Iterable[Recipe]) -> list[str]:
    """What the plan leaves out, and the key of the profile that it would take."""
    lines: dict[str, None] = {}
    for recipe in recipes:
        if tiny_size(recipe.base) is None:
            missing = [key for key in ("parameters", "shape", "device_gb") if getattr(recipe, key) is None]
            if missing:
                what = "hours, disk and memory" if "parameters" in missing else "memory"
                lines[f"{what}: profile {recipe.profile} lacks {', '.join(missing)}"] = None
    return list(lines)


def _seconds(job: Job, cost: Cost, needed: dict[str, Any] | None, rates: Rates) -> Seconds | None:
    """How long a job holds its GPUs; None where its operations are not known."""
    recipe = job.cells[0].recipe
    if cost.flops is None:
        return None
    if job.kind != "train":
        return asking(recipe, rates, cost.flops)
    recipe = recipe.of_stage(job.name)
    checkpointing = needed is not None and needed["activation_checkpointing"]
    steps = cost.steps or 1
    seconds = training_seconds(recipe, job.name, rates, steps, cost.flops, checkpointing)
    written = _checkpoints(recipe, job.name, steps, seconds.computing + seconds.exchanging) * _checkpoint(recipe)
    return replace(seconds, checkpoints=written / (rates.write_gb_per_s * GB))


def peak(
    jobs: Mapping[str, Job],
    todo: Collection[str],
    keep: Keep,
    at_once: int = 1,
    checkpoints: Mapping[str, float] = MappingProxyType({}),
) -> int | None:
    """The most bytes that the jobs to do hold at one time, in the graph's order; None if a base's size is unknown.

    `checkpoints` are the bytes of those that a stage writes, where that is known: it does not hold more.
    """
    loading = loaders(jobs)
    waiting = {key: sum(job in todo for job in by) for key, by in loading.items()}  # jobs still to load it
    trained: dict[str, int] = {}  # bytes of weights, by stage
    held = most = largest = 0  # bytes on disk
    for key in (key for key in jobs if key in todo):
        job, recipe = jobs[key], jobs[key].cells[0].recipe
        if recipe.parameters is None:
            return None
        if job.kind == "train":
            working = _working(recipe.of_stage(job.name), job.name, checkpoints.get(key, math.inf))
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
    return int(published_bytes(recipe))


def _checkpoint(recipe: Recipe) -> float:
    """Bytes of a checkpoint: weights and two moments each."""
    if recipe.adapter and not recipe.is_osf:
        return 0
    return (recipe.parameters or 0) * (6 if recipe.precision == "pure_bf16" else 12)


def _checkpoints(recipe: Recipe, stage: str, steps: int, seconds: float) -> int:
    """How many checkpoints a stage writes whose steps take so many seconds."""
    train = recipe.stages[stage].train
    if not sets_saving(train):
        return int(seconds / 60 / recipe.checkpoint_minutes)
    if train.get("save_strategy", "steps") != "steps":
        return 0 if train["save_strategy"] == "no" else math.ceil(train.get("num_train_epochs", 3))
    every = float(train.get("save_steps", 500))
    return steps // math.ceil(every * steps if every < 1 else every)


def _written(seconds: Seconds | None, rates: Rates) -> int | None:
    """Bytes that training a stage writes: its checkpoints and its model. None: not known."""
    return None if seconds is None else round((seconds.checkpoints + seconds.publishing) * rates.write_gb_per_s * GB)


def _working(recipe: Recipe, stage: str, written: float) -> int:
    """Bytes on disk while a stage trains that writes so many bytes of checkpoints: these and the draft of its model."""
    train = recipe.stages[stage].train
    kept = 0 if train.get("save_strategy") == "no" else 1 + (train.get("save_total_limit") or 1)
    return int(min(kept * _checkpoint(recipe), written)) + _weights(recipe)
