"""One job of a sweep: in a warm worker process, or in a process of its own as a cluster's scheduler starts it:

    python -m remix_toolkit.launch.job runs/sweeps/<sweep> <key>

Everything it needs stands in the sweep's folder: the job's resolved recipes and the state of the sweep.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from remix_toolkit import store
from remix_toolkit.errors import BadInput, Busy, RunFailed, exit_on_error
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.graph import devices
from remix_toolkit.graph.jobs import Kind
from remix_toolkit.graph.prune import unneeded
from remix_toolkit.launch.state import Outcome, SweepState, frozen, load, needed_elsewhere, outcome_file
from remix_toolkit.recipe.load import read_resolved
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import StageRecord


@dataclass(frozen=True)
class JobOrder:
    """What a process is given to do: `remix stage FILE --key KEY` for each of the resolved recipes."""

    kind: Kind
    key: str  # of the stage or the split
    recipes: list[Path]
    sweep: str  # its id
    wait: bool  # for another run that is at this stage; else the job ends busy


def order_for(state: SweepState, folder: Path, key: str, wait: bool) -> JobOrder:
    """What a process is given to do for one job of a sweep."""
    job = state.jobs[key]
    stage = key.removesuffix("-measure") if job.kind == "measure" else key
    return JobOrder(job.kind, stage, frozen(folder, key), state.id, wait)


def run_job(order: JobOrder, runs: Path) -> str:
    """Do one job; returns what came out, in a line. Raises BadInput, RunFailed or Busy."""
    from remix_toolkit.stage.command import run_key

    for file in order.recipes:
        recipe = read_resolved(file)
        if recipe.accelerate_config is None or order.kind == "split":
            run_key(recipe, order.key, runs, None if order.kind == "split" else order.kind, order.sweep, order.wait)
        else:
            _wait_until_free(order, runs)
            _launch(recipe, file, order, runs)
    return _summary(order, runs)


def _summary(order: JobOrder, runs: Path) -> str:
    if order.kind == "split":
        return ""
    folder = store.find_stage(runs, order.key)
    if folder is None:
        raise RunFailed("it ended without a published stage")
    if order.kind == "train":
        stage = StageRecord.read(folder / "stage.json")
        return f"{stage.steps} steps, loss {stage.last_loss:.2g}"
    recall = ", ".join(f"{one.recall:.1f}%" for one in Recall().read(folder).values())
    return f"recall {recall}" if recall else ""


def _wait_until_free(order: JobOrder, runs: Path) -> None:
    """Wait here for another run at this stage: under a launcher, one waiting process would block the others."""
    try:
        with FileLock(runs / "work" / f"{order.key}.lock", timeout=-1 if order.wait else 0):
            return
    except Timeout:
        raise Busy(f"{order.key}: another run is at this stage") from None


_launched: list[subprocess.Popen[str]] = []  # to be ended with this process


def _launch(recipe: Recipe, file: Path, order: JobOrder, runs: Path) -> None:
    """The job under accelerate, as a command of its own that ends with this process."""
    arguments = [str(file), "--key", order.key, "--only", order.kind, "--runs", str(runs), "--sweep", order.sweep]
    line = devices.command(recipe, arguments)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True)
    _launched.append(process)
    assert process.stdout
    try:
        for text in process.stdout:
            print(text, end="")
        code = process.wait()
    finally:
        _launched.remove(process)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # for one process, accelerate passes no signal on
            process.wait()
    if code:
        raise RunFailed(f"accelerate launch ended with exit code {code}")


def end_launched() -> None:
    """End what this process has launched."""
    for process in _launched:
        os.killpg(process.pid, signal.SIGTERM)


def outcome_of(work: Callable[[], str]) -> Outcome:
    """Do some work, whatever happens: how it ended, and why."""
    try:
        return Outcome(status="done", message=work())
    except Busy as error:
        return Outcome(status="busy", message=str(error))
    except BadInput as error:
        return Outcome(status="bad input", message=str(error))
    except RunFailed as error:
        return Outcome(status="failed", message=str(error))
    except OSError as error:
        file = f": {error.filename}" if error.filename else ""
        return Outcome(status="failed", message=f"{error.strerror or error}{file}")
    except Exception as error:
        import traceback

        traceback.print_exc()
        return Outcome(status="failed", message=f"{type(error).__name__}: {error}")


def delete_unneeded(state: SweepState, done: Collection[str], folder: Path, runs: Path) -> None:
    """Delete the weights that this sweep made and that neither it nor another living sweep needs any more."""
    if published := unneeded(state.jobs, done, state.keep, state.id, runs):
        needed = needed_elsewhere(runs, folder)
        for key, stage in published.items():
            if key not in needed:
                store.delete_weights(stage)


def main() -> None:
    """Do the job, note how it ended, delete the weights that nobody needs now."""
    folder, key = Path(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # preempted: what was launched from here ends too
    runs = folder.parent.parent
    state = load(folder)
    if key not in state.jobs:
        raise BadInput(f"{state.id}: no job {key}: the sweep, its recipe or its data changed in the meantime")
    outcome = outcome_of(partial(run_job, order_for(state, folder, key, wait=True), runs))
    print(outcome.message, flush=True)
    outcome.write(outcome_file(folder, key))
    if outcome.status == "bad input":
        raise BadInput(outcome.message)
    if outcome.status != "done":
        raise RunFailed(outcome.message)
    try:
        done = {other for other, job in state.jobs.items() if job.status == "done"}
        done |= {other for other in state.jobs if _is_done(folder, other)}
        delete_unneeded(state, done, folder, runs)
    except (BadInput, OSError) as error:  # the job itself is done, and what starts from it may begin
        print(f"warning: no weights were deleted: {error}", flush=True)


def _is_done(folder: Path, key: str) -> bool:
    file = outcome_file(folder, key)
    return file.exists() and Outcome.read(file).status == "done"


if __name__ == "__main__":
    exit_on_error(main)
