"""runs/sweeps/<sweep>/: what a sweep is doing, for `--status`, `--cancel` and other sweeps of the same store.

state.json               each job: what it is, what it needs, whether it waits, runs, is done or failed
jobs/<key>/recipe.yaml   the resolved recipe that the job runs: `remix stage FILE --key KEY` does it again by hand;
                         recipe-2.yaml, ... where several runs measure different things of one stage
jobs/<key>/outcome.json  how a job that a cluster's scheduler started has ended
lock                     held as long as the sweep is alive; the system frees it when the sweep dies
"""

import os
import socket
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from remix_toolkit.console import warn
from remix_toolkit.data.identity import short_hash
from remix_toolkit.errors import BadInput
from remix_toolkit.graph.jobs import Job, Kind
from remix_toolkit.graph.sweep import Keep
from remix_toolkit.recipe.load import find_recipe, resolved_yaml
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import Record, write_text

Status = Literal["running", "waiting", "done", "failed", "left out"]


class Command(BaseModel):
    """What was asked for. The same command has the same id: it goes on where it stopped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sweep: str
    profile: str | None
    seeds: list[int] | None
    overrides: list[str]

    @property
    def id(self) -> str:
        """`table2-1a2b3c4d`."""
        file = find_recipe(self.sweep).resolve()
        return f"{file.stem}-{short_hash([str(file), self.profile, self.seeds, self.overrides])[:8]}"


class JobState(BaseModel):
    """One job of a sweep."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    name: str
    runs: list[str]
    needs: list[str]
    loads: list[str]
    status: Status = "waiting"
    message: str = ""  # its last line, or why it failed
    job_id: str = ""  # of a cluster's scheduler

    @property
    def title(self) -> str:
        """`stage1 (random, seed 0, and 8 more runs)`, `measure stage1 (...)`."""
        more = f", and {len(self.runs) - 1} more runs" if len(self.runs) > 1 else ""
        return f"{'' if self.kind == 'train' else self.kind + ' '}{self.name} ({self.runs[0]}{more})"


class SweepState(Record):
    """state.json: a sweep as it stands."""

    model_config = ConfigDict(extra="forbid", frozen=False)

    version: Literal[2] = 2
    id: str
    command: Command
    keep: Keep
    launcher: str
    pid: int = 0
    host: str = ""
    jobs: dict[str, JobState]

    def count(self) -> dict[Status, int]:
        """How many jobs run, wait, ..."""
        statuses: list[Status] = ["running", "waiting", "done", "failed", "left out"]
        return {status: sum(job.status == status for job in self.jobs.values()) for status in statuses}

    def interrupt(self) -> None:
        """What ran waits again."""
        for job in self.jobs.values():
            job.status = "waiting" if job.status == "running" else job.status

    def save(self, folder: Path) -> None:
        """Write the state into the sweep's folder."""
        self.write(folder / "state.json")


class Outcome(Record):
    """outcome.json: how a job ended."""

    status: Literal["done", "busy", "bad input", "failed"]
    message: str = ""


def begin(command: Command, jobs: Mapping[str, Job], todo: Collection[str], keep: Keep, launcher: str) -> SweepState:
    """The state of a sweep that starts now."""
    states = {
        key: JobState(
            kind=job.kind,
            name=job.name,
            runs=job.runs,
            needs=[other for other in jobs if other in job.needs],
            loads=sorted(job.loads),
            status="waiting" if key in todo else "done",
        )
        for key, job in jobs.items()
    }
    host = socket.gethostname()
    return SweepState(
        id=command.id, command=command, keep=keep, launcher=launcher, pid=os.getpid(), host=host, jobs=states
    )


def load(folder: Path) -> SweepState:
    """The state in a sweep's folder. Raises BadInput where it cannot be read."""
    return SweepState.read(folder / "state.json")


def job_folder(folder: Path, key: str) -> Path:
    """The folder of one job of a sweep."""
    return folder / "jobs" / key


def outcome_file(folder: Path, key: str) -> Path:
    """Where a job that a scheduler started notes how it ended; until then it waits or runs."""
    return job_folder(folder, key) / "outcome.json"


def write_resolved(recipe: Recipe, file: Path) -> None:
    """Write a resolved recipe, as `remix stage FILE --key KEY` reads it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, resolved_yaml(recipe))


def freeze(folder: Path, job: Job) -> None:
    """Write the resolved recipes that a job runs."""
    for number, cell in enumerate(job.cells, start=1):
        name = "recipe.yaml" if number == 1 else f"recipe-{number}.yaml"
        write_resolved(cell.recipe, job_folder(folder, job.key) / name)


def frozen(folder: Path, key: str) -> list[Path]:
    """The resolved recipes of a job, in their order."""
    files = job_folder(folder, key).glob("recipe*.yaml")
    return sorted(files, key=lambda file: (len(file.name), file.name))


def claim(runs: Path, id_: str) -> tuple[Path, FileLock]:
    """The folder of a sweep and its lock, held; where the same command runs already, another folder beside that one."""
    for number in range(1, 100):
        folder = runs / "sweeps" / (id_ if number == 1 else f"{id_}.{number}")
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        return folder, lock
    raise BadInput(f"{id_}: the same command runs 99 times already")


def is_alive(folder: Path) -> bool:
    """Does a process of this machine run this sweep?"""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def needed_elsewhere(runs: Path, except_for: Path | None) -> set[str]:
    """Keys of the stages that another living sweep has yet to train or load; one sweep's folder is left out.

    A state that cannot be read is named in a warning.
    """
    needed: set[str] = set()
    for file in (runs / "sweeps").glob("*/state.json"):
        folder = file.parent
        if folder == except_for:
            continue
        try:
            state = load(folder)
        except BadInput as error:
            warn(f"{error}; what this sweep needs is not known")
            continue
        if state.launcher == "slurm" or is_alive(folder):
            for key, job in state.jobs.items():
                if job.status in ("waiting", "running") and not outcome_file(folder, key).exists():
                    needed |= {key, *job.loads}
    return needed


def queued(folder: Path, state: SweepState) -> list[str]:
    """The ids of the jobs that a scheduler was given and that have not ended yet."""
    return [job.job_id for key, job in state.jobs.items() if job.job_id and not outcome_file(folder, key).exists()]
