"""What a section of the report consists of, and how its templates are filled in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Heading:
    """A sweep's name (level 3), or what follows under it (4)."""

    text: str
    level: int = 4


@dataclass(frozen=True)
class Words:
    """Sentences: one paragraph, or a list."""

    lines: Sequence[str]
    kind: str = "text"  # or "answer", "list", "warnings"


@dataclass(frozen=True)
class Figure:
    """A figure, its file's name without the ending, and what is seen on it, in numbers, if no table follows it."""

    name: str
    draw: Callable[[], "Drawing"]  # only when it is written: a store has many
    caption: str
    alt: str = "The numbers are in the table that follows."
    address: str = ""  # once it is drawn, an address that holds the picture


@dataclass(frozen=True)
class Listing:
    """A file, folded away under its title."""

    title: str
    text: str


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


def template_environment(**options: Any) -> "Environment":
    """Jinja for this folder's templates: what comes from data is escaped, and a name without a value is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("remix_toolkit", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
