"""What a section of the report consists of; a table as text, for the page, and as CSV, Markdown and LaTeX."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure as Drawing

MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        "[": "{[}",  # after a line's end it would be a length
        "*": "{*}",  # and this would be that line's end's
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "−": r"$-$",
    }
)


@dataclass
class Heading:
    """A sweep's name (level 3), or what follows under it (4)."""

    text: str
    level: int = 4


@dataclass
class Words:
    """Sentences: one paragraph, or a list."""

    lines: Sequence[str]
    kind: str = "text"  # or "answer", "list", "warnings"


@dataclass
class Figure:
    """A figure, its file's name without the ending, and what is seen on it, in numbers, if no table follows it."""

    name: str
    draw: Callable[[], "Drawing"]  # only when it is written: a store has many
    caption: str
    alt: str = "The numbers are in the table that follows."
    address: str = ""  # once it is drawn, an address that holds the picture


@dataclass
class Listing:
    """A file, folded away under its title."""

    title: str
    text: str


@dataclass
class Table:
    """A table, its files' name without the ending, and its caption.

    `shown` is what is read, on the page, in Markdown and in LaTeX: any values, a dash where one is missing. The named
    levels of its index are the rows' heads; an index without a name is not shown. `numbers` is what the CSV holds in
    place of that. `shades` has the index and some columns of `shown`: the recall in percent to shade a cell by.
    """

    name: str
    caption: str
    shown: pd.DataFrame
    numbers: pd.DataFrame | None = None
    notes: Sequence[str] = ()
    shades: pd.DataFrame | None = None
    words: tuple[str, ...] = ()  # columns of words, which stand on the left
    code: tuple[str, ...] = ()  # likewise, of commands and keys


@dataclass
class Explorer:
    """A long table to be searched and sorted on the page, which no reader sees all of, and what its CSV holds."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | int]]
    answers: Callable[[], pd.DataFrame]


Part = Heading | Words | Figure | Listing | Table | Explorer


@dataclass
class Section:
    """One of the report's sections, with its anchor."""

    id: str
    title: str
    parts: list[Part] = field(default_factory=list)


def number(value: Any, style: str = ".1f") -> str:
    """A value as text, one with decimals in this style, or a dash where there is none."""
    if value is None or value is pd.NA or value != value:
        return "-"
    return format(value, style) if isinstance(value, float) else str(value)


def as_text(table: Table) -> pd.DataFrame:
    """All that is shown of a table as text, the rows' heads as its first columns."""
    return table.shown.reset_index(drop=not _heads(table), allow_duplicates=True).astype(object).map(number)


def _heads(table: Table) -> int:
    """How many of the columns of `as_text` name a row."""
    return sum(name is not None for name in table.shown.index.names)


def kinds(table: Table) -> list[str]:
    """Of each column of `as_text`: `head`, `words`, `code` or `number`. All but numbers stand on the left."""
    special = dict.fromkeys(table.words, "words") | dict.fromkeys(table.code, "code")
    return ["head"] * _heads(table) + [special.get(name, "number") for name in table.shown.columns]


def as_csv(table: Table) -> str:
    """The numbers by themselves, where the table has them; else what is shown."""
    numbers = as_text(table) if table.numbers is None else table.numbers
    joined = numbers.map(lambda cell: ", ".join(map(str, cell)) if isinstance(cell, list) else cell)
    return str(joined.to_csv(index=False))


def as_markdown(table: Table) -> str:
    """A Markdown table under its caption."""
    text = as_text(table)
    rule = ["---:" if kind == "number" else "---" for kind in kinds(table)]
    rows = [[escape_markdown(cell) for cell in row] for row in (text.columns, *text.to_numpy())]
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]
    notes = [f"\n{escape_markdown(note)}" for note in table.notes]
    return "\n".join([f"**{escape_markdown(table.caption)}**", "", *lines, *notes, ""])


def as_latex(table: Table) -> str:
    """A LaTeX table for `booktabs`."""
    align = "".join("r" if kind == "number" else "l" for kind in kinds(table))
    caption = escape_latex(" ".join([f"{table.caption}.", *table.notes]))
    style = as_text(table).map(escape_latex).rename(columns=escape_latex).style.hide(axis="index")
    return str(style.to_latex(caption=caption, column_format=align, position_float="centering", hrules=True))


def plain(text: object) -> str:
    """Any text on one line, without what a terminal would obey or a reader not see."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def escape_markdown(text: object) -> str:
    """Any text, shown as it is, in one line of Markdown or one cell of a table."""
    return MARKDOWN.sub(r"\\\1", plain(text))


def escape_latex(text: object) -> str:
    """Any text, shown as it is, in one line of LaTeX or one cell; pandas would leave `<`, `[` and `*` as they are."""
    return plain(text).translate(LATEX)


def template_environment(**options: Any) -> "Environment":
    """Jinja for this folder's templates: what comes from data is escaped, and a name without a value is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("remix_toolkit", "report")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options
    )
