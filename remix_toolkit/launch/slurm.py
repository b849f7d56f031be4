"""A sweep handed to SLURM: batch jobs, each of which does jobs of the graph, one after another.

    remix sweep recipes/paper/table2.yaml --launcher slurm --slurm cluster.yaml

cluster.yaml holds sbatch's own options by their long names, and what the batch script runs first:

    partition: gpu
    time: 08:00:00
    cpus-per-task: 32
    setup: module load cuda

Only what can start is queued, as many jobs as SLURM takes. A batch job that has done its job goes on with one that can
start now, and queues the others (slurm_job.py). So no limit on a user's jobs is too low, nothing has to stay on the
login node, and as SLURM knows of no dependencies, it cancels nothing.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from filelock import Timeout

from remix_toolkit.console import warn
from remix_toolkit.disk import file_lock
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph import devices
from remix_toolkit.graph.jobs import Job, due, graph
from remix_toolkit.graph.sweep import Cell, Keep
from remix_toolkit.graph.sweep_state import Batch, Command, JobState, SweepState, outcome
from remix_toolkit.launch.state import begin, former_state, load, write_job
from remix_toolkit.launch.sweep import check
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.yaml_file import dotted, load_mapping, read_text

ANSWER_S = 120  # how long SLURM may take to answer
LOCK_S = 60  # how long a batch job may hold a sweep's state
NEAR_END_S = 60  # before its time limit, a batch job is queued again; SLURM's clock may be a minute early
OPTION = re.compile(r"[a-z][a-z0-9-]*")
ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "STOPPED", "SIGNALING"}
SET_BY_SWEEP = re.compile("array|dependency|error|job-name|ntasks(-per-node)?|open-mode|output|parsable|requeue|wrap")


def submit(
    command: Command, cells: list[Cell], keep: Keep, runs: Path, options: Path | None, at_once: int | None = None
) -> SweepState:
    """Queue every job that can start now and is not queued. Raises BadInput where SLURM is missing or takes none."""
    if shutil.which("sbatch") is None:
        raise BadInput("--launcher slurm: there is no sbatch on this machine's PATH; run it where SLURM's commands are")
    flags, setup = read_options(options, [cell.recipe for cell in cells]) if options else ([], "")
    jobs = graph(cells)
    folder = (runs / "sweeps" / command.id).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    check(cells, due(jobs, runs), runs, 1, folder)
    try:
        with file_lock(folder / "lock", timeout=LOCK_S):
            former = refresh(folder).jobs if former_state(folder) else {}
            todo = due(jobs, runs)
            state = begin(command, jobs, todo, keep, "slurm")
            state.batch = Batch(flags=flags, setup=setup, at_once=at_once)
            for key in todo:
                state.jobs[key].resources = _resources(jobs[key], flags)
                if key in former and former[key].is_queued:
                    state.jobs[key].status, state.jobs[key].job_id = former[key].status, former[key].job_id
                else:
                    write_job(folder, jobs[key])
            refused = queue_ready(state, folder)
    except Timeout:
        raise BadInput(f"{command.id}: the same command is running on this machine; --cancel stops it") from None
    if refused and not any(job.is_queued for job in state.jobs.values()):
        raise BadInput(refused)
    if refused:
        warn(f"{refused}; it is tried again whenever one of the sweep's jobs ends")
    return state


def read_options(file: Path, recipes: Sequence[Recipe] = ()) -> tuple[list[str], str]:
    """sbatch's options of a YAML file, as it takes them, and the lines before the program.

    Raises BadInput, also where a recipe's stages run on another number of machines.
    """
    locations = load_mapping(file)[1]
    options: dict[str, Any] = yaml.load(read_text(file), yaml.BaseLoader)  # all text: 12:00:00 is no number of minutes
    setup = options.pop("setup", "")
    for name, value in options.items():
        place = f"{locations[(name,)]}: {dotted((name,))}"
        if not OPTION.fullmatch(name):
            raise BadInput(f"{place}: the long name of an option of sbatch is expected, such as partition")
        if SET_BY_SWEEP.fullmatch(name):
            raise BadInput(f"{place}: the sweep sets it for each job")
        if not isinstance(value, str):
            raise BadInput(f"{place}: one value is expected, as sbatch --{name} takes it")
        for recipe in recipes if name == "nodes" else ():
            if value != str(machines := devices.launch_of(recipe).num_machines):
                config = recipe.accelerate_config or f"{recipe.name}, which has no accelerate_config,"
                raise BadInput(f"{place}: is {value}, and {config} is for {machines} (num_machines)")
    return [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in options.items()], str(setup)


def _resources(job: Job, flags: list[str]) -> list[str]:
    """What a job asks for: its machines, with one launcher on each, and the GPUs that its accelerate config has."""
    recipe = job.cells[0].recipe
    launch = devices.launch_of(recipe) if job.node else devices.Launch()
    resources = [f"--nodes={launch.num_machines}", "--ntasks-per-node=1"]
    if recipe.accelerate_config and not any(flag.startswith(("--gpus", "--gres")) for flag in flags):
        resources.append(f"--gpus-per-node={max(1, launch.num_processes // launch.num_machines)}")
    return resources


def queue_ready(state: SweepState, folder: Path) -> str:
    """Queue a batch job for each job that can start, as many as SLURM takes; returns why it refused one, if it did."""
    assert state.batch
    refused: dict[str, str] = {}
    queued = sum(job.is_queued for job in state.jobs.values())
    for key in state.ready():
        job = state.jobs[key]
        if str(job.resources) in refused or queued == state.batch.at_once:
            continue
        try:
            job.job_id = _sbatch(job, state.id, state.batch, folder)
            queued += 1
            state.save(folder)  # what is queued is not lost if this process ends here
        except RunFailed as error:
            refused[str(job.resources)] = job.message = str(error)
    state.save(folder)
    return next(iter(refused.values()), "")


def _sbatch(job: JobState, name: str, batch: Batch, folder: Path) -> str:
    """Queue a batch job that begins with this job; returns its id. Raises RunFailed where SLURM does not take it."""
    line = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={folder}/slurm-%j.txt"]
    line += [f"--job-name={name}", f"--signal=B:USR1@{NEAR_END_S}", *batch.flags, *job.resources]
    program = [sys.executable, "-m", "remix_toolkit.launch.slurm_job", str(folder)]
    # trap: the signal would end the shell. exec: else the shell alone dies of the one that ends the job.
    done = _call(*line, script=f"#!/bin/bash\ntrap '' USR1\n{batch.setup}\nexec {shlex.join(program)}\n")
    if done.returncode:
        reason = "; ".join(line.removeprefix("sbatch: error: ") for line in done.stderr.splitlines())
        raise RunFailed(f"sbatch refuses {job.title}: {reason}")
    return done.stdout.strip().partition(";")[0]  # `id;cluster` where there are several


def _call(*line: str, script: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run one of SLURM's commands, as from the login node. Raises RunFailed where it does not answer."""
    of_job = ("SLURM_", "SRUN_", "CUDA_VISIBLE_DEVICES")  # a batch job's, which sbatch would hand on to the next one
    env = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith(of_job)}
    try:
        return subprocess.run(line, input=script, env=env, capture_output=True, text=True, timeout=ANSWER_S)
    except FileNotFoundError:
        raise BadInput(f"there is no {line[0]} on the PATH of {socket.gethostname()}: it is needed there") from None
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"{line[0]} gave no answer: {error}; the same command goes on") from None


def order(*line: str) -> None:
    """Have SLURM do something. Raises RunFailed where it refuses."""
    if (done := _call(*line)).returncode:
        raise RunFailed(f"{line[0]}: {done.stderr.strip()}")


def in_queue(ids: list[str]) -> dict[str, str]:
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
    slurm = in_queue(sorted({job.job_id for job in state.jobs.values() if job.job_id and job.status != "done"}))
    for key, job in state.jobs.items():  # in the graph's order: parents first
        if job.status == "done":
            continue
        if ended := outcome(folder, key):
            job.status, job.message = ended.status, ended.message
        elif (now := slurm.get(job.job_id, "unknown to SLURM now")) in ALIVE:
            job.status = "waiting" if now == "PENDING" else "running"
            job.message = f"SLURM job {job.job_id}, {now}"
        elif job.job_id:
            job.status = "failed"
            job.message = f"SLURM job {job.job_id} is {now}; see {folder}/slurm-{job.job_id}.txt"
        elif any(state.jobs[need].status in ("failed", "left out") for need in job.needs):
            job.status, job.message = "left out", "what it starts from failed"
        else:
            job.status = "waiting"
    return state


def cancel(folder: Path) -> int:
    """Take all of a sweep's jobs off the queue; returns how many were there. Raises RunFailed where SLURM refuses."""
    with file_lock(folder / "lock"):
        state = refresh(folder)
        ids = {job.job_id for job in state.jobs.values() if job.is_queued}
        if ids:
            order("scancel", *ids)
        for job in state.jobs.values():
            job.job_id = ""
        state.interrupt()
        state.save(folder)
    return len(ids)
