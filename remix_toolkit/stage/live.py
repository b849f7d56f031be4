"""Recall and retention as they are measured, in whatever `train.report_to` names: TensorBoard, Weights & Biases, ..."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback, WandbCallback

if TYPE_CHECKING:
    from trl.trainer.sft_trainer import SFTTrainer


class Live:
    """The reporters that transformers made for `report_to`, of a trainer that may be gone by the time of the last line.

    TensorBoard writes under `logs` (or where TENSORBOARD_LOGGING_DIR says): what is beside the checkpoints goes with
    them. A stage is a run of its own.
    """

    def __init__(self, trainer: "SFTTrainer", logs: Path) -> None:
        kinds = tuple(INTEGRATION_TO_CALLBACK.values())
        self.args = trainer.args
        self.reporters: list[Any] = [one for one in trainer.callback_handler.callbacks if isinstance(one, kinds)]
        for one in self.reporters:
            if isinstance(one, TensorBoardCallback):
                one.logging_dir = one.logging_dir or str(logs)

    def log(self, state: Any, values: Mapping[str, float]) -> None:
        """Values by name, such as `recall_kvr` in percent, at the optimizer step of the trainer's state."""
        logs = {f"eval_{name}": value for name, value in values.items()}  # they tell it from training by this prefix
        for one in self.reporters:
            one.on_log(self.args, state, None, logs=logs)

    def close(self) -> None:
        """The stage is over: the next one in this process begins a run of its own."""
        for one in self.reporters:
            if isinstance(one, TensorBoardCallback) and one.tb_writer:
                one.tb_writer.close()
            if isinstance(one, WandbCallback):
                import wandb

                wandb.finish()
