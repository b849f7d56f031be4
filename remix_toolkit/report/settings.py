"""What was trained on, and how: the stages' own records."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath
from statistics import fmean
from typing import Any

import yaml

from remix_toolkit.console import format_duration
from remix_toolkit.recipe.difference import as_overrides
from remix_toolkit.records import StageRecord
from remix_toolkit.report.group import Group
from remix_toolkit.report.parts import Listing, Part, Warn, number
from remix_toolkit.report.retention import gigabytes
from remix_toolkit.report.series import folders
from remix_toolkit.report.tables import Table
from remix_toolkit.store import is_pruned

IN_CSV = {"steps", "trained_tokens", "epochs", "stop_fired", "last_loss", "seconds", "device", "processes"}
IN_CSV |= {"attention", "precision", "memory_estimated", "memory_peak"}


def settings(group: Group) -> list[Part]:
    """A table of each arm's stages, and their resolved recipes, folded away; counts are those of the first seed."""
    trained: dict[tuple[str, str], dict[int, StageRecord]] = {}
    recipes: dict[str, str] = {}
    for stage, arm, seed, folder in folders(group.entries):
        trained.setdefault((arm, stage), {})[seed] = StageRecord.read(folder / "stage.json")
        file = folder / "recipe.yaml"
        if seed == group.seeds[0] and file.exists():
            recipes[arm] = file.read_text(encoding="utf-8", errors="replace")  # of the last stage that is published
        if is_pruned(folder) and (line := f"weights deleted, results kept: {stage} of {arm}") not in group.warnings:
            group.warnings.append(line)
    rows, data = [], []
    for (arm, stage), records in trained.items():
        entries = [entry for entry in group.entries if (entry["arm"], entry["stage"]) == (arm, stage)]
        task = next((entry["task"] for entry in entries if entry["own"]), "-")
        ties = {seed: sum(entry["near_ties"] for entry in entries if entry["seed"] == seed) for seed in records}
        seed, first = next(iter(records.items()))
        counts, train = first.counts, (first.declaration.get("stages") or [{}])[-1].get("train", {})
        mixed = " + ".join(f"{n:,} {source}" for source, n in counts.mixing.items()) or "-"
        row = [arm, stage, task, mixed, f"{counts.facts:,}", f"{sum(counts.dropped.values()):,}", f"{first.steps:,}"]
        row += [f"{first.epochs:.3g}", number(train.get("learning_rate"), "g"), number(first.last_loss, ".2g")]
        row += [f"{ties[seed]:,}", gigabytes(first.memory_estimated), gigabytes(first.memory_peak)]
        rows.append([*row, format_duration(fmean(one.seconds for one in records.values())), first.device])
        for seed, record in records.items():
            numbers = {f"counts_{name}": value for name, value in record.counts if isinstance(value, int)}
            about = {"arm": arm, "stage": stage, "seed": seed, "mixing": mixed, "near_ties": ties[seed]}
            data.append({**about, **record.model_dump(include=IN_CSV), **numbers})
    columns = ["arm", "stage", "data", "mixing", "facts", "dropped", "steps", "epochs", "learning rate", "last loss"]
    columns += ["near ties", "GB estimated", "GB at the peak", "time", "device"]
    caption = f"{group.title}: what was trained, the first seed's counts, mean time over seeds"
    notes = ["Near ties: answers that rounding might have decided, and that were generated for that reason."]
    table = Table(f"settings-{group.slug}", caption, columns, rows, 2, notes, data, text=(2, 3, 14))
    return [table, *(Listing(f"{arm}: the recipe, resolved", text) for arm, text in recipes.items())]


def rerun(group: Group, runs: Path) -> list[Part]:
    """For every run the command that makes it again and the keys of its stages; library versions."""
    stages = {
        (stage, arm, seed): (folder, StageRecord.read(folder / "stage.json"))
        for stage, arm, seed, folder in folders(group.entries)
    }
    first_entries: dict[tuple[str, int], dict[str, Any]] = {}
    for entry in group.entries:
        first_entries.setdefault((entry["arm"], entry["seed"]), entry)
    rows = []
    for (arm, seed), entry in first_entries.items():
        lineage = [(stage, *stages[stage, arm, seed]) for stage in group.stages if (stage, arm, seed) in stages]
        keys = " ".join(f"{stage}={record.key}" for stage, _, record in lineage)
        recipe = _recipe([folder for _, folder, _ in lineage], group.recipe, group.warnings.append)
        line = ["remix", "run", recipe, "--profile", group.profile, "--seed", str(seed), *_there(runs)]
        line += as_overrides(entry["settings"])
        rows.append([arm, str(seed), keys, shlex.join(line)])
    sweeps = [record.sweep for _, record in stages.values() if record.sweep]
    commands = [[command] for command in dict.fromkeys(_commands(sweeps, runs, group.warnings.append))]
    parts: list[Part] = []
    if commands:
        caption = f"{group.title}: all of it, in one command"
        parts.append(Table(f"sweep-{group.slug}", caption, ["command"], commands, heads=0, code=(0,)))
    notes = ["A stage's results are in RUNS/stages, in the folder whose name ends in its key."]
    if any(".match" in key for entry in first_entries.values() for key in entry["settings"]):
        notes.append("An arm with `match` names a stage of this store by its key: it is run after the arm that has it.")
    columns = ["arm", "seed", "stages and their keys", "command"]
    parts.append(Table(f"runs-{group.slug}", f"{group.title}: run by run", columns, rows, 2, notes, code=(2, 3)))
    versions: dict[str, set[str]] = {}
    for _, record in stages.values():
        for name, version in {"python": record.python, **record.libraries}.items():
            versions.setdefault(name, set()).add(version)
    libraries = [[name, ", ".join(sorted(of))] for name, of in versions.items()]
    caption = f"{group.title}: versions that it was made with"
    parts.append(Table(f"versions-{group.slug}", caption, ["library", "version"], libraries, text=(1,)))
    return parts


def _there(runs: Path) -> list[str]:
    """The option that says where, unless that goes without saying."""
    return [] if runs == Path("runs") else ["--runs", str(runs)]


def _recipe(stages: list[Path], name: str, warn: Warn) -> str:
    """The recipe's file, as the run's own stages recorded it; one that another recipe published says another file."""
    for folder in reversed(stages):
        if not (folder / "recipe.yaml").exists():
            continue
        lines = (folder / "recipe.yaml").read_text(encoding="utf-8", errors="replace").splitlines()
        try:
            about = yaml.safe_load("\n".join(line for line in lines if line.startswith(("name: ", "source: ")))) or {}
        except yaml.YAMLError as error:
            problem = " ".join(str(error).split())
            warn(f"{folder / 'recipe.yaml'}: cannot be read ({problem}): the command to run it again is a guess")
            continue
        if about.get("name") == name and about.get("source"):
            return normpath(str(about["source"]))
    return name


def _commands(sweeps: list[str], runs: Path, warn: Warn) -> Iterator[str]:
    """The commands of some sweeps, where the store still has them."""
    for name in dict.fromkeys(sweeps):
        file = runs / "sweeps" / name / "state.json"
        if file.exists():
            try:
                command = dict(json.loads(file.read_text(encoding="utf-8")).get("command", {}))
            except (ValueError, TypeError, AttributeError) as error:
                warn(f"{file}: cannot be read ({type(error).__name__}: {error}): the sweep's command is not shown")
                continue
            profile = ["--profile", command["profile"]] if command.get("profile") else []
            seeds = [part for seed in command.get("seeds") or () for part in ("--seed", str(seed))]
            line = ["remix", "sweep", str(command.get("sweep")), *profile, *seeds, *_there(runs)]
            yield shlex.join([*line, *command.get("overrides", ())])
