"""The status box of the README: what was run where, by which command, on which date.

    python benchmarks/status.py cpu processes     # runs these checks on this machine
    python benchmarks/status.py                   # runs nothing, and only writes the README's table

What came of a check is kept in docs/status.json, and the table is written from that alone: a check that was never run
is "not run yet". tests/test_docs.py checks that the table is current.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README, KEPT = ROOT / "README.md", ROOT / "docs" / "status.json"
BOX = re.compile(r"(?<=<!-- written by benchmarks/status.py -->\n).*?(?=<!-- until here -->)", re.DOTALL)
CHECKS = {  # name -> what it shows, and the command
    "cpu": ("CPU, one process", "remix run kvr --stage stage1"),
    "processes": ("CPU, two processes (DDP, FSDP2)", "python -m pytest tests/test_processes.py"),
    "gpu": ("GPU", "python benchmarks/all.py gpu_check"),
    "hub": ("Hugging Face hub", "remix data prepare kvr stages.stage2.data.task=gsm8k"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", help=f"of {', '.join(CHECKS)} [none]")
    names = parser.parse_args().checks
    if unknown := [name for name in names if name not in CHECKS]:
        parser.error(f"{unknown[0]} is none of {', '.join(CHECKS)}")
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    for name in names:
        kept[name] = run(CHECKS[name][1])
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    README.write_text(with_table(README.read_text(encoding="utf-8"), kept), encoding="utf-8")


def run(command: str) -> dict[str, Any]:
    """Run a check in a fresh folder for what it publishes and downloads: its date, place, seconds and exit code."""
    words = command.replace("remix ", "python -m remix_toolkit ", 1).split()[1:]
    print(command, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = ["--runs", f"{folder}/runs"] if command.startswith("remix run") else []
        started = datetime.now(UTC)
        environment = {**os.environ, "HF_HOME": f"{folder}/home"}
        done = subprocess.run([sys.executable, *words, *runs], cwd=ROOT, env=environment)
        seconds = (datetime.now(UTC) - started).total_seconds()
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    where = f"{device}, Python {platform.python_version()}, torch {torch.__version__}"
    return {"date": f"{started:%Y-%m-%d}", "where": where, "seconds": round(seconds), "rc": done.returncode}


def with_table(text: str, kept: dict[str, Any]) -> str:
    """The README's text with its status box as the kept results have it."""
    lines = ["| | command | result |", "|---|---|---|"]
    for name, (what, command) in CHECKS.items():
        stats = kept.get(name)
        result = (
            f"{'failed' if stats['rc'] else 'passed'} on {stats['date']}, {stats['where']}, {stats['seconds']} s"
            if stats
            else "**not run yet**"
        )
        lines.append(f"| {what} | `{command}` | {result} |")
    return BOX.sub(lambda _: "\n".join(lines) + "\n", text)


if __name__ == "__main__":
    main()
