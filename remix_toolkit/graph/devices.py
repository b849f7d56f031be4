"""Stages under `accelerate launch`: what can be launched, with which command line, and that nothing is left behind."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from remix_toolkit.errors import BadInput
from remix_toolkit.graph.lineage import Node
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.yaml_file import load_mapping


def check(recipe: Recipe) -> None:
    """What the accelerate config cannot do is said before it is launched. Raises BadInput."""
    if recipe.accelerate_config is None:
        return
    config = Path(recipe.accelerate_config)
    if not config.exists():
        raise BadInput(f"accelerate_config: {config}: no such file (paths are relative to {Path.cwd()})")
    said, where = load_mapping(config)
    if said.get("mixed_precision", "no") != "no":
        place = where[("mixed_precision",)]
        raise BadInput(f"{place}: mixed_precision: is {said['mixed_precision']!r}; say 'no': `precision` says it")
    if said.get("distributed_type") == "FSDP":
        fsdp = said.get("fsdp_config") or {}
        if fsdp.get("fsdp_version") != 2:
            raise BadInput(f"{config}: fsdp_config.fsdp_version: is {fsdp.get('fsdp_version')!r}; 2 is expected")
        if recipe.quantization:
            raise BadInput(f"quantization: a quantized base is not sharded, and {config} says FSDP; use one GPU for it")


def stage(file: str, overrides: Sequence[str], recipe: Recipe, runs: Path) -> list[str]:
    """The arguments with which remix_toolkit.stage resolves the same recipe."""
    return [file, *overrides, "--profile", recipe.profile, "--seed", str(recipe.seed), "--runs", str(runs)]


def command(recipe: Recipe, node: Node, arguments: Sequence[str]) -> list[str]:
    """The command line that starts a stage's processes, which end with this one. Raises BadInput."""
    config = str(recipe.accelerate_config)
    if load_mapping(Path(config))[0].get("num_machines", 1) > 1:
        raise BadInput(f"{config}: each of several machines starts its own launcher: its first lines say how")
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    line += ["--main_process_port", "0"]  # two stages may start side by side
    line += ["-m", "remix_toolkit.stage", *arguments, "--stage", node.stage, "--no-record"]
    return [*line, "--parent", str(os.getpid())]


def count(recipe: Recipe) -> int:
    """How many devices one stage runs on: its accelerate config's processes on this machine, or one."""
    if recipe.accelerate_config is None or not Path(recipe.accelerate_config).exists():
        return 1
    config, where = load_mapping(Path(recipe.accelerate_config))
    counts: list[int] = [config.get(name, 1) for name in ("num_processes", "num_machines")]
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise BadInput(f"{where[()]}: num_processes and num_machines are whole numbers from 1, not {counts}")
    return max(1, counts[0] // counts[1])
