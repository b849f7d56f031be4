"""Milliseconds per optimizer step: our stage against a plain TRL script, transformers.Trainer and a bare loop.

    python benchmarks/step.py            # two tables
    python benchmarks/step.py --json     # with ratio_to_bare and ratio_to_trl

The tiny model, global batch 32, fp32: key-value facts at once, and facts with passages at 1:2, 8 at a time. All train
from the same weights on the same batches; their losses are compared step by step before any time is printed. The rows
take turns, round by round, and a row's figure is the median over all its steps but each round's first three. `data
alone` is our batches fetched and collated, without training.
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

from remix_toolkit.console import silence_libraries
from remix_toolkit.data import encoding
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.stage.data import build_all
from remix_toolkit.stage.train import build_trainer, epoch_batches, load_model, sft_config
from remix_toolkit.store import base_model

BATCH = 32
# What is trained on, and how many examples go through the model at once.
CASES = {
    "facts": (["train.per_device_train_batch_size=32"], 32),
    "facts and passages, 8 at a time": (
        ["train.per_device_train_batch_size=8", "stages.stage1.mix={passages: {ratio: 2, words: 20}}"],
        8,
    ),
}
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
    parser.add_argument("--steps", type=int, default=15, help="optimizer steps a round [15]")
    parser.add_argument("--rounds", type=int, default=2, help="rounds [2]")
    options = parser.parse_args()
    silence_libraries()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bases").mkdir()
        cases = {name: measure(options.steps, options.rounds, Path(folder), *case) for name, case in CASES.items()}
    if options.json:
        print(json.dumps({"threads": torch.get_num_threads(), "cases": cases}, indent=1))
        return
    for case, result in cases.items():
        table = Table(title=f"one optimizer step of {BATCH} {case}, tiny model, {torch.get_num_threads()} threads")
        for column in ("what", "ms a step", "ratio to bare", "ratio to TRL", "largest loss difference"):
            table.add_column(column, justify="left" if column == "what" else "right")
        for name, row in result["rows"].items():
            ratios = f"{row['ratio_to_bare']:.2f}", f"{row['ratio_to_trl']:.2f}"
            table.add_row(name, f"{row['ms']:.1f}", *ratios, f"{row['loss_difference']:.1e}")
        table.add_row("data alone", f"{result['data_ms']:.1f}")
        Console().print(table)


def measure(steps: int, rounds: int, folder: Path, overrides: list[str], at_once: int) -> dict[str, Any]:
    """Time every row; raises if the losses of two of them differ by more than the tolerance."""
    overrides = [*overrides, "train.num_train_epochs=1", "train.save_strategy=no", f"global_batch_size={BATCH}"]
    rows_wanted = steps * BATCH
    many = rows_wanted if at_once == BATCH else -(-rows_wanted // 3)  # a third is facts where passages are mixed in
    recipe = load_recipe("kvr", "tiny", [*overrides, f"stages.stage1.data.size={many}", f"train.max_steps={steps}"])
    stage = recipe.stages["stage1"]
    source, _ = base_model(recipe, folder)
    tokenizer = encoding.load_tokenizer(source)
    start = load_model(source, None, "fp32", {})
    examples = build_all(recipe, ["stage1"], tokenizer, folder)["stage1"].examples
    common = {name: value for name, value in stage.train.items() if name not in ("max_length", "save_steps")}
    common |= {"output_dir": str(folder / "out"), "seed": 0, "logging_steps": 1, "disable_tqdm": True, "bf16": False}
    common |= {"dataloader_pin_memory": False, "dataloader_drop_last": True}
    common |= {"gradient_accumulation_steps": BATCH // at_once}

    def ours(**changes: Any) -> Any:
        changed = stage.model_copy(update={"train": {**stage.train, **changes}})
        args = sft_config(recipe, changed, folder / "ours", 1)
        return build_trainer(recipe, changed, copy.deepcopy(start), tokenizer, examples, args)

    order = [i for batch in epoch_batches(len(examples), recipe.seed, 0, BATCH) for i in batch]
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
        parts = range(0, steps * BATCH, at_once)
        batches = [collate([rows[i] for i in range(at, at + at_once)]) for at in parts]
        rate = recipe.train["learning_rate"]
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        schedule = get_cosine_schedule_with_warmup(optimizer, -(-steps // 20), steps)
        ends, losses = [], []
        for n in range(steps):
            whole = batches[n * BATCH // at_once : (n + 1) * BATCH // at_once]
            trained = torch.stack([(batch["labels"][:, 1:] != -100).sum() for batch in whole]).sum()
            total = 0.0
            for batch in whole:
                loss = model(**batch, num_items_in_batch=trained).loss
                loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(total)
            ends.append(time.perf_counter())
        return ends, losses

    runners = {
        "bare loop": bare,
        "our stage": with_clock(ours),
        "our stage, padding_free": with_clock(lambda: ours(padding_free=True)),
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
    started = time.perf_counter()
    for _ in ours().get_train_dataloader():
        pass
    data_ms = 1000 * (time.perf_counter() - started) / steps
    bare_ms, trl_ms = statistics.median(times["bare loop"]), statistics.median(times["TRL, its defaults"])
    return {
        "steps_timed": len(times["bare loop"]),
        "data_ms": data_ms,
        "rows": {
            name: {
                "ms": statistics.median(values),
                "ratio_to_bare": statistics.median(values) / bare_ms,
                "ratio_to_trl": trl_ms / statistics.median(values),
                "loss_difference": differences[name],
            }
            for name, values in times.items()
        },
    }


if __name__ == "__main__":
    main()
