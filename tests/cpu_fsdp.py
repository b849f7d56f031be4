"""Stages one after the other in each of torchrun's processes, on CPUs: DDP over gloo, or FSDP2.

    torchrun --nproc_per_node 2 tests/cpu_fsdp.py cases.json

A case is {"arguments": those of remix_toolkit.stage, "environment": what the launcher would have set}; the messages of
failed ones go to cases.json.failed. accelerate itself turns FSDP on for accelerators only: on CPUs it would silently do
DDP, as a case with {"plain": true} shows. {"dies_at": N} ends a case at an optimizer step; {"loaded": FOLDER} has what
it resumes from written there again, once it is loaded; {"sums": FILE} has each process write the sum of the weights
that it loaded.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from remix_toolkit.errors import RunFailed
from remix_toolkit.stage import private_api
from remix_toolkit.stage.callbacks import SaveByTime

plain, sharded_on = AcceleratorState.__init__, private_api.sharded_on


def with_fsdp(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    """accelerate's own, and what it does for several GPUs where there are several CPU processes."""
    plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self._mixed_precision != "no":
        fsdp_plugin.set_mixed_precision(self._mixed_precision)
    plugin = fsdp_plugin or self.__dict__.get("fsdp_plugin")  # all instances share their state
    if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = plugin


class Watch(TrainerCallback):
    """What a case does besides training."""

    def __init__(self, case: dict[str, Any], trainer: Trainer) -> None:
        self.case, self.trainer = case, trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if "loaded" in self.case:
            self.trainer._save_optimizer_and_scheduler(self.case["loaded"])
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, SaveByTime) and not state.is_world_process_zero:
                callback.seconds = math.inf  # by the clock of this process, no time passes

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == self.case.get("dies_at"):
            raise RunFailed("as the case says")


def main(file: Path) -> None:
    """Run the cases."""
    import typer

    from remix_toolkit.stage import train
    from remix_toolkit.stage.command import stage

    app = typer.Typer()
    app.command()(stage)
    failed = []
    build_trainer = train.build_trainer

    def watched(*arguments: Any) -> train.StageTrainer:
        if "sums" in case:
            total = sum(float(weight.abs().sum()) for weight in arguments[2].parameters())
            Path(f"{case['sums']}-{os.environ['RANK']}").write_text(str(total), encoding="utf-8")
        trainer = build_trainer(*arguments)
        trainer.add_callback(Watch(case, trainer))
        return trainer

    train.build_trainer = watched
    for case in json.loads(file.read_text(encoding="utf-8")):
        os.environ.update(case["environment"])
        AcceleratorState.__init__ = plain if case.get("plain") else with_fsdp  # type: ignore[method-assign]
        private_api.sharded_on = sharded_on if case.get("plain") else lambda _: True
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            app(case["arguments"], standalone_mode=False)
        except RunFailed as error:
            failed.append(str(error))
        for name in case["environment"]:
            del os.environ[name]
    if PartialState().is_main_process:
        file.with_name(f"{file.name}.failed").write_text(json.dumps(failed), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
