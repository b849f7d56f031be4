"""`remix report`: a store of runs as one page that needs nothing else, its figures and tables beside it as files."""

import base64
import gzip
import hashlib
import json
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from remix_toolkit import __version__
from remix_toolkit.console import info, warn
from remix_toolkit.errors import LATER, BadInput
from remix_toolkit.report.figures import rendered
from remix_toolkit.report.frame import load, path_text
from remix_toolkit.report.parts import Explorer, Figure, Section, Table, Words, template_environment
from remix_toolkit.report.sections import sections
from remix_toolkit.report.summary import slug, sweeps
from remix_toolkit.report.tables import as_csv, as_latex, as_markdown, as_text, kinds, plain
from remix_toolkit.report.words import unmeasured

PAGE = "index.html"
SCREEN = 120  # characters of a line
# Control characters, and what can be seen in their place.
SEEN = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421, 0x2028: 0x2424, 0x2029: 0x2424}


def write_report(runs: Path, out: Path, recipe: str | None) -> Path | None:
    """Write the report of a store, or of one recipe or sweep in it, into a folder; the page's path.

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
    warnings += unmeasured(frame)
    all_sweeps = sorted(sweeps(frame), key=lambda sweep: len(sweep.stages) == 1)  # of one stage, little can be said
    try:
        for folder in (out, out / "figures", out / "tables"):
            folder.mkdir(parents=True, exist_ok=True)
        made = named(sections(frame, all_sweeps, Path(path_text(runs)), warnings))
        made = [_written(section, out) for section in made]
        recipes = list(dict.fromkeys(sweep.recipe for sweep in all_sweeps))
        title = all_sweeps[0].title if len(all_sweeps) == 1 else ", ".join(recipes)
        title = title if len(recipes) < 4 else f"{len(recipes)} recipes"
        page = out / PAGE
        _save(page, render(made, title, path_text(runs), len(warnings)).encode())
    except OSError as error:
        if error.errno in LATER:
            raise
        raise BadInput(f"-o {error.filename or out}: cannot be written ({error.strerror})") from None
    answer = next(part.lines[0] for part in made[0].parts if isinstance(part, Words))
    info(textwrap.fill(plain(f"{all_sweeps[0].title}: {answer}"), SCREEN, max_lines=3, placeholder=" ..."))
    return page


def render(made: Sequence[Section], title: str, where: str, warnings: int) -> str:
    """The page; all that comes from data is escaped by Jinja, and a policy in the page lets no script run but ours.

    Ours loads DataTables, which itables brings along, from a text in the page; that shows facts as text, never as HTML.
    """
    environment = template_environment()
    environment.filters |= {"kind": lambda part: type(part).__name__.lower(), "as_text": as_text, "kinds": kinds}
    environment.filters |= {"packed": _packed}
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


def named(made: Sequence[Section]) -> list[Section]:
    """The sections, each file's name made safe and its own."""
    used: set[tuple[bool, str]] = set()

    def renamed(part: Any) -> Any:
        if not isinstance(part, Figure | Table | Explorer):
            return part
        base = name = slug(part.name)
        number = 2
        while (isinstance(part, Figure), name.lower()) in used:
            name, number = f"{base}-{number}", number + 1
        used.add((isinstance(part, Figure), name.lower()))
        return replace(part, name=name)

    return [replace(section, parts=[renamed(part) for part in section.parts]) for section in made]


def _written(section: Section, out: Path) -> Section:
    """The section with its files written and its figures drawn."""
    parts: list[Any] = []
    for part in section.parts:
        if isinstance(part, Figure):
            drawn = rendered(part.draw, ["png", "pdf", "svg"])
            for ending in ("png", "pdf"):
                _save(out / "figures" / f"{part.name}.{ending}", drawn[ending])
            address = f"data:image/svg+xml;base64,{base64.b64encode(drawn['svg']).decode()}"
            part = replace(part, address=address)
        if isinstance(part, Table):
            for ending, write in (("csv", as_csv), ("md", as_markdown), ("tex", as_latex)):
                _save(out / "tables" / f"{part.name}.{ending}", write(part).encode())
        if isinstance(part, Explorer):
            _save(out / "tables" / f"{part.name}.csv", pa.Table.from_pandas(part.answers(), preserve_index=False))
        parts.append(part)
    return replace(section, parts=parts)


def _save(file: Path, content: bytes | pa.Table) -> None:
    """Write bytes, or a table as CSV, in one step: a reader sees the old file or the new one."""
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("wb") as stream:
        if isinstance(content, bytes):
            stream.write(content)
        else:
            csv.write_csv(content, stream)
    partial.replace(file)
