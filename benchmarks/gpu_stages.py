"""What gpu_check.py has a whole stage do, in a process of its own, at the shape that it times: QLoRA and the first run.

They start from a model with random weights, which is on the disk already: nothing is downloaded.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.recipe.setup import Shape
from remix_toolkit.records import StageRecord

SMALL_CARD = 24e9  # bytes
TOLERANCE = 0.15  # how far the estimate of memory may be from the peak
# A stage in a process that may take no more of the GPU's memory than a small card has.
CAPPED = f"""
import runpy
import torch
if torch.cuda.is_available():
    share = {SMALL_CARD} / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, share))
runpy.run_module("remix_toolkit.stage", run_name="__main__")
"""


def qlora(base: Path, shape: Shape, weights: float, runs: Path) -> dict[str, Any]:
    """Four steps of QLoRA on a small card, as the profile for one has it, merged onto the weights in 16 bits."""
    more = ["train.max_steps=4"]
    if not torch.cuda.is_available():
        more.append("train.optim=adamw_torch")  # the profile's pages its state between GPU and CPU
    stats = stage("llama3-8b-24gb", base, shape, weights, runs, more, line=["-c", CAPPED], only=["--only", "train"])
    return {**stats, "outcome": merged(base, Path(stats["folder"]), stats["memory_peak"])}


def first_run(base: Path, shape: Shape, weights: float, runs: Path) -> dict[str, Any]:
    """Two of the twenty epochs of kvr_8b_first_run's first stage, all weights in pure bf16, published and measured."""
    more = ["precision=pure_bf16", "train.max_steps=24"]
    stats = stage("llama3-8b", base, shape, weights, runs, more, line=["-m", "remix_toolkit.stage"])
    recalls = list(Recall().read(Path(stats["folder"])).values())
    outcome = "as expected" if recalls and stats["last_loss"] < stats["first_loss"] else "no recall, or no lower loss"
    return {**stats, "recall": [one.recall for one in recalls], "outcome": outcome}


def stage(
    profile: str,
    base: Path,
    shape: Shape,
    weights: float,
    runs: Path,
    overrides: list[str],
    line: list[str],
    only: list[str] | None = None,
) -> dict[str, Any]:
    """Train and publish the first stage of kvr_8b_first_run; what its record says, and where it is."""
    settings = [f"base={base}", f"parameters={weights}", f"shape={json.dumps(shape.model_dump())}"]
    settings += ["accelerate_config=null", "evaluate.known=false", "train.save_strategy=no", *overrides]
    command = [sys.executable, *line, "kvr_8b_first_run", "--profile", profile, "--stage", "stage1"]
    started = time.perf_counter()
    subprocess.run([*command, "--runs", str(runs), *(only or []), *settings], check=True, stdout=sys.stderr)
    (folder,) = (runs / "stages").iterdir()
    record = StageRecord.read(folder / "stage.json")
    losses = [float(row.split(",")[2]) for row in (folder / "loss.csv").read_text(encoding="utf-8").splitlines()[1:]]
    return {
        "seconds": time.perf_counter() - started,
        "steps": record.steps,
        "seconds_training": record.seconds,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "memory_estimated": record.memory_estimated,
        "memory_peak": record.memory_peak,
        "folder": str(folder),
    }


def merged(base: Path, published: Path, peak: int | None) -> str:
    """Are the matrices that the adapter was put on other ones, all else the base's, and did it fit?"""
    before, after = tensors(base), tensors(published)
    if before.keys() != after.keys():
        return "other tensors than the base's"
    for name, weight in before.items():
        same = torch.equal(weight, after[name])
        if same == ("_proj" in name):
            return f"{name} is {'as it was' if same else 'another one'}"
    if peak is not None and peak > SMALL_CARD:
        return f"it took {peak / 1e9:.1f} GB"
    return "as expected"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a model directory."""
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


def as_estimated(stats: dict[str, Any]) -> str:
    """Is the peak of a stage's memory near the estimate? Where there is no GPU, no peak is known."""
    if not (peak := stats["memory_peak"]):
        return "not here: a peak is of a GPU's memory"
    near = abs(stats["memory_estimated"] / peak - 1) <= TOLERANCE
    return "as expected" if near else f"{stats['memory_estimated'] / 1e9:.1f} GB estimated, {peak / 1e9:.1f} GB taken"
