"""The list of measurements: ids, files, shares of several processes."""

import re
from pathlib import Path

import accelerate
import pytest

from remix_toolkit.data.identity import facts_ids
from remix_toolkit.errors import RunFailed
from remix_toolkit.evaluate.base import in_shares
from remix_toolkit.evaluate.harness import Harness, HarnessResult
from remix_toolkit.evaluate.lens import Lens
from remix_toolkit.evaluate.measurements import MEASUREMENTS, is_measured, measured, requested
from remix_toolkit.evaluate.perplexity import Perplexity
from remix_toolkit.recipe.load import load_recipe


def test_what_is_requested_is_what_is_missing_until_it_is_measured(trained, tmp_path: Path) -> None:
    settings = ["stages.stage1.probe=[lens]", "evaluate.lm_eval=[arc]", "evaluate.limit=8"]
    recipe = load_recipe("kvr", "tiny", settings)
    facts = facts_ids(recipe)["stage1"]
    everywhere = {f"recall {facts}", "perplexity docstrings", "lm_eval arc on 8 rows"}
    assert requested(recipe, "stage1") == {*everywhere, f"lens {facts}"}
    assert requested(recipe, "stage2") > everywhere
    assert not is_measured(recipe, "stage1", tmp_path)
    trained.recall({facts: [1, 0]}).write(tmp_path / "recall.json")
    Lens().record({facts: trained.result(Lens())}).write(tmp_path / "lens.json")
    Perplexity().record({"docstrings": trained.result(Perplexity())}).write(tmp_path / "perplexity.json")
    assert measured(tmp_path) == {f"recall {facts}", f"lens {facts}", "perplexity docstrings"}
    result = HarnessResult(task="arc", version="0.4", limit=None, metrics={"acc": 0.5})
    Harness().record({"arc": result}).write(tmp_path / "lm_eval.json")
    assert not is_measured(recipe, "stage1", tmp_path)  # that was on all rows
    Harness().record({"arc on 8 rows": result.model_copy(update={"limit": 8})}).write(tmp_path / "lm_eval.json")
    assert is_measured(recipe, "stage1", tmp_path)


def test_an_instruction_stage_is_measured_on_its_held_out_rows() -> None:
    recipe = load_recipe("kvr", "tiny", ["stages.stage2.data={task: gsm8k, size: 30, held_out: 10}"])
    assert "held_out 10 rows" in requested(recipe, "stage2")
    assert not any(id_.startswith("held_out") for id_ in requested(recipe, "stage1"))


def test_a_file_of_another_version_is_named_and_counts_as_not_measured(tmp_path: Path, capsys) -> None:
    (tmp_path / "lens.json").write_text('{"version": 0}')
    assert measured(tmp_path) == set()
    warning = r"warning: .*lens\.json: has format version 0; .* version 3; .*--remove.*: it counts as not measured\n"
    assert re.fullmatch(warning, capsys.readouterr().err)


def test_names_and_files_are_of_one_measurement_each() -> None:
    names = [measurement.name for measurement in MEASUREMENTS]
    assert len(set(names)) == len(names)


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list, str]]:
    """This process is the second of two; what the first one gathers is put into the list."""
    first: list[tuple[list, str]] = []

    class State:
        num_processes, process_index = 2, 1

    monkeypatch.setattr(accelerate, "PartialState", State)
    monkeypatch.setattr(accelerate.utils, "gather_object", lambda own: [*first, *own])
    return first


def test_each_process_computes_its_share_and_all_get_all_in_order(second_of_two) -> None:
    second_of_two.append(([0, 20, 40], ""))
    assert in_shares(range(5), lambda rows: [10 * row for row in rows]) == [0, 10, 20, 30, 40]


def test_a_process_that_fails_ends_all_of_them(second_of_two) -> None:
    second_of_two.append(([], "process 0: RuntimeError: out of memory"))
    with pytest.raises(RunFailed, match="process 0: RuntimeError: out of memory"):
        in_shares(range(5), lambda rows: list(rows))
    second_of_two[:] = [([0, 2, 4], "")]

    def broken(rows: object) -> list:
        raise ValueError("no logits")

    with pytest.raises(ValueError, match="no logits"):  # with its own traceback; the first process has a line of it
        in_shares(range(5), broken)
