"""Files and rows that are not what a loader wants: a clear error or a counted drop, never a crash or a silent loss."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upstream import Row, jsonl, on_hub, passages, read, write

from remix_toolkit.data import files, tasks
from remix_toolkit.errors import BadInput

# --- bad input ---------------------------------------------------------------------------------------------------

GSM8K = '{"question": "q", "answer": "#### 1"}\n'
APPS = '{"question": "q", "difficulty": "interview", "solutions": '
RELATION = '{"relation": "P1", "template": "[X] is [Y]"}'


@pytest.mark.parametrize(
    ("task", "name", "content", "message"),
    [
        ("gsm8k", "a.jsonl", GSM8K + '{"question": "q"}', "a.jsonl:2: no column 'answer'; valid: question"),
        ("gsm8k", "a.jsonl", "\n" + GSM8K.replace('"#### 1"', "[5]"), r"a.jsonl:2: answer is \[5\]; a text"),
        ("gsm8k", "latin.jsonl", GSM8K.replace("q", "ä"), "latin.jsonl.*not UTF-8 text"),
        *((task, "x/y", "", "in: is a directory, but not a dataset written by") for task in ("gsm8k", "popqa")),
        ("triviaqa", "x/y", "", "in: is a directory; a file is expected"),
        ("triviaqa", "a.json", '{"Data": {}}', "a.json: Data is {}; a list is expected"),
        ("triviaqa", "a.json", '{"Data": [{"Answer": {"Value": "v"}}]}', "row 1: no column 'question'; valid: answer"),
        ("triviaqa", "a.json", '{"Data": [{"Answer": {"Value": [5]}}]}', r"row 1: answer: value is \[5\]"),
        ("webqa", "w.json", '[{"answers": []}]', "w.json: row 1: no column 'question'"),
        ("webqa", "w.json", '[{"qText": "q", "answers": "x"}]', "row 1: answers is 'x'; a list of texts"),
        ("webqa split=dev", "x/test.json", "[]", "in: no split 'dev'; valid: test, train"),
        ("entityquestions", "train/P1.train.json", '[{"question": "q"}]', "json: row 1: no column 'answers'"),
        ("lama", "a.jsonl", "", "a.jsonl/relations.jsonl: not a directory"),
        ("lama", "relations.jsonl", RELATION.replace("Y", "Z"), r"P1.jsonl:1: its .* '.*' lacks \[X\] or \[Y"),
        ("lama", "relations.jsonl", RELATION, r"P1.jsonl:1: no column 'obj_label'.*sub_label"),
        ("math", "test/algebra/1.json", "{}", "in: has no train/<type>/<n>.json"),
        ("math", "train/algebra/1.json", '{"problem": "p"}', "algebra/1.json: no column 'solution'"),
        ("evolcode", "e.json", "{}", "e.json: is a JSON dict; an array of objects is expected"),
        ("evolcode", "e.json", '[{"instruction": "i", "output": ["x"]}]', r"row 1: output is \['x'\]; a text"),
        *(
            ("apps", "a.jsonl", f"{APPS}{bad}}}", f"jsonl:1: solutions{message}")
            for bad, message in (('"[x"', ": not valid JSON"), ("[5]", r" is \[5\]; a list"), ("5", " is 5; a list"))
        ),
        ("ultrachat", "a.jsonl", '{"data": "hi"}', "a.jsonl:1: data is 'hi'; a list of texts is expected"),
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
        ("gsm8k", ["config=null"], r"hub: row 1: no column 'answer'; did you mean 'answr'\?"),
        ("gsm8k", ["config=null", "split=dev"], r"hub, dev: cannot be loaded: .*Available splits: \['train'\]"),
        ("gsm8k", ["config=main"], r"hub, main, train: cannot be loaded: .*'main' not found"),
        ("popqa", ["split=train"], "hub: row 1: possible_answers: not valid JSON: "),
    ]:
        with pytest.raises(BadInput, match=message):
            read(task, f"hub={folder}", *options)
    with pytest.raises(BadInput, match="hub: row 1: text is 5; a text is expected"):
        passages("arxiv_pile", 1, hub=str(folder), documents=1)


# --- arbitrary rows ----------------------------------------------------------------------------------------------

LONG = "a" * 1001  # one character more than an answer may have
TEXT = st.text(max_size=9) | st.sampled_from(["####", "#### 1", " ", "x", "\0", '["x"]', "interview", "[X]", LONG])
TEXTS = st.lists(TEXT, max_size=5)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | TEXTS.map(json.dumps),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAMES = dict.fromkeys(("value", "aliases", "normalized_aliases", "normalized_value"), TEXT | TEXTS | VALUE)
COLUMNS = {name: task.hub_columns for name, task in tasks.FORMATS.items()}
COLUMNS |= {"lama": ("sub_label", "obj_label"), "entityquestions": ("question", "answers")}
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


def attempt(call: Callable[..., Any], *arguments: Any) -> tuple[Any, BadInput | files.UnusableRow | None]:
    try:
        return call(*arguments), None
    except (BadInput, files.UnusableRow) as error:
        return None, error


@pytest.mark.parametrize("task", [name for name in tasks.FORMATS if name != "pairs"])
@ARBITRARY
@given(data=st.data())
def test_any_row_becomes_a_pair_or_says_why_not(task: str, data: st.DataObject) -> None:
    pair, error = attempt(tasks.FORMATS[task].to_pair, files.Row("row 1", data.draw(rows_of(task))))
    if error:
        assert str(error).strip()
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
