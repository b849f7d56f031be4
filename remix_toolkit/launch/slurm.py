"""A sweep handed to SLURM: one batch job for each job of the graph, each after those that it starts from.

    remix sweep recipes/paper/table2.yaml --launcher slurm --slurm cluster.yaml

cluster.yaml holds sbatch's own options by their long names, and what the batch script runs first:

    partition: gpu
    account: me
    time: "08:00:00"
    setup: module load cuda

A stage asks for as many GPUs as its accelerate config has processes, unless `gpus` or `gres` says otherwise. A job that
is preempted is queued again and goes on from its last checkpoint.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from remix_toolkit import disk, store
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph import Job, graph
from remix_toolkit.launch.local import check_launcher
from remix_toolkit.launch.state import Command, State, begin, load, save
from remix_toolkit.launch.sweep import check
from remix_toolkit.launch.workers import Workers
from remix_toolkit.plan import devices
from remix_toolkit.sweep import Cell, Keep
from remix_toolkit.yaml_file import load_mapping

CALL_S = 120  # how long SLURM may take to answer
ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "STOPPED", "SIGNALING"}
OURS = {"job-name", "dependency", "kill-on-invalid-dep", "requeue", "open-mode", "output", "error", "parsable", "wrap"}


def submit(command: Command, cells: list[Cell], keep: Keep, runs: Path, options: Path | None) -> State:
    """Queue every job that is neither done nor queued. Raises BadInput where SLURM is missing or refuses."""
    if shutil.which("sbatch") is None:
        raise BadInput("--launcher slurm: there is no sbatch on this machine's PATH; run it where SLURM's commands are")
    wanted, setup = _options(options)
    jobs = graph(cells)
    todo = disk.to_do(jobs, runs)
    for cell in cells:
        check_launcher(cell.recipe)
    folder = (runs / "sweeps" / command.id).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    former = load(folder).jobs if (folder / "state.json").exists() else {}
    queued = _queue([entry.job_id for entry in former.values() if entry.job_id])
    state = begin(command, jobs, todo, keep, "slurm")
    pool = Workers(runs, folder / "check.log", [], 1)
    try:
        check(cells, todo, pool, print, folder)
    finally:
        pool.close()
    for key, job in jobs.items():
        entry = state.jobs[key]
        before = former[key].job_id if key in former else ""
        if key in todo and queued.get(before, "") in ALIVE:
            entry.job_id = before
        elif key in todo:
            (folder / f"{key}.end.json").unlink(missing_ok=True)
            after = [state.jobs[need].job_id for need in job.needs if need in todo]
            save(folder, state)  # what is queued already is not lost if sbatch refuses this one
            entry.job_id = _sbatch(key, job, after, wanted, setup, folder)
    save(folder, state)
    return state


def _options(file: Path | None) -> tuple[dict[str, str], str]:
    """sbatch's options of a YAML file, and the lines before the program. Raises BadInput."""
    if file is None:
        return {}, ""
    read, where = load_mapping(file)
    setup = read.pop("setup", "")
    for name, value in read.items():
        if name in OURS:
            raise BadInput(f"{where[(name,)]}: {name}: is set for each job by the sweep itself")
        if isinstance(value, dict | list) or value is None:
            raise BadInput(f"{where[(name,)]}: {name}: one value is expected, as sbatch --{name} takes it")
    return {name: str(value) for name, value in read.items()}, str(setup)


def _sbatch(key: str, job: Job, after: list[str], options: dict[str, str], setup: str, folder: Path) -> str:
    recipe = job.cell.recipe
    line = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={folder / f'{key}.log'}"]
    line += [f"--job-name={job.name}-{key[:8]}", *(f"--{name}={value}" for name, value in options.items())]
    if recipe.accelerate_config and not options.keys() & {"gpus", "gres", "gpus-per-node"}:
        line.append(f"--gpus={devices(recipe) if job.node else 1}")
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
    todo = disk.to_do(graph(state.command.cells()), runs)
    for key, entry in state.jobs.items():
        now, end = queued.get(entry.job_id, ""), folder / f"{key}.end.json"
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


def cancel(state: State) -> int:
    """Take all of a sweep's jobs off the queue; returns how many were there."""
    ids = [entry.job_id for entry in state.jobs.values() if entry.job_id and entry.state in ("waiting", "running")]
    if ids:
        subprocess.run(["scancel", *ids], check=False, timeout=CALL_S)
    return len(ids)
