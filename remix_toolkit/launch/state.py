"""runs/sweeps/<sweep>/: what a sweep is doing, for its jobs, `--status`, `--cancel` and other sweeps of the same store.

state.json               each job: what it is, what it needs, whether it waits, runs, is done or failed
jobs/<key>/recipe.yaml   the resolved recipe that the job runs: `remix stage FILE --key KEY` does it again by hand;
                         recipe-2.yaml, ... where several runs measure different things of one stage
jobs/<key>/log.txt       what the job printed
jobs/<key>/outcome.json  how it ended
check.log                what was printed while the data was checked
lock                     held as long as the sweep is alive; the system frees it when the sweep dies
"""

import os
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from remix_toolkit.disk import delete, file_lock, read_sound, write_text
from remix_toolkit.errors import BadInput
from remix_toolkit.graph.jobs import Job
from remix_toolkit.graph.sweep import Keep
from remix_toolkit.graph.sweep_state import Command, JobState, SweepState, outcome_file
from remix_toolkit.recipe.load import resolved_yaml
from remix_toolkit.recipe.schema import Recipe


def begin(command: Command, jobs: Mapping[str, Job], todo: Collection[str], keep: Keep, launcher: str) -> SweepState:
    """The state of a sweep that starts now."""
    states = {key: JobState.model_validate(job) for key, job in jobs.items()}
    for key in states.keys() - todo:
        states[key].status = "done"
    host = socket.gethostname()
    return SweepState(
        id=command.id, command=command, keep=keep, launcher=launcher, pid=os.getpid(), host=host, jobs=states
    )


def load(folder: Path) -> SweepState:
    """The state in a sweep's folder. Raises Damaged."""
    return SweepState.read(folder / "state.json")


def former_state(folder: Path) -> SweepState | None:
    """The state that an earlier command left in a sweep's folder; None, and a warning, where it is damaged."""
    read = partial(SweepState.read_if_exists, folder / "state.json")
    return read_sound(read, None, "the sweep begins anew; what it may have in a scheduler's queue is not known")


def log_file(folder: Path, key: str) -> Path:
    """What a job prints."""
    return folder / "jobs" / key / "log.txt"


def last_line(folder: Path, key: str) -> str:
    """What a job printed last."""
    log = log_file(folder, key)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), "")


def write_resolved(recipe: Recipe, file: Path) -> None:
    """Write a resolved recipe, as `remix stage FILE --key KEY` reads it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, resolved_yaml(recipe))


def write_job(folder: Path, job: Job) -> None:
    """Write the resolved recipes that a job runs; nothing stays of how it ended before."""
    for file in [*job_recipes(folder, job.key), outcome_file(folder, job.key)]:
        delete(file)
    for number, cell in enumerate(job.cells, start=1):
        name = "recipe.yaml" if number == 1 else f"recipe-{number}.yaml"
        write_resolved(cell.recipe, folder / "jobs" / job.key / name)


def job_recipes(folder: Path, key: str) -> list[Path]:
    """The resolved recipes of a job, in their order."""
    files = (folder / "jobs" / key).glob("recipe*.yaml")
    return sorted(files, key=lambda file: (len(file.name), file.name))


def claim(runs: Path, id_: str) -> tuple[Path, FileLock]:
    """The folder of a sweep and its lock, held; where the same command runs already, another folder beside that one."""
    for number in range(1, 100):
        folder = runs / "sweeps" / (id_ if number == 1 else f"{id_}.{number}")
        folder.mkdir(parents=True, exist_ok=True)
        lock = file_lock(folder / "lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            return folder, lock
    raise BadInput(f"{id_}: the same command runs 99 times already")


def is_alive(folder: Path) -> bool:
    """Does a process of this machine run this sweep?"""
    try:
        with file_lock(folder / "lock", timeout=0):
            return False
    except Timeout:
        return True


def state_files(runs: Path) -> list[Path]:
    """The state of each sweep of a store, readable or not."""
    files = [folder / "state.json" for folder in sorted((runs / "sweeps").glob("*/"))]
    return [file for file in files if os.path.lexists(file)]


def needed_elsewhere(runs: Path, except_for: Path | None) -> set[str]:
    """Keys of the stages that another living sweep has yet to train or load; one sweep's folder is left out.

    Raises Damaged for a state that cannot be read: what that sweep needs is not known.
    """
    needed: set[str] = set()
    for folder in (file.parent for file in state_files(runs)):
        if folder == except_for:
            continue
        state = load(folder)
        if state.launcher == "slurm" or is_alive(folder):
            for key, job in state.unfinished(folder).items():
                needed |= {key, *job.loads}
    return needed
