"""A recipe's accelerate config: what it launches, whether it fits the recipe, and the command line that starts it."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.check import validate
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.yaml_file import load_mapping

ONE_PROCESS = ("finch", "sam", "l2", "ewc", "kl")  # remedies that are not made for several
Count = Annotated[int, Field(gt=0, le=10**9, strict=True)]


class Launch(BaseModel, frozen=True):
    """What an accelerate config launches; without one, a single process."""

    num_processes: Count = 1  # on all machines together
    num_machines: Count = 1
    mixed_precision: Literal["no"] = "no"  # the recipe's `precision` decides
    distributed_type: str = "NO"
    fsdp_config: dict[str, Any] = {}

    @property
    def fsdp(self) -> bool:
        """Are the weights sharded?"""
        return self.distributed_type == "FSDP"

    @property
    def shards(self) -> tuple[bool, int]:
        """Are the weights sharded, and over how many processes?"""
        return self.fsdp, self.num_processes


def launch_of(recipe: Recipe) -> Launch:
    """How the recipe's stages are launched: as its accelerate config says, or in one process.

    Raises BadInput for what such a config cannot have here: another precision than the recipe's, FSDP1, FSDP over a
    quantized base.
    """
    if recipe.accelerate_config is None:
        return Launch()
    file = Path(recipe.accelerate_config)
    if not os.path.exists(file):  # nor where the name is too long for one
        raise BadInput(f"accelerate_config: {file}: no such file (paths are relative to {Path.cwd()})")
    launch = validate(Launch, *load_mapping(file), str(file))
    if launch.fsdp and (version := launch.fsdp_config.get("fsdp_version")) != 2:
        raise BadInput(f"{file}: fsdp_config.fsdp_version: is {version!r}; 2 is expected")
    if launch.fsdp and recipe.quantization:
        raise BadInput(f"quantization: a quantized base cannot be sharded, and {file} says FSDP; use one GPU for it")
    for name in recipe.stages if launch.num_processes > 1 or launch.fsdp else ():
        if remedy := one_process_remedy(recipe, name):
            launched = f"{launch.num_processes}{' under FSDP' if launch.fsdp else ''}"
            raise BadInput(f"stages.{name}.{remedy}: is for one process, without FSDP, and {file} launches {launched}")
    return launch


def one_process_remedy(recipe: Recipe, name: str) -> str | None:
    """The key of a stage's first remedy that is neither for several processes nor for FSDP; None where it has none."""
    keys = [remedy for remedy in ONE_PROCESS if getattr(recipe.stages[name], remedy)]
    if recipe.of_stage(name).is_osf:
        keys.append("adapter")
    return next(iter(keys), None)


def count(recipe: Recipe) -> int:
    """How many devices one stage runs on: its processes on this machine."""
    launch = launch_of(recipe)
    return max(1, launch.num_processes // launch.num_machines)


def command(recipe: Recipe, arguments: Sequence[str]) -> list[str]:
    """The command line that starts `remix_toolkit.stage` under the recipe's launcher; it ends with this process."""
    config, machines = str(recipe.accelerate_config), launch_of(recipe).num_machines
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    stage = ["-m", "remix_toolkit.stage", *arguments]
    if machines == 1:  # port 0: two stages may start side by side
        return [*launcher, "--main_process_port", "0", *stage, "--parent", str(os.getpid())]
    if os.environ.get("SLURM_JOB_NUM_NODES") != str(machines):
        raise BadInput(
            f"{config}: spans {machines} machines: `remix sweep ... --launcher slurm` starts it on them, or "
            "start accelerate on each of them by hand (its first lines say how)"
        )
    # srun starts a launcher on each machine. Which one that is, and where the first one is, is known only there.
    port = 20_000 + int(os.environ["SLURM_JOB_ID"]) % 10_000
    place = f"--machine_rank $SLURM_NODEID --main_process_ip $SLURM_LAUNCH_NODE_IPADDR --main_process_port {port}"
    cpus = os.environ.get("SLURM_CPUS_PER_TASK", "")  # srun takes no notice of what the job was given
    srun = ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus}"] if cpus else [])]
    return [*srun, "bash", "-c", f"exec {shlex.join(launcher)} {place} {shlex.join(stage)}"]
