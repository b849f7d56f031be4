"""Local files as rows, and the values of a row.

A reader yields (where, row): `where` names the row in messages (`facts.csv: row 3 (line 3)`), and every BadInput that a
reader raises begins with it. The functions on a row's values do not know it: their callers put it in front.
"""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe.yaml_file import open_text, read_text

Row = dict[str, Any]
LocatedRows = Iterator[tuple[str, Row]]

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # all but tab and line feed; lone surrogates as well


class UnusableRow(Exception):
    """An upstream row that cannot be used through no fault of the user: it is left out and counted by this reason."""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put `where` in front of the BadInput raised inside."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error.__cause__


# --- the values of a row -----------------------------------------------------------------------------------------


def get_value(row: Row, column: str) -> Any:
    """A column of an upstream row. Raises BadInput, naming the columns that the row has, where it is missing."""
    if column not in row:
        raise BadInput(f"no column {column!r}, which upstream has; this row has {', '.join(map(str, row))}")
    return row[column]


def get_text(row: Row, column: str) -> str:
    """A column of an upstream row, stripped.

    Raises BadInput where the column is missing or holds no text, since the file is then not in upstream's format.
    Raises UnusableRow where it is empty or holds control characters.
    """
    value = get_value(row, column)
    if not isinstance(value, str):
        raise BadInput(f"{column} is {shorten(value)}; upstream has a text there")
    if not value.strip():
        raise UnusableRow(f"empty {column}")
    return without_control(value, column)


def without_control(text: str, column: str) -> str:
    """The text with Unix line ends, stripped. Raises UnusableRow if it holds control characters."""
    text = text.replace("\r\n", "\n")
    if CONTROL.search(text):
        raise UnusableRow(f"control characters in {column}")
    return text.strip()


def check_text(value: Any, column: str) -> str:
    """The text or number in a row of the user's own, stripped. Raises BadInput if it is empty or anything else."""
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{column} is {shorten(value)}; a non-empty text is expected")
    text: str = value.replace("\r\n", "\n")
    if match := CONTROL.search(text):
        raise BadInput(f"{column} contains the control character {match[0]!r}; only tab and line feed are allowed")
    return text.strip()


def clean_texts(values: Any, column: str) -> list[str]:
    """A list of texts, stripped, without those that are empty or hold control characters. Raises BadInput."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadInput(f"{column} is not a list of texts: {shorten(values)}")
    values = [value.replace("\r\n", "\n") for value in values]
    return [value.strip() for value in values if value.strip() and not CONTROL.search(value)]


def parse_texts(value: Any, column: str) -> list[str]:
    """The same for a list that is written as JSON in a string, as in PopQA and APPS."""
    try:
        return clean_texts(json.loads(value), column)
    except (TypeError, ValueError, RecursionError, BadInput):
        raise BadInput(f"{column} is not a JSON list of strings: {shorten(value)}") from None


def shorten(value: Any) -> str:
    """A value as a message shows it: its repr, cut after 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


# --- files -------------------------------------------------------------------------------------------------------


def read_csv(path: Path, delimiter: str) -> LocatedRows:
    """The rows below a header. Raises BadInput for a row that has more or fewer cells than the header."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if not header or not any(header):
            raise BadInput(f"{path}:1: is empty; a header row is expected")
        if repeated := [name for name in header if header.count(name) > 1]:
            raise BadInput(f"{path}:1: the header has the column {repeated[0]!r} twice")
        for number, cells in enumerate(reader, start=2):
            if not cells:
                continue
            where = f"{path}: row {number} (line {reader.line_num})"
            if len(cells) != len(header):
                raise BadInput(f"{where}: has {len(cells)} cells; the header has {len(header)}")
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise BadInput(f"{path}: line {reader.line_num}: {error}") from None


def read_jsonl(path: Path, first: int | None = None) -> LocatedRows:
    """One object a line; with `first`, only so many are read (a corpus may be larger than memory)."""
    with open_text(path) as lines:
        numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        for number, line in islice(numbered, first):
            where = f"{path}:{number}"
            yield where, check_object(parse_json(line.rstrip("\n"), where), where)


def read_json_array(path: Path) -> LocatedRows:
    """The objects of a JSON array."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise BadInput(f"{path}: is a JSON {type(rows).__name__}; an array of objects is expected")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise BadInput(f"{path}: row {number}: is {shorten(row)}; an object with the row's columns is expected")
        yield f"{path}: row {number}", row


def read_json(path: Path) -> Any:
    """The JSON value that is the whole file."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """Any JSON value. Raises BadInput, naming the line within `text` if it is not the first."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) and error.lineno > 1 else ""
        raise BadInput(f"{where}{line}: not valid JSON: {getattr(error, 'msg', error)}") from None


def check_object(value: Any, where: str) -> Row:
    """A JSON value that must be an object. Raises BadInput."""
    if not isinstance(value, dict):
        raise BadInput(f"{where}: is a JSON {type(value).__name__}; an object with the row's columns is expected")
    return value


def read_dataset_folder(path: Path, split: str) -> LocatedRows:
    """The rows of a dataset that `save_to_disk` wrote; of several splits, those of one."""
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # other folders and damaged ones fail in many ways, none of them informative
        raise BadInput(f"{path}: is a directory, but not a dataset written by save_to_disk ({error})") from error
    if isinstance(dataset, DatasetDict):
        if split not in dataset:
            raise BadInput(f"{path}: no split {split!r}; {nearest(split, map(str, dataset))}")
        dataset = dataset[split]
    for number, row in enumerate(dataset, start=1):
        yield f"{path}: row {number}", row


def read_documents(path: Path, column: str) -> Iterator[str]:
    """The texts of a local corpus, streamed: .jsonl, .json or .parquet (.gz and .zst too), or a folder of these."""
    if not path.exists():
        raise BadInput(f"{path}: no such file or directory")
    formats = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    suffixes = {file: Path(file.name.removesuffix(".gz").removesuffix(".zst")).suffix for file in files}
    files = [file for file in files if suffixes[file] in formats]
    if not files:
        raise BadInput(
            f"{path}: unknown ending; valid: .jsonl, .json, .parquet (.gz and .zst too), or a folder of them"
        )
    from datasets import load_dataset

    for file in files:
        where = str(file)
        try:
            stream = load_dataset(formats[suffixes[file]], data_files=str(file), split="train", streaming=True)
            for number, row in enumerate(stream, start=1):
                where = f"{file}: document {number}"
                text = get_value(row, column)
                if not isinstance(text, str):
                    raise BadInput(f"{column} is {shorten(text)}; a text is expected")
                yield text
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None
        except Exception as error:  # datasets raises a dozen kinds for files that are no JSON, no parquet, or cut off
            raise BadInput(f"{file}: cannot be read: {type(error).__name__}: {first_line(error)}") from error


def read_whole_lines(path: Path) -> bytes:
    """A file of lines without a last line that a crash cut off; empty if there is no file."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def sha256(file: Path) -> str:
    """The file's checksum, as `sha256sum` prints it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
