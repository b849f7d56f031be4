"""Instruction tasks in upstream's formats: a reader of its files for each, and a function that makes a pair of a row.

What is left out follows the choices of the paper's authors.
"""

from pathlib import Path

from remix_toolkit.data import files
from remix_toolkit.data.files import LocatedRows, Row, UnusableRow, get_text, get_value, parse_texts, without_control
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import APPS, GSM8K, MATH, EvolCode, UltraChat

APPS_LEVELS = {"introductory", "interview"}  # the authors leave out the third, competition


def read_lines(task: GSM8K | APPS | UltraChat) -> LocatedRows:
    """A .jsonl file with the hub's columns; of UltraChat, its first dialogues."""
    return files.read_jsonl(Path(str(task.path)), task.first if isinstance(task, UltraChat) else None)


def gsm8k(row: Row) -> Pair:
    """The response is the worked-out answer, with its result after `####` on the last line."""
    answer = get_text(row, "answer")
    if "####" not in answer:
        raise UnusableRow("no result after ####")
    return Pair(get_text(row, "question"), answer, "gsm8k")


def read_math(task: MATH) -> LocatedRows:
    """A .jsonl or .json of rows, or the MATH folder: a file per problem, in the order of types, then of numbers."""
    root = Path(str(task.path))
    if not root.is_dir():
        yield from (files.read_jsonl(root) if root.suffix.lower() == ".jsonl" else files.read_json_array(root))
        return
    problems = list((root / task.split).glob("*/*.json"))
    if not problems:
        raise BadInput(f"{root}: has no {task.split}/<type>/<n>.json")
    for file in sorted(problems, key=lambda f: (f.parent.name, int(f.stem) if f.stem.isdecimal() else 0, f.stem)):
        yield str(file), files.check_object(files.read_json(file), str(file))


def math(row: Row) -> Pair:
    """A problem and its worked-out solution."""
    return Pair(get_text(row, "problem"), get_text(row, "solution"), "math")


def read_evolcode(task: EvolCode) -> LocatedRows:
    """A JSON array, or all those of a folder in the order of their names."""
    path = Path(str(task.path))
    arrays = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not arrays:
        raise BadInput(f"{path}: has no .json file")
    for file in arrays:
        yield from files.read_json_array(file)


def evolcode(row: Row) -> Pair:
    """A programming instruction and its answer."""
    return Pair(get_text(row, "instruction"), get_text(row, "output"), "evolcode")


def apps(row: Row) -> Pair:
    """Introductory and interview problems, each with its first solution."""
    if (level := get_text(row, "difficulty")) not in APPS_LEVELS:
        raise UnusableRow(f"difficulty {level}")
    value = get_value(row, "solutions")
    solutions = parse_texts(value, "solutions") if value not in ("", None) else []
    if not solutions:
        raise UnusableRow("no solution")
    return Pair(get_text(row, "question"), solutions[0], "apps")


def ultrachat(row: Row) -> Pair:
    """A dialogue whose turns alternate between user and assistant; a last user turn without an answer is left out."""
    turns = get_value(row, "data")
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise BadInput(f"data is {files.shorten(turns)}; a list of texts, user and assistant in turn, is expected")
    turns = turns[: len(turns) // 2 * 2]
    if not turns:
        raise UnusableRow("no answered turn")
    if not all(turn.strip() for turn in turns):
        raise UnusableRow("an empty turn")
    turns = [without_control(turn.strip(), "data") for turn in turns]
    *earlier, (prompt, response) = list(zip(turns[::2], turns[1::2], strict=True))
    return Pair(prompt, response, "ultrachat", history=tuple(earlier))
