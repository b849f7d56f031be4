"""A recipe's accelerate config: what it launches, whether it fits the recipe, and the command line that starts it."""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.yaml_file import load_mapping


@dataclass(frozen=True)
class Launch:
    """What an accelerate config launches."""

    processes: int = 1  # on all machines together
    machines: int = 1
    fsdp: bool = False


def launch_of(recipe: Recipe) -> Launch:
    """How the recipe's stages are launched: as its accelerate config says, or in one process.

    Raises BadInput for what such a config cannot have here: another precision than the recipe's, FSDP1, FSDP over a
    quantized base.
    """
    if recipe.accelerate_config is None:
        return Launch()
    file = Path(recipe.accelerate_config)
    if not file.exists():
        raise BadInput(f"accelerate_config: {file}: no such file (paths are relative to {Path.cwd()})")
    config, locations = load_mapping(file)
    if config.get("mixed_precision", "no") != "no":
        at = locations[("mixed_precision",)]
        raise BadInput(
            f"{at}: mixed_precision: is {config['mixed_precision']!r}; set it to 'no': the recipe's `precision` decides"
        )
    counts: list[int] = [config.get(name, 1) for name in ("num_processes", "num_machines")]
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise BadInput(f"{locations[()]}: num_processes and num_machines are whole numbers from 1, not {counts}")
    fsdp = config.get("distributed_type") == "FSDP"
    version = (config.get("fsdp_config") or {}).get("fsdp_version")
    if fsdp and version != 2:
        raise BadInput(f"{file}: fsdp_config.fsdp_version: is {version!r}; 2 is expected")
    if fsdp and recipe.quantization:
        raise BadInput(f"quantization: a quantized base cannot be sharded, and {file} says FSDP; use one GPU for it")
    return Launch(counts[0], counts[1], fsdp)


def check_all(recipes: Iterable[Recipe]) -> None:
    """Read each accelerate config of some recipes once. Raises BadInput."""
    different = {(recipe.accelerate_config, recipe.quantization is None): recipe for recipe in recipes}
    for recipe in different.values():
        launch_of(recipe)


def count(recipe: Recipe) -> int:
    """How many devices one stage runs on: its processes on this machine."""
    launch = launch_of(recipe)
    return max(1, launch.processes // launch.machines)


def command(recipe: Recipe, arguments: Sequence[str]) -> list[str]:
    """The command line that starts `remix_toolkit.stage` under the recipe's launcher; it ends with this process."""
    config = str(recipe.accelerate_config)
    if launch_of(recipe).machines > 1:
        raise BadInput(
            f"{config}: spans several machines; start accelerate on each of them by hand (its first lines say how)"
        )
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    launcher += ["--main_process_port", "0"]  # two stages may start side by side
    return [*launcher, "-m", "remix_toolkit.stage", *arguments, "--parent", str(os.getpid())]
