"""`remix show`: seeds together and arms against the first one, against cases worked out by hand."""

import json
from collections import Counter
from pathlib import Path

import pytest

from remix_toolkit.evaluate.recall import VerdictRow
from remix_toolkit.records import read_rows
from remix_toolkit.report.stage import Stage


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where stages are made up: no base model is needed."""
    return tmp_path / "runs"


def first(known: int) -> list[int]:
    """The first facts of forty are known."""
    return [1] * known + [0] * (40 - known)


def shown(here, runs: Path, *arguments: str) -> dict:
    return json.loads(here("show", "--runs", runs, "--seeds", "--json", *arguments).stdout)


def means_after_stage2(here, runs: Path, *arguments: str) -> list[dict]:
    rows = shown(here, runs, *arguments)["recall"]
    return [row for row in rows if (row["stage"], row["task"]) == ("stage2", "kvr")]


def test_the_mean_over_seeds_and_its_interval(trained, runs: Path, here) -> None:
    trained.write_arms(runs, {"none": [first(8), first(4), first(12)], "random": [first(8)]})
    three, one = means_after_stage2(here, runs)
    assert (three["mean"], three["sd"], three["n"], three["seeds"]) == (20, 10, 3, [0, 1, 2])
    # V_seeds = 0.01 / 3, V_facts = 0.16 / 40: 21.8 answers, q² = (4.303² / 300 + 1.96² * 0.004) / 0.00733 = 10.5
    assert (three["low"], three["high"]) == (pytest.approx(5.0, abs=0.1), pytest.approx(54.6, abs=0.1))
    assert (three["over"], three["seeds_to_halve"], three["missing"]) == ("seeds and facts", 13, [])
    assert (three["own"], three["facts"], len(three["lists"])) == (False, 40, 1)
    assert (one["mean"], one["sd"], one["over"], one["seeds_to_halve"]) == (20, None, "facts of one seed", None)
    assert (one["n"], one["missing"]) == (1, [1, 2])
    # Each number, from the file itself:
    for entry in json.loads(here("show", "--runs", runs, "--json").stdout):
        rows = [row for row in read_rows(Path(entry["path"], "recall.jsonl"), VerdictRow) if row.list == entry["list"]]
        assert (entry["facts"], entry["recall"]) == (len(rows), 100 * sum(row.correct for row in rows) / len(rows))


def test_what_is_apart_is_not_averaged_and_the_newest_counts(trained, runs: Path, here) -> None:
    half = {"knows": lambda stage, task, row: row < 10}
    trained.run(runs, arm="none", overrides={})
    trained.run(runs, "train.weight_decay=0.1", arm="none", overrides={}, **half)  # the same seed again
    trained.run(runs, "train.weight_decay=0.2", arm="none", seed=1, overrides={"train.weight_decay": 0.2})
    trained.run(runs, "train.weight_decay=0.3", arm="random", overrides={})
    trained.run(runs, "train.weight_decay=0.4", arm="random", overrides={}, grid_point="size=20", **half)
    means = means_after_stage2(here, runs)
    assert [(row["arm"], row["overrides"], row["mean"], row["seeds"]) for row in means] == [
        ("none", [], 50, [0]),
        ("none", ["train.weight_decay=0.2"], 100, [1]),
        ("random", [], 100, [0]),
        ("random", [], 50, [0]),
    ]
    assert "none train.weight_decay=0.2" in here("show", "--runs", runs).stdout
    trained.run(runs, "data_seed=1", arm="random", seed=1, overrides={})
    (row,) = [row for row in means_after_stage2(here, runs) if row["n"] == 2]
    assert len(row["lists"]) == 2
    assert "random: not the same facts under all seeds (kvr after stage1, " in here("show", "--runs", runs).stdout


def test_arms_are_compared_with_the_first_fact_by_fact(trained, runs: Path, here, monkeypatch) -> None:
    """Of 40 facts, `better` keeps 20 that `none` loses under each of three seeds, and loses 2 that `none` keeps."""
    none, better = [0] * 30 + [1] * 10, [1] * 20 + [0] * 12 + [1] * 8
    read: list[Path] = []
    rows = Stage._rows
    monkeypatch.setattr(Stage, "_rows", lambda stage: read.append(stage.folder) or rows(stage))
    arms = {"none": [none] * 3, "worse": [[0] * 40] * 3, "better": [better] * 3, "alone": [first(20)]}
    trained.write_arms(runs, arms)
    worse, best, alone = shown(here, runs)["paired"]
    assert set(Counter(read).values()) == {1}
    assert not any("stage1" in folder.name for folder in read)  # what it answered is not compared
    assert (best["first"], best["second"], best["task"], best["stage"]) == ("none", "better", "kvr", "stage2")
    assert (best["of_first"], best["of_second"], best["difference"]) == (25.0, 70.0, 45.0)
    assert (best["one_to_zero"], best["zero_to_one"], best["seeds"], best["facts"]) == (6, 60, [0, 1, 2], 40)
    # The seeds agree, so what is left is over facts: squares of 22 - 40 * 0.45 ** 2, and 1; 1.96 * 9.77 points.
    assert (best["low"], best["high"]) == (pytest.approx(45 - 19.15, abs=0.01), pytest.approx(45 + 19.15, abs=0.01))
    flips = {row["prompt"]: (row["one_to_zero"], row["zero_to_one"]) for row in best["flips"]}
    prompts = [f"The value of key {row} is?" for row in range(40)]
    assert flips == dict.fromkeys(prompts[:20], (0, 3)) | dict.fromkeys(prompts[30:32], (3, 0))
    # Holm: the smaller p of two counts twice. One seed compares no arms.
    assert (best["p_holm"], worse["p_holm"]) == (pytest.approx(2 * best["p"]), worse["p"])
    assert (alone["over"], alone["seeds"], alone["p_holm"]) == ("facts of one seed", [0], None)


def test_only_what_both_were_asked_is_compared(trained, runs: Path, here) -> None:
    """Other facts are none to compare, and where a recipe was edited between seeds, most of them count.

    Under one id, models have other facts where the model decides on them, as with `familiarity`.
    """

    def ran(arm: str, seed: int, known: list[int], **more: list[str]) -> None:
        stages = {"stage1": {"kvr": [1] * len(known)}, "stage2": {"kvr": known, "webqa": [1]}}
        trained.write_run(runs, arm, seed, stages, **more)

    for seed in (0, 1, 2):
        ran("none", seed, [0, 1])
    ran("none", 3, [0, 1, 1])
    for seed in (1, 2, 5):
        ran("random", seed, [1, 1])
    ran("random", 3, [1, 1, 1])
    ran("apart", 0, [1, 1, 1])
    ran("familiar", 0, [1, 1], asked=["What does this model know?", "And what else?"])
    (pair,) = shown(here, runs)["paired"]
    assert (pair["second"], pair["seeds"], pair["facts"], pair["zero_to_one"]) == ("random", [1, 2], 2, 2)
    out = here("show", "--runs", runs).stdout
    assert "Not compared, no seed and fact in common with none: apart, familiar.\n" in out
    assert "random: seed 0 missing (kvr after stage1, kvr after stage2, webqa after stage2)" in out


def test_of_a_single_stage_only_other_facts_are_compared(trained, runs: Path, tmp_path: Path, here) -> None:
    """Its own facts it has only just learnt; those that are only measured it may have lost."""
    file = tmp_path / "one.yaml"
    only_measured = "recall: [{task: invented_facts, size: 20}]"
    file.write_text(f"stages: {{stage1: {{data: {{task: kvr, size: 20}}, {only_measured}}}}}\n", encoding="utf-8")
    for arm, known, decay in (("none", 5, 0.1), ("random", 15, 0.2)):
        knows = lambda stage, task, row, known=known: task == "kvr" or row < known  # noqa: E731
        trained.run(runs, f"train.weight_decay={decay}", recipe=file, arm=arm, knows=knows, overrides={})
    (pair,) = shown(here, runs)["paired"]
    assert (pair["task"], pair["difference"], pair["second"]) == ("invented_facts", 50.0, "random")


def test_tables(trained, runs: Path, here) -> None:
    """A lean one, and one of several seeds, which fits 120 characters; an arm's name is no markup."""
    runs.mkdir()
    assert here("show", "--runs", runs).stdout == f"{runs}: nothing is published yet\n"
    after = {"kvr": first(10), "webqa": [1], "lama": [1]}
    trained.write_run(runs, "none", 0, {"stage1": {"kvr": first(40)}, "stage2": after, "stage3": after})
    single = here("show", "--runs", runs, "--seeds").stdout
    assert "says nothing of other seeds" in single
    assert not [word for word in ("missing", "compared", "Intervals are", "not the same facts") if word in single]
    for arm, kept in {"none": [10, 40], "random [x]": [40, 40, 40]}.items():
        for seed, known in enumerate(kept, start=3 - len(kept)):
            after = {"kvr": first(known), "webqa": [1], "lama": [1]}
            trained.write_run(runs, arm, seed, {"stage1": {"kvr": first(40 - seed)}, "stage2": after, "stage3": after})
    trained.write_run(runs, "begun", 0, {"stage1": {"kvr": first(40)}}, begun=["stage2"])
    out, each = here("show", "--runs", runs).stdout, here("show", "--runs", runs, "--each").stdout
    assert max(map(len, out.splitlines())) <= 120
    for text in (
        "97.5 ± 2.5 [",
        "50.0 ± 43.3 [",  # 25, 25, 100
        "none: stage1 knows only 97.5% (seed 1), 95.0% (seed 2) of its own facts (100% is the premise)",
        "begun: seeds 1, 2 missing (kvr after stage1)",
        "kvr after stage3, difference from none, fact by fact",
        "Intervals are for other seeds and other facts",
    ):
        assert text in out
    (line,) = [line for line in out.splitlines() if "0 / 60" in line]
    arm, difference, _, flips, facts, seeds, *_ = [cell.strip() for cell in line.split("│")[1:-1]]
    assert (arm, difference, flips, facts, seeds) == ("random [x]", "+50.0", "0 / 60", "40", "0, 1, 2")
    assert "sizes, arm random [x] on tiny, seed 2" in each
    assert "random [x]: stage1 knows only 95.0% (seed 2) of its own facts" in each


def test_a_damaged_file_is_named_and_its_seed_is_not_compared(trained, runs: Path, here) -> None:
    trained.write_arms(runs, {"none": [first(10)] * 3, "random": [first(20)] * 2})
    folder = trained.write_run(runs, "random", 2, {"stage1": {"kvr": first(40)}, "stage2": {"kvr": first(5)}})["stage2"]
    (folder / "recall.jsonl").write_text('{"list": "kv', encoding="utf-8")
    done = here("show", "--runs", runs, "--seeds", "--json")
    assert done.stderr.count("recall.jsonl") == 1
    (pair,) = json.loads(done.stdout)["paired"]
    assert (pair["seeds"], pair["difference"]) == ([0, 1], 25.0)
