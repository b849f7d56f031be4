"""A table as text, for the page, and as CSV, Markdown and LaTeX."""

import re

import pandas as pd

from remix_toolkit.report.parts import Table, number

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


def as_text(table: Table) -> pd.DataFrame:
    """All that is shown of a table as text, the rows' heads as its first columns."""
    return table.shown.reset_index(drop=not heads(table), allow_duplicates=True).astype(object).map(number)


def heads(table: Table) -> int:
    """How many of the columns of `as_text` name a row."""
    return sum(name is not None for name in table.shown.index.names)


def kinds(table: Table) -> list[str]:
    """Of each column of `as_text`: `head`, `words`, `code` or `number`. All but numbers stand on the left."""
    special = dict.fromkeys(table.words, "words") | dict.fromkeys(table.code, "code")
    return ["head"] * heads(table) + [special.get(name, "number") for name in table.shown.columns]


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
