"""The report's sections, in the order in which they are read; each is made from the groups alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from remix_toolkit.report.facts import LATER, LATER_NOTE
from remix_toolkit.report.frame import load
from remix_toolkit.report.group import Entry, Group, answer
from remix_toolkit.report.paper import section as paper
from remix_toolkit.report.parts import Figure, Heading, Part, Section, Warn, Words, number, shortened
from remix_toolkit.report.plot import arms_figure, curves_figure, differences_figure, losses_figure
from remix_toolkit.report.probes import probes
from remix_toolkit.report.retention import FLOOR
from remix_toolkit.report.seeds import of_differences, of_means, p_values
from remix_toolkit.report.series import Panels, curves, losses, over_seeds
from remix_toolkit.report.settings import rerun, settings
from remix_toolkit.report.tables import Table


def sections(groups: Sequence[Group], runs: Path, warnings: list[str]) -> list[Section]:
    """All of them; what is found to be wrong on the way is added to `warnings`, which have a section of their own.

    The paper's tables are there once one of the sweeps of recipes/paper/ has been run.
    """
    made = [
        Section("answer", "What was retained", _each(groups, _answer)),
        Section("matrix", "Recall after each stage", _each(groups, _matrix)),
        Section("arms", "Arms compared", _each(groups, _arms)),
        Section("curves", "Retention curves", _each(groups, partial(_curves, warn=warnings.append))),
        Section("facts", "Facts kept and lost", _each(groups, _facts)),
        Section("probes", "Probes", _each(groups, partial(probes, warn=warnings.append))),
        Section("paper", "The paper beside ours", _paper(groups, runs, warnings)),
        Section("losses", "Training losses", _each(groups, partial(_losses, warn=warnings.append))),
        Section("settings", "Data and settings", _each(groups, settings)),
        Section("rerun", "How to run it again", _each(groups, partial(rerun, runs=runs))),
    ]
    for group in groups:
        noted = [*group.noted(), *dict.fromkeys(group.warnings)]
        warnings += [f"{group.title}, {line}" if len(groups) > 1 else line for line in noted]
    shown: list[Part] = [Words(warnings, "warnings")] if warnings else [Words(["None."])]
    made.insert(-1, Section("warnings", "Warnings", shown))
    return [section for section in made if section.parts]


def _each(groups: Sequence[Group], make: Callable[[Group], list[Part]]) -> list[Part]:
    """The parts of every group, each group under its title; a group without parts has no title."""
    parts: list[Part] = []
    for group in groups:
        if of_group := make(group):
            if len(groups) == 1:
                return [replace(part, level=3) if isinstance(part, Heading) else part for part in of_group]
            parts += [Heading(group.title, 3), *of_group]
    return parts


def _paper(groups: Sequence[Group], runs: Path, warnings: list[str]) -> list[Part]:
    problems: list[str] = []
    frame = load(runs, warn=problems.append)
    parts = paper(frame.where(frame.measured["recipe"].isin({group.recipe for group in groups})))
    known = {line for group in groups for line in group.warnings}  # of the same file, by another section
    warnings += [line for line in dict.fromkeys(problems) if line not in known]
    return parts


def _answer(group: Group) -> list[Part]:
    return [
        part for head, more in answer(group) for part in (Words([head], "answer"), Words(more, "list")) if part.lines
    ]


def _matrix(group: Group) -> list[Part]:
    """Stages as rows under each arm, tasks as columns: the mean over seeds; of an instruction task, the loss."""
    tasks = list(dict.fromkeys(entry["task"] for entry in group.entries))
    cells: dict[tuple[str, str, str], tuple[str, float | None]] = {}
    for row in group.means:
        spread = "" if row["sd"] is None else f" ± {row['sd']:.1f}"
        cells[row["arm"], row["stage"], row["task"]] = (f"{row['mean']:.1f}{spread}", row["mean"])
    data = [{k: _joined(v) for k, v in row.items() if k not in ("lists", "overrides", "own")} for row in group.means]
    for at in dict.fromkeys((e["arm"], e["stage"], e["task"]) for e in group.entries if e["held_out"]):
        asked = [e for e in group.entries if (e["arm"], e["stage"], e["task"]) == at and e["held_out"]]
        cells[at] = (_held_out(asked), None)
    ran: dict[tuple[str, str], set[int]] = {}
    for entry in group.entries:
        ran.setdefault((entry["arm"], entry["stage"]), set()).add(entry["seed"])
    order = [(arm, stage) for arm in group.arms for stage in group.stages if (arm, stage) in ran]
    rows = [
        [arm, stage, _joined(sorted(ran[arm, stage])), *(cells.get((arm, stage, t), ("-", None))[0] for t in tasks)]
        for arm, stage in order
    ]
    nothing: list[float | None] = [None] * 3
    shades = [nothing + [cells.get((*at, task), ("", None))[1] for task in tasks] for at in order]
    notes = ["Mean ± standard deviation over seeds."] if len(group.seeds) > 1 else []
    caption = f"{group.title}: recall in percent after each stage"
    columns = ["arm", "after", "seeds", *tasks]
    return [Table(f"retention-{group.slug}", caption, columns, rows, 2, notes, data, shades)]


def _held_out(rows: Sequence[Entry]) -> str:
    """The loss on held-out rows and, where there is one, the accuracy: means over seeds."""
    kept = [row["held_out"] for row in rows]
    loss = sum(one["loss"] for one in kept) / len(kept)
    right = [one["accuracy"] for one in kept if one.get("accuracy") is not None]
    return f"loss {loss:.2f}" + (f", {sum(right) / len(right):.0f}% right" if right else "")


def _arms(group: Group) -> list[Part]:
    """For each task to remember: what is left of it in each arm, and each arm against the first, fact by fact."""
    parts: list[Part] = []
    for task in group.tasks:
        rows = group.ranked(task)
        if not rows:
            continue
        last, low = group.stages[-1], group.unlearned()
        shown = [_arm(group, task, row, low) for row in rows]
        alts = [f"{r[0]} {r[1]}, then {r[2]}" + (f" ({r[4]})" if r[4] != "-" else "") for r in shown]
        figure = f"{group.title}: recall of {task} after {group.stages[0]} and after {last}"
        draw = partial(arms_figure, [e for e in group.entries if e["task"] == task and e["recall"] is not None], task)
        parts.append(Figure(f"arms-{group.slug}-{task}", draw, figure, f"Recall in percent. {shortened(alts)}."))
        columns = ["arm", f"after {group.stages[0]}", f"after {last}", "sd", "95% interval", "lost", LATER]
        columns += ["seeds", "missing"]
        notes = [f"lost: points between the two. {of_means(rows)}", LATER_NOTE]
        if low:
            notes.append(f"* {group.stages[0]} knows less than {FLOOR:.0f}% of its own facts under some seed.")
        caption = f"{group.title}: {task}, the best arm first, in percent"
        data = [{k: _joined(v) for k, v in row.items() if k not in ("lists", "overrides", "own")} for row in rows]
        parts.append(Table(f"arms-{group.slug}-{task}", caption, columns, shown, 1, notes, data))
        parts += _differences(group, task)
    return parts


def _arm(group: Group, task: str, row: Entry, low: set[str]) -> list[str]:
    before = group.mean(row["arm"], group.stages[0], task)
    interval = f"{row['low']:.1f} to {row['high']:.1f}"
    lost = "-" if before is None or len(group.stages) == 1 else f"{before['mean'] - row['mean']:.1f}"
    first = f"{before['mean']:.1f}" if before else "-"
    name = row["arm"] + (" *" if row["arm"] in low else "")
    later = group.facts[task].later(row["arm"]) if task in group.facts else "-"
    seeds = [_joined(row["seeds"]), _joined(row["missing"]) or "-"]
    return [name, first, f"{row['mean']:.1f}", number(row["sd"]), interval, lost, later, *seeds]


def _differences(group: Group, task: str) -> list[Part]:
    rows = [row for row in group.compared if row["task"] == task]
    if not rows:
        return []
    shown = [
        [
            row["second"],
            f"{row['difference']:+.1f}",
            f"{row['low']:+.1f} to {row['high']:+.1f}",
            *p_values(row),
            f"{row['one_to_zero']} / {row['zero_to_one']}",
            _joined(row["seeds"]),
            f"{row['facts']:,}",
        ]
        for row in rows
    ]
    first = rows[0]["first"]
    caption = f"{group.title}: {task} after {group.stages[-1]}, difference from {first}, fact by fact"
    columns = ["arm", "points", "95% interval", "p", "p (Holm)", "1 -> 0 / 0 -> 1", "seeds", "facts"]
    notes = [of_differences(rows)]
    apart = [arm for arm in group.arms[1:] if arm not in {row["second"] for row in rows}]
    if apart:
        notes.append(f"Not compared, no seed and fact in common with {first}: {', '.join(apart)}.")
    name = f"differences-{group.slug}-{task}"
    alt = f"Difference from {first} in points. {shortened([f'{r[0]} {r[1]} ({r[2]})' for r in shown])}."
    data = [{k: _joined(v) for k, v in row.items() if k != "flips"} for row in rows]
    return [
        Figure(name, partial(differences_figure, rows), f"{caption}; filled where the interval leaves zero out", alt),
        Table(name, caption, columns, shown, 1, notes, data),
    ]


def _curves(group: Group, warn: Warn) -> list[Part]:
    panels = curves(group.entries, warn)
    if not panels:
        return []
    first = group.stages[0]
    caption = f"{group.title}: recall of {first}'s facts while later stages train, mean over seeds{_apart(panels)}"
    alt = f"Recall in percent from the stage's begin to its end. {shortened(_ends(panels, '.0f'))}."
    return [Figure(f"curves-{group.slug}", partial(curves_figure, panels, first), caption, alt)]


def _facts(group: Group) -> list[Part]:
    return [part for facts in group.facts.values() for part in (facts.table(), facts)]


def _losses(group: Group, warn: Warn) -> list[Part]:
    panels = losses(group.entries, warn)
    if not panels:
        return []
    caption = (
        f"{group.title}: training loss, mean over all trained tokens of a step; the thick line is the mean of "
        f"seeds{_apart(panels)}"
    )
    alt = f"Training loss from the stage's begin to its end. {shortened(_ends(panels, '.2g'))}."
    return [Figure(f"losses-{group.slug}", partial(losses_figure, panels), caption, alt)]


def _apart(panels: Panels) -> str:
    """What a caption says besides where some arm's seeds have no point in common to take a mean at."""
    alone = any(not over_seeds(by_seed) for by_arm in panels.values() for by_seed in by_arm.values())
    return "; each seed by itself where they share no point" if alone else ""


def _ends(panels: Panels, style: str) -> list[str]:
    """Where each arm's line begins and ends, the mean of its seeds."""
    return [
        f"{arm} in {stage}: {_end(by_seed, 0, style)} to {_end(by_seed, -1, style)}"
        for stage, by_arm in panels.items()
        for arm, by_seed in by_arm.items()
    ]


def _end(by_seed: dict[int, list[tuple[float, float]]], at: int, style: str) -> str:
    return format(sum(points[at][1] for points in by_seed.values()) / len(by_seed), style)


def _joined(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value
