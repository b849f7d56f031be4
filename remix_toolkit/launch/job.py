"""One job of a sweep, in a process of its own, which the sweep starts or a cluster's scheduler:

    python -m remix_toolkit.launch.job runs/sweeps/<sweep> <key>

Everything it needs stands in the sweep's folder: the job's resolved recipes and the state of the sweep.
"""

import subprocess
import sys
from pathlib import Path

from filelock import Timeout

from remix_toolkit import store
from remix_toolkit.console import warn
from remix_toolkit.disk import file_lock
from remix_toolkit.errors import BadInput, Busy, MeasurementFailed, RunFailed, describe, exit_on_error
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.graph import devices
from remix_toolkit.graph.jobs import stage_of
from remix_toolkit.graph.prune import unneeded
from remix_toolkit.graph.sweep_state import Outcome, SweepState, outcome, outcome_file
from remix_toolkit.launch.state import job_recipes, load, needed_elsewhere
from remix_toolkit.recipe.load import read_resolved
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import StageRecord

BUSY = 75  # exit code of a job whose stage another run is at: to be tried again, in the words of sysexits.h


def run_job(folder: Path, key: str, wait: bool = True) -> None:
    """Do a job, note in its folder how it ended, and delete the weights that nobody needs any more.

    Exits with code 1 where the job failed; with BUSY, and without a note, where another run is at its stage and this
    one is not to `wait`.
    """
    state = load(folder)
    try:
        ended = Outcome(status="done", message=_do(state, folder, key, wait))
    except Busy:
        sys.exit(BUSY)
    except Exception as error:
        ended = Outcome(status="failed", message=describe(error, folder.parent.parent))
    print(ended.message, flush=True)
    ended.write(outcome_file(folder, key))
    if ended.status == "failed":
        sys.exit(1)
    delete_unneeded(state, folder)


def _do(state: SweepState, folder: Path, key: str, wait: bool) -> str:
    """Do a job; returns what came of it, in one line. Raises BadInput, RunFailed or Busy."""
    from remix_toolkit.stage.command import run_key

    if key not in state.jobs:
        raise BadInput(f"{state.id}: no job {key}: the sweep, its recipe or its data changed in the meantime")
    kind, runs = state.jobs[key].kind, folder.parent.parent
    stage_key = stage_of(key)
    for file in job_recipes(folder, key):
        recipe = read_resolved(file)
        if kind == "split":
            run_key(recipe, key, runs)
        elif recipe.accelerate_config is None:
            run_key(recipe, stage_key, runs, kind, state.id, wait)
        else:
            _wait_until_free(stage_key, runs, wait)
            launch(recipe, file, stage_key, runs, "--only", kind, "--sweep", state.id)
    if kind == "split":
        return ""
    stage = store.find_stage(runs, stage_key)
    if stage is None:
        raise RunFailed("it ended without a published stage")
    if kind == "train":
        record = StageRecord.read(stage / "stage.json")
        return f"{record.steps} steps, loss {record.last_loss:.2g}"
    recall = ", ".join(f"{result.recall:.1f}%" for result in Recall().read(stage).values())
    return f"recall {recall}" if recall else ""


def _wait_until_free(key: str, runs: Path, wait: bool) -> None:
    """Wait here for another run at this stage: under a launcher, one waiting process would block the others."""
    try:
        with file_lock(store.lock_file(runs, key), timeout=-1 if wait else 0):
            return
    except Timeout:
        raise Busy(f"{key}: another run is at this stage") from None


def launch(recipe: Recipe, file: Path, key: str, runs: Path, *options: str) -> None:
    """One stage as `accelerate launch ... -m remix_toolkit.stage FILE --key KEY`, in processes that end with this one.

    Raises MeasurementFailed where the stage is published in spite of it, else RunFailed.
    """
    line = devices.command(recipe, [str(file), "--key", key, "--runs", str(runs), *options])
    if code := subprocess.run(line, check=False, start_new_session=True).returncode:  # Ctrl-C is for this process
        failed = MeasurementFailed if store.find_stage(runs, key) else RunFailed
        raise failed(f"accelerate launch ended with exit code {code}; what it printed says why")


def delete_unneeded(state: SweepState, folder: Path) -> None:
    """Delete the weights that this sweep made and that neither it nor another living sweep needs any more.

    What cannot be deleted is named in a warning: the jobs are done, and what starts from them may begin.
    """
    runs = folder.parent.parent
    outcomes = {key: outcome(folder, key) for key in state.jobs}
    done = {key for key, ended in outcomes.items() if ended and ended.status == "done"}
    done |= {key for key, job in state.jobs.items() if job.status == "done"}
    try:
        if published := unneeded(state.jobs, done, state.keep, state.id, runs):
            for key in published.keys() - needed_elsewhere(runs, folder):
                store.delete_weights(published[key])
    except (BadInput, OSError) as error:
        warn(f"no weights were deleted: {error}")


if __name__ == "__main__":
    job_folder = Path(sys.argv[1])
    exit_on_error(lambda: run_job(job_folder, sys.argv[2]), job_folder.parent.parent)
