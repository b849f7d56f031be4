"""Benchmarks, one after the other, into docs/performance.md.

    python benchmarks/all.py             # make bench: those of the CPU, about a quarter of an hour on two cores
    python benchmarks/all.py gpu_check   # make gpu-check
    python benchmarks/all.py step recall
    python benchmarks/all.py tracker --only "llama3-8b, LoRA, 4 GPUs"   # what is not known here goes to the benchmark

What each prints is kept in docs/performance.json, and the page is written from that alone: nothing in it is by hand.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
KEPT = PAGE.with_suffix(".json")
SHOWN = ("torch", "transformers", "trl", "accelerate")
CPU: dict[str, list[str]] = {"step": [], "recall": [], "launch": [], "data": [], "lens": [], "report": [], "growth": []}
CPU["sweep"] = ["--seed", "0"]
CPU["memory"] = ["--gradients", "0.3"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PARTS)} [those of the CPU]")
    given, more = parser.parse_known_args()
    names = given.names or list(CPU)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"{unknown[0]} is none of {', '.join(PARTS)}")
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    wrong: list[str] = []
    for name in names:
        libraries = ", ".join(f"{library} {version(library)}" for library in SHOWN)
        where = f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, {libraries}"
        stats, rc = figures(name, [*CPU.get(name, []), *more])
        kept[name] = {"where": where, **stats}
        wrong += [name] * (rc != 0)
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(kept), encoding="utf-8")
    print(f"written: {PAGE}")
    if wrong:
        sys.exit(f"not as it should be: {', '.join(wrong)}")


def page(kept: Mapping[str, Any]) -> str:
    """The text of docs/performance.md."""
    lines = ["# Performance", "", "`make bench` and `make gpu-check` wrote this page from what they measured.", ""]
    for name in (name for name in PARTS if name in kept):
        title, part = PARTS[name]
        lines += [f"## {title} (`benchmarks/{name}.py`)", "", *part(kept[name]), f"*{kept[name]['where']}*", ""]
    return "\n".join(lines)


def figures(name: str, more: list[str]) -> tuple[dict[str, Any], int]:
    """What one benchmark prints as JSON, and its exit code: 1 where a check of its own did not hold."""
    line = [sys.executable, str(HERE / f"{name}.py"), "--json", *more]
    print(f"benchmarks/{name}.py ...", flush=True)
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        sys.exit(f"benchmarks/{name}.py ended with {done.returncode}")
    return json.loads(done.stdout), done.returncode


def step(stats: Any) -> list[str]:
    """An optimizer step of 32 examples."""
    lines = []
    for case, result in stats["cases"].items():
        lines += [f"32 {case}, with the tiny model in fp32. Making our batches takes {result['data_ms']:.1f} ms.", ""]
        rows = {
            name: (
                f"{row['ms']:.0f}",
                f"{row['ratio_to_bare']:.2f}",
                f"{row['ratio_to_trl']:.2f}",
                f"{row['loss_difference']:.0e}",
            )
            for name, row in result["rows"].items()
        }
        columns = ["ms", "ratio to bare", "times as fast as TRL's defaults", "largest loss difference"]
        lines += table(columns, rows)
    return lines


def recall(stats: Any) -> list[str]:
    """Recall against plain generation."""
    rows = {
        f"{row['recall']:.0f}% known": (
            f"{row['seconds']:.2f}",
            f"{row['seconds_generate']:.2f}",
            f"{row['speedup']:.1f}",
            str(row["differing_verdicts"]),
        )
        for row in stats["rows"]
    }
    return [
        f"Recall of {stats['facts']} facts, and plain generation in batches of 20 with up to 1,000 new tokens.",
        "",
        *table(["ours, s", "generation, s", "speedup", "differing verdicts"], rows),
    ]


def launch(stats: Any) -> list[str]:
    """What it takes to start."""
    rows = {name: (f"{row['seconds']:.2f}", f"{row['ratio_to_import']:.2f}") for name, row in stats["rows"].items()}
    return table(["s", "ratio to TRL's import"], rows)


def data(stats: Any) -> list[str]:
    """Building a stage's data."""
    rows = {
        name: (f"{min(run['seconds'] for run in runs):.2f}", f"{min(run['mb'] for run in runs):,.0f}")
        for name, runs in stats["runs"].items()
    }
    return ["Seconds after the imports, and peak memory: the lowest of several runs.", "", *table(["s", "MB"], rows)]


def lens(stats: Any) -> list[str]:
    """The logit lens against a scoring pass."""
    return [
        f"For {stats['facts']:,} facts, the lens takes {stats['seconds']:.1f} s. A scoring pass over the same facts "
        f"takes {stats['scoring']:.1f} s, so the lens takes {stats['ratio']:.2f} times as long.",
        "",
    ]


def memory(stats: Any) -> list[str]:
    """Scoring with a large vocabulary."""
    rows = {entry["pass"]: (f"{entry['gb']:.2f}", f"{entry['seconds']:.1f}") for entry in stats["passes"]}
    return [
        f"{stats['rows']} rows of {stats['columns']} tokens, a narrow model in fp32, a vocabulary of 128,256: logits "
        f"of all tokens would be {stats['logits_gb']:.1f} GB. Interference is of as many short rows in each of three "
        "data sets: 24 gradients of 66 MB, with 0.3 GB of gradients at a time.",
        "",
        *table(["GB at the peak", "CPU seconds"], rows),
    ]


def tracker(stats: Any) -> list[str]:
    """Estimates of a device's memory against counts."""
    rows = {
        name: (
            f"{row['estimated'] / 1e9:.1f}",
            f"{row['counted'] / 1e9:.1f}",
            f"{row['estimated'] / row['counted']:.2f}",
        )
        for name, row in stats["rows"].items()
    }
    return [
        "What `remix plan` estimates that a stage takes on each device, and what torch's memory tracker counts with "
        f"fake tensors of the real shape: a global batch of 32, at most 8 examples of {stats['length']} tokens at a "
        "time. No GPU was there.",
        "",
        *table(["estimated GB", "counted GB", "ratio"], rows),
    ]


def sweep(stats: Any) -> list[str]:
    """A sweep against its runs one by one."""
    return [
        f"The sweep {stats['sweep']}, with a few steps for each stage: {stats['runs']} runs of "
        f"{stats['stages_requested']} stages, of which {stats['stages_trained']} are trained, take "
        f"{stats['seconds']:.0f} s, or {stats['stages_per_minute']:.1f} stages a minute. Run one by one, they take "
        f"{stats['seconds_one_by_one']:.0f} s, {stats['ratio']:.2f} times as long.",
        "",
    ]


def report(stats: Any) -> list[str]:
    """The report of a large store."""
    return [
        f"The report of {stats['stages']} stages with {stats['facts']:,} facts each takes {stats['seconds']:.1f} s and "
        f"{stats['mb']:.0f} MB of memory at its peak. The page has {stats['page_mb']:.1f} MB.",
        "",
    ]


def growth(stats: Any) -> list[str]:
    """How plans and stores grow."""
    rows = {
        f"{row['what']}: {row['n']:,}": (f"{row['seconds']:.1f}", f"{row['cpu']:.1f}", f"{row['mb']:.0f}")
        for row in stats["rows"]
    }
    hashing = stats["verify"]
    return [
        "Each command in a process of its own.",
        "",
        *table(["s", "CPU s", "MB"], rows),
        f"A published model is verified before it is loaded: {hashing['gb_per_s']:.2f} GB a second on one core (4 GB "
        f"of a sparse file, no disk in the way), so {hashing['seconds_8b']:.0f} s for the 16 GB of an 8B model, once "
        "a process.",
        "",
    ]


def gpu_check(stats: Any) -> list[str]:
    """One GPU: correctness, steps, recall."""
    lines = [f"{stats['device']}, the shape of {stats['shape']}.", ""]
    lines += [*(f"- {name}: {outcome}" for name, outcome in stats["checks"].items())]
    ties, rates = stats["near_ties"], stats["recall"]
    lines += [
        f"- near ties in bf16, settled by generation: {ties['near_ties']} of {ties['facts']} facts of the tiny model, "
        f"{rates['near_ties']} of {rates['facts']} of the large one",
        "",
    ]
    rows = {
        name: (
            (row["why"], "", "", "", "")
            if "why" in row
            else (
                f"{row['ms']:.0f}",
                f"{row['real_tokens_per_s']:,.0f}",
                "-" if row["utilization"] is None else f"{row['utilization']:.1%}",
                "-" if row["peak_gb"] is None else f"{row['peak_gb']:.1f}",
                f"{row['ratio_to_trl']:.2f}",
            )
        )
        for name, row in stats["rows"].items()
    }
    columns = ["ms a step", "real tokens/s", "utilization", "peak GB", "times as fast as TRL's defaults"]
    stages = {
        name: (
            f"{one['steps']}",
            f"{one['seconds']:.0f}",
            f"{one['seconds_training']:.0f}",
            f"{one['memory_estimated'] / 1e9:.1f}",
            "-" if one["memory_peak"] is None else f"{one['memory_peak'] / 1e9:.1f}",
            f"{one['first_loss']:.2f} to {one['last_loss']:.2f}",
        )
        for name, one in stats["stages"].items()
    }
    return [
        *lines,
        *table(columns, rows),
        f"Recall: {rates['facts_per_s']:.1f} facts a second, plain generation {rates['facts_per_s_generate']:.1f}.",
        "",
        *table(["steps", "s", "s of training", "estimated GB", "peak GB", "loss"], stages),
        "Seconds: " + ", ".join(f"{name} {taken:.0f}" for name, taken in stats["seconds"].items()) + ".",
        "",
    ]


def table(columns: list[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = ["|" + "".join(f" {column} |" for column in ("", *columns)), "|" + "---|" * (len(columns) + 1)]
    return [*lines, *(f"| {name} | {' | '.join(row)} |" for name, row in rows.items()), ""]


PARTS: dict[str, tuple[str, Callable[[Any], list[str]]]] = {
    "step": ("An optimizer step", step),
    "recall": ("Recall", recall),
    "launch": ("Starting", launch),
    "data": ("Data", data),
    "lens": ("The lens", lens),
    "memory": ("Scoring with a large vocabulary", memory),
    "tracker": ("The memory of training, estimated and counted", tracker),
    "sweep": ("A sweep", sweep),
    "report": ("The report", report),
    "growth": ("Growth", growth),
    "gpu_check": ("One GPU", gpu_check),
}

if __name__ == "__main__":
    main()
