"""What is done to a stage's weights once it has trained, without training: changes taken back, averaging.

The stage is made of the same stage as it was trained, which is published under a key of its own: several shares of one
remedy have one training in common.
"""

import shutil
from pathlib import Path

import torch
from accelerate import PartialState

from remix_toolkit import store
from remix_toolkit.console import info
from remix_toolkit.data.encoding import load_tokenizer
from remix_toolkit.disk import write_text
from remix_toolkit.errors import BadInput
from remix_toolkit.graph.retrained import weights
from remix_toolkit.recipe.load import resolved_yaml
from remix_toolkit.recipe.schema import Stage
from remix_toolkit.recipe.sft_fields import trusts_code
from remix_toolkit.records import StageRecord
from remix_toolkit.stage.curve import CURVE
from remix_toolkit.stage.data import save
from remix_toolkit.stage.prepare import PreparedStage, starting_model
from remix_toolkit.stage.publish import write_model
from remix_toolkit.stage.train import load_model


def write_changed(prepared: PreparedStage, trained: PreparedStage, sweep: str | None) -> None:
    """Write a draft of the stage from the published one that it is made of, in the main process.

    Raises BadInput where that one did not start from the weights that are averaged with it.
    """
    if not PartialState().is_main_process:
        return
    source, revision = starting_model(prepared)
    folder = store.published_stages(prepared.runs)[trained.node.key]
    record = StageRecord.read(folder / "stage.json")
    if prepared.node.ancestors and record.parent_weights != weights(Path(source)):
        raise BadInput(f"{source} was trained again since {folder} started from it: delete that stage")
    init = {"trust_remote_code": trusts_code(prepared.stage.train)}
    before = load_model(source, revision, "fp32", init).state_dict()
    model = load_model(str(folder), None, "fp32", init)
    tensors = {name: changed(prepared.stage, before[name], after) for name, after in model.state_dict().items()}
    write_model(model, tensors, load_tokenizer(str(folder)), prepared.recipe.published_in, prepared.draft)
    node = prepared.node
    update = {"key": node.key, "declaration": node.declaration, "sweep": sweep, "made_of": trained.node.key}
    record.model_copy(update=update).write(prepared.draft / "stage.json")
    write_text(prepared.draft / "recipe.yaml", resolved_yaml(prepared.recipe))
    save(prepared.data, prepared.draft / "data", examples=False)
    for name in ("loss.csv", CURVE):
        if (folder / name).exists():
            shutil.copy(folder / name, prepared.draft / name)
    info(f"{node.stage}: made of {folder}, and of {source}")


def changed(stage: Stage, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """One tensor of a stage's model, from its values before and after the training of the stage."""
    if stage.leave_out:
        count = round(stage.leave_out.largest * after.numel())
        largest = (after - before).abs().flatten().topk(count, sorted=False).indices
        after = after.flatten().index_copy(0, largest, before.flatten()[largest]).view_as(after)
    if stage.average:
        after = torch.lerp(after, before, stage.average.parent)
    return after
