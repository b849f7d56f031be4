"""`remix report`: a store of runs as one page that needs nothing else, its figures and tables beside it as files."""

import base64
import errno
import hashlib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from remix_toolkit import __version__
from remix_toolkit.console import info, warn
from remix_toolkit.errors import BadInput
from remix_toolkit.report.facts import Facts
from remix_toolkit.report.group import groups
from remix_toolkit.report.names import select_runs
from remix_toolkit.report.parts import Figure, Section, Words, template_environment
from remix_toolkit.report.plot import saved, settle, svgs
from remix_toolkit.report.sections import sections
from remix_toolkit.report.seeds import expected
from remix_toolkit.report.tables import Table, as_csv, as_latex, as_markdown, plain, slug
from remix_toolkit.report.verdicts import Answers

PAGE = "index.html"
SCREEN = 120  # characters of a line


@dataclass(frozen=True)
class Drawn:
    """A figure on the page: two pictures as addresses that hold them, and what is seen on them."""

    name: str
    caption: str
    alt: str
    light: str
    dark: str


def write_report(runs: Path, out: Path, recipe: str | None) -> Path | None:
    """Write the report of a store, or of one recipe or sweep in it, into a folder; the page's path.

    What the page says first is printed too, in three lines at most. Files of the report's own names are overwritten,
    nothing else is touched. None where nothing is published yet. Raises BadInput where `runs` does not exist, the
    recipe is not in it, or the folder cannot be written to.
    """
    warnings: list[str] = []
    entries, records = select_runs(runs, recipe, warnings.append)
    for warning in warnings:
        warn(warning)
    if not entries:
        return None
    wanted = expected(records)
    measured = {(entry["recipe"], entry["arm"], entry["profile"]) for entry in entries}
    warnings += [
        f"{name} on {profile}, {arm}: nothing is measured yet"
        for name, arm, profile in wanted
        if (name, arm, profile) not in measured
    ]
    try:
        for folder in (out, out / "figures", out / "tables"):
            folder.mkdir(parents=True, exist_ok=True)
        sweeps = groups(entries, wanted, Answers())
        made = [_written(section, out) for section in named(sections(sweeps, runs, warnings))]
        recipes = list(dict.fromkeys(group.recipe for group in sweeps))
        title = sweeps[0].title if len(sweeps) == 1 else ", ".join(recipes)
        title = title if len(recipes) < 4 else f"{len(recipes)} recipes"
        page = out / PAGE
        _save(page, render(made, title, str(runs), len(warnings)).encode("utf-8", "backslashreplace"))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise BadInput(f"-o {error.filename or out}: cannot be written ({error.strerror})") from None
    answer = next(part.lines[0] for part in made[0].parts if isinstance(part, Words))
    info(textwrap.fill(plain(f"{sweeps[0].title}: {answer}"), SCREEN, max_lines=3, placeholder=" ..."))
    return page


def render(made: Sequence[Section], title: str, where: str, warnings: int) -> str:
    """The page; all that comes from data is escaped by Jinja, and a policy in the page lets no script run but ours."""
    environment = template_environment()
    environment.filters["kind"] = lambda part: type(part).__name__.lower()
    script, look = ((files("remix_toolkit") / "report" / name).read_text("utf-8") for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    facts = [part for section in made for part in section.parts if isinstance(part, Facts)]
    return environment.get_template("page.html.jinja").render(
        title=title,
        where=where,
        sections=made,
        facts=facts,
        warnings=warnings,
        script=script,
        look=look,
        digest=digest,
        version=__version__,
    )


def named(made: Sequence[Section]) -> list[Section]:
    """The sections, each file's name made safe and its own."""
    used: set[tuple[str, str]] = set()

    def renamed(part: Any) -> Any:
        if not isinstance(part, Figure | Table | Facts):
            return part
        kind = "figure" if isinstance(part, Figure) else type(part).__name__
        base = name = slug(part.name)
        number = 2
        while (kind, name.lower()) in used:
            name, number = f"{base}-{number}", number + 1
        used.add((kind, name.lower()))
        return replace(part, name=name)

    return [replace(section, parts=[renamed(part) for part in section.parts]) for section in made]


def _written(section: Section, out: Path) -> Section:
    """The section with its files written and its figures drawn."""
    parts: list[Any] = []
    for part in section.parts:
        if isinstance(part, Figure):
            parts.append(_drawn(part, out / "figures"))
            continue
        if isinstance(part, Table):
            for ending, write in (("csv", as_csv), ("md", as_markdown), ("tex", as_latex)):
                _save(out / "tables" / f"{part.name}.{ending}", write(part).encode("utf-8", "backslashreplace"))
        if isinstance(part, Facts):
            with (out / "tables" / f"{part.name}-all.csv").open(
                "w", encoding="utf-8", errors="backslashreplace", newline=""
            ) as stream:
                part.write(stream)
        parts.append(part)
    return replace(section, parts=parts)


def _drawn(part: Figure, folder: Path) -> Drawn:
    drawing = part.draw()
    settle(drawing)
    for ending in ("png", "pdf"):
        _save(folder / f"{part.name}.{ending}", saved(drawing, ending))
    light, dark = (f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}" for svg in svgs(drawing))
    return Drawn(part.name, part.caption, part.alt, light, dark)


def _save(file: Path, content: bytes) -> None:
    """In one step: a reader sees the old file or the new one."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(content)
    partial.replace(file)
