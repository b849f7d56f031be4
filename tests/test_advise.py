"""`remix advise`: the pilot's rounds, what it leaves out and why, and what it ends with."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from trained_store import TrainedStore, sweep_of

from remix_toolkit import advise, store
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.report.stage import Stage

FAST = ["base=tiny-128x2", "global_batch_size=8", "train.learning_rate=4e-3"]
FAST += ["stages.stage1.train.num_train_epochs=60", "stages.stage2.train.max_steps=60"]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve facts in a file, then as many others."""
    monkeypatch.chdir(tmp_path)
    with Path("facts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("q", "a"), *((f"Code of room {n}?", f"{7919 * n % 1000:03d}") for n in range(12))])
    data = {"task": "pairs", "path": "facts.csv", "prompt_column": "q", "response_column": "a"}
    stages = {"stage1": {"data": data}, "stage2": {"data": {"task": "invented_facts", "size": 12}}}
    stages["stage1"]["mix"] = {"passages": {"ratio": 1}}
    Path("rooms.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    return tmp_path / "rooms.yaml"


def test_remedies_that_the_situation_rules_out_are_left_out(recipe: Path, tmp_path: Path) -> None:
    def allowed(redo_first: bool, old_data: bool, *more: str) -> tuple[dict, dict]:
        loaded = load_recipe(str(recipe), "tiny", [*FAST, *more])
        pilot = advise.Pilot(str(recipe), "tiny", [*FAST, *more], store.open_store(tmp_path / "runs"))
        return advise._allowed(pilot, loaded, redo_first, old_data)

    every, why = allowed(True, True)
    assert list(every)[:2] == ["none", "the recipe as it is"]
    assert every["none"] == {"stages.stage1.mix": {}, "stages.stage2.mix": {}}
    assert why.keys() == {"format anchor"}, why  # all rows of the file are facts of stage1
    fewer, why = allowed(False, False)
    assert fewer.keys() == {
        "none",
        "the recipe as it is",
        "text",
        "half frozen",
        "weights held",
        "outputs held",
        "averaged",
    }
    assert why["random words"] == "the first stage stays as it is"
    assert why["replay 10%"] == "the first stage's facts will not be at hand"
    _, why = allowed(True, True, "adapter={r: 4}")
    assert "freeze" in why["half frozen"]


def test_a_pilot_teaches_a_sample_of_many_facts(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advise, "MOST_FACTS", 8)
    runs = store.open_store(tmp_path / "runs")
    sampled = advise._sampled(advise.Pilot(str(recipe), "tiny", FAST, runs), load_recipe(str(recipe), "tiny", FAST))
    assert list(sampled.overrides) == [*FAST, "stages.stage1.data.size=8"]
    assert sampled.check("none", {}) == 8
    asked = [*FAST, "stages.stage1.data.size=10"]
    whole = advise.Pilot(str(recipe), "tiny", asked, runs)
    assert advise._sampled(whole, load_recipe(str(recipe), "tiny", asked)) == whole


def test_advice_needs_facts_that_something_comes_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text("stages: {only: {data: {task: kvr, size: 8}}}", encoding="utf-8")
    with pytest.raises(BadInput, match=r"one\.yaml: .* a first stage that another one comes after"):
        advise.advise("one.yaml")


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page takes seconds."""
    monkeypatch.setattr("remix_toolkit.report.page.write_report", lambda *_: None)


def advice_of(trained: TrainedStore, runs: Path, **arms: list[list[int]]) -> advise.Advice:
    """What a pilot comes to whose runs are these: each arm's facts after the last stage, by seed."""
    trained.write_arms(runs, arms, recipe="kvr-advice")
    sweep, settings = sweep_of(runs), {arm: {"stages.stage2.freeze": {"half": True}} for arm in arms}
    compared = {one.second: one for one in sweep.compare("kvr", [("none", arm) for arm in arms if arm != "none"])}
    return advise._advice(advise.Pilot("kvr", "tiny", [], runs), settings, sweep, compared, {"far": "it is far"})


def test_what_computation_costs_is_left_out_where_it_is_not_known(
    trained, no_page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base of one's own has no `parameters`."""
    arms = {"none": [[0] * 40] * 3, "half": [[1] * 40] * 3}
    assert "; it takes 1.0 times the computation." in advice_of(trained, tmp_path / "known", **arms).lines[0]
    monkeypatch.setattr(Stage, "flops", None)
    advice = advice_of(trained, tmp_path / "unknown", **arms)
    assert (advice.arm, advice.compute) == ("half", None)
    assert advice.lines[0].endswith("(95%, 3 seeds).")


def test_where_no_arm_is_left_nothing_is_called_no_better(trained, no_page, tmp_path: Path) -> None:
    advice = advice_of(trained, tmp_path, none=[[1, 0] * 20] * 3)
    assert advice.lines == [
        "No remedy can be advised: of those that were tried, none counts. Without one, 50.0% is kept (3 seeds).",
        "not counted: far: it is far",
    ]


def test_an_arm_is_not_ruled_out_for_a_stage_that_it_shares_with_none() -> None:
    missed, too_little = "stage1 knows 98.0% of its own facts under seed 3", "stage2 knows 80.0% of its own facts"
    uncounted = {"none": missed, "half": missed, "rate": too_little, "earlier": too_little}
    assert advise._unmatched(uncounted, ["none", "half", "rate"]) == {"rate": too_little}
    assert advise._unmatched({"words": missed}, ["none", "words"]) == {"words": missed}


@pytest.mark.slow
def test_a_pilot_ends_at_once_where_the_facts_are_not_learnt(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advise, "MOST_FACTS", 8)
    runs = recipe.parent / "runs"
    with pytest.raises(RunFailed, match=r"rooms\.yaml: without a remedy, stage1 knows .*, or teach more than 8 facts"):
        advise.advise(str(recipe), "tiny", [*FAST, "train.max_steps=1"], runs)
    assert len(list((runs / "stages").iterdir())) == 2


@pytest.mark.slow
def test_a_pilot_halves_its_arms_and_names_the_best(
    here, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    runs = recipe.parent / "runs"
    monkeypatch.setattr(advise, "ROUNDS", (1, 2))
    kept = {name: advise.remedies("stage1")[name] for name in ("averaged", "replay 10%", "text")}
    monkeypatch.setattr(advise, "remedies", lambda first: kept)
    advice = advise.advise(str(recipe), "tiny", FAST, runs)
    shown = capsys.readouterr()
    assert "12 facts are few: an interval for a share of them is some 28 points to each side" in shown.out + shown.err
    rounds = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(runs.glob("advice/rooms/round*/*"))]
    assert rounds[0]["arms"].keys() == {"none", "the recipe as it is", *kept}
    assert "none" in rounds[1]["arms"].keys() < rounds[0]["arms"].keys()
    assert [each["seeds"] for each in rounds] == [[0], [1]]
    page = advice.page.read_text(encoding="utf-8")
    assert page.index('id="advice"') < page.index('id="answer"')
    shares = {run["arm"]: run for run in json.loads(here("show", "--runs", runs, "--json").stdout) if run["seed"] == 0}
    assert shares.keys() == {"none", "the recipe as it is", "averaged", "replay 10%", "text"}
    if advice.arm:  # then its file names one arm, whose stages are there already
        (cell,) = load_sweep(str(advice.sweep))[1]
        assert cell.arm == advice.arm
        assert all(store.find_stage(runs, node.key) for node in cell.nodes)
