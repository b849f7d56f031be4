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

from remix_toolkit import store
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph import devices, prune
from remix_toolkit.graph.jobs import Job, graph
from remix_toolkit.graph.sweep import Cell, Keep
from remix_toolkit.launch.state import Command, State, begin, end_of, load, save
from remix_toolkit.launch.sweep import check
from remix_toolkit.launch.workers import Workers
from remix_toolkit.recipe.yaml_file import load_mapping, read_text

CALL_S = 120  # how long SLURM may take to answer
ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "STOPPED", "SIGNALING"}
OURS = {"job-name", "dependency", "kill-on-invalid-dep", "requeue", "open-mode", "output", "error", "parsable", "wrap"}


def submit(command: Command, cells: list[Cell], keep: Keep, runs: Path, options: Path | None) -> State:
    """Queue every job that is neither done nor queued. Raises BadInput where SLURM is missing or refuses."""
    if shutil.which("sbatch") is None:
        raise BadInput("--launcher slurm: there is no sbatch on this machine's PATH; run it where SLURM's commands are")
    wanted, setup = _options(options)
    jobs = graph(cells)
    todo = prune.to_do(jobs, runs)
    folder = (runs / "sweeps" / command.id).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            pool = Workers(runs, folder / "check.log", [], 1)
            try:
                check(cells, todo, pool, print)
            finally:
                pool.close()
            return _submit(begin(command, jobs, todo, keep, "slurm"), jobs, todo, wanted, setup, folder)
    except Timeout:
        raise BadInput(f"{command.id}: the same command runs on this machine just now; --cancel stops it") from None


def _submit(
    state: State, jobs: dict[str, Job], todo: set[str], options: dict[str, str], setup: str, folder: Path
) -> State:
    former = load(folder).jobs if (folder / "state.json").exists() else {}
    queued = _queue([entry.job_id for entry in former.values() if entry.job_id])
    for key in todo & former.keys():
        if queued.get(former[key].job_id) in ALIVE:
            state.jobs[key].job_id = former[key].job_id
    new: set[str] = set()
    for key, job in jobs.items():
        entry = state.jobs[key]
        if key not in todo or (entry.job_id and not new & set(job.needs)):
            continue
        if entry.job_id:
            _scancel([entry.job_id])  # it waits for a job that failed
        end_of(folder, key).unlink(missing_ok=True)
        after = [state.jobs[need].job_id for need in job.needs if need in todo]
        save(folder, state)  # what is queued already is not lost if sbatch refuses this one
        entry.job_id = _sbatch(key, job, after, options, setup, folder)
        new.add(key)
    save(folder, state)
    return state


def _options(file: Path | None) -> tuple[dict[str, str], str]:
    """sbatch's options of a YAML file, and the lines before the program. Raises BadInput."""
    if file is None:
        return {}, ""
    where = load_mapping(file)[1]
    read: dict[str, Any] = yaml.load(read_text(file), yaml.BaseLoader)  # all text: 12:00:00 is no number of minutes
    setup = read.pop("setup", "")
    for name, value in read.items():
        if name in OURS:
            raise BadInput(f"{where[(name,)]}: {name}: is set for each job by the sweep itself")
        if not isinstance(value, str):
            raise BadInput(f"{where[(name,)]}: {name}: one value is expected, as sbatch --{name} takes it")
    return read, str(setup)


def _sbatch(key: str, job: Job, after: list[str], options: dict[str, str], setup: str, folder: Path) -> str:
    recipe = job.cell.recipe
    line = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={folder / f'{key}.log'}"]
    line += [f"--job-name={job.name}-{key[:8]}", *_flags(options)]
    if recipe.accelerate_config and not options.keys() & {"gpus", "gres", "gpus-per-node"}:
        line.append(f"--gpus={devices.count(recipe) if job.node else 1}")
    if after:
        line += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
    program = [sys.executable, "-m", "remix_toolkit.launch.job", str(folder), key]
    # exec: else the shell dies of the signal that ends the job, and leaves the program running.
    script = f"#!/bin/bash\n{setup}\nexec {shlex.join(program)}\n"
    try:
        done = subprocess.run(line, input=script, capture_output=True, text=True, check=False, timeout=CALL_S)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"sbatch gave no answer within {CALL_S} seconds; the same command goes on") from None
    if done.returncode:
        said = done.stderr.strip().removeprefix("sbatch: error: ")
        what = f"sbatch refuses {job.name} ({job.runs[0]}): {said}"
        raise BadInput(f"{what}; what is queued already stays, --cancel takes it off")
    return done.stdout.strip().partition(";")[0]  # `id;cluster` where there are several


def _flags(options: dict[str, str]) -> list[str]:
    """`exclusive: true` is --exclusive, without a value."""
    return [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in options.items()]


def _queue(ids: list[str]) -> dict[str, str]:
    """SLURM's state of the jobs that it still knows."""
    if not ids:
        return {}
    line = ["squeue", "--noheader", "--states=all", "--format=%i %T", f"--jobs={','.join([*ids, ids[0]])}"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=CALL_S)
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        raise RunFailed(f"squeue gave no answer: {error}") from None
    if done.returncode and "Invalid job id" not in done.stderr:
        raise RunFailed(f"squeue: {done.stderr.strip()}")
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line.strip())


def refresh(folder: Path, runs: Path) -> State:
    """The state of a sweep that is with SLURM, as the queue and what its jobs left behind say now."""
    state = load(folder)
    queued = _queue([entry.job_id for entry in state.jobs.values() if entry.job_id])
    todo = prune.to_do(graph(state.command.cells()), runs)
    for key, entry in state.jobs.items():
        now, end = queued.get(entry.job_id, ""), end_of(folder, key)
        ended = store.read_json(end) if end.exists() else None
        if key not in todo or (ended and ended["how"] == "done"):
            entry.state, entry.said = "done", ended["said"] if ended else ""
        elif now in ALIVE:
            entry.state, entry.said = ("waiting" if now == "PENDING" else "running"), f"SLURM job {entry.job_id}, {now}"
        elif not entry.job_id:
            entry.state, entry.said = "waiting", "not queued"
        elif ended:
            entry.state, entry.said = "failed", ended["said"]
        else:
            what = now or "not known any more"
            entry.state, entry.said = "failed", f"SLURM job {entry.job_id} is {what}; see {folder / f'{key}.log'}"
    for entry in state.jobs.values():  # in the graph's order: parents first
        if entry.state == "failed" and any(state.jobs[need].state in ("failed", "left out") for need in entry.needs):
            entry.state, entry.said = "left out", "what it starts from failed"
    return state


def cancel(folder: Path, state: State) -> int:
    """Take all of a sweep's jobs off the queue; returns how many were there. Raises RunFailed where SLURM refuses."""
    ids = [entry.job_id for entry in state.jobs.values() if entry.job_id and entry.state in ("waiting", "running")]
    _scancel(ids)
    for entry in state.jobs.values():
        entry.job_id = ""
    save(folder, state)
    return len(ids)


def _scancel(ids: list[str]) -> None:
    if not ids:
        return
    try:
        done = subprocess.run(["scancel", *ids], capture_output=True, text=True, check=False, timeout=CALL_S)
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        raise RunFailed(f"scancel gave no answer: {error}") from None
    if done.returncode:
        raise RunFailed(f"scancel: {done.stderr.strip()}")
