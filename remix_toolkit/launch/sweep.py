"""Run a sweep's graph on this machine: each job once its parents are done, as many at once as devices allow."""

import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from remix_toolkit.console import info
from remix_toolkit.errors import BadInput, RunFailed, exit_on_error
from remix_toolkit.graph import devices
from remix_toolkit.graph.cost import costs
from remix_toolkit.graph.jobs import Job, due, graph
from remix_toolkit.graph.lineage import Node
from remix_toolkit.graph.sweep import Cell, Keep
from remix_toolkit.graph.sweep_state import Command, SweepState, outcome
from remix_toolkit.launch import processes
from remix_toolkit.launch.job import BUSY, delete_unneeded, run_job
from remix_toolkit.launch.state import begin, claim, former_state, log_file, write_job
from remix_toolkit.launch.status import Screen
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.tiny_size import tiny_size

MOST = 8  # jobs side by side without GPUs: each takes about half a gigabyte
RETRY_S = 2.0  # until a stage that another run is training is looked at again


def run_sweep(
    command: Command, cells: Sequence[Cell], keep: Keep, runs: Path, at_once: int | None = None
) -> SweepState:
    """Do all jobs that are not done yet; returns how each ended.

    Raises BadInput for a mistake in any cell before the first stage is trained.
    """
    jobs = graph(cells)
    todo = due(jobs, runs)
    gpus = processes.visible_devices()
    needed = max(devices.count(cell.recipe) for cell in cells)
    if gpus and needed > len(gpus):
        raise BadInput(f"{command.sweep}: a stage takes {needed} devices, and {len(gpus)} are visible here")
    slots = at_once or side_by_side(cells, gpus)
    folder, lock = claim(runs, command.id)
    try:
        former = former_state(folder)
        if former and (queued := [job for job in former.unfinished(folder).values() if job.job_id]):
            raise BadInput(f"{folder.name}: {len(queued)} jobs are in SLURM's queue; --cancel takes them off")
        state = begin(command, jobs, todo, keep, "local")
        state.save(folder)  # from here on, other sweeps do not delete what this one needs
        check(cells, todo, runs, slots, folder)
        for key in todo:
            write_job(folder, jobs[key])
        _Run(jobs, state, folder, gpus, slots).finish()
    finally:
        lock.release()
    return state


def side_by_side(cells: Sequence[Cell], gpus: Sequence[str]) -> int:
    """How many jobs run at once where nobody says so: one for each GPU.

    On CPUs, tiny models are trained on one core each: with two threads, a stage is not twice as fast. Larger models
    keep all cores busy, and several of them fill the memory.
    """
    if gpus or not all(tiny_size(cell.recipe.base) and devices.count(cell.recipe) == 1 for cell in cells):
        return max(1, len(gpus))
    return min(os.cpu_count() or 1, MOST)


def check(cells: Sequence[Cell], todo: set[str], runs: Path, slots: int, folder: Path) -> None:
    """Check every arm's data and settings, under one seed, before anything is trained.

    Raises BadInput with the mistakes of all arms.
    """
    arms: dict[str, Cell] = {}
    for cell in cells:
        if any(node.key in todo for node in cell.nodes):
            arms.setdefault(cell.arm, cell)
    if not arms:
        return
    info(f"checking the data of {len(arms)} arms")
    log = folder / "check.log"
    set_up = (log, _environment(slots, []))
    executor = ProcessPoolExecutor(min(slots, len(arms)), processes.CONTEXT, processes.set_up, set_up)
    mistakes = []
    try:
        checks = [executor.submit(_check, cell.recipe, cell.nodes, runs) for cell in arms.values()]
        for arm, checked in zip(arms, checks, strict=True):
            try:
                checked.result()
            except BadInput as error:
                mistakes.append(f"arm {arm}: {error}")
    except BrokenProcessPool:
        raise RunFailed(f"a process that checks data was killed; see {log}") from None
    finally:
        executor.shutdown(cancel_futures=True)
    if mistakes:
        raise BadInput("\n".join(mistakes))


def _check(recipe: Recipe, nodes: list[Node], runs: Path) -> None:
    from remix_toolkit.stage.prepare import prepare

    prepare(recipe, nodes, runs, ask=False)


def _environment(slots: int, gpus: list[str]) -> dict[str, str]:
    """A process's environment: its GPUs or, without any and where several run side by side, its share of the cores."""
    if gpus:
        return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    if slots == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // slots))}


def _do_job(set_up: tuple[Path, dict[str, str]], folder: Path, key: str) -> None:
    def do() -> None:
        processes.set_up(*set_up)
        run_job(folder, key, wait=False)

    exit_on_error(do, folder.parent.parent, interruptible=False)


class _Run:
    """The loop: start what can start, see what has ended."""

    def __init__(self, jobs: dict[str, Job], state: SweepState, folder: Path, gpus: list[str], slots: int) -> None:
        self.jobs, self.state, self.folder, self.gpus, self.slots = jobs, state, folder, gpus, slots
        self.running: dict[str, tuple[BaseProcess, list[str]]] = {}  # job -> its process, and the devices that it has
        self.not_before: dict[str, float] = {}  # jobs that another run is doing -> when to look again
        todo = [key for key, job in state.jobs.items() if job.status == "waiting"]
        parts = {key: (cost.flops, cost.tokens, 1.0) for key, cost in costs(jobs).items()}
        work = {key: next(part for part in parts[key] if part is not None) for key in todo}
        self.screen = Screen(state, folder, work)

    def finish(self) -> None:
        """Do everything that can be done. Whatever runs is ended if this is interrupted."""
        delete_unneeded(self.state, self.folder)  # what `keep` allows now, or a run that was killed had no time to
        try:
            with self.screen.live:
                while True:
                    for key, job in self.jobs.items():
                        if self.state.jobs[key].status == "waiting":
                            self._start_or_leave_out(key, job)
                    if not any(job.status in ("waiting", "running") for job in self.state.jobs.values()):
                        return
                    connection.wait([process.sentinel for process, _ in self.running.values()], RETRY_S)
                    for key, (process, _) in list(self.running.items()):
                        if process.exitcode is not None:
                            self._end(key, process.exitcode)
        finally:
            for process, _ in self.running.values():
                process.terminate()
            for process, _ in self.running.values():
                process.join()
            self.state.interrupt()
            self.state.save(self.folder)

    def _start_or_leave_out(self, key: str, job: Job) -> None:
        state = self.state.jobs[key]
        needed = [self.state.jobs[need].status for need in job.needs]
        if "failed" in needed or "left out" in needed:
            state.status, state.message = "left out", "what it starts from failed"
            self.screen.show_end(key)
            return
        if any(status != "done" for status in needed) or self.not_before.get(key, 0) > time.monotonic():
            return
        taken = {device for _, assigned in self.running.values() for device in assigned}
        free = [device for device in self.gpus if device not in taken]
        wanted = (devices.count(job.cells[0].recipe) if job.node else 1) if self.gpus else 0
        if len(free) < wanted or len(self.running) == self.slots:
            return
        state.status = "running"
        set_up = log_file(self.folder, key), _environment(self.slots, free[:wanted])
        process = processes.CONTEXT.Process(target=_do_job, args=(set_up, self.folder, key))
        process.start()
        self.running[key] = process, free[:wanted]
        self.state.save(self.folder)

    def _end(self, key: str, exit_code: int) -> None:
        del self.running[key]
        state = self.state.jobs[key]
        if exit_code == BUSY:
            state.status = "waiting"
            self.not_before[key] = time.monotonic() + RETRY_S
            return
        if ended := outcome(self.folder, key):
            state.status, state.message = ended.status, ended.message
        else:
            killed = " (killed)" if exit_code == -signal.SIGKILL else ""
            log = log_file(self.folder, key)
            state.status, state.message = "failed", f"its process ended with exit code {exit_code}{killed}; see {log}"
        self.screen.show_end(key)
        self.state.save(self.folder)


def failures(state: SweepState) -> str | None:
    """What failed and what was left out for it, in a few lines; None where all is done."""
    failed = [f"{job.title}: {job.message}" for job in state.jobs.values() if job.status == "failed"]
    left_out = state.count()["left out"]
    if not failed:
        return None
    return "\n".join(failed) + (f"\nand {left_out} that start from them were left out" if left_out else "")
