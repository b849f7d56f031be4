"""EleutherAI's lm-evaluation-harness on a published stage: what the model has lost besides facts, by benchmarks."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.base import Measurement, Models, Subject
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.yaml_file import load_mapping
from remix_toolkit.records import Part, Positive


class HarnessResult(Part):
    """One task of the lm-evaluation-harness."""

    task: str = Field(description="the harness's name, or the path of a YAML file")
    version: str = Field(description="of the harness")
    limit: Positive | None = Field(description="rows that were asked; none: all")
    metrics: dict[str, float]


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
            load_mapping(Path(task))

    def measure(self, item: str, subject: Subject, models: Models) -> tuple[HarnessResult, tuple[()]]:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        task, limit = _tasks(subject.recipe)[item], subject.recipe.evaluate.limit
        declared = load_mapping(Path(task))[0] if _is_file(task) else task
        model = HFLM(pretrained=models.model, tokenizer=models.tokenizer)
        try:
            answers = simple_evaluate(model=model, tasks=[declared], limit=limit, bootstrap_iters=1000)["results"]
        except KeyError as error:
            raise BadInput(f"evaluate.lm_eval: {task}: the harness has no such task ({error})") from error
        metrics = {
            name.removesuffix(",none"): float(value)
            for answer in answers.values()
            for name, value in answer.items()
            if isinstance(value, float | int)
        }
        return HarnessResult(task=task, version=version("lm_eval"), limit=limit, metrics=metrics), ()


def _tasks(recipe: Recipe) -> dict[str, str]:
    """What is requested -> the task: of other limits, the results of a task are others."""
    limit = recipe.evaluate.limit
    return {task if limit is None else f"{task} on {limit} rows": task for task in recipe.evaluate.lm_eval}


def _is_file(task: str) -> bool:
    return task.endswith((".yaml", ".yml"))
