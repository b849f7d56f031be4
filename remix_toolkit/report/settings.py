"""What the stages were trained on, and how, by their records; the commands that train them again."""

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from posixpath import normpath

import pandas as pd

from remix_toolkit.console import format_duration
from remix_toolkit.errors import BadInput
from remix_toolkit.graph.memory import GB
from remix_toolkit.graph.sweep_state import SweepState
from remix_toolkit.recipe.difference import as_overrides
from remix_toolkit.report.frame import Warn
from remix_toolkit.report.parts import Listing, Part, Table
from remix_toolkit.report.summary import Sweep
from remix_toolkit.store import is_pruned

NOT_IN_CSV = {"version", "ancestors", "parent_weights", "counts", "fingerprints", "libraries", "declaration"}
SHOWN = {  # column of the CSV -> head, and how its numbers are shown
    "counts_facts": ("facts", "{:,.0f}"),
    "dropped": ("dropped", "{:,.0f}"),
    "steps": ("steps", "{:,.0f}"),
    "epochs": ("epochs", "{:.3g}"),
    "learning_rate": ("learning rate", "{:g}"),
    "last_loss": ("last loss", "{:.2g}"),
    "near_ties": ("near ties", "{:,.0f}"),
    "memory_estimated": ("GB estimated", "{:.3g}"),
    "memory_peak": ("GB at the peak", "{:.3g}"),
}


def settings(sweep: Sweep) -> list[Part]:
    """A table of each arm's stages, and their resolved recipes, folded away; counts are those of the first seed."""
    numbers = _trained(sweep)
    stages = numbers.groupby(["arm", "stage"], sort=False)
    first = stages.head(1).set_index(["arm", "stage"]).astype(dict.fromkeys(SHOWN, "float64"))
    first[["memory_estimated", "memory_peak"]] /= GB
    shown = first[["data", "mixing"]].copy()
    for column, (head, style) in SHOWN.items():
        shown[head] = first[column].map(style.format, na_action="ignore")
    shown["time"] = stages["seconds"].mean().map(format_duration)
    shown["device"] = first["device"]
    caption = f"{sweep.title}: what was trained, the first seed's counts, mean time over seeds"
    notes = ["Near ties: answers that rounding might have decided, and that were generated for that reason."]
    shown = shown.rename_axis(index={"stage": "after"})
    table = Table(f"settings-{sweep.slug}", caption, shown, numbers, notes, words=("data", "mixing", "device"))
    parts: list[Part] = [table]
    last = sweep.published.sort_values("seed", ascending=False, kind="stable").drop_duplicates("label", keep="last")
    for row in last.itertuples():
        if text := sweep.frame.read(row.path, lambda stage: stage.recipe_text, "the settings"):
            parts.append(Listing(f"{row.label}: the recipe, resolved", text))
    return parts


def _trained(sweep: Sweep) -> pd.DataFrame:
    """A row for each stage of each arm and seed, the first seed first."""
    tasks = sweep.rows[sweep.rows["own"]].groupby(["label", "path"])["task"].first()
    near_ties = sweep.rows.groupby(["label", "path"])["near_ties"].sum()
    rows = []
    for row in sweep.published.sort_values("seed", kind="stable").itertuples():
        record, at = sweep.frame.stages[row.path].record, (row.label, row.path)
        if is_pruned(sweep.frame.stages[row.path].folder):
            sweep.frame.warn(f"weights deleted, results kept: {row.stage} of {row.label}")
        declared = (record.declaration.get("stages") or [{}])[-1].get("train", {})
        rows.append(
            {
                "arm": row.label,
                "stage": row.stage,
                "seed": row.seed,
                "data": tasks.get(at),
                "mixing": " + ".join(f"{many:,} {source}" for source, many in record.counts.mixing.items()) or None,
                "near_ties": near_ties[at],
                "learning_rate": declared.get("learning_rate"),
                **record.model_dump(exclude=NOT_IN_CSV),
                **{f"counts_{name}": many for name, many in record.counts if isinstance(many, int)},
                "dropped": sum(record.counts.dropped.values()),
            }
        )
    return pd.DataFrame(rows)


def rerun(sweep: Sweep, runs: Path) -> list[Part]:
    """For every run the command that makes it again and the keys of its stages."""
    parts: list[Part] = []
    trained_by = (sweep.frame.stages[path].record.sweep for path in sweep.rows["path"].unique())
    names = dict.fromkeys(filter(None, trained_by))
    if commands := list(dict.fromkeys(_sweep_commands(names, runs, sweep.frame.warn))):
        caption = f"{sweep.title}: all of it, in one command"
        parts.append(Table(f"sweep-{sweep.slug}", caption, pd.DataFrame({"command": commands}), code=("command",)))
    cells = {}
    for run, stages in sweep.published.groupby(["label", "seed"], sort=False):
        about = stages.iloc[-1]
        recipe = normpath(about["source"]) if about["source"] else sweep.recipe
        line = ["remix", "run", recipe, "--profile", sweep.profile, "--seed", str(about["seed"]), *_option(runs)]
        keys = " ".join(stages["stage"] + "=" + stages["key"])
        cells[run] = (keys, shlex.join([*line, *as_overrides(about["settings"])]))
    shown = pd.DataFrame.from_dict(cells, orient="index", columns=["stages and their keys", "command"])
    shown.index = pd.MultiIndex.from_tuples(cells, names=["arm", "seed"])
    notes = ["A stage's results are in RUNS/stages, in the folder whose name ends in its key."]
    if any(".match" in key for settings in sweep.rows["settings"] for key in settings):
        notes.append("An arm with a match names a stage of this store by its key: it is run after the arm that has it.")
    caption = f"{sweep.title}: run by run"
    parts.append(Table(f"runs-{sweep.slug}", caption, shown, notes=notes, code=tuple(shown.columns)))
    return parts


def _option(runs: Path) -> list[str]:
    """The option that names the runs directory, where it is not the default."""
    return [] if runs == Path("runs") else ["--runs", str(runs)]


def _sweep_commands(names: Iterable[str], runs: Path, warn: Warn) -> Iterator[str]:
    """The commands of some sweeps, where the store still has them."""
    for name in names:
        try:
            state = SweepState.read_if_exists(runs / "sweeps" / name / "state.json")
        except BadInput as error:
            warn(f"{error}: the sweep's command is not shown")
            continue
        if state:
            command = state.command
            profile = ["--profile", command.profile] if command.profile else []
            seeds = [part for seed in command.seeds or () for part in ("--seed", str(seed))]
            yield shlex.join(["remix", "sweep", command.sweep, *profile, *seeds, *_option(runs), *command.overrides])
