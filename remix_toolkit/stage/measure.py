"""Measures a published stage: whatever a recipe asks for and has not been measured yet."""

from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedModel

from remix_toolkit.console import warn
from remix_toolkit.data.encoding import load_tokenizer
from remix_toolkit.errors import BadInput, MeasurementFailed, describe, disk_problem
from remix_toolkit.evaluate.base import Models
from remix_toolkit.evaluate.measurements import MEASUREMENTS
from remix_toolkit.graph.retrained import weights
from remix_toolkit.records import StageRecord
from remix_toolkit.stage.prepare import PreparedStage, starting_model
from remix_toolkit.stage.train import load_model


def measure(prepared: PreparedStage, folder: Path) -> None:
    """Measure what is missing in a published stage's folder.

    All processes of a launcher call it. Where a measurement fails, the others still run, and MeasurementFailed is
    raised at the end; a full disk ends everything at once.
    """
    state, name = PartialState(), prepared.node.stage
    missing = {measurement: measurement.missing(prepared.recipe, name, folder) for measurement in MEASUREMENTS}
    if not any(missing.values()):
        return
    state.wait_for_everyone()  # nothing is written before all processes know what is missing
    subject, models = prepared.subject, _load_models(prepared, folder)
    failures: list[str] = []
    for measurement, items in missing.items():
        if not (measurement.shared or state.is_main_process):
            continue
        try:
            measurement.run(items, subject, models, folder)
        except Exception as error:
            if disk_problem(error, prepared.runs):
                raise
            reason = describe(error, prepared.runs)
            warn(f"{name}: {measurement.name} was not measured: {reason}")
            failures.append(f"{measurement.name} ({reason})")
    if failures:
        raise MeasurementFailed(f"{name} is published, but not measured in full: {'; '.join(failures)}")


def _load_models(prepared: PreparedStage, folder: Path) -> Models:
    init = {"trust_remote_code": bool(prepared.stage.train.get("trust_remote_code"))}

    def load_parent() -> PreTrainedModel:
        parent, _ = starting_model(prepared)
        if weights(Path(parent)) != StageRecord.read(folder / "stage.json").parent_weights:
            raise BadInput(f"{parent} was trained again since, to other weights than the stage started from")
        return load_model(parent, None, "auto", init)

    model = load_model(str(folder), None, "auto", init).to(PartialState().device)
    return Models(model, load_tokenizer(str(folder)), load_parent)
