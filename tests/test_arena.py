"""The arena: which arms count, what they cost, and the page that is made of results.json files alone."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT
from trained_store import TrainedStore, sweep_of

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.held_out import HeldOut
from remix_toolkit.report.figures import rendered
from remix_toolkit.report.frame import load, of_results
from remix_toolkit.report.results import Results, as_json, of_store
from remix_toolkit.report.stage import Stage
from remix_toolkit.report.summary import sweeps

sys.path.insert(0, str(ROOT / "benchmarks"))
import arena


def write_arm(trained: TrainedStore, runs: Path, arm: str, seed: int = 0, learnt=40, kept=20, new=40, **more) -> None:
    """Of forty facts of stage1, so many are learnt and kept; of forty of stage2, `new` are learnt."""
    of = lambda many: [1] * many + [0] * (40 - many)  # noqa: E731
    known = {"stage1": {"kvr": of(learnt)}, "stage2": {"kvr": of(kept), "invented_facts": of(new)}}
    trained.write_run(runs, arm, seed, known, **more)


def test_an_arm_counts_only_if_its_stages_learnt_what_they_were_for(trained, tmp_path: Path) -> None:
    for arm, more in {"none": {}, "just": {"new": 38}, "under": {"new": 37}, "early": {"learnt": 39}}.items():
        write_arm(trained, tmp_path, arm, **more)
    write_arm(trained, tmp_path, "under", seed=1)  # it is the mean over seeds that counts, of a later stage
    write_arm(trained, tmp_path, "early", seed=1)  # and every seed, of the first
    write_arm(trained, tmp_path, "far under", new=20)
    assert sweep_of(tmp_path).uncounted == {
        "early": "stage1 knows 97.5% of its own facts under seed 0",
        "far under": "stage2 knows 50.0% of its own facts, under 95%",
    }


def test_instructions_count_by_their_loss_beside_that_of_none(trained, tmp_path: Path) -> None:
    for arm, loss in {"none": 1.25, "near": 1.27, "far": 1.28, "better": 1.0}.items():
        held_out = HeldOut().record({"8 rows": trained.result(HeldOut(), loss=loss)}).model_dump_json()
        known = {"stage1": {"kvr": [1] * 8}, "stage2": {"kvr": [1] * 8}}
        trained.write_run(tmp_path, arm, 0, known, files={"held_out.json": held_out})
    assert sweep_of(tmp_path).uncounted == {"far": "the loss of stage2 is 1.28, over 2% above that of none"}


def test_results_alone_give_the_same_sweep(trained, tmp_path: Path) -> None:
    for seed in range(2):
        write_arm(trained, tmp_path, "none", seed, kept=4 + seed)
        write_arm(trained, tmp_path, "better", seed, kept=30)
    results = Results.model_validate_json(as_json(of_store(tmp_path)))
    (of_file,), of_runs = sweeps(of_results(results)), sweep_of(tmp_path)
    assert of_file.means.equals(of_runs.means)
    assert (of_file.tasks, of_file.uncounted) == (of_runs.tasks, of_runs.uncounted)
    write_arm(trained, tmp_path, "other", recipe="other")
    assert of_store(tmp_path, "sizes") == results
    assert {run.recipe for run in of_store(tmp_path).runs} == {"sizes", "other"}
    assert set(load(tmp_path, "other").measured["arm"]) == {"other"}


@pytest.mark.parametrize(("wrong", "shares"), [("v", (0, 100)), ("x", (0, 0))])
def test_wrong_answers_that_are_those_of_the_later_stage(trained, tmp_path: Path, wrong: str, shares: tuple) -> None:
    """Right answers are v0, v1 and so on; wrong ones were cut off after their first letter."""
    write_arm(trained, tmp_path, "none", wrong=wrong)
    first, second = of_store(tmp_path).stages
    by_task = {id_.rpartition("-")[0]: (one.own_at_least, one.own_at_most) for id_, one in second.recall.items()}
    assert by_task == {"kvr": shares, "invented_facts": (None, None)}
    assert [one.own_at_most for one in first.recall.values()] == [None]


def test_flops_are_those_of_the_tokens_that_a_stage_saw(trained) -> None:
    for stage in of_store(trained.runs).stages:
        epochs = stage.steps / stage.counts["steps_per_epoch"]
        tokens = epochs * stage.counts["tokens_per_epoch"]["without_padding"]
        assert stage.flops == pytest.approx(6 * stage.recipe["parameters"] * tokens)


def test_the_arenas_page_is_what_its_folder_makes() -> None:
    arenas = [arena.read(file) for file in sorted(arena.RESULTS.glob("*.json"))]
    assert arena.PAGE.read_text(encoding="utf-8") == arena.page(arenas), "run: python benchmarks/arena.py"
    assert sorted(arena.PAGE.parent.glob("arena-*.svg")) == sorted(one.picture for one in arenas)


def results_file(runs: Path, recipe: str | None = None) -> Path:
    file = runs / "mine.json"
    file.write_text(as_json(of_store(runs, recipe)), encoding="utf-8")
    return file


def test_a_page_ranks_the_arms_that_count_and_shows_the_others(trained, tmp_path: Path) -> None:
    for seed in range(2):
        write_arm(trained, tmp_path, "none", seed, kept=10)
        write_arm(trained, tmp_path, "better", seed, kept=30, overrides={"train.max_grad_norm": 0.5})
        write_arm(trained, tmp_path, "low | best", seed, kept=40, new=0)
    trained.write_run(tmp_path, "unknown", 0, {"stage1": {"kvr": [1] * 40}, "stage2": {"kvr": [1] * 40}})
    trained.write_run(tmp_path, "begun", 0, {"stage1": {"kvr": [1] * 40}}, begun=["stage2"])
    one = arena.read(results_file(tmp_path))
    assert list(one.arms.index) == ["better", "none", "low | best", "unknown"]
    assert one.arms["cost"].tolist() == [1.0, 1.0, 1.0, 1.0]
    text = "\n".join(arena.section(one))
    ranked, not_counted = text.split("Not counted")
    rows = [line.split(" | ")[:4] for line in ranked.splitlines() if line.startswith("|")]
    assert rows[2:] == [
        ["| better", "2", r"75.0 \[59.8, 85.8\]", r"100.0 \[91.2, 100.0\]"],
        ["| none", "2", r"25.0 \[14.2, 40.2\]", r"100.0 \[91.2, 100.0\]"],
    ]
    assert "remix sweep sizes --profile tiny --seed 0 --seed 1\n" in ranked
    assert "remix sweep sizes --profile tiny --seed 0 --seed 1 train.max_grad_norm=0.5\n" in ranked
    assert r"low \| best: stage2 knows 0.0% of its own facts, under 95%." in not_counted
    settings = not_counted.partition("What each arm sets")[2]
    assert "| none | - |" in settings
    assert r"| better | train.weight\_decay=" in settings  # in which the arms of this store differ
    assert "unknown: nothing is measured of what stage2 learnt." in not_counted
    assert "Not measured after stage2: begun." in not_counted
    assert b"<svg" in rendered(partial(arena.draw, one), ["svg"])["svg"]


def test_an_arena_of_instructions_has_their_loss(trained, tmp_path: Path) -> None:
    for arm, loss in {"none": 1.25, "far": 2.0}.items():
        held_out = HeldOut().record({"8 rows": trained.result(HeldOut(), loss=loss)}).model_dump_json()
        known = {"stage1": {"kvr": [1] * 8}, "stage2": {"kvr": [1] * 8}}
        trained.write_run(tmp_path, arm, 0, known, files={"held_out.json": held_out})
    one = arena.read(results_file(tmp_path))
    assert one.score == "stage2: loss"
    assert "| none | 1 | 100.0 \\[67.6, 100.0\\] | 1.250 |" in "\n".join(arena.section(one))
    assert rendered(partial(arena.draw, one), ["svg"])


def test_a_base_of_unknown_size_has_a_page_without_costs(trained, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Stage, "flops", None)
    write_arm(trained, tmp_path, "none")
    one = arena.read(results_file(tmp_path))
    assert "| FLOPs" not in "\n".join(arena.section(one))
    assert rendered(partial(arena.draw, one), ["svg"])


def test_what_is_no_arena_is_refused_with_the_file_and_the_reason(trained, tmp_path: Path) -> None:
    def refused(file: Path, message: str) -> None:
        with pytest.raises(BadInput, match=f"^{file}: {message}"):
            arena.read(file)

    write_arm(trained, tmp_path, "some")
    file = results_file(tmp_path)
    refused(file, "has no arm `none` after stage2, which the others are compared with; it has some there$")
    whole = json.loads(file.read_text(encoding="utf-8"))
    for change, message in [
        ({"schema": 99}, "is of schema 99, and this version of the toolkit reads 4; write it anew"),
        ({"schema": 3, "runs": [{}]}, "is of schema 3, and this version"),
        ({"runs": None}, r"is no results\.json \(runs: "),
        ({"runs": []}, "one sweep is expected, .* it holds nothing that was measured"),
    ]:
        file.write_text(json.dumps(whole | change), encoding="utf-8")
        refused(file, message)
    file.write_text("{", encoding="utf-8")
    refused(file, r"is no results\.json \(the file: Invalid JSON")
    write_arm(trained, tmp_path, "none", recipe="other")
    refused(results_file(tmp_path), "one sweep is expected, .* it holds sizes on tiny, other on tiny$")
    trained.write_run(tmp_path, "none", 0, {"stage1": {"kvr": [1] * 40}}, recipe="short")
    refused(results_file(tmp_path, "short"), "facts of a stage that another one comes after are expected")
