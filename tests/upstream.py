"""What tests of loaders share: files and datasets as upstream has them."""

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from remix_toolkit.data import mixing, tasks
from remix_toolkit.data.pair import Pair
from remix_toolkit.recipe.load import load_task
from remix_toolkit.recipe.schema import CORPORA

Patch = pytest.MonkeyPatch
Row = dict[str, Any]


def read(task: str, *options: str) -> tasks.TaskRows:
    return tasks.read_task(load_task(task, list(options)), 0)


def passages(name: str, count: int, **spec: Any) -> list[Pair]:
    source = CORPORA[name](ratio=1.0, words=20, **spec)
    return list(islice(mixing.passages(name, source, count, random.Random(0)), count))


def write(folder: Path, contents: dict[str, str]) -> Path:
    """Files in a folder; returns the file if it is the only one, else the folder."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="latin-1" if "latin" in name else "utf-8")
    return folder / name if len(contents) == 1 and "/" not in name else folder


def jsonl(rows: list[Any]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def on_hub(folder: Path, rows: list[Row], config: str | None = None, split: str = "train") -> Path:
    """A dataset as a hub's repository holds it: parquet, and a README whose header names config and split."""
    header = {"config_name": config or "default", "data_files": [{"split": split, "path": "data.parquet"}]}
    write(folder, {"README.md": f"---\n{json.dumps({'configs': [header]})}\n---\n"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data.parquet")
    return folder
