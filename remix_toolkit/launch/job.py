"""One job of a sweep in a process of its own, as a cluster's scheduler starts it:

    python -m remix_toolkit.launch.job runs/sweeps/<sweep> <key>

The sweep is resolved again from what its state.json says; a job whose key is not among its jobs any more is refused.
"""

import signal
import sys
from collections.abc import Collection
from pathlib import Path

from remix_toolkit import store
from remix_toolkit.errors import BadInput, RunFailed, exit_on_error
from remix_toolkit.graph import devices, prune
from remix_toolkit.graph.jobs import Job, graph
from remix_toolkit.graph.prune import to_do, users
from remix_toolkit.launch.state import State, end_of, load, wanted_elsewhere
from remix_toolkit.launch.worker import Ask, Task, Train, do


def task_of(key: str, jobs: dict[str, Job], waiting: set[str], sweep: str, runs: Path, wait: bool) -> Task:
    """What a worker is told of a job. A stage's weights are wanted if a job that is `waiting` loads them."""
    job = jobs[key]
    recipe = job.cell.recipe
    if job.node is None:
        assert job.task
        return Ask(recipe, job.task, job.rows)
    weights = bool(users(jobs)[key] & waiting)
    cells = [job.cell, *job.also]
    commands = [devices.stage(cell.file, cell.overrides, cell.recipe, runs) for cell in cells]
    return Train([cell.recipe for cell in cells], job.node, weights, sweep, commands, wait)


def delete_spare(jobs: dict[str, Job], done: Collection[str], state: State, folder: Path, runs: Path) -> None:
    """Delete the weights that this sweep made and that neither it nor another living sweep needs any more."""
    if spare := prune.spare(jobs, done, state.keep, state.id, runs):
        wanted = wanted_elsewhere(runs, folder)
        for key, published in spare.items():
            if key not in wanted:
                store.prune(published)


def main() -> None:
    """Do the job, note how it ended, delete the weights that nobody needs now."""
    folder, key = Path(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # preempted: what was started from here ends too
    runs = folder.parent.parent
    state = load(folder)
    jobs = graph(state.command.cells())
    if key not in jobs:
        raise BadInput(f"{state.id}: no job {key} any more: the sweep, its recipe or its data changed in the meantime")
    how, said = do(task_of(key, jobs, to_do(jobs, runs), state.id, runs, wait=True), runs)
    print(said, flush=True)
    store.write_json(end_of(folder, key), {"how": how, "said": said})
    if how == "bad input":
        raise BadInput(said)
    if how != "done":
        raise RunFailed(said)
    try:
        delete_spare(jobs, set(jobs) - to_do(jobs, runs), state, folder, runs)
    except (BadInput, OSError) as error:  # the job itself is done, and what starts from it may begin
        print(f"warning: no weights were deleted: {error}", flush=True)


if __name__ == "__main__":
    exit_on_error(main)
