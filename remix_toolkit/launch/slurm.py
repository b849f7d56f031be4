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

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph import devices
from remix_toolkit.graph.jobs import Job, due, graph
from remix_toolkit.graph.sweep import Cell, Keep
from remix_toolkit.launch.state import (
    Command,
    JobState,
    Outcome,
    SweepState,
    begin,
    freeze,
    job_folder,
    load,
    outcome_file,
)
from remix_toolkit.launch.sweep import check
from remix_toolkit.launch.worker_pool import WorkerPool
from remix_toolkit.recipe.yaml_file import load_mapping, read_text

ANSWER_S = 120  # how long SLURM may take to answer
ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "STOPPED", "SIGNALING"}
OURS = {"job-name", "dependency", "kill-on-invalid-dep", "requeue", "open-mode", "output", "error", "parsable", "wrap"}


def submit(command: Command, cells: list[Cell], keep: Keep, runs: Path, options: Path | None) -> SweepState:
    """Queue every job that is neither done nor queued. Raises BadInput where SLURM is missing or refuses."""
    if shutil.which("sbatch") is None:
        raise BadInput("--launcher slurm: there is no sbatch on this machine's PATH; run it where SLURM's commands are")
    sbatch_options, setup = _read_options(options)
    jobs = graph(cells)
    todo = due(jobs, runs)
    folder = (runs / "sweeps" / command.id).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            pool = WorkerPool(runs, folder / "check.log", [], 1)
            try:
                check(cells, todo, pool, print)
            finally:
                pool.close()
            state = begin(command, jobs, todo, keep, "slurm")
            return _submit(state, jobs, todo, sbatch_options, setup, folder)
    except Timeout:
        raise BadInput(f"{command.id}: the same command runs on this machine just now; --cancel stops it") from None


def _submit(
    state: SweepState, jobs: dict[str, Job], todo: set[str], options: dict[str, str], setup: str, folder: Path
) -> SweepState:
    former = load(folder).jobs if (folder / "state.json").exists() else {}
    alive = _queue([job.job_id for job in former.values() if job.job_id])
    for key in todo & former.keys():
        if alive.get(former[key].job_id) in ALIVE:
            state.jobs[key].job_id = former[key].job_id
    new: set[str] = set()
    for key, job in jobs.items():
        entry = state.jobs[key]
        if key not in todo or (entry.job_id and not new & job.needs):
            continue
        if entry.job_id:
            _scancel([entry.job_id])  # it waits for a job that failed
        freeze(folder, job)
        outcome_file(folder, key).unlink(missing_ok=True)
        after = [state.jobs[need].job_id for need in entry.needs if need in todo]
        state.save(folder)  # what is queued already is not lost if sbatch refuses this one
        entry.job_id = _sbatch(key, job, entry, after, options, setup, folder)
        new.add(key)
    state.save(folder)
    return state


def _read_options(file: Path | None) -> tuple[dict[str, str], str]:
    """sbatch's options of a YAML file, and the lines before the program. Raises BadInput."""
    if file is None:
        return {}, ""
    locations = load_mapping(file)[1]
    options: dict[str, Any] = yaml.load(read_text(file), yaml.BaseLoader)  # all text: 12:00:00 is no number of minutes
    setup = options.pop("setup", "")
    for name, value in options.items():
        if name in OURS:
            raise BadInput(f"{locations[(name,)]}: {name}: the sweep sets it for each job")
        if not isinstance(value, str):
            raise BadInput(f"{locations[(name,)]}: {name}: one value is expected, as sbatch --{name} takes it")
    return options, str(setup)


def _sbatch(
    key: str, job: Job, entry: JobState, after: list[str], options: dict[str, str], setup: str, folder: Path
) -> str:
    """Queue one job; returns its id."""
    recipe = job.cells[0].recipe
    line = [
        "sbatch",
        "--parsable",
        "--requeue",
        "--open-mode=append",
        f"--output={job_folder(folder, key) / 'log.txt'}",
    ]
    line += [f"--job-name={job.kind}-{job.name}-{key[:8]}", *_flags(options)]
    if recipe.accelerate_config and not options.keys() & {"gpus", "gres", "gpus-per-node"}:
        line.append(f"--gpus={devices.count(recipe) if job.node else 1}")
    if after:
        line += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
    program = [sys.executable, "-m", "remix_toolkit.launch.job", str(folder), key]
    # exec: else the shell dies of the signal that ends the job, and leaves the program running.
    script = f"#!/bin/bash\n{setup}\nexec {shlex.join(program)}\n"
    done = _call(line, script)
    if done.returncode:
        reason = done.stderr.strip().removeprefix("sbatch: error: ")
        raise BadInput(
            f"sbatch refuses {entry.title}: {reason}; what is queued already stays, --cancel takes it off the queue"
        )
    return done.stdout.strip().partition(";")[0]  # `id;cluster` where there are several


def _flags(options: dict[str, str]) -> list[str]:
    """`exclusive: true` is --exclusive, without a value."""
    return [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in options.items()]


def _call(line: list[str], script: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run one of SLURM's commands. Raises RunFailed where it does not answer."""
    try:
        return subprocess.run(line, input=script, capture_output=True, text=True, check=False, timeout=ANSWER_S)
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        raise RunFailed(f"{line[0]} gave no answer: {error}; the same command goes on") from None


def _queue(ids: list[str]) -> dict[str, str]:
    """SLURM's state of the jobs that it still knows."""
    if not ids:
        return {}
    done = _call(["squeue", "--noheader", "--states=all", "--format=%i %T", f"--jobs={','.join([*ids, ids[0]])}"])
    if done.returncode and "Invalid job id" not in done.stderr:
        raise RunFailed(f"squeue: {done.stderr.strip()}")
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line.strip())


def refresh(folder: Path) -> SweepState:
    """The state of a sweep that is with SLURM, by the queue and by what its jobs left behind."""
    state = load(folder)
    in_queue = _queue([job.job_id for job in state.jobs.values() if job.job_id])
    for key, job in state.jobs.items():
        in_slurm = in_queue.get(job.job_id, "")
        outcome = Outcome.read(file) if (file := outcome_file(folder, key)).exists() else None
        if outcome and outcome.status == "done":
            job.status, job.message = "done", outcome.message
        elif in_slurm in ALIVE:
            job.status = "waiting" if in_slurm == "PENDING" else "running"
            job.message = f"SLURM job {job.job_id}, {in_slurm}"
        elif outcome:
            job.status, job.message = "failed", outcome.message
        elif job.job_id:
            log = job_folder(folder, key) / "log.txt"
            job.status = "failed"
            job.message = f"SLURM job {job.job_id} is {in_slurm or 'unknown to SLURM now'}; see {log}"
        elif job.status != "done":
            job.status, job.message = "waiting", "not queued"
    for job in state.jobs.values():  # in the graph's order: parents first
        if job.status == "failed" and any(state.jobs[need].status in ("failed", "left out") for need in job.needs):
            job.status, job.message = "left out", "what it starts from failed"
    return state


def cancel(folder: Path, state: SweepState) -> int:
    """Take all of a sweep's jobs off the queue; returns how many were there. Raises RunFailed where SLURM refuses."""
    ids = [job.job_id for job in state.jobs.values() if job.job_id and job.status in ("waiting", "running")]
    _scancel(ids)
    for job in state.jobs.values():
        job.job_id = ""
    state.save(folder)
    return len(ids)


def _scancel(ids: list[str]) -> None:
    if ids and (done := _call(["scancel", *ids])).returncode:
        raise RunFailed(f"scancel: {done.stderr.strip()}")
