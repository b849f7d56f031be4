"""Recall and retention, reported as they are measured to the trackers that `train.report_to` names."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.integrations.integration_utils import TensorBoardCallback, WandbCallback

from remix_toolkit.stage import private_api

if TYPE_CHECKING:
    from trl.trainer.sft_trainer import SFTTrainer


class Trackers:
    """The trackers that transformers set up for a trainer, for use after the trainer is gone. Each stage is a run.

    TensorBoard writes to `logs` (or to TENSORBOARD_LOGGING_DIR), not beside the checkpoints, which are deleted.
    """

    def __init__(self, trainer: "SFTTrainer", logs: Path) -> None:
        self.args = trainer.args
        self.reporters: list[Any] = private_api.reporters_of(trainer)
        for reporter in self.reporters:
            if isinstance(reporter, TensorBoardCallback):
                reporter.logging_dir = reporter.logging_dir or str(logs)

    def log(self, state: Any, values: Mapping[str, float]) -> None:
        """Values by name, such as `recall_kvr` in percent, at the optimizer step of the trainer's state."""
        logs = {f"eval_{name}": value for name, value in values.items()}  # the prefix sets it apart from training
        for reporter in self.reporters:
            reporter.on_log(self.args, state, None, logs=logs)

    def close(self) -> None:
        """End the run: the next stage in this process begins another."""
        for reporter in self.reporters:
            if isinstance(reporter, TensorBoardCallback) and reporter.tb_writer:
                reporter.tb_writer.close()
            if isinstance(reporter, WandbCallback):
                import wandb

                wandb.finish()
