"""A process that does a sweep's jobs one after the other: Python and TRL are started once, not once per stage.

It sends back what it says, line by line, and how each job ended. It dies with the process that started it.
"""

import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from io import TextIOBase
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from remix_toolkit.errors import BadInput, Busy, RunFailed
from remix_toolkit.evaluate.records import RecallRecord
from remix_toolkit.graph import devices
from remix_toolkit.graph.lineage import Node
from remix_toolkit.recipe.schema import Factoid, Recipe
from remix_toolkit.records import StageRecord


@dataclass(frozen=True)
class Check:
    """Look at the data and settings of a run before anything is trained."""

    recipe: Recipe
    nodes: list[Node]


@dataclass(frozen=True)
class Train:
    """Train, publish and measure a stage, under each of the recipes that measure something else after it."""

    recipes: list[Recipe]
    node: Node
    weights: bool  # wanted, not only the results
    sweep: str
    commands: list[list[str]]  # for each, the arguments of remix_toolkit.stage, where accelerate launches it
    wait: bool  # for another run that is at this stage; else it ends busy


@dataclass(frozen=True)
class Ask:
    """Ask the base model until so many rows are as familiar as wanted."""

    recipe: Recipe
    task: Factoid
    rows: int | None


Task = Check | Train | Ask
End = tuple[Literal["done", "busy", "bad input", "failed"], str]


def work(pipe: connection.Connection, runs: Path, log: Path, environment: dict[str, str]) -> None:
    """Do what comes through the pipe until it closes."""
    os.environ.update(environment)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sweep's: it ends its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    file = log.open("a", encoding="utf-8")
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = _Lines(pipe, file), file
    importlib.import_module("remix_toolkit.stage.run")
    gc.freeze()  # a million objects of libraries, which are looked through several times a stage otherwise
    while True:
        try:
            task: Task = pipe.recv()
        except EOFError:
            return
        pipe.send(("end", do(task, runs)))


def do(task: Task, runs: Path) -> End:
    """Do one job in this process; how it ended, and in a line with what."""
    from accelerate.utils.memory import clear_device_cache

    try:
        match task:
            case Check():
                from remix_toolkit.stage.run import prepare

                prepare(task.recipe, task.nodes, runs, ask=False)
            case Ask():
                from remix_toolkit.stage.familiar import ask

                ask(task.recipe, task.task, task.rows, runs)
            case Train():
                return "done", _train(task, runs)
    except Busy as error:
        return "busy", str(error)
    except BadInput as error:
        return "bad input", str(error)
    except RunFailed as error:
        return "failed", str(error)
    except OSError as error:
        return "failed", f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    except Exception as error:
        import traceback

        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}"
    finally:
        clear_device_cache(garbage_collection=True)  # what the job held goes back
    return "done", ""


def _train(task: Train, runs: Path) -> str:
    from remix_toolkit import store
    from remix_toolkit.stage.run import prepare, run_stage

    for recipe, command in zip(task.recipes, task.commands, strict=True):
        data = prepare(recipe, [task.node], runs)[task.node.stage]
        if recipe.accelerate_config is None:
            run_stage(recipe, task.node, data, runs, task.weights, task.sweep, wait=task.wait)
        else:
            _when_free(task, runs)
            _launch(recipe, task, command)
    folder = store.find(runs, task.node.key)
    if folder is None:
        raise RunFailed("it ended without a published stage")
    stage, recall = StageRecord.read(folder / "stage.json"), RecallRecord.read_if_exists(folder / "recall.json")
    percentages = [f"{one.recall:.1f}%" for one in recall.lists.values()] if recall else []
    return f"{stage.steps} steps, loss {stage.last_loss:.2g}, recall {', '.join(percentages) or '-'}"


def _when_free(task: Train, runs: Path) -> None:
    """Under a launcher, a process that waited for another run would keep the others from going on: wait here."""
    try:
        with FileLock(runs / "work" / f"{task.node.key}.lock", timeout=-1 if task.wait else 0):
            return
    except Timeout:
        raise Busy(f"{task.node.stage}: another run is at this stage") from None


def _launch(recipe: Recipe, task: Train, command: list[str]) -> None:
    """The stage as a command of its own under accelerate, which ends with this process."""
    more = ["--sweep", task.sweep, "--key", task.node.key]
    line = devices.command(recipe, task.node, [*command, *more])
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True)
    _children.append(process)
    assert process.stdout
    try:
        for text in process.stdout:
            print(text, end="")
        code = process.wait()
    finally:
        _children.remove(process)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # for one process, accelerate passes no signal on
            process.wait()
    if code:
        raise RunFailed(f"accelerate launch ended with exit code {code}")


_children: list[subprocess.Popen[str]] = []


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent
    connection.wait([parent.sentinel])
    for child in _children:
        os.killpg(child.pid, signal.SIGTERM)
    os._exit(1)


class _Lines(TextIOBase):
    """Standard output: every line goes to the sweep, and into the log."""

    def __init__(self, pipe: connection.Connection, file: Any) -> None:
        self.pipe, self.file, self.begun = pipe, file, ""

    def write(self, text: str) -> int:
        self.file.write(text)
        self.file.flush()
        *lines, self.begun = (self.begun + text).split("\n")
        for line in lines:
            self.pipe.send(("line", line))
        return len(text)

    def isatty(self) -> bool:
        return False
