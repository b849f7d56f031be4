"""Loaders: every upstream format from a file and from the hub, what is left out and what is refused."""

import csv
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import real
from upstream import Row, jsonl, on_hub, passages, read, write

from remix_toolkit.data import hub, mixing, tasks
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.load import load_task
from remix_toolkit.recipe.schema import CORPORA, Factoid

# --- upstream's formats, two ways in -----------------------------------------------------------------------------

NUL, LONG = "a\0b", "a" * 1001
TWICE, TOO_LONG = "asks the same as an earlier row", "an answer of more than 1000 characters"
FACTS = [  # question, answers, subject
    *[("Who wrote Emma? ", ["Jane Austen", " Austen", ""], "Emma"), ("Where is A&amp;B?", [LONG[1:]], "A&amp;B")],
    *[("Who wrote Emma?", ["another"], " Emma"), (" \n", ["x"], " "), ("q1?", [" \t"], "s"), (NUL, ["x"], NUL)],
    ("q2?", [LONG], "t"),
]
INSTRUCTIONS = [("do <b> ", "x\n\ty"), ("long", LONG), ("do <b>", "z"), (" ", "z"), ("a", " "), (NUL, "z")]
ROW: dict[str, Callable[..., Row]] = {  # of one of these, in the columns of the hub, or of files for what is on no hub
    "popqa": lambda q, a, s: {"id": "1", "subj": s, "obj": a[0], "question": q, "possible_answers": json.dumps(a)},
    "triviaqa": lambda q, a, _: {"question": q, "question_id": "tc_1", "answer": spellings(a)},
    "webqa": lambda q, a, _: {"url": "http://", "question": q, "answers": a},
    "entityquestions": lambda q, a, _: {"question": q, "answers": a},
    "lama": lambda _, a, s: {"uuid": "1", "sub_label": s, "obj_label": a[0], "evidences": []},
    "gsm8k": lambda p, r: {"question": p, "answer": r.strip() and f"{r}\r\n#### 1"},
    "math": lambda p, r: {"problem": p, "level": "Level 5", "type": "Algebra", "solution": r},
    "evolcode": lambda p, r: {"instruction": p, "output": r},
    "apps": lambda p, r: {"question": p, "solutions": json.dumps([r, "2"][: len(r)]), "difficulty": "interview"},
    "ultrachat": lambda p, r: {"id": "1", "data": [p, r]},
}
MORE: dict[str, list[Row]] = {  # rows as only this task has them
    "gsm8k": [{"question": "q", "answer": "it is 1"}, {"question": "q", "answer": "\x1b #### 1"}],
    "apps": [{"question": "q", "difficulty": d, "solutions": s} for d, s in (("competition", "x"), ("interview", ""))],
    "ultrachat": [
        {"data": turns}
        for turns in ([" hi ", "ho", "and?", "so", "odd"], ["and?", "what"], [], ["unanswered"], ["too", "many"])
    ],
}
DROPPED = {  # the column of the prompt; for an empty response; for what only this task has
    "popqa": ("question", "empty obj"),
    "triviaqa": ("question", "empty value"),
    "webqa": ("question", "no answer"),
    "entityquestions": ("question", "no answer"),
    "lama": ("sub_label", "empty obj_label", "the template puts the object before the subject"),
    "gsm8k": ("question", "empty answer", "no result after ####", "control characters in answer"),
    "math": ("problem", "empty solution"),
    "evolcode": ("instruction", "empty output"),
    "apps": ("question", "no solution", "difficulty competition", "no solution"),
    "ultrachat": ("turn", "empty turn", "no answered turn", "no answered turn"),
}


def spellings(a: list[str]) -> Row:
    normalized = {"normalized_value": a[0].lower(), "normalized_aliases": [alias.lower() for alias in a[1:]]}
    return {"value": a[0], "aliases": a[1:], **normalized, "type": "FreeForm"}


def pairs_of(task: str, fact: bool) -> list[Pair]:
    """What is to become of FACTS, or of INSTRUCTIONS and MORE."""
    if fact:
        questions = "Who wrote Emma?", "Where is A&amp;B?"
        subjects = {
            "lama": ("Emma", "A&amp;B"),
            "popqa": ("Emma", "A&amp;B"),
            "entityquestions": ("Emma", questions[1]),
        }
        answers = ["Jane Austen"], ["Jane Austen", "Austen"], ["Jane Austen", "Austen", "austen", "jane austen"]
        asked = "Who wrote Emma?\nThe answer is:", "Where is A&amp;B?\nThe answer is:"
        prompts = ("Emma is by", "A&amp;B is by") if task == "lama" else asked
        of = [*answers[{"lama": 0, "triviaqa": 2}.get(task, 1)], "another"], [LONG[1:]]  # asked twice: both are right
        rows = zip(prompts, of, subjects.get(task, questions), strict=True)
        return [Pair(prompt, gold[0], task, tuple(gold), subject) for prompt, gold, subject in rows]
    end = "\n#### 1" if task == "gsm8k" else ""
    pairs = [Pair("do <b>", f"x\n\ty{end}", task), Pair("long", LONG + end, task)]
    talks = [Pair("and?", "so", task, history=(("hi", "ho"),)), Pair("and?", "what", task)]
    return [*pairs, *talks] if task == "ultrachat" else pairs


def in_files(task: str, rows: list[Row]) -> dict[str, str]:
    """The rows as upstream's files have them."""
    match task:
        case "popqa":
            sheet = csv.DictWriter(out := io.StringIO(), list(rows[0]), delimiter="\t", lineterminator="\n")
            sheet.writeheader()
            sheet.writerows(rows)
            return {"popQA.tsv": out.getvalue()}
        case "triviaqa":
            answers = [{k.title().replace("_", ""): v for k, v in row["answer"].items()} for row in rows]
            data = [{"Question": row["question"], "Answer": a} for row, a in zip(rows, answers, strict=True)]
            return {"web-train.json": json.dumps({"Data": data, "Domain": "Web", "Version": 1.0})}
        case "webqa":
            numbered = enumerate(rows)
            array = [{"qId": f"wqr{n:06}", "qText": row["question"], "answers": row["answers"]} for n, row in numbered]
            names = ("val.json", "trainmodel.json", "devtest.json")  # every third row
            cut = {name: array[n::3] for n, name in enumerate(names)} | {"test.json": []}
            return {name: json.dumps(part) for name, part in cut.items()}
        case "entityquestions":
            templates = {"P17": "Which country is [X] in?", "P50": "Who wrote [X]?"}
            names = {"relation_query_templates.json": json.dumps(templates), "dataset/dev/P17.dev.json": "[]"}
            return {**names, "dataset/train/P50.train.json": json.dumps(rows)}
        case "lama":
            templates = {"P50": " [X] is by [Y] . ", "P36": "[Y] is the capital of [X] .", "birth": "has no file"}
            named = jsonl([{"relation": relation, "template": t} for relation, t in templates.items()])
            capital = jsonl([{"sub_label": "France", "obj_label": "Paris"}])
            return {"relations.jsonl": named, "TREx/P50.jsonl": jsonl(rows), "TREx/P36.jsonl": capital}
        case "math":
            return {f"train/{'ab'[n > 2]}/{n + 8}.json": json.dumps(row) for n, row in enumerate(rows)}
        case "evolcode":
            return {"b.json": json.dumps(rows[2:]), "a.json": json.dumps(rows[:2])}
    return {"train.jsonl": jsonl(rows)}


@pytest.mark.parametrize("task", ROW)
def test_upstreams_rows_are_the_same_pairs_from_files_and_from_the_hub(tmp_path: Path, task: str) -> None:
    spec = load_task(task, ["path=x"])
    fact = isinstance(spec, Factoid)
    rows = [ROW[task](*of) for of in (FACTS if fact else INSTRUCTIONS)] + MORE.get(task, [])
    ways = [f"path={write(tmp_path / 'local', in_files(task, rows))}"]
    if task in ("webqa", "math", "evolcode"):
        ways.append(f"path={write(tmp_path / 'one', {'one.json': json.dumps(rows)})}")
    if tasks.FORMATS[task].hub_columns:
        ways.append(f"hub={on_hub(tmp_path / 'hub', rows, spec.config, spec.split)}")
    if task == "apps":  # the conversion branch: a folder for all rows, and one for each level, with the same rows again
        for level in ("all", "introductory"):
            (tmp_path / "hub" / level / "train").mkdir(parents=True)
            shutil.copy(tmp_path / "hub" / "data.parquet", tmp_path / "hub" / level / "train" / "0000.parquet")
        for name in ("README.md", "data.parquet"):
            (tmp_path / "hub" / name).unlink()
    prompt, *reasons = DROPPED[task]
    reasons += [f"empty {prompt}", f"control characters in {prompt}", TWICE]
    for way in ways:
        result = read(task, way, *(["first=10"] if task == "ultrachat" else []))
        assert result.pairs == pairs_of(task, fact), way
        assert result.dropped == Counter([*reasons, *[TOO_LONG][:fact]]), way
        assert result.noted == Counter(["HTML in it"][:fact]), way


@pytest.mark.parametrize("name", ["knowledge_pile", "arxiv_pile", "fineweb"])
def test_a_corpus_gives_the_beginnings_of_its_first_long_documents(tmp_path: Path, hub_cache: Path, name: str) -> None:
    column = "content" if name == "knowledge_pile" else "text"
    lengths = (150, 99, 5000, 100, 0, 300)  # in words; the sixth document is not read
    rows = [{column: "  ".join(f"{n}w{i}" for i in range(length)), "id": n} for n, length in enumerate(lengths)]
    folder = str(on_hub(tmp_path / "hub", rows, CORPORA[name].model_fields["config"].default))
    local = str(write(tmp_path / "local", {"b.jsonl": jsonl(rows[2:]), "a.jsonl": jsonl(rows[:2])}))
    drawn = passages(name, 3, hub=folder, documents=5)
    halves = [[" ".join(rows[n][column].split()[at : at + 20]) for at in (0, 20)] for n in (0, 2, 3)]
    assert sorted(drawn, key=lambda pair: pair.prompt) == [Pair(mixing.PROMPT + a, b, name) for a, b in halves]
    assert passages(name, 3, path=local, documents=5) == drawn
    stored = [json.loads(line) for line in next(hub_cache.glob("*/local.jsonl")).read_text().splitlines()]
    assert [len(row.pop(column).split()) for row in stored] == [150, 99, hub.MAX_WORDS, 100, 0]
    assert not any(stored)  # no other column
    for way in ({"hub": folder}, {"path": local}):
        with pytest.raises(BadInput, match=f"{name}: 4 .*its first 5 documents gives 3 of 40 words"):
            passages(name, 4, documents=5, **way)
    assert len(passages(name, 4, hub=folder, documents=7)) == 4  # there are six


# --- real files --------------------------------------------------------------------------------------------------


def plain(paths: list[Path]) -> list[Row]:
    """Rows read in the plainest way."""
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [row for t in texts for row in (json.loads(t) if t[0] == "[" else map(json.loads, t.splitlines()))]


@pytest.mark.parametrize(
    ("task", "name", "column", "sources", "rows", "distinct", "prompt", "response"),
    [
        ("lama", "lama_trex", "", "", 29_411, 27_391, "Allan Peiper was born in", "Alexandra"),
        (
            *("entityquestions", "entityquestions", "question", "train/P106* train/P17* train/P19* train/P50*"),
            *(32_000, 31_900, "What kind of work does Vidar Kleppe do?", "politician"),
        ),
        (
            *("webqa", "webquestions", "qText", "trainmodel* val* devtest*", 3_778, 3_778),
            *("what is the name of justin bieber brother?", "Jazmyn Bieber"),
        ),
        (
            *("evolcode", "evolcode", "instruction", "*", 1_966, 1_966, "Write an SQL query to select names of all "),
            "SELECT name\nFROM employees\nWHERE department = 'Accounting' AND salary > 50000;",
        ),
        (
            *("gsm8k", "gsm8k/train.jsonl", "question", "", 3_000, 3_000, "Natalia sold clips to 48 of her friends"),
            "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
            "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72",
        ),
    ],
    ids=["lama", "entityquestions", "webqa", "evolcode", "gsm8k"],
)
def test_real_files(
    task: str, name: str, column: str, sources: str, rows: int, distinct: int, prompt: str, response: str
) -> None:
    root = real(name)
    found = plain([f for s in sources.split() for f in root.glob(s)] or [root]) if column else []
    asked = [row[column] for row in sorted(found, key=lambda row: row.get("qId", ""))]  # WebQuestions' own order
    for relation in [] if column else plain([root / "LAMA_relations.jsonl"]):
        for file in root.glob(f"trex_lms_vocab/{relation['relation']}.jsonl"):
            asked += [relation["template"].split(" [Y]")[0].replace("[X]", row["sub_label"]) for row in plain([file])]
    result = read(task, f"path={root}")
    assert (result.rows, len(result.pairs)) == (rows, distinct) == (len(asked), len(set(asked)))
    assert result.dropped == Counter({TWICE: rows - distinct})
    prompts = [pair.prompt.removesuffix("\nThe answer is:") for pair in result.pairs]
    assert prompts == [text.strip() for text in dict.fromkeys(asked)]
    assert prompts[0].startswith(prompt)
    assert result.pairs[0].response == response


def test_real_examples_of_one_row() -> None:
    path = real("ultrachat/README_format_example.jsonl")
    (row,), (talk,) = plain([path]), read("ultrachat", f"path={path}").pairs
    assert [*talk.history[0], *talk.history[1], talk.prompt, talk.response, "..."] == row["data"]  # the last: no answer
    assert talk.response == "Yes, absolutely! ..."
    (fact,) = read("triviaqa", f"path={real('triviaqa/triviaqa_sample.json')}").pairs
    assert fact.prompt == "Which Lloyd Webber musical premiered in the US on 10th December 1993?\nThe answer is:"
    aliases = ("Sunset Blvd", "West Sunset Boulevard", "Sunset Bulevard", "Sunset Blvd.")
    normalized = ("west sunset boulevard", "sunset blvd", "sunset boulevard", "sunset bulevard")
    assert fact.answers == ("Sunset Boulevard", *aliases, *normalized)
