"""Local files as rows. A row knows its place (`facts.csv: row 3 (line 3)`): every message about it begins with that."""

import csv
import hashlib
import io
import json
import math
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe.yaml_file import open_text, read_text

T = TypeVar("T")

KINDS: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}  # as messages name them
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # all but tab and line feed; lone surrogates as well
CORPUS_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}

TICK = 10**9  # nanoseconds: a file as young as that may change once more without a change of its date
_checksums: dict[tuple[int, int, int, int], str] = {}


class UnusableRow(Exception):
    """A row that cannot be used through no fault of the user: it is left out and counted by this reason."""


class Row(dict[str, Any]):
    """One row of a file or dataset: its values by column."""

    def __init__(self, place: str, values: object) -> None:
        if not isinstance(values, dict):
            raise BadInput(f"{place}: is {values!r:.200}; an object with the row's columns is expected")
        super().__init__(values)
        self.place = place

    def value(self, column: str, kind: type[T]) -> T:
        """The value of a column. Raises BadInput where there is none, or one of another kind."""
        if column not in self:
            raise BadInput(f"{self.place}: no column {column!r}; {nearest(column, map(str, self))}")
        value = self[column]
        if not isinstance(value, kind):
            raise BadInput(f"{self.place}: {column} is {value!r:.200}; {KINDS[kind]} is expected")
        return value

    def text(self, column: str) -> str:
        """A text, or a number as text; with Unix line ends, stripped. Raises BadInput for anything else.

        Raises UnusableRow where it is empty or holds control characters.
        """
        value = self.get(column)
        if type(value) is int or (type(value) is float and math.isfinite(value)):
            return str(value)
        return clean_text(self.value(column, str), column)

    def texts(self, column: str) -> list[str]:
        """A list of texts as it is, or written as JSON, as in PopQA and APPS. Raises BadInput for anything else."""
        values = self.value(column, object)
        if isinstance(values, str) and values.lstrip().startswith("["):
            values = parse_json(values, f"{self.place}: {column}")
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise BadInput(f"{self.place}: {column} is {self[column]!r:.200}; a list of texts is expected")
        return values


def clean_text(text: str, column: str) -> str:
    """The text with Unix line ends, stripped. Raises UnusableRow if it is empty or holds control characters."""
    text = text.replace("\r\n", "\n")
    if not text.strip():
        raise UnusableRow(f"empty {column}")
    if CONTROL.search(text):
        raise UnusableRow(f"control characters in {column}")
    return text.strip()


def usable_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts that are neither empty nor hold control characters, cleaned, each once."""
    cleaned = [text.replace("\r\n", "\n") for text in texts]
    return tuple(dict.fromkeys(text.strip() for text in cleaned if text.strip() and not CONTROL.search(text)))


# --- files -------------------------------------------------------------------------------------------------------


def read_rows(path: Path, split: str) -> Iterator[Row]:
    """The rows of a file, by its ending, or of a folder that `datasets` saved."""
    if path.is_dir():
        return read_dataset_folder(path, split)
    match path.suffix.lower():
        case ".csv":
            return read_csv(path, ",")
        case ".tsv":
            return read_csv(path, "\t")
        case ".jsonl":
            return read_jsonl(path)
        case ".json":
            return read_json_array(path)
        case suffix:
            raise BadInput(f"{path}: unknown ending {suffix!r}; valid: .csv, .tsv, .jsonl, .json, or a folder")


def read_csv(path: Path, delimiter: str) -> Iterator[Row]:
    """The rows below a header. Raises BadInput for a row that has more or fewer cells than the header."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if not header or not any(header):
            raise BadInput(f"{path}:1: is empty; a header row is expected")
        if len(header) == 1 and (other := re.search(r"[;\t|]", header[0])):
            raise BadInput(
                f"{path}:1: has one column, {header[0]!r}: its cells are separated by {other[0]!r}, where "
                f"{delimiter!r} is expected; save it with that"
            )
        if repeated := [name for name in header if header.count(name) > 1]:
            raise BadInput(f"{path}:1: the header has the column {repeated[0]!r} twice")
        for number, cells in enumerate(reader, start=2):
            place = f"{path}: row {number} (line {reader.line_num})"
            if cells and len(cells) != len(header):
                raise BadInput(f"{place}: has {len(cells)} cells; the header has {len(header)}")
            if cells:
                yield Row(place, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise BadInput(f"{path}: line {reader.line_num}: {error}") from None


def read_jsonl(path: Path) -> Iterator[Row]:
    """One object a line, read as the rows are asked for."""
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Row(f"{path}:{number}", parse_json(line.rstrip("\n"), f"{path}:{number}"))


def read_json_array(path: Path) -> Iterator[Row]:
    """The objects of a JSON array."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise BadInput(f"{path}: is a JSON {type(rows).__name__}; an array of objects is expected")
    for number, row in enumerate(rows, start=1):
        yield Row(f"{path}: row {number}", row)


def read_json(path: Path) -> Any:
    """The JSON value that is the whole file."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, place: str) -> Any:
    """Any JSON value. Raises BadInput."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{place}: not valid JSON: {error}") from None


def read_dataset_folder(path: Path, split: str) -> Iterator[Row]:
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
        yield Row(f"{path}: row {number}", row)


def read_corpus(path: Path) -> Iterator[Row]:
    """The rows of a local corpus, streamed: .jsonl, .json or .parquet (.gz and .zst too), or a folder of these."""
    from datasets import load_dataset

    formats = {
        file: CORPUS_FORMATS.get(Path(file.name.removesuffix(".gz").removesuffix(".zst")).suffix)
        for file in (sorted(path.rglob("*.*")) if path.is_dir() else [path])
    }
    if not any(formats.values()):
        raise BadInput(f"{path}: unknown ending; valid: {', '.join(CORPUS_FORMATS)} (.gz and .zst too), or a folder")
    for file, format_ in formats.items():
        if format_ is None:
            continue
        try:
            stream = load_dataset(format_, data_files=str(file), split="train", streaming=True)
            for number, row in enumerate(stream, start=1):
                yield Row(f"{file}: document {number}", row)
        except Exception as error:  # datasets raises a dozen kinds for files that are no JSON, no parquet, or cut off
            raise BadInput(f"{file}: cannot be read: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """An error's kind and message in one line, without the user's token for the hub, should it have repeated that."""
    from huggingface_hub import get_token

    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text.replace(token, "***") if (token := get_token()) else text


def sha256(file: Path) -> str:
    """The file's checksum, as `sha256sum` prints it; a file is read once, until its size or its date changes."""
    about = file.stat()
    identity = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)  # which a renamed file keeps
    if identity in _checksums:
        return _checksums[identity]
    with file.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    if time.time_ns() - about.st_mtime_ns > TICK:
        _checksums[identity] = checksum
    return checksum
