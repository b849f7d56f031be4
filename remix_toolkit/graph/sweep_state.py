"""The records of a sweep's folder (see launch/state.py): what was asked for, and how far each job is."""

from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer

from remix_toolkit.data.identity import short_hash
from remix_toolkit.disk import read_sound
from remix_toolkit.graph.jobs import Kind
from remix_toolkit.graph.sweep import Keep
from remix_toolkit.recipe.load import find_recipe
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
    job_id: str = ""  # of the scheduler's job that does it or did
    resources: list[str] = []  # what it asks a scheduler for, as its options

    @property
    def title(self) -> str:
        """`stage1 (random, seed 0, and 8 more runs)`, `measure stage1 (...)`."""
        more = f", and {len(self.runs) - 1} more runs" if len(self.runs) > 1 else ""
        return f"{'' if self.kind == 'train' else self.kind + ' '}{self.name} ({self.runs[0]}{more})"

    @property
    def is_queued(self) -> bool:
        """Is it in a scheduler's queue, or running from there?"""
        return bool(self.job_id) and self.status in ("waiting", "running")


class Batch(BaseModel):
    """How a sweep's jobs are handed to a scheduler."""

    model_config = ConfigDict(extra="forbid")

    flags: list[str]  # the scheduler's options
    setup: str  # lines of shell before the program
    at_once: int | None = None  # how many jobs may be in the queue; None: as many as it takes


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
    batch: Batch | None = None
    jobs: dict[str, JobState]

    def count(self) -> dict[Status, int]:
        """How many jobs run, wait, ..."""
        statuses: list[Status] = ["running", "waiting", "done", "failed", "left out"]
        return {status: sum(job.status == status for job in self.jobs.values()) for status in statuses}

    def ready(self) -> list[str]:
        """The jobs that can start and that no scheduler's job has, in the graph's order."""
        done = {key for key, job in self.jobs.items() if job.status == "done"}
        waiting = {key: job for key, job in self.jobs.items() if job.status == "waiting" and not job.job_id}
        return [key for key, job in waiting.items() if job.needs <= done]

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


def outcome_file(folder: Path, key: str) -> Path:
    """Where a job notes how it ended; until then it waits or runs."""
    return folder / "jobs" / key / "outcome.json"


def outcome(folder: Path, key: str) -> Outcome | None:
    """How a job ended; None where it has not, and, with a warning, where its note of that is damaged."""
    read = partial(Outcome.read_if_exists, outcome_file(folder, key))
    return read_sound(read, None, "how that job ended is not known")
