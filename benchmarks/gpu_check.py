"""A GPU checked before a night is spent on it: correctness, speed against TRL's defaults, QLoRA, the first run.

    python benchmarks/gpu_check.py                   # make gpu-check: one 80 GB GPU, under 8 minutes
    python benchmarks/gpu_check.py --json
    python benchmarks/gpu_check.py --shape tiny      # tried out on any machine

At the shape of Llama-3-8B with random weights: nothing is downloaded. Correctness first, on the tiny model on this
device (gpu_correctness.py). Then KVR with passages at 1:2, global batch 32, pure bf16: real tokens a second, model
FLOPs utilization on real tokens, peak memory. Passages are cut so that an example has as many of the tiny tokenizer's
tokens as it has of Llama's. Then recall of facts a second against plain generation, of a model that knows none of them.
Last, whole stages (gpu_stages.py): QLoRA merged within the 24 GB of a small card, and kvr_8b_first_run's first stage.
A variant that cannot run here is named with the reason, and not counted. The rates that were reached are printed as
`remix plan` takes them.

Estimates for an H100, which no run has confirmed yet: correctness 80 s, speed 100 s, recall 40 s, the rates with 16 GB
written 30 s, QLoRA 100 s (16 GB are read twice, and written), the first run 110 s; 460 s in all. `seconds` of the JSON
has what each part took.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from gpu_correctness import FACTS, correctness
from gpu_stages import as_estimated, first_run, qlora
from recall import BATCH as TOGETHER
from recall import LIMIT, plain_generation
from rich.console import Console
from rich.table import Table
from step import Clock
from transformers import AutoModelForCausalLM, LlamaConfig
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from remix_toolkit.console import silence_libraries
from remix_toolkit.data import encoding, tasks
from remix_toolkit.evaluate import recall
from remix_toolkit.graph import memory
from remix_toolkit.graph.hours import Rates
from remix_toolkit.recipe.load import load_base, load_recipe, load_task
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.setup import Shape
from remix_toolkit.stage import train
from remix_toolkit.stage.data import build_all
from remix_toolkit.store import base_model

BATCH, STEPS, WARM = 32, 12, 4
SURE = 16  # times as sure of its best token; a power of two, so that it can be undone
WORDS = 20  # 40 words are about as many tokens of the tiny vocabulary as 100 words are of Llama's
HEADS = {"llama3-8b": 32, "tiny": 8}
TINY = Shape(layers=4, hidden=256, intermediate=896, key_value=64, vocabulary=1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=HEADS, default="llama3-8b")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    silence_libraries()
    if options.shape != "tiny" and not torch.cuda.is_available():
        sys.stderr.write("error: there is no GPU here; --shape tiny tries the script out on a CPU\n")
        return 2
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):  # stdout is for the figures
        stats = check(options.shape, Path(folder))
    wrong = [name for name, outcome in stats["checks"].items() if not as_it_should_be(outcome)]
    if options.json:
        print(json.dumps(stats, indent=1))
        return int(bool(wrong))
    show(stats)
    return int(bool(wrong))


def check(shape: str, folder: Path) -> dict[str, Any]:
    """All that is looked at, and how many seconds each part of it took."""
    ends = [("", time.perf_counter())]
    checks, ties = correctness(folder)
    ends.append(("correctness", time.perf_counter()))
    tiny = base_model(load_base("tiny"), folder / "plain")[0]  # whose tokenizer the data is made with
    rows, model = speed(shape, tiny, folder)
    ends.append(("speed", time.perf_counter()))
    recalled = recall_rates(model, encoding.load_tokenizer(tiny))
    ends.append(("recall", time.perf_counter()))
    rates = reached(rows, model, folder)
    base, weights = folder / "saved", float(model.num_parameters())
    for file in Path(tiny).glob("token*"):
        shutil.copy(file, base)
    del model
    clear_device_cache(garbage_collection=True)  # a stage takes what the GPU has
    ends.append(("rates", time.perf_counter()))
    stages = {}
    for name, run in (("QLoRA", qlora), ("first run", first_run)):
        stages[name] = run(base, sizes(shape), weights, folder / "stage")
        shutil.rmtree(folder / "stage")  # 16 GB
        ends.append((name, time.perf_counter()))
    cap = ", within 24 GB" if torch.cuda.is_available() else ""
    checks[f"QLoRA merged at this shape{cap}"] = stages["QLoRA"]["outcome"]
    checks["first run: published, recalled, a lower loss"] = stages["first run"]["outcome"]
    checks["first run: memory within 15% of the estimate"] = as_estimated(stages["first run"])
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "shape": shape,
        "checks": checks,
        "near_ties": {"facts": FACTS, "near_ties": ties},
        "rows": rows,
        "recall": recalled,
        "rates": rates,
        "stages": stages,
        "seconds": {name: end - start for (_, start), (name, end) in pairwise(ends)},
    }


def as_it_should_be(outcome: str) -> bool:
    """Did a check come out well, or could it not be made here?"""
    return outcome in ("equal", "as expected") or "not here" in outcome


def show(stats: dict[str, Any]) -> None:
    """The figures for people."""
    console = Console()
    for name, outcome in stats["checks"].items():
        console.print(f"{name}: {outcome}")
    console.print("near ties in bf16, settled by generation: {near_ties} of {facts} facts".format(**stats["near_ties"]))
    table = Table(title=f"{stats['shape']}'s shape, pure bf16, global batch {BATCH}, {stats['device']}")
    for column in ("what", "ms a step", "real tokens/s", "padded tokens/s", "utilization", "peak GB", "ratio to TRL"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, row in stats["rows"].items():
        if "why" in row:
            table.add_row(name, row["why"])
            continue
        used = "-" if row["utilization"] is None else f"{row['utilization']:.1%}"
        peak = "-" if row["peak_gb"] is None else f"{row['peak_gb']:.1f}"
        tokens = f"{row['real_tokens_per_s']:,.0f}", f"{row['padded_tokens_per_s']:,.0f}"
        table.add_row(name, f"{row['ms']:.0f}", *tokens, used, peak, f"{row['ratio_to_trl']:.2f}")
    console.print(table)
    recalled = stats["recall"]
    console.print(
        f"recall: {recalled['facts_per_s']:.1f} facts a second ({recalled['near_ties']} of {recalled['facts']} near "
        f"ties); plain generation of up to {LIMIT:,} tokens: {recalled['facts_per_s_generate']:.1f}"
    )
    for name, one in stats["stages"].items():
        peak = "" if one["memory_peak"] is None else f", {one['memory_peak'] / 1e9:.1f} GB"
        losses = f"loss {one['first_loss']:.2f} to {one['last_loss']:.2f}"
        console.print(
            f"{name}: {one['steps']} steps in {one['seconds_training']:.0f} of {one['seconds']:.0f} s, {losses}{peak}"
        )
    console.print("seconds: " + ", ".join(f"{name} {taken:.0f}" for name, taken in stats["seconds"].items()))
    console.print(f"remix plan ... {' '.join(f'--rate {name}={rate:.3g}' for name, rate in stats['rates'].items())}")


# --- speed -------------------------------------------------------------------------------------------------------


def speed(shape: str, tiny: str, folder: Path) -> tuple[dict[str, dict[str, Any]], Any]:
    """Steps of every variant, with TRL's defaults as the baseline; and a model as each of them started from."""
    overrides = ["precision=pure_bf16", f"global_batch_size={BATCH}", "stages.stage1.data.size=320"]
    overrides += [f"stages.stage1.mix={{passages: {{ratio: 2, words: {WORDS}}}}}", f"train.max_steps={STEPS}"]
    overrides += ["train.save_strategy=no", "train.per_device_train_batch_size=8", "train.learning_rate=1e-5"]
    recipe = load_recipe("kvr", "tiny", overrides)
    tokenizer = encoding.load_tokenizer(tiny)
    data = build_all(recipe, ["stage1"], tokenizer, folder / "plain")["stage1"]
    size = sizes(shape)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=HEADS[shape],
        num_key_value_heads=size.key_value // (size.hidden // HEADS[shape]),
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def model(attention: str) -> Any:
        torch.manual_seed(0)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention)

    weights = sum(parameter.numel() for parameter in model("sdpa").parameters())
    sized = Recipe.model_validate({**recipe.model_dump(), "parameters": float(weights), "shape": size})
    needed = memory.estimate(sized, "stage1", data.counts.longest)
    room = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else 1e18
    checkpointing = memory.needs_checkpointing(needed, room)

    def ours(attention: str, **settings: Any) -> Callable[[], SFTTrainer]:
        def build() -> SFTTrainer:
            stage = recipe.stages["stage1"]
            changed = stage.model_copy(update={"train": {**stage.train, **settings}})
            args = train.sft_config(recipe, changed, folder / "ours", 1, checkpointing=checkpointing)
            return train.build_trainer(recipe, changed, model(attention), tokenizer, data.examples, args)

        return build

    def trl() -> SFTTrainer:
        keep = ("learning_rate", "lr_scheduler_type", "max_steps", "per_device_train_batch_size", "save_strategy")
        settings = {name: recipe.stages["stage1"].train[name] for name in keep}
        args = SFTConfig(
            str(folder / "trl"), gradient_accumulation_steps=4, report_to="none", use_cpu=device == "cpu", **settings
        )
        rows = Dataset.from_list([{"input_ids": e.input_ids, "labels": e.labels} for e in data.examples])
        return SFTTrainer(model("sdpa"), args, train_dataset=rows, processing_class=tokenizer)

    variants = {"TRL, its defaults": trl, "ours, padded": ours("sdpa")}
    variants["ours, no padding, sdpa"] = ours("sdpa", padding_free=True)
    if flash := next((name for module, name in FLASH.items() if find_spec(module)), None):
        variants[f"ours, no padding, {flash}"] = ours(flash, padding_free=True)
    steps, per_epoch = data.counts.steps_per_epoch, data.counts.tokens_per_epoch
    real = per_epoch.without_padding / steps
    batches = train.epoch_batches(len(data.examples), 0, 0, BATCH)
    lengths = [len(data.examples[i].input_ids) for batch in batches for i in batch]
    any_order = sum(8 * max(lengths[at : at + 8]) for at in range(0, steps * BATCH, 8)) / steps  # TRL's eight at a time
    rows: dict[str, dict[str, Any]] = {}
    for name, build in variants.items():
        padded = any_order if build is trl else real if "no padding" in name else per_epoch.with_padding / steps
        rows[name] = timed(build, device, weights, real, padded)
    for row in rows.values():
        if "ms" in row and "ms" in rows["TRL, its defaults"]:
            row["ratio_to_trl"] = rows["TRL, its defaults"]["ms"] / row["ms"]
    if flash is None:
        rows["ours, no padding, FlashAttention"] = {"why": "neither flash_attn nor kernels is installed"}
    clear_device_cache(garbage_collection=True)
    return rows, model("sdpa")


def sizes(shape: str) -> Shape:
    """The sizes of the model that is timed."""
    return load_base(shape).shape or TINY


def reached(rows: dict[str, dict[str, Any]], model: Any, folder: Path) -> dict[str, float]:
    """The rates of this machine that the plan takes: utilization by our fastest steps, its memory, its disk."""
    rates = {}
    if used := [row["utilization"] for name, row in rows.items() if name.startswith("ours") and row.get("utilization")]:
        rates["utilization"] = max(used)
        block = torch.empty(2 * 10**9, dtype=torch.uint8, device=model.device)
        copy = torch.empty_like(block)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        copy.copy_(block)
        start.record()
        for _ in range(10):
            copy.copy_(block)
        end.record()
        torch.cuda.synchronize()
        rates["memory_gb_per_s"] = 10 * 2 * block.nbytes / 1e9 / (start.elapsed_time(end) / 1000)  # read and written
    started = time.perf_counter()
    model.save_pretrained(folder / "saved")
    os.sync()
    written = sum(file.stat().st_size for file in (folder / "saved").glob("*.safetensors"))
    rates["write_gb_per_s"] = written / 1e9 / (time.perf_counter() - started)
    return rates


@torch.no_grad()
def recall_rates(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Recall of facts a second, ours and plain generation's, by a model that is as sure of itself as a trained one."""
    head = model.get_output_embeddings().weight
    head[len(tokenizer) :] = 0  # the tokenizer has no such tokens
    head.mul_(SURE)
    facts = tasks.load_rows(load_task("kvr", ["size=200"]), 0)
    recall.recall(model, tokenizer, facts[:TOGETHER])  # what the first call sets up is not counted
    started = time.perf_counter()
    verdicts = recall.recall(model, tokenizer, facts)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    plain_generation(model, tokenizer, facts[:TOGETHER])
    theirs = time.perf_counter() - started
    head.div_(SURE)
    return {
        "facts": len(facts),
        "near_ties": sum(verdict.settled_by == "generation, near tie" for verdict in verdicts),
        "facts_per_s": len(facts) / ours,
        "facts_per_s_generate": TOGETHER / theirs,
    }


FLASH = {"flash_attn": "flash_attention_2", "kernels": "kernels-community/flash-attn2"}


def timed(build: Callable[[], SFTTrainer], device: str, weights: int, real: float, padded: float) -> dict[str, Any]:
    """Median step of one variant; `why` where it cannot run."""
    clear_device_cache(garbage_collection=True)  # a trainer and what it holds hold each other
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = Clock()
    try:
        trainer = build()
        trainer.add_callback(clock)
        started = time.perf_counter()
        trainer.train()
    except (torch.OutOfMemoryError, ImportError, OSError, ValueError) as error:
        return {"why": f"{type(error).__name__}: {str(error)[:120]}"}
    ends = [started, *clock.ends]
    seconds = statistics.median(b - a for a, b in zip(ends[WARM:], ends[WARM + 1 :], strict=False))
    return {
        "ms": 1000 * seconds,
        "real_tokens_per_s": real / seconds,
        "padded_tokens_per_s": padded / seconds,
        "utilization": 6 * weights * real / seconds / (Rates().tflops * 1e12) if device == "cuda" else None,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None,
    }


if __name__ == "__main__":
    sys.exit(main())
