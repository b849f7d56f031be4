"""Sweeps that are killed, damaged or run twice at once: what is lost, what is said, what comes out."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, SMALL

from remix_toolkit import store
from remix_toolkit.data.files import sha256
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.graph.jobs import graph
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.launch.state import job_recipes, write_job
from remix_toolkit.records import StageRecord

pytestmark = pytest.mark.slow

WAIT_S = 300
INTERRUPTED = "interrupted; the same command goes on from what is published and the last checkpoint"
# 20 steps of stage1 and 18 of stage2, or more where an arm mixes something in; a checkpoint at every second one
LONGER = [*SMALL, "train.save_steps=2"]
LONGER += ["stages.stage1.train.num_train_epochs=10", "stages.stage2.train.num_train_epochs=9"]
ARMS = {
    "none": "{}",
    "replay": "{stages.stage2.mix: {replay: {stage: stage1, ratio: 0.5}}}",
    "random": "{stages.stage1.mix: {random_words: {ratio: 1}}}",
}


def sweep_of(folder: Path, *arms: str, more: str = "") -> Path:
    file = folder / "chain.yaml"
    listed = "".join(f"  {arm}: {ARMS[arm]}\n" for arm in arms)
    file.write_text(f"recipe: {ROOT}/recipes/kvr.yaml\narms:\n{listed}{more}", encoding="utf-8")
    return file


def begin(*arguments: object) -> subprocess.Popen:
    line = [sys.executable, "-m", "remix_toolkit", "sweep", *map(str, arguments)]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  a test run in the background ignores it
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard)


def until(what: Callable[[], object], why: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


def weights(runs: Path) -> dict[str, str]:
    return {folder.name: sha256(folder / "model.safetensors") for folder in (runs / "stages").iterdir()}


def published(runs: Path) -> Counter[str]:
    """How often the jobs' logs say of each stage that it was published: more than once, and it was trained twice."""
    lines = "".join(log.read_text(encoding="utf-8") for log in runs.glob("sweeps/*/jobs/*/log.txt")).splitlines()
    return Counter(Path(line.rpartition(" ")[2]).name for line in lines if ": published " in line)


def checkpoints(runs: Path, stage: str) -> list[Path]:
    return [mark for mark in runs.glob("work/*/checkpoints/*/manifest.json") if _stage_of(mark) == stage]


def _stage_of(mark: Path) -> str | None:
    try:
        steps = json.loads((mark.parent / "trainer_state.json").read_text(encoding="utf-8"))["max_steps"]
    except FileNotFoundError:  # deleted in the meantime, for a newer one
        return None
    return {20: "stage1", 40: "stage1"}.get(steps, "stage2")


@pytest.mark.faults
def test_a_sweep_that_is_killed_goes_on_and_ends_the_same(here, runs: Path, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "none")
    whole = tmp_path / "whole"
    shutil.copytree(runs, whole)
    here("sweep", sweep, "--runs", whole, *LONGER)
    for stage in ("stage1", "stage2"):
        process = begin(sweep, "--runs", runs, *LONGER)
        until(lambda stage=stage: checkpoints(runs, stage), f"no checkpoint of {stage}")
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        process.kill()
        process.wait()
        psutil.wait_procs(workers, timeout=30)
        assert not any(worker.is_running() for worker in workers)  # none is left behind to write on
    done = here("sweep", sweep, "--runs", runs, *LONGER)
    assert weights(runs) == weights(whole)
    assert published(runs) == dict.fromkeys(weights(runs), 1)
    resumed = [StageRecord.read(file).resumed_from for file in runs.glob("stages/*/stage.json")]
    assert sum(one is not None for one in resumed) == 2
    assert "[4/4]" in done.stdout
    curves = [sorted(f.read_text(encoding="utf-8") for f in r.glob("stages/*/loss.csv")) for r in (runs, whole)]
    assert curves[0] == curves[1]
    shown = [json.loads(here("show", "--runs", place, "--json").stdout) for place in (runs, whole)]
    assert [[(e["arm"], e["task"], e["recall"]) for e in one] for one in shown[:1]] == [
        [(e["arm"], e["task"], e["recall"]) for e in one] for one in shown[1:]
    ]


def test_a_killed_stage_takes_only_what_starts_from_it(here, runs: Path, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "none", "random")
    process = begin(sweep, "--runs", runs, *LONGER, "--jobs", "1")
    until(lambda: checkpoints(runs, "stage1"), "no checkpoint of stage1")
    (job,) = [child for child in psutil.Process(process.pid).children(recursive=True) if child.ppid() != process.pid]
    job.kill()
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1, err
    assert "failed: stage1 (none, seed 0): its process ended with exit code -9 (killed)" in err
    assert "and 3 that start from them were left out" in err
    assert "stage2 (none, seed 0): left out" in out
    assert {entry["arm"] for entry in json.loads(here("show", "--runs", runs, "--json").stdout)} == {"random"}
    status = here("sweep", sweep, "--runs", runs, *LONGER, "--status").stdout
    assert "does not run: 0 running, 0 waiting, 4 done, 1 failed, 3 left out" in status
    again = here("sweep", sweep, "--runs", runs, *LONGER)
    assert any("resumes from" in log.read_text(encoding="utf-8") for log in runs.glob("sweeps/*/jobs/*/log.txt"))
    assert "[8/8]" in again.stdout


def test_two_sweeps_on_one_store_train_each_stage_once(runs: Path, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "none", "replay")
    both = [begin(sweep, "--runs", runs, *SMALL), begin(sweep, "--runs", runs, *SMALL, "train.report_to=none")]
    for process in both:
        out, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, err
        assert "recall in percent after each stage" in out
    assert len(list(runs.glob("sweeps/*/state.json"))) == 2
    assert published(runs) == dict.fromkeys((folder.name for folder in (runs / "stages").iterdir()), 1)


def test_stopped_by_hand_and_cancelled(here, runs: Path, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "none")
    line = [sweep, "--runs", runs, *LONGER]
    assert "was not begun" in here("sweep", *line, "--status", check=False).stderr
    process = begin(*line)
    until(lambda: checkpoints(runs, "stage1"), "no checkpoint")
    process.send_signal(signal.SIGINT)  # Ctrl-C
    _, err = process.communicate(timeout=60)
    assert (process.returncode, INTERRUPTED in err.splitlines()) == (130, True), err
    assert "Traceback" not in err
    assert "does not run: 0 running, 4 waiting" in here("sweep", *line, "--status").stdout

    process = begin(*line, "stages.stage2.train.num_train_epochs=400", "--jobs", "1")  # as many as it takes
    until(lambda: checkpoints(runs, "stage2"), "no checkpoint")
    status = here("sweep", *line, "stages.stage2.train.num_train_epochs=400", "--status").stdout
    assert f"runs, process {process.pid}: 1 running, 1 waiting, 2 done" in status
    assert (
        f"asked process {process.pid} to stop"
        in here("sweep", *line, "stages.stage2.train.num_train_epochs=400", "--cancel").stdout
    )
    _, err = process.communicate(timeout=60)
    assert (process.returncode, INTERRUPTED in err.splitlines()) == (130, True), err


def test_a_damaged_parent_is_reported_or_trained_again_as_asked(here, runs: Path, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "none")
    line = ["sweep", sweep, "--runs", runs, *SMALL]
    here(*line)
    good = weights(runs)
    parent, child = (next(runs.glob(f"stages/*-{stage}-*")) for stage in ("stage1", "stage2"))
    shutil.rmtree(child)
    damaged = bytearray((parent / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (parent / "model.safetensors").write_bytes(damaged)
    told = here(*line, check=False)
    assert (told.returncode, "model.safetensors is not the file that was published" in told.stderr) == (1, True)
    checked = here("store", "verify", "--runs", runs, check=False)
    assert (checked.returncode, "runs and sweeps are as they were sealed" in checked.stdout) == (1, True)
    (parent / "model.safetensors").unlink()
    told = here(*line, check=False)  # that files lack is seen at once, before anything is loaded
    assert (told.returncode, "is missing; `remix store verify --remove`" in told.stderr) == (2, True), told.stderr
    assert "removed" in here(*line, "--retrain-damaged").stdout
    assert weights(runs) == good


def test_weights_that_nobody_needs_go_and_come_back(here, runs: Path, tmp_path: Path) -> None:
    mine = runs / "stages" / "my-own-model"
    mine.mkdir(parents=True)
    (mine / "model.safetensors").write_text("not a stage of ours")
    sweep = sweep_of(tmp_path, "none", more="keep: none\n")
    line = ["sweep", sweep, "--runs", runs, *SMALL]
    here("run", "kvr", "--runs", runs, *SMALL, "stages.stage1.data.size=24")  # made by no sweep
    whole = tmp_path / "whole"
    shutil.copytree(runs, whole)
    here("sweep", sweep, "--runs", whole, *SMALL, "--keep", "all")
    good = {name: sha for name, sha in weights(whole).items() if name.startswith("chain")}
    here(*line)
    assert not list(runs.glob("stages/chain-*/*.safetensors"))
    assert len(list(runs.glob("stages/kvr-*/model.safetensors"))) == 2
    assert (mine / "model.safetensors").exists()
    assert len([e for e in json.loads(here("show", "--runs", runs, "--json").stdout) if e["recipe"] == "chain"]) == 3
    assert "[" not in here(*line).stdout.partition("chain on")[0]  # all is there: nothing is trained again
    listed = json.loads(here("store", "list", "--runs", runs, "--json").stdout)
    assert sum(row["weights"] for row in listed) == 2

    first = next(runs.glob("stages/chain-stage1-*"))
    before = (first / "recall.json").read_text(encoding="utf-8")
    sweep_of(tmp_path, "none", "replay")  # another child of stage1: its weights are needed again
    plan = json.loads(here("plan", sweep, "--runs", runs, *SMALL, "--json").stdout)
    assert plan["stages_to_train"] == 2
    here(*line, "--keep", "stage1")
    assert {first.name: sha256(first / "model.safetensors")} == {first.name: good[first.name]}
    assert (first / "recall.json").read_text(encoding="utf-8") == before
    assert len(list(runs.glob("stages/chain-*/*.safetensors"))) == 1
    dry = here("store", "prune", "--keep", "none", "--dry-run", "--runs", runs).stdout
    assert re.search(r"could be deleted\.stages +3", dry)
    assert len(list(runs.glob("stages/*/*.safetensors"))) == 4
    here("store", "prune", "--keep", "leaves", "--runs", runs)
    assert not list(runs.glob("stages/*-stage1-*/*.safetensors"))


def test_a_mistake_in_one_arms_data_is_found_before_anything_is_trained(here, runs: Path, tmp_path: Path) -> None:
    more = "  wrong: {stages.stage2.mix: {replay: {stage: stage1, ratio: 3}}}\n"
    refused = here("sweep", sweep_of(tmp_path, "none", more=more), "--runs", runs, *SMALL, check=False)
    assert refused.returncode == 2
    assert "arm wrong: kvr, stage2: replay of stage1: 48 pairs" in refused.stderr.replace("chain", "kvr")
    assert not list((runs / "stages").iterdir())


# --- what a stage records while it trains, and how long it trains ------------------------------------------------


def test_a_retention_curve_changes_nothing_and_ends_where_recall_does(here, runs: Path, tmp_path: Path) -> None:
    taught = [*SMALL, "stages.stage1.train.num_train_epochs=40", "stages.stage1.train.learning_rate=2e-3"]
    taught += ["stages.stage2.train.num_train_epochs=7", "stages.stage2.train.learning_rate=1e-3"]
    plain = tmp_path / "plain"
    here("run", "kvr", "--runs", runs, "--stage", "stage1", *taught)
    shutil.copytree(runs, plain)
    here("run", "kvr", "--runs", plain, *taught)
    here("run", "kvr", "--runs", runs, *taught, "stages.stage2.curve={epochs: 3}")
    assert weights(runs) == weights(plain)
    folder = next(runs.glob("stages/*-stage2-*"))
    lines = [json.loads(line) for line in (folder / "retention.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [0, 6, 12, 14]
    assert lines[0]["recall"] == 100.0
    measured = Recall().read(folder)[lines[-1]["list"]]
    assert lines[-1]["recall"] == measured.recall < 100.0
    assert lines[-1]["right"].count("1") == measured.correct
    store.verify(folder)  # it is part of what is published
    here("show", "--runs", runs, "--curves", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    none = here("show", "--runs", plain, "--curves", tmp_path / "none.png", check=False)
    assert (none.returncode, "no stage has a retention curve" in none.stderr) == (2, True)
    reused = here("run", "kvr", "--runs", plain, *taught, "stages.stage2.curve={epochs: 3}")
    assert "trained without a retention curve" in reused.stdout


def test_matched_arms_take_as_many_steps_or_tokens(here, runs: Path, tmp_path: Path) -> None:
    more = "  steps: {stages.stage1.match: {steps_of: random}}\n  tokens: {stages.stage1.match: {tokens_of: random}}\n"
    sweep = sweep_of(tmp_path, "random", more=more)
    here("sweep", sweep, "--runs", runs, *SMALL, "train.save_strategy=no")
    results = {}
    for entry in json.loads(here("show", "--runs", runs, "--json").stdout):
        if entry["stage"] == "stage1":
            results[entry["arm"]] = StageRecord.read(Path(entry["path"]) / "stage.json").model_dump()
    random, steps, tokens = (results[arm] for arm in ("random", "steps", "tokens"))
    assert steps["steps"] == random["steps"] == 8
    assert steps["trained_tokens"] < random["trained_tokens"]
    each = tokens["trained_tokens"] / tokens["steps"]
    assert abs(tokens["trained_tokens"] - random["trained_tokens"]) <= 0.51 * each


# --- the processes of jobs -----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone")
@pytest.mark.parametrize("gpu", [False, True])
def test_what_jobs_are_forked_from_has_no_threads_and_has_touched_no_gpu(gpu: bool) -> None:
    """Else they hang, or cannot use the GPU: to import bitsandbytes initialises CUDA, so only torch is loaded there."""
    script = f"""\
import pathlib, sys, torch
if {gpu}:
    torch.accelerator.is_available = lambda: True
import remix_toolkit.launch.preload
threads = [file.read_text().strip() for file in pathlib.Path("/proc/self/task").glob("*/comm")]
assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1, threads  # Arrow's outlives a fork
assert not torch.cuda.is_initialized()
assert ("remix_toolkit.stage.run" in sys.modules) != {gpu}
assert not {gpu} or "bitsandbytes" not in sys.modules
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# --- a job by hand -------------------------------------------------------------------------------------------------


def test_a_job_of_a_sweep_is_done_by_hand_and_refused_once_its_recipe_was_edited(here, runs: Path, tmp_path) -> None:
    job = next(job for job in graph(load_sweep(str(sweep_of(tmp_path, "none")), overrides=SMALL)[1]).values())
    write_job(tmp_path, job)
    (file,) = job_recipes(tmp_path, job.key)
    line = ("stage", file, "--key", job.key, "--runs", runs)
    here(*line, "--only", "train")
    folder = store.find_stage(runs, job.key)
    assert folder
    assert not (folder / "recall.json").exists()
    here(*line, "--only", "measure")
    assert (folder / "recall.json").exists()
    assert "already published" in here(*line).stdout

    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace("size: 16", "size: 24"), encoding="utf-8")
    edited = here(*line, check=False)
    assert (edited.returncode, job.key in edited.stderr) == (2, True), edited.stderr
    file.write_text(whole.replace("stages:", "stagse:"), encoding="utf-8")
    mistaken = here(*line, check=False)
    assert (mistaken.returncode, "did you mean 'stages'" in mistaken.stderr) == (2, True), mistaken.stderr
    for wrong in (("--stage", "stage1"), ("--only", "both")):
        assert here(*line, *wrong, check=False).returncode == 2
