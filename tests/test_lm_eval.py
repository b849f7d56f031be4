"""The real lm-evaluation-harness on a stage, with a task that a YAML file declares: nothing is downloaded."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from conftest import SMALL

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.base import Models, Subject
from remix_toolkit.evaluate.harness import Harness
from remix_toolkit.recipe.load import load_recipe

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


def task_on(file: Path, rows: Sequence[tuple[str, int]]) -> str:
    """The declaration of a task on questions and right answers, which are written to a file."""
    lines = (json.dumps({"question": question, "answer": answer}) for question, answer in rows)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return TASK.format(rows=file)


def measured(base: Path, tokenizer, task: Path) -> dict[str, float]:
    from transformers import AutoModelForCausalLM

    recipe = load_recipe("kvr", overrides=[f"evaluate.lm_eval=[{task}]"])
    subject = Subject(recipe, "stage1", {}, {}, [], [], [], 1, known=lambda: (0, []))
    Harness().check(subject)
    models = Models(AutoModelForCausalLM.from_pretrained(base), tokenizer, load_parent=lambda: None)  # type: ignore
    return Harness().measure(str(task), subject, models)[0].metrics


GROUP = """
group: answers
task:
  - {short}
  - {long}
aggregate_metric_list: [{{metric: acc, aggregation: mean, weight_by_size: true}}]
"""


@pytest.mark.lm_eval
@pytest.mark.slow
def test_a_group_reports_its_score_and_one_without_a_score_those_of_its_tasks(
    tmp_path: Path, tiny_base: Path, tokenizer
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval")
    tasks = {}
    for name, gold in {"short": [0] * 2, "long": [0] * 3 + [1] * 3}.items():
        declared = task_on(tmp_path / f"{name}.jsonl", [("What colour is it?", answer) for answer in gold])
        tasks[name] = json.dumps(yaml.safe_load(declared) | {"task": name})
    group, bare = tmp_path / "group.yaml", tmp_path / "bare.yaml"
    group.write_text(GROUP.format(**tasks), encoding="utf-8")
    bare.write_text("\n".join(GROUP.format(**tasks).splitlines()[:-1]), encoding="utf-8")
    metrics = {file.stem: measured(tiny_base, tokenizer, file) for file in (group, bare)}
    short, long = (metrics["bare"][f"{name} acc"] for name in tasks)  # always the same answer
    assert {short, long} in ({1.0, 0.5}, {0.0, 0.5})
    assert metrics["group"]["acc"] == pytest.approx((2 * short + 6 * long) / 8)
    bare.write_text("group: answers\ntask: [arc_easy]\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"bare\.yaml: task: a group's is a list of mappings"):
        measured(tiny_base, tokenizer, bare)


@pytest.mark.lm_eval
@pytest.mark.slow
def test_a_task_of_a_file_is_measured_and_an_unknown_one_leaves_the_stage_published(
    tmp_path: Path, runs: Path, remix
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval")
    rows = [(f"What colour is thing {number}?", number % 2) for number in range(6)]
    task = tmp_path / "colours.yaml"
    task.write_text(task_on(tmp_path / "rows.jsonl", rows), encoding="utf-8")
    line = ["run", "kvr", "--runs", runs, "--stage", "stage1", *SMALL, "evaluate.limit=4"]
    failed = remix(*line, f"evaluate.lm_eval=[{task}, no_such_task]", check=False)
    assert failed.returncode == 1
    assert "no_such_task" in failed.stderr
    (stage,) = (runs / "stages").iterdir()
    (result,) = Harness().read(stage).values()
    assert (result.task, result.limit) == (str(task), 4)
    assert result.metrics["acc"] in (0.0, 0.25, 0.5, 0.75, 1.0)  # of four rows
    assert remix(*line, f"evaluate.lm_eval=[{task}]").stdout.count("already published") == 1
