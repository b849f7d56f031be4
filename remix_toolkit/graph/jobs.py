"""The graph of a sweep: every stage that some run needs, once, and what it waits for.

Besides stages there are splits: which facts of a task the base model knows is asked once, before the first stage that
needs to know. Nothing is loaded here; keys are hashes of declarations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from remix_toolkit.data import tasks
from remix_toolkit.graph.lineage import Node, measurements, split_key
from remix_toolkit.graph.sweep import Cell
from remix_toolkit.recipe.schema import Factoid


@dataclass
class Job:
    """A stage to train, or a split to ask for, and which jobs come before it."""

    key: str
    name: str  # for a person: the stage's, or the task's
    cell: Cell  # the first run that wants it
    node: Node | None  # of a stage
    needs: tuple[str, ...]  # keys
    runs: list[str] = field(default_factory=list)  # the arms that want it, with their seeds
    lists: set[str] = field(default_factory=set)  # what to measure after it: ids of lists of facts, probes
    also: list[Cell] = field(default_factory=list)  # further runs, which measure lists that those before do not
    task: Factoid | None = None  # of a split: the rows asked for
    rows: int | None = 0  # of a split: how many have to qualify; None: all are asked

    @property
    def parent(self) -> str | None:
        """The key of the stage whose model this one starts from."""
        return self.node.ancestors[-1] if self.node and self.node.ancestors else None


def graph(cells: Sequence[Cell]) -> dict[str, Job]:
    """All jobs by key, in an order in which they can run.

    A stage's children follow it before another stage of its generation begins, so that its weights are needed for the
    shortest time.
    """
    first: dict[str, int] = {}
    for cell in cells:
        for node in cell.nodes:
            first.setdefault(node.key, len(first))
    jobs: dict[str, Job] = {}
    for cell in sorted(cells, key=lambda cell: [first[node.key] for node in cell.nodes]):
        _add(jobs, cell)
    ordered: dict[str, Job] = {}

    def put(key: str) -> None:
        if key in jobs and key not in ordered:  # a match may name a stage of another sweep
            for need in jobs[key].needs:
                put(need)
            ordered[key] = jobs[key]

    for key in jobs:
        put(key)
    for job in ordered.values():
        job.needs = tuple(need for need in job.needs if need in ordered)
    return ordered


def _add(jobs: dict[str, Job], cell: Cell) -> None:
    recipe = cell.recipe
    base = recipe.position(recipe.base_stage) if recipe.base_stage else -1
    run = f"{cell.arm}, seed {recipe.seed}"
    for node in cell.nodes:
        stage = recipe.stages[node.stage]
        needs = list(node.ancestors[-1:])
        for task in (stage.data, *stage.recall):
            if isinstance(task, Factoid) and task.familiarity:
                needs.append(_add_split(jobs, cell, task, cell.nodes[base].key if base >= 0 else None, run))
        if stage.match:
            needs.append(stage.match.other)
        job = jobs.setdefault(node.key, Job(node.key, node.stage, cell, node, tuple(dict.fromkeys(needs))))
        job.needs = tuple(dict.fromkeys([*job.needs, *needs]))  # another run may measure more after this stage
        job.runs.append(run)
        if more := measurements(recipe, node.position) - job.lists:
            job.also += [cell] if cell is not job.cell else []
            job.lists |= more


def _add_split(jobs: dict[str, Job], cell: Cell, task: Factoid, base: str | None, run: str) -> str:
    key = split_key(cell.recipe, task)
    job = jobs.setdefault(key, Job(key, tasks.task_name(task), cell, None, (base,) if base else (), task=task))
    wanted = None if task.size is None else task.start + task.size
    job.rows = None if wanted is None or job.rows is None else max(job.rows, wanted)
    if run not in job.runs:  # it may have two lists of one task
        job.runs.append(run)
    return key
