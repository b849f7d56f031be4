"""`remix report` on a large store: 500 published stages with 2,000 facts each.

    python benchmarks/report.py                          # 50 arms, 5 seeds, two stages: a minute
    python benchmarks/report.py --facts 20000 --arms 2 --seeds 3 --json

Prints the command's seconds and peak memory and the page's size; exits with 1 over 20 s or 1 GB. Nothing is trained:
the stages are written through the records of the toolkit, and chance decides which facts a run keeps.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remix_toolkit import store
from remix_toolkit.evaluate.recall import ListRecall, Recall, VerdictRow
from remix_toolkit.records import (
    EpochTokens,
    FactList,
    Fingerprints,
    OverlapCounts,
    RowCounts,
    RunRecord,
    RunStage,
    StageCounts,
    StageRecord,
    write_rows,
)

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
        stats = {
            "stages": 2 * options.arms * options.seeds,
            "facts": options.facts,
            "seconds": time.monotonic() - started,
            "mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000,
            "page_mb": (runs / "report" / "index.html").stat().st_size / 1e6,
        }
    if options.json:
        print(json.dumps(stats, indent=1))
    else:
        print(
            f"{stats['stages']} stages, {stats['facts']:,} facts each: {stats['seconds']:.1f} s, {stats['mb']:.0f} MB"
        )
        print(f"the page: {stats['page_mb']:.1f} MB")
    return int(stats["seconds"] > SECONDS or stats["mb"] > MB)


def make_store(runs: Path, arms: int, seeds: int, facts: int) -> None:
    """Publish both stages of every arm and seed; of arm n, about n in `arms` of the first stage's facts are kept."""
    store.open_store(runs)
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8)) for _ in range(2 * facts)]
    learnt = [True] * facts
    records = []
    for arm in range(arms):
        for seed in range(seeds):
            kept = [rng.random() < (arm + 0.5) / arms for _ in range(facts)]
            known = {"stage1": {"kvr-1": learnt}, "stage2": {"kvr-1": kept, "lama-1": learnt}}
            stages = []
            for position, (stage, lists) in enumerate(known.items()):
                key = f"{(arm * seeds + seed) * 2 + position:016x}"
                publish(runs, stage, seed, key, lists, words, rng)
                trained = list(lists)[-1]
                stages.append(
                    RunStage(
                        stage=stage,
                        key=key,
                        task=LISTS[trained].task,
                        trained=trained,
                        lists={id_: LISTS[id_] for id_ in lists},
                        measurements=[f"recall {id_}" for id_ in lists],
                    )
                )
            about: dict[str, Any] = {"recipe": "large", "arm": f"arm {arm}", "profile": "tiny", "seed": seed}
            records.append(RunRecord(**about, source="recipes/kvr.yaml", settings={}, overrides={}, stages=stages))
    store.record_runs(runs, records)


def publish(
    runs: Path, stage: str, seed: int, key: str, lists: dict[str, list[bool]], words: list[str], rng: random.Random
) -> None:
    """Publish a stage with all that a report reads of it, measured on these lists of facts."""
    draft = store.work_dir(runs, key) / "draft"
    draft.mkdir(parents=True)
    STAGE.model_copy(update={"stage": stage, "key": key}).write(draft / "stage.json")
    loss = "".join(f"{step},{step / 25},{4 / step},0.00005\n" for step in range(1, 501))
    (draft / "loss.csv").write_text(f"step,epoch,loss,learning_rate\n{loss}", encoding="utf-8")
    (draft / "recipe.yaml").write_text("name: large\nsource: recipes/kvr.yaml\n", encoding="utf-8")
    folder = store.publish(runs, draft, f"large-{stage}-seed{seed}-{key}")
    results = {
        id_: ListRecall(
            **dict(LISTS[id_]),
            recall=100 * sum(right) / len(right),
            facts=len(right),
            correct=sum(right),
            settled_by={"scoring": len(right)},
        )
        for id_, right in lists.items()
    }
    write_rows(
        folder / "recall.jsonl", [row for id_, right in lists.items() for row in verdicts(id_, words, right, rng)]
    )
    Recall().record(results).write(folder / "recall.json")


def verdicts(id_: str, words: list[str], right: list[bool], rng: random.Random) -> Iterator[VerdictRow]:
    """The verdicts on a list of facts: a wrong answer is another fact's, or the beginning of one."""
    half = len(words) // 2
    for n, correct in enumerate(right):
        gold = words[half + n]
        yield VerdictRow(
            list=id_,
            fact=n,
            prompt=f"The value of key {words[n]} is?",
            gold=(gold,),
            correct=correct,
            prediction=gold if correct else words[rng.randrange(len(words))][: rng.randrange(2, 9)],
            prediction_complete=True,
            settled_by="scoring",
        )


LISTS = {"kvr-1": FactList(task="kvr", label="kvr"), "lama-1": FactList(task="lama", label="lama")}
STAGE = StageRecord(
    stage="",
    key="0" * 16,
    ancestors=[],
    started_from="runs/bases/tiny",
    started_from_commit=None,
    parent_weights=None,
    counts=StageCounts(
        facts=8,
        held_out=0,
        mixing={"random_words": 16},
        examples=24,
        dropped={},
        read=RowCounts(rows=8, usable=8, dropped={}, noted={}, exemplars=0, left_out={}, familiarity_unknown=0),
        overlap=OverlapCounts(facts=8, mixing_left_out={}, measured={}),
        commits={},
        steps_per_epoch=25,
        trained_tokens=99,
        tokens=400,
        longest=30,
        length_percentiles={"50": 20, "90": 30, "99": 30, "100": 30},
        tokens_per_epoch=EpochTokens(without_padding=400, with_padding=440),
    ),
    fingerprints=Fingerprints(facts="f" * 64, mixing="e" * 64),
    steps=500,
    steps_planned=500,
    trained_tokens=1980,
    epochs=20.0,
    sweep=None,
    stop_fired=False,
    last_loss=1e-4,
    seconds=60.0,
    resumed_from=None,
    processes=1,
    device="cpu",
    precision="fp32",
    activation_checkpointing=False,
    memory_estimated=None,
    memory_peak=None,
    distributed="no",
    attention="sdpa",
    python="3.11.7",
    libraries={"torch": "2.13.0", "remix-toolkit": "0.1.0"},
    declaration={"base": {"tiny": "128x2"}, "precision": "fp32"},
)

if __name__ == "__main__":
    sys.exit(main())
