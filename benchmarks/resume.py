"""Kill a stage with SIGKILL at random moments, run it again, and compare the weights with an uninterrupted run's.

    python benchmarks/resume.py                    # stage1 of recipes/kvr.yaml, three moments
    python benchmarks/resume.py --kills 1 train.num_train_epochs=10     # overrides as for `remix run`

Prints a line per moment; exits with 1 unless every checksum is the uninterrupted run's and some run resumed.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from remix_toolkit.store import sha256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="kvr")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, seconds, _ = run(options.recipe, Path(folder, "whole"), options.overrides, None)
        print(f"uninterrupted: {seconds:.0f} s, model.safetensors {whole}", flush=True)
        rng = random.Random(options.seed)
        moments = [rng.uniform(0.4, 0.95) * seconds for _ in range(options.kills)]
        same, resumed = [], []
        for number, moment in enumerate(moments):
            runs = Path(folder, str(number))
            run(options.recipe, runs, options.overrides, moment)
            checksum, _, from_ = run(options.recipe, runs, options.overrides, None)
            same.append(checksum == whole)
            resumed.append(from_)
            verdict = "the same weights" if same[-1] else "OTHER WEIGHTS"
            print(f"killed after {moment:.0f} s, resumed from {from_}: {checksum}: {verdict}", flush=True)
    return int(not (all(same) and any(resumed)))


def run(recipe: str, runs: Path, overrides: list[str], kill_after: float | None) -> tuple[str, float, str | None]:
    """(checksum of stage1's weights, seconds, the checkpoint it resumed from); killed, it gives no checksum."""
    command = [sys.executable, "-m", "remix_toolkit.cli", "run", recipe, "--stage", "stage1", "--runs", str(runs)]
    started = time.monotonic()
    process = subprocess.Popen([*command, *overrides], stdout=subprocess.DEVNULL)
    try:
        code = process.wait(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return "", 0.0, None
    if code:
        raise SystemExit(f"the run itself failed with exit code {code}")
    (folder,) = (runs / "stages").iterdir()
    result = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    return sha256(folder / "model.safetensors"), time.monotonic() - started, result["resumed_from"]


if __name__ == "__main__":
    sys.exit(main())
