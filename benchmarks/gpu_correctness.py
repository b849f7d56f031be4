"""What gpu_check.py looks at before it times anything: the tiny model, trained in several ways on this device.

Each check has an outcome: `equal`, `as expected`, what is wrong, or `not here` with the reason.
"""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from recall import plain_generation
from safetensors.torch import load_file

from remix_toolkit.data import encoding, tasks
from remix_toolkit.evaluate import recall
from remix_toolkit.recipe.load import load_task
from remix_toolkit.stage import train

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
FSDP |= {"FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
FACTS = 32
SMALL = ["kvr", "--stage", "stage1", "global_batch_size=8", f"stages.stage1.data.size={FACTS}"]
BRIEF = [*SMALL, "stages.stage1.train.num_train_epochs=2", "train.save_strategy=no"]
TAUGHT = [*SMALL, "stages.stage1.train.num_train_epochs=20", "train.save_strategy=no"]
SAVED = [*SMALL, "stages.stage1.train.num_train_epochs=10", "checkpoint_minutes=1e-9"]  # a checkpoint at each step
QLORA = ["adapter={r: 4}", "quantization={load_in_4bit: true}", "train.learning_rate=1e-2"]
WAIT_S = 120
AT_ONCE = 4


def correctness(folder: Path) -> tuple[dict[str, str], int]:
    """Each check, and how it came out; and how many near ties there were in bf16, of the tiny model's facts."""
    with ThreadPoolExecutor(AT_ONCE) as at_once:  # a stage on the tiny model is mostly imports
        training = at_once.submit(stage, folder / "plain")
        recalled = at_once.submit(recalled_alike, folder / "bf16")
        free = at_once.submit(stage, folder / "free", "train.padding_free=true")
        quantized = at_once.submit(stage, folder / "qlora", *QLORA)
        plain = training.result()
        checks = {
            "no padding as with padding": close(plain, free.result()),
            **sharded(plain, folder),
            "QLoRA merged onto the unquantized base": of_low_rank(quantized.result(), folder / "plain"),
        }
        checks["recall in bf16 by scoring as by generation"], ties = recalled.result()
    return checks, ties


def sharded(plain: dict[str, torch.Tensor], folder: Path) -> dict[str, str]:
    """FSDP2 on up to two GPUs: the weights that one process trains; killed after a checkpoint, the undisturbed ones."""
    names = ("FSDP2 as one process", "FSDP2, killed and resumed from shards, as undisturbed")
    if not torch.cuda.is_available():
        return dict.fromkeys(names, "not here: accelerate shards on GPUs only; tests/test_processes.py does")
    devices = min(2, torch.cuda.device_count())
    line = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(devices),
        "--standalone",
        "-m",
        "remix_toolkit.stage",
    ]
    once = close(plain, stage(folder / "fsdp", line=line, environment=FSDP))
    whole = stage(folder / "whole", line=line, arguments=SAVED, environment=FSDP)
    kill_at_checkpoint(folder / "killed", line)
    resumed = stage(folder / "killed", line=line, arguments=SAVED, environment=FSDP)
    return dict(zip(names, (once, close(whole, resumed, bound=1e-7)), strict=True))


def kill_at_checkpoint(runs: Path, line: list[str]) -> None:
    """Start a stage, and kill all its processes once it has a checkpoint. Raises TimeoutError where it writes none."""
    command = [sys.executable, *line, *SAVED, "--runs", str(runs)]
    process = subprocess.Popen(command, stdout=sys.stderr, env={**os.environ, **FSDP}, start_new_session=True)
    deadline = time.monotonic() + WAIT_S
    try:
        while not list(runs.glob("work/*/checkpoints/*/manifest.json")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"no checkpoint in {WAIT_S} s: {command}")
            time.sleep(0.02)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def of_low_rank(merged: dict[str, torch.Tensor], runs: Path) -> str:
    """Do an adapter's merged weights differ from the base's by matrices of its rank, 4?"""
    base = load_file(next(runs.glob("bases/*/*.safetensors")))
    ranks = {
        int(torch.linalg.matrix_rank(merged[name].float() - base[name], rtol=1e-3)) for name in base if "_proj" in name
    }
    return "as expected" if 0 < max(ranks) <= 4 else f"ranks {sorted(ranks)}"


def recalled_alike(runs: Path) -> tuple[str, int]:
    """Of a model in bf16 that knows some facts: are the verdicts those of plain generation? And how many near ties."""
    stage(runs, "precision=bf16", arguments=TAUGHT)
    (folder,) = (runs / "stages").iterdir()
    tokenizer = encoding.load_tokenizer(str(folder))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = train.load_model(str(folder), None, "auto", {}).to(device).eval()  # type: ignore[arg-type]
    facts = tasks.load_rows(load_task("kvr", [f"size={FACTS}"]), 0)
    scored = recall.recall(model, tokenizer, facts)
    generated = plain_generation(model, tokenizer, facts)
    differ = sum(verdict.correct != right for verdict, right in zip(scored, generated, strict=True))
    ties = sum(verdict.settled_by == "generation, near tie" for verdict in scored)
    return ("equal" if not differ else f"{differ} of {FACTS} verdicts differ ({sum(generated)} known)"), ties


def stage(
    runs: Path,
    *overrides: str,
    arguments: list[str] = BRIEF,
    line: list[str] | None = None,
    environment: dict[str, str] | None = None,
) -> Any:
    """The weights that one stage publishes."""
    command = [sys.executable, *(line or ["-m", "remix_toolkit.stage"]), *arguments, *overrides, "--runs", str(runs)]
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, **(environment or {})})
    return load_file(next(runs.glob("stages/*/model.safetensors")))


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], bound: float = 1e-4) -> str:
    """`equal`, or by how much the weights differ: in fp32, only the order of sums may."""
    apart = max((one[name] - other[name]).abs().max().item() for name in one)
    return "equal" if apart < bound else f"weights differ by {apart:.1e}"
