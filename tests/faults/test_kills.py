"""A command that is killed or stopped at any moment of a stage's life, and then given again."""

import shutil
import signal
from pathlib import Path

import pytest
import victim
from conftest import ROOT, SMALL
from stores import assert_undisturbed, contents, fresh_store, some, wipe

from remix_toolkit.records import StageRecord

ENDS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 130, signal.SIGINT: 130}
INTERRUPTED = "interrupted; the same command goes on from what is published and the last checkpoint"

RESUME = [*SMALL, "train.save_steps=2", "stages.stage1.train.num_train_epochs=12", "train.lr_scheduler_type=cosine"]
RESUME += ["stages.stage1.stop={loss_below: 100, times: 20}"]  # fires at step 20 of 24, if its count survives
RESUME += ["stages.stage1.freeze.half=true", "stages.stage1.sam.rho=0.02", "stages.stage1.l2.weight=0.1"]
RESUME += ["stages.stage1.kl={weight: 0.1, on: prompts}"]

# Each in a file or folder of a stage: when it is about to be written, renamed or deleted.
QUICK = [
    ("open work/{one}/data/mixing.jsonl", signal.SIGKILL),
    ("victim.ended work/{one}/checkpoints/checkpoint-4/optimizer.pt", signal.SIGKILL),
    ("open work/{one}/checkpoints/checkpoint-4/trainer_state.json", signal.SIGINT),
    ("os.rename work/{one}/draft", signal.SIGKILL),
    ("os.remove work/{one}/checkpoints/checkpoint-4/optimizer.pt", signal.SIGKILL),  # published, and being cleared
    ("open stages/{first}/recall.json.partial", signal.SIGKILL),  # its rows are written
    ("os.rename stages/{first}/perplexity.json.partial", signal.SIGTERM),
    ("open work/{two}/retention.jsonl.partial", signal.SIGKILL),
    ("os.rmdir work/{two}/checkpoints", signal.SIGTERM),
    ("open stages/{second}/interference.json.partial", signal.SIGKILL),
    ("open records/{run}.json.partial", signal.SIGKILL),
]


def kill_at(folder: Path, moment: str, number: int, command: str = "run") -> bool:
    """Kill the command at a moment; did it come to it? What was begun may have been done already."""
    ended = victim.run(command, "trained", folder=folder, at=moment, what=number)
    assert "Traceback" not in ended.err, ended.err
    if ended.code == 0:
        return False
    assert ended.code == ENDS[signal.Signals(number)], f"{moment}: {ended.code}\n{ended.err}"
    assert ended.moments.count(moment) >= 1
    if number != signal.SIGKILL:
        assert ended.err.splitlines()[-1] == INTERRUPTED
    return True


def test_killed_at_one_moment_after_another(trained, tmp_path: Path) -> None:
    fresh_store(trained, tmp_path)
    one, two = (StageRecord.read(folder / "stage.json").key for folder in trained.stages)
    first, second = (folder.name for folder in trained.stages)
    run = next((trained.runs / "records").glob("*.json")).stem
    for moment, number in QUICK:
        assert kill_at(tmp_path, moment.format(one=one, two=two, first=first, second=second, run=run), number), moment
    ended = victim.run("run", "trained", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert_undisturbed(tmp_path, trained)


@pytest.mark.slow
@pytest.mark.faults
def test_a_stop_goes_on_counting_after_a_kill(here, runs: Path, tmp_path: Path) -> None:
    """The checkpoint that is being written when it comes is left aside, and the weights are bit for bit the same."""
    whole = tmp_path / "whole" / "runs"
    shutil.copytree(runs, whole)
    line = ["run", ROOT / "recipes" / "kvr.yaml", "--stage", "stage1", *RESUME]
    here(*line, "--runs", whole)
    killed = victim.run(*line, folder=tmp_path, at="open work/*/checkpoints/checkpoint-8/trainer_state.json", what=9)
    assert killed.code == -9, killed.err
    resumed = victim.run(*line, folder=tmp_path)
    assert "checkpoint-6" in resumed.out, resumed.err
    assert contents(runs) == contents(whole)
    results = [StageRecord.read(next(place.glob("stages/*/stage.json"))) for place in (runs, whole)]
    assert [(r.steps, r.stop_fired) for r in results] == [(20, True), (20, True)]
    assert [r.resumed_from for r in results] == ["checkpoint-6", None]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("command", "number", "share"),
    [
        ("run", signal.SIGKILL, 1.0),
        ("run", signal.SIGTERM, 0.25),
        ("run", signal.SIGINT, 0.25),
        ("sweep", signal.SIGKILL, 1.0),
        ("sweep", signal.SIGTERM, 0.25),
    ],
)
def test_killed_at_every_moment(trained, tmp_path: Path, command: str, number: signal.Signals, share: float) -> None:
    """Or at a share of them. Of a sweep, these are the moments of the process that starts its jobs."""
    fresh_store(trained, tmp_path)
    moments = some(victim.run(command, "trained", folder=tmp_path).moments, share)
    assert_undisturbed(tmp_path, trained)
    wipe(tmp_path, trained)
    killed = 0
    for moment in moments:
        if kill_at(tmp_path, moment, number, command):
            killed += 1
        else:
            assert_undisturbed(tmp_path, trained)  # what was to happen at that moment had happened
            wipe(tmp_path, trained)
    assert victim.run(command, "trained", folder=tmp_path).code == 0
    assert_undisturbed(tmp_path, trained)
    print(f"{command}, {number.name}: killed at {killed} of {len(moments)} moments")
