"""Files and hub datasets as rows: each reader yields (place, row), the place being what an error names.

All of them raise BadInput for what they cannot read.
"""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.yaml_file import read_text


def text(value: Any, place: str, column: str) -> str:
    """A non-empty string, stripped (a number is written out)."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{place}: {column} is {value!r}; a text that is not empty is expected")
    return value.strip()


def tsv(path: Path, delimiter: str) -> Iterator[tuple[str, Any]]:
    """A header row, then dictionaries; quoting as in CSV. A row of another length than the header is an error."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    csv.field_size_limit(2**31 - 1)
    try:
        header = next(reader, None)
        if not header or not any(header):
            raise BadInput(f"{path}:1: is empty; a header row is expected")
        if twice := [name for name in header if header.count(name) > 1]:
            raise BadInput(f"{path}:1: column {twice[0]!r} stands there twice")
        yield f"{path}:1", header
        for number, cells in enumerate(reader, start=2):
            if not cells:
                continue
            place = f"{path}: row {number} (line {reader.line_num})"
            if len(cells) != len(header):
                raise BadInput(f"{place}: has {len(cells)} cells; the header has {len(header)}")
            yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise BadInput(f"{path}: line {reader.line_num}: {error}") from None


def jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", _object(line, f"{path}:{number}")


def _object(text: str, place: str) -> dict[str, Any]:
    row = _parse(text, place)
    if not isinstance(row, dict):
        raise BadInput(f"{place}: is a JSON {type(row).__name__}; an object with the row's columns is expected")
    return row


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if error.lineno > 1 else ""
        raise BadInput(f"{place}{line}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{place}: not valid JSON: {error}") from None


def json_array(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = _parse(read_text(path), str(path))
    if not isinstance(rows, list):
        raise BadInput(f"{path}: is a JSON {type(rows).__name__}; an array of objects is expected")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise BadInput(f"{path}: row {number}: is {row!r}; an object with the row's columns is expected")
        yield f"{path}: row {number}", row


def dataset_folder(path: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # a folder of another kind and a damaged one fail in many ways, none of them telling
        raise BadInput(f"{path}: is a directory, but none that datasets' save_to_disk wrote ({error})") from error
    if isinstance(dataset, DatasetDict):
        if split not in dataset:
            raise BadInput(f"{path}: no split {split!r}; {nearest(split, map(str, dataset))}")
        dataset = dataset[split]
    for number, row in enumerate(dataset, start=1):
        yield f"{path}: row {number}", row


def hub(hub: str, split: str, revision: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import load_dataset

    try:
        dataset = load_dataset(hub, split=split, revision=revision)
    except Exception as error:  # datasets raises a dozen kinds for a missing name, a missing network, a closed door
        raise BadInput(
            f"hub dataset {hub!r}, split {split!r}: cannot be loaded ({type(error).__name__}: {error}). "
            "Is the name right, is there a network? A local file works too: path=..."
        ) from error
    for number, row in enumerate(dataset, start=1):
        yield f"{hub}: row {number}", row
