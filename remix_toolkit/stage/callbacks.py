"""What happens between the steps of training: the stop, checks, marks on checkpoints, progress, values for trackers."""

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations.integration_utils import TensorBoardCallback, WandbCallback

from remix_toolkit import store
from remix_toolkit.console import format_duration, info
from remix_toolkit.errors import RunFailed
from remix_toolkit.recipe.training import Stop
from remix_toolkit.stage import private_api

if TYPE_CHECKING:
    from trl.trainer.sft_trainer import SFTTrainer


class StopBelow(TrainerCallback):
    """End training once the loss was under a threshold at `times` optimizer steps, not necessarily in a row.

    They are counted in the trainer's own log, which a checkpoint keeps: a resumed stage goes on counting.
    """

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        below = sum(entry.get("loss", math.inf) < self.stop.loss_below for entry in state.log_history)
        if below >= self.stop.times:
            control.should_training_stop = True


class EndWithoutSave(TrainerCallback):
    """End the run at once where the loss is not finite, and write no checkpoint at a stage's last step.

    transformers takes one step more when it resumes from the checkpoint of a last step. The last model is published
    anyway, and a crash before that resumes from the checkpoint before.
    """

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise RunFailed(f"the loss became {loss} at step {state.global_step}; a lower train.learning_rate may help")
        if control.should_training_stop:
            control.should_save = False

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_training_stop:
            control.should_save = False


class Sharded(TrainerCallback):
    """Refuse to train where FSDP was asked for and accelerate started something else."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not any(isinstance(parameter, DTensor) for parameter in kwargs["model"].parameters()):
            raise RunFailed(
                "FSDP was asked for, and the weights are not sharded: accelerate started "
                f"{PartialState().distributed_type.value} on {PartialState().num_processes} processes"
            )


class MarkComplete(TrainerCallback):
    """Seal a checkpoint once it is whole: transformers writes it file by file."""

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        PartialState().wait_for_everyone()  # each process writes its own random state
        if state.is_world_process_zero:
            store.seal(Path(args.output_dir, f"checkpoint-{state.global_step}"))


class SaveByTime(TrainerCallback):
    """Have a checkpoint written once so many minutes have passed since the last one, or since training began.

    All processes write it together, so the clock of the main one decides for all.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.last = time.monotonic()

    on_save = on_train_begin

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        due = time.monotonic() - self.last >= self.seconds
        control.should_save = bool(broadcast(torch.tensor(due, device=PartialState().device)))


class Progress(TrainerCallback):
    """A bar on a terminal, plain lines elsewhere: step, loss, and the time left at most (a stop may end it earlier)."""

    LINES = 10  # plain lines per stage, where there is no terminal

    def __init__(self, stage: str) -> None:
        self.stage = stage
        columns = (TextColumn(stage), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.bar = Bar(*columns, disable=not (sys.stdout.isatty() and PartialState().is_main_process))

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.started, self.first = time.monotonic(), state.global_step
        self.shown = state.global_step * self.LINES // state.max_steps
        self.bar.start()
        self.bar.add_task("", total=state.max_steps, completed=state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if "loss" not in (logs or {}):
            return
        pace = (time.monotonic() - self.started) / max(state.global_step - self.first, 1)
        left = format_duration(pace * (state.max_steps - state.global_step))
        text = f"loss {logs['loss']:.2g}, at most {left} left"
        self.bar.update(self.bar.task_ids[0], completed=state.global_step, description=text)
        tenth = state.global_step * self.LINES // state.max_steps
        if self.bar.disable and tenth > self.shown:
            self.shown = tenth
            info(f"{self.stage}: step {state.global_step}/{state.max_steps}, epoch {state.epoch:.1f}, {text}")

    def close(self) -> None:
        """Leave the terminal as it was, also after an error or Ctrl-C."""
        self.bar.stop()


class Trackers(TrainerCallback):
    """The trackers that `train.report_to` names, for other values than the losses, also after training.

    Each stage is a run of its own. TensorBoard writes to `logs` (or to TENSORBOARD_LOGGING_DIR), not beside the
    checkpoints, which are deleted.
    """

    def __init__(self, trainer: "SFTTrainer", logs: Path) -> None:
        self.reporters: list[Any] = private_api.reporters_of(trainer)
        for reporter in self.reporters:
            if isinstance(reporter, TensorBoardCallback):
                reporter.logging_dir = reporter.logging_dir or str(logs)
        trainer.add_callback(self)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.args, self.state = args, state

    def log(self, values: Mapping[str, float]) -> None:
        """Values by name, such as `recall_kvr` in percent, at the optimizer step that training has come to."""
        logs = {f"eval_{name}": value for name, value in values.items()}  # the prefix sets it apart from training
        for reporter in self.reporters:
            reporter.on_log(self.args, self.state, None, logs=logs)

    def close(self) -> None:
        """End the run: the next stage in this process begins another."""
        for reporter in self.reporters:
            if isinstance(reporter, TensorBoardCallback) and reporter.tb_writer:
                reporter.tb_writer.close()
            if isinstance(reporter, WandbCallback):
                import wandb

                wandb.finish()
