"""A plan for a person, and its graph for Mermaid."""

from typing import Any

from rich.console import Console
from rich.table import Table

SHOWN = 12  # jobs of the order; all are in --json


def print_plan(made: dict[str, Any]) -> None:
    """`remix plan` on the screen."""
    console = Console(width=None if Console().is_terminal else 120, highlight=False, markup=False)
    console.print(f"{made['name']} on {', '.join(made['profiles'])}", style="bold")
    table = Table(box=None, show_header=False)
    seeds = ", ".join(map(str, made["seeds"]))
    table.add_row("runs", f"{made['runs']:,}: {made['arms']} arms, seeds {seeds}")
    shared = f"{made['stages_requested']:,} asked for, {made['stages_distinct']:,} different"
    table.add_row("stages", f"{shared}, {made['stages_published']:,} published, {made['stages_to_train']:,} to train")
    if made["splits"]:
        table.add_row("questions", f"{made['splits']} tasks whose facts the base model is asked for first")
    table.add_row("optimizer steps", _number(made["steps"]))
    table.add_row("tokens", f"about {_number(made['tokens'])}, from the tasks' mean lengths")
    table.add_row("FLOPs", f"about {_number(made['flops'], '.2e')}")
    if made["gpu_hours"] is not None:
        assumed = f"at {made['utilization']:.0%} of {made['tflops']:g} TFLOP/s"
        each = " or ".join(map(str, made["devices_per_stage"]))
        table.add_row("GPU-hours", f"about {made['gpu_hours']:,.1f} {assumed}; {each} devices a stage")
    kept = f"{size(made['disk_peak_bytes'])} with keep: {made['keep']}"
    table.add_row("disk at the peak", f"{kept}; {size(made['disk_peak_bytes_keep_all'])} if all weights stay")
    if needs := made["memory"]:
        checkpointing = f"activation checkpointing {'on' if needs['activation_checkpointing'] else 'off'}"
        fits = f"of {needs['device_bytes'] / 1e9:g}" + ("" if needs["fits"] else ": DOES NOT FIT")
        table.add_row("memory a device", f"{needs['summary']} ({fits}); {needs['precision']}, {checkpointing}")
    for path in made["absent"]:
        table.add_row("not here yet", path)
    console.print(table)
    todo = [job for job in made["order"] if job["to_do"] and job["kind"] != "measure"]
    for job in todo[:SHOWN]:
        steps = f"{job['steps']} steps" if job["steps"] else ""
        more = f" and {len(job['runs']) - 1} more" if len(job["runs"]) > 1 else ""
        what = "split" if job["kind"] == "split" else job["name"]
        console.print(
            f"  {what:8} {job['task']:16} {steps:12} {job['runs'][0]}{more}", no_wrap=True, overflow="ellipsis"
        )
        if job["why"]:
            console.print(f"           new: {job['why']}", no_wrap=True, overflow="ellipsis", style="dim")
    if len(todo) > SHOWN:
        console.print(f"  ... and {len(todo) - SHOWN:,} more, in the order in which they run")


def _number(value: float | None, style: str = ",.0f") -> str:
    return "not known from the declaration" if value is None else format(value, style)


def size(value: float | None) -> str:
    """`8.3 GB`."""
    if value is None:
        return "not known"
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def draw(made: dict[str, Any]) -> str:
    """The graph of stages and splits for Mermaid; what is published is drawn dashed."""
    lines = ["flowchart LR"]
    drawn = [job for job in made["order"] if job["kind"] != "measure"]
    for job in drawn:
        label = f"{job['name']}: {job['task']}" if job["kind"] == "train" else f"which {job['task']} are known?"
        label = f"{label}, {job['runs'][0]}".replace('"', "'")
        lines.append(f'  {job["key"]}["{label}"]' + ("" if job["to_do"] else ":::published"))
        lines += [f"  {need} --> {job['key']}" for need in job["needs"]]
    return "\n".join([*lines, "  classDef published stroke-dasharray: 4"])
