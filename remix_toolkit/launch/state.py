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
from typing import Annotated, ClassVar, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, PlainSerializer

from remix_toolkit.data.identity import short_hash
from remix_toolkit.disk import delete, read_sound, write_text
from remix_toolkit.errors import BadInput
from remix_toolkit.graph.jobs import Job, Kind
from remix_toolkit.graph.sweep import Keep
from remix_toolkit.recipe.load import find_recipe, resolved_yaml
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import Record, SealedRecord

Keys = Annotated[set[str], PlainSerializer(sorted)]
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
    """One job of a sweep: what the graph says of it, and how far it is."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    kind: Kind
    name: str
    runs: list[str]
    needs: Keys
    loads: Keys
    status: Status = "waiting"
    message: str = ""  # what came out, or why it failed
    job_id: str = ""  # of a cluster's scheduler

    @property
    def title(self) -> str:
        """`stage1 (random, seed 0, and 8 more runs)`, `measure stage1 (...)`."""
        more = f", and {len(self.runs) - 1} more runs" if len(self.runs) > 1 else ""
        return f"{'' if self.kind == 'train' else self.kind + ' '}{self.name} ({self.runs[0]}{more})"


class SweepState(SealedRecord):
    """state.json: a sweep as it stands."""

    model_config = ConfigDict(extra="forbid", frozen=False)

    older_unsealed: ClassVar[bool] = True
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
        """Let the jobs that ran wait again."""
        for job in self.jobs.values():
            job.status = "waiting" if job.status == "running" else job.status

    def unfinished(self, folder: Path) -> dict[str, JobState]:
        """The jobs that wait or run. Where a scheduler has them, only a job's own folder says whether it has ended."""
        alive = {key: job for key, job in self.jobs.items() if job.status in ("waiting", "running")}
        return {key: job for key, job in alive.items() if outcome(folder, key) is None}

    def save(self, folder: Path) -> None:
        """Write the state into the sweep's folder."""
        self.write(folder / "state.json")


class Outcome(Record):
    """outcome.json: how a job ended."""

    status: Literal["done", "failed"]
    message: str = ""


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


def outcome_file(folder: Path, key: str) -> Path:
    """Where a job notes how it ended; until then it waits or runs."""
    return folder / "jobs" / key / "outcome.json"


def outcome(folder: Path, key: str) -> Outcome | None:
    """How a job ended; None where it has not, and, with a warning, where its note of that is damaged."""
    read = partial(Outcome.read_if_exists, outcome_file(folder, key))
    return read_sound(read, None, "how that job ended is not known")


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
        lock = FileLock(folder / "lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            return folder, lock
    raise BadInput(f"{id_}: the same command runs 99 times already")


def is_alive(folder: Path) -> bool:
    """Does a process of this machine run this sweep?"""
    try:
        with FileLock(folder / "lock", timeout=0):
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
