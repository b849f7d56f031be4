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

from remix_toolkit.errors import RunFailed
from remix_toolkit.launch.state import Outcome
from remix_toolkit.launch.worker import Order, work

SPAWN = multiprocessing.get_context("spawn")  # a forked torch is a broken one


@dataclass
class Worker:
    process: BaseProcess
    pipe: connection.Connection
    devices: tuple[str, ...]
    job: str | None = None  # the key of the one that it runs
    stays_warm: bool = True  # goes on with another job after this one


@dataclass(frozen=True)
class Event:
    """A line that a job printed, or how it ended; the job of a worker that was killed ends too."""

    job: str
    value: str | Outcome


class WorkerPool:
    """At most one job per device, or `slots` jobs where there are no devices."""

    def __init__(self, runs: Path, log: Path, devices: list[str], slots: int) -> None:
        self.runs, self.log, self.on_gpu = runs, log, bool(devices)
        self.free = list(devices or map(str, range(slots)))
        self.slots, self.all = slots, list[Worker]()
        self.environment: dict[str, str] = {}
        if slots > 1 and not devices and "OMP_NUM_THREADS" not in os.environ:  # side by side: a share of the cores each
            self.environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // slots))

    def has_room(self, devices: int) -> bool:
        """Can a job that needs so many devices start now?"""
        busy = sum(worker.job is not None for worker in self.all)
        return len(self.free) >= devices and busy < self.slots

    def start(self, job: str, order: Order, devices: int, stays_warm: bool) -> None:
        """Begin a job; there is room for it."""
        taken = tuple(self.free[:devices])
        del self.free[:devices]
        matching = [w for w in self.all if w.job is None and w.devices == taken and w.process.is_alive()]
        idle = matching[0] if stays_warm and matching else None
        for other in [w for w in self.all if w.job is None and w is not idle and set(w.devices) & set(taken)]:
            self._end(other)
        worker = idle or self._new(taken)
        worker.job, worker.stays_warm = job, stays_warm
        worker.pipe.send(order)

    def _new(self, devices: tuple[str, ...]) -> Worker:
        here, there = SPAWN.Pipe()
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if self.on_gpu else {}
        process = SPAWN.Process(target=work, args=(there, self.runs, self.log, self.environment | visible))
        process.start()
        there.close()
        self.all.append(Worker(process, here, devices))
        return self.all[-1]

    def events(self, timeout: float) -> Iterator[Event]:
        """What happened, after waiting for something to happen."""
        busy = {worker.pipe: worker for worker in self.all if worker.job is not None}
        for pipe in connection.wait(list(busy), timeout):
            worker = busy[pipe]  # type: ignore[index]
            job = str(worker.job)
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                self._release(worker)
                self.all.remove(worker)
                code = worker.process.exitcode
                reason = f"its process ended with exit code {code}" + (" (killed)" if code == -9 else "")
                yield Event(job, Outcome(status="failed", message=reason))
                continue
            if kind == "outcome":
                self._release(worker)
                if not worker.stays_warm or value.status == "failed":  # a failure may leave anything in the process
                    self._end(worker)
            yield Event(job, value)

    def _release(self, worker: Worker) -> None:
        worker.job = None
        self.free = sorted([*self.free, *worker.devices], key=lambda device: (len(device), device))

    def _end(self, worker: Worker) -> None:
        worker.pipe.close()
        worker.process.terminate()
        worker.process.join()
        self.all.remove(worker)

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in list(self.all):
            self._end(worker)


def visible_devices() -> list[str]:
    """The GPUs that this process may use, by their ids; none without NVIDIA's tools."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device.strip()]
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
