"""A sweep against the same runs one by one, each by itself: nothing shared, a new process for each.

    python benchmarks/sweep.py                                     # ablations/mixing_ratio, a few steps a stage
    python benchmarks/sweep.py ablations/mixing_length --full      # as many steps as the file says: an hour or two
    python benchmarks/sweep.py --seed 0 --json                     # for machines

Prints the stages trained, seconds and the ratio; exits with 1 unless both ways published the same weights.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from remix_toolkit.data.files import sha256
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.recipe.difference import as_overrides
from remix_toolkit.store import published_stages

SMALL = ["stages.stage1.train.max_steps=30", "stages.stage2.train.max_steps=20", "train.save_strategy=no"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", default="ablations/mixing_ratio")
    parser.add_argument("--seed", type=int, action="append", help="again for more; the sweep's, if none is given")
    parser.add_argument("--full", action="store_true", help="as many steps as the sweep says, not a few")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    overrides = [*([] if options.full else SMALL), *options.overrides]
    cells = load_sweep(options.sweep, None, options.seed, overrides)[1]
    with tempfile.TemporaryDirectory() as folder:
        seeds = [f"--seed={seed}" for seed in dict.fromkeys(cell.recipe.seed for cell in cells)]
        together = timed("sweep", options.sweep, "--runs", f"{folder}/sweep", *seeds, *overrides)
        shared = weights(Path(folder, "sweep"))
        total = sum(len(cell.nodes) for cell in cells)
        alone, different = 0.0, 0
        for number, cell in enumerate(cells):
            runs = Path(folder, str(number))
            options_ = ["--runs", str(runs), "--seed", str(cell.recipe.seed), "--profile", cell.recipe.profile]
            alone += timed("run", cell.recipe.source, *options_, *as_overrides(cell.record().settings))
            different += any(shared[key] != checksum for key, checksum in weights(runs).items())
    stats = {
        "sweep": options.sweep,
        "runs": len(cells),
        "stages_trained": len(shared),
        "stages_requested": total,
        "seconds": together,
        "seconds_one_by_one": alone,
        "ratio": alone / together,
        "stages_per_minute": 60 * len(shared) / together,
        "different_weights": different,
    }
    if options.json:
        print(json.dumps(stats, indent=1))
    else:
        print(f"{options.sweep}: {len(cells)} runs; the sweep trains {len(shared)} stages of {total}, {together:.0f} s")
        print(f"one by one: {total} stages, {alone:.0f} s; one by one / sweep: {stats['ratio']:.2f}")
        print(f"stages a minute: {stats['stages_per_minute']:.1f}; runs with other weights: {different}")
    return int(different > 0)


def timed(*line: str) -> float:
    """Seconds that a remix command took."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "remix_toolkit", *line], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def weights(runs: Path) -> dict[str, str]:
    """Every published stage's key and its weights' checksum."""
    return {key: sha256(folder / "model.safetensors") for key, folder in published_stages(runs).items()}


if __name__ == "__main__":
    sys.exit(main())
