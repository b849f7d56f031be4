"""How work grows: counted in calls of functions, which do not depend on the machine, where n becomes 2n."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from remix_toolkit import api, store
from remix_toolkit.graph.why import Published
from remix_toolkit.records import RunRecord, RunStage

KVR = ROOT / "recipes" / "kvr.yaml"


def calls(work: Callable[[], object]) -> int:
    """How many functions, Python's or C's, some work calls."""
    count = 0

    def count_one(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(count_one)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "axis",
    [
        pytest.param(lambda n: f"grid: {{stages.stage2.train.learning_rate: {rates(n)}}}", id="grid"),
        pytest.param(
            lambda n: "arms:\n" + "\n".join(f"  a{i}: {{train.learning_rate: {i}e-6}}" for i in range(1, n)), id="arms"
        ),
        pytest.param(lambda n: f"seeds: {list(range(n))}", id="seeds"),
        pytest.param(  # each cell has a split of its own, and all of them stand behind one stage
            lambda n: f"grid: {{few_shot.seed: {list(range(n))}}}\nset: {{stages.stage2.data.familiarity: familiar}}",
            id="splits",
        ),
    ],
)
def test_a_plan_grows_with_its_cells(tmp_path: Path, axis: Callable[[int], str]) -> None:
    def planned(n: int) -> int:
        sweep = tmp_path / f"{n}.yaml"
        sweep.write_text(f"recipe: {KVR}\n{axis(n)}\n")
        return calls(lambda: api.plan(sweep, runs=tmp_path))

    planned(2)  # what is read once
    assert planned(80) < 2.1 * planned(40)


def test_a_plan_beside_a_large_store_looks_at_it_once(tmp_path: Path) -> None:
    def declared(n: int) -> dict[str, str]:
        return {"stages.0.train.learning_rate": str(n), "stages.0.data.size": str(n // 2)}

    published = {n: Published([declared(i) for i in range(n)]) for n in (1, 40, 80)}
    assert published[80].nearest(declared(77)) == declared(77)
    assert published[80].nearest(declared(300) | {"stages.0.data.size": "21"}) == declared(42)  # the first of two
    assert calls(lambda: published[80].nearest(declared(7))) == calls(lambda: published[40].nearest(declared(7)))


def test_one_stage_is_found_without_a_look_at_all(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / "stages" / f"r-stage1-seed0-{number:016x}").mkdir(parents=True)
    few = calls(lambda: store.published_stages(tmp_path, f"{7:016x}"))
    assert few < calls(lambda: store.published_stages(tmp_path)) / 5
    assert store.published_stages(tmp_path, f"{7:016x}").keys() == {f"{7:016x}"}


def test_runs_are_recorded_without_a_look_at_all_for_each(tmp_path: Path) -> None:
    stage = RunStage(stage="s", key="0" * 16, task="kvr", trained="kvr-1", lists={}, measurements=[])
    record = RunRecord(recipe="r", arm="", profile="tiny", seed=0, settings={}, overrides={}, stages=[stage])

    def recorded(n: int) -> int:
        runs = store.open_store(tmp_path / str(n))
        records = [record.model_copy(update={"seed": seed}) for seed in range(n)]
        written = calls(lambda: store.record_runs(runs, records))
        assert len(store.records(runs)) == n
        return written

    recorded(1)
    assert recorded(80) < 2.1 * recorded(40)


def rates(n: int) -> list[float]:
    return [i * 1e-6 for i in range(1, n)]


def test_a_plan_grows_with_a_recipes_stages_as_what_is_measured_does(tmp_path: Path) -> None:
    """After each stage the facts of all stages so far are measured, which is n^2 / 2 lists."""

    def planned(n: int) -> int:
        stages = "".join(f"  s{i}: {{data: {{task: kvr, size: 40, start: {40 * i}}}}}\n" for i in range(n))
        recipe = tmp_path / f"{n}.yaml"
        recipe.write_text(f"stages:\n{stages}")
        return calls(lambda: api.plan(recipe, runs=tmp_path))

    planned(2)
    assert planned(80) < 3 * planned(40)
