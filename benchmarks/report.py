"""`remix report` on a large store: 500 published stages with 2,000 facts each.

    python benchmarks/report.py                          # 50 arms, 5 seeds, two stages: a minute
    python benchmarks/report.py --facts 20000 --arms 2 --seeds 3 --json

Prints the command's seconds and peak memory and the page's size; exits with 1 over 20 s or 1 GB. Nothing is trained:
the stages are written as the store has them, each fact of the first stage with the seed's and the arm's own luck.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from remix_toolkit.data.files import sha256

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from forged import recall_record, stage_record

SECONDS, MB = 20, 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--facts", type=int, default=2000)
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder, "runs")
        make_store(runs, options.arms, options.seeds, options.facts)
        started = time.monotonic()
        line = [sys.executable, "-m", "remix_toolkit", "report", str(runs)]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        found = {
            "stages": 2 * options.arms * options.seeds,
            "facts": options.facts,
            "seconds": time.monotonic() - started,
            "mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000,
            "page_mb": (runs / "report" / "index.html").stat().st_size / 1e6,
        }
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(
            f"{found['stages']} stages, {found['facts']:,} facts each: {found['seconds']:.1f} s, {found['mb']:.0f} MB"
        )
        print(f"the page: {found['page_mb']:.1f} MB")
    return int(found["seconds"] > SECONDS or found["mb"] > MB)


def make_store(runs: Path, arms: int, seeds: int, facts: int) -> None:
    """Publish both stages of every arm and seed; of arm n, about n in `arms` of the first stage's facts are kept."""
    (runs / "records").mkdir(parents=True)
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8)) for _ in range(2 * facts)]
    for arm in range(arms):
        for seed in range(seeds):
            keys = [f"{(arm * seeds + seed) * 2 + stage:016x}" for stage in range(2)]
            kept = [rng.random() < (arm + 0.5) / arms for _ in range(facts)]
            first, last = lines("kvr-1", words, [True] * facts, rng), lines("kvr-1", words, kept, rng)
            publish(runs, "stage1", seed, keys[0], {"kvr-1": [True] * facts}, first)
            own = lines("lama-1", words, [True] * facts, rng)
            publish(runs, "stage2", seed, keys[1], {"kvr-1": kept, "lama-1": [True] * facts}, last + own)
            lists = {"stage1": {"kvr-1": "kvr"}, "stage2": {"kvr-1": "kvr", "lama-1": "lama"}}
            stages: list[dict[str, Any]] = [
                {"stage": stage, "key": key, "own": own, "task": own[:-2], "recall": lists[stage]}
                for stage, key, own in zip(lists, keys, ("kvr-1", "lama-1"), strict=True)
            ]
            record = {"recipe": "large", "arm": f"arm {arm}", "place": "", "profile": "tiny", "seed": seed}
            record |= {"overrides": [], "stages": stages, "written": arm * seeds + seed}
            (runs / "records" / f"{arm}-{seed}.json").write_text(json.dumps(record), encoding="utf-8")


def lines(name: str, words: list[str], right: list[bool], rng: random.Random) -> str:
    """A list's lines of recall.jsonl: a wrong answer is another fact's, or the beginning of one."""
    half = len(words) // 2
    rows = []
    for n, correct in enumerate(right):
        said = words[half + n] if correct else words[rng.randrange(len(words))][: rng.randrange(2, 9)]
        rows.append(
            f'{{"list": "{name}", "prompt": "The value of key {words[n]} is?", "correct": {str(correct).lower()}, '
            f'"prediction": "{said}", "prediction_complete": true, "settled_by": "scoring", '
            f'"gold": ["{words[half + n]}"]}}\n'
        )
    return "".join(rows)


def publish(runs: Path, stage: str, seed: int, key: str, right: dict[str, list[bool]], rows: str) -> None:
    """A stage's folder: all that a report reads of it."""
    folder = runs / "stages" / f"large-{stage}-seed{seed}-{key}"
    folder.mkdir(parents=True)
    stage_record(stage, key, steps=500, seconds=60.0, epochs=20.0, last_loss=1e-4).write(folder / "stage.json")
    loss = "".join(f"{step},{step / 25},{4 / step},0.00005\n" for step in range(1, 501))
    (folder / "loss.csv").write_text(f"step,epoch,loss,learning_rate\n{loss}", encoding="utf-8")
    (folder / "recipe.yaml").write_text("name: large\nsource: recipes/kvr.yaml\n", encoding="utf-8")
    sealed = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"files": sealed}), encoding="utf-8")
    recall_record(right).write(folder / "recall.json")
    (folder / "recall.jsonl").write_text(rows, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
