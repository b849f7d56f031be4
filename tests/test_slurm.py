"""A sweep on a real SLURM of two nodes on loopback, started for the test (`make test-slurm` installs what it needs).

One chain trains; elsewhere, where training is not the point, tests/fake_stage sleeps in its place.
"""

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
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.records import StageRecord

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

WAIT_S = 400  # two jobs side by side import TRL; a loaded machine takes its time

TWO_MACHINES = """\
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_machines: 2
num_processes: 2
rdzv_backend: static
mixed_precision: "no"
"""

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
def limited(slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SLURM's commands reach another cluster, which takes three jobs of a user at once."""
    if why := slurm_cluster.missing("slurmdbd", "mariadbd", "sacctmgr"):
        pytest.skip(why)
    with slurm_cluster.cluster(tmp_path / "slurm", limit=3) as environment:
        monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        yield


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two arms that share stage1: three stages."""
    return sweep_of(tmp_path, "replay: {stages.stage2.mix: {replay: {stage: stage1, ratio: 0.5}}}")


@pytest.fixture
def fake(slurm: None, trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that says what stages do; see tests/fake_stage."""
    place = tmp_path / "fake"
    trained.publish(place, "stage1", "0" * 16, "fake-seed0", {})
    (next((place / "stages").iterdir())).rename(place / "stage")
    monkeypatch.setenv("FAKE", str(place))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests' / 'fake_stage'}:{ROOT}")
    monkeypatch.setattr("remix_toolkit.launch.slurm.check", lambda *_: None)
    return place


def sweep_of(folder: Path, *arms: str, seeds: int = 1) -> Path:
    file = folder / "chain.yaml"
    listed = "".join(f"  {arm}\n" for arm in ("none: {}", *arms))
    file.write_text(f"recipe: {ROOT}/recipes/kvr.yaml\nseeds: {list(range(seeds))}\narms:\n{listed}", encoding="utf-8")
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


def near_its_end(job: str) -> None:
    ask("scancel", "--batch", "--signal=USR1", job)  # as SLURM does before the time limit


def starts(fake: Path) -> list[str]:
    log = fake / "log.txt"
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


@pytest.mark.usefixtures("slurm")
def test_a_chain_whose_time_limit_comes_in_the_middle(here, runs, tmp_path) -> None:
    (tmp_path / "cluster.yaml").write_text("partition: low\ntime: 30\nsetup: echo on $(hostname)\n", encoding="utf-8")
    line = ["sweep", sweep_of(tmp_path), "--runs", runs, *LONGER]
    queued = here(*line, "--launcher", "slurm", "--slurm", tmp_path / "cluster.yaml")
    assert "1 jobs are with SLURM, 3 wait for them" in queued.stdout
    first = ask("squeue", "-h", "-o", "%i")

    until(lambda: list(runs.glob("work/*/checkpoints/checkpoint-*/manifest.json")), "no checkpoint")
    near_its_end(first)
    until(lambda: ask("squeue", "-h", "-j", first, "-o", "%T") == "PENDING", "it is not queued again")
    assert "waiting" in here(*line, "--status").stdout
    # SLURM holds it for a second more than cred_expire; started sooner, the node refuses its credential as revoked.
    whole = tmp_path / "whole"
    here("sweep", tmp_path / "chain.yaml", "--runs", whole, *LONGER)
    until(lambda: not ask("squeue", "-h"), f"it does not end: {ask('squeue')}")

    status = here(*line, "--status").stdout
    assert "4 done, 0 failed" in status, status
    assert weights(runs) == weights(whole)
    stage1 = StageRecord.read(next(runs.glob("stages/*stage1*/stage.json"))).model_dump()
    assert stage1["resumed_from"].startswith("checkpoint-")
    assert next(runs.glob(f"sweeps/*/slurm-{first}.txt")).read_text(encoding="utf-8").count("on ") >= 2
    log = next(runs.glob(f"sweeps/*/jobs/{stage1['key']}/log.txt")).read_text(encoding="utf-8")
    assert "resumes from" in log
    done = here(*line, "--launcher", "slurm")
    assert "0 jobs are with SLURM" in done.stdout


def at_its_end(job: str, node: str) -> None:
    """Nothing to be done: the time limit is a minute."""


def preempted(job: str, node: str) -> None:
    ask("srun", "--partition=high", "--nodes=2", "--exclusive", "sleep", "1")


def node_down(job: str, node: str) -> None:
    ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    until(lambda: ask("squeue", "-h", "-j", job, "-o", "%T") == "PENDING", "it is not queued again")
    ask("scontrol", "update", f"NodeName={node}", "State=RESUME")


@pytest.mark.faults
@pytest.mark.parametrize("happens", [at_its_end, preempted, node_down])
def test_what_slurm_takes_away_goes_on_where_it_was(here, fake, sweep, runs, tmp_path, happens) -> None:
    """Stage1 goes on from its last checkpoint, and nothing that starts from it is lost."""
    (tmp_path / "cluster.yaml").write_text("time: 1\nsignal: B:USR1@10\n", encoding="utf-8")
    line = ["sweep", sweep, "--runs", runs, *SMALL]
    (fake / "hold").touch()
    here(*line, "--launcher", "slurm", "--slurm", tmp_path / "cluster.yaml")
    until(lambda: list(runs.glob("work/*/checkpoints/*/manifest.json")), "no checkpoint")
    job, node = ask("squeue", "-h", "-o", "%i %N").split()
    happens(job, node)
    until(lambda: ask("squeue", "-h", "-j", job, "-o", "%T") == "PENDING", "it is not queued again")
    assert "0 running, 6 waiting" in here(*line, "--status").stdout
    (fake / "hold").unlink()
    until(lambda: not ask("squeue", "-h"), "it does not end")
    assert "6 done, 0 failed" in here(*line, "--status").stdout
    assert [start.partition(":")[0].split()[-1] for start in starts(fake) if "train stage1" in start] == ["0", "1"]
    assert len(starts(fake)) == 7


@pytest.mark.faults
def test_a_time_limit_without_a_checkpoint_comes_twice(here, fake, sweep, runs, tmp_path) -> None:
    line = ["sweep", sweep, "--runs", runs, *SMALL]
    (fake / "stuck").touch()
    here(*line, "--launcher", "slurm")
    for times in (1, 2):
        until(lambda times=times: len(starts(fake)) == times, "it does not start")
        near_its_end(ask("squeue", "-h", "-o", "%i"))
    until(lambda: not ask("squeue", "-h"), "it does not end")
    status = here(*line, "--status").stdout
    assert "1 failed, 5 left out" in status, status
    assert "the time limit came twice, with no checkpoint in between" in status


@pytest.mark.faults
@pytest.mark.usefixtures("limited")
def test_more_jobs_than_slurm_takes_at_once(here, fake, runs, tmp_path) -> None:
    """Sixteen jobs where MaxSubmitJobs is three."""
    sweep = sweep_of(tmp_path, "random: {stages.stage1.mix: {random_words: {ratio: 1}}}", seeds=2)
    line = ["sweep", sweep, "--runs", runs, *SMALL]
    (fake / "hold").touch()
    queued = here(*line, "--launcher", "slurm")
    assert "3 jobs are with SLURM, 13 wait for them" in queued.stdout
    assert "AssocMaxSubmitJobLimit" in queued.stderr
    (fake / "hold").unlink()
    until(lambda: not ask("squeue", "-h"), "it does not end")
    assert "16 done, 0 failed" in here(*line, "--status").stdout
    assert len(starts(fake)) == 16
    assert 3 <= len({line.split()[-1] for line in starts(fake)}) < 16  # a batch job goes on with what can start


def test_jobs_that_are_refused_that_end_too_early_and_that_are_cancelled(here, fake, sweep, runs, tmp_path) -> None:
    """What fails takes its children with it, is said, and the same command goes on; nothing is queued twice."""
    line = ["sweep", sweep, "--runs", runs, *SMALL]
    (tmp_path / "wrong.yaml").write_text("partition: nosuch\n", encoding="utf-8")
    refused = here(*line, "--launcher", "slurm", "--slurm", tmp_path / "wrong.yaml", check=False)
    assert (refused.returncode, "invalid partition specified: nosuch" in refused.stderr) == (2, True), refused.stderr
    assert not ask("squeue", "-h")
    assert "none of its jobs is with SLURM (sbatch refuses stage1" in here(*line, "--status").stdout

    (tmp_path / "short.yaml").write_text("setup: exit 7\n", encoding="utf-8")
    here(*line, "--launcher", "slurm", "--slurm", tmp_path / "short.yaml")
    until(lambda: not ask("squeue", "-h"), "it does not end")
    status = here(*line, "--status").stdout
    assert "1 failed, 5 left out" in status, status
    assert "is FAILED; see" in status

    (fake / "hold").touch()
    for _ in range(2):
        for _ in range(2):
            queued = here(*line, "--launcher", "slurm")
            assert "1 jobs are with SLURM, 5 wait for them" in queued.stdout
            assert len(ask("squeue", "-h").splitlines()) == 1
        assert "1 jobs taken off SLURM's queue" in here(*line, "--cancel").stdout
        until(lambda: not ask("squeue", "-h"), "scancel does not end it")
    assert "none of its jobs is with SLURM" in here(*line, "--status").stdout

    (fake / "hold").unlink()
    (fake / "fail-stage2").touch()
    here(*line, "--launcher", "slurm", "--jobs", 2)
    until(lambda: not ask("squeue", "-h"), "it does not end")
    status = here(*line, "--status").stdout
    assert "2 done, 2 failed, 2 left out" in status, status


@pytest.mark.faults
@pytest.mark.usefixtures("slurm")
def test_a_stage_on_two_machines(here, runs, tmp_path) -> None:
    """A launcher on each node, which srun starts; accelerate does DDP over gloo, as there is no GPU."""
    (tmp_path / "two.yaml").write_text(TWO_MACHINES, encoding="utf-8")
    (tmp_path / "one.yaml").write_text("stages: {stage1: {data: {task: kvr, size: 16}}}\n", encoding="utf-8")
    (tmp_path / "cluster.yaml").write_text(
        "nodes: 2\ncpus-per-task: 2\nsetup: export ACCELERATE_USE_CPU=true\n", encoding="utf-8"
    )
    line = ["sweep", tmp_path / "one.yaml", "--runs", runs, f"accelerate_config={tmp_path / 'two.yaml'}", *SMALL[:3]]
    here(*line, "--launcher", "slurm", "--slurm", tmp_path / "cluster.yaml")
    job = ask("squeue", "-h", "-o", "%i")
    until(lambda: ask("squeue", "-h", "-o", "%N") == "node[1-2]", "it does not start")
    assert "TresPerNode=gres:gpu:1" in ask("scontrol", "show", "job", job)
    until(lambda: f"{job}.0 " in ask("squeue", "-h", "--steps", "-o", "%i %N"), "there is no step")
    assert f"{job}.0 node[1-2]" in ask("squeue", "-h", "--steps", "-o", "%i %N").splitlines()
    until(lambda: not ask("squeue", "-h"), "it does not end")
    status = here(*line, "--status").stdout
    assert "2 done, 0 failed" in status, status
    record = StageRecord.read(next(runs.glob("stages/*/stage.json")))
    assert (record.processes, record.distributed) == (2, "DDP")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dependency: singleton\n", "dependency: the sweep sets it"),
        ("gpus: [1, 2]\n", "gpus: one value is expected"),
        ("nodes: 2\n", "nodes: is 2, and .*fsdp_4gpu.yaml is for 1 "),
    ],
)
def test_mistakes_in_the_clusters_file(tmp_path, content: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=f"wrong.yaml:1: {message}"):
        read_options(file, [load_recipe("kvr", "llama3-8b")])


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
