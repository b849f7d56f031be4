"""The paper beside ours: its tables and figures as it lays them out, with our means over seeds in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from remix_toolkit.report import tables as listing
from remix_toolkit.report.paper_claims import Claim, claims
from remix_toolkit.report.paper_layout import (
    Entry,
    Found,
    Setting,
    View,
    average,
    comparable,
    find,
    over_seeds,
    paper,
    view,
)
from remix_toolkit.report.parts import Heading, Part, Warn, Words
from remix_toolkit.report.retention import premise
from remix_toolkit.report.seeds import Known, paired
from remix_toolkit.report.tables import slug

__all__ = ["Cell", "Claim", "Row", "Table", "claims", "section", "shown", "tables"]

EMPTY, UNREADABLE = "[ ]", "?"
EDITED = "The paper's profile, and no override that changes it; whether a recipe's file was edited is not looked at."


@dataclass(frozen=True)
class Cell:
    """Recall of D_A after one D_B, in percent: ours over seeds as `seeds.aggregate` has it, and the paper's.

    `mean` is None where nothing is measured; `sd` too under one seed. `paper` is None where the paper prints no number,
    or where its number is not comparable; "?" is printed, but unreadable in our copy.
    """

    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    seeds: tuple[int, ...] = ()
    paper: float | Literal["?"] | None = None


@dataclass(frozen=True)
class Row:
    """One D_A and one arm; `cells` in the order of the table's columns. Under `tiny`, names are tiny's own."""

    fact: str
    arm: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper under one profile; `changed` are overrides that make the runs other than its.

    `comparable`: profile and overrides are the paper's, and its numbers stand in the cells; an edit of the sweep's file
    is not seen. `averages` says of which columns an average is; it is only taken where all of them are measured, over
    the seeds that all of them have.
    """

    name: str
    title: str
    profile: str
    changed: tuple[str, ...]
    comparable: bool
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    averages: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def measured(self) -> int:
        """How many cells have a value of ours."""
        return sum(cell.n > 0 for row in self.rows for cell in row.cells)


def tables(entries: Sequence[Entry]) -> list[Table]:
    """Every table and figure of the paper, filled with `store.entries` as far as they go.

    Each stands there under the paper's own profile, run or not, and once more under any other profile or changed
    settings that it was run with; those have none of the paper's values.
    """
    found = find(entries)
    made = []
    for name, layout in paper().tables.items():
        own: list[Setting] = [(profile,) for profile in layout.profile]
        settings = dict.fromkeys([*own, *(setting for table, setting in found if table == name)])
        made += [_table(name, setting, found.get((name, setting), Found({}, {}))) for setting in settings]
    return made


def _table(name: str, setting: Setting, found: Found) -> Table:
    layout, seen, beside = paper().tables[name], view(name, setting[0]), comparable(name, setting)
    averages = {f"avg_{group}": tuple(columns) for group, columns in seen.groups.items() if f"avg_{group}" in seen.show}
    rows = []
    for fact, shown_fact in seen.rows.items():
        for arm in seen.arms:
            printed = layout.printed.get(fact, {}).get(arm) if beside else None
            cells = []
            for at, column in enumerate(seen.show):
                mine = average(found.cells, fact, arm, averages.get(column, (column,)))
                cells.append(_cell(mine, printed[at] if printed else "-"))
            rows.append(Row(shown_fact, seen.named(arm), tuple(cells)))
    notes = [f"{column}: the mean of {', '.join(columns)}." for column, columns in averages.items()]
    if beside:
        notes += [EDITED, *layout.notes]
    else:
        which = f"profile {setting[0]}" + (f" with {', '.join(setting[1:])}" if setting[1:] else "")
        notes.append(
            f"This is {which}, not the paper's setting: the paper's values are not comparable, and are left out."
        )
    notes += _unlearned(found, seen)
    columns = tuple(seen.show)
    return Table(name, layout.title, setting[0], setting[1:], beside, columns, tuple(rows), averages, tuple(notes))


def _cell(mine: Sequence[Entry], printed: float | str | None) -> Cell:
    beside: float | Literal["?"] | None = "?" if printed is None else None if isinstance(printed, str) else printed
    row = over_seeds(mine)
    if row is None:
        return Cell(paper=beside)
    return Cell(row["mean"], row["sd"], row["low"], row["high"], row["n"], tuple(row["seeds"]), beside)


def _unlearned(found: Found, seen: View) -> list[str]:
    """A line per D_A, arm and stage that does not know its own facts: nothing below it can be read as forgetting."""
    low: dict[tuple[str, str, str], list[float]] = {}
    for (fact, arm, stage, _), recall in found.unlearned.items():
        low.setdefault((fact, arm, stage), []).append(recall)
    return [
        f"{seen.rows[fact]}, {seen.named(arm)}: {premise(stage, f'{min(recalls):.1f}%')}."
        for (fact, arm, stage), recalls in low.items()
    ]


# --- in the report -----------------------------------------------------------------------------------------------


def section(entries: Sequence[Entry], known: Known, warn: Warn) -> list[Part]:
    """The paper's tables and figures that were run, even in part, and what each of its claims came to; none if none.

    A file that cannot be read is handed to `warn`.
    """
    made = tables(entries)
    if not (run := [table for table in made if table.measured]):
        return []
    rest = sorted({table.name for table in made} - {table.name for table in run})
    parts: list[Part] = [shown(table) for table in run]
    parts += [Words([f"Nothing of these is run yet: {', '.join(rest)}."])] if rest else []
    parts.append(Heading("What the paper claims", 3))
    for (profile, changed), judged in _by_setting(claims(entries, partial(paired, known=known), warn)).items():
        where = " with ".join(filter(None, [profile, ", ".join(changed)]))
        rows = [(one.says, one.where, one.verdict, one.why) for one in judged]
        name, caption = slug("claims", profile, *changed), f"The paper's claims on {where}"
        notes = [] if judged[0].comparable else ["Not the paper's setting: a verdict is on this model alone."]
        columns = ("claim", "section", "verdict", "why")
        parts.append(listing.Table(name, caption, columns, rows, 1, notes, text=(1, 2, 3)))
    return parts


def _by_setting(judged: Sequence[Claim]) -> dict[tuple[str, tuple[str, ...]], list[Claim]]:
    found: dict[tuple[str, tuple[str, ...]], list[Claim]] = {}
    for claim in judged:
        found.setdefault((claim.profile, claim.changed), []).append(claim)
    return found


def shown(table: Table) -> listing.Table:
    """The table as the paper lays it out, an arm's own values above the paper's; `[ ]` is not run, `?` unreadable."""
    head, *lines = _grid(table)
    name = slug(table.name, table.profile, *table.changed)
    cells = [
        {
            "D_A": row.fact,
            "arm": row.arm,
            "D_B": column,
            **{key: getattr(cell, key) for key in ("mean", "sd", "low", "high", "n", "paper")},
            "seeds": " ".join(map(str, cell.seeds)),
        }
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
    ]
    return listing.Table(name, _caption(table), head, lines, 3, _notes(table), cells)


def _grid(table: Table) -> list[list[str]]:
    """The head, and for each arm a line of ours and, where the paper's values stand beside them, one of the paper's."""
    lines = [["D_A", "arm", "", *table.columns]]
    for row in table.rows:
        lines.append([row.fact, row.arm, "ours", *(_ours(cell) for cell in row.cells)])
        if table.comparable and any(cell.paper is not None for cell in row.cells):
            printed = ["-" if cell.paper is None else str(cell.paper) for cell in row.cells]
            lines.append(["", "", "paper", *printed])
    return lines


def _ours(cell: Cell) -> str:
    if cell.mean is None:
        return EMPTY
    interval = "" if cell.low is None else f" [{cell.low:.1f}, {cell.high:.1f}]"
    return f"{cell.mean:.1f}{interval} n={cell.n}"


def _caption(table: Table) -> str:
    changed = f" with {', '.join(table.changed)}" if table.changed else ""
    number = table.name.replace("table", "Table ").replace("figure", "Figure ")
    return f"{number}: {table.title} ({table.profile}{changed})"


def _notes(table: Table) -> list[str]:
    what = "Percent of D_A's facts after the last stage: mean [95% interval] of n seeds (n=1: over its facts alone)"
    return [f"{what}; {EMPTY} is not run, {UNREADABLE} is printed but unreadable in our copy.", *table.notes]
