"""Instruction tasks in upstream's formats, with the authors' choices: rows, and what makes a pair of a row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remix_toolkit.data import files
from remix_toolkit.data.files import UnusableRow, get_text, get_value, parse_texts
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import MATH

Row = tuple[str, dict[str, Any]]

GSM8K_COLUMNS = ("question", "answer")
MATH_COLUMNS = ("problem", "solution")
EVOLCODE_COLUMNS = ("instruction", "output")
APPS_COLUMNS = ("question", "solutions", "difficulty")
ULTRACHAT_COLUMNS = ("data",)

APPS_LEVELS = {"introductory", "interview"}  # the authors leave out the third, competition


def gsm8k(row: dict[str, Any], place: str) -> Pair:
    """The worked-out answer, its result after `####` on the last line."""
    answer = get_text(row, "answer", place)
    if "####" not in answer:
        raise UnusableRow("no result after ####")
    return Pair(get_text(row, "question", place), answer, "gsm8k")


def math_rows(task: MATH) -> Iterator[Row]:
    """A .jsonl or .json of rows, or the MATH folder: one file per problem, in the order of types, then of numbers."""
    root = Path(str(task.path))
    if not root.is_dir():
        yield from (files.read_jsonl(root) if root.suffix.lower() == ".jsonl" else files.read_json_array(root))
        return
    found = list((root / task.split).glob("*/*.json"))
    if not found:
        raise BadInput(f"{root}: holds no {task.split}/<type>/<n>.json")
    for file in sorted(found, key=lambda f: (f.parent.name, int(f.stem) if f.stem.isdecimal() else 0, f.stem)):
        yield str(file), files.read_json_object(file)


def math(row: dict[str, Any], place: str) -> Pair:
    return Pair(get_text(row, "problem", place), get_text(row, "solution", place), "math")


def evolcode_rows(path: Path) -> Iterator[Row]:
    """A JSON array, or all of a folder in the order of their names."""
    found = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not found:
        raise BadInput(f"{path}: holds no .json file")
    for file in found:
        yield from files.read_json_array(file)


def evolcode(row: dict[str, Any], place: str) -> Pair:
    return Pair(get_text(row, "instruction", place), get_text(row, "output", place), "evolcode")


def apps(row: dict[str, Any], place: str) -> Pair:
    """Introductory and interview problems, each with its first solution."""
    if (level := get_text(row, "difficulty", place)) not in APPS_LEVELS:
        raise UnusableRow(f"difficulty {level}")
    written = get_value(row, "solutions", place)
    solutions = parse_texts(written, place, "solutions") if written not in ("", None) else []
    if not solutions:
        raise UnusableRow("no solution")
    return Pair(get_text(row, "question", place), solutions[0], "apps")


def ultrachat(row: dict[str, Any], place: str) -> Pair:
    """A dialogue of user and assistant in turn; a last turn of the user, which nobody answers, is left out."""
    turns = get_value(row, "data", place)
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise BadInput(f"{place}: data is {str(turns)[:100]!r}; a list of texts, user and assistant in turn, is meant")
    turns = [turn.replace("\r\n", "\n").strip() for turn in turns]
    turns = turns[: len(turns) // 2 * 2]
    if not turns:
        raise UnusableRow("no answered turn")
    if not all(turns):
        raise UnusableRow("an empty turn")
    if any(files.CONTROL.search(turn) for turn in turns):
        raise UnusableRow("control characters in data")
    *earlier, (prompt, response) = list(zip(turns[::2], turns[1::2], strict=True))
    return Pair(prompt, response, "ultrachat", history=tuple(earlier))
