"""Recall by scoring first against plain generation, as the authors measure it: batches of 20, up to 1,000 new tokens.

    python benchmarks/recall.py            # a table
    python benchmarks/recall.py --json     # with speedup and differing_verdicts

The tiny model is taught all, half and none of 40 key-value facts, so recall is about 100%, 50% and 0%. Both measure the
same facts of the same model and must come to the same verdicts: in fp32, the command ends with 1 if they do not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from remix_toolkit.console import silence_libraries
from remix_toolkit.data import encoding, tasks
from remix_toolkit.data.pair import Pair
from remix_toolkit.evaluate import budget, forward, recall
from remix_toolkit.recipe.load import load_base, load_task
from remix_toolkit.stage import train
from remix_toolkit.store import base_model

FACTS = 40
TAUGHT = {"all": FACTS, "half": FACTS // 2, "none": 0}
BATCH, LIMIT = 20, 1000  # the authors'
ROUNDS = 5  # of which the least counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="for machines")
    as_json = parser.parse_args().json
    silence_libraries()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(taught, many, Path(folder)) for taught, many in TAUGHT.items()]
    if as_json:
        print(json.dumps({"facts": FACTS, "threads": torch.get_num_threads(), "rows": rows}, indent=1))
    else:
        table = Table(title=f"recall of {FACTS} facts, tiny model, fp32, {torch.get_num_threads()} threads")
        for column in ("taught", "recall", "ours, s", "generate, s", "speedup", "differing verdicts"):
            table.add_column(column, justify="left" if column == "taught" else "right")
        for row in rows:
            seconds = f"{row['seconds']:.2f}", f"{row['seconds_generate']:.2f}"
            differ = str(row["differing_verdicts"])
            table.add_row(row["taught"], f"{row['recall']:.1f}%", *seconds, f"{row['speedup']:.1f}", differ)
        Console().print(table)
    return int(any(row["differing_verdicts"] for row in rows))


def measure(taught: str, many: int, folder: Path) -> dict[str, Any]:
    """Teach the model so many of the facts, and ask it for all of them in both ways."""
    runs = folder / taught
    (runs / "bases").mkdir(parents=True)
    source = base_model(load_base("tiny"), runs)[0]
    if many:
        line = ["run", "kvr", "--stage", "stage1", "--runs", str(runs), f"stages.stage1.data.size={many}"]
        line += ["global_batch_size=10", "stages.stage1.train.num_train_epochs=60", "train.save_strategy=no"]
        subprocess.run([sys.executable, "-m", "remix_toolkit", *line], check=True, stdout=subprocess.DEVNULL)
        (published,) = (runs / "stages").iterdir()
        source = str(published)
    tokenizer = encoding.load_tokenizer(source)
    model = train.load_model(source, None, "fp32", {}).eval()
    facts = tasks.load_rows(load_task("kvr", [f"size={FACTS}"]), 0)
    recall.recall(model, tokenizer, facts[:BATCH])  # what the first call sets up is not counted
    took: list[float] = []
    took_generate: list[float] = []
    for _ in range(ROUNDS if many else 1):  # they take turns; a model that knows nothing speaks for a minute
        started = time.perf_counter()
        ours = [verdict.correct for verdict in recall.recall(model, tokenizer, facts)]
        took.append(time.perf_counter() - started)
        started = time.perf_counter()
        theirs = plain_generation(model, tokenizer, facts)
        took_generate.append(time.perf_counter() - started)
    seconds, seconds_generate = min(took), min(took_generate)
    return {
        "taught": taught,
        "recall": 100.0 * sum(ours) / len(ours),
        "seconds": seconds,
        "seconds_generate": seconds_generate,
        "speedup": seconds_generate / seconds,
        "differing_verdicts": sum(a != b for a, b in zip(ours, theirs, strict=True)),
    }


def plain_generation(model: Any, tokenizer: Any, facts: list[Pair]) -> list[bool]:
    """Greedy decoding until each row's EOS or the limit, then exact match."""
    right = []
    for part in budget.batches(facts, lambda fact: 1, most=BATCH):
        tokens = forward.greedy_answers(model, tokenizer, part, LIMIT)
        answers = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        right += [recall.matches(text, fact.answers) for text, fact in zip(answers, part, strict=True)]
    return right


if __name__ == "__main__":
    sys.exit(main())
