"""Loaders: every upstream format from a file and from the hub, what is left out and what is refused."""

import csv
import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nltk
import pytest
from conftest import real
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upstream import Patch, Row, jsonl, on_hub, passages, read, write

from remix_toolkit.data import files, hub, mixing, tasks
from remix_toolkit.data.overlap import Index
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.recipe import CORPORA, RandomWords
from remix_toolkit.resolve import load_task

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
    "ultrachat": ("data", "an empty turn", "no answered turn", "no answered turn"),
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
    fact = tasks.is_fact(spec)
    rows = [ROW[task](*of) for of in (FACTS if fact else INSTRUCTIONS)] + MORE.get(task, [])
    ways = [f"path={write(tmp_path / 'local', in_files(task, rows))}"]
    if task in ("webqa", "math", "evolcode"):
        ways.append(f"path={write(tmp_path / 'one', {'one.json': json.dumps(rows)})}")
    if task in tasks.COLUMNS:
        ways.append(f"hub={on_hub(tmp_path / 'hub', rows, spec.config, spec.split)}")
    if task == "apps":  # the conversion branch: a folder for all rows, and one for each level, with the same rows again
        for level in ("all", "introductory"):
            (tmp_path / "hub" / level / "train").mkdir(parents=True)
            shutil.copy(tmp_path / "hub" / "data.parquet", tmp_path / "hub" / level / "train" / "0000.parquet")
        for name in ("README.md", "data.parquet"):
            (tmp_path / "hub" / name).unlink()
    prompt, *reasons = DROPPED[task]
    reasons += ["an empty turn" if prompt == "data" else f"empty {prompt}", f"control characters in {prompt}", TWICE]
    for way in ways:
        result = read(task, way, *(["first=10"] if task == "ultrachat" else []))
        assert result.pairs == pairs_of(task, fact), way
        assert result.dropped == Counter([*reasons, *[TOO_LONG][:fact]]), way
        assert result.noted == Counter(["HTML in it"][:fact]), way


@pytest.mark.parametrize("name", ["knowledge_pile", "arxiv_pile", "fineweb"])
def test_a_corpus_gives_the_beginnings_of_its_first_long_documents(tmp_path: Path, kept: Path, name: str) -> None:
    column = "content" if name == "knowledge_pile" else "text"
    lengths = (150, 99, 5000, 100, 0, 300)  # in words; the sixth document is not read
    rows = [{column: "  ".join(f"{n}w{i}" for i in range(length)), "id": n} for n, length in enumerate(lengths)]
    folder = str(on_hub(tmp_path / "hub", rows, CORPORA[name].model_fields["config"].default))
    local = str(write(tmp_path / "local", {"b.jsonl": jsonl(rows[2:]), "a.jsonl": jsonl(rows[:2])}))
    drawn = passages(name, 3, hub=folder, documents=5)
    halves = [[" ".join(rows[n][column].split()[at : at + 20]) for at in (0, 20)] for n in (0, 2, 3)]
    assert sorted(drawn, key=lambda pair: pair.prompt) == [Pair(mixing.PROMPT + a, b, name) for a, b in halves]
    assert passages(name, 3, path=local, documents=5) == drawn
    stored = [json.loads(line) for line in next(kept.glob("*/rows.jsonl")).read_text().splitlines()]
    assert [len(row.pop(column).split()) for row in stored] == [150, 99, hub.MAX_WORDS, 100, 0]
    assert not any(stored)  # no other column
    for way in ({"hub": folder}, {"path": local}):
        with pytest.raises(BadInput, match=f"{name}: 4 asked, .*its first 5 documents gives 3 of 40 words"):
            passages(name, 4, documents=5, **way)
    with pytest.raises(RunFailed, match=r"after 6 of 7 rows.*if it has no more, say so: documents or first"):
        passages(name, 1, hub=folder, documents=7)
    assert len(list(kept.glob("*/source.json"))) == 1


# --- bad input ---------------------------------------------------------------------------------------------------

GSM8K = '{"question": "q", "answer": "#### 1"}\n'
APPS = '{"question": "q", "difficulty": "interview", "solutions": '
RELATION = '{"relation": "P1", "template": "[X] is [Y]"}'


@pytest.mark.parametrize(
    ("task", "name", "content", "message"),
    [
        ("gsm8k", "a.jsonl", GSM8K + '{"question": "q"}', "a.jsonl:2: no column 'answer'.*here are question"),
        ("gsm8k", "a.jsonl", "\n" + GSM8K.replace('"#### 1"', "5"), "a.jsonl:2: answer is 5; upstream has a text"),
        ("gsm8k", "a.jsonl", GSM8K + "{", "a.jsonl:2: not valid JSON"),
        ("gsm8k", "latin.jsonl", GSM8K.replace("q", "ä"), "latin.jsonl: not UTF-8 text"),
        *((task, "x/y", "", "in: is a directory; a file is expected") for task in ("gsm8k", "popqa", "triviaqa")),
        ("triviaqa", "a.json", '{"Data": {}}', "a.json: TriviaQA's file is a JSON object whose Data is an array"),
        ("triviaqa", "a.json", '{"Data": [', "a.json: not valid JSON"),
        ("triviaqa", "a.json", '{"Data": ["x"]}', "row 1: is 'x'; an object with Question and Answer"),
        ("triviaqa", "a.json", '{"Data": [{"Answer": {}}]}', "row 1: no column 'Question'.*here are Answer"),
        ("triviaqa", "a.json", '{"Data": [{"Question": "q", "Answer": 5}]}', "row 1: Answer is '5'; an object"),
        ("triviaqa", "a.json", '{"Data": [{"Question": "q", "Answer": {"Value": 5}}]}', "row 1, answer: value is 5"),
        ("webqa", "w.json", '[{"answers": []}]', "w.json: row 1: no column 'qText'"),
        ("webqa", "w.json", '[{"qText": "q", "answers": "x"}]', "row 1: answers is no list of texts: 'x'"),
        ("webqa", "latin.json", '[{"qText": "ä"}]', "latin.json: not UTF-8 text"),
        ("webqa", "x/test.json", "[]", "trainmodel.json: no such file"),
        ("webqa split=dev", "x/test.json", "[]", "in: no split 'dev'; valid: test, train"),
        ("entityquestions", "train/P1.train.json", '[{"question": "q"}]', "json: row 1: no column 'answers'"),
        ("entityquestions", "dev/P1.dev.json", "[]", "in: no split 'train'; valid: dev"),
        ("lama", "a.jsonl", "", "a.jsonl: no such directory; lama wants LAMA's unpacked folder"),
        ("lama", "T/P1.jsonl", "", "in: holds no relations.jsonl"),
        ("lama", "relations.jsonl", '{"relation": "P1"}', "relations.jsonl:1: template is None"),
        ("lama", "relations.jsonl", RELATION.replace("Y", "Z"), r"relations.jsonl:1: template '.*' lacks \[X\] or \[Y"),
        ("lama", "relations.jsonl", RELATION, "P1.jsonl:1: no column 'obj_label'.*here are sub_label"),
        ("math", "test/algebra/1.json", "{}", "in: holds no train/<type>/<n>.json"),
        ("math", "train/algebra/1.json", "[]", "algebra/1.json: is a JSON list; an object"),
        ("math", "train/algebra/1.json", '{"problem": "p"}', "algebra/1.json: no column 'solution'"),
        ("evolcode", "e.json", "{}", "e.json: is a JSON dict; an array of objects is expected"),
        ("evolcode", "x/e.jsonl", "", "in: holds no .json file"),
        ("evolcode", "e.json", '[{"instruction": "i", "output": ["x"]}]', r"row 1: output is \['x'\]; upstream"),
        *(("apps", "a.jsonl", f"{APPS}{bad}}}", "jsonl:1: solutions is no JSON list") for bad in ('"x"', '["x"]', "5")),
        ("ultrachat", "a.jsonl", '{"data": "hi"}', "a.jsonl:1: data is 'hi'; a list of texts, user and assistant"),
    ],
)
def test_files_in_another_format(tmp_path: Path, task: str, name: str, content: str, message: str) -> None:
    contents = {name: content, **({"T/P1.jsonl": '{"sub_label": "x"}'} if name == "relations.jsonl" else {})}
    with pytest.raises(BadInput, match=message):
        read(*task.split(), f"path={write(tmp_path / 'in', contents)}")


def test_hub_datasets_in_another_format(tmp_path: Path) -> None:
    row = {"question": "q", "answr": "a", "subj": "s", "obj": "o", "possible_answers": "['o']", "text": 5}
    folder = on_hub(tmp_path / "hub", [row])
    for task, options, message in [
        ("gsm8k", ["config=null"], r"hub: row 1: no column 'answer'; did you mean 'answr'\?.*A `revision` pins it"),
        ("gsm8k", ["config=null", "split=dev"], r"hub, dev: cannot be loaded: .*Available splits: \['train'\]"),
        ("gsm8k", ["config=main"], r"hub, main, train: cannot be loaded: .*'main' not found"),
        ("popqa", ["split=train"], "hub: row 1: possible_answers is no JSON list of strings: "),
    ]:
        with pytest.raises(BadInput, match=message):
            read(task, f"hub={folder}", *options)
    with pytest.raises(BadInput, match="hub: row 1: text is 5; a text is expected"):
        passages("arxiv_pile", 1, hub=str(folder), documents=1)


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


# --- arbitrary rows ----------------------------------------------------------------------------------------------

TEXT = st.text(max_size=9) | st.sampled_from(["####", "#### 1", " ", "x", "\0", '["x"]', "interview", "[X]", LONG])
TEXTS = st.lists(TEXT, max_size=5)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | TEXTS.map(json.dumps),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAMES = dict.fromkeys(("value", "aliases", "normalized_aliases", "normalized_value"), TEXT | TEXTS | VALUE)
COLUMNS = {**tasks.COLUMNS, "lama": ("sub_label", "obj_label"), "entityquestions": ("question", "answers")}
LIKELY: dict[str, Row] = {  # what is not text upstream
    "answers": {"answers": TEXTS},
    "popqa": {"possible_answers": TEXTS.map(json.dumps)},
    "triviaqa": {"answer": st.fixed_dictionaries({}, optional=NAMES)},
    "gsm8k": {"answer": TEXT.map("{} #### 1".format)},
    "apps": {"difficulty": st.just("interview"), "solutions": TEXTS.map(json.dumps)},
    "ultrachat": {"data": TEXTS},
}
TEMPLATE = {  # which the readers add; LAMA's they have checked
    "lama": {"template": st.sampled_from(["[X] was born in [Y] .", "[X][Y]", "[Y] [X]", "[X] [Y] [X]"])},
    "entityquestions": {"template": st.sampled_from(["", "[X]", "Where was [X] born?"]) | TEXT},
}
NO_FRESH_FOLDER = [HealthCheck.function_scoped_fixture]  # each example writes its file over that of the one before
ARBITRARY = settings(deadline=None, max_examples=100, database=None, suppress_health_check=NO_FRESH_FOLDER)


def rows_of(task: str, likely_only: bool = False) -> st.SearchStrategy[Row]:
    """Rows with text where upstream has text, and rows with anything there, or nothing."""
    likely = dict.fromkeys(COLUMNS[task], TEXT) | LIKELY.get("answers" if "answers" in COLUMNS[task] else task, {})
    template = TEMPLATE.get(task, {})
    anything = {column: values | VALUE for column, values in likely.items()}
    usual = st.fixed_dictionaries(likely | template)
    return usual if likely_only else usual | st.fixed_dictionaries(template, optional=anything)


def attempt(call: Callable[..., Any], *arguments: Any) -> tuple[Any, BadInput | files.Drop | None]:
    try:
        return call(*arguments), None
    except (BadInput, files.Drop) as error:
        return None, error


@pytest.mark.parametrize("task", tasks.PAIR_OF)
@ARBITRARY
@given(data=st.data())
def test_any_row_becomes_a_pair_or_says_why_not(task: str, data: st.DataObject) -> None:
    pair, error = attempt(tasks.PAIR_OF[task], data.draw(rows_of(task)), "a place")
    if error:
        assert str(error).startswith("a place") if isinstance(error, BadInput) else str(error).strip()
    else:
        assert all(text and text == text.strip() for text in (pair.prompt, pair.response, *pair.answers))
        assert (pair.source, pair.answers[:1] in ((), (pair.response,))) == (task, True)


@ARBITRARY
@given(rows=st.lists(rows_of("gsm8k", likely_only=True)) | st.lists(rows_of("gsm8k"), max_size=3))
def test_any_file_of_rows_is_accounted_for(tmp_path: Path, rows: list[Row]) -> None:
    result, error = attempt(read, "gsm8k", f"path={write(tmp_path, {'any.jsonl': jsonl(rows)})}")
    if error:
        assert "any.jsonl:" in str(error)
        assert not all(isinstance(row.get(column), str) for row in rows for column in COLUMNS["gsm8k"])
    else:
        assert result.rows == len(rows)
        assert len({pair.prompt for pair in result.pairs}) == len(result.pairs)


CELL, TAIL = st.text('ab",\n\t \0é', max_size=9), st.text('ab",\n\r\0', max_size=9)
FINE = st.text('ab",é', min_size=1)


@ARBITRARY
@given(cells=st.lists(st.tuples(CELL, CELL)) | st.lists(st.tuples(FINE, FINE), unique_by=lambda c: c[0]), tail=TAIL)
def test_any_csv_is_accounted_for(tmp_path: Path, cells: list[tuple[str, str]], tail: str) -> None:
    csv.writer(out := io.StringIO()).writerows([("prompt", "response"), *cells])
    whole, error = attempt(read, "pairs", f"path={write(tmp_path, {'any.csv': out.getvalue()})}")
    if error:
        assert "any.csv: row " in str(error)
    else:
        assert whole.rows == len(cells)
        stripped = dict.fromkeys((prompt.strip(), response.strip()) for prompt, response in cells)
        assert [(pair.prompt, pair.response) for pair in whole.pairs] == list(stripped)
    torn, error = attempt(read, "pairs", f"path={write(tmp_path, {'any.csv': out.getvalue() + tail})}")
    assert "any.csv:" in str(error) if error else torn.rows >= len(cells)


# --- random words ------------------------------------------------------------------------------------------------


def chi_square(drawn: list[str], words: list[str]) -> float:
    """Against a uniform draw, over 100 bins of the vocabulary (of equal size, but for one word)."""
    bin_of = {word: number * 100 // len(words) for number, word in enumerate(words)}
    sizes, counts = Counter(bin_of.values()), Counter(bin_of[word] for word in drawn)
    expected = {number: len(drawn) * size / len(words) for number, size in sizes.items()}
    return sum((counts[number] - expected[number]) ** 2 / expected[number] for number in range(100))


def test_random_words_are_drawn_uniformly(monkeypatch: Patch) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(real("nltk_data"))])
    words = mixing.vocabulary("nltk")
    assert len(set(words)) == len(words)
    pairs = mixing.random_words(RandomWords(ratio=1.0, words=500), 100, random.Random(0), Index([]), Counter())
    critical = 148.23  # 99 degrees of freedom, p = 0.001
    for half in ([pair.prompt.removeprefix(mixing.PROMPT) for pair in pairs], [pair.response for pair in pairs]):
        drawn = " ".join(half).split()
        assert len(drawn) == 50_000
        assert chi_square(drawn, words) < critical
    rng = random.Random(0)  # slightly for the words at the front
    assert chi_square([words[int(len(words) * rng.random() ** 1.05)] for _ in range(50_000)], words) > critical
