"""Files and hub datasets as rows: each reader yields (place, row), the place being what an error names.

All of them raise BadInput for what they cannot read.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe.yaml_file import open_text, read_text

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # all but tab and line feed; halves of characters too


class UnusableRow(Exception):
    """This row cannot be used, and that is upstream's doing, not the user's: it is left out and counted as `reason`."""


def check_text(value: Any, place: str, column: str) -> str:
    """A non-empty string, stripped (a number is written out). For rows of the user's own: what is wrong raises."""
    if _is_number(value):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{place}: {column} is {shorten(value)}; a text that is not empty is expected")
    value = value.replace("\r\n", "\n")
    if found := CONTROL.search(value):
        raise BadInput(f"{place}: {column} holds the control character {found[0]!r}; only tab and line feed may stand")
    stripped: str = value.strip()
    return stripped


def get_text(row: dict[str, Any], column: str, place: str) -> str:
    """A column of upstream's row, stripped.

    Raises BadInput where the column is not there or holds no text: the file is in another format than upstream's.
    Raises UnusableRow where it is empty or holds control characters.
    """
    value: Any = get_value(row, column, place)
    if not isinstance(value, str):
        raise BadInput(f"{place}: {column} is {shorten(value)}; upstream has a text there")
    value = value.replace("\r\n", "\n")
    if not value.strip():
        raise UnusableRow(f"empty {column}")
    if CONTROL.search(value):
        raise UnusableRow(f"control characters in {column}")
    stripped: str = value.strip()
    return stripped


def get_value(row: dict[str, Any], column: str, place: str) -> Any:
    """A column of upstream's row. Raises BadInput, naming the columns that are there, if it is not."""
    if column not in row:
        raise BadInput(f"{place}: no column {column!r}, which upstream has; here are {', '.join(map(str, row))}")
    return row[column]


def clean_texts(values: Any, place: str, column: str) -> list[str]:
    """A list of texts, stripped; without those that are empty or hold control characters. Raises BadInput."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadInput(f"{place}: {column} is no list of texts: {shorten(values)}")
    values = [value.replace("\r\n", "\n") for value in values]
    return [value.strip() for value in values if value.strip() and not CONTROL.search(value)]


def parse_texts(value: Any, place: str, column: str) -> list[str]:
    """The same, written as JSON in a string, as PopQA and APPS do."""
    try:
        parsed = json.loads(value)
    except (TypeError, ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, list) or not all(isinstance(item, str) for item in parsed):
        raise BadInput(f"{place}: {column} is no JSON list of strings: {shorten(value)}")
    return clean_texts(parsed, place, column)


def read_csv(path: Path, delimiter: str) -> Iterator[tuple[str, Any]]:
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


def read_jsonl(path: Path, first: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines as objects; only the first ones if asked (a corpus may be larger than memory)."""
    with open_text(path) as lines:
        numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        try:
            for number, line in islice(numbered, first):
                yield f"{path}:{number}", _object(line.rstrip("\n"), f"{path}:{number}")
        except UnicodeDecodeError:
            raise BadInput(f"{path}: not UTF-8 text; save it as UTF-8") from None


def read_json_object(path: Path) -> dict[str, Any]:
    return _object(read_text(path), str(path))


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


def read_json_array(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = _parse(read_text(path), str(path))
    if not isinstance(rows, list):
        raise BadInput(f"{path}: is a JSON {type(rows).__name__}; an array of objects is expected")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise BadInput(f"{path}: row {number}: is {row!r}; an object with the row's columns is expected")
        yield f"{path}: row {number}", row


def read_dataset_folder(path: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
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


def read_documents(path: Path, column: str) -> Iterator[str]:
    """The texts of a local corpus: .jsonl, .json or .parquet (also .gz, .zst), or a folder of them, streamed."""
    suffixes = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
    found = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    kinds = {f: suffixes.get((f.with_suffix("") if f.suffix in (".gz", ".zst") else f).suffix) for f in found}
    files = [f for f, kind in kinds.items() if kind]
    if not path.exists():
        raise BadInput(f"{path}: no such file or directory")
    if not files:
        raise BadInput(f"{path}: unknown ending; valid: .jsonl, .json, .parquet, also .gz or .zst, or a folder")
    from datasets import load_dataset

    for file in files:
        try:
            stream = load_dataset(str(kinds[file]), data_files=str(file), split="train", streaming=True)
            for number, row in enumerate(stream, start=1):
                value = get_value(row, column, f"{file}: document {number}")
                if not isinstance(value, str):
                    raise BadInput(f"{file}: document {number}: {column} is {value!r}; a text is expected")
                yield value
        except BadInput:
            raise
        except Exception as error:  # datasets raises a dozen kinds for what is no JSON, no parquet, or cut off
            raise BadInput(f"{file}: cannot be read: {type(error).__name__}: {first_line(error)}") from error


def shorten(value: Any) -> str:
    """A value in a message: as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def read_whole_lines(path: Path) -> bytes:
    """What is written in a file of lines, without a last line that a crash cut off; nothing where there is no file."""
    written = path.read_bytes() if path.exists() else b""
    return written[: written.rfind(b"\n") + 1]


def first_line(error: BaseException) -> str:
    """An error's message without what follows."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
