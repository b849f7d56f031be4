"""EleutherAI's lm-evaluation-harness on a published stage: what the model has lost besides facts, by benchmarks."""

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.base import Measurement, Models, Subject
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.yaml_file import load_mapping
from remix_toolkit.records import Part, Positive

BATCH_SIZE = 16  # of the harness, where it cannot look for the largest


class HarnessResult(Part):
    """One task of the lm-evaluation-harness."""

    task: str = Field(description="the harness's name, or the path of a YAML file")
    version: str = Field(description="of the harness")
    limit: Positive | None = Field(description="rows that were asked; none: all")
    metrics: dict[str, float] = Field(
        description="of a group, the group's score; of one without a score, each task's, by the name of both"
    )


class Harness(Measurement[HarnessResult]):
    """The harness's own tasks, and tasks that a YAML file declares: `evaluate.lm_eval`."""

    name, result, of_base = "lm_eval", HarnessResult, True

    def requested(self, recipe: Recipe, stage: str) -> list[str]:
        return list(_tasks(recipe))

    def check(self, subject: Subject) -> None:
        tasks = subject.recipe.evaluate.lm_eval
        if tasks and find_spec("lm_eval") is None:
            raise BadInput("evaluate.lm_eval: the harness is not installed: pip install lm-eval")
        for task in filter(_is_file, tasks):
            _load(task)

    def measure(self, item: str, subject: Subject, models: Models) -> tuple[HarnessResult, tuple[()]]:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        task, limit = _tasks(subject.recipe)[item], subject.recipe.evaluate.limit
        name, declared = _declared(task) if _is_file(task) else (task, task)
        # Finding the largest batch that fits ends in an error that can be caught on a GPU; elsewhere it is killed.
        batch_size = "auto" if models.model.device.type == "cuda" else BATCH_SIZE
        model = HFLM(pretrained=models.model, tokenizer=models.tokenizer, batch_size=batch_size)
        try:
            answers = simple_evaluate(model=model, tasks=[declared], limit=limit, bootstrap_iters=1000)["results"]
        except KeyError as error:
            raise BadInput(f"evaluate.lm_eval: {task}: the harness has no such task ({error})") from error
        return HarnessResult(task=task, version=version("lm_eval"), limit=limit, metrics=_metrics(answers, name)), ()


def _declared(file: str) -> tuple[str, Any]:
    """The name and the declaration of a YAML file's task, or of its group: a list of tasks' declarations as `task`."""
    from lm_eval.api.group import Group
    from lm_eval.api.task import ConfigurableTask

    declared = _load(file)
    if "group" not in declared:
        return declared["task"], declared
    group = Group.from_config({**declared, "task": []})  # the harness takes a group's own keys for those of its tasks
    for task in declared["task"]:
        group.add(ConfigurableTask(config=task))
    return group.name, group


def _load(file: str) -> dict[str, Any]:
    """The content of a YAML file that declares a task or a group. Raises BadInput where it does not."""
    declared = load_mapping(Path(file))[0]
    task = declared.get("task")
    if "group" in declared and not (isinstance(task, list) and all(isinstance(one, dict) for one in task)):
        raise BadInput(f"{file}: task: a group's is a list of mappings, each a task as in a file of its own")
    if "group" not in declared and not isinstance(task, str):
        raise BadInput(f"{file}: task: has no name; write task: NAME, or group: NAME above a list of tasks")
    return declared


def _metrics(answers: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, float]:
    """The metrics of a task or a group among the harness's answers; of a group without a score, those of its tasks."""
    by_task = {
        task: {
            metric.removesuffix(",none"): float(value)
            for metric, value in answer.items()
            if "," in metric and isinstance(value, float | int)  # metrics are named with the filter of their answers
        }
        for task, answer in answers.items()
    }
    if by_task.get(name):
        return by_task[name]
    return {f"{task} {metric}": value for task, metrics in by_task.items() for metric, value in metrics.items()}


def _tasks(recipe: Recipe) -> dict[str, str]:
    """What is requested -> the task: of other limits, the results of a task are others."""
    limit = recipe.evaluate.limit
    return {task if limit is None else f"{task} on {limit} rows": task for task in recipe.evaluate.lm_eval}


def _is_file(task: str) -> bool:
    return task.endswith((".yaml", ".yml"))
