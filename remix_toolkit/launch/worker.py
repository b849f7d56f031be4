"""A process that does a sweep's jobs one after the other: Python and TRL are started once, not once per stage.

It sends back its output, line by line, and how each job ended. It dies with the process that started it.
"""

import gc
import importlib
import os
import signal
import sys
import threading
from dataclasses import dataclass
from functools import partial
from io import TextIOBase
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from remix_toolkit.graph.lineage import Node
from remix_toolkit.launch.job import JobOrder, end_launched, outcome_of, run_job
from remix_toolkit.recipe.schema import Recipe


@dataclass(frozen=True)
class CheckOrder:
    """Look at the data and settings of a run before anything is trained."""

    recipe: Recipe
    nodes: list[Node]


Order = CheckOrder | JobOrder


def work(pipe: connection.Connection, runs: Path, log: Path, environment: dict[str, str]) -> None:
    """Do what comes through the pipe until it closes."""
    os.environ.update(environment)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep: it ends its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    file = log.open("a", encoding="utf-8")
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = _Lines(pipe, file), file
    importlib.import_module("remix_toolkit.stage.run")
    gc.freeze()  # a million objects of libraries, which are looked through several times a stage otherwise
    from accelerate.utils.memory import clear_device_cache

    while True:
        try:
            order: Order = pipe.recv()
        except EOFError:
            return
        work = partial(_check, order, runs) if isinstance(order, CheckOrder) else partial(run_job, order, runs)
        outcome = outcome_of(work)
        clear_device_cache(garbage_collection=True)  # what the job held goes back
        pipe.send(("outcome", outcome))


def _check(order: CheckOrder, runs: Path) -> str:
    from remix_toolkit.stage.prepare import prepare

    prepare(order.recipe, order.nodes, runs, ask=False)
    return ""


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent
    connection.wait([parent.sentinel])
    end_launched()
    os._exit(1)


class _Lines(TextIOBase):
    """Standard output: every line goes to the sweep, and into the log."""

    def __init__(self, pipe: connection.Connection, file: Any) -> None:
        self.pipe, self.file, self.unfinished = pipe, file, ""

    def write(self, text: str) -> int:
        self.file.write(text)
        self.file.flush()
        *lines, self.unfinished = (self.unfinished + text).split("\n")
        for line in lines:
            self.pipe.send(("line", line))
        return len(text)

    def isatty(self) -> bool:
        return False
