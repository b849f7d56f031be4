"""Damage of every file that a stage, a base model, a run, a familiarity split and a sweep leave in a store.

Whatever is wrong with whichever file: what reads the store ends without a traceback, shows no number that it would not
show otherwise, and names the file, unless it shows just what it showed before. The command that made the file makes it
again, to the same checksums and measurements, or names it with the remedy, which does.
"""

import json
import os
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import run_here

from remix_toolkit import disk
from remix_toolkit.data.files import sha256
from remix_toolkit.evaluate.measurements import FILES
from remix_toolkit.graph.jobs import due, graph
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.graph.sweep_state import Command
from remix_toolkit.launch import job, state

WEIGHTS = "model.safetensors"
SEED = 13


def replace(file: Path, content: bytes) -> None:
    """Never in place: the copies share their weights by hard links."""
    file.unlink()
    file.write_bytes(content)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    at = random.Random(file.name).randrange(len(content))
    content[at] ^= 1
    replace(file, bytes(content))


def make_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def make_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda file: replace(file, file.read_bytes()[: file.stat().st_size * 2 // 3]),
    "a bit flipped": flip,
    "empty": lambda file: replace(file, b""),
    "deleted": Path.unlink,
    "a directory": make_directory,
    "a dangling link": make_link,
}
OF_CONTENT = ("cut off", "a bit flipped", "empty")


@dataclass
class Store:
    """A store that is damaged again and again, always at the same place: a sweep's id depends on where its file is."""

    folder: Path
    kept: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.kept, self.folder, copy_function=link_weights)

    def call(self, *line: str) -> subprocess.CompletedProcess:
        return run_here(*line, check=False, folder=self.folder)


def link_weights(source: str, target: str) -> None:
    (os.link if source.endswith(WEIGHTS) else shutil.copy2)(source, target)


@pytest.fixture(scope="module")
def damaged(trained, tmp_path_factory) -> Store:
    """The trained store with a split and a sweep, whose one job measures what was not measured yet."""
    folder = tmp_path_factory.mktemp("damage") / "store"
    shutil.copytree(trained.folder, folder, copy_function=link_weights)
    rows = "".join(f"question {n}?,answer {n}\n" for n in range(8))
    (folder / "facts.csv").write_text(f"prompt,response\n{rows}", encoding="utf-8")
    run_here(*SPLIT, folder=folder)
    with chdir(folder):
        runs, command = Path("runs"), Command(sweep="trained", profile=None, seeds=None, overrides=[])
        next(runs.glob("stages/trained-stage1-*/perplexity.json")).unlink()
        declared, cells = load_sweep("trained")
        jobs = graph(cells)
        (todo,) = due(jobs, runs)
        at, lock = state.claim(runs, command.id)
        begun = state.begin(command, jobs, {todo}, declared.keep, "local")
        state.write_job(at, jobs[todo])
        begun.save(at)
        with (state.log_file(at, todo)).open("w") as log, redirect_stdout(log):
            job.run_job(at, todo)
        begun.jobs[todo].status = "done"
        begun.save(at)
        lock.release()
    return Store(folder, folder.rename(folder.with_name("kept")))


SPLIT = ("familiar", "pairs", "path=facts.csv")
RUN, SWEEP = ("run", "trained"), ("sweep", "trained")
READING: dict[str, tuple[str, ...]] = {
    "show": ("show", "--json"),
    "report": ("report", "--out", "../report"),
    "results": ("results",),
    "compare": ("compare", "trained-stage1-", "trained-stage2-", "--json"),
    "card": ("card", "trained-stage2-"),
    "list": ("store", "list", "--json"),
    "verify": ("store", "verify"),
    "prune": ("store", "prune", "--keep", "none", "--dry-run"),
    "plan": ("plan", "trained", "--json"),
    "status": (*SWEEP, "--status"),
}


def files_of(store: Store) -> list[Path]:
    """All files of the store, relative to it."""
    return sorted(file.relative_to(store.kept) for file in (store.kept / "runs").rglob("*") if file.is_file())


def cases(store: Store, kind: str) -> list[Path]:
    return [file for file in files_of(store) if kind not in OF_CONTENT or (store.kept / file).stat().st_size]


def names(text: str, file: Path) -> bool:
    """Is the file named, and the folder that it belongs to?"""
    owner = file.parts[2] if len(file.parts) > 3 else ""
    inner = "/".join(file.parts[3:]) if file.parts[1] in ("stages", "bases") else file.name
    return owner in text and inner in text


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        key = below.get("key", key) if isinstance(below, dict) else key  # of a stage
        yield from leaves(below, f"{at}.{key}")
    if not isinstance(value, dict | list):
        yield at, value


def shown(command: str, done: subprocess.CompletedProcess, store: Store) -> Any:
    """What a command shows that can be compared with what it shows at another time."""
    if command == "report":
        tables = (store.folder.parent / "report" / "tables").glob("*.csv")
        return [f"{file.name}: {line}" for file in sorted(tables) for line in file.read_text("utf-8").splitlines()]
    if command == "list" and done.returncode == 0:
        rows = [{**row, "bytes": None, "runs": None} for row in json.loads(done.stdout)]  # as they are
        return sorted(rows, key=lambda row: row["path"])
    if command == "plan" and done.returncode == 0:
        return {key: value for key, value in json.loads(done.stdout).items() if key != "seconds"}
    return json.loads(done.stdout) if done.stdout.startswith(("[", "{")) else done.stdout


def fewer(command: str, now: Any, before: Any) -> bool:
    """Is nothing shown that was not shown before? Of a report and a card, it is enough that they name the file."""
    if command in ("show", "list"):
        return all(one in before for one in now)
    if command in ("results", "compare") and now:
        known = dict(leaves(before))
        return all(known.get(at) == value for at, value in leaves(now) if ".notes." not in at)
    return command in ("report", "plan", "prune", "verify", "status", "card") or not now


def read(store: Store, commands: list[str]) -> dict[str, tuple[Any, str]]:
    """What each command shows, and all that it prints."""
    seen = {}
    for command in commands:
        shutil.rmtree(store.folder.parent / "report", ignore_errors=True)
        done = store.call(*READING[command])
        page = store.folder.parent / "report" / "index.html"
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        seen[command] = shown(command, done, store), done.stdout + done.stderr + text
    return seen


CRASHED = re.compile("^Traceback |^remix-toolkit did not foresee", re.MULTILINE)
REMEDIES = ("remix store verify --remove", "delete it", "use another --runs")


def problems(store: Store, kind: str, file: Path, before: dict[str, tuple[Any, str]]) -> list[str]:
    """What is wrong with what the reading commands show of a store in which one file is damaged."""
    store.reset()
    DAMAGES[kind](store.folder / file)
    wrong = []
    for command, (was, _) in before.items():
        ((now, text),) = read(store, [command]).values()
        if CRASHED.search(text):
            wrong.append(f"{command} ends with {text[-1000:]}")
        elif now != was and not fewer(command, now, was):
            wrong.append(f"{command} shows something else: {str(now)[:500]}")
        elif now != was and kind != "deleted" and not names(text, file):
            wrong.append(f"{command} does not name it: {text[-500:]}")
        elif now != was and names(text, file) and not any(remedy in text for remedy in REMEDIES):
            wrong.append(f"{command} names no remedy: {text[-500:]}")
    return [f"{file}, {kind}: {problem}" for problem in wrong]


def maker(file: Path) -> tuple[str, ...]:
    """The command that made a file."""
    return {"sweeps": SWEEP, "familiar": SPLIT}.get(file.parts[1], RUN)


def content(store: Store) -> dict[str, Any]:
    """The checksums and measurements of a store: what two trainings and two measurements of one thing share."""
    same: dict[str, Any] = {}
    for file in sorted(store.runs.rglob("*")):
        at = file.relative_to(store.runs)
        of_a_job = at.parts[0] == "sweeps" and at.name != "state.json"
        if not file.is_file() or file.name == "manifest.json" or file.name.endswith("lock") or of_a_job:
            continue  # a manifest has the checksum of stage.json, which says how long it took
        if file.name in ("stage.json", "state.json") or at.parts[0] == "records":
            changing = dict.fromkeys(("seconds", "sweep", "pid", "written", "checksum"))
            same[str(at)] = json.loads(file.read_text(encoding="utf-8")) | changing
        else:
            same[str(at)] = sha256(file)
    return same


def mend(store: Store, kind: str, file: Path, wanted: dict[str, Any]) -> str:
    """`recovered`, `reported`, or what is wrong, once the command that made a file ran again over the damaged one.

    Where it was reported, the remedy has to make the store what it was.
    """
    store.reset()
    DAMAGES[kind](store.folder / file)
    done = store.call(*maker(file))
    text = done.stdout + done.stderr
    if CRASHED.search(text):
        return f"{file}, {kind}: {text[-1000:]}"
    if reported := done.returncode != 0:
        if not names(text, file) or not any(remedy in text for remedy in REMEDIES):
            return f"{file}, {kind}: neither the file nor a remedy is named: {text[-500:]}"
        if "delete it" in text:
            disk.delete(store.folder / file)
        elif "use another --runs" in text:
            return "reported"
        store.call("store", "verify", "--remove")
        done = store.call(*maker(file))
    now = content(store)
    differs = sorted(at for at in now.keys() | wanted.keys() if now.get(at) != wanted.get(at))
    if done.returncode or differs:
        return f"{file}, {kind}: {differs} are not as they were: {done.stderr[-500:]}"
    return "reported" if reported else "recovered"


def mended_all(store: Store, chosen: Sequence[tuple[str, Path]]) -> Counter[tuple[str, str]]:
    """How many of some damages, by kind, were recovered from, or reported; an assertion that these are all."""
    store.reset()
    for line in (RUN, SWEEP, SPLIT):
        assert store.call(*line).returncode == 0
    wanted = content(store)
    outcomes = [(kind, mend(store, kind, file, wanted)) for kind, file in chosen]
    assert not (wrong := [end for _, end in outcomes if end not in ("recovered", "reported")]), "\n".join(wrong)
    return Counter(outcomes)


def is_quick(file: Path) -> bool:
    """Is it made again in a second? Training, and answering the held-out rows, take longer."""
    measured = "/".join(file.parts[3:]) in FILES and "held_out" not in file.name
    return measured or file.parts[1] not in ("stages", "bases")


def test_a_sample_of_damages_is_named_and_mended(damaged: Store) -> None:
    draw = random.Random(SEED)
    damaged.reset()
    before = read(damaged, list(READING))
    every = [(kind, file) for kind in DAMAGES for file in cases(damaged, kind)]
    sample = draw.sample(every, 12)
    quick = {name: shown for name, shown in before.items() if name != "report"}
    looked_at = [(kind, file, before if number < 2 else quick) for number, (kind, file) in enumerate(sample)]
    wrong = [problem for kind, file, seen in looked_at for problem in problems(damaged, kind, file, seen)]
    assert not wrong, "\n".join(wrong)
    light = [(kind, file) for kind, file in every if is_quick(file)]
    assert mended_all(damaged, draw.sample(light, 4))


@pytest.mark.faults
@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damaged_file_is_named(damaged: Store, kind: str) -> None:
    damaged.reset()
    before = read(damaged, list(READING))
    wrong = [problem for file in cases(damaged, kind) for problem in problems(damaged, kind, file, before)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.faults
@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damaged_file_is_mended_or_named_with_the_remedy(damaged: Store, kind: str) -> None:
    """With -s, the table: kind, how many were recovered from, how many reported."""
    print(mended_all(damaged, [(kind, file) for file in cases(damaged, kind)]))
