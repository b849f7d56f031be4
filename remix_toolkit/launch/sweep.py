"""Run a sweep's graph on this machine: each job once its parents are done, as many at once as devices allow."""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph import devices
from remix_toolkit.graph.jobs import Job, due, graph
from remix_toolkit.graph.plan import costs
from remix_toolkit.graph.sweep import Cell, Keep
from remix_toolkit.launch.job import delete_unneeded, order_for
from remix_toolkit.launch.screen import Screen
from remix_toolkit.launch.state import Command, Outcome, SweepState, begin, claim, freeze, load, queued
from remix_toolkit.launch.worker import CheckOrder
from remix_toolkit.launch.worker_pool import WorkerPool, visible_devices

WARM = 1e8  # weights: a base up to this size is trained in a process that goes on with the next job
STICKY = {"tf32", "use_liger_kernel", "full_determinism"}  # of `train`: these change the process for good
RETRY_S = 2.0  # until a stage that another run is training is looked at again


def run_sweep(
    command: Command, cells: Sequence[Cell], keep: Keep, runs: Path, at_once: int | None = None
) -> SweepState:
    """Do all jobs that are not done yet; returns how each ended.

    Raises BadInput for a mistake in any cell before the first stage is trained, RunFailed when stopped by hand.
    """
    jobs = graph(cells)
    todo = due(jobs, runs)
    gpus = visible_devices()
    needed = max(devices.count(cell.recipe) for cell in cells)
    if gpus and needed > len(gpus):
        raise BadInput(f"{command.sweep}: a stage takes {needed} devices; here are {len(gpus)}")
    folder, lock = claim(runs, command.id)
    if (folder / "state.json").exists() and (with_slurm := queued(folder, load(folder))):
        lock.release()
        raise BadInput(f"{folder.name}: {len(with_slurm)} jobs are in SLURM's queue; --cancel takes them off")
    state = begin(command, jobs, todo, keep, "local")
    state.save(folder)  # from here on, other sweeps do not delete what this one needs
    cost = {key: one.flops or one.tokens or 1.0 for key, one in costs(jobs).items()}
    pool = WorkerPool(runs, folder / "log.txt", gpus, at_once or max(1, len(gpus)))
    screen = Screen(state, sum(cost[key] for key in todo))
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)  # `--cancel` stops it as Ctrl-C does
    try:
        check(cells, todo, pool, screen.note)
        for key in todo:
            freeze(folder, jobs[key])
        _Run(jobs, state, folder, pool, screen, cost).finish()
    except KeyboardInterrupt:
        state.interrupt()
        raise RunFailed("stopped; the same command goes on from the last checkpoints") from None
    finally:
        screen.close()
        pool.close()
        state.save(folder)
        signal.signal(signal.SIGTERM, handler)
        lock.release()
    return state


def check(cells: Sequence[Cell], todo: set[str], pool: WorkerPool, note: Callable[[str], None]) -> None:
    """Check every arm's data and settings, under one seed, before anything is trained.

    Raises BadInput with the mistakes of all arms.
    """
    arms: dict[str, Cell] = {}
    for cell in cells:
        if any(node.key in todo for node in cell.nodes):
            arms.setdefault(cell.arm, cell)
    waiting, running, mistakes = list(arms), set[str](), dict[str, str]()
    if waiting:
        note(f"checking the data of {len(waiting)} arms")
    while waiting or running:
        while waiting and pool.has_room(1):
            arm = waiting.pop(0)
            running.add(arm)
            pool.start(arm, CheckOrder(arms[arm].recipe, arms[arm].nodes), 1, True)
        for event in pool.events(timeout=5):
            if isinstance(event.value, str):
                continue
            running.discard(event.job)
            if event.value.status == "failed":
                raise RunFailed(f"arm {event.job}: {event.value.message}; see {pool.log}")
            if event.value.status != "done":
                mistakes[event.job] = event.value.message
    if mistakes:
        raise BadInput("\n".join(f"arm {arm}: {mistake}" for arm, mistake in mistakes.items()))


class _Run:
    """The loop: start what can start, read what happened."""

    def __init__(
        self,
        jobs: dict[str, Job],
        state: SweepState,
        folder: Path,
        pool: WorkerPool,
        screen: Screen,
        cost: dict[str, float],
    ) -> None:
        self.jobs, self.state, self.folder, self.runs = jobs, state, folder, pool.runs
        self.pool, self.screen, self.cost = pool, screen, cost
        self.not_before: dict[str, float] = {}  # jobs that another run is doing -> when to look again

    def finish(self) -> None:
        """Do everything that can be done."""
        self._delete_unneeded()  # what another run of this sweep had no time to delete, or what another `keep` allows
        states = self.state.jobs
        while True:
            for key, job in self.jobs.items():
                if states[key].status == "waiting":
                    self._start_or_leave_out(key, job)
            if not any(job.status in ("waiting", "running") for job in states.values()):
                return
            quiet = True
            for event in self.pool.events(timeout=RETRY_S):
                quiet = False
                if isinstance(event.value, str):
                    self.screen.show_line(event.job, event.value)
                else:
                    self._end(event.job, event.value)
            if quiet and not any(job.status == "running" for job in states.values()):
                time.sleep(RETRY_S / 2)  # no worker to wait for: all that is left is another run's

    def _start_or_leave_out(self, key: str, job: Job) -> None:
        state = self.state.jobs[key]
        needed = [self.state.jobs[need].status for need in job.needs]
        if "failed" in needed or "left out" in needed:
            state.status, state.message = "left out", "what it starts from failed"
            self.screen.show_end(key, self.cost[key])
            return
        if any(status != "done" for status in needed) or self.not_before.get(key, 0) > time.monotonic():
            return
        recipe = job.cells[0].recipe
        wanted = devices.count(recipe) if job.node and self.pool.on_gpu else 1
        if not self.pool.has_room(wanted):
            return
        state.status = "running"
        settings = recipe.stages[job.name].train.keys() if job.node else set()
        stays_warm = (recipe.parameters or 1e12) <= WARM and not settings & STICKY
        self.pool.start(key, order_for(self.state, self.folder, key, wait=False), wanted, stays_warm)
        self.state.save(self.folder)

    def _end(self, key: str, outcome: Outcome) -> None:
        state = self.state.jobs[key]
        if outcome.status == "busy":
            state.status = "waiting"
            self.not_before[key] = time.monotonic() + RETRY_S
            return
        state.status = "done" if outcome.status == "done" else "failed"
        state.message = outcome.message
        self.screen.show_end(key, self.cost[key])
        self.state.save(self.folder)
        if outcome.status == "done":
            self._delete_unneeded()

    def _delete_unneeded(self) -> None:
        done = [key for key, job in self.state.jobs.items() if job.status == "done"]
        delete_unneeded(self.state, done, self.folder, self.runs)


def failures(state: SweepState) -> str | None:
    """What failed and what was left out for it, in a few lines; None where all is done."""
    failed = [f"{job.title}: {job.message}" for job in state.jobs.values() if job.status == "failed"]
    left_out = state.count()["left out"]
    if not failed:
        return None
    return "\n".join(failed) + (f"\nand {left_out} that start from them were left out" if left_out else "")
