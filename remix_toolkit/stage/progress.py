"""What a person sees while a stage trains: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from transformers import TrainerCallback

from remix_toolkit.console import format_duration, info


class Progress(TrainerCallback):
    """Step, loss and the time that is left at most (a stage with a stop may end before), from the pace so far."""

    LINES = 10  # plain lines per stage, where there is no terminal

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started, self.first = time.monotonic(), state.global_step
        self.shown = state.global_step * self.LINES // max(state.max_steps, 1)
        if state.is_world_process_zero and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(TextColumn(self.stage), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self.bar.start()
            self.bar.add_task("", total=state.max_steps, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
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
