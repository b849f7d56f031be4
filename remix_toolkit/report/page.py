"""`remix report`: a store of runs as one page that needs nothing else, its figures and tables beside it as files.

All that the page shows is made from the frame's sweeps alone; `sections` has it in the order in which it is read.
"""

import base64
import gzip
import hashlib
import json
import textwrap
from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import count
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from remix_toolkit import __version__
from remix_toolkit.console import info, warn
from remix_toolkit.errors import LATER, BadInput
from remix_toolkit.evaluate.known import Known
from remix_toolkit.report import figures, paper, parts, retention, settings, words
from remix_toolkit.report.facts import LATER as LATER_FACTS
from remix_toolkit.report.facts import LATER_NOTE, facts_of
from remix_toolkit.report.frame import Frame, load, path_text
from remix_toolkit.report.parts import Explorer, Figure, Heading, Part, Section, Table, Words
from remix_toolkit.report.probes import probes
from remix_toolkit.report.summary import Sweep, slug, sweeps

PAGE = "index.html"
SCREEN = 120  # characters of a line
# Control characters, and what can be seen in their place.
SEEN = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421, 0x2028: 0x2424, 0x2029: 0x2424}
WRITERS: dict[str, Callable[[Table], str]] = {"csv": parts.as_csv, "md": parts.as_markdown, "tex": parts.as_latex}


def write_report(runs: Path, out: Path, recipe: str | None, advice: Sequence[str] = ()) -> Path | None:
    """Write the report of a store, or of one recipe or sweep in it, into a folder; the page's path.

    `advice` is what a pilot came to, in lines: it is on top of the page.
    What the page says first is printed too, in three lines at most. Files of the report's own names are overwritten,
    nothing else is touched. None where nothing is published yet. Raises BadInput where `runs` does not exist, the
    recipe is not in it, or the folder cannot be written to.
    """
    warnings: list[str] = []
    frame = load(runs, recipe, warnings.append)
    for warning in warnings:
        warn(warning)
    if frame.measured.empty:
        return None
    warnings += words.unmeasured(frame)
    all_sweeps = sorted(sweeps(frame), key=lambda sweep: len(sweep.stages) == 1)  # of one stage, little can be said
    made = sections(frame, all_sweeps, Path(path_text(runs)), warnings)
    answer = next(part.lines[0] for part in made[0].parts if isinstance(part, Words))
    if advice:
        made.insert(0, Section("advice", "Advice", [Words(advice[:1], "answer"), Words(advice[1:], "list")]))
    recipes = list(dict.fromkeys(sweep.recipe for sweep in all_sweeps))
    title = all_sweeps[0].title if len(all_sweeps) == 1 else ", ".join(recipes)
    title = title if len(recipes) < 4 else f"{len(recipes)} recipes"
    try:
        for folder in (out, out / "figures", out / "tables"):
            folder.mkdir(parents=True, exist_ok=True)
        _write_files([part for section in made for part in section.parts], out)
        _save(out / PAGE, render(made, title, path_text(runs), len(warnings)).encode())
    except OSError as error:
        if error.errno in LATER:
            raise
        raise BadInput(f"-o {error.filename or out}: cannot be written ({error.strerror})") from None
    info(textwrap.fill(parts.plain(f"{all_sweeps[0].title}: {answer}"), SCREEN, max_lines=3, placeholder=" ..."))
    return out / PAGE


def sections(frame: Frame, sweeps: Sequence[Sweep], runs: Path, warnings: list[str]) -> list[Section]:
    """All of them; `warnings` is what `frame.warn` adds to, and has a section of its own.

    The paper's tables are there once one of the sweeps of recipes/paper/ has been run.
    """
    facts = {(sweep, task): of for sweep in sweeps for task in sweep.tasks if (of := facts_of(sweep, task))}

    def arms(sweep: Sweep) -> list[Part]:
        """For each task to remember: what is left of it in each arm, and each arm against the first, fact by fact."""
        made: list[Part | None] = []
        for task in sweep.tasks:
            if not (ranked := sweep.ranked(task)).empty:
                of = facts.get((sweep, task))
                later = {arm: of.later(arm) for arm in ranked["label"]} if of else {}
                table = retention.arms(sweep, task, {LATER_FACTS: later}, [LATER_NOTE])
                made += [figures.arms(sweep, task), table, retention.differences(sweep, task)]
        return [part for part in made if part]

    def fact_by_fact(sweep: Sweep) -> list[Part]:
        return [part for (of, _), one in facts.items() if of is sweep for part in (one.table(), one.explorer())]

    made = [
        Section("answer", "What was retained", _each(sweeps, _answer)),
        Section("matrix", "Recall after each stage", _each(sweeps, lambda sweep: [retention.matrix(sweep)])),
        Section("arms", "Arms compared", _each(sweeps, arms)),
        Section("curves", "Retention curves", _each(sweeps, lambda sweep: [figures.curves(sweep)])),
        Section("facts", "Facts kept and lost", _each(sweeps, fact_by_fact)),
        Section("probes", "Probes", _each(sweeps, probes)),
        Section("paper", "The paper beside ours", paper.section(frame)),
        Section("losses", "Training losses", _each(sweeps, lambda sweep: [figures.losses(sweep)])),
        Section("settings", "Data and settings", _each(sweeps, settings.settings)),
        Section("rerun", "How to run it again", _each(sweeps, lambda sweep: settings.rerun(sweep, runs))),
    ]
    for sweep in sweeps:
        warnings += [f"{sweep.title}, {line}" if len(sweeps) > 1 else line for line in words.notes(sweep)]
    shown: list[Part] = [Words(warnings, "warnings")] if warnings else [Words(["None."])]
    made.insert(-1, Section("warnings", "Warnings", shown))
    return [section for section in made if section.parts]


def _each(sweeps: Sequence[Sweep], make: Callable[[Sweep], Sequence[Part | None]]) -> list[Part]:
    """The parts of every sweep, each sweep under its title; one without parts has no title."""
    made: list[Part] = []
    for sweep in sweeps:
        if of_sweep := [part for part in make(sweep) if part]:
            if len(sweeps) == 1:
                return [Heading(part.text, 3) if isinstance(part, Heading) else part for part in of_sweep]
            made += [Heading(sweep.title, 3), *of_sweep]
    return made


def _answer(sweep: Sweep) -> list[Part]:
    made = [part for head, more in words.answer(sweep) for part in (Words([head], "answer"), Words(more, "list"))]
    made.append(Words(words.known_before(sweep.frame.results(Known())), "list"))
    return [part for part in made if part.lines]


def render(made: Sequence[Section], title: str, where: str, warnings: int) -> str:
    """The page; all that comes from data is escaped by Jinja, and a policy in the page lets no script run but ours.

    Ours loads DataTables, which itables brings along, from a text in the page; that shows facts as text, never as HTML.
    """
    environment = parts.template_environment()
    environment.filters |= {"kind": lambda part: type(part).__name__.lower(), "packed": _packed}
    environment.filters |= {"as_text": parts.as_text, "kinds": parts.kinds}
    script, look = ((files("remix_toolkit") / "report" / name).read_text("utf-8") for name in ("page.js", "page.css"))
    library = files("itables") / "html"
    return environment.get_template("page.html.jinja").render(
        title=title,
        where=where,
        sections=made,
        warnings=warnings,
        script=script,
        look=look,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        library={kind: (library / f"dt_bundle.{kind}").read_text("utf-8") for kind in ("js", "css")},
        version=__version__,
    )


def _packed(content: str | Sequence[Sequence[str | int]]) -> str:
    """A text, or rows as JSON in which control characters can be seen, compressed, as base64."""
    if not isinstance(content, str):
        rows = [[cell.translate(SEEN) if isinstance(cell, str) else cell for cell in row] for row in content]
        content = json.dumps(rows)
    return base64.b64encode(gzip.compress(content.encode(), 6, mtime=0)).decode()


def _write_files(made: Sequence[Part], out: Path) -> None:
    """Write the files of figures and tables, each under a safe name of its own, and draw the figures for the page."""
    used: set[tuple[str, str]] = set()
    for part in made:
        if not isinstance(part, Figure | Table | Explorer):
            continue
        folder, base = "figures" if isinstance(part, Figure) else "tables", slug(part.name)
        names = (base if number == 1 else f"{base}-{number}" for number in count(1))
        part.name = next(name for name in names if (folder, name.lower()) not in used)
        used.add((folder, part.name.lower()))
        file = out / folder / part.name
        if isinstance(part, Figure):
            drawn = figures.rendered(part.draw, ["png", "pdf", "svg"])
            part.address = f"data:image/svg+xml;base64,{base64.b64encode(drawn.pop('svg')).decode()}"
            for ending, content in drawn.items():
                _save(file.with_name(f"{part.name}.{ending}"), content)
        elif isinstance(part, Table):
            for ending, write in WRITERS.items():
                _save(file.with_name(f"{part.name}.{ending}"), write(part).encode())
        else:
            _save(file.with_name(f"{part.name}.csv"), pa.Table.from_pandas(part.answers(), preserve_index=False))


def _save(file: Path, content: bytes | pa.Table) -> None:
    """Write bytes, or a table as CSV, in one step: a reader sees the old file or the new one."""
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("wb") as stream:
        if isinstance(content, bytes):
            stream.write(content)
        else:
            csv.write_csv(content, stream)
    partial.replace(file)
