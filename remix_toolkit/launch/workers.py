"""Worker processes of a sweep: each on its devices, kept warm where the next job is small and on the same ones."""

import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from remix_toolkit.errors import RunFailed
from remix_toolkit.launch.worker import Task, work

STARTED = multiprocessing.get_context("spawn")  # a forked torch is a broken one


@dataclass
class Worker:
    process: BaseProcess
    pipe: connection.Connection
    devices: tuple[str, ...]
    job: str | None = None  # what it is at
    warm: bool = True  # goes on with another job after this one


@dataclass(frozen=True)
class Event:
    """A line that a job said, or how it ended (an `End`); a worker that was killed ends its job too."""

    job: str
    kind: Literal["line", "end"]
    value: Any


class Workers:
    """At most one job per device, or `slots` jobs where there are no devices."""

    def __init__(self, runs: Path, log: Path, devices: list[str], slots: int) -> None:
        self.runs, self.log, self.on_gpu = runs, log, bool(devices)
        self.free = list(devices or map(str, range(slots)))
        self.slots, self.all = slots, list[Worker]()
        self.environment: dict[str, str] = {}
        if slots > 1 and not devices and "OMP_NUM_THREADS" not in os.environ:  # side by side: a share of the cores each
            self.environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // slots))

    def room(self, devices: int) -> bool:
        """Can a job that needs so many devices start now?"""
        busy = sum(worker.job is not None for worker in self.all)
        return len(self.free) >= devices and busy < self.slots

    def start(self, job: str, task: Task, devices: int, warm: bool) -> None:
        """Begin a job; there is room for it."""
        taken = tuple(self.free[:devices])
        del self.free[:devices]
        warm_ones = [w for w in self.all if w.job is None and w.devices == taken and w.process.is_alive()]
        idle = warm_ones[0] if warm and warm_ones else None
        for other in [w for w in self.all if w.job is None and w is not idle and set(w.devices) & set(taken)]:
            self._end(other)
        worker = idle or self._new(taken)
        worker.job, worker.warm = job, warm
        worker.pipe.send(task)

    def _new(self, devices: tuple[str, ...]) -> Worker:
        here, there = STARTED.Pipe()
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if self.on_gpu else {}
        process = STARTED.Process(target=work, args=(there, self.runs, self.log, self.environment | visible))
        process.start()
        there.close()
        self.all.append(Worker(process, here, devices))
        return self.all[-1]

    def events(self, timeout: float) -> Iterator[Event]:
        """What happened, after waiting for something to happen."""
        at_work = {worker.pipe: worker for worker in self.all if worker.job is not None}
        for pipe in connection.wait(list(at_work), timeout):
            worker = at_work[pipe]  # type: ignore[index]
            job = str(worker.job)
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                self._done(worker)
                self.all.remove(worker)
                code = worker.process.exitcode
                said = f"its process ended with exit code {code}" + (" (killed)" if code == -9 else "")
                yield Event(job, "end", ("failed", said))
                continue
            if kind == "end":
                self._done(worker)
                if not worker.warm or value[0] == "failed":  # who knows what a failure left in the process
                    self._end(worker)
            yield Event(job, kind, value)

    def _done(self, worker: Worker) -> None:
        worker.job = None
        self.free = sorted([*self.free, *worker.devices], key=lambda device: (len(device), device))

    def _end(self, worker: Worker) -> None:
        worker.pipe.close()
        worker.process.terminate()
        worker.process.join()
        self.all.remove(worker)

    def close(self) -> None:
        """End all workers, what they are at included."""
        for worker in list(self.all):
            self._end(worker)


def visible_devices() -> list[str]:
    """The GPUs that this process may use, by their ids; none without NVIDIA's tools."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [device for device in said.split(",") if device.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        raise RunFailed(
            "nvidia-smi gave no answer within 60 seconds; CUDA_VISIBLE_DEVICES= goes without GPUs"
        ) from None
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    return [str(number) for number, line in enumerate(line for line in lines if line.startswith("GPU "))]
