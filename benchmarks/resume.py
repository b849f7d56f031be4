"""Kill a sweep with SIGKILL at random moments, go on each time, and compare with an uninterrupted one.

    python benchmarks/resume.py                    # three arms of kvr.yaml, four stages: ten kills
    python benchmarks/resume.py --kills 3 stages.stage1.train.num_train_epochs=10

Each kill hits after a random share of what an uninterrupted sweep takes: a stage's beginning, its end, or what lies
between two. Prints a line per kill; exits with 1 unless all weights are the uninterrupted sweep's, every stage was
published once, and some stage resumed from a checkpoint.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from remix_toolkit.data.files import sha256
from remix_toolkit.records import StageRecord
from remix_toolkit.store import published_stages

SWEEP = """\
recipe: {recipe}
arms:
  none: {{}}
  replay: {{stages.stage2.mix: {{replay: {{stage: stage1, ratio: 0.1}}}}}}
  generic: {{stages.stage2.mix: {{passages: {{ratio: 2}}}}}}
"""
SMALL = ["stages.stage1.train.num_train_epochs=20", "stages.stage2.train.num_train_epochs=10"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("overrides", nargs="*", default=SMALL)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder, "killed.yaml")
        sweep.write_text(SWEEP.format(recipe=Path("recipes/kvr.yaml").resolve()), encoding="utf-8")
        started = time.monotonic()
        begin(sweep, Path(folder, "whole"), options.overrides).wait()
        seconds = time.monotonic() - started
        print(f"uninterrupted: {seconds:.0f} s", flush=True)
        rng, runs = random.Random(options.seed), Path(folder, "killed")
        for number in range(options.kills):
            process = begin(sweep, runs, options.overrides)
            moment = rng.uniform(0.08, 0.28) * seconds  # starting takes a tenth of it
            try:
                process.wait(timeout=moment)
                print("  the sweep is done before the next kill", flush=True)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            there = len(published_stages(runs))
            checkpoints = len(list(runs.glob("work/*/checkpoints/*/manifest.json")))
            print(f"kill {number + 1} after {moment:.0f} s: {there} published, {checkpoints} checkpoints", flush=True)
        code = begin(sweep, runs, options.overrides).wait()
        return report(Path(folder, "whole"), runs, code)


def begin(sweep: Path, runs: Path, overrides: list[str]) -> "subprocess.Popen[bytes]":
    """A sweep in a process of its own."""
    line = [sys.executable, "-m", "remix_toolkit", "sweep", str(sweep), "--runs", str(runs), *overrides]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL)


def report(whole: Path, killed: Path, code: int) -> int:
    """Compare the two stores; 1 if they differ."""
    sums = [{k: sha256(f / "model.safetensors") for k, f in published_stages(runs).items()} for runs in (whole, killed)]
    logs = "".join(log.read_text(encoding="utf-8") for log in killed.glob("sweeps/*/jobs/*/log.txt"))
    times = logs.count(": published ")
    resumed = [StageRecord.read(folder / "stage.json").resumed_from for folder in published_stages(killed).values()]
    print(f"stages {len(sums[1])}, published {times} times; the same weights: {sums[0] == sums[1]}")
    print(f"resumed from: {', '.join(map(str, resumed))}; `resumes from` printed {logs.count(': resumes from')} times")
    same = code == 0 and sums[0] == sums[1] and times == len(sums[1])
    return int(not (same and any(resumed)))


if __name__ == "__main__":
    sys.exit(main())
