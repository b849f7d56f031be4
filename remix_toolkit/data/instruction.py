"""Instruction tasks in upstream's formats: what makes a pair of a row and, where the files are peculiar, their reader.

What is left out follows the choices of the paper's authors.
"""

from collections.abc import Iterator
from pathlib import Path

from remix_toolkit.data import files
from remix_toolkit.data.files import Row, UnusableRow, clean_text, usable_texts
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput

APPS_LEVELS = {"introductory", "interview"}  # the authors leave out the third, competition


def gsm8k(row: Row) -> Pair:
    """The response is the worked-out answer, with its result after `####` on the last line."""
    answer = row.text("answer")
    if "####" not in answer:
        raise UnusableRow("no result after ####")
    return Pair(row.text("question"), answer, "gsm8k")


def read_math(path: Path, split: str) -> Iterator[Row]:
    """A file of rows, or the MATH folder: a file per problem, in the order of types, then of numbers."""
    if not path.is_dir():
        return files.read_rows(path, split)
    problems = list((path / split).glob("*/*.json"))
    if not problems:
        raise BadInput(f"{path}: has no {split}/<type>/<n>.json")
    problems.sort(key=lambda file: (file.parent.name, int(file.stem) if file.stem.isdecimal() else 0, file.stem))
    return (Row(str(file), files.read_json(file)) for file in problems)


def math(row: Row) -> Pair:
    """A problem and its worked-out solution."""
    return Pair(row.text("problem"), row.text("solution"), "math")


def read_evolcode(path: Path, split: str) -> Iterator[Row]:
    """A file of rows, or all JSON arrays of a folder in the order of their names."""
    if not path.is_dir():
        return files.read_rows(path, split)
    arrays = sorted(path.glob("*.json"))
    if not arrays:
        raise BadInput(f"{path}: has no .json file")
    return (row for file in arrays for row in files.read_json_array(file))


def evolcode(row: Row) -> Pair:
    """A programming instruction and its answer."""
    return Pair(row.text("instruction"), row.text("output"), "evolcode")


def apps(row: Row) -> Pair:
    """Introductory and interview problems, each with its first solution."""
    if (level := row.text("difficulty")) not in APPS_LEVELS:
        raise UnusableRow(f"difficulty {level}")
    solutions = usable_texts(row.texts("solutions")) if row.value("solutions", object) else ()
    if not solutions:
        raise UnusableRow("no solution")
    return Pair(row.text("question"), solutions[0], "apps")


def ultrachat(row: Row) -> Pair:
    """A dialogue whose turns alternate between user and assistant; a last user turn without an answer is left out."""
    texts = row.texts("data")
    turns = [clean_text(text.strip(), "turn") for text in texts[: len(texts) // 2 * 2]]
    if not turns:
        raise UnusableRow("no answered turn")
    *earlier, (prompt, response) = zip(turns[::2], turns[1::2], strict=True)
    return Pair(prompt, response, "ultrachat", history=tuple(earlier))
