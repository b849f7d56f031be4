"""Measures a published stage: whatever a recipe asks for and has not been measured yet."""

import errno
import traceback
from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedModel

from remix_toolkit import store
from remix_toolkit.console import warn
from remix_toolkit.data.encoding import load_tokenizer
from remix_toolkit.errors import BadInput, MeasurementFailed, RunFailed
from remix_toolkit.evaluate.measurements import MEASUREMENTS
from remix_toolkit.evaluate.protocol import Models, Subject
from remix_toolkit.graph.lineage import Node, fact_lists
from remix_toolkit.graph.parent_weights import weights
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.sft_fields import max_length
from remix_toolkit.records import StageRecord
from remix_toolkit.stage.data import StageData
from remix_toolkit.stage.train import load_model


def check_measurable(recipe: Recipe, node: Node, data: StageData) -> None:
    """Raise BadInput, before the stage is trained, where something that is asked for could not be measured."""
    for measurement in MEASUREMENTS:
        if measurement.requested(recipe, node.stage):
            measurement.check(_subject(recipe, node, data))


def measure(recipe: Recipe, node: Node, data: StageData, folder: Path, runs: Path) -> None:
    """Measure what is missing in a published stage's folder.

    All processes of a launcher call it. Where a measurement fails, the others still run, and MeasurementFailed is
    raised at the end; a full disk ends everything at once.
    """
    state = PartialState()
    missing = [(m, m.requested(recipe, node.stage) - m.measured(folder)) for m in MEASUREMENTS]
    missing = [(measurement, ids) for measurement, ids in missing if ids]
    if not missing:
        return
    state.wait_for_everyone()  # nothing is written before all processes know what is missing
    subject, models = _subject(recipe, node, data), _load_models(recipe, node, folder, runs)
    failures: list[str] = []
    for measurement, ids in missing:
        if not (measurement.shared or state.is_main_process):
            continue
        try:
            measurement.run(subject, models, folder, ids)
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            if isinstance(error, BadInput | RunFailed):
                reason = str(error)
            else:
                traceback.print_exc()
                reason = f"{type(error).__name__}: {error}"
            warn(f"{node.stage}: {measurement.name} was not measured: {reason}")
            failures.append(f"{measurement.name} ({reason})")
    if failures:
        raise MeasurementFailed(f"{node.stage} is published, but not measured in full: {'; '.join(failures)}")


def _subject(recipe: Recipe, node: Node, data: StageData) -> Subject:
    stage = recipe.stages[node.stage]
    return Subject(
        recipe=recipe,
        stage=node.stage,
        lists=fact_lists(recipe, node.position),
        facts=data.measured,
        pairs=data.facts,
        mixing=data.mixing,
        held_out=data.held_out,
        max_length=max_length(stage.train),
    )


def _load_models(recipe: Recipe, node: Node, folder: Path, runs: Path) -> Models:
    init = {"trust_remote_code": bool(recipe.stages[node.stage].train.get("trust_remote_code"))}

    def load_parent() -> PreTrainedModel:
        parent = store.find_stage(runs, node.ancestors[-1])
        if parent is None or store.is_pruned(parent):
            raise BadInput("the weights that the stage started from are gone; run the stage before it again")
        if weights(parent) != StageRecord.read(folder / "stage.json").parent_weights:
            raise BadInput(f"{parent} was trained again since, to other weights than the stage started from")
        return load_model(str(parent), None, "auto", init)

    model = load_model(str(folder), None, "auto", init).to(PartialState().device)
    return Models(model, load_tokenizer(str(folder)), load_parent)
