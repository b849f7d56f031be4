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
from remix_toolkit.report.series import folders
from remix_toolkit.report.tables import Table
from remix_toolkit.store import is_pruned


def settings(group: Group) -> list[Part]:
    """A table of each arm's stages, and their resolved recipes, folded away; counts are those of the first seed."""
    told: dict[tuple[str, str], list[dict[str, Any]]] = {}
    recipes: dict[str, str] = {}
    for stage, arm, seed, folder in folders(group.entries):
        about = StageRecord.read(folder / "stage.json").model_dump()
        told.setdefault((arm, stage), []).append({**about, "seed": seed})
        file = folder / "recipe.yaml"
        if seed == group.seeds[0] and file.exists():
            recipes[arm] = file.read_text(encoding="utf-8", errors="replace")  # of the last stage that is published
        if is_pruned(folder) and (line := f"weights deleted, results kept: {stage} of {arm}") not in group.warnings:
            group.warnings.append(line)
    rows, data = [], []
    for (arm, stage), mine in told.items():
        counts = mine[0].get("counts", {})
        train = (mine[0].get("declaration", {}).get("stages") or [{}])[-1].get("train", {})
        task = next((e["task"] for e in group.entries if (e["arm"], e["stage"]) == (arm, stage) and e["own"]), "-")
        mixed = " + ".join(f"{n:,} {source}" for source, n in counts.get("mixing", {}).items()) or "-"
        dropped = sum(counts.get("dropped", {}).values())
        seconds = fmean(float(one.get("seconds") or 0) for one in mine)
        row = [arm, stage, task, mixed, number(counts.get("facts"), ",d"), f"{dropped:,}", f"{mine[0]['steps']:,}"]
        row += [number(mine[0].get("epochs"), ".3g"), number(train.get("learning_rate"), "g")]
        row += [number(mine[0].get("last_loss"), ".2g"), format_duration(seconds), str(mine[0].get("device", "-"))]
        rows.append(row)
        for one in mine:
            kept = {
                key: one.get(key) for key in ("steps", "trained_tokens", "epochs", "stop_fired", "last_loss", "seconds")
            }
            kept |= {key: one.get(key) for key in ("device", "processes", "attention", "precision")}
            more = {f"counts_{key}": value for key, value in one.get("counts", {}).items() if isinstance(value, int)}
            data.append({"arm": arm, "stage": stage, "seed": one["seed"], "mixing": mixed, **kept, **more})
    names = list(dict.fromkeys(key for row in data for key in row))
    data = [{name: row.get(name) for name in names} for row in data]
    columns = ["arm", "stage", "data", "mixing", "facts", "dropped", "steps", "epochs", "learning rate", "last loss"]
    caption = f"{group.title}: what was trained, the first seed's counts, mean time over seeds"
    table = Table(
        f"settings-{group.slug}", caption, [*columns, "time", "device"], rows, heads=2, data=data, text=(2, 3, 11)
    )
    return [table, *(Listing(f"{arm}: the recipe, resolved", text) for arm, text in recipes.items())]


def rerun(group: Group, runs: Path) -> list[Part]:
    """For every run the command that makes it again and the keys of its stages; library versions."""
    stages = {
        (stage, arm, seed): (folder, StageRecord.read(folder / "stage.json").model_dump())
        for stage, arm, seed, folder in folders(group.entries)
    }
    made: dict[tuple[str, int], dict[str, Any]] = {}
    for entry in group.entries:
        made.setdefault((entry["arm"], entry["seed"]), entry)
    rows = []
    for (arm, seed), entry in made.items():
        mine = [(stage, *stages[stage, arm, seed]) for stage in group.stages if (stage, arm, seed) in stages]
        keys = " ".join(f"{stage}={about['key']}" for stage, _, about in mine)
        recipe = _recipe([folder for _, folder, _ in mine], group.recipe, group.warnings.append)
        line = ["remix", "run", recipe, "--profile", group.profile, "--seed", str(seed), *_there(runs)]
        line += as_overrides(entry["settings"])
        rows.append([arm, str(seed), keys, shlex.join(line)])
    commands = [
        [command]
        for command in dict.fromkeys(_sweeps([about for _, about in stages.values()], runs, group.warnings.append))
    ]
    parts: list[Part] = []
    if commands:
        caption = f"{group.title}: all of it, in one command"
        parts.append(Table(f"sweep-{group.slug}", caption, ["command"], commands, heads=0, code=(0,)))
    notes = ["A stage's results are in RUNS/stages, in the folder whose name ends in its key."]
    if any(".match" in key for entry in made.values() for key in entry["settings"]):
        notes.append("An arm with `match` names a stage of this store by its key: it is run after the arm that has it.")
    columns = ["arm", "seed", "stages and their keys", "command"]
    parts.append(Table(f"runs-{group.slug}", f"{group.title}: run by run", columns, rows, 2, notes, code=(2, 3)))
    versions: dict[str, set[str]] = {}
    for _, about in stages.values():
        for name, version in {"python": about.get("python"), **about.get("libraries", {})}.items():
            versions.setdefault(name, set()).add(str(version or "not recorded"))
    found = [[name, ", ".join(sorted(of))] for name, of in versions.items()]
    caption = f"{group.title}: versions that it was made with"
    parts.append(Table(f"versions-{group.slug}", caption, ["library", "version"], found, text=(1,)))
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
            said = yaml.safe_load("\n".join(line for line in lines if line.startswith(("name: ", "source: ")))) or {}
        except yaml.YAMLError as error:
            problem = " ".join(str(error).split())
            warn(f"{folder / 'recipe.yaml'}: cannot be read ({problem}): the command to run it again is a guess")
            continue
        if said.get("name") == name and said.get("source"):
            return normpath(str(said["source"]))
    return name


def _sweeps(abouts: list[dict[str, Any]], runs: Path, warn: Warn) -> Iterator[str]:
    """The commands of the sweeps that trained these stages, where the store still has them."""
    for name in dict.fromkeys(about.get("sweep") for about in abouts):
        file = runs / "sweeps" / str(name) / "state.json"
        if name and file.exists():
            try:
                command = dict(json.loads(file.read_text(encoding="utf-8")).get("command", {}))
            except (ValueError, TypeError, AttributeError) as error:
                warn(f"{file}: cannot be read ({type(error).__name__}: {error}): the sweep's command is not shown")
                continue
            profile = ["--profile", command["profile"]] if command.get("profile") else []
            seeds = [part for seed in command.get("seeds") or () for part in ("--seed", str(seed))]
            yield shlex.join(
                [
                    "remix",
                    "sweep",
                    str(command.get("sweep")),
                    *profile,
                    *seeds,
                    *_there(runs),
                    *command.get("overrides", ()),
                ]
            )
