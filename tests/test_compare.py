"""Two stages, arms or stores side by side, against cases worked out by hand."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remix_toolkit.evaluate.held_out import HeldOut
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.records import RetentionPoint

MIX = "stages.stage1.mix={random_words: {ratio: 2}}"
Compare = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where stages are made up: no base model is needed."""
    return tmp_path / "runs"


@pytest.fixture
def compare(here, runs: Path) -> Compare:
    """The pairs of two sides."""
    return lambda a, b: json.loads(here("compare", a, b, "--runs", runs, "--json").stdout)["pairs"]


def first_ten(stage: str, task: str, row: int) -> bool:
    return (stage, task) != ("stage2", "kvr") or row < 10


def all_but_five(stage: str, task: str, row: int) -> bool:
    """Of the keys after stage2, rows 5 to 19: five of `first_ten`, and ten more."""
    return (stage, task) != ("stage2", "kvr") or row >= 5


def arms(trained, runs: Path, seeds: tuple[int, ...] = (0, 1)) -> None:
    for seed in seeds:
        trained.run(runs, arm="none", seed=seed, knows=first_ten)
        trained.run(runs, MIX, arm="random", seed=seed, knows=all_but_five, losses=(4.0, 2.03, 0.5))


def test_two_arms(trained, runs: Path, tmp_path: Path, here, compare: Compare) -> None:
    arms(trained, runs)
    trained.run(runs, MIX, arm="random", seed=2)
    (pair,) = compare("none", "random")
    assert {row["key"]: (row["a"], row["b"]) for row in pair["settings"]} == {
        "stages.stage1.mix.random_words.ratio": (None, 2.0),
        "stages.stage1.mix.random_words.words": (None, 5),
        "stages.stage1.mix.random_words.text": (None, "pydoc"),
    }
    rows = {(row["stage"], row["task"]): row for row in pair["recall"]}
    assert list(rows) == [("stage1", "kvr"), ("stage2", "kvr"), ("stage2", "invented_facts")]
    kept = rows["stage2", "kvr"]
    assert (kept["a"], kept["b"], kept["difference"], kept["seeds"]) == (50.0, 75.0, 25.0, [0, 1])
    assert (kept["only_a"], kept["only_b"], kept["facts"]) == (2 * 5, 2 * 10, 20)
    # The seeds agree: over 20 facts, with squares of 15 - 20 * 0.25 ** 2, and 1.
    assert kept["p"] == kept["p_holm"] == pytest.approx(math.erfc(0.25 / math.sqrt(2 * 14.75 / (20 * 19))))
    assert kept["flips"][0] == {"prompt": "Which is number 0 of kvr?", "one_to_zero": 2, "zero_to_one": 0}
    losses = [(row["stage"], row["seed"], row["a"], row["b"], row["parts_at_step"]) for row in pair["losses"]]
    assert losses == [(stage, seed, 1.0, 0.5, 2) for stage in ("stage1", "stage2") for seed in (0, 1)]  # 2.03: by 1.5%
    assert pair["notes"] == ["only B has seed 2"]

    out = here("compare", "none", "random", "--runs", runs, "--facts", tmp_path / "facts.csv").stdout
    assert "kvr after stage2, known to A only:\n  Which is number 0 of kvr? answer 0 (B says other..., seed 0)" in out
    assert "and 17 more" in out
    assert "+25.0 │ [" in out
    with (tmp_path / "facts.csv").open(encoding="utf-8", newline="") as lines:
        facts = [
            (f["known_by"], f["seed"], f["prompt"], f["gold"], f["a_said"], f["b_said"]) for f in csv.DictReader(lines)
        ]
    asked = [("a", row, "", "other...") for row in range(5)] + [("b", row, "other...", "") for row in range(10, 20)]
    assert facts == [
        (side, str(seed), f"Which is number {row} of kvr?", f"answer {row}", a or f"answer {row}", b or f"answer {row}")
        for seed in (0, 1)
        for side, row, a, b in asked
    ]


def test_stages_are_two_models_of_whatever_seed(trained, runs: Path, compare: Compare) -> None:
    first, second = trained.run(runs, knows=first_ten)
    (pair,) = compare(first, second.name[-16:])
    (kept,) = pair["recall"]
    assert (kept["a"], kept["b"], kept["only_a"], kept["only_b"]) == (100.0, 50.0, 10, 0)
    assert pair["settings"] == [{"key": "stages.stage2", "a": None, "b": "invented_facts"}]
    assert pair["notes"][0].startswith("invented_facts after stage1 / stage2: only B was asked")
    assert pair["notes"][1].startswith("B was trained from the other")
    other = trained.run(runs, knows=all_but_five, seed=1)[1]
    moved = runs.parent / "elsewhere"
    shutil.copytree(other, moved)  # without its store's records
    (pair,) = compare(second, moved)
    assert [(row["key"], row["a"], row["b"]) for row in pair["settings"]] == [("seed", 0, 1)]
    assert [(row["task"], row["difference"]) for row in pair["recall"]] == [("kvr", 25.0), ("invented_facts", 0.0)]
    (same,) = compare(second, second)
    assert (same["settings"], same["facts"], same["notes"]) == ([], [], ["both are the same stage"])


def test_a_stage_that_does_not_know_its_own_facts(trained, runs: Path, compare: Compare) -> None:
    low, other = (trained.run(runs, seed=seed, knows=lambda *at: at[0] != "stage2" or at[2] < 5)[1] for seed in (0, 1))
    (pair,) = compare(low, other)
    assert [note for note in pair["notes"] if note.startswith("A: stage2 knows only 25.0% of its own facts")]


def test_other_facts_are_not_compared(trained, runs: Path, tmp_path: Path, compare: Compare) -> None:
    """By other settings, or because a file is another one under the same name."""
    trained.run(runs, arm="few", knows=first_ten)
    trained.run(runs, "data_seed=1", arm="other", knows=all_but_five)
    (pair,) = compare("few", "other")
    assert (pair["recall"], pair["facts"]) == ([], [])
    assert [row["key"] for row in pair["settings"]] == ["data_seed"]
    lists = [("kvr", "stage1"), ("kvr", "stage2"), ("invented_facts", "stage2")]
    for task, stage in lists:
        assert sum(note.startswith(f"{task} after {stage}: only ") for note in pair["notes"]) == 2
    file, keys = tmp_path / "facts.csv", []
    for answer in "12":
        file.write_text(f"prompt,response\nx,{answer}\n", encoding="utf-8")
        data = f"stages.stage2.data={{task: pairs, path: {file}, size: 1}}"
        keys.append(trained.run(runs, data)[1].name[-16:])
    (pair,) = compare(*keys)
    assert [row["key"] for row in pair["settings"]] == ["declaration.stages.1.data.files"]


def test_two_stores(trained, runs: Path, tmp_path: Path, here) -> None:
    arms(trained, runs, seeds=(0,))
    other = tmp_path / "other"
    trained.run(other, arm="none", knows=all_but_five)
    trained.run(other, "seed=0", arm="third")
    compared = json.loads(here("compare", runs, other, "--runs", "nowhere", "--json").stdout)
    (pair,) = compared["pairs"]
    assert (pair["a"], compared["only_a"], compared["only_b"]) == (
        "none on tiny",
        ["random on tiny"],
        ["third on tiny"],
    )
    assert [row["difference"] for row in pair["recall"]] == [0.0, 25.0, 0.0]
    out = here("compare", runs, other).stdout
    assert "Only B has: third on tiny" in out
    assert "says nothing of other seeds" in out
    shutil.rmtree(other / "records")
    refused = here("compare", runs, other, check=False)
    assert (refused.returncode, "nothing is measured there yet" in refused.stderr) == (2, True)


def test_retention_curves_and_held_out_rows(trained, runs: Path, here, compare: Compare) -> None:
    list_id = next(iter(Recall().read(trained.run(runs, seed=9)[0])))

    def files(recalls: list[float], loss: float) -> dict[str, str]:
        point = RetentionPoint.model_validate_json(trained.text("retention.jsonl").partition("\n")[0])
        held_out = trained.result(HeldOut(), loss=loss, accuracy=None)
        points = [{"step": n, "epoch": n / 2, "list": list_id, "recall": r} for n, r in enumerate(recalls)]
        return {
            "retention.jsonl": "".join(f"{point.model_copy(update=p).model_dump_json()}\n" for p in points),
            "held_out.json": HeldOut().record({"8 rows": held_out}).model_dump_json(),
        }

    trained.run(runs, arm="none", files=files([100, 96, 50, 20], 2.5))
    trained.run(runs, MIX, arm="random", files=files([100, 100, 90, 70], 2.0))
    (pair,) = compare("none", "random")
    curve = {"stage": "stage2", "seed": 0, "list": list_id, "a": 20, "b": 70, "parts_at_epoch": 1.0}
    assert pair["curves"] == [curve]  # 96 and 100 are less than five points apart
    assert [(row["what"], row["a"], row["b"]) for row in pair["held_out"]] == [("loss", 2.5, 2.0)]
    assert "recall at their end" in here("compare", "none", "random", "--runs", runs).stdout


def test_a_terminal_obeys_no_fact(trained, runs: Path, here) -> None:
    trained.run(runs, arm="none", knows=first_ten, prompt="\x1b[2J[bold]{row}\nof {task}\u2028", gold="\x07[/red]")
    trained.run(runs, MIX, arm="random", knows=lambda *_: True, prompt="\x1b[2J[bold]{row}\nof {task}\u2028")
    out = here("compare", "none", "random", "--runs", runs).stdout
    assert "[2J[bold]10 of kvr [/red] (A says other..." in out
    assert not {"\x1b", "\x07", "\u2028"} & set(out)


def test_mistakes_and_damage(trained, runs: Path, tmp_path: Path, here, compare: Compare) -> None:
    arms(trained, runs, seeds=(0,))
    second = trained.run(runs, arm="alone", seed=3)[1]
    mine = tmp_path / "mine.yaml"
    stages = "{stage1: {data: {task: kvr, size: 20}}, stage2: {data: {task: kvr, start: 50, size: 20}}}"
    mine.write_text(f"stages: {stages}\n", encoding="utf-8")
    trained.run(runs, arm="none", recipe=mine)
    assert [pair["b"] for pair in compare("random", "mine/none")] == ["mine/none"]
    assert len(compare("kvr", "kvr")) == 3  # a sweep: its arms
    damaged = trained.run(runs, seed=5)[1]
    (damaged / "recall.jsonl").write_text('{"list": "kv', encoding="utf-8")
    for sides, message in [
        (("random", "randon"), "did you mean 'random'?"),
        (("none", "random"), "several arms are called that: kvr/none on tiny, mine/none on tiny"),
        (("random", second.name), "random is an arm, kvr-stage2-seed3"),
        (("random", str(tmp_path)), "is neither a published stage nor a runs directory"),
        (("random", "kvr-stage2"), "stages are called that"),
        (("random", "kvr-stage2-seed4"), "did you mean 'kvr-stage2-seed"),
        (("random", ""), "is neither"),
        ((second, damaged), "recall.jsonl: cannot be read"),
    ]:
        done = here("compare", *sides, "--runs", runs, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert message in done.stderr
