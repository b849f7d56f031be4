"""The real lm-evaluation-harness on a stage, with a task that a YAML file declares: nothing is downloaded."""

import json
from pathlib import Path

import pytest
from conftest import SMALL

from remix_toolkit.evaluate.harness import Harness

TASK = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: [red, green]
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


@pytest.mark.lm_eval
@pytest.mark.slow
def test_a_task_of_a_file_is_measured_and_an_unknown_one_leaves_the_stage_published(
    tmp_path: Path, runs: Path, remix
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval")
    rows = [{"question": f"What colour is thing {number}?", "answer": number % 2} for number in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = tmp_path / "colours.yaml"
    task.write_text(TASK.format(rows=tmp_path / "rows.jsonl"), encoding="utf-8")
    line = ["run", "kvr", "--runs", runs, "--stage", "stage1", *SMALL, "evaluate.limit=4"]
    failed = remix(*line, f"evaluate.lm_eval=[{task}, no_such_task]", check=False)
    assert failed.returncode == 1
    assert "no_such_task" in failed.stderr
    (stage,) = (runs / "stages").iterdir()
    (result,) = Harness().read(stage).values()
    assert (result.task, result.limit) == (str(task), 4)
    assert result.metrics["acc"] in (0.0, 0.25, 0.5, 0.75, 1.0)  # of four rows
    assert remix(*line, f"evaluate.lm_eval=[{task}]").stdout.count("already published") == 1
