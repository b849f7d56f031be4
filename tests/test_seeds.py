"""Seeds together, against cases worked out by hand."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.recall import VerdictRow
from remix_toolkit.records import write_rows
from remix_toolkit.report import verdicts
from remix_toolkit.report.retention import remembered
from remix_toolkit.report.seeds import aggregate, compared, paired, print_seeds

PROMPTS = [f"What is {n}?" for n in range(40)]


def entry(recall: float | None = 50.0, seed: int = 0, **changes: object) -> dict:
    """A row as `store.entries` has it; `r` on tiny, stage2, task kvr, arm none, where nothing else is said."""
    row = {
        "recipe": "r",
        "arm": "none",
        "profile": "tiny",
        "seed": seed,
        "overrides": [],
        "run": "k",
        "stage": "stage2",
    }
    row |= {"steps": 9, "key": "k", "path": "", "task": "kvr", "list": "kvr-1", "recall": recall, "facts": 40}
    row |= {"near_ties": 0, "memory_estimated": None, "memory_peak": None}
    return row | {"own": False, "held_out": None} | changes


def measured(folder: Path, correct: Sequence[int], prompts: Sequence[str] = PROMPTS, **changes: object) -> dict:
    """An entry whose recall.jsonl holds these outcomes, beside those of another list with the same prompts."""
    folder.mkdir(parents=True)
    row = entry(100.0 * sum(correct) / len(correct), facts=len(correct), path=str(folder), **changes)
    rows = []
    for list_id, known in ((row["list"], correct), ("other", [1] * len(prompts))):
        for fact, (prompt, right) in enumerate(zip(prompts, known, strict=True)):
            about = {"list": list_id, "fact": fact, "prompt": prompt, "gold": ("a",), "prediction": "a\u2028b"}
            rows.append(VerdictRow(**about, correct=bool(right), prediction_complete=True, settled_by="scoring"))
    write_rows(folder / "recall.jsonl", rows)
    return row


def two_arms(tmp_path: Path, outcomes: dict[str, list[list[int]]], prompts: Sequence[str] = PROMPTS) -> list[dict]:
    """Arm -> outcomes of its seeds 0, 1, ..., as entries."""
    return [
        measured(tmp_path / f"{arm}{seed}", row, prompts[: len(row)], arm=arm, seed=seed)
        for arm, rows in outcomes.items()
        for seed, row in enumerate(rows)
    ]


def test_what_is_compared_is_what_is_to_be_remembered(tmp_path: Path) -> None:
    """Of a single stage, its own facts are new; those that are only measured may be lost."""
    rows = []
    for arm, known in (("none", [1, 0, 0, 0]), ("random", [1, 1, 1, 0])):
        rows.append(measured(tmp_path / f"{arm}own", [1] * 4, PROMPTS[:4], arm=arm, stage="stage1", list="l", own=True))
        rows[-1]["task"] = "lama"
        rows.append(measured(tmp_path / arm, known, PROMPTS[:4], arm=arm, stage="stage1", task="popqa"))
    (found,) = compared(rows)
    assert (found["task"], found["difference"], found["second"]) == ("popqa", 50.0, "random")
    assert remembered([{**row, "stage": "stage0"} for row in rows[:1]] + rows[1:]) == ["lama", "popqa"]


def test_mean_spread_and_interval_of_three_seeds() -> None:
    (row,) = aggregate([entry(30, 2), entry(10, 0), entry(20, 1)])
    assert (row["mean"], row["sd"], row["n"], row["seeds"]) == (20, 10, 3, [0, 1, 2])  # sd: sqrt((100 + 0 + 100) / 2)
    # V_seeds = 0.01 / 3, V_facts = 0.16 / 40: 21.8 answers, q² = (4.303² / 300 + 1.96² * 0.004) / 0.00733 = 10.5
    assert (row["low"], row["high"]) == (pytest.approx(5.0, abs=0.1), pytest.approx(54.6, abs=0.1))
    assert (row["over"], row["seeds_to_halve"]) == ("seeds and facts", 13)
    assert (row["own"], row["facts"], row["lists"], row["missing"]) == (False, 40, ["kvr-1"], [])


def test_the_interval_of_one_seed_is_over_its_facts() -> None:
    (row,) = aggregate([entry(41.5, 7)])
    assert (row["mean"], row["sd"], row["over"], row["n"], row["seeds"]) == (41.5, None, "facts of one seed", 1, [7])
    (two,) = aggregate([entry(41.5, 7), entry(41.5, 8)])  # alike: what is left is over facts
    assert (two["sd"], two["over"]) == (0, "seeds and facts")
    assert (two["low"], two["high"]) == (pytest.approx(row["low"]), pytest.approx(row["high"]))


def test_what_is_apart_is_not_averaged() -> None:
    others = [
        {"recipe": "s"},
        {"arm": "random"},
        {"profile": "p"},
        {"overrides": ["a=1"]},
        {"stage": "t"},
        {"task": "u"},
    ]
    rows = aggregate([entry(10), *(entry(20, **change) for change in others)])
    assert [row["mean"] for row in rows] == [10, *[20] * 6]
    assert rows[4]["overrides"] == ["a=1"]


def test_a_seed_run_twice_counts_once_the_newest() -> None:
    (row,) = aggregate([entry(10, 0, list="kvr-0", facts=5), entry(20, 1), entry(40, 0)])
    assert (row["mean"], row["seeds"], row["lists"]) == (30, [0, 1], ["kvr-1"])
    (row,) = aggregate([entry(20, 1), entry(40, 0), entry(10, 1, list="kvr-2", facts=5)])
    assert (row["mean"], row["facts"], row["lists"]) == (25, 5, ["kvr-1", "kvr-2"])  # other facts under seed 0


def test_missing_seeds() -> None:
    rows = [entry(10, 0), entry(10, 1), entry(10, 0, arm="random"), entry(None, 2, task="gsm8k")]
    rows += [entry(10, 5, profile="p"), entry(10, 6, recipe="s")]  # other sweeps
    assert [row["missing"] for row in aggregate(rows)] == [[2], [1, 2], [], []]
    expected = {("r", "random", "tiny"): [0, 4], ("r", "none", "p"): range(6)}
    assert [row["missing"] for row in aggregate(rows, expected)] == [[2], [1, 2, 4], [0, 1, 2, 3, 4], []]
    assert aggregate([]) == []


def test_a_difference_that_is_there(tmp_path: Path) -> None:
    """Of 40 facts, `random` keeps 20 that `none` loses under each of three seeds, and loses 2 that `none` keeps."""
    none, random = [0] * 30 + [1] * 10, [1] * 20 + [0] * 10 + [0] * 2 + [1] * 8
    found = paired(two_arms(tmp_path, {"none": [none] * 3, "random": [random] * 3}), "none", "random", "stage2", "kvr")
    assert found is not None
    assert found["difference"] == 45.0  # 100 * (20 - 2) / 40
    assert (found["one_to_zero"], found["zero_to_one"], found["seeds"], found["facts"]) == (6, 60, [0, 1, 2], 40)
    # The seeds agree, so what is left is over facts: squares of 22 - 40 * 0.45 ** 2, and 1; 1.96 * 9.77 points.
    assert found["low"] == pytest.approx(45 - 19.15, abs=0.01)
    assert found["high"] == pytest.approx(45 + 19.15, abs=0.01)
    assert found["p"] == pytest.approx(math.erfc(0.45 / math.sqrt(2 * 14.9 / (40 * 39))))
    flips = {row["prompt"]: (row["one_to_zero"], row["zero_to_one"]) for row in found["flips"]}
    assert flips == dict.fromkeys(PROMPTS[:20], (0, 3)) | dict.fromkeys(PROMPTS[30:32], (3, 0))
    turned = paired(two_arms(tmp_path / "t", {"a": [random] * 3, "b": [none] * 3}), "a", "b", "stage2", "kvr")
    assert turned is not None
    assert (turned["difference"], turned["one_to_zero"], turned["zero_to_one"]) == (-45.0, 60, 6)
    assert turned["p"] == found["p"]
    assert turned["high"] < 0


def test_a_difference_that_may_be_none(tmp_path: Path) -> None:
    """8 of 40 facts gained and 5 lost, under one seed."""
    none, random = [0] * 8 + [1] * 5 + [1] * 27, [1] * 8 + [0] * 5 + [1] * 27
    found = paired(two_arms(tmp_path, {"none": [none], "random": [random]}), "none", "random", "stage2", "kvr")
    assert found is not None
    assert (found["difference"], found["one_to_zero"], found["zero_to_one"], found["seeds"]) == (7.5, 5, 8, [0])
    assert (found["over"], found["seeds_to_halve"]) == ("facts of one seed", None)
    assert found["low"] < 0 < found["high"]
    assert found["p"] == pytest.approx(2 * (1 + 13 + 78 + 286 + 715 + 1287) / 8192, abs=0.2)  # McNemar's exact test


def test_facts_in_another_order_are_matched_by_prompt(tmp_path: Path) -> None:
    a = measured(tmp_path / "a", [1, 1, 0, 0], ["p", "q", "r", "s"], arm="a")
    b = measured(tmp_path / "b", [0, 0, 1, 1], ["s", "r", "q", "p"], arm="b")
    found = paired([a, b], "a", "b", "stage2", "kvr")
    assert found is not None
    assert (found["difference"], found["flips"], found["facts"], found["p"]) == (0, [], 4, 1)
    c = measured(tmp_path / "c", [1, 0, 1], ["s", "p", "new"], arm="c")  # p lost, s gained; q, r, new have no partner
    found = paired([a, c], "a", "c", "stage2", "kvr")
    assert found is not None
    assert (found["difference"], found["one_to_zero"], found["zero_to_one"], found["facts"]) == (0, 1, 1, 2)


def test_only_shared_seeds_and_lists_are_compared(tmp_path: Path) -> None:
    a = [measured(tmp_path / f"a{seed}", [0, 1], ["p", "q"], arm="a", seed=seed) for seed in (0, 1, 2)]
    other = measured(tmp_path / "b2", [1, 1], ["p", "q"], arm="b", seed=2, list="other")
    b = [measured(tmp_path / f"b{seed}", [1, 1], ["p", "q"], arm="b", seed=seed) for seed in (1, 3)]
    found = paired([*a, *b, other], "a", "b", "stage2", "kvr")
    assert found is not None
    assert (found["seeds"], found["difference"], found["zero_to_one"]) == ([1], 50, 1)
    assert paired([*a, other], "a", "b", "stage2", "kvr") is None  # another list
    old = [measured(tmp_path / f"{arm}9", [1], ["p"], arm=arm, seed=-1, list="old") for arm in "ab"]  # two were edited
    two = [measured(tmp_path / f"c{seed}", [1, 1], ["p", "q"], arm="b", seed=seed) for seed in (0, 1)]
    found = paired([*old, *a, *two], "a", "b", "stage2", "kvr")
    assert found is not None
    assert (found["seeds"], found["facts"]) == ([0, 1], 2)  # the list that most seeds were asked
    assert paired([a[0], b[0]], "a", "b", "stage2", "kvr") is None  # seed 0 and seed 1
    assert paired([*a, *b], "a", "b", "stage1", "kvr") is None
    assert paired([*a, *b], "a", "unknown", "stage2", "kvr") is None
    else_ = measured(tmp_path / "e", [1, 1], ["x", "y"], arm="e", seed=1)
    assert paired([*a, else_], "a", "e", "stage2", "kvr") is None  # no prompt in common


def test_thousands_of_facts(tmp_path: Path) -> None:
    """6,000 discordant pairs."""
    prompts = [str(n) for n in range(2500)]
    none, random = [1] * 500 + [0] * 2000, [0] * 500 + [1] * 1500 + [0] * 500
    entries = two_arms(tmp_path, {"none": [none] * 3, "random": [random] * 3}, prompts)
    found = paired(entries, "none", "random", "stage2", "kvr")
    assert found is not None
    assert (found["one_to_zero"], found["zero_to_one"], found["difference"]) == (1500, 4500, 40)
    assert 0 <= found["p"] < 1e-12
    assert 36 < found["low"] < 38.5 < 41.5 < found["high"] < 44  # 1.96 * sqrt((2000 / 2500 - 0.16) / 2500): 3.1 points


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    a, b = two_arms(tmp_path, {"a": [[1]], "b": [[0]]})
    for change in ({"overrides": ["x=1"]}, {"recipe": "s"}, {"profile": "p"}):
        with pytest.raises(ValueError, match="several recipes, profiles or overrides"):
            paired([a, b, {**b, **change}], "a", "b", "stage2", "kvr")
    for change in ({"recipe": "s"}, {"profile": "p"}):
        with pytest.raises(ValueError, match="several recipes"):
            paired([a, {**b, **change}], "a", "b", "stage2", "kvr")
    file = tmp_path / "b0" / "recall.jsonl"
    whole = file.read_bytes()
    for broken, message in (
        (b'{"list": "kvr-1"}\n', r":1: prompt: Field required"),
        (b'{"list": "kvr-1"', ": has no answers to the facts kvr-1"),
        (whole.partition(b"\n")[2], ": has no answers to the facts kvr-1"),
        (b"\xff", r": cannot be read \(UnicodeDecodeError"),
    ):
        file.write_bytes(broken)
        with pytest.raises(BadInput, match=r"b0/recall\.jsonl" + message):
            paired([a, b], "a", "b", "stage2", "kvr")
    file.unlink()
    with pytest.raises(BadInput, match=r"b0/recall\.jsonl: cannot be read \(FileNotFoundError"):
        paired([a, b], "a", "b", "stage2", "kvr")


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none, random = [0] * 30 + [1] * 10, [1] * 30 + [1] * 10
    after = two_arms(tmp_path, {"none": [none, none, random], "random [x]": [random, random]})
    before = [entry(99.5 - seed, seed, stage="stage1", own=True, arm=e["arm"]) for e in after for seed in [e["seed"]]]
    own = [entry(100, e["seed"], task="a long task's name " * 2, own=True, arm=e["arm"], list="l") for e in after]
    more = [entry(5, 0, task=f"task{n}", list=f"more{n}") for n in range(4)]
    print_seeds([*before, *after, *own, *more], {("r", "random [x]", "tiny"): [0, 9], ("r", "generic", "tiny"): [0]})
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 120
    for text in (
        "98.5 ± 1.0, n=3",
        "50.0 ± 43.3, n=3",  # 25, 25, 100
        "random [x]: seeds 2, 9 missing (kvr after stage1, kvr after stage2, a long task's name",
        "none: seeds 1, 2 missing (task0 after stage2, task1 after stage2",
        "none: stage1 knows only 98.5% (seed 1), 97.5% (seed 2) of its own facts (100% is the premise)",
        "random [x]: stage1 knows only 98.5% (seed 1) of its own facts",
        "compared with none",
        "generic: nothing is measured yet",
    ):
        assert text in said
    assert said.count("task3 after stage2") == 2  # in the second table, and among what is missing
    (line,) = [line for line in said.splitlines() if "0 / 60" in line]
    arm, difference, interval, *rest = [cell.strip() for cell in line.split("│")[1:-1]]
    assert (arm, difference, rest) == ("random [x]", "+75.0", ["<0.001", "<0.001", "0 / 60", "0, 1", "40"])
    low, high = map(float, interval.strip("[]").split(","))  # 1.96 * sqrt((40 * 0.75 * 0.25 + 1) / (40 * 39))
    assert (low, high) == (pytest.approx(75 - 14.5, abs=0.1), pytest.approx(75 + 14.5, abs=0.1))


def test_several_arms_are_corrected_for_one_another(tmp_path: Path) -> None:
    """Holm: the smallest p of two counts twice, the other as it is. One seed compares no arms, and does not count."""
    kept = {"none": (10, 2), "worse": (0, 2), "better": (32, 2), "one seed": (20, 1)}
    arms = {arm: [[1] * many + [0] * (40 - many)] * seeds for arm, (many, seeds) in kept.items()}
    worse, better, alone = compared(two_arms(tmp_path, arms))
    assert (alone["over"], alone["p_holm"]) == ("facts of one seed", None)
    assert better["p"] < worse["p"] < 0.05
    assert (better["p_holm"], worse["p_holm"]) == (pytest.approx(2 * better["p"]), worse["p"])


def test_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = two_arms(tmp_path, {arm: [[1, 0]] for arm in ("none", "b", "c", "d")}, PROMPTS[:2])
    read: list[str] = []
    real = verdicts.rows
    monkeypatch.setattr(verdicts, "rows", lambda path, facts: read.append(path) or real(path, facts))
    print_seeds(rows)
    assert sorted(read) == sorted(row["path"] for row in rows)


def test_tables_of_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_seeds([])
    print_seeds([entry(None, task="gsm8k")])
    assert capsys.readouterr().out == ""
    print_seeds([entry(12.0), entry(None, task="gsm8k")])
    said = capsys.readouterr().out
    assert "n=1" in said
    assert "says nothing of other seeds" in said
    for word in ("missing", "compared", "Intervals are", "not the same facts"):
        assert word not in said
    apart = [entry(10, 0, list="a", own=True), entry(10, 1, list="b", own=True), entry(10, 1, list="c", arm="b")]
    print_seeds(apart)
    said = capsys.readouterr().out
    assert "none: not the same facts under all seeds (kvr after stage2)" in said
    assert "Not compared with none, no seed and fact in common there: b\n" in said
    assert "fact by fact" not in said


def test_one_arm_run_with_several_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        measured(tmp_path / f"{n}{stage}", [n, 1, 1, 1], PROMPTS[:4], stage=stage, own=stage == "stage1", overrides=own)
        for n, own in enumerate((["mix={}"], ["mix={}", "size=4"]))
        for stage in ("stage1", "stage2")
    ]
    rows.append(measured(tmp_path / "b", [1] * 4, PROMPTS[4:8], arm="b"))
    print_seeds(rows)
    said = capsys.readouterr().out
    assert "none size=4: " not in said
    assert "none: stage1 knows only 75.0% (seed 0)" in said
    assert [line.split("│")[1:3] for line in said.splitlines() if "+25.0" in line and "none size=4" in line]
    assert "Not compared with none, no seed and fact in common there: b\n" in said
