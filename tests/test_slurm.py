"""A sweep on a real SLURM: one node on loopback, started for the test (`make test-slurm` installs what it needs)."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_cluster
from conftest import ROOT, SMALL

from remix_toolkit.data.files import sha256
from remix_toolkit.errors import BadInput
from remix_toolkit.launch.slurm import read_options
from remix_toolkit.records import StageRecord

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

WAIT_S = 400  # two jobs side by side import TRL; a loaded machine takes its time

# 60 steps, a checkpoint at every second one
LONGER = [*SMALL, "train.save_steps=2", "stages.stage1.train.num_train_epochs=30"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if why := slurm_cluster.missing():
        pytest.skip(why)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def slurm(cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's commands reach the cluster; its jobs have a thread each."""
    for name, value in {**cluster, "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two arms that share stage1: three stages."""
    file = tmp_path / "chain.yaml"
    text = f"recipe: {ROOT}/recipes/kvr.yaml\narms:\n  none: {{}}\n"
    text += "  replay: {stages.stage2.mix: {replay: {stage: stage1, ratio: 0.5}}}\n"
    file.write_text(text, encoding="utf-8")
    return file


def ask(*line: str) -> str:
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def until(what: Callable[[], object], why: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.1)


def weights(runs: Path) -> dict[str, str]:
    return {folder.name: sha256(folder / "model.safetensors") for folder in (runs / "stages").iterdir()}


@pytest.mark.usefixtures("slurm")
def test_a_chain_with_a_shared_parent_requeued_in_the_middle(here, sweep, runs, tmp_path) -> None:
    (tmp_path / "cluster.yaml").write_text("partition: low\ntime: 30\nsetup: echo on $(hostname)\n", encoding="utf-8")
    line = ["sweep", sweep, "--runs", runs, *LONGER]
    queued = here(*line, "--launcher", "slurm", "--slurm", tmp_path / "cluster.yaml")
    assert "6 jobs are with SLURM" in queued.stdout
    jobs = ask("squeue", "-h", "-o", "%i %j %E").splitlines()
    first = next(job.split()[0] for job in jobs if " train-stage1-" in job)
    assert sum(f"afterok:{first}" in job for job in jobs) == 3  # two children, and the job that measures it

    until(lambda: list(runs.glob("work/*/checkpoints/checkpoint-*/manifest.json")), "no checkpoint")
    ask("scontrol", "requeue", first)
    until(lambda: ask("squeue", "-h", "-j", first, "-o", "%T") == "PENDING", "it is not queued again")
    assert "waiting" in here(*line, "--status").stdout
    # SLURM holds it for a second more than cred_expire; started sooner, the node refuses its credential as revoked.
    whole = tmp_path / "whole"
    here("sweep", sweep, "--runs", whole, *LONGER)
    until(lambda: not ask("squeue", "-h"), f"it does not end: {ask('squeue')}")

    status = here(*line, "--status").stdout
    assert "6 done, 0 failed" in status, status
    assert weights(runs) == weights(whole)
    stage1 = StageRecord.read(next(runs.glob("stages/*stage1*/stage.json"))).model_dump()
    assert stage1["resumed_from"].startswith("checkpoint-")
    log = next(runs.glob(f"sweeps/*/jobs/{stage1['key']}/log.txt")).read_text(encoding="utf-8")
    assert log.count("on ") >= 2
    assert "resumes from" in log
    done = here(*line, "--launcher", "slurm")
    assert "0 jobs are with SLURM" in done.stdout


@pytest.mark.usefixtures("slurm")
def test_jobs_that_are_refused_that_end_too_early_and_that_are_cancelled(here, sweep, runs, tmp_path) -> None:
    """What fails takes its children with it, is said, and the same command goes on; nothing is queued twice."""
    line = ["sweep", sweep, "--runs", runs, *SMALL]
    (tmp_path / "wrong.yaml").write_text("partition: nosuch\n", encoding="utf-8")
    refused = here(*line, "--launcher", "slurm", "--slurm", tmp_path / "wrong.yaml", check=False)
    assert (refused.returncode, "invalid partition specified: nosuch" in refused.stderr) == (2, True), refused.stderr
    assert not ask("squeue", "-h")

    (tmp_path / "short.yaml").write_text("setup: exit 7\n", encoding="utf-8")
    here(*line, "--launcher", "slurm", "--slurm", tmp_path / "short.yaml")
    until(lambda: not ask("squeue", "-h"), "it does not end")
    status = here(*line, "--status").stdout
    assert "1 failed, 5 left out" in status, status
    assert "is FAILED; see" in status

    (tmp_path / "held.yaml").write_text("setup: sleep 200\n", encoding="utf-8")
    for _ in range(2):
        for _ in range(2):
            queued = here(*line, "--launcher", "slurm", "--slurm", tmp_path / "held.yaml")
            assert "6 jobs are with SLURM" in queued.stdout
            assert len(ask("squeue", "-h").splitlines()) == 6
        assert "6 jobs taken off SLURM's queue" in here(*line, "--cancel").stdout
        until(lambda: not ask("squeue", "-h"), "scancel does not end it")


@pytest.mark.parametrize(
    ("content", "message"),
    [("dependency: singleton\n", "dependency: the sweep sets it"), ("gpus: [1, 2]\n", "gpus: one value is expected")],
)
def test_mistakes_in_the_clusters_file(tmp_path, content: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=f"wrong.yaml:1: {message}"):
        read_options(file)


def test_the_clusters_file_is_handed_on_as_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("time: 12:00:00\nexclusive: true\nnice: 010\nsetup: |\n  module load x\n", encoding="utf-8")
    flags, setup = read_options(file)
    assert flags == ["--time=12:00:00", "--exclusive", "--nice=010"]
    assert setup == "module load x\n"


def test_without_slurm(here, sweep, runs, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    refused = here("sweep", sweep, "--runs", runs, "--launcher", "slurm", *SMALL, check=False)
    assert (refused.returncode, "no sbatch" in refused.stderr) == (2, True), refused.stderr
