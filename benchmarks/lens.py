"""The logit lens of 2,000 facts against one scoring pass over them (target: at most 5 times).

    python benchmarks/lens.py            # a line
    python benchmarks/lens.py --json

The tiny model, key-value facts, the same model in both; they take turns, and the least of three rounds counts.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from remix_toolkit.console import silence_libraries
from remix_toolkit.data import encoding, tasks
from remix_toolkit.evaluate.lens import lens
from remix_toolkit.recipe.load import load_base, load_task
from remix_toolkit.stage import train
from remix_toolkit.stage.curve import right_by_scoring
from remix_toolkit.store import base_model

FACTS, ROUNDS = 2000, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="for machines")
    as_json = parser.parse_args().json
    silence_libraries()
    with tempfile.TemporaryDirectory() as folder:
        stats = measure(Path(folder))
    if as_json:
        print(json.dumps(stats, indent=1))
    else:
        print(
            f"lens of {FACTS:,} facts: {stats['seconds']:.1f} s; a scoring pass over them: {stats['scoring']:.1f} s; "
            f"{stats['ratio']:.2f} times as long"
        )


def measure(folder: Path) -> dict[str, Any]:
    """Seconds of both, and their ratio."""
    (folder / "bases").mkdir()
    source = base_model(load_base("tiny"), folder)[0]
    tokenizer = encoding.load_tokenizer(source)
    model = train.load_model(source, None, "fp32", {}).eval()
    facts = tasks.load_rows(load_task("kvr", [f"size={FACTS}"]), 0)
    seen: list[float] = []
    scored: list[float] = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        right_by_scoring(model, tokenizer, [encoding.encode(tokenizer, fact) for fact in facts])
        scored.append(time.perf_counter() - started)
        started = time.perf_counter()
        lens(model, tokenizer, facts)
        seen.append(time.perf_counter() - started)
    ratio = min(seen) / min(scored)
    return {"facts": FACTS, "threads": torch.get_num_threads(), "seconds": min(seen), "scoring": min(scored)} | {
        "ratio": ratio
    }


if __name__ == "__main__":
    main()
