"""On PYTHONPATH, it stands in for training and measuring: a stage sleeps from checkpoint to checkpoint.

In the folder $FAKE: `stage` is what is published; `log.txt` has a line for each start; a file `hold` keeps stages from
going on, `stuck` from writing checkpoints, `fail-STAGE` makes that stage fail.
"""

import os
import shutil
import sys
import time
import types
from pathlib import Path
from typing import Any

STEPS = 5


def run_key(recipe: Any, key: str, runs: Path, only: str = "", sweep: str = "", wait: bool = True) -> None:
    """What remix_toolkit.stage.command does, in half a second."""
    from remix_toolkit.errors import RunFailed
    from remix_toolkit.graph.lineage import lineage

    place = Path(os.environ["FAKE"])
    name = next(node.stage for node in lineage(recipe) if node.key == key)
    checkpoints = runs / "work" / key / "checkpoints"
    begun = len(list(checkpoints.glob("*")))
    with (place / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"{only} {name} {key} from {begun}: {os.environ['SLURMD_NODENAME']} {os.environ['SLURM_JOB_ID']}\n")
    if (place / f"fail-{name}").exists() and only == "train":
        raise RunFailed(f"{name} was made to fail")
    if only != "train":
        return
    for step in range(begun, STEPS):
        time.sleep(0.1)
        if not (place / "stuck").exists():
            (checkpoints / f"checkpoint-{step}").mkdir(parents=True)
            (checkpoints / f"checkpoint-{step}" / "manifest.json").touch()
        while (place / "hold").exists() or (place / "stuck").exists():
            time.sleep(0.05)
    shutil.copytree(place / "stage", runs / "stages" / f"fake-{name}-seed0-{key}")
    shutil.rmtree(checkpoints.parent)


if "FAKE" in os.environ:
    command: Any = types.ModuleType("remix_toolkit.stage.command")
    command.run_key, command.end_with = run_key, None
    sys.modules["remix_toolkit.stage.command"] = command
