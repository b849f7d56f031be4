"""EleutherAI's lm-evaluation-harness on a published stage: what the model has lost besides facts, by benchmarks."""

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.records import HarnessResult
from remix_toolkit.recipe.yaml_file import load_mapping


def check_installed(tasks: Sequence[str]) -> None:
    """Raise BadInput, before anything is trained, where these tasks could not be run."""
    if tasks and find_spec("lm_eval") is None:
        raise BadInput("evaluate.lm_eval: the harness is not installed: pip install lm-eval")
    for task in tasks:
        if task.endswith((".yaml", ".yml")):
            load_mapping(Path(task))


def harness(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], limit: int | None
) -> dict[str, HarnessResult]:
    """Results by task: of the harness's own tasks, or of tasks that a YAML file declares.

    Raises BadInput for a task that the harness does not know.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    results: dict[str, HarnessResult] = {}
    loaded = HFLM(pretrained=model, tokenizer=tokenizer)
    for task in tasks:
        declared = load_mapping(Path(task))[0] if task.endswith((".yaml", ".yml")) else task
        try:
            answers = simple_evaluate(model=loaded, tasks=[declared], limit=limit, bootstrap_iters=1000)["results"]
        except KeyError as error:
            raise BadInput(f"evaluate.lm_eval: {task}: the harness has no such task ({error})") from error
        metrics = {
            name.removesuffix(",none"): float(value)
            for answer in answers.values()
            for name, value in answer.items()
            if isinstance(value, float | int)
        }
        results[task] = HarnessResult(version=version("lm_eval"), limit=limit, metrics=metrics)
    return results
