"""The graph of a sweep: what has to be done, each piece once, and what it waits for.

There are three kinds of jobs. `train` makes one stage, whatever the number of runs that share it; a stage whose weights
are changed after training is made of one that is trained without that, which is a job before it. `measure` measures a
published stage; nothing waits for it. `split` asks the base model which facts of a task it knows, before the first
stage that needs to know. Nothing is loaded here; keys are hashes of declarations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from remix_toolkit import store
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate import measurements
from remix_toolkit.evaluate.measurements import MEASUREMENTS, measured
from remix_toolkit.graph.lineage import Node, split_key
from remix_toolkit.graph.sweep import Cell
from remix_toolkit.recipe.schema import Factoid
from remix_toolkit.seals import find_damage

Kind = Literal["train", "measure", "split"]
MEASURE = "-measure"  # follows the stage's key in the key of the job that measures it


@dataclass
class Job:
    """One piece of a sweep's work."""

    key: str  # of the stage (of a measure job: with a suffix) or of the split
    kind: Kind
    name: str  # the stage's, or the task's
    cells: list[Cell]  # a stage is trained for the first; each of a measure job's asks for something of its own
    needs: set[str]  # keys of the jobs that come before this one
    loads: set[str]  # keys of the stages whose weights it loads
    node: Node | None = None  # of a stage
    runs: list[str] = field(default_factory=list)  # the arms that need it, with their seeds
    requested: set[str] = field(default_factory=set)  # of a measure job: ids of measurements
    task: Factoid | None = None  # of a split
    rows: int | None = 0  # of a split: how many rows have to qualify; None: all are asked


class LoadsWeights(Protocol):
    """A job as far as weights are concerned: one of the graph, or one of a sweep's state on disk."""

    kind: Kind
    name: str
    loads: Any  # keys of stages


def measure_key(stage: str) -> str:
    """The key of the job that measures the stage with this key."""
    return f"{stage}{MEASURE}"


def stage_of(job: str) -> str:
    """The key of the stage that the train or measure job with this key is about."""
    return job.removesuffix(MEASURE)


def graph(cells: Sequence[Cell]) -> dict[str, Job]:
    """All jobs by key, in an order in which they can run.

    A stage's descendants follow it before another stage of its generation begins, so that its weights are needed for
    the shortest time.
    """
    first: dict[str, int] = {}
    for cell in cells:
        for node in cell.nodes:
            first.setdefault(node.key, len(first))
    jobs: dict[str, Job] = {}
    for cell in sorted(cells, key=lambda cell: [first[node.key] for node in cell.nodes]):
        _add(jobs, cell)
    for job in jobs.values():
        job.needs &= jobs.keys()  # a match may name a stage of another sweep
    position = {key: number for number, key in enumerate(jobs)}
    ordered: dict[str, Job] = {}

    def append(key: str) -> None:
        if key not in ordered:
            for need in sorted(jobs[key].needs, key=position.__getitem__):
                append(need)
            ordered[key] = jobs[key]

    for key in jobs:
        append(key)
    return ordered


def loaders(jobs: Mapping[str, LoadsWeights]) -> dict[str, set[str]]:
    """Each stage's key -> the keys of the jobs that load its weights."""
    by_stage: dict[str, set[str]] = {key: set() for key, job in jobs.items() if job.kind == "train"}
    for key, job in jobs.items():
        for stage in by_stage.keys() & set(job.loads):
            by_stage[stage].add(key)
    return by_stage


def due(jobs: Mapping[str, Job], runs: Path) -> set[str]:
    """The keys of the jobs still to run: what is not published or not measured, and weights that are needed again.

    Raises BadInput for a published stage that lacks files, and for a store of another version.
    """
    store.check_format(runs)
    published = store.published_stages(runs)
    todo: set[str] = set()
    needed: set[str] = set()  # what those jobs wait for
    loaded: set[str] = set()  # the stages whose weights they load
    for key, job in reversed(list(jobs.items())):
        folder = published.get(job.node.key) if job.node else None
        if job.kind == "split":
            missing = key in needed  # next to no work where all is known already
        elif job.kind == "measure":
            missing = folder is None or not job.requested <= measured(folder)
        else:
            if folder and (damage := find_damage(folder, checksums=False)):
                raise BadInput(f"{damage}, or --retrain-damaged does") if damage.lasting else damage
            missing = folder is None or (key in loaded and store.is_pruned(folder))
        if missing:
            # A stage that is trained again is published anew, without results: it is measured again too.
            due_too = {key, measure_key(key)} if job.kind == "train" else {key}
            todo |= due_too
            for other in due_too:
                needed |= jobs[other].needs
                loaded |= jobs[other].loads
    return todo


def _add(jobs: dict[str, Job], cell: Cell) -> None:
    for node in cell.nodes:
        if node.trained:
            _add_stage(jobs, replace(cell, recipe=cell.recipe.as_trained(node.stage)), node.trained)
        _add_stage(jobs, cell, node)


def _add_stage(jobs: dict[str, Job], cell: Cell, node: Node) -> None:
    recipe, stage = cell.recipe, cell.recipe.stages[node.stage]
    run = f"{cell.arm}, seed {recipe.seed}"
    base_stage = cell.nodes[recipe.position(recipe.base_stage)].key if recipe.base_stage else None
    parent = set(node.ancestors[-1:])
    train = jobs.setdefault(node.key, Job(node.key, "train", node.stage, [cell], set(), set(), node))
    measure = jobs.setdefault(
        measure_key(node.key), Job(measure_key(node.key), "measure", node.stage, [], {node.key}, {node.key}, node)
    )
    before = parent | (node.keys - {node.key})
    train.needs |= before
    train.loads |= before
    if stage.match:
        train.needs.add(stage.match.other)
    familiar = [(job, task) for job, listed in ((train, [stage.data]), (measure, stage.recall)) for task in listed]
    asked = [(job, task) for job, task in familiar if isinstance(task, Factoid) and task.familiarity]
    for job, task in [*asked, *([(measure, recipe.known)] if recipe.known else [])]:
        split = _add_split(jobs, cell, task, base_stage, run)
        job.needs.add(split.key)
        job.loads |= split.loads  # more rows may have to be asked than the split did
    requested = measurements.requested(recipe, node.stage)
    if any(kind.needs_parent and kind.requested(recipe, node.stage) for kind in MEASUREMENTS):
        measure.needs |= parent
        measure.loads |= parent
    if requested - measure.requested or not measure.cells:
        measure.cells.append(cell)
        measure.requested |= requested
    for job in (train, measure):
        job.runs.append(run)


def _add_split(jobs: dict[str, Job], cell: Cell, task: Factoid, base_stage: str | None, run: str) -> Job:
    key = split_key(cell.recipe, task)
    stages = {base_stage} if base_stage else set()
    job = jobs.setdefault(key, Job(key, "split", task.task, [cell], set(stages), set(stages), task=task))
    rows = None if task.size is None else task.start + task.size
    if rows is None or (job.rows is not None and rows > job.rows):
        job.rows, job.cells, job.task = rows, [cell], task  # the cell that asks for the most
    if job.runs[-1:] != [run]:  # a recipe may have two lists of one task
        job.runs.append(run)
    return job
