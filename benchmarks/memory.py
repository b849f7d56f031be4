"""The memory and the time of each scoring pass of a narrow model with the vocabulary of Llama 3, 128,256 tokens.

    python benchmarks/memory.py                     # a table
    python benchmarks/memory.py --json
    python benchmarks/memory.py --gradients 0.3     # GB of gradients that interference may hold at one time; else 32

Each pass runs in a process of its own: memory is the peak of that process beyond what it held before the pass. Rows are
random tokens, as many and as long as `--rows` and `--columns` say, the last three quarters of each trained.
"""

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from remix_toolkit.data.encoding import Example
from remix_toolkit.evaluate import budget
from remix_toolkit.evaluate.forward import best_tokens, example_losses
from remix_toolkit.evaluate.gradients import interference
from remix_toolkit.evaluate.lens import answer_tokens
from remix_toolkit.stage.curve import right_by_scoring

VOCABULARY, HIDDEN, LAYERS = 128_256, 64, 2
PASSES = ("recall", "held-out loss", "retention curve", "lens", "interference")


class Padding:
    """As much of a tokenizer as a pass over ready-made tokens takes."""

    pad_token_id = eos_token_id = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--gradients", type=float, default=budget.GRADIENTS / 1e9, help="GB")
    parser.add_argument("--json", action="store_true", help="for machines")
    given = parser.parse_args()
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        rows = [pool.submit(measure, name, given.rows, given.columns, given.gradients).result() for name in PASSES]
    whole = given.rows * given.columns * VOCABULARY * 4 / 1e9
    if given.json:
        print(json.dumps({"rows": given.rows, "columns": given.columns, "logits_gb": whole, "passes": rows}, indent=1))
        return
    table = Table(
        title=f"{given.rows} rows of {given.columns} tokens, fp32; their logits alone would be {whole:.1f} GB"
    )
    for column in ("pass", "GB at the peak", "CPU seconds"):
        table.add_column(column, justify="left" if column == "pass" else "right")
    for row in rows:
        table.add_row(row["pass"], f"{row['gb']:.2f}", f"{row['seconds']:.1f}")
    Console().print(table)


def measure(name: str, rows: int, columns: int, gradients: float) -> dict[str, Any]:
    """The peak of this process during one pass, beyond what it held before, in GB, and its CPU seconds."""
    torch.manual_seed(0)
    size: dict[str, Any] = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": LAYERS}
    config = LlamaConfig(vocab_size=VOCABULARY, num_attention_heads=4, num_key_value_heads=4, **size)
    model, tokenizer = LlamaForCausalLM(config).eval(), Padding()
    rng = random.Random(0)
    tokens = [[rng.randrange(VOCABULARY) for _ in range(columns)] for _ in range(rows)]
    asked = columns // 4
    examples = [Example(row, [-100] * asked + row[asked:]) for row in tokens]
    budget.GRADIENTS = int(gradients * 1e9)
    passes: dict[str, Callable[[], object]] = {
        "recall": lambda: best_tokens(model, tokenizer, examples),  # type: ignore[arg-type]
        "held-out loss": lambda: example_losses(model, tokenizer, examples),  # type: ignore[arg-type]
        "retention curve": lambda: right_by_scoring(model, tokenizer, examples),  # type: ignore[arg-type]
        "lens": lambda: answer_tokens(model, tokenizer, examples),  # type: ignore[arg-type]
        "interference": lambda: interference(
            model,
            tokenizer,  # type: ignore[arg-type]
            {name: [Example(e.input_ids[:32], e.labels[asked : asked + 32]) for e in examples] for name in "abm"},
        ),
    }
    before, started = psutil.Process().memory_info().rss, time.process_time()
    with redirect_stdout(sys.stderr):  # stdout is for the figures
        passes[name]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"pass": name, "gb": (peak - before) / 1e9, "seconds": time.process_time() - started}


if __name__ == "__main__":
    main()
