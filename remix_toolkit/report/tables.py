"""A table of the report, and the same as CSV, Markdown and LaTeX."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
LATEX = {
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


@dataclass(frozen=True)
class Table:
    """A table as it is shown: `rows` of text under `columns`, the first `heads` of them naming the row.

    `name` is its files' name without the ending. `data` is what the CSV holds in place of the shown text: numbers by
    themselves. `shades` has, for each cell, a recall in percent to shade it by, or None.
    """

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    heads: int = 1
    notes: Sequence[str] = ()
    data: Sequence[Mapping[str, Any]] | None = None
    shades: Sequence[Sequence[float | None]] | None = None
    text: tuple[int, ...] = ()  # columns of words, which stand on the left
    code: tuple[int, ...] = ()  # columns of commands and keys


def as_csv(table: Table) -> str:
    """The numbers by themselves, where the table has them; else what is shown."""
    out = io.StringIO()
    if table.data:
        writer = csv.DictWriter(out, list(table.data[0]))
        writer.writeheader()
        writer.writerows(table.data)
    else:
        csv.writer(out).writerows([table.columns, *table.rows])
    return out.getvalue()


def as_markdown(table: Table) -> str:
    """A Markdown table under its caption; characters with a meaning there are escaped."""
    rule = ["---" if i < table.heads or i in (*table.text, *table.code) else "---:" for i in range(len(table.columns))]
    lines = [
        [escape_markdown(cell) for cell in table.columns],
        rule,
        *([escape_markdown(cell) for cell in r] for r in table.rows),
    ]
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "".join(f"\n{escape_markdown(note)}\n" for note in table.notes)
    return f"**{escape_markdown(table.caption)}**\n\n{shown}\n{notes}"


def as_latex(table: Table) -> str:
    """A LaTeX table for `booktabs`, escaped."""
    align = "".join(
        "l" if i < table.heads or i in (*table.text, *table.code) else "r" for i in range(len(table.columns))
    )
    lines = [" & ".join(map(_latex, line)) + r" \\" for line in (table.columns, *table.rows)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(' '.join([f'{table.caption}.', *table.notes]))}}}",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def slug(*names: str) -> str:
    """Part of a file's name: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(filter(None, names))).strip("-.")[:80] or "unnamed"


def plain(text: object) -> str:
    """Any text on one line, without what a terminal would obey or a reader not see."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def escape_markdown(text: object) -> str:
    """Any text, shown as it is, in one line of Markdown or one cell of a table."""
    return MARKDOWN.sub(r"\\\1", plain(text))


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in plain(text))
