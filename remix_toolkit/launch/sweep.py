"""Run a sweep's graph on this machine: each job once its parents are done, as many at once as devices allow."""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from remix_toolkit import store
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph import devices, prune
from remix_toolkit.graph.jobs import Job, graph
from remix_toolkit.graph.lineage import run_record
from remix_toolkit.graph.plan import costs
from remix_toolkit.graph.sweep import Cell, Keep
from remix_toolkit.launch.job import delete_spare, task_of
from remix_toolkit.launch.screen import Screen, named
from remix_toolkit.launch.state import Command, State, begin, claim, load, save, with_slurm
from remix_toolkit.launch.worker import Check
from remix_toolkit.launch.workers import Workers, visible_devices

WARM = 1e8  # weights: a base up to this size is trained in a process that goes on with the next stage
STICKY = {"tf32", "use_liger_kernel", "full_determinism"}  # of `train`: these change the process for good
PAUSE = 2.0  # seconds until a stage that another run is at is looked at again


def record(cells: Sequence[Cell], runs: Path) -> list[str]:
    """Note all runs of a sweep: what is published of them is shown, what is missing too. Returns their ids."""
    return store.record_runs(runs, [run_record(c.recipe, c.nodes, c.arm, c.overrides, c.place) for c in cells])


def run_sweep(command: Command, cells: Sequence[Cell], keep: Keep, runs: Path, at_once: int | None = None) -> State:
    """Do all jobs that are not done yet; returns how each ended.

    Raises BadInput for a mistake in any cell before the first stage is trained, RunFailed when stopped by hand.
    """
    jobs = graph(cells)
    todo = prune.to_do(jobs, runs)
    gpus = visible_devices()
    needed = max(devices.count(cell.recipe) for cell in cells)
    if gpus and needed > len(gpus):
        raise BadInput(f"{command.sweep}: a stage takes {needed} devices; here are {len(gpus)}")
    folder, lock = claim(runs, command.id)
    if (folder / "state.json").exists() and (queued := with_slurm(folder, load(folder))):
        lock.release()
        raise BadInput(f"{folder.name}: {len(queued)} jobs were handed to SLURM; --cancel takes them off its queue")
    state = begin(command, jobs, todo, keep, "local")
    save(folder, state)  # from here on, other sweeps leave to this one what it needs
    cost = {key: one.flops or one.tokens or 1.0 for key, one in costs(jobs).items()}
    pool = Workers(runs, folder / "log.txt", gpus, at_once or max(1, len(gpus)))
    screen = Screen(state, sum(cost[key] for key in todo))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # `--cancel` stops it as Ctrl-C does
    try:
        check(cells, todo, pool, screen.note)
        _Run(jobs, state, folder, pool, screen, cost).to_the_end()
    except KeyboardInterrupt:
        state.stopped()
        raise RunFailed("stopped; the same command goes on from the last checkpoints") from None
    finally:
        screen.close()
        pool.close()
        save(folder, state)
        signal.signal(signal.SIGTERM, before)
        lock.release()
    return state


def check(cells: Sequence[Cell], todo: set[str], pool: Workers, note: Callable[[str], None]) -> None:
    """Every arm's data and settings, under one seed, before anything is trained. Raises BadInput with all mistakes."""
    for recipe in {(cell.recipe.accelerate_config, str(cell.recipe.adapter)): cell.recipe for cell in cells}.values():
        devices.check(recipe)
    arms: dict[str, Cell] = {}
    for cell in cells:
        if any(node.key in todo for node in cell.nodes):
            arms.setdefault(cell.arm, cell)
    waiting, running, wrong = list(arms), set[str](), dict[str, str]()
    if waiting:
        note(f"checking the data of {len(waiting)} arms")
    while waiting or running:
        while waiting and pool.room(1):
            arm = waiting.pop(0)
            running.add(arm)
            pool.start(arm, Check(arms[arm].recipe, arms[arm].nodes), 1, True)
        for event in pool.events(timeout=5):
            if event.kind == "line":
                continue
            running.discard(event.job)
            how, why = event.value
            if how == "failed":
                raise RunFailed(f"arm {event.job}: {why}; see {pool.log}")
            if how != "done":
                wrong[event.job] = why
    if wrong:
        raise BadInput("\n".join(f"arm {arm}: {why}" for arm, why in wrong.items()))


class _Run:
    """The loop: start what can start, hear what happened."""

    def __init__(
        self,
        jobs: dict[str, Job],
        state: State,
        folder: Path,
        pool: Workers,
        screen: Screen,
        cost: dict[str, float],
    ) -> None:
        self.jobs, self.state, self.folder, self.runs = jobs, state, folder, pool.runs
        self.pool, self.screen, self.cost = pool, screen, cost
        self.not_before: dict[str, float] = {}  # jobs that another run is at -> when to look again

    def to_the_end(self) -> None:
        entries = self.state.jobs
        self._prune()  # what a killed run of this sweep had no time to, or another `keep` allows
        while True:
            for key, job in self.jobs.items():
                if entries[key].state == "waiting":
                    self._start_or_leave(key, job)
            if not any(entry.state in ("waiting", "running") for entry in entries.values()):
                return
            heard = False
            for event in self.pool.events(timeout=PAUSE):
                heard = True
                if event.kind == "line":
                    self.screen.line(event.job, event.value)
                else:
                    self._ended(event.job, *event.value)
            if not heard and not any(entry.state == "running" for entry in entries.values()):
                time.sleep(PAUSE / 2)  # nothing to hear from: all that is left is another run's

    def _start_or_leave(self, key: str, job: Job) -> None:
        entry = self.state.jobs[key]
        before = [self.state.jobs[need] for need in job.needs]
        if any(other.state in ("failed", "left out") for other in before):
            entry.state = "left out"
            entry.said = "what it starts from failed"
            self.screen.ended(key, self.cost[key])
            return
        if any(other.state != "done" for other in before) or self.not_before.get(key, 0) > time.monotonic():
            return
        recipe = job.cell.recipe
        needed = devices.count(recipe) if job.node and self.pool.on_gpu else 1
        if not self.pool.room(needed):
            return
        entry.state = "running"
        settings = recipe.stages[job.node.stage].train.keys() if job.node else set()
        warm = (recipe.parameters or 1e12) <= WARM and not settings & STICKY
        waiting = {other for other, one in self.state.jobs.items() if one.state != "done"}
        self.pool.start(key, task_of(key, self.jobs, waiting, self.state.id, self.runs, wait=False), needed, warm)
        save(self.folder, self.state)

    def _ended(self, key: str, how: str, said: str) -> None:
        entry = self.state.jobs[key]
        if how == "busy":
            entry.state = "waiting"
            self.not_before[key] = time.monotonic() + PAUSE
            return
        entry.state = "done" if how == "done" else "failed"
        entry.said = said
        self.screen.ended(key, self.cost[key])
        save(self.folder, self.state)
        if how == "done":
            self._prune()

    def _prune(self) -> None:
        done = [key for key, entry in self.state.jobs.items() if entry.state == "done"]
        delete_spare(self.jobs, done, self.state, self.folder, self.runs)


def failures(state: State) -> str | None:
    """What failed and what was left out for it, in a few lines; None where all is done."""
    failed = [f"{named(entry)}: {entry.said}" for entry in state.jobs.values() if entry.state == "failed"]
    left = sum(entry.state == "left out" for entry in state.jobs.values())
    if not failed:
        return None
    return "\n".join(failed) + (f"\nand {left} that start from them were left out" if left else "")
