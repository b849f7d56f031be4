"""Measures a published stage, and once the base model: whatever a recipe asks for and has not been measured yet."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from filelock import FileLock
from transformers import PreTrainedModel

from remix_toolkit.console import info, warn
from remix_toolkit.data.encoding import load_tokenizer
from remix_toolkit.errors import BadInput, MeasurementFailed, describe, disk_problem
from remix_toolkit.evaluate.base import Measurement, Models
from remix_toolkit.evaluate.known import Known
from remix_toolkit.evaluate.measurements import MEASUREMENTS, missing_of_base
from remix_toolkit.graph.lineage import base_results
from remix_toolkit.graph.retrained import weights
from remix_toolkit.recipe.sft_fields import trusts_code
from remix_toolkit.records import StageRecord
from remix_toolkit.stage import familiar
from remix_toolkit.stage.prepare import PreparedStage, starting_model
from remix_toolkit.stage.ranks import main_process_first
from remix_toolkit.stage.train import load_model


def measure(prepared: PreparedStage, folder: Path) -> None:
    """Measure what is missing in a published stage's folder.

    All processes of a launcher call it. Where a measurement fails, the others still run, and MeasurementFailed is
    raised at the end; a full disk ends everything at once.
    """
    state, name = PartialState(), prepared.node.stage
    with main_process_first() as first:
        failures = _measure_base(prepared) if first else []
        missing = {measurement: measurement.missing(prepared.recipe, name, folder) for measurement in MEASUREMENTS}
        if first and any(items for kind, items in missing.items() if kind.name == Known.name):
            familiar.known_facts(prepared.recipe, prepared.runs)  # asked here, if need be: the others read the answers
    if any(missing.values()):
        state.wait_for_everyone()  # nothing is written before all processes know what is missing
        to_run = {kind: items for kind, items in missing.items() if kind.shared or state.is_main_process}
        failures += _run(to_run, prepared, _load_models(prepared, folder), folder, name)
    if failures:
        raise MeasurementFailed(f"{name} is published, but not measured in full: {'; '.join(failures)}")


def _measure_base(prepared: PreparedStage) -> list[str]:
    """Measure what is missing of the base model; what failed. What was measured is kept, for all recipes."""
    recipe, name = prepared.recipe.model_copy(update={"base_stage": None}), prepared.node.stage
    folder = base_results(prepared.runs, prepared.node.declaration)
    if not missing_of_base(recipe, name, folder):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # another process may have measured it in the meantime
        if not (missing := missing_of_base(recipe, name, folder)):
            return []
        info(f"{name}: measuring the base model too: {', '.join(kind.name for kind in missing)}")
        models = Models(
            *familiar.load_base(recipe, prepared.runs), lambda: familiar.load_base(recipe, prepared.runs)[0]
        )
        failures = _run(missing, prepared, models, folder, "the base model")
        del models
        clear_device_cache()
    return [f"{failure} of the base model" for failure in failures]


def _run(
    missing: Mapping[Measurement[Any], Sequence[str]], prepared: PreparedStage, models: Models, folder: Path, name: str
) -> list[str]:
    """Measure some items of some kinds, each whatever becomes of the others; what failed, and why."""
    failures: list[str] = []
    for measurement, items in missing.items():
        try:
            measurement.run(items, prepared.subject, models, folder)
        except Exception as error:
            if disk_problem(error, prepared.runs):
                raise
            reason = describe(error, prepared.runs)
            warn(f"{name}: {measurement.name} was not measured: {reason}")
            failures.append(f"{measurement.name} ({reason})")
    return failures


def _load_models(prepared: PreparedStage, folder: Path) -> Models:
    init = {"trust_remote_code": trusts_code(prepared.stage.train)}

    def load_parent() -> PreTrainedModel:
        parent, _ = starting_model(prepared)
        if weights(Path(parent)) != StageRecord.read(folder / "stage.json").parent_weights:
            raise BadInput(f"{parent} was trained again since, to other weights than the stage started from")
        return load_model(parent, None, "auto", init)

    model = load_model(str(folder), None, "auto", init).to(PartialState().device)
    return Models(model, load_tokenizer(str(folder)), load_parent)
