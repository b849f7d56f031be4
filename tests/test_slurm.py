"""A sweep on a real SLURM: one node on loopback, started for the test (`make test-slurm` installs what it needs)."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_cluster
from conftest import ROOT, SMALL

from remix_toolkit.data.files import sha256
from remix_toolkit.launch import slurm as slurm_launcher
from remix_toolkit.records import StageRecord

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

WAIT_S = 400  # two jobs side by side import TRL; a loaded machine takes its time

LONGER = [*SMALL, "stages.stage1.train.num_train_epochs=30"]  # 60 steps, a checkpoint at every second one


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if why := slurm_cluster.missing():
        pytest.skip(why)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield {**os.environ, **environment, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two arms that share stage1: three stages."""
    file = tmp_path / "chain.yaml"
    text = f"recipe: {ROOT}/recipes/kvr.yaml\narms:\n  none: {{}}\n"
    text += "  replay: {stages.stage2.mix: {replay: {stage: stage1, ratio: 0.5}}}\n"
    file.write_text(text, encoding="utf-8")
    return file


def ask(environment: dict[str, str], *line: str, check: bool = True) -> str:
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def until(what: Callable[[], object], why: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.2)


def weights(runs: Path) -> dict[str, str]:
    return {folder.name: sha256(folder / "model.safetensors") for folder in (runs / "stages").iterdir()}


def test_a_chain_with_a_shared_parent_requeued_in_the_middle(remix, slurm, sweep, runs, tmp_path) -> None:
    here = tmp_path / "here"
    remix("sweep", sweep, "--runs", here, *LONGER, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (tmp_path / "cluster.yaml").write_text("partition: low\ntime: 30\nsetup: echo on $(hostname)\n", encoding="utf-8")
    line = ["sweep", sweep, "--runs", runs, *LONGER]
    queued = remix(*line, "--launcher", "slurm", "--slurm", tmp_path / "cluster.yaml", env=slurm)
    assert "6 jobs are with SLURM" in queued.stdout
    jobs = ask(slurm, "squeue", "-h", "-o", "%i %j %E").splitlines()
    first = next(job.split()[0] for job in jobs if " train-stage1-" in job)
    assert sum(f"afterok:{first}" in job for job in jobs) == 3  # two children, and the job that measures it

    until(lambda: list(runs.glob("work/*/checkpoints/checkpoint-*/complete.json")), "no checkpoint")
    ask(slurm, "scontrol", "requeue", first)
    until(lambda: ask(slurm, "squeue", "-h", "-j", first, "-o", "%T") == "PENDING", "it is not queued again")
    assert "waiting" in remix(*line, "--status", env=slurm).stdout
    ask(slurm, "scontrol", "update", f"jobid={first}", "StartTime=now")
    until(lambda: not ask(slurm, "squeue", "-h"), f"it does not end: {ask(slurm, 'squeue')}")

    status = remix(*line, "--status", env=slurm).stdout
    assert "6 done, 0 failed" in status, status
    assert weights(runs) == weights(here)
    stage1 = StageRecord.read(next(runs.glob("stages/*stage1*/stage.json"))).model_dump()
    assert stage1["resumed_from"].startswith("checkpoint-")
    log = next(runs.glob(f"sweeps/*/jobs/{stage1['key']}/log.txt")).read_text(encoding="utf-8")
    assert log.count("on ") >= 2
    assert "resumes from" in log
    done = remix(*line, "--launcher", "slurm", env=slurm)
    assert "0 jobs are with SLURM" in done.stdout


def test_a_job_over_its_time_and_one_cancelled(remix, slurm, sweep, runs, tmp_path) -> None:
    """What fails takes its children with it, is said, and the same command goes on."""
    (tmp_path / "short.yaml").write_text("time: 1\nsetup: sleep 200\n", encoding="utf-8")
    line = ["sweep", sweep, "--runs", runs, *SMALL]
    remix(*line, "--launcher", "slurm", "--slurm", tmp_path / "short.yaml", env=slurm)
    until(lambda: not ask(slurm, "squeue", "-h"), "the time limit does not end it")
    status = remix(*line, "--status", env=slurm).stdout
    assert "1 failed, 5 left out" in status, status
    assert "is TIMEOUT; see" in status

    (tmp_path / "held.yaml").write_text("setup: sleep 200\n", encoding="utf-8")
    for _ in range(2):  # the second time nothing is queued twice
        queued = remix(*line, "--launcher", "slurm", "--slurm", tmp_path / "held.yaml", env=slurm)
        assert "6 jobs are with SLURM" in queued.stdout
        assert len(ask(slurm, "squeue", "-h").splitlines()) == 6
    assert "6 jobs taken off SLURM's queue" in remix(*line, "--cancel", env=slurm).stdout
    until(lambda: not ask(slurm, "squeue", "-h"), "scancel does not end it")

    remix(*line, "--launcher", "slurm", env=slurm)
    until(lambda: not ask(slurm, "squeue", "-h"), "it does not end")
    assert "6 done, 0 failed" in remix(*line, "--status", env=slurm).stdout
    assert len(list((runs / "stages").iterdir())) == 3


def test_slurm_refuses(remix, slurm, sweep, runs, tmp_path) -> None:
    (tmp_path / "wrong.yaml").write_text("partition: nosuch\n", encoding="utf-8")
    line = ["sweep", sweep, "--runs", runs, *SMALL, "--launcher", "slurm", "--slurm", tmp_path / "wrong.yaml"]
    refused = remix(*line, env=slurm, check=False)
    assert (refused.returncode, "invalid partition specified: nosuch" in refused.stderr) == (2, True), refused.stderr
    assert not ask(slurm, "squeue", "-h")


@pytest.mark.parametrize(
    ("content", "message"),
    [("dependency: singleton\n", "dependency: the sweep sets it"), ("gpus: [1, 2]\n", "gpus: one value is expected")],
)
def test_mistakes_in_the_clusters_file(remix, sweep, runs, tmp_path, content: str, message: str) -> None:
    (tmp_path / "wrong.yaml").write_text(content, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    line = ["sweep", sweep, "--runs", runs, *SMALL, "--launcher", "slurm", "--slurm", tmp_path / "wrong.yaml"]
    refused = remix(*line, env=path, check=False)
    assert (refused.returncode, f"wrong.yaml:1: {message}" in refused.stderr) == (2, True), refused.stderr


def test_the_clusters_file_is_handed_on_as_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("time: 12:00:00\nexclusive: true\nnice: 010\nsetup: |\n  module load x\n", encoding="utf-8")
    options, setup = slurm_launcher._read_options(file)
    assert slurm_launcher._flags(options) == ["--time=12:00:00", "--exclusive", "--nice=010"]
    assert setup == "module load x\n"


def test_without_slurm(remix, sweep, runs) -> None:
    nowhere = {**os.environ, "PATH": "/nonexistent"}
    refused = remix("sweep", sweep, "--runs", runs, "--launcher", "slurm", *SMALL, env=nowhere, check=False)
    assert (refused.returncode, "no sbatch" in refused.stderr) == (2, True), refused.stderr
