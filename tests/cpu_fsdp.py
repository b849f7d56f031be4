"""Stages one after the other in each of torchrun's processes, on CPUs: DDP over gloo, or FSDP2.

    torchrun --nproc_per_node 2 tests/cpu_fsdp.py cases.json

A case is {"arguments": those of remix_toolkit.stage, "environment": what the launcher would have set}; the messages of
failed ones go to cases.json.failed. accelerate itself turns FSDP on for accelerators only: on CPUs it would silently do
DDP, as a case with {"plain": true} shows.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

plain = AcceleratorState.__init__


def with_fsdp(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    """accelerate's own, and what it does for several GPUs where there are several CPU processes."""
    plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self._mixed_precision != "no":
        fsdp_plugin.set_mixed_precision(self._mixed_precision)
    plugin = fsdp_plugin or self.__dict__.get("fsdp_plugin")  # all instances share their state
    if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = plugin


def main(file: Path) -> None:
    """Run the cases."""
    import typer

    from remix_toolkit.errors import RunFailed
    from remix_toolkit.stage.command import stage

    app = typer.Typer()
    app.command()(stage)
    failed = []
    for case in json.loads(file.read_text(encoding="utf-8")):
        os.environ.update(case["environment"])
        AcceleratorState.__init__ = plain if case.get("plain") else with_fsdp  # type: ignore[method-assign]
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
