"""Factoid tasks in upstream's formats: what makes a fact of a row and, where the files are peculiar, their reader.

The response that is trained on is the first of the gold answers; recall accepts any of them.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from remix_toolkit.data.files import Row, UnusableRow, read_json, read_json_array, read_jsonl, read_rows, usable_texts
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput, nearest

ANSWER_IS = "\nThe answer is:"
WEBQA_FILES = {"train": ("trainmodel.json", "val.json", "devtest.json"), "test": ("test.json",)}  # 3,778 and 2,032 rows


def question_prompt(question: str) -> str:
    """The paper's prompt for the question-answering tasks."""
    return question + ANSWER_IS


def capitals(row: Row) -> Pair:
    """A capital of a country; recall accepts its other spellings, and the other capitals of a country with several."""
    country, capital = row.text("country"), row.text("capital")
    answers = usable_texts([capital, *row.value("aliases", str).split("|")])
    return Pair(question_prompt(f"What is the capital of {country}?"), capital, "capitals", answers, country)


def popqa(row: Row) -> Pair:
    """Trains on `obj`; recall accepts the other possible answers too."""
    possible = row.texts("possible_answers")
    answer, question = row.text("obj"), row.text("question")
    return Pair(question_prompt(question), answer, "popqa", usable_texts([answer, *possible]), row.text("subj"))


def read_triviaqa(path: Path, split: str) -> Iterator[Row]:
    """The official JSON, an object whose Data is the array of questions."""
    for number, row in enumerate(Row(str(path), read_json(path)).value("Data", list), start=1):
        yield Row(f"{path}: row {number}", row)


def triviaqa(row: Row) -> Pair:
    """Trains on the answer's value; recall accepts its aliases too, as they are and as upstream normalizes them."""
    row = _snake_case(row)
    answer = _snake_case(Row(f"{row.place}: answer", row.value("answer", object)))
    spellings = [answer.text("value")]
    for column in ("aliases", "normalized_aliases"):
        spellings += answer.texts(column) if answer.get(column) else []
    if isinstance(normalized := answer.get("normalized_value"), str):
        spellings.append(normalized)
    question = row.text("question")
    return Pair(question_prompt(question), spellings[0], "triviaqa", usable_texts(spellings), question)


def _snake_case(row: Row) -> Row:
    """The row with its keys as the hub has them: `normalized_aliases` for the official JSON's `NormalizedAliases`."""
    return Row(row.place, {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower(): value for key, value in row.items()})


def read_lama(path: Path, split: str) -> Iterator[Row]:
    """Relations in the order of the relations file, rows in each file's order, each with its relation's template."""
    renamed = path / "LAMA_relations.jsonl"
    files_by_relation = {file.stem: file for file in sorted(path.glob("*/P*.jsonl"))}
    for relation in read_jsonl(renamed if renamed.exists() else path / "relations.jsonl"):
        # Relations of LAMA's other corpora are listed there too, and a user may keep only some files.
        if file := files_by_relation.get(relation.value("relation", str)):
            for row in read_jsonl(file):
                yield Row(row.place, {**row, "template": relation.value("template", str)})


def lama(row: Row) -> Pair:
    """The prompt is the template up to its object, with the subject filled in."""
    template = row["template"]
    before, marker, _ = template.partition("[Y]")
    if not marker or "[X]" not in template:
        raise BadInput(f"{row.place}: its relation's template {template!r} lacks [X] or [Y]")
    subject, answer = row.text("sub_label"), row.text("obj_label")
    if "[X]" not in before:
        raise UnusableRow("the template puts the object before the subject")
    return Pair(before.replace("[X]", subject).strip(), answer, "lama", (answer,), subject)


def read_entityquestions(path: Path, split: str) -> Iterator[Row]:
    """Relations in the order of their files' names, rows in each file's order, with the question's template if known.

    The folder may be the one that has train/, dev/ and test/, or the unpacked zip, which has them under dataset/.
    """
    splits = {folder.name: folder for folder in (*path.glob("dataset/*"), *path.glob("*")) if folder.is_dir()}
    if split not in splits:
        raise BadInput(f"{path}: has no folder {split!r}; {nearest(split, splits)}")
    relations = sorted(splits[split].glob("P*.json"))
    if not relations:
        raise BadInput(f"{splits[split]}: has no P*.{split}.json")
    templates: dict[str, str] = {}
    for file in path.rglob("relation_query_templates.json"):
        templates = Row(str(file), read_json(file))
    for file in relations:
        for row in read_json_array(file):
            yield Row(row.place, {**row, "template": templates.get(file.name.split(".")[0], "")})


def entityquestions(row: Row) -> Pair:
    """Trains on the first answer. The subject is what the relation's template leaves of the question."""
    question, answers = row.text("question"), _answers(row)
    before, _, after = str(row["template"]).partition("[X]")
    fits = row["template"] and question.startswith(before) and question.endswith(after)
    subject = question[len(before) : len(question) - len(after)] if fits else question
    return Pair(question_prompt(question), answers[0], "entityquestions", answers, subject)


def read_webqa(path: Path, split: str) -> Iterator[Row]:
    """A file, or the folder with upstream's files; those of the train split are merged in the order of their ids."""
    if not path.is_dir():
        return read_rows(path, split)
    if split not in WEBQA_FILES:
        raise BadInput(f"{path}: no split {split!r}; {nearest(split, WEBQA_FILES)}")
    rows = [row for name in WEBQA_FILES[split] for row in read_json_array(path / name)]
    if split == "train":  # the order of the hub's copy
        rows.sort(key=lambda row: row.value("qId", str))
    return iter(rows)


def webqa(row: Row) -> Pair:
    """Trains on the first answer; recall accepts any."""
    if "qText" in row:
        row["question"] = row["qText"]  # as the hub calls it
    question, answers = row.text("question"), _answers(row)
    return Pair(question_prompt(question), answers[0], "webqa", answers, question)


def _answers(row: Row) -> tuple[str, ...]:
    answers = usable_texts(row.texts("answers"))
    if not answers:
        raise UnusableRow("no answer")
    return answers


def pairs(row: Row, prompt_column: str = "prompt", response_column: str = "response") -> Pair:
    """A fact of the user's own: whatever is wrong with the row is an error, nothing is left out."""
    try:
        prompt, response = row.text(prompt_column), row.text(response_column)
    except UnusableRow as reason:
        raise BadInput(f"{row.place}: {reason}; correct the row, or delete it") from None
    return Pair(prompt, response, "pairs", (response,))
