"""Every benchmark of this machine's CPU, one after the other, into docs/performance.md.

    python benchmarks/all.py             # make bench: about a quarter of an hour on two cores

The page is written from the figures alone: nothing in it is by hand.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
SHOWN = ("torch", "transformers", "trl", "accelerate")


def main() -> None:
    commands = {"step": [], "recall": [], "launch": [], "data": [], "sweep": ["--seed", "0"]}
    found = {name: figures(name, more) for name, more in commands.items()}
    PAGE.write_text("\n".join(page(found)) + "\n", encoding="utf-8")
    print(f"written: {PAGE}")


def figures(name: str, more: list[str]) -> Any:
    """What one benchmark prints as JSON."""
    line = [sys.executable, str(HERE / f"{name}.py"), "--json", *more]
    print(f"benchmarks/{name}.py ...", flush=True)
    return json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)


def page(found: dict[str, Any]) -> list[str]:
    """The page's lines."""
    libraries = ", ".join(f"{name} {version(name)}" for name in SHOWN)
    step, recall, launch, data, sweep = (found[name] for name in ("step", "recall", "launch", "data", "sweep"))
    lines = ["# Performance", ""]
    lines += [
        f"Written by `make bench`: {os.cpu_count()} CPU cores, Python {platform.python_version()}, {libraries}.",
        "",
    ]
    lines += ["## An optimizer step (`benchmarks/step.py`)", "", "Of 32 facts, on the tiny model in fp32.", ""]
    steps = {
        name: (f"{row['ms']:.0f}", f"{row['ratio_to_bare']:.2f}", f"{row['loss_difference']:.0e}")
        for name, row in step["rows"].items()
    }
    lines += table(["", "ms", "ratio to bare", "largest loss difference"], steps)
    lines += ["## Recall (`benchmarks/recall.py`)", ""]
    lines += [f"Of {recall['facts']} facts, against plain generation in batches of 20 with up to 1,000 new tokens.", ""]
    recalls = {
        f"{row['recall']:.0f}% known": (
            f"{row['seconds']:.2f}",
            f"{row['seconds_generate']:.2f}",
            f"{row['speedup']:.1f}",
            str(row["differing_verdicts"]),
        )
        for row in recall["rows"]
    }
    lines += table(["", "ours, s", "generation, s", "speedup", "differing verdicts"], recalls)
    lines += ["## Starting (`benchmarks/launch.py`)", ""]
    starts = {n: (f"{row['seconds']:.2f}", f"{row['ratio_to_import']:.2f}") for n, row in launch["rows"].items()}
    lines += table(["", "s", "ratio to TRL's import"], starts)
    lines += ["## Data (`benchmarks/data.py`)", "", "Seconds after imports and peak memory, the least of several.", ""]
    parts = {
        name: (f"{min(r['seconds'] for r in runs):.2f}", f"{min(r['mb'] for r in runs):,.0f}")
        for name, runs in data["runs"].items()
    }
    lines += table(["", "s", "MB"], parts)
    lines += ["## A sweep (`benchmarks/sweep.py --seed 0`)", ""]
    lines += [
        f"{sweep['sweep']}, a few steps a stage: {sweep['runs']} runs, {sweep['stages_trained']} stages trained of "
        f"{sweep['stages_requested']} asked for, {sweep['seconds']:.0f} s, {sweep['stages_per_minute']:.1f} stages a "
        f"minute; one by one {sweep['seconds_one_by_one']:.0f} s, {sweep['ratio']:.2f} times as long.",
    ]
    return lines


def table(columns: list[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [" | ".join(["", *columns, ""]).strip(), "|" + "---|" * len(columns)]
    return [*lines, *(f"| {name} | {' | '.join(row)} |" for name, row in rows.items()), ""]


if __name__ == "__main__":
    main()
