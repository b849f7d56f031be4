"""Factoid tasks in upstream's formats: a reader of its files for each, and a function that makes a fact of a row.

The response that is trained on is the first of the gold answers; recall accepts any of them.
"""

import re
from pathlib import Path

from remix_toolkit.data import files
from remix_toolkit.data.files import LocatedRows, Row, UnusableRow, clean_texts, get_text, get_value, parse_texts
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe.schema import LAMA, EntityQuestions, Pairs, PopQA, TriviaQA, WebQA


def question_prompt(question: str) -> str:
    """The paper's prompt for the question-answering tasks."""
    return f"{question}\nThe answer is:"


def distinct(answers: list[str]) -> tuple[str, ...]:
    """The non-empty answers in order, each once."""
    return tuple(dict.fromkeys(answer for answer in answers if answer))


# --- PopQA -------------------------------------------------------------------------------------------------------


def read_popqa(task: PopQA) -> LocatedRows:
    """popQA.tsv."""
    return files.read_csv(Path(str(task.path)), "\t")


def popqa(row: Row) -> Pair:
    """Trains on `obj`; recall accepts the other possible answers too."""
    possible = parse_texts(get_value(row, "possible_answers"), "possible_answers")
    answer, question = get_text(row, "obj"), get_text(row, "question")
    return Pair(question_prompt(question), answer, "popqa", distinct([answer, *possible]), get_text(row, "subj"))


# --- TriviaQA ----------------------------------------------------------------------------------------------------


def read_triviaqa(task: TriviaQA) -> LocatedRows:
    """The official JSON, an object whose Data is the array of questions; its keys are written as the hub's are."""
    path = Path(str(task.path))
    content = files.read_json(path)
    rows = content.get("Data") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise BadInput(f"{path}: is not TriviaQA's file, a JSON object whose Data is an array")
    for number, row in enumerate(rows, start=1):
        where = f"{path}: row {number}"
        with files.located(where):
            if not isinstance(row, dict):
                raise BadInput(f"is {files.shorten(row)}; an object with Question and Answer is expected")
            question, answer = get_value(row, "Question"), get_value(row, "Answer")
            if not isinstance(answer, dict):
                raise BadInput(f"Answer is {files.shorten(answer)}; an object with Value and Aliases is expected")
        snake_case = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower(): value for key, value in answer.items()}
        yield where, {"question": question, "answer": snake_case}


def triviaqa(row: Row) -> Pair:
    """Trains on the answer's value; recall accepts its aliases too, as they are and as upstream normalizes them."""
    answer = get_value(row, "answer")
    if not isinstance(answer, dict):
        raise BadInput(f"answer is {files.shorten(answer)}; an object with value and aliases is expected")
    with files.located("answer"):
        value = get_text(answer, "value")
        spellings = [value]
        for column in ("aliases", "normalized_aliases"):
            spellings += clean_texts(answer.get(column) or [], column)
    if isinstance(answer.get("normalized_value"), str):
        spellings.append(answer["normalized_value"].strip())
    question = get_text(row, "question")
    return Pair(question_prompt(question), value, "triviaqa", distinct(spellings), question)


# --- LAMA --------------------------------------------------------------------------------------------------------


def read_lama(task: LAMA) -> LocatedRows:
    """Relations in the order of the relations file, rows in each file's order, each with its relation's template."""
    root = Path(str(task.path))
    if not root.is_dir():
        raise BadInput(f"{root}: is not a directory; lama needs LAMA's unpacked folder")
    relations = next((f for f in (root / "relations.jsonl", root / "LAMA_relations.jsonl") if f.exists()), None)
    if relations is None:
        raise BadInput(f"{root}: has no relations.jsonl (or LAMA_relations.jsonl)")
    files_by_relation = {file.stem: file for file in sorted(root.glob("*/P*.jsonl"))}
    for where, relation in files.read_jsonl(relations):
        with files.located(where):
            name, template = (files.check_text(relation.get(key), key) for key in ("relation", "template"))
            if name not in files_by_relation:
                continue  # relations of LAMA's other corpora are listed there too, and a user may keep only some files
            if "[X]" not in template or "[Y]" not in template:
                raise BadInput(f"template {template!r} lacks [X] or [Y]")
        for row_where, row in files.read_jsonl(files_by_relation[name]):
            yield row_where, {**row, "template": template}


def lama(row: Row) -> Pair:
    """The prompt is the template up to its object, with the subject filled in."""
    template = row["template"]
    subject, answer = get_text(row, "sub_label"), get_text(row, "obj_label")
    if template.index("[Y]") < template.index("[X]"):
        raise UnusableRow("the template puts the object before the subject")
    prompt = template[: template.index("[Y]")].replace("[X]", subject).strip()
    return Pair(prompt, answer, "lama", (answer,), subject)


# --- EntityQuestions and WebQuestions ----------------------------------------------------------------------------


def read_entityquestions(task: EntityQuestions) -> LocatedRows:
    """Relations in the order of their files' names, rows in each file's order, with the question's template if known.

    The folder may be the one that has train/, dev/ and test/, or the unpacked zip, which has them under dataset/.
    """
    root = Path(str(task.path))
    if not root.is_dir():
        raise BadInput(f"{root}: is a file; entityquestions needs the unpacked folder, with train/, dev/ and test/")
    splits = {folder.name: folder for folder in (*root.glob("dataset/*"), *root.glob("*")) if folder.is_dir()}
    if task.split not in splits:
        raise BadInput(f"{root}: no split {task.split!r}; {nearest(task.split, splits)}")
    relations = sorted(splits[task.split].glob("P*.json"))
    if not relations:
        raise BadInput(f"{splits[task.split]}: has no P*.{task.split}.json")
    templates: Row = {}
    for file in root.rglob("relation_query_templates.json"):
        templates = files.check_object(files.read_json(file), str(file))
    for file in relations:
        for where, row in files.read_json_array(file):
            yield where, {**row, "template": templates.get(file.name.split(".")[0], "")}


def entityquestions(row: Row) -> Pair:
    """Trains on the first answer. The subject is what the relation's template leaves of the question."""
    question, answers = get_text(row, "question"), _answers(row)
    before, _, after = str(row["template"]).partition("[X]")
    fits = row["template"] and question.startswith(before) and question.endswith(after)
    subject = question[len(before) : len(question) - len(after)] if fits else question
    return Pair(question_prompt(question), answers[0], "entityquestions", answers, subject)


WEBQA_FILES = {"train": ("trainmodel.json", "val.json", "devtest.json"), "test": ("test.json",)}  # 3,778 and 2,032 rows


def read_webqa(task: WebQA) -> LocatedRows:
    """A file, or the folder with upstream's files; those of the train split are merged in the order of their ids."""
    root = Path(str(task.path))
    if not root.is_dir():
        return files.read_json_array(root)
    if task.split not in WEBQA_FILES:
        raise BadInput(f"{root}: no split {task.split!r}; {nearest(task.split, WEBQA_FILES)}")
    rows = [row for name in WEBQA_FILES[task.split] for row in files.read_json_array(root / name)]
    if task.split == "train":  # the order of the hub's copy
        with files.located(str(root)):
            rows.sort(key=lambda row: str(get_value(row[1], "qId")))
    return iter(rows)


def webqa(row: Row) -> Pair:
    """Trains on the first answer; recall accepts any."""
    row = row if "question" in row else {**row, "question": get_value(row, "qText")}  # as the hub calls it
    answers, question = _answers(row), get_text(row, "question")
    return Pair(question_prompt(question), answers[0], "webqa", answers, question)


def _answers(row: Row) -> tuple[str, ...]:
    answers = distinct(clean_texts(get_value(row, "answers"), "answers"))
    if not answers:
        raise UnusableRow("no answer")
    return answers


# --- the user's own ----------------------------------------------------------------------------------------------


def read_pairs(task: Pairs) -> LocatedRows:
    """A file of the user's own, by its ending, or a folder that `datasets` saved."""
    path = Path(str(task.path))
    if path.is_dir():
        return files.read_dataset_folder(path, task.split)
    match path.suffix.lower():
        case ".csv":
            return files.read_csv(path, ",")
        case ".tsv":
            return files.read_csv(path, "\t")
        case ".jsonl":
            return files.read_jsonl(path)
        case ".json":
            return files.read_json_array(path)
        case suffix:
            raise BadInput(f"{path}: unknown ending {suffix!r}; valid: .csv, .tsv, .jsonl, .json, or a folder")


def pairs(row: Row, prompt_column: str = "prompt", response_column: str = "response") -> Pair:
    """A fact of the user's own: whatever is wrong with the row is an error, nothing is left out."""
    for column in (prompt_column, response_column):
        if column not in row:
            raise BadInput(f"no column {column!r}; {nearest(column, map(str, row))}")
    prompt, response = (files.check_text(row[column], column) for column in (prompt_column, response_column))
    return Pair(prompt, response, "pairs", (response,))
