"""What a batch job of SLURM does: a job of the sweep, and then others that can start, one after another.

    python -m remix_toolkit.launch.slurm_job runs/sweeps/<sweep>

A batch job that SLURM takes away (it is preempted, its node fails) is queued again by SLURM. One that comes near its
time limit has itself queued again. Either goes on with the job that it was at, from that job's last checkpoint.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from remix_toolkit import store
from remix_toolkit.disk import delete, file_lock
from remix_toolkit.errors import Interrupted, RunFailed, exit_on_error
from remix_toolkit.graph.jobs import stage_of
from remix_toolkit.graph.sweep_state import Outcome, outcome, outcome_file
from remix_toolkit.launch.slurm import in_queue, order, queue_ready, refresh
from remix_toolkit.launch.state import log_file

T = TypeVar("T")

AGAIN_S = 30  # until SLURM is asked again, where it gives no answer
GIVEN_UP = "the time limit came twice, with no checkpoint in between; it needs a longer `time` in the file for SLURM"


class BatchJob:
    """A batch job and the job that it is at."""

    def __init__(self, folder: Path, job_id: str) -> None:
        self.folder, self.job_id = folder, job_id
        self.key = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.given_up = False

    def work(self) -> None:
        """Do what there is to do. Exits with code 1 where a job failed; raises Interrupted where SLURM ends this."""
        signal.signal(signal.SIGUSR1, lambda *_: self.near_end())
        failed = False
        while key := _patiently(self._next):
            self.key = key
            failed |= not self._do(key)
        sys.exit(failed)

    def near_end(self) -> None:
        """The time limit is near: be queued again, and give a job up of which that came to nothing the last time."""
        if self.process and self.process.poll() is None:
            checkpoints = store.work_dir(self.folder.parent.parent, stage_of(self.key)) / "checkpoints"
            so_far = "\n".join(sorted(file.parent.name for file in checkpoints.glob("*/manifest.json")))
            mark = outcome_file(self.folder, self.key).with_name("near_end.txt")
            self.given_up = mark.exists() and mark.read_text(encoding="utf-8") == so_far
            if self.given_up:
                mark.unlink()
            else:
                mark.write_text(so_far, encoding="utf-8")
        _patiently(lambda: order("scontrol", "requeue", self.job_id))

    def _next(self) -> str | None:
        """The job to do next: what this one was at when it was taken away, or one that can start; queue the others."""
        with file_lock(self.folder / "lock"):
            state = refresh(self.folder)
            jobs = state.jobs
            had = [key for key, job in jobs.items() if job.job_id == self.job_id]
            if not had:  # the sweep was cancelled
                return None
            key = next((key for key in had if outcome(self.folder, key) is None), None)
            if key is None:
                alike = (key for key in state.ready() if jobs[key].resources == jobs[had[0]].resources)
                if key := next(alike, None):
                    jobs[key].job_id, jobs[key].status = self.job_id, "running"
            if refused := queue_ready(state, self.folder):
                print(refused, flush=True)
            return key

    def _do(self, key: str) -> bool:
        """Do a job in a process of its own, which may be killed without this one; returns whether it was done."""
        line = [sys.executable, "-m", "remix_toolkit.launch.job", str(self.folder), key]
        print(f"begins with {key}", flush=True)
        try:
            with log_file(self.folder, key).open("ab") as log:
                self.process = subprocess.Popen(line, stdout=log, stderr=log)
            code = self.process.wait()
            if (ended := outcome(self.folder, key)) and ended.status == "done":
                return True
            if _patiently(lambda: in_queue([self.job_id])) != {self.job_id: "RUNNING"}:
                raise Interrupted  # its processes were ended, and some of them sooner than this one
        except Interrupted:
            if self.process:
                self.process.terminate()
                self.process.wait()
            if (ended := outcome(self.folder, key)) and ended.status == "failed":
                delete(outcome_file(self.folder, key))
            if self.given_up and outcome(self.folder, key) is None:
                Outcome(status="failed", message=GIVEN_UP).write(outcome_file(self.folder, key))
            raise
        if ended is None:
            message = f"its process ended with exit code {code}; see {log.name}"
            Outcome(status="failed", message=message).write(outcome_file(self.folder, key))
        return False


def _patiently(ask: Callable[[], T]) -> T:
    """Ask until SLURM answers: its controller may be restarted."""
    while True:
        try:
            return ask()
        except RunFailed as error:
            print(f"{error}; asked again in {AGAIN_S} seconds", flush=True)
            time.sleep(AGAIN_S)


if __name__ == "__main__":
    sweep_folder = Path(sys.argv[1])
    exit_on_error(BatchJob(sweep_folder, os.environ["SLURM_JOB_ID"]).work, sweep_folder.parent.parent)
