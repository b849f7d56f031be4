"""runs/sweeps/<sweep>/: what a sweep is doing, for `--status`, `--cancel` and other sweeps of the same store.

state.json says of each job whether it waits, runs, is done or failed; the folder's lock is held as long as the sweep is
alive, and the system frees it when it dies.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from remix_toolkit import store
from remix_toolkit.data.identity import short_hash
from remix_toolkit.graph.jobs import Job
from remix_toolkit.graph.sweep import Cell, Keep, load_sweep
from remix_toolkit.recipe.load import find_recipe

Kind = Literal["waiting", "running", "done", "failed", "left out"]


@dataclass
class Entry:
    """One job of a sweep."""

    name: str
    runs: list[str]
    needs: list[str]
    state: Kind = "waiting"
    said: str = ""  # the last line, or why it failed
    job_id: str = ""  # of a cluster's scheduler


@dataclass(frozen=True)
class Command:
    """What was asked for. The same command has the same id: it goes on where it stopped."""

    sweep: str
    profile: str | None
    seeds: list[int] | None
    overrides: list[str]

    @property
    def id(self) -> str:
        file = find_recipe(self.sweep).resolve()
        return f"{file.stem}-{short_hash([str(file), self.profile, self.seeds, self.overrides])[:8]}"

    def cells(self) -> list[Cell]:
        """The sweep's cells, as its file says them now."""
        return load_sweep(self.sweep, self.profile, self.seeds, self.overrides)[1]


@dataclass
class State:
    """A sweep as it stands."""

    id: str
    command: Command
    keep: Keep
    launcher: str
    pid: int = 0
    host: str = ""
    jobs: dict[str, Entry] = field(default_factory=dict)

    def count(self) -> dict[Kind, int]:
        """How many jobs wait, run, ..."""
        kinds: list[Kind] = ["running", "waiting", "done", "failed", "left out"]
        return {kind: sum(entry.state == kind for entry in self.jobs.values()) for kind in kinds}

    def stopped(self) -> None:
        """What ran waits again."""
        for entry in self.jobs.values():
            entry.state = "waiting" if entry.state == "running" else entry.state


def begin(command: Command, jobs: Mapping[str, Job], todo: set[str], keep: Keep, launcher: str) -> State:
    """The state of a sweep that starts now."""
    state = State(command.id, command, keep, launcher, os.getpid(), socket.gethostname())
    for key, job in jobs.items():
        state.jobs[key] = Entry(job.name, job.runs, list(job.needs), "waiting" if key in todo else "done")
    return state


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
    raise RuntimeError(f"{id_}: runs a hundred times at once")


def save(folder: Path, state: State) -> None:
    """Write the state down."""
    store.write_json(folder / "state.json", asdict(state))


def load(folder: Path) -> State:
    """A state that was written."""
    written: dict[str, Any] = store.read_json(folder / "state.json")
    jobs = {key: Entry(**entry) for key, entry in written.pop("jobs").items()}
    return State(**{**written, "command": Command(**written["command"]), "jobs": jobs})


def is_alive(folder: Path) -> bool:
    """Is a process of this machine at this sweep?"""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def wanted_elsewhere(runs: Path, mine: Path | None) -> set[str]:
    """Keys of the stages that another living sweep still has to do with: those it has to do, and their parents."""
    wanted: set[str] = set()
    for file in (runs / "sweeps").glob("*/state.json"):
        folder, state = file.parent, load(file.parent)
        if folder != mine and (state.launcher == "slurm" or is_alive(folder)):
            for key, entry in state.jobs.items():
                if entry.state in ("waiting", "running") and not end_of(folder, key).exists():
                    wanted |= {key, *entry.needs}
    return wanted


def with_slurm(folder: Path, state: State) -> list[str]:
    """The ids of the jobs that SLURM was given and that did not say yet how they ended."""
    return [entry.job_id for key, entry in state.jobs.items() if entry.job_id and not end_of(folder, key).exists()]


def end_of(folder: Path, key: str) -> Path:
    """Where a job that a scheduler started notes how it ended; until then it waits or runs."""
    return folder / f"{key}.end.json"
