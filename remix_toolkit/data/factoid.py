"""Factoid tasks in upstream's formats, local or from the hub: rows, and what makes a fact of a row.

Each task has a reader of rows and a function from a row to a Pair. The response that is trained on is the first of the
gold answers; recall accepts any of them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remix_toolkit.data import files
from remix_toolkit.data.files import UnusableRow, clean_texts, get_text, get_value, parse_texts
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe.schema import LAMA, EntityQuestions, Pairs, WebQA
from remix_toolkit.recipe.yaml_file import read_text

Row = tuple[str, dict[str, Any]]  # the place that an error names, and the columns


def qa(question: str) -> str:
    """The prompt of the question-answering tasks."""
    return f"{question}\nThe answer is:"


def unique(answers: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answer for answer in answers if answer))


# --- PopQA -------------------------------------------------------------------------------------------------------

POPQA_COLUMNS = ("subj", "obj", "question", "possible_answers")


def popqa_rows(path: Path) -> Iterator[Row]:
    rows = files.read_csv(path, "\t")
    next(rows)
    return rows


def popqa(row: dict[str, Any], place: str) -> Pair:
    """Trains on `obj`; the other possible answers count too."""
    possible = parse_texts(get_value(row, "possible_answers", place), place, "possible_answers")
    answer = get_text(row, "obj", place)
    return Pair(
        qa(get_text(row, "question", place)), answer, "popqa", unique([answer, *possible]), get_text(row, "subj", place)
    )


# --- TriviaQA ----------------------------------------------------------------------------------------------------

TRIVIAQA_COLUMNS = ("question", "answer")


def triviaqa_rows(path: Path) -> Iterator[Row]:
    """The official JSON: one object whose Data is the array of questions."""
    try:
        whole = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not valid JSON: {error}") from None
    data = whole.get("Data") if isinstance(whole, dict) else None
    if not isinstance(data, list):
        raise BadInput(f"{path}: TriviaQA's file is a JSON object whose Data is an array; this is none")
    for number, row in enumerate(data, start=1):
        place = f"{path}: row {number}"
        if not isinstance(row, dict):
            raise BadInput(f"{place}: is {str(row)[:100]!r}; an object with Question and Answer is expected")
        answer = get_value(row, "Answer", place)
        if not isinstance(answer, dict):
            raise BadInput(f"{place}: Answer is {str(answer)[:100]!r}; an object with Value and Aliases is expected")
        yield (
            place,
            {"question": get_value(row, "Question", place), "answer": {_snake(k): v for k, v in answer.items()}},
        )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def triviaqa(row: dict[str, Any], place: str) -> Pair:
    """Trains on the answer's value; its aliases count too, as they are and as upstream normalizes them."""
    answer = get_value(row, "answer", place)
    if not isinstance(answer, dict):
        raise BadInput(f"{place}: answer is {str(answer)[:100]!r}; an object with value and aliases is expected")
    value = get_text(answer, "value", f"{place}, answer")
    spellings = [value]
    for column in ("aliases", "normalized_aliases"):
        spellings += clean_texts(answer.get(column) or [], place, f"answer.{column}")
    if isinstance(answer.get("normalized_value"), str):
        spellings.append(answer["normalized_value"].strip())
    question = get_text(row, "question", place)
    return Pair(qa(question), value, "triviaqa", unique(spellings), question)


# --- LAMA --------------------------------------------------------------------------------------------------------


def lama_rows(task: LAMA) -> Iterator[Row]:
    """Relations in the order of the relations file, rows in each file's order; each with its relation's template."""
    root = Path(task.path)
    if not root.is_dir():
        raise BadInput(f"{root}: no such directory; lama wants LAMA's unpacked folder")
    relations = next((f for f in (root / "relations.jsonl", root / "LAMA_relations.jsonl") if f.exists()), None)
    if relations is None:
        raise BadInput(f"{root}: holds no relations.jsonl (or LAMA_relations.jsonl)")
    by_relation = {file.stem: file for file in sorted(root.glob("*/P*.jsonl"))}
    for place, relation in files.read_jsonl(relations):
        name, template = (files.check_text(relation.get(column), place, column) for column in ("relation", "template"))
        if name not in by_relation:
            continue  # LAMA's relations.jsonl also names relations of other corpora, and a user may take a subset
        if "[X]" not in template or "[Y]" not in template:
            raise BadInput(f"{place}: template {template!r} lacks [X] or [Y]")
        for row_place, row in files.read_jsonl(by_relation[name]):
            yield row_place, {**row, "template": template}


def lama(row: dict[str, Any], place: str) -> Pair:
    """The template up to its object, the subject filled in."""
    template = row["template"]
    subject, answer = get_text(row, "sub_label", place), get_text(row, "obj_label", place)
    if template.index("[Y]") < template.index("[X]"):
        raise UnusableRow("the template puts the object before the subject")
    prompt = template[: template.index("[Y]")].replace("[X]", subject).strip()
    return Pair(prompt, answer, "lama", (answer,), subject)


# --- EntityQuestions ---------------------------------------------------------------------------------------------


def entityquestions_rows(task: EntityQuestions) -> Iterator[Row]:
    """Relations in the order of their files' names, rows in each file's order; with the question's template, if known.

    The folder may be the one that holds train/, dev/ and test/, or the zip's, where they are under dataset/.
    """
    root = Path(task.path)
    if not root.is_dir():
        raise BadInput(f"{root}: is a file; entityquestions wants the unpacked folder, with train/, dev/ and test/")
    splits = {f.name: f for f in (*root.glob("dataset/*"), *root.glob("*")) if f.is_dir()}
    if task.split not in splits:
        raise BadInput(f"{root}: no split {task.split!r}; {nearest(task.split, splits)}")
    found = sorted(splits[task.split].glob("P*.json"))
    if not found:
        raise BadInput(f"{splits[task.split]}: holds no P*.{task.split}.json")
    templates: dict[str, Any] = {}
    for file in root.rglob("relation_query_templates.json"):
        templates = files.read_json_object(file)
    for file in found:
        for place, row in files.read_json_array(file):
            yield place, {**row, "template": templates.get(file.name.split(".")[0], "")}


def entityquestions(row: dict[str, Any], place: str) -> Pair:
    """Trains on the first answer. The subject is what the relation's template leaves of the question."""
    question = get_text(row, "question", place)
    answers = unique(clean_texts(get_value(row, "answers", place), place, "answers"))
    if not answers:
        raise UnusableRow("no answer")
    before, _, after = str(row["template"]).partition("[X]")
    known = row["template"] and question.startswith(before) and question.endswith(after)
    subject = question[len(before) : len(question) - len(after)] if known else question
    return Pair(qa(question), answers[0], "entityquestions", answers, subject)


# --- WebQuestions ------------------------------------------------------------------------------------------------

WEBQA_COLUMNS = ("question", "answers")
WEBQA_FILES = {"train": ("trainmodel.json", "val.json", "devtest.json"), "test": ("test.json",)}  # 3,778 and 2,032 rows


def webqa_rows(task: WebQA) -> Iterator[Row]:
    """A file, or the folder with upstream's files: the train split is three of them, in the order of their numbers."""
    root = Path(str(task.path))
    if root.is_dir() and task.split not in WEBQA_FILES:
        raise BadInput(f"{root}: no split {task.split!r}; {nearest(task.split, WEBQA_FILES)}")
    found = [root / name for name in WEBQA_FILES[task.split]] if root.is_dir() else [root]
    rows = [placed for file in found for placed in files.read_json_array(file)]
    if len(found) > 1:  # as the whole is on the hub
        rows.sort(key=lambda placed: str(get_value(placed[1], "qId", placed[0])))
    for place, row in rows:
        yield place, {**row, "question": get_value(row, "qText", place)} if "question" not in row else row


def webqa(row: dict[str, Any], place: str) -> Pair:
    """Trains on the first answer; any counts."""
    answers = unique(clean_texts(get_value(row, "answers", place), place, "answers"))
    if not answers:
        raise UnusableRow("no answer")
    question = get_text(row, "question", place)
    return Pair(qa(question), answers[0], "webqa", answers, question)


# --- your own ----------------------------------------------------------------------------------------------------


def own_rows(task: Pairs) -> Iterator[Row]:
    path = Path(str(task.path))
    if path.is_dir():
        yield from files.read_dataset_folder(path, task.split)
        return
    match path.suffix.lower():
        case ".csv" | ".tsv":
            rows = files.read_csv(path, "," if path.suffix.lower() == ".csv" else "\t")
            next(rows)
            yield from rows
        case ".jsonl":
            yield from files.read_jsonl(path)
        case ".json":
            yield from files.read_json_array(path)
        case suffix:
            raise BadInput(f"{path}: unknown ending {suffix!r}; valid: .csv, .tsv, .jsonl, .json, or a folder")


def own_pair(task: Pairs, row: dict[str, Any], place: str) -> Pair:
    """What is wrong in the user's own row is said, never left out."""
    for column in (task.prompt_column, task.response_column):
        if column not in row:
            raise BadInput(f"{place}: no column {column!r}; {nearest(column, map(str, row))}")
    prompt, response = (
        files.check_text(row[column], place, column) for column in (task.prompt_column, task.response_column)
    )
    return Pair(prompt, response, "pairs", (response,))
