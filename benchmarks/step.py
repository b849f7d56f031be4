"""Milliseconds per optimizer step: our stage against a plain TRL script, transformers.Trainer and a bare loop.

    python benchmarks/step.py            # a table
    python benchmarks/step.py --json     # with ratio_to_bare and every round's figures

The tiny model, key-value facts, global batch 32, fp32. All train from the same weights on the same batches in the
same order; their losses are compared step by step before any time is printed. The rows take turns, round by round,
and a row's figure is the median over all its steps but each round's first three.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import Trainer, TrainerCallback, TrainingArguments, get_cosine_schedule_with_warmup
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from remix_toolkit.console import quieten
from remix_toolkit.data import tasks, tulu
from remix_toolkit.resolve import load_base, load_task
from remix_toolkit.tiny import base_model
from remix_toolkit.train import build_trainer, load_model, sft_config

BATCH = 32
WARM = 3  # first steps of a round: allocations, thread pools
TOLERANCE = 1e-5  # of the losses, absolute


class Clock(TrainerCallback):
    """The time at which each optimizer step ended, and its loss."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in (logs or {}):
            self.losses.append(logs["loss"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--steps", type=int, default=25, help="optimizer steps a round [25]")
    parser.add_argument("--rounds", type=int, default=4, help="rounds [4]")
    options = parser.parse_args()
    quieten()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.steps, options.rounds, Path(folder))
    if options.json:
        print(json.dumps(result, indent=1))
        return
    table = Table(title=f"one optimizer step of {BATCH} pairs, tiny model, {result['threads']} threads")
    for column in ("what", "ms a step", "ratio to bare", "largest loss difference"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, row in result["rows"].items():
        table.add_row(name, f"{row['ms']:.1f}", f"{row['ratio_to_bare']:.2f}", f"{row['loss_difference']:.1e}")
    Console().print(table)


def measure(steps: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Time every row; raises if the losses of two of them differ by more than the tolerance."""
    recipe = load_base("tiny")
    recipe = recipe.model_copy(
        update={"train": {**recipe.train, "num_train_epochs": 1, "save_strategy": "no", "warmup_steps": 0.05}}
    )
    stage = recipe.stages["stage1"].model_copy(update={"train": recipe.train})
    (folder / "bases").mkdir()
    source, _ = base_model(recipe, folder)
    tokenizer = tulu.load_tokenizer(source)
    start = load_model(source, None, "fp32", {})
    facts = tasks.load(load_task("kvr", [f"size={steps * BATCH}"]), 0)
    examples = [tulu.encode(tokenizer, fact) for fact in facts]
    common = {name: value for name, value in recipe.train.items() if name not in ("max_length", "save_steps")}
    common |= {"output_dir": str(folder / "out"), "seed": 0, "logging_steps": 1, "disable_tqdm": True, "bf16": False}
    common |= {"dataloader_pin_memory": False, "dataloader_drop_last": True}

    def ours() -> Any:
        args = sft_config(recipe, stage, folder / "ours", 1)
        return build_trainer(recipe, stage, copy.deepcopy(start), tokenizer, examples, args, [])

    order = list(ours()._get_train_sampler())
    rows = Dataset.from_list([{"input_ids": examples[i].input_ids, "labels": examples[i].labels} for i in order])
    collate = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)

    def plain_trl(**changes: Any) -> Any:
        # A script that sets the same hyperparameters and leaves everything else to TRL: its loss, its checkpointing.
        settings = {k: v for k, v in {**common, **changes}.items() if k in changes or k != "activation_checkpointing"}
        args = SFTConfig(**settings, shuffle_dataset=False, train_sampling_strategy="sequential")
        return SFTTrainer(copy.deepcopy(start), args, train_dataset=rows, processing_class=tokenizer)

    def plain_trainer() -> Any:
        args = TrainingArguments(**common, train_sampling_strategy="sequential")
        return Trainer(copy.deepcopy(start), args, data_collator=collate, train_dataset=rows)

    def with_clock(build: Callable[[], Any]) -> Callable[[], tuple[list[float], list[float]]]:
        def run() -> tuple[list[float], list[float]]:
            trainer, clock = build(), Clock()
            for noisy in trainer.callback_handler.callbacks[:]:
                if type(noisy).__name__ in {"PrinterCallback", "ProgressCallback"}:
                    trainer.remove_callback(noisy)
            trainer.add_callback(clock)
            trainer.train()
            return clock.ends, clock.losses

        return run

    def bare() -> tuple[list[float], list[float]]:
        model = copy.deepcopy(start).train()
        batches = [collate([rows[i] for i in range(n * BATCH, (n + 1) * BATCH)]) for n in range(steps)]
        rate = recipe.train["learning_rate"]
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        schedule = get_cosine_schedule_with_warmup(optimizer, -(-steps // 20), steps)
        ends, losses = [], []
        for batch in batches:
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            ends.append(time.perf_counter())
        return ends, losses

    runners = {
        "bare loop": bare,
        "our stage": with_clock(ours),
        "transformers.Trainer": with_clock(plain_trainer),
        "TRL, no checkpointing": with_clock(lambda: plain_trl(activation_checkpointing=False)),
        "TRL, its defaults": with_clock(plain_trl),
    }
    times: dict[str, list[float]] = {name: [] for name in runners}
    differences = dict.fromkeys(runners, 0.0)
    reference: list[float] = []
    for _ in range(rounds):
        for name, run in runners.items():
            ends, losses = run()
            reference = reference or losses
            apart = max(abs(a - b) for a, b in zip(losses, reference, strict=True))
            if apart > TOLERANCE:
                raise SystemExit(f"{name}: its losses differ from the bare loop's by {apart:.1e}: not the same work")
            differences[name] = max(differences[name], apart)
            times[name] += [1000 * (b - a) for a, b in zip(ends[WARM:], ends[WARM + 1 :], strict=False)]
    bare_ms = statistics.median(times["bare loop"])
    return {
        "threads": torch.get_num_threads(),
        "steps_timed": len(times["bare loop"]),
        "ratio_to_bare": statistics.median(times["our stage"]) / bare_ms,
        "rows": {
            name: {
                "ms": statistics.median(values),
                "ratio_to_bare": statistics.median(values) / bare_ms,
                "loss_difference": differences[name],
            }
            for name, values in times.items()
        },
    }


if __name__ == "__main__":
    main()
