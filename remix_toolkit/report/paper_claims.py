"""A verdict on each of the paper's claims, from our runs.

The rule, for every comparison that a claim consists of: the difference of two means and its 95% interval. If the whole
interval lies above what is claimed (0 points, where the paper says no number), the comparison holds; if the whole of it
lies at or below, it does not; if it lies on both sides, the runs do not decide. A claim holds if all its comparisons
hold, and does not if one of them does not. Of several comparisons, none is corrected for the others: where all of them
have to hold, there is nothing to correct (Berger, Technometrics 24, 1982).

The interval is `seeds.paired`'s, for other seeds and facts; of averages, the mean of the intervals' ends over what is
averaged, which is about as wide as the average's own or wider. Where a recall.jsonl is gone, and of the logit lens, it
is over seeds alone, `stats.seeds_interval`. One seed decides nothing: it has luck of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.lens import Lens
from remix_toolkit.report.paper_layout import At, Check, Entry, Said, Setting, Side, find, paper, view
from remix_toolkit.report.seeds import paired
from remix_toolkit.report.stats import seeds_interval

Verdict = Literal["holds", "does not hold", "not enough data"]
Compare = Callable[[Sequence[Entry], str, str, str, str], dict[str, Any] | None]
Warn = Callable[[str], object]
Cells = Mapping[str, Mapping[At, Sequence[Entry]]]  # table -> its cells under one setting
FEW = 4  # of what is missing or decides, as many are named; the parts have them all


@dataclass(frozen=True)
class Part:
    """One comparison: `difference` (more - less) and its interval, in points (of the lens: layers); None if missing."""

    about: str
    verdict: Verdict
    difference: float | None
    low: float | None
    high: float | None
    seeds: int
    why: str


@dataclass(frozen=True)
class Claim:
    """What the paper says, and whether it is so on one profile; `changed`, `comparable`: as in `paper.Table`."""

    id: str
    says: str
    where: str
    note: str
    profile: str
    changed: tuple[str, ...]
    comparable: bool
    verdict: Verdict
    why: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class _Side:
    """Cells of one table and D_A: every arm, averaged over the columns (D_B)."""

    table: str
    row: str
    arms: list[str]
    columns: list[str]

    def cell(self, arm: str, column: str) -> tuple[str, At]:
        return self.table, (self.row, arm, column)


@dataclass(frozen=True)
class _Comparison:
    """`more` over `less`, arm by arm; and column by column where both have the same, else each with each."""

    about: str
    more: _Side
    less: _Side
    check: Check

    def pairs(self) -> list[tuple[tuple[str, At], tuple[str, At]]]:
        a, b = self.more.columns, self.less.columns
        columns = list(zip(a, b, strict=True)) if a == b else list(product(a, b))
        arms = zip(self.more.arms, self.less.arms, strict=True)
        return [(self.more.cell(m, x), self.less.cell(n, y)) for m, n in arms for x, y in columns]


def _raise(text: str) -> object:
    raise BadInput(text)


def claims(entries: Sequence[Entry], compare: Compare = paired, warn: Warn = _raise) -> list[Claim]:
    """Every claim of the paper, judged by `store.entries` under each profile, the paper's own first.

    On `tiny`, or with settings changed, it is a verdict on that model: `comparable` is False, and `why` says so.
    `compare` is `seeds.paired`, or that with another way to read recall.jsonl. One that is unreadable, or a
    lens.json, is handed to `warn` and counts as missing; by itself that raises BadInput.
    """
    found = find(entries)
    judged = []
    for said in paper().claims:
        tables = {side for check in said.checks for side in (check.table, check.more.table, check.less.table) if side}
        own: Setting = (paper().tables[said.checks[0].table].profile[0],)
        for setting in dict.fromkeys([own, *(at for table, at in found if table in tables)]):
            cells = {table: found[table, setting].cells for table in tables if (table, setting) in found}
            weak = any(found[table, setting].unlearned for table in cells)
            compared = _comparisons(said, setting[0])
            judged.append(
                _judged(said, setting, [_ours(one, cells, setting[0], compare, warn) for one in compared], weak)
            )
    return judged


# --- what is compared --------------------------------------------------------------------------------------------


def _comparisons(said: Said, profile: str) -> Iterator[_Comparison | Part]:
    """A claim's comparisons under a profile; a part without data where it has no such row, arm or D_B."""
    for check in said.checks:
        seen = view(check.table, profile)
        rows = [row for row in check.rows if row in seen.rows]
        each = _columns(check.each, check, profile) if check.each else [None]
        if not rows or not each:
            yield _lacking(check.table, f"{profile} has no such {'D_B' if rows else 'D_A'}")
        for row, column in product(rows, each):
            more, less = (_side(side, check, row, column, profile) for side in (check.more, check.less))
            about = _about(check, more, less, column, profile)
            lacks = [arm for side in (more, less) for arm in side.arms if arm not in view(side.table, profile).arms]
            if lacks or not more.columns or not less.columns:
                yield _lacking(about, f"{profile} has no " + (f"arm for {lacks[0]}" if lacks else "such D_B"))
            else:
                yield _Comparison(about, more, less, check)


def _side(side: Side, check: Check, row: str, column: str | None, profile: str) -> _Side:
    arm, after = side.arm or check.arm or "", side.after or column or check.after or ""
    columns = [column] if column and after == column else _columns(after, check, profile)
    return _Side(side.table or check.table, row, [arm] if isinstance(arm, str) else arm, columns)


def _about(check: Check, more: _Side, less: _Side, column: str | None, profile: str) -> str:
    """In words: what the sides share is said once."""
    afters = [side.after or column or check.after or "" for side in (check.more, check.less)]
    places = [after if isinstance(after, str) else ", ".join(after) for after in afters]
    named = [[view(side.table, profile).named(arm) for arm in side.arms] for side in (more, less)]
    arms = [" and ".join(dict.fromkeys(names)) for names in named]
    row = view(check.table, profile).rows[more.row]
    what = "" if check.value == "recall" else f" {check.value},"
    if places[0] == places[1]:
        return f"{row},{what} after {places[0]}: {arms[0]} over {arms[1]}"
    if arms[0] == arms[1]:
        return f"{row},{what} {arms[0]}: after {places[0]} over {places[1]}"
    return f"{row}:{what} {arms[0]} after {places[0]} over {arms[1]} after {places[1]}"


def _columns(after: str | list[str], check: Check, profile: str) -> list[str]:
    """The columns of a group, or those named; of two tables, those that both have."""
    tables = (check.table, check.more.table or check.table, check.less.table or check.table)
    groups = [view(table, profile).groups for table in tables]
    wanted = groups[0][after] if isinstance(after, str) else after
    return [column for column in wanted if all(column in group["all"] for group in groups)]


def _lacking(about: str, why: str) -> Part:
    return Part(about, "not enough data", None, None, None, 0, why)


# --- by our runs -------------------------------------------------------------------------------------------------


def _ours(one: _Comparison | Part, cells: Cells, profile: str, compare: Compare, warn: Warn) -> Part:
    if isinstance(one, Part):
        return one
    pairs = one.pairs()
    mine = {
        (table, at): _valued(cells.get(table, {}).get(at, ()), one.check, warn) for pair in pairs for table, at in pair
    }
    if missing := [cell for cell, there in mine.items() if not there]:
        return _lacking(one.about, f"missing: {_missing(missing, profile)}")
    results = [_difference(mine[more], mine[less], one.check, compare, warn) for more, less in pairs]
    known = [result for result in results if result]
    if len(known) < len(results):
        return _lacking(one.about, f"no seed, or no fact, in common: {one.about}")
    difference, low, high = (sum(ends) / len(known) for ends in zip(*(result[:3] for result in known), strict=True))
    seeds = min(result[3] for result in known)
    means = [sum(_mean(mine[a], mine[b]) for a, b in two) / len(two) for two in (pairs, [(b, a) for a, b in pairs])]
    digits = f"{one.about}: {means[0]:.1f} against {means[1]:.1f}, {difference:+.1f}"
    if seeds == 1:
        why = f"{digits}; one seed says nothing of others"
        return Part(one.about, "not enough data", difference, None, None, seeds, why)
    digits += f" [{low:+.1f}, {high:+.1f}], {seeds} seeds"
    return _decided(one, digits, difference, low, high, seeds)


def _valued(entries: Sequence[Entry], check: Check, warn: Warn) -> list[Entry]:
    """The newest entry of each seed, with what the check is about as its `recall`; of the logit lens, if probed."""
    found = []
    for entry in {entry["seed"]: entry for entry in entries}.values():
        value = entry["recall"]
        if check.value != "recall":
            try:
                result = Lens().read(Path(entry["path"])).get(entry["list"])
            except BadInput as error:
                warn(f"{error}: left out of the paper's claims")
                continue
            value = getattr(result, check.value) if result else None
        if value is not None:
            found.append({**entry, "recall": value})
    return found


def _difference(
    more: list[Entry], less: list[Entry], check: Check, compare: Compare, warn: Warn
) -> tuple[float, float, float, int] | None:
    """Difference of two cells, its interval (NaN if one seed has none), and of how many seeds it is.

    None where the cells have no seed, or no fact, in common.
    """
    shared = {entry["seed"] for entry in more} & {entry["seed"] for entry in less}
    sides = {"less": less, "more": more}
    rows = [{**entry, "arm": arm, "stage": "", "task": ""} for arm, mine in sides.items() for entry in mine]
    rows = [{**entry, "recipe": ""} for entry in rows if entry["seed"] in shared]
    if check.value == "recall" and all((Path(row["path"]) / "recall.jsonl").exists() for row in rows):
        try:
            found = compare(rows, "less", "more", "", "")
            return (found["difference"], found["low"], found["high"], len(found["seeds"])) if found else None
        except BadInput as error:  # then as if it were gone: over seeds alone
            warn(str(error))
    known = {entry["seed"]: entry["recall"] for entry in less}
    gains = [entry["recall"] - known[entry["seed"]] for entry in more if entry["seed"] in shared]
    return (*seeds_interval(gains), len(gains)) if gains else None


def _mean(entries: list[Entry], beside: list[Entry]) -> float:
    """The mean over the seeds that another cell has too."""
    seeds = {entry["seed"] for entry in beside}
    return fmean(entry["recall"] for entry in entries if entry["seed"] in seeds)


def _missing(cells: Sequence[tuple[str, At]], profile: str) -> str:
    """Cells by table, D_A and arm, with the D_B of each."""
    by_arm: dict[str, list[str]] = {}
    for table, (row, arm, column) in cells:
        seen = view(table, profile)
        by_arm.setdefault(f"{table}, {seen.rows[row]}, {seen.named(arm)}", []).append(column)
    return "; ".join(f"{where} after {', '.join(columns)}" for where, columns in by_arm.items())


# --- verdicts ----------------------------------------------------------------------------------------------------


def _decided(one: _Comparison, digits: str, difference: float, low: float, high: float, seeds: int) -> Part:
    by = one.check.by
    above = low >= by if by else low > 0  # "at least 30 points" is reached at 30; more than nothing is not at 0
    below = high < by if by else high <= 0
    verdict: Verdict = "holds" if above else "does not hold" if below else "not enough data"
    undecided = "" if above or below else f"; the interval lies on both sides of {by:g}"
    claimed = f" (claimed: {by:g} or more)" if by else ""
    return Part(one.about, verdict, difference, low, high, seeds, digits + claimed + undecided)


def _judged(said: Said, setting: Setting, parts: Sequence[Part], weak: bool) -> Claim:
    verdicts = [part.verdict for part in parts]
    order: tuple[Verdict, ...] = ("does not hold", "not enough data", "holds")  # the first of them decides
    verdict = next(one for one in order if one in verdicts)
    deciding = [part for part in parts if part.verdict == verdict]
    how = "fail" if verdict == "does not hold" else "undecided"
    count = f"{len(deciding)} of {len(parts)} comparisons {how}: "
    if verdict == "holds":
        deciding.sort(key=lambda part: part.low or 0.0)
        count = f"all {len(parts)} comparisons, the weakest first: "
    named = list(dict.fromkeys(part.why for part in deciding))
    more = f"; and {len(named) - FEW} more" if len(named) > FEW else ""
    why = (count if len(parts) > 1 else "") + "; ".join(named[:FEW]) + more
    own = len(setting) == 1 and setting[0] in paper().tables[said.checks[0].table].profile
    if not own:
        why = f"On {', '.join(setting)}, which is not the paper's model and setting: {why}"
    if weak:
        why += ". Some stages know under 99% of their own facts (100% is the premise)"
    about = (said.id, said.says, said.where, said.note, setting[0], setting[1:])
    return Claim(*about, own, verdict, why + ".", tuple(parts))
