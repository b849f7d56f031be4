"""The paper's claims by its own printed numbers, which have no interval: there the difference alone counts."""

from remix_toolkit.report.paper_claims import (
    Claim,
    Part,
    _Comparison,
    _comparisons,
    _decided,
    _judged,
    _lacking,
    _Side,
)
from remix_toolkit.report.paper_layout import Check, paper, view


def paper_claims() -> list[Claim]:
    """Every claim, judged by the differences of printed numbers."""
    judged = []
    for said in paper().claims:
        profile = paper().tables[said.checks[0].table].profile[0]
        parts = [_printed(one, profile) for one in _comparisons(said, profile)]
        judged.append(_judged(said, (profile,), parts, False))
    return judged


def _printed(one: _Comparison | Part, profile: str) -> Part:
    if isinstance(one, Part):
        return one
    means, missing = [], []
    for side in (one.more, one.less):
        values = [_printed_mean(side, arm, profile, one.check) for arm in side.arms]
        missing += [value for value in values if isinstance(value, str)]
        means.append(sum(value for value in values if not isinstance(value, str)) / len(values))
    if missing:
        return _lacking(one.about, "; ".join(dict.fromkeys(missing)))
    difference = means[0] - means[1]
    digits = f"{one.about}: {means[0]:.1f} against {means[1]:.1f}, {difference:+.1f}"
    return _decided(one, digits, difference, difference, difference, 0)


def _printed_mean(side: _Side, arm: str, profile: str, check: Check) -> float | str:
    """The printed average where it is of just these columns, else the mean of their cells; or what lacks."""
    seen = view(side.table, profile)
    printed = paper().tables[side.table].printed.get(side.row, {}).get(arm) if check.value == "recall" else None
    cells = dict(zip(seen.show, printed or ["-"] * len(seen.show), strict=True))
    averages = [f"avg_{name}" for name, group in seen.groups.items() if group == side.columns and len(group) > 1]
    values = [cells[column] for column in [name for name in averages if name in cells] or side.columns]
    if "-" in values:
        return f"not printed in {side.table}"
    known = [value for value in values if isinstance(value, float | int)]
    return sum(known) / len(known) if len(known) == len(values) else f"unreadable in {side.table}: {side.row}, {arm}"
