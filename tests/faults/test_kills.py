"""A command that is killed or stopped at any moment of a stage's life, and then given again."""

import signal
from pathlib import Path

import pytest
import victim
from stores import assert_undisturbed, fresh_store, wipe

from remix_toolkit.records import StageRecord

ENDS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 130, signal.SIGINT: 130}
INTERRUPTED = "interrupted; the same command goes on where this one stopped"

# Each in a file or folder of a stage: when it is about to be written, renamed or deleted.
QUICK = [
    ("open work/{one}/data/mixing.jsonl", signal.SIGKILL),
    ("os.rename work/{one}/data/data.json.partial", signal.SIGTERM),
    ("victim.ended work/{one}/checkpoints/checkpoint-4/optimizer.pt", signal.SIGKILL),
    ("open work/{one}/checkpoints/checkpoint-4/trainer_state.json", signal.SIGINT),
    ("victim.ended work/{one}/draft/model.safetensors", signal.SIGKILL),
    ("os.rename work/{one}/draft", signal.SIGKILL),
    ("os.remove work/{one}/checkpoints/checkpoint-4/optimizer.pt", signal.SIGKILL),  # published, and being cleared
    ("open stages/{first}/recall.json.partial", signal.SIGKILL),  # its rows are written
    ("os.rename stages/{first}/perplexity.json.partial", signal.SIGTERM),
    ("open work/{two}/retention.jsonl.partial", signal.SIGKILL),
    ("os.rename work/{two}/draft", signal.SIGTERM),
    ("os.rmdir work/{two}/checkpoints", signal.SIGTERM),
    ("open stages/{second}/lens.json.partial", signal.SIGKILL),
    ("open stages/{second}/interference.json.partial", signal.SIGKILL),
    ("open records/{run}.json.partial", signal.SIGKILL),
]


def kill_at(folder: Path, moment: str, number: int, command: str = "run") -> bool:
    """Kill the command at a moment; did it come to it? What was begun may have been done already."""
    ended = victim.run(command, "trained", folder=folder, at=moment, happens=victim.send, what=number)
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


@pytest.mark.faults
@pytest.mark.parametrize("command", ["run", "sweep"])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_killed_at_every_moment(trained, tmp_path: Path, command: str, name: str, record_property) -> None:
    fresh_store(trained, tmp_path)
    moments = list(dict.fromkeys(victim.run(command, "trained", folder=tmp_path).moments))
    assert_undisturbed(tmp_path, trained)
    wipe(tmp_path, trained)
    killed = 0
    for moment in moments:
        if kill_at(tmp_path, moment, signal.Signals[name], command):
            killed += 1
            continue
        assert_undisturbed(tmp_path, trained)  # what was to happen at that moment had happened
        wipe(tmp_path, trained)
    assert victim.run(command, "trained", folder=tmp_path).code == 0
    assert_undisturbed(tmp_path, trained)
    record_property("killed", killed)
    print(f"{command}, {name}: killed at {killed} of {len(moments)} moments")
