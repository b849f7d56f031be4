"""What happens between the steps of training: the stop, checks, marks on checkpoints, progress on the screen."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from remix_toolkit.console import format_duration, info
from remix_toolkit.errors import RunFailed
from remix_toolkit.recipe.schema import Stop
from remix_toolkit.records import write_text

COMPLETE = "complete.json"  # written into a checkpoint last: its files and their sizes


class StopBelow(TrainerCallback):
    """End training once the loss was under a threshold at `times` optimizer steps, not necessarily in a row.

    The count is read from the trainer's own log, which a checkpoint keeps: a resumed stage goes on counting.
    """

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.count = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.count = sum(entry.get("loss", math.inf) < self.stop.loss_below for entry in state.log_history)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if (logs or {}).get("loss", math.inf) < self.stop.loss_below:
            self.count += 1
            if self.count >= self.stop.times:
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
    """Mark a checkpoint once it is whole, with the sizes of its files: transformers writes it file by file."""

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        PartialState().wait_for_everyone()  # each process writes its own random state
        if state.is_world_process_zero:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            sizes = {str(f.relative_to(folder)): f.stat().st_size for f in folder.rglob("*") if f.is_file()}
            write_text(folder / COMPLETE, json.dumps(sizes, indent=1))


class Progress(TrainerCallback):
    """A bar on a terminal, plain lines elsewhere: step, loss, and the time left at most (a stop may end it earlier)."""

    LINES = 10  # plain lines per stage, where there is no terminal

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.started, self.first = time.monotonic(), state.global_step
        self.shown = state.global_step * self.LINES // max(state.max_steps, 1)
        if state.is_world_process_zero and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(TextColumn(self.stage), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self.bar.start()
            self.bar.add_task("", total=state.max_steps, completed=state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if "loss" not in (logs or {}) or not state.is_world_process_zero:
            return
        pace = (time.monotonic() - self.started) / max(state.global_step - self.first, 1)
        left = format_duration(pace * (state.max_steps - state.global_step))
        text = f"loss {logs['loss']:.2g}, at most {left} left"
        if self.bar:
            self.bar.update(0, completed=state.global_step, description=text)
        elif (tenth := state.global_step * self.LINES // state.max_steps) > self.shown:
            self.shown = tenth
            info(f"{self.stage}: step {state.global_step}/{state.max_steps}, epoch {state.epoch:.1f}, {text}")

    def close(self) -> None:
        """Leave the terminal as it was, also after an error or Ctrl-C."""
        if self.bar:
            self.bar.stop()
