"""Loaders: every upstream format from a file and from the hub, what is left out or refused, what is kept on disk."""

import csv
import errno
import io
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.errors
import pyarrow
import pyarrow.parquet
import pytest
from conftest import real
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remix_toolkit.data import files, hub, mixing, tasks
from remix_toolkit.data.catalog import catalog
from remix_toolkit.data.overlap import Index
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.recipe import CORPORA, RandomWords
from remix_toolkit.resolve import load_task


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hub datasets are kept in this test."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "remix-toolkit"


def read(task: str, *options: str) -> tasks.Read:
    result = tasks.read(load_task(task, list(options)), 0)
    assert result.rows == len(result.pairs) + sum(result.dropped.values())
    return result


def passages(name: str, count: int, **spec: Any) -> list[Pair]:
    source = CORPORA[name](ratio=1.0, words=20, **spec)
    return mixing.passages(name, source, count, random.Random(0), Index([]), Counter())


def write(folder: Path, contents: dict[str, str | bytes]) -> Path:
    """Files in a folder; returns the file if it is the only one, else the folder."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name if len(contents) == 1 and "/" not in name else folder


def jsonl(rows: list[Any]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def on_hub(folder: Path, rows: list[dict[str, Any]], config: str | None = None, split: str = "train") -> Path:
    """A dataset as a hub's repository holds it: parquet, and a README whose header names config and split."""
    header = {"config_name": config or "default", "data_files": [{"split": split, "path": "data.parquet"}]}
    write(folder, {"README.md": f"---\n{json.dumps({'configs': [header]})}\n---\n"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data.parquet")
    return folder


# --- upstream's formats, two ways in -----------------------------------------------------------------------------

NUL, LONG = "a\0b", "a" * 1001
TWICE, TOO_LONG = "asks the same as an earlier row", "an answer of more than 1000 characters"
FACTS = [  # question, answers, subject
    *[("Who wrote Emma? ", ["Jane Austen", " Austen", ""], "Emma"), ("Where is A&amp;B?", [LONG[1:]], "A&amp;B")],
    *[("Who wrote Emma?", ["another"], " Emma"), (" \n", ["x"], " "), ("q1?", [" \t"], "s"), (NUL, ["x"], NUL)],
    ("q2?", [LONG], "t"),
]
INSTRUCTIONS = [("do <b> ", "x\n\ty"), ("long", LONG), ("do <b>", "z"), (" ", "z"), ("a", " "), (NUL, "z")]
ROW: dict[str, Callable[..., dict[str, Any]]] = {  # in the columns of the hub, or of the files where it is on no hub
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
MORE: dict[str, list[dict[str, Any]]] = {  # rows as only this task has them
    "gsm8k": [{"question": "q", "answer": "it is 1"}, {"question": "q", "answer": "\x1b #### 1"}],
    "apps": [{"question": "q", "difficulty": d, "solutions": s} for d, s in (("competition", "x"), ("interview", ""))],
    "ultrachat": [{"data": d} for d in ([" hi ", "ho", "and?", "so", "odd"], [], ["unanswered"], ["not", "first"])],
}
DROPPED = {  # for an empty prompt, an empty response, control characters; then for what only this task has
    "popqa": ["empty question", "empty obj", "control characters in question", TOO_LONG],
    "triviaqa": ["empty question", "empty value", "control characters in question", TOO_LONG],
    "webqa": ["empty question", "no answer", "control characters in question", TOO_LONG],
    "entityquestions": ["empty question", "no answer", "control characters in question", TOO_LONG],
    "lama": ["empty sub_label", "empty obj_label", "control characters in sub_label", TOO_LONG]
    + ["the template puts the object before the subject"],
    "gsm8k": ["empty question", "empty answer", "control characters in question"]
    + ["no result after ####", "control characters in answer"],
    "math": ["empty problem", "empty solution", "control characters in problem"],
    "evolcode": ["empty instruction", "empty output", "control characters in instruction"],
    "apps": [
        "empty question",
        "no solution",
        "control characters in question",
        "difficulty competition",
        "no solution",
    ],
    "ultrachat": ["an empty turn"] * 2 + ["control characters in data"] + ["no answered turn"] * 2,
}


def spellings(a: list[str]) -> dict[str, Any]:
    normalized = {"normalized_value": a[0].lower(), "normalized_aliases": [alias.lower() for alias in a[1:]]}
    return {"value": a[0], "aliases": a[1:], **normalized, "type": "FreeForm"}


def pairs_of(task: str) -> list[Pair]:
    """What is to become of FACTS, INSTRUCTIONS and MORE."""
    match task:
        case "lama":
            of = [("Emma is by", "Jane Austen", "Emma"), ("A&amp;B is by", LONG[1:], "A&amp;B")]
            return [Pair(prompt, answer, task, (answer,), subject) for prompt, answer, subject in of]
        case "popqa" | "triviaqa" | "webqa" | "entityquestions":
            answers = ("Jane Austen", "Austen", *(("austen", "jane austen") if task == "triviaqa" else ()))
            first, second = {"popqa": ("Emma", "A&amp;B"), "entityquestions": ("Emma", "")}.get(task, ("", ""))
            wrote = Pair("Who wrote Emma?\nThe answer is:", "Jane Austen", task, answers, first)
            return [wrote, Pair("Where is A&amp;B?\nThe answer is:", LONG[1:], task, (LONG[1:],), second)]
    end = "\n#### 1" if task == "gsm8k" else ""
    pairs = [Pair("do <b>", f"x\n\ty{end}", task), Pair("long", LONG + end, task)]
    return [*pairs, Pair("and?", "so", task, history=(("hi", "ho"),))] if task == "ultrachat" else pairs


def in_files(task: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    """The rows as upstream's files have them."""
    array = json.dumps(rows)
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
            array = [{"qId": "1", "qText": row["question"], "answers": row["answers"]} for row in rows]
            cut = {"val.json": array[2:4], "trainmodel.json": array[:2], "devtest.json": array[4:], "test.json": []}
            return {name: json.dumps(part) for name, part in cut.items()}
        case "entityquestions":
            templates = {"P17": "Which country is [X] in?", "P50": "Who wrote [X]?"}
            names = {"relation_query_templates.json": json.dumps(templates), "dataset/dev/P17.dev.json": "[]"}
            return {**names, "dataset/train/P50.train.json": array}
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
    fact = tasks.is_fact(load_task(task, ["path=x"]))
    rows = [ROW[task](*of) for of in (FACTS if fact else INSTRUCTIONS)] + MORE.get(task, [])
    options = ["first=9"] if task == "ultrachat" else []
    ways = {"path": write(tmp_path / "local", in_files(task, rows))}
    if task in ("webqa", "math", "evolcode"):
        ways["path "] = write(tmp_path / "one", {"one.json": json.dumps(rows)})
    if task not in ("lama", "entityquestions"):
        spec = load_task(task, [])
        ways["hub"] = on_hub(tmp_path / "hub", rows, spec.config, spec.split)
    for way, place in ways.items():
        result = read(task, f"{way.strip()}={place}", *options)
        assert result.pairs == pairs_of(task), way
        assert result.dropped == Counter([TWICE, *DROPPED[task]]), way
        assert result.noted == ({"HTML in it": 1} if fact else {}), way


# --- generic text ------------------------------------------------------------------------------------------------


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
    (stored,) = kept.glob("*/rows.jsonl")
    lines = [json.loads(line) for line in stored.read_text().splitlines()]
    assert [{key: len(text.split()) for key, text in line.items()} for line in lines] == [
        {column: min(length, hub.MAX_WORDS)} for length in lengths[:5]
    ]
    for way in ({"hub": folder}, {"path": local}):
        with pytest.raises(BadInput, match=f"{name}: 4 asked, .*its first 5 documents gives 3 of 40 words"):
            passages(name, 4, documents=5, **way)
    with pytest.raises(RunFailed, match=r"after 6 of 7 rows.*if it has no more, say so: documents or first"):
        passages(name, 1, hub=folder, documents=7)
    assert len(list(kept.glob("*/source.json"))) == 1


# --- what is kept of the hub -------------------------------------------------------------------------------------

SLICE = hub.Slice("some/dataset", None, "train", None, ("q",))
ROWS = [{"q": f"Ä {number}", "unused": 1} for number in range(10)]
LINES = "".join(f'{{"q": "Ä {number}"}}\n' for number in range(10)).encode()


def serve(patch: pytest.MonkeyPatch, stop: int = 10, error: Exception | None = None, commit: str = "c1") -> list[int]:
    """A hub whose stream ends, or breaks, before row `stop`; returns how many rows each stream is told to skip."""
    skipped: list[int] = []

    class Stream:
        def skip(self, count: int) -> "Stream":
            skipped[-1] = count
            return self

        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield from ROWS[skipped[-1] : stop]
            if error:
                raise error

    def opened(wanted: hub.Slice, at: str | None) -> tuple[Stream, int]:
        assert at == commit
        skipped.append(0)
        time.sleep(0.1)  # others have time to come in between
        return Stream(), len(ROWS)

    patch.setattr(hub, "_commit", lambda wanted: commit)
    patch.setattr(hub, "_open", opened)
    return skipped


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (None, RunFailed, "dataset, train: its stream ended after 4 of 10 rows. Run again to go on from there"),
        (ConnectionError("gone\nfar"), RunFailed, r"its stream broke after 4 rows \(ConnectionError: gone\)"),
        (ValueError("at hf_secret"), RunFailed, r"4 rows \(ValueError: at \*\*\*\)\. The same command goes on"),
        (OSError(errno.ENOSPC, "No space left"), OSError, "No space left"),  # a full disk is no broken stream
    ],
)
def test_a_stream_cut_short_goes_on_where_it_broke(
    monkeypatch: pytest.MonkeyPatch, kept: Path, error: Exception | None, kind: type[Exception], message: str
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    serve(monkeypatch, 4, error)
    with pytest.raises(kind, match=message):
        list(hub.rows(SLICE))
    assert hub.fetched(SLICE) is None
    assert not [*kept.glob("*/source.json"), *kept.glob("*/rows.jsonl")]
    skipped = serve(monkeypatch)
    assert list(hub.rows(SLICE)) == [(f"some/dataset: row {n + 1}", {"q": row["q"]}) for n, row in enumerate(ROWS)]
    assert skipped == [4]
    assert (SLICE.folder / "rows.jsonl").read_bytes() == LINES
    assert {file.name for file in SLICE.folder.iterdir()} <= {"rows.jsonl", "source.json", "lock"}


def test_what_was_begun_at_another_commit_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, 4)
    with pytest.raises(RunFailed):
        hub.fetch(SLICE)
    skipped = serve(monkeypatch, commit="c2")
    assert (hub.fetch(SLICE) / "rows.jsonl").read_bytes() == LINES
    assert skipped == [0]
    assert hub.moved(SLICE) is None
    serve(monkeypatch, commit="c3")
    assert (hub.moved(SLICE), hub.fetched(SLICE)["commit"]) == ("c3", "c2")


@pytest.mark.parametrize("first", [None, 8])
def test_a_half_written_line_is_fetched_again(tmp_path: Path, first: int | None) -> None:
    """A crash anywhere, with a stream of `datasets`: then the rows are those of an uninterrupted fetch."""
    wanted = hub.Slice(str(on_hub(tmp_path / "hub", ROWS)), None, "train", None, ("q",), first)
    folder = hub.fetch(wanted)
    whole = b"".join(LINES.splitlines(keepends=True)[:first])
    assert (folder / "rows.jsonl").read_bytes() == whole
    for cut in (0, 1, whole.index(b"\n") + 1, whole.index(b" 4"), whole.index(b" 4") - 1, len(whole) - 1, len(whole)):
        (folder / "source.json").unlink()
        (folder / "rows.jsonl").unlink()
        (folder / "begun.json").write_text('{"commit": null}')
        (folder / "rows.partial").write_bytes(whole[:cut])
        assert (hub.fetch(wanted) / "rows.jsonl").read_bytes() == whole


def test_threads_that_want_the_same_rows_fetch_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = serve(monkeypatch)
    together = threading.Barrier(4)

    def fetch(_: int) -> list[tuple[str, dict[str, Any]]]:
        together.wait()
        return list(hub.rows(SLICE))

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(fetch, range(4)))
    assert skipped == [0]
    assert all(result == results[0] and len(result) == 10 for result in results)


def test_a_second_read_needs_no_source_and_notices_a_change(tmp_path: Path, kept: Path) -> None:
    folder = on_hub(tmp_path / "hub", [ROW["gsm8k"](*of) for of in INSTRUCTIONS], "main")
    first = read("gsm8k", f"hub={folder}")
    folder.rename(tmp_path / "gone")
    assert read("gsm8k", f"hub={folder}") == first
    (stored,) = kept.glob("*/rows.jsonl")
    stored.write_text(stored.read_text().replace("#### 1", "#### 7"))
    with pytest.raises(BadInput, match=f"{stored.parent}: rows.jsonl is not what was fetched; delete that directory"):
        read("gsm8k", f"hub={folder}")


@pytest.mark.parametrize("behind", ["HfApi.dataset_info", "load_dataset"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "HfHubHTTPError",
            r"403 at .*\*\*\*\. Is the name right, is there a network\?|RuntimeError: datasets has its own",
        ),
        ("RepositoryNotFoundError", "there is no such dataset, or it is private: then `hf auth login`"),
        ("RevisionNotFoundError", "it has no revision 'refs/convert/parquet'"),
        ("GatedRepoError", r"accepted its terms at https://\S*/datasets/codeparrot/apps; then `hf auth login`"),
    ],
)
def test_no_access_says_why(monkeypatch: pytest.MonkeyPatch, behind: str, kind: str, message: str) -> None:
    def fail(*_: object, **__: object) -> None:
        response = SimpleNamespace(headers={}, request=None, status_code=403)
        error = getattr(huggingface_hub.errors, kind)("403 at https://hf_secret", response=response)
        if behind == "load_dataset":
            raise RuntimeError("datasets has its own") from error
        raise error

    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    monkeypatch.setattr(f"{'datasets' if behind == 'load_dataset' else 'huggingface_hub'}.{behind}", fail)
    if behind == "load_dataset":
        monkeypatch.setattr(hub, "_commit", lambda wanted: "c1")
    with pytest.raises(BadInput, match=f"hub dataset codeparrot/apps, all, .*({message}).*say path=FILE") as raised:
        read("apps")
    assert "hf_secret" not in str(raised.value)


@pytest.mark.parametrize("name", [n for n, e in catalog().items() if e.hub and n not in ("pairs", "passages")])
def test_without_a_network_the_local_file_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    with pytest.raises(BadInput) as raised:
        passages(name, 1) if name in CORPORA else read(name)
    for said in (catalog()[name].hub.split(",")[0].split(" at ")[0], f"({catalog()[name].local})", f"paths.{name}"):
        assert said in str(raised.value)


# --- bad input ---------------------------------------------------------------------------------------------------

GSM8K = '{"question": "q", "answer": "#### 1"}\n'
RELATION = '{"relation": "P1", "template": "[X] is [Y]"}'


@pytest.mark.parametrize(
    ("task", "contents", "message"),
    [
        ("gsm8k", {"a.jsonl": GSM8K + '{"question": "q"}'}, "a.jsonl:2: no column 'answer'.*here are question"),
        (
            "gsm8k",
            {"a.jsonl": GSM8K + '\n{"question": "q", "answer": 5}'},
            "a.jsonl:3: answer is 5; upstream has a text",
        ),
        ("gsm8k", {"a.jsonl": GSM8K + "{"}, "a.jsonl:2: not valid JSON"),
        ("gsm8k", {"a.jsonl": GSM8K.encode("utf-16")}, "a.jsonl: not UTF-8 text"),
        ("gsm8k", {"a/b.jsonl": GSM8K}, "in: is a directory; a file is expected"),
        ("popqa", {"a/b.tsv": ""}, "in: is a directory; a file is expected"),
        ("triviaqa", {"a/b.json": ""}, "in: is a directory; a file is expected"),
        ("triviaqa", {"a.json": '{"Data": {}}'}, "a.json: TriviaQA's file is a JSON object whose Data is an array"),
        ("triviaqa", {"a.json": '{"Data": ['}, "a.json: not valid JSON"),
        ("triviaqa", {"a.json": '{"Data": ["x"]}'}, "row 1: is 'x'; an object with Question and Answer"),
        ("triviaqa", {"a.json": '{"Data": [{"Answer": {}}]}'}, "row 1: no column 'Question'.*here are Answer"),
        ("triviaqa", {"a.json": '{"Data": [{"Question": "q", "Answer": "x"}]}'}, "row 1: Answer is 'x'; an object"),
        ("triviaqa", {"a.json": '{"Data": [{"Question": "q", "Answer": {"Value": 5}}]}'}, "row 1, answer: value is 5"),
        ("webqa", {"w.json": '[{"answers": []}]'}, "w.json: row 1: no column 'qText'"),
        ("webqa", {"w.json": '[{"qText": "q", "answers": "x"}]'}, "row 1: answers is no list of texts: 'x'"),
        ("webqa", {"trainmodel.json": "[]", "test.json": "[]"}, "val.json: no such file"),
        ("webqa split=dev", {"val.json": "[]", "test.json": "[]"}, "in: no split 'dev'; valid: test, train"),
        ("entityquestions", {"train/P1.train.json": '[{"question": "q"}]'}, "json: row 1: no column 'answers'"),
        ("entityquestions", {"dev/P1.dev.json": "[]"}, "in: no split 'train'; valid: dev"),
        ("lama", {"a.jsonl": ""}, "a.jsonl: no such directory; lama wants LAMA's unpacked folder"),
        ("lama", {"TREx/P1.jsonl": ""}, "in: holds no relations.jsonl"),
        ("lama", {"relations.jsonl": '{"relation": "P1"}', "T/P1.jsonl": ""}, "relations.jsonl:1: template is None"),
        (
            "lama",
            {"relations.jsonl": RELATION.replace("Y", "Z"), "T/P1.jsonl": ""},
            r"jsonl:1: template '.*' lacks \[X",
        ),
        (
            "lama",
            {"relations.jsonl": RELATION, "T/P1.jsonl": '{"sub_label": 1}'},
            "P1.jsonl:1: (sub_label is 1|no col)",
        ),
        ("math", {"test/algebra/1.json": "{}"}, "in: holds no train/<type>/<n>.json"),
        ("math", {"train/algebra/1.json": "[]"}, "algebra/1.json: is a JSON list; an object"),
        ("math", {"train/algebra/1.json": '{"problem": "p"}'}, "algebra/1.json: no column 'solution'"),
        ("evolcode", {"e.json": "{}"}, "e.json: is a JSON dict; an array of objects is expected"),
        ("evolcode", {"a/e.jsonl": ""}, "in: holds no .json file"),
        ("evolcode", {"e.json": '[{"instruction": "i", "output": ["x"]}]'}, r"row 1: output is \['x'\]; upstream"),
        ("ultrachat", {"a.jsonl": '{"data": "hi"}'}, "a.jsonl:1: data is 'hi'; a list of texts, user and assistant"),
    ],
)
def test_files_in_another_format(tmp_path: Path, task: str, contents: dict[str, str | bytes], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read(*task.split(), f"path={write(tmp_path / 'in', contents)}")


@pytest.mark.parametrize("value", ["x", '{"a": 1}', '["x", 1]', ["x"], 5])
def test_lists_that_are_not_written_as_json(tmp_path: Path, value: object) -> None:
    for task, column in (("popqa", "possible_answers"), ("apps", "solutions")):
        row = {**ROW[task]("q", ["a"] if task == "popqa" else "a", *["s"][: task == "popqa"]), column: value}
        folder = on_hub(tmp_path / task, [row], "all", "test")
        with pytest.raises(BadInput, match=f"{task}: row 1: {column} is no JSON list of strings: "):
            read(task, f"hub={folder}", "config=all", "split=test")


def test_what_a_hub_dataset_does_not_have(tmp_path: Path) -> None:
    folder = on_hub(tmp_path / "hub", [{"question": "q", "answr": "a", "text": 5}])
    for options, message in [
        (["config=null"], r"hub: row 1: no column 'answer'; did you mean 'answr'\?.*A `revision` pins it"),
        (["config=null", "split=dev"], r"hub, dev: cannot be loaded: .*Available splits: \['train'\]"),
        (["config=main"], r"hub, main, train: cannot be loaded: .*'main' not found"),
    ]:
        with pytest.raises(BadInput, match=message):
            read("gsm8k", f"hub={folder}", *options)
    with pytest.raises(BadInput, match="hub: row 1: text is 5; a text is expected"):
        passages("arxiv_pile", 1, hub=str(folder), documents=1)


# --- real files --------------------------------------------------------------------------------------------------


def plain(paths: list[Path]) -> list[dict[str, Any]]:
    """Rows read in the plainest way."""
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [
        row for text in texts for row in (json.loads(text) if text[0] == "[" else map(json.loads, text.splitlines()))
    ]


def lama_prompts(root: Path) -> list[str]:
    of = [
        (row["template"], root / "trex_lms_vocab" / f"{row['relation']}.jsonl")
        for row in plain([*root.glob("*.jsonl")])
    ]
    return [
        t.split("[Y]")[0].replace("[X]", row["sub_label"]) for t, file in of if file.exists() for row in plain([file])
    ]


@pytest.mark.parametrize(
    ("task", "name", "asked", "rows", "kept_rows", "prompt", "response"),
    [
        ("lama", "lama_trex", lama_prompts, 29_411, 27_391, "Allan Peiper was born in", "Alexandra"),
        (
            *("entityquestions", "entityquestions"),
            lambda root: [row["question"] for row in plain(sorted(root.glob("train/P*.json")))],
            *(32_000, 31_900, "What kind of work does Vidar Kleppe do?\nThe answer is:", "politician"),
        ),
        (
            *("webqa", "webquestions"),
            lambda root: [
                row["qText"] for n in ("trainmodel", "val", "devtest") for row in plain([root / f"{n}.json"])
            ],
            *(3_778, 3_778, "what character did natalie portman play in star wars?\nThe answer is:", "Padmé Amidala"),
        ),
        (
            *("evolcode", "evolcode", lambda root: [row["instruction"] for row in plain([*root.glob("*.json")])]),
            *(
                1_966,
                1_966,
                "Write an SQL query to select names of all employees who work in the Accounting department ",
            ),
            "SELECT name\nFROM employees\nWHERE department = 'Accounting' AND salary > 50000;",
        ),
        (
            *("gsm8k", "gsm8k/train.jsonl", lambda path: [row["question"] for row in plain([path])], 3_000, 3_000),
            "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many ",
            "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether in "
            "April and May.\n#### 72",
        ),
    ],
    ids=["lama", "entityquestions", "webqa", "evolcode", "gsm8k"],
)
def test_real_files(
    task: str, name: str, asked: Callable[[Path], list[str]], rows: int, kept_rows: int, prompt: str, response: str
) -> None:
    result = read(task, f"path={real(name)}")
    prompts = [text.strip() for text in asked(real(name))]
    assert (result.rows, len(result.pairs)) == (rows, kept_rows) == (len(prompts), len(set(prompts)))
    assert result.dropped == Counter({TWICE: rows - kept_rows})
    assert [pair.prompt.removesuffix("\nThe answer is:") for pair in result.pairs] == list(dict.fromkeys(prompts))
    assert result.pairs[0].prompt.startswith(prompt)
    assert result.pairs[0].response == response


def test_real_examples_of_one_row() -> None:
    path = real("ultrachat/README_format_example.jsonl")
    (row,), (dialogue,) = plain([path]), read("ultrachat", f"path={path}").pairs
    assert [*(turn for pair in dialogue.history for turn in pair), dialogue.prompt, dialogue.response] == row["data"][
        :6
    ]
    assert (len(row["data"]), dialogue.response) == (7, "Yes, absolutely! ...")  # the seventh turn has no answer
    (fact,) = read("triviaqa", f"path={real('triviaqa/triviaqa_sample.json')}").pairs
    assert fact.prompt == "Which Lloyd Webber musical premiered in the US on 10th December 1993?\nThe answer is:"
    aliases = ("Sunset Blvd", "West Sunset Boulevard", "Sunset Bulevard", "Sunset Blvd.")
    normalized = ("west sunset boulevard", "sunset blvd", "sunset boulevard", "sunset bulevard")
    assert fact.answers == (fact.response, *aliases, *normalized) == ("Sunset Boulevard", *aliases, *normalized)


# --- arbitrary rows ----------------------------------------------------------------------------------------------

TEXT = st.text(max_size=9) | st.sampled_from(["####", "#### 1", " ", "x", "\0", '["x"]', "interview", "[X]", LONG])
TEXTS = st.lists(TEXT, max_size=5)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | TEXTS.map(json.dumps),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAMES = dict.fromkeys(("value", "aliases", "normalized_aliases", "normalized_value"), TEXT | TEXTS | VALUE)
LIKELY: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "popqa": {"subj": TEXT, "obj": TEXT, "question": TEXT, "possible_answers": TEXTS.map(json.dumps)},
    "triviaqa": {"question": TEXT, "answer": st.fixed_dictionaries({}, optional=NAMES)},
    "lama": {"sub_label": TEXT, "obj_label": TEXT},
    "entityquestions": {"question": TEXT, "answers": TEXTS},
    "webqa": {"question": TEXT, "answers": TEXTS},
    "gsm8k": {"question": TEXT, "answer": TEXT.map("{} #### 1".format)},
    "math": {"problem": TEXT, "solution": TEXT},
    "evolcode": {"instruction": TEXT, "output": TEXT},
    "apps": {"question": TEXT, "difficulty": st.just("interview"), "solutions": TEXTS.map(json.dumps)},
    "ultrachat": {"data": TEXTS},
}
TEMPLATE = {  # which the readers add; LAMA's they have checked
    "lama": {"template": st.sampled_from(["[X] was born in [Y] .", "[X][Y]", "[Y] [X]", "[X] [Y] [X]"])},
    "entityquestions": {"template": st.sampled_from(["", "[X]", "Where was [X] born?"]) | TEXT},
}
NO_FRESH_FOLDER = [HealthCheck.function_scoped_fixture]  # each example writes its own file over the one before
ARBITRARY = settings(deadline=None, max_examples=100, database=None, suppress_health_check=NO_FRESH_FOLDER)


def rows_of(task: str) -> st.SearchStrategy[dict[str, Any]]:
    """Rows with text where upstream has text, and rows with anything there, or nothing."""
    anything = {column: likely | VALUE for column, likely in LIKELY[task].items()}
    template = TEMPLATE.get(task, {})
    return st.fixed_dictionaries(LIKELY[task] | template) | st.fixed_dictionaries(template, optional=anything)


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
@given(rows=st.lists(st.fixed_dictionaries(LIKELY["gsm8k"])) | st.lists(rows_of("gsm8k"), max_size=3))
def test_any_file_of_rows_is_accounted_for(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "any.jsonl").write_text(jsonl(rows))
    result, error = attempt(read, "gsm8k", f"path={tmp_path / 'any.jsonl'}")
    if error:
        assert "any.jsonl:" in str(error)
        assert not all(isinstance(row.get(column), str) for row in rows for column in ("question", "answer"))
    else:
        assert result.rows == len(rows)
        assert len({pair.prompt for pair in result.pairs}) == len(result.pairs)


CELL = st.text('ab",\n\r\t \0é', max_size=9)


@ARBITRARY
@given(cells=st.lists(st.tuples(CELL, CELL), max_size=6), tail=CELL)
def test_any_csv_is_accounted_for(tmp_path: Path, cells: list[tuple[str, str]], tail: str) -> None:
    csv.writer(out := io.StringIO(newline="")).writerows([("prompt", "response"), *cells])
    (tmp_path / "any.csv").write_bytes((out.getvalue() + tail).encode())
    result, error = attempt(read, "pairs", f"path={tmp_path / 'any.csv'}")
    if error:
        assert "any.csv:" in str(error)
    else:
        assert result.rows >= len(cells)
        assert all(pair.prompt.strip() and pair.response.strip() for pair in result.pairs)


# --- random words ------------------------------------------------------------------------------------------------


def chi_square(drawn: list[str], words: list[str]) -> float:
    """Against a uniform draw, over 100 bins of the vocabulary (of equal size, but for one word)."""
    bin_of = {word: number * 100 // len(words) for number, word in enumerate(words)}
    sizes, counts = Counter(bin_of.values()), Counter(bin_of[word] for word in drawn)
    expected = {number: len(drawn) * size / len(words) for number, size in sizes.items()}
    return sum((counts[number] - expected[number]) ** 2 / expected[number] for number in range(100))


def test_random_words_are_drawn_uniformly(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(real("nltk_data"))])
    words = mixing.vocabulary("nltk")
    assert len(set(words)) == len(words)
    spec = RandomWords(ratio=1.0, words=500)
    pairs = mixing.random_words(spec, 100, random.Random(0), Index([]), Counter())
    critical = 148.23  # 99 degrees of freedom, p = 0.001
    for half in ([pair.prompt.removeprefix(mixing.PROMPT) for pair in pairs], [pair.response for pair in pairs]):
        drawn = " ".join(half).split()
        assert len(drawn) == 50_000
        assert chi_square(drawn, words) < critical
    rng = random.Random(0)  # slightly for the words at the front
    assert chi_square([words[int(len(words) * rng.random() ** 1.05)] for _ in range(50_000)], words) > critical
