"""The report's sections, in the order in which they are read; each is made from the frame's sweeps alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from remix_toolkit.evaluate.known import Known
from remix_toolkit.report import figures, retention
from remix_toolkit.report.facts import LATER, LATER_NOTE, Facts, facts_of
from remix_toolkit.report.frame import Frame
from remix_toolkit.report.paper import section as paper
from remix_toolkit.report.parts import Figure, Heading, Part, Section, Words
from remix_toolkit.report.probes import probes
from remix_toolkit.report.settings import rerun, settings
from remix_toolkit.report.summary import Sweep
from remix_toolkit.report.words import answer, known_before, notes


def sections(frame: Frame, sweeps: Sequence[Sweep], runs: Path, warnings: list[str]) -> list[Section]:
    """All of them; `warnings` is what `frame.warn` adds to, and has a section of its own.

    The paper's tables are there once one of the sweeps of recipes/paper/ has been run.
    """
    facts = {(sweep.title, task): of for sweep in sweeps for task in sweep.tasks if (of := facts_of(sweep, task))}
    made = [
        Section("answer", "What was retained", _each(sweeps, _answer)),
        Section("matrix", "Recall after each stage", _each(sweeps, lambda sweep: [retention.matrix(sweep)])),
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


def _arms(sweep: Sweep, facts: Mapping[tuple[str, str], Facts]) -> list[Part]:
    """For each task to remember: what is left of it in each arm, and each arm against the first, fact by fact."""
    parts: list[Part] = []
    for task in sweep.tasks:
        if (ranked := sweep.ranked(task)).empty:
            continue
        of_task = facts.get((sweep.title, task))
        later = {arm: of_task.later(arm) for arm in ranked["label"]} if of_task else {}
        parts += [figures.arms(sweep, task), retention.arms(sweep, task, {LATER: later}, [LATER_NOTE])]
        if compared := retention.differences(sweep, task):
            parts.append(compared)
    return parts


def _facts(sweep: Sweep, facts: Mapping[tuple[str, str], Facts]) -> list[Part]:
    of_tasks = [facts[sweep.title, task] for task in sweep.tasks if (sweep.title, task) in facts]
    return [part for one in of_tasks for part in (one.table(), one.explorer())]
