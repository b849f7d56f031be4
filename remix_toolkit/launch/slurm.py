"""A sweep handed to SLURM: one batch job for each job of the graph, each after those that it starts from.

    remix sweep recipes/paper/table2.yaml --launcher slurm --slurm cluster.yaml

cluster.yaml holds sbatch's own options by their long names, and what the batch script runs first:

    partition: gpu
    account: me
    time: 08:00:00
    setup: module load cuda

A stage asks for as many GPUs as its accelerate config has processes, unless `gpus` or `gres` says otherwise. A job that
is preempted is queued again and goes on from its last checkpoint.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from filelock import Timeout

from remix_toolkit.disk import file_lock
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph import devices
from remix_toolkit.graph.jobs import Job, due, graph
from remix_toolkit.graph.sweep import Cell, Keep
from remix_toolkit.graph.sweep_state import Command, SweepState, outcome
from remix_toolkit.launch.state import begin, former_state, load, log_file, write_job
from remix_toolkit.launch.sweep import check
from remix_toolkit.recipe.yaml_file import dotted, load_mapping, read_text

ANSWER_S = 120  # how long SLURM may take to answer
OPTION = re.compile(r"[a-z][a-z0-9-]*")
ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "STOPPED", "SIGNALING"}
SET_BY_SWEEP = {
    "job-name",
    "dependency",
    "kill-on-invalid-dep",
    "requeue",
    "open-mode",
    "output",
    "error",
    "parsable",
    "wrap",
}


def submit(command: Command, cells: list[Cell], keep: Keep, runs: Path, options: Path | None) -> SweepState:
    """Queue every job that is neither done nor queued. Raises BadInput where SLURM is missing or refuses."""
    if shutil.which("sbatch") is None:
        raise BadInput("--launcher slurm: there is no sbatch on this machine's PATH; run it where SLURM's commands are")
    flags, setup = read_options(options) if options else ([], "")
    jobs = graph(cells)
    todo = due(jobs, runs)
    folder = (runs / "sweeps" / command.id).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with file_lock(folder / "lock", timeout=0):
            check(cells, todo, runs, 1, folder)
            former = refresh(folder).jobs if former_state(folder) else {}
            state = begin(command, jobs, todo, keep, "slurm")
            for key in todo & former.keys():
                if former[key].status in ("waiting", "running"):
                    state.jobs[key].job_id = former[key].job_id
            new: set[str] = set()
            for job in jobs.values():
                entry = state.jobs[job.key]
                if job.key not in todo or (entry.job_id and not new & job.needs):
                    continue
                if entry.job_id:
                    _scancel(entry.job_id)  # it waits for a job that failed
                write_job(folder, job)
                state.save(folder)  # what is queued already is not lost if sbatch refuses this one
                entry.job_id = _sbatch(job, state, todo, flags, setup, folder)
                new.add(job.key)
            state.save(folder)
            return state
    except Timeout:
        raise BadInput(f"{command.id}: the same command is running on this machine; --cancel stops it") from None


def read_options(file: Path) -> tuple[list[str], str]:
    """sbatch's options of a YAML file, as it takes them, and the lines before the program. Raises BadInput."""
    locations = load_mapping(file)[1]
    options: dict[str, Any] = yaml.load(read_text(file), yaml.BaseLoader)  # all text: 12:00:00 is no number of minutes
    setup = options.pop("setup", "")
    for name, value in options.items():
        place = f"{locations[(name,)]}: {dotted((name,))}"
        if not OPTION.fullmatch(name):
            raise BadInput(f"{place}: the long name of an option of sbatch is expected, such as partition")
        if name in SET_BY_SWEEP:
            raise BadInput(f"{place}: the sweep sets it for each job")
        if not isinstance(value, str):
            raise BadInput(f"{place}: one value is expected, as sbatch --{name} takes it")
    return [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in options.items()], str(setup)


def _sbatch(job: Job, state: SweepState, todo: set[str], flags: list[str], setup: str, folder: Path) -> str:
    """Queue one job; returns its id."""
    line = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={log_file(folder, job.key)}"]
    line += [f"--job-name={job.kind}-{job.name}-{job.key[:8]}", *flags]
    recipe = job.cells[0].recipe
    if recipe.accelerate_config and not any(flag.startswith(("--gpus", "--gres")) for flag in flags):
        line.append(f"--gpus={devices.count(recipe) if job.node else 1}")
    if after := [state.jobs[need].job_id for need in job.needs if need in todo]:
        line += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
    program = [sys.executable, "-m", "remix_toolkit.launch.job", str(folder), job.key]
    # exec: else the shell dies of the signal that ends the job, and leaves the program running.
    done = _call(*line, script=f"#!/bin/bash\n{setup}\nexec {shlex.join(program)}\n")
    if done.returncode:
        reason = done.stderr.strip().removeprefix("sbatch: error: ")
        title = state.jobs[job.key].title
        raise BadInput(
            f"sbatch refuses {title}: {reason}; what is queued already stays, --cancel takes it off the queue"
        )
    return done.stdout.strip().partition(";")[0]  # `id;cluster` where there are several


def _call(*line: str, script: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run one of SLURM's commands. Raises RunFailed where it does not answer."""
    try:
        return subprocess.run(line, input=script, capture_output=True, text=True, check=False, timeout=ANSWER_S)
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        raise RunFailed(f"{line[0]} gave no answer: {error}; the same command goes on") from None


def _queue(ids: list[str]) -> dict[str, str]:
    """SLURM's state of the jobs that it still knows."""
    if not ids:
        return {}
    listed = ",".join([*ids, ids[0]])  # twice: asked for a single job that it does not know, squeue fails
    done = _call("squeue", "--noheader", "--states=all", "--format=%i %T", f"--jobs={listed}")
    if done.returncode and "Invalid job id" not in done.stderr:
        raise RunFailed(f"squeue: {done.stderr.strip()}")
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line.strip())


def refresh(folder: Path) -> SweepState:
    """The state of a sweep that is with SLURM, by the queue and by what its jobs left behind."""
    state = load(folder)
    in_queue = _queue([job.job_id for job in state.jobs.values() if job.job_id])
    for key, job in state.jobs.items():  # in the graph's order: parents first
        in_slurm = in_queue.get(job.job_id, "")
        ended = outcome(folder, key)
        if job.status == "done":  # before the sweep was handed to SLURM
            continue
        if in_slurm in ALIVE and not (ended and ended.status == "done"):
            job.status = "waiting" if in_slurm == "PENDING" else "running"
            job.message = f"SLURM job {job.job_id}, {in_slurm}"
        elif ended:
            job.status, job.message = ended.status, ended.message
        elif job.job_id:
            job.status = "failed"
            reason = f"is {in_slurm or 'unknown to SLURM now'}; see {log_file(folder, key)}"
            job.message = f"SLURM job {job.job_id} {reason}"
        else:
            job.message = "not queued"
        if job.status == "failed" and any(state.jobs[need].status in ("failed", "left out") for need in job.needs):
            job.status, job.message = "left out", "what it starts from failed"
    return state


def cancel(folder: Path, state: SweepState) -> int:
    """Take all of a sweep's jobs off the queue; returns how many were there. Raises RunFailed where SLURM refuses."""
    ids = [job.job_id for job in state.jobs.values() if job.job_id and job.status in ("waiting", "running")]
    if ids:
        _scancel(*ids)
    for job in state.jobs.values():
        job.job_id = ""
    state.save(folder)
    return len(ids)


def _scancel(*ids: str) -> None:
    if (done := _call("scancel", *ids)).returncode:
        raise RunFailed(f"scancel: {done.stderr.strip()}")
