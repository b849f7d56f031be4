"""What it costs to start: seconds of a command that does next to nothing, against the imports that it cannot avoid.

    python benchmarks/launch.py            # a table
    python benchmarks/launch.py --json

Each row is a process of its own, run several times in turn; its figure is the least. A stage here has one step of eight
facts, so that nearly all of its time is the start, the tiny model's publication and its recall.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from remix_toolkit.recipe.load import load_base
from remix_toolkit.store import base_model

ROUNDS = 3
STAGE = ["kvr", "global_batch_size=8", "stages.stage1.data.size=8", "train.max_steps=1", "train.save_strategy=no"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="for machines")
    as_json = parser.parse_args().json
    remix = ["-m", "remix_toolkit"]
    rows = {
        "remix --help": [*remix, "--help"],
        "remix plan paper/table2": [*remix, "plan", "paper/table2"],
        "import TRL's SFTTrainer": ["-c", "import trl.trainer.sft_trainer"],
        "remix run, one stage of one step": [*remix, "run", *STAGE, "--stage", "stage1"],
        "the same under accelerate launch": [*remix, "run", *STAGE, "--stage", "stage1", CPU],
    }
    seconds = {name: [once(line) for _ in range(ROUNDS)] for name, line in rows.items()}
    least = {name: min(times) for name, times in seconds.items()}
    bare = least["import TRL's SFTTrainer"]
    stats = {name: {"seconds": value, "ratio_to_import": value / bare} for name, value in least.items()}
    if as_json:
        print(json.dumps({"cores": os.cpu_count(), "rows": stats}, indent=1))
        return
    table = Table(title=f"seconds from the command to its end, least of {ROUNDS}")
    for column in ("what", "s", "ratio to TRL's import"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, row in stats.items():
        table.add_row(name, f"{row['seconds']:.2f}", f"{row['ratio_to_import']:.2f}")
    Console().print(table)


CPU = "accelerate_config=accelerate_configs/cpu.yaml"


def once(line: list[str]) -> float:
    """Seconds of one command, with a runs directory of its own where it trains."""
    with tempfile.TemporaryDirectory() as folder:
        options = []
        if "run" in line:
            (Path(folder) / "bases").mkdir()
            base_model(load_base("tiny"), Path(folder))
            options = ["--runs", folder]
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, *line, *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
