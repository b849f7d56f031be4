"""Loaders: every upstream format from a file and from the hub, what is left out or refused, what is kept on disk."""

import csv
import errno
import io
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.errors
import pyarrow
import pyarrow.parquet
import pytest
from conftest import real
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remix_toolkit.data import files, hub, mixing, tasks
from remix_toolkit.data.catalog import catalog
from remix_toolkit.data.overlap import Index
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.recipe import CORPORA, RandomWords
from remix_toolkit.resolve import load_task


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hub datasets are kept in this test."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "remix-toolkit"


def read(task: str, *options: str) -> tasks.Read:
    result = tasks.read(load_task(task, list(options)), 0)
    assert result.rows == len(result.pairs) + sum(result.dropped.values())
    return result


def passages(name: str, count: int, **spec: Any) -> list[Pair]:
    source = CORPORA[name](ratio=1.0, words=20, **spec)
    return mixing.passages(name, source, count, random.Random(0), Index([]), Counter())


def write(folder: Path, contents: dict[str, str | bytes]) -> Path:
    """Files in a folder; returns the file if it is the only one, else the folder."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name if len(contents) == 1 and "/" not in name else folder


def jsonl(rows: list[Any]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def on_hub(folder: Path, rows: list[dict[str, Any]], config: str | None = None, split: str = "train") -> Path:
    """A dataset as a hub's repository holds it: parquet, and a README whose header names config and split."""
    header = {"config_name": config or "default", "data_files": [{"split": split, "path": "data.parquet"}]}
    write(folder, {"README.md": f"---\n{json.dumps({'configs': [header]})}\n---\n"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data.parquet")
    return folder


# --- upstream's formats, two ways in -----------------------------------------------------------------------------

NUL, LONG = "a\0b", "a" * 1001
TWICE, TOO_LONG = "asks the same as an earlier row", "an answer of more than 1000 characters"
FACTS = [
    *[("Who wrote Emma? ", ["Jane Austen", " Austen", ""], "Emma"), ("Where is A&amp;B?", [LONG[1:]], "A&amp;B")],
    *[("Who wrote Emma?", ["another"], " Emma"), (" \n", ["x"], " "), ("q1?", [" \t"], "s"), (NUL, ["x"], NUL)],
    ("q2?", [LONG], "t"),
]
INSTRUCTIONS = [("do <b> ", "x\n\ty"), ("long", LONG), ("do <b>", "z"), (" ", "z"), ("a", " "), (NUL, "z")]


def _triviaqa(q: str, a: list[str], _: str) -> dict[str, Any]:
    lower = {"normalized_value": a[0].lower(), "normalized_aliases": [x.lower() for x in a[1:]], "type": "FreeForm"}
    return {"question": q, "question_id": "tc_1", "answer": {"value": a[0], "aliases": a[1:], **lower}}


# Of each task: a row in the hub's columns (files have the same, where nothing else is said below), more such rows,
# and why the last rows of FACTS or INSTRUCTIONS and these are left out.
UPSTREAM: dict[str, tuple[Callable[..., dict[str, Any]], list[dict[str, Any]], list[str]]] = {
    "popqa": (
        lambda q, a, s: {"id": "1", "subj": s, "obj": a[0], "question": q, "possible_answers": json.dumps(a)},
        [],
        ["empty question", "empty obj", "control characters in question", TOO_LONG],
    ),
    "triviaqa": (_triviaqa, [], ["empty question", "empty value", "control characters in question", TOO_LONG]),
    "webqa": (
        lambda q, a, _: {"url": "http://", "question": q, "answers": a},
        [],
        ["empty question", "no answer", "control characters in question", TOO_LONG],
    ),
    "entityquestions": (
        lambda q, a, _: {"question": q, "answers": a},
        [{"question": "none?", "answers": []}],
        ["empty question", "no answer", "control characters in question", TOO_LONG, "no answer"],
    ),
    "lama": (
        lambda _, a, s: {"uuid": "1", "sub_label": s, "obj_label": a[0], "evidences": []},
        [],
        ["empty sub_label", "empty obj_label", "control characters in sub_label", TOO_LONG]
        + ["the template puts the object before the subject"],
    ),
    "gsm8k": (
        lambda p, r: {"question": p, "answer": r.strip() and f"{r}\r\n#### 1"},
        [{"question": "q", "answer": "it is 1"}],
        ["empty question", "empty answer", "control characters in question", "no result after ####"],
    ),
    "math": (
        lambda p, r: {"problem": p, "level": "Level 5", "type": "Algebra", "solution": r},
        [{"problem": "q", "solution": "\x1b"}, {"problem": "q", "solution": "it is \x1b"}],
        ["empty problem", "empty solution", "control characters in problem", "control characters in solution"] * 1
        + ["control characters in solution"],
    ),
    "evolcode": (
        lambda p, r: {"instruction": p, "output": r},
        [],
        ["empty instruction", "empty output", "control characters in instruction"],
    ),
    "apps": (
        lambda p, r: {"question": p, "solutions": json.dumps([r, "2"] if r > " " else [r]), "difficulty": "interview"},
        [{"question": "q", "solutions": s, "difficulty": d} for s, d in (('["x"]', "competition"), ("", "interview"))],
        ["empty question", "no solution", "control characters in question", "difficulty competition", "no solution"],
    ),
    "ultrachat": (
        lambda p, r: {"id": "1", "data": [p, r]},
        [{"id": "2", "data": turns} for turns in ([], ["unanswered"], ["one", "too many"])],
        ["an empty turn", "an empty turn", "control characters in data", "no answered turn", "no answered turn"],
    ),
}
