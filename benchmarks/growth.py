"""How plans and stores grow: sweeps of many cells, recipes of many stages, stores of many stages, models of many bytes.

    python benchmarks/growth.py                 # two minutes, and 4 GB of a sparse file
    python benchmarks/growth.py --json          # for machines

Prints seconds, CPU seconds and peak memory of each command in a process of its own; exits with 1 over a limit in CPU
seconds (those of other processes do not count) or memory. Nothing is trained: the stages of a store are written through
the toolkit's records.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report import make_store

CELLS, STAGES, PUBLISHED = (1000, 3000, 10_000), (50, 100, 200), (500, 1500, 5000)
LIMITS: dict[str, tuple[float, float]] = {  # CPU seconds and MB at the last size
    "plan, cells of a sweep": (15, 200),
    "plan, stages of a recipe": (2, 200),
    "show, stages in a store": (5, 500),
    "store list, stages in a store": (5, 200),
}
SEEDS = 5
KVR = Path(__file__).resolve().parents[1] / "recipes" / "kvr.yaml"
BYTES, MODEL = 4 * 10**9, 16 * 10**9  # of the file that is hashed, and of a model of 8B parameters in bf16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows: list[dict[str, Any]] = [
            {"what": what, "n": n, **measured(line)} for what, n, line in commands(Path(folder))
        ]
        hashing = verify(Path(folder))
    stats = {"rows": rows, "verify": hashing}
    if options.json:
        print(json.dumps(stats, indent=1))
    else:
        for row in rows:
            print(f"{row['what']}, {row['n']:,}: {row['seconds']:.1f} s, {row['cpu']:.1f} CPU s, {row['mb']:.0f} MB")
        print(f"verified: {hashing['gb_per_s']:.2f} GB a second; 16 GB take {hashing['seconds_8b']:.0f} s")
    last = {row["what"]: row for row in rows}
    return int(any(last[what]["cpu"] > cpu or last[what]["mb"] > mb for what, (cpu, mb) in LIMITS.items()))


def commands(folder: Path) -> Iterator[tuple[str, int, list[str]]]:
    """What is measured, its size, and the command, for which all is made ready."""
    nothing = str(folder / "nothing")
    for n in CELLS:
        rates = ", ".join(f"{i}e-7" for i in range(1, n + 1))
        sweep = folder / f"cells-{n}.yaml"
        sweep.write_text(f"recipe: {KVR}\ngrid: {{stages.stage2.train.learning_rate: [{rates}]}}\n", encoding="utf-8")
        yield "plan, cells of a sweep", n, ["plan", str(sweep), "--runs", nothing, "--json"]
    for n in STAGES:
        stages = "".join(f"  s{i}: {{data: {{task: kvr, size: 64, start: {64 * i}}}}}\n" for i in range(n))
        recipe = folder / f"stages-{n}.yaml"
        recipe.write_text(f"stages:\n{stages}", encoding="utf-8")
        yield "plan, stages of a recipe", n, ["plan", str(recipe), "--runs", nothing, "--json"]
    os.fsync = lambda fd: None  # the stores are only read, and soon deleted
    for n in PUBLISHED:
        runs = folder / f"store-{n}"
        make_store(runs, n // 2 // SEEDS, SEEDS, facts=20)
        yield "show, stages in a store", n, ["show", "--runs", str(runs)]
        yield "store list, stages in a store", n, ["store", "list", "--runs", str(runs)]


def measured(line: list[str]) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory of a command."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "remix_toolkit", *line], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"remix {' '.join(line)}: ended with {os.waitstatus_to_exitcode(status)}")
    cpu, mb = used.ru_utime + used.ru_stime, used.ru_maxrss / 1000
    return {"seconds": time.monotonic() - started, "cpu": cpu, "mb": mb}


def verify(folder: Path) -> dict[str, Any]:
    """What it takes to verify a published model before it is loaded: reading zeros of a sparse file, and hashing."""
    from remix_toolkit import store
    from remix_toolkit.records import FileSeal, Manifest
    from remix_toolkit.seals import MANIFEST

    model = folder / f"large-stage1-seed0-{'0' * 16}"
    model.mkdir()
    with (model / "model.safetensors").open("wb") as file:
        file.truncate(BYTES)
    with (model / "model.safetensors").open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # not store.sha256, which reads a file only once
    Manifest(files={"model.safetensors": FileSeal(bytes=BYTES, sha256=sha256)}).write(model / MANIFEST)
    cpu, started = time.process_time(), time.monotonic()
    store.verify_model(model)
    cpu, seconds = time.process_time() - cpu, time.monotonic() - started
    return {"gb_per_s": BYTES / 1e9 / cpu, "seconds": seconds, "seconds_8b": cpu * MODEL / BYTES}


if __name__ == "__main__":
    sys.exit(main())
