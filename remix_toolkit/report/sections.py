"""The report's sections, in the order in which they are read; each is made from the frame's sweeps alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from remix_toolkit.evaluate.known import Known
from remix_toolkit.report import figures
from remix_toolkit.report.facts import LATER, LATER_NOTE, Facts, facts_of
from remix_toolkit.report.frame import SWEEP, Frame
from remix_toolkit.report.paper import section as paper
from remix_toolkit.report.parts import Figure, Heading, Part, Section, Table, Words
from remix_toolkit.report.probes import probes
from remix_toolkit.report.settings import rerun, settings
from remix_toolkit.report.summary import FLOOR, Sweep
from remix_toolkit.report.words import (
    answer,
    explain_comparisons,
    explain_means,
    held_out_text,
    known_before,
    notes,
    p_values,
)

NOT_IN_CSV = ["arm", "overrides", "own", "lists"]  # of the means


def sections(frame: Frame, sweeps: Sequence[Sweep], runs: Path, warnings: list[str]) -> list[Section]:
    """All of them; `warnings` is what `frame.warn` adds to, and has a section of its own.

    The paper's tables are there once one of the sweeps of recipes/paper/ has been run.
    """
    facts = {(sweep.title, task): of for sweep in sweeps for task in sweep.tasks if (of := facts_of(sweep, task))}
    made = [
        Section("answer", "What was retained", _each(sweeps, _answer)),
        Section("matrix", "Recall after each stage", _each(sweeps, _matrix)),
        Section("arms", "Arms compared", _each(sweeps, partial(_arms, facts=facts))),
        Section("curves", "Retention curves", _each(sweeps, partial(_figure, draw=figures.curves))),
        Section("facts", "Facts kept and lost", _each(sweeps, partial(_facts, facts=facts))),
        Section("probes", "Probes", _each(sweeps, probes)),
        Section("paper", "The paper beside ours", paper(frame)),
        Section("losses", "Training losses", _each(sweeps, partial(_figure, draw=figures.losses))),
        Section("settings", "Data and settings", _each(sweeps, settings)),
        Section("rerun", "How to run it again", _each(sweeps, partial(rerun, runs=runs))),
    ]
    for sweep in sweeps:
        warnings += [f"{sweep.title}, {line}" if len(sweeps) > 1 else line for line in notes(sweep)]
    shown: list[Part] = [Words(warnings, "warnings")] if warnings else [Words(["None."])]
    made.insert(-1, Section("warnings", "Warnings", shown))
    return [section for section in made if section.parts]


def _each(sweeps: Sequence[Sweep], make: Callable[[Sweep], list[Part]]) -> list[Part]:
    """The parts of every sweep, each sweep under its title; one without parts has no title."""
    parts: list[Part] = []
    for sweep in sweeps:
        if of_sweep := make(sweep):
            if len(sweeps) == 1:
                return [replace(part, level=3) if isinstance(part, Heading) else part for part in of_sweep]
            parts += [Heading(sweep.title, 3), *of_sweep]
    return parts


def _answer(sweep: Sweep) -> list[Part]:
    words = [Words(lines, kind) for head, more in answer(sweep) for lines, kind in (([head], "answer"), (more, "list"))]
    words.append(Words(known_before(sweep.frame.results(Known())), "list"))
    return [part for part in words if part.lines]


def _figure(sweep: Sweep, draw: Callable[[Sweep], Figure | None]) -> list[Part]:
    figure = draw(sweep)
    return [figure] if figure else []


def _matrix(sweep: Sweep) -> list[Part]:
    """Stages as rows under each arm, tasks as columns: the mean over seeds; of an instruction task, the loss."""
    rows, means, cell = sweep.rows, sweep.means, ["label", "stage", "task"]
    texts = {}
    for row in means.itertuples():
        texts[row.label, row.stage, row.task] = f"{row.mean:.1f}" + ("" if pd.isna(row.sd) else f" ± {row.sd:.1f}")
    asked = rows[rows["held_out_loss"].notna()].groupby(cell)
    for row in asked[["held_out_loss", "held_out_accuracy"]].mean().itertuples():
        texts[row.Index] = held_out_text(row)
    seeds = rows.groupby(["label", "stage"])["seed"].agg(lambda seeds: _joined(sorted(set(seeds))))
    order = pd.MultiIndex.from_product([sweep.arms, sweep.stages], names=["arm", "after"])
    order = order[order.isin(seeds.index)]
    shown = pd.Series(texts).unstack().reindex(index=order, columns=list(rows["task"].unique()))
    shown.insert(0, "seeds", seeds.reindex(order), allow_duplicates=True)
    shades = means.set_index(cell)["mean"].unstack().reindex(order)
    about = ["Mean ± standard deviation over seeds."] if len(sweep.seeds) > 1 else []
    caption = f"{sweep.title}: recall in percent after each stage"
    return [Table(f"retention-{sweep.slug}", caption, shown, _numbers(means), about, shades)]


def _arms(sweep: Sweep, facts: Mapping[tuple[str, str], Facts]) -> list[Part]:
    """For each task to remember: what is left of it in each arm, and each arm against the first, fact by fact."""
    parts: list[Part] = []
    for task in sweep.tasks:
        ranked = sweep.ranked(task)
        if ranked.empty:
            continue
        first, last, low = sweep.stages[0], sweep.stages[-1], sweep.unlearned()
        rows = [_arm(sweep, row, facts.get((sweep.title, task))) for row in ranked.itertuples()]
        names = [row.label + " *" * (row.label in low) for row in ranked.itertuples()]
        columns = [f"after {first}", f"after {last}", "sd", "95% interval", "lost", LATER, "seeds", "missing"]
        shown = pd.DataFrame(rows, pd.Index(names, name="arm"), columns)
        about = [f"lost: points between the two. {explain_means(ranked)}", LATER_NOTE]
        if low:
            about.append(f"* {first} knows less than {FLOOR:.0f}% of its own facts under some seed.")
        caption = f"{sweep.title}: {task}, the best arm first, in percent"
        parts.append(figures.arms(sweep, task))
        parts.append(Table(f"arms-{sweep.slug}-{task}", caption, shown, _numbers(ranked), about))
        parts += _differences(sweep, task)
    return parts


def _arm(sweep: Sweep, row: Any, facts: Facts | None) -> list[str | None]:
    before = sweep.mean(row.label, sweep.stages[0], row.task)
    is_later = before is not None and len(sweep.stages) > 1
    return [
        f"{before.mean:.1f}" if before else None,
        f"{row.mean:.1f}",
        None if pd.isna(row.sd) else f"{row.sd:.1f}",
        f"{row.low:.1f} to {row.high:.1f}",
        f"{before.mean - row.mean:.1f}" if is_later else None,
        facts.later(row.label) if facts else None,
        _joined(row.seeds),
        _joined(row.missing) or None,
    ]


def _differences(sweep: Sweep, task: str) -> list[Part]:
    compared = sweep.against_first[task]
    if not compared:
        return []
    rows = [
        [
            f"{one.difference:+.1f}",
            f"{one.low:+.1f} to {one.high:+.1f}",
            *p_values(one),
            f"{one.one_to_zero} / {one.zero_to_one}",
            _joined(one.seeds),
            f"{one.facts:,}",
        ]
        for one in compared
    ]
    first, second = sweep.arms[0], [one.second for one in compared]
    columns = ["points", "95% interval", "p", "p (Holm)", "1 -> 0 / 0 -> 1", "seeds", "facts"]
    about = [explain_comparisons(compared)]
    if apart := [arm for arm in sweep.arms[1:] if arm not in second]:
        about.append(f"Not compared, no seed and fact in common with {first}: {', '.join(apart)}.")
    caption = f"{sweep.title}: {task} after {sweep.stages[-1]}, difference from {first}, fact by fact"
    shown = pd.DataFrame(rows, pd.Index(second, name="arm"), columns)
    about_sweep = sweep.rows[SWEEP].iloc[0].to_dict()
    numbers = pd.DataFrame([{**about_sweep, **vars(one)} for one in compared]).drop(columns=["flips", "list"])
    name = f"differences-{sweep.slug}-{task}"
    return [figures.differences(sweep, task), Table(name, caption, shown, numbers, about)]


def _facts(sweep: Sweep, facts: Mapping[tuple[str, str], Facts]) -> list[Part]:
    of_tasks = [facts[sweep.title, task] for task in sweep.tasks if (sweep.title, task) in facts]
    return [part for one in of_tasks for part in (one.table(), one.explorer())]


def _numbers(means: pd.DataFrame) -> pd.DataFrame:
    return means.drop(columns=NOT_IN_CSV).rename(columns={"label": "arm"})


def _joined(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
