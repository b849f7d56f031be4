"""Two stages, arms or stores side by side, against cases worked out by hand."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.held_out import HeldOut
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.records import RetentionPoint
from remix_toolkit.report.compare import compare

MIX = "stages.stage1.mix={random_words: {ratio: 2}}"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where stages are made up: no base model is needed."""
    return tmp_path / "runs"


def first_ten(stage: str, task: str, row: int) -> bool:
    return (stage, task) != ("stage2", "kvr") or row < 10


def all_but_five(stage: str, task: str, row: int) -> bool:
    """Of the keys after stage2, rows 5 to 19: five of `first_ten`, and ten more."""
    return (stage, task) != ("stage2", "kvr") or row >= 5


def arms(trained, runs: Path, seeds: tuple[int, ...] = (0, 1), **changes: object) -> None:
    for seed in seeds:
        trained.run(runs, arm="none", seed=seed, knows=first_ten, **changes)  # type: ignore[arg-type]
        trained.run(runs, MIX, arm="random", seed=seed, knows=all_but_five, losses=(4.0, 2.03, 0.5))


def test_two_arms(trained, runs: Path, tmp_path: Path, here) -> None:
    arms(trained, runs)
    trained.run(runs, MIX, arm="random", seed=2)
    line = ("compare", "none", "random", "--runs", runs, "--facts", tmp_path / "facts.csv")
    (found,) = json.loads(here(*line, "--json").stdout)["pairs"]
    assert {row["key"]: (row["a"], row["b"]) for row in found["settings"]} == {
        "stages.stage1.mix.random_words.ratio": (None, 2.0),
        "stages.stage1.mix.random_words.words": (None, 5),
        "stages.stage1.mix.random_words.text": (None, "pydoc"),
    }
    rows = {(row["stage"], row["task"]): row for row in found["recall"]}
    assert list(rows) == [("stage1", "kvr"), ("stage2", "kvr"), ("stage2", "invented_facts")]
    kept = rows["stage2", "kvr"]
    assert (kept["a"], kept["b"], kept["difference"], kept["seeds"]) == (50.0, 75.0, 25.0, [0, 1])
    assert (kept["only_a"], kept["only_b"], kept["facts"]) == (2 * 5, 2 * 10, 20)
    # The seeds agree: over 20 facts, with squares of 15 - 20 * 0.25 ** 2, and 1.
    assert kept["p"] == kept["p_holm"] == pytest.approx(math.erfc(0.25 / math.sqrt(2 * 14.75 / (20 * 19))))
    assert kept["flips"][0] == {"prompt": "Which is number 0 of kvr?", "one_to_zero": 2, "zero_to_one": 0}
    with (tmp_path / "facts.csv").open(encoding="utf-8", newline="") as lines:
        facts = list(csv.DictReader(lines))
    by = {side: [(f["seed"], f["prompt"]) for f in facts if f["known_by"] == side] for side in "ab"}
    asked = "Which is number {} of kvr?"
    assert by["a"] == [(str(seed), asked.format(row)) for seed in (0, 1) for row in range(5)]
    assert by["b"] == [(str(seed), asked.format(row)) for seed in (0, 1) for row in range(10, 20)]
    assert {(f["stage"], f["a_said"], f["b_said"]) for f in facts if f["known_by"] == "a"} == {
        ("stage2", f"answer {row}", "other...") for row in range(5)
    }
    losses = [(row["stage"], row["seed"], row["a"], row["b"], row["parts_at_step"]) for row in found["losses"]]
    assert losses == [(stage, seed, 1.0, 0.5, 2) for stage in ("stage1", "stage2") for seed in (0, 1)]  # 2.03: by 1.5%
    assert found["notes"] == ["only B has seed 2"]
    out = here(*line).stdout
    assert "kvr after stage2, known to A only:\n  Which is number 0 of kvr? answer 0 (B says other..., seed 0)" in out
    assert "and 17 more" in out
    assert "+25.0 [" in out
    assert "for other seeds and other facts" in out


def test_a_stage_and_the_one_before_it(trained, runs: Path) -> None:
    first, second = trained.run(runs, knows=first_ten)
    (found,) = compare(str(first), second.name[-16:], runs)["pairs"]
    (kept,) = found["recall"]
    assert (kept["a"], kept["b"], kept["only_a"], kept["only_b"]) == (100.0, 50.0, 10, 0)
    assert found["settings"] == [{"key": "stages.stage2", "a": None, "b": "invented_facts"}]
    assert any(note.startswith("B was trained from the other") for note in found["notes"])
    assert any(note.startswith("invented_facts after stage1 / stage2: only B was asked") for note in found["notes"])


def test_stages_of_two_seeds_are_two_models(trained, runs: Path) -> None:
    a = trained.run(runs, knows=first_ten, seed=0)[1]
    b = trained.run(runs, knows=all_but_five, seed=1)[1]
    (found,) = compare(str(a), str(b), runs)["pairs"]
    assert [(row["key"], row["a"], row["b"]) for row in found["settings"]] == [("seed", 0, 1)]
    assert [row["difference"] for row in found["recall"]] == [25.0, 0.0]
    (same,) = compare(str(a), str(a), runs)["pairs"]
    assert (same["settings"], same["facts"]) == ([], [])
    assert "both are the same stage" in same["notes"]


def test_other_facts_are_not_compared(trained, runs: Path) -> None:
    trained.run(runs, arm="few", knows=first_ten)
    trained.run(runs, "data_seed=1", arm="other", knows=all_but_five)
    (found,) = compare("few", "other", runs)["pairs"]
    assert (found["recall"], found["facts"]) == ([], [])
    assert [row["key"] for row in found["settings"]] == ["data_seed"]
    said = [note.partition(" (")[0] for note in found["notes"]]
    assert said == [
        "kvr after stage1: not the same facts, not compared",
        "kvr after stage2: not the same facts, not compared",
        "invented_facts after stage2: not the same facts, not compared",
    ]


def test_a_file_that_changed_under_its_name_is_seen(trained, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "facts.csv"
    data = f"stages.stage2.data={{task: pairs, path: {file}, size: 1}}"
    keys = []
    for answer in "12":
        file.write_text(f"prompt,response\nx,{answer}\n", encoding="utf-8")
        keys.append(trained.run(runs, data)[1].name[-16:])
    (found,) = compare(*keys, runs)["pairs"]
    assert [row["key"] for row in found["settings"]] == ["declaration.stages.1.data.files"]


def test_two_stores(trained, runs: Path, tmp_path: Path, here) -> None:
    arms(trained, runs, seeds=(0,))
    other = tmp_path / "other"
    trained.run(other, arm="none", knows=all_but_five)
    trained.run(other, "seed=0", arm="third")
    found = compare(str(runs), str(other), Path("nowhere"))
    assert [pair["a"] for pair in found["pairs"]] == ["none on tiny"]
    assert (found["only_a"], found["only_b"]) == (["random on tiny"], ["third on tiny"])
    kept = found["pairs"][0]["recall"][1]
    assert (kept["task"], kept["difference"]) == ("kvr", 25.0)
    out = here("compare", runs, other).stdout
    assert "Only B has: third on tiny" in out
    assert "says nothing of other seeds" in out
    shutil.rmtree(other / "records")
    with pytest.raises(BadInput, match="nothing is measured there yet"):
        compare(str(runs), str(other), runs)


def test_retention_curves_and_held_out_rows(trained, runs: Path, here) -> None:
    id_ = next(iter(Recall().read(trained.run(runs, seed=9)[0])))

    def files(recalls: list[float], loss: float) -> dict[str, str]:
        point = RetentionPoint.model_validate_json(trained.text("retention.jsonl").partition("\n")[0])
        held_out = trained.result(HeldOut(), loss=loss, accuracy=None)
        points = [{"step": n, "epoch": n / 2, "list": id_, "recall": r} for n, r in enumerate(recalls)]
        return {
            "retention.jsonl": "".join(f"{point.model_copy(update=p).model_dump_json()}\n" for p in points),
            "held_out.json": HeldOut().record({"8 rows": held_out}).model_dump_json(),
        }

    trained.run(runs, arm="none", files=files([100, 96, 50, 20], 2.5))
    trained.run(runs, MIX, arm="random", files=files([100, 100, 90, 70], 2.0))
    (found,) = compare("none", "random", runs)["pairs"]
    curve = {"stage": "stage2", "seed": 0, "list": id_, "a": 20, "b": 70, "parts_at_epoch": 1.0}
    assert found["curves"] == [curve]  # 96 and 100 are less than five points apart
    assert [(row["what"], row["a"], row["b"]) for row in found["held_out"]] == [("loss", 2.5, 2.0)]
    assert "recall at their end" in here("compare", "none", "random", "--runs", runs).stdout


def test_a_terminal_obeys_no_fact(trained, runs: Path, here) -> None:
    trained.run(runs, arm="none", knows=first_ten, prompt="\x1b[2J[bold]{row}\nof {task}\u2028", gold="\x07[/red]")
    trained.run(runs, MIX, arm="random", knows=lambda *_: True, prompt="\x1b[2J[bold]{row}\nof {task}\u2028")
    out = here("compare", "none", "random", "--runs", runs).stdout
    assert "[2J[bold]10 of kvr [/red] (A says other..." in out
    assert not {"\x1b", "\x07", "\u2028"} & set(out)


def test_mistakes(trained, runs: Path, tmp_path: Path, here) -> None:
    arms(trained, runs, seeds=(0,))
    second = trained.run(runs, arm="alone", seed=3)[1]
    trained.run(runs, arm="none", recipe=_renamed(tmp_path))
    for given, message in [
        (("random", "randon"), "did you mean 'random'?"),
        (("none", "random"), "several arms are called that: kvr/none on tiny, mine/none on tiny"),
        (("random", second.name), "random is an arm, kvr-stage2-seed3"),
        (("random", str(tmp_path)), "is neither a published stage nor a runs directory"),
        (("random", "kvr-stage2"), "stages are called that"),
        (("random", "kvr-stage2-seed4"), "did you mean 'kvr-stage2-seed"),
        (("random", ""), "is neither"),
    ]:
        done = here("compare", *given, "--runs", runs, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert message in done.stderr
    assert [pair["b"] for pair in compare("random", "mine/none", runs)["pairs"]] == ["mine/none"]
    assert len(compare("kvr", "kvr", runs)["pairs"]) == 3  # a sweep: its arms


@pytest.mark.parametrize("file", ["recall.jsonl", "retention.jsonl"])
def test_a_file_that_was_cut_off(trained, runs: Path, file: str) -> None:
    files = {"retention.jsonl": ""}
    a = trained.run(runs, files=files)[1]
    b = trained.run(runs, MIX, files=files)[1]
    (b / file).write_text('{"list": "kv', encoding="utf-8")
    with pytest.raises(
        BadInput, match=f"{file}: has no answers to the facts|{file} is not the file that was published"
    ):
        compare(str(a), str(b), runs)


def _renamed(folder: Path) -> Path:
    file = folder / "mine.yaml"
    file.write_text(
        "stages: {stage1: {data: {task: kvr, size: 20}}, stage2: {data: {task: kvr, start: 50, size: 20}}}\n", "utf-8"
    )
    return file
