"""Tasks and mixing data: what they draw, that it is always the same, and what they refuse."""

import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from conftest import real

from remix_toolkit.data import generated, identity, mixing, tasks
from remix_toolkit.data.overlap import FactIndex
from remix_toolkit.data.pair import Pair, fingerprint
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.load import load_task
from remix_toolkit.recipe.schema import Mix, Passages, RandomWords, Replay


def load(name: str, *settings: str, data_seed: int = 0) -> list[Pair]:
    return tasks.load_rows(load_task(name, list(settings)), data_seed)


def test_kvr_is_unique_across_its_id_rows() -> None:
    facts = load("kvr", "size=2000")
    id_rows = load("kvr", "size=2000", "start=2000")
    words = [word for pair in facts + id_rows for word in (pair.subject, pair.response)]
    assert len(set(words)) == 8000
    assert all(len(word) == 8 and word.isalnum() and word == word.lower() for word in words)
    assert facts[0].prompt == f"The value of key {facts[0].subject} is?"
    assert load("kvr", "size=10", "start=1995")[:5] == facts[-5:]


def test_invented_facts_have_one_object_for_each_subject_and_relation() -> None:
    facts = load("invented_facts", "size=2000")
    assert len({pair.prompt for pair in facts}) == 2000
    assert len({pair.prompt.replace(pair.subject, "[X]") for pair in facts}) == len(generated.TEMPLATES)


@pytest.mark.parametrize(
    ("name", "first", "digest"),
    [
        ("kvr", "The value of key 7wjotfus is?", "d6da48ce37b1423c"),
        ("invented_facts", "Shilsho Daden died in", "8882b1f9b9278daa"),
    ],
)
def test_generated_facts_are_the_same_bytes_everywhere(name: str, first: str, digest: str) -> None:
    facts = load(name, "size=100")
    assert facts[0].prompt == first
    assert fingerprint(facts)[:16] == digest, "other rows for the same declaration: raise the task's version"
    assert load(name, "size=100", data_seed=1) != facts


def test_popqa_upstream_file() -> None:
    path = real("popqa/popQA.tsv")
    facts = load("popqa", f"path={path}", "size=200")
    assert facts[0] == Pair(
        "Who was the composer of Easy Living?\nThe answer is:",
        "Ralph Rainger",
        "popqa",
        ("Ralph Rainger", "Ralph Reichenthal"),
        "Easy Living",
    )
    everything = load("popqa", f"path={path}")
    assert len({pair.prompt for pair in everything}) == len(everything) == 986  # 14 prompts are asked twice upstream
    with pytest.raises(BadInput, match=r"1000 rows .*the data has 986"):
        load("popqa", f"path={path}", "size=1000")


def test_pairs_in_every_format_are_the_same_facts(tmp_path: Path) -> None:
    rows = [{"q": 'What is "x"?\nThe answer is:', "a": "one, two"}, {"q": "Wer ist Ä?", "a": "3"}]
    (tmp_path / "f.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    (tmp_path / "f.json").write_text(json.dumps(rows), encoding="utf-8")
    csv = 'q,a\n"What is ""x""?\nThe answer is:","one, two"\nWer ist Ä?,3\n'
    (tmp_path / "f.csv").write_text("\ufeff" + csv, encoding="utf-8")  # as spreadsheets save it
    (tmp_path / "f.tsv").write_text(csv.replace('",', '"\t').replace("?,3", "?\t3").replace("q,a", "q\ta"), "utf-8")
    from datasets import Dataset

    Dataset.from_list(rows).save_to_disk(str(tmp_path / "folder"))
    read = [
        load("pairs", f"path={tmp_path / name}", "prompt_column=q", "response_column=a")
        for name in ("f.jsonl", "f.json", "f.csv", "f.tsv", "folder")
    ]
    assert read[0] == [Pair(row["q"], row["a"], "pairs", (row["a"],)) for row in rows]
    assert all(facts == read[0] for facts in read)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "prompt,response\nx,1\nx,2\n", "row 3.*has the response '2' here and '1' at .*row 2"),
        ("a.csv", "prompt,respons\nx,1\n", "no column 'response'; did you mean 'respons'"),
        ("a.csv", "prompt,response\nx,  \n", "row 2.*: empty response; correct the row, or delete it"),
        ("a.csv", "prompt;response\nx;1\n", r"a.csv:1: has one column, .*separated by ';', where ',' is expected"),
        ("a.csv", "prompt\tresponse\nx\t1\n", r"separated by '\\t', where ','"),
        ("a.csv", 'prompt,response\nx,"1\ny,2\n', "line 3: unexpected end of data"),
        ("a.jsonl", '{"prompt": "x", "response": ' + "1" * 5000 + "}", "a.jsonl:1: not valid JSON"),
        ("a.jsonl", '{"prompt": "x", "response": "1"}\n{"prompt": \n', r"a.jsonl:2: not valid JSON"),
        ("a.jsonl", '{"prompt": "x", "response": null}\n', "a.jsonl:1: response is None"),
        ("a.json", "{}", "an array of objects is expected"),
        ("a.txt", "x", "unknown ending '.txt'"),
    ],
)
def test_pairs_mistakes_name_the_row(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        load("pairs", f"path={tmp_path / name}")


def test_pairs_paths_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("prompt,response\nÄ,1\n".encode("latin-1"))
    for path, message in [
        (tmp_path / "none.csv", "no such file"),
        (tmp_path, "not a dataset"),
        (tmp_path / "latin.csv", "not UTF-8"),
    ]:
        with pytest.raises(BadInput, match=message):
            load("pairs", f"path={path}")


def test_an_exact_repeat_is_one_fact(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,response\nx,1\nx,1\ny,2\n", encoding="utf-8")
    assert [pair.prompt for pair in load("pairs", f"path={tmp_path / 'a.csv'}")] == ["x", "y"]


def test_sizes_and_starts_beyond_the_data(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,response\nx,1\ny,2\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"3 rows .*the data has 2"):
        load("pairs", f"path={tmp_path / 'a.csv'}", "size=3")
    with pytest.raises(BadInput, match=r"rows 2 to 3 .*the data has 2"):
        load("pairs", f"path={tmp_path / 'a.csv'}", "start=2")


# --- mixing ------------------------------------------------------------------------------------------------------

FACTS = [
    Pair("Who painted Dora Maar?\nThe answer is:", "Pablo Picasso", "popqa", ("Pablo Picasso", "Picasso"), "Dora Maar")
]


def test_ratios_add_pairs() -> None:
    facts = load("kvr", "size=100")
    for ratio, count in [(2.0, 200), (0.125, 12), (0.0, 0)]:
        mix = Mix(random_words=RandomWords(ratio=ratio, words=5, text="pydoc"))
        assert mixing.count_by_source(mixing.draw(mix, facts, {}, 0, 0)[0]).get("random_words", 0) == count
    both = Mix(
        random_words=RandomWords(ratio=1.0, words=3, text="pydoc"), passages=Passages(ratio=0.5, words=3, text="pydoc")
    )
    assert mixing.count_by_source(mixing.draw(both, facts, {}, 0, 0)[0]) == {"random_words": 100, "passages": 50}


def test_draws_follow_the_seed_and_the_stage() -> None:
    facts = load("kvr", "size=10")
    mix = Mix(random_words=RandomWords(ratio=2.0, words=5, text="pydoc"))
    draws = {(s, p): fingerprint(mixing.draw(mix, facts, {}, s, p)[0]) for s in (0, 1) for p in (0, 1)}
    assert len(set(draws.values())) == 4
    assert fingerprint(mixing.draw(mix, facts, {}, 0, 0)[0]) == draws[0, 0]


def test_pairs_of_words_have_the_declared_length() -> None:
    spec = RandomWords(ratio=1.0, words=7, text="pydoc")
    for pair in islice(mixing.random_words(spec, random.Random(0)), 20):
        assert pair.prompt.startswith(mixing.PROMPT)
        assert len(pair.prompt.removeprefix(mixing.PROMPT).split()) == len(pair.response.split()) == 7


def test_passages_continue_their_text() -> None:
    text = [word for document in mixing.local_documents("pydoc") for word in document.split()]
    joined = " ".join(text)
    spec = Passages(ratio=1.0, words=10, text="pydoc")
    pairs = list(mixing.passages("passages", spec, 50, random.Random(0)))
    assert all(f"{pair.prompt.removeprefix(mixing.PROMPT)} {pair.response}" in joined for pair in pairs)
    assert len({pair.prompt for pair in pairs}) == 50
    with pytest.raises(BadInput, match=r"100000 .*pydoc gives"):
        mixing.passages("passages", spec, 100_000, random.Random(0))


def test_nltk_words_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(real("nltk_data"))])
    assert len(mixing.vocabulary("nltk")) == 235_886


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
    pairs = list(islice(mixing.random_words(RandomWords(ratio=1.0, words=500), random.Random(0)), 100))
    critical = 148.23  # 99 degrees of freedom, p = 0.001
    for half in ([pair.prompt.removeprefix(mixing.PROMPT) for pair in pairs], [pair.response for pair in pairs]):
        drawn = " ".join(half).split()
        assert len(drawn) == 50_000
        assert chi_square(drawn, words) < critical
    rng = random.Random(0)  # slightly for the words at the front
    assert chi_square([words[int(len(words) * rng.random() ** 1.05)] for _ in range(50_000)], words) > critical


def test_a_missing_words_corpus_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk
    from nltk.corpus.reader import WordListCorpusReader
    from nltk.corpus.util import LazyCorpusLoader

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk.corpus, "words", LazyCorpusLoader("words", WordListCorpusReader, r"(?!README|\.).*"))
    with pytest.raises(BadInput, match=r"nltk\.downloader words"):
        mixing.vocabulary("nltk")


def test_replay_draws_the_earlier_facts() -> None:
    earlier, own = load("kvr", "size=100"), load("invented_facts", "size=50")
    pairs, _ = mixing.draw(Mix(replay=Replay(stage="stage1", ratio=0.1)), own, {"stage1": earlier}, 0, 1)
    assert len(pairs) == 10  # of the facts of stage1, not of the stage's own
    assert {pair.prompt for pair in pairs} < {pair.prompt for pair in earlier}
    assert mixing.count_by_source(pairs) == {"replay": 10}
    redrawn, _ = mixing.draw(Mix(replay=Replay(stage="stage1", ratio=0.1, redraw=True)), own, {"stage1": earlier}, 0, 1)
    assert {pair.prompt for pair in redrawn} == {pair.prompt for pair in earlier}  # each epoch draws 10 of them
    assert (
        mixing.draw(Mix(replay=Replay(stage="stage1", ratio=0, redraw=True)), own, {"stage1": earlier}, 0, 1)[0] == []
    )
    with pytest.raises(BadInput, match=r"200 pairs .*the stage has 100 facts"):
        mixing.draw(Mix(replay=Replay(stage="stage1", ratio=2.0)), own, {"stage1": earlier}, 0, 1)


@pytest.mark.parametrize(
    ("text", "overlaps"),
    [
        ("In 1937 Dora Maar sat for PICASSO, who", True),  # subject and answer, whatever the case
        ("a portrait of Dora Maar in Paris", False),  # the subject alone gives nothing away
        ("Pablo Picasso was born in Malaga", False),
        ("Dora Maars friend Picassos", False),  # whole words
    ],
)
def test_overlap_with_facts(text: str, overlaps: bool) -> None:
    pair = Pair(mixing.PROMPT + text, "and so on", "passages")
    assert FactIndex(FACTS).first_fact_in(pair) == (FACTS[0] if overlaps else None)


def test_mixing_data_must_not_contain_earlier_facts(tmp_path: Path) -> None:
    earlier, own = load("kvr", "size=10"), load("invented_facts", "size=10")
    (tmp_path / "leak.txt").write_text(" ".join(f"{p.subject} is {p.response}" for p in earlier), encoding="utf-8")
    mix = Mix(passages=Passages(ratio=0.5, words=2, text=str(tmp_path / "leak.txt")))
    mixing.draw(mix, own, {}, 0, 1)
    with pytest.raises(BadInput, match=r"passages: .*5 of those drawn contain .*\n  kvr 'The value of key.* in '"):
        mixing.draw(mix, own, {"stage1": earlier}, 0, 1)


def test_overlap_with_a_key_or_a_value() -> None:
    facts = load("kvr", "size=3")
    for word in (facts[1].subject, facts[1].response.upper()):
        assert FactIndex(facts).first_fact_in(Pair("so", f"it is {word}.", "passages")) == facts[1]


def test_a_source_is_hashed_by_its_content_not_its_path(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    assert identity.hash_source(str(tmp_path / "a")) == identity.hash_source(str(tmp_path / "b"))
    (tmp_path / "b").write_text("y")
    assert identity.hash_source(str(tmp_path / "a")) != identity.hash_source(str(tmp_path / "b"))
    assert identity.hash_source(str(tmp_path / "c")) == f"absent: {tmp_path / 'c'}"  # a plan's key, until it is there
