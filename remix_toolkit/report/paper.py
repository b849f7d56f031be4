"""The paper beside ours: its tables and figures with our means in them, and a verdict on each of its claims.

recipes/paper/paper.yaml has what it prints, how it lays that out and which means have to differ for a claim to hold.

A claim consists of comparisons, each the difference of two means with its 95% interval. If the whole interval lies
above what is claimed (0 points, where the paper names no number), the comparison holds; if all of it lies at or below,
it does not; otherwise the runs do not decide, nor does one seed, which has luck of its own. A claim holds if all its
comparisons hold, and does not if one of them does not. None is corrected for the others: where all of them have to
hold, there is nothing to correct (Berger, Technometrics 24, 1982).

The interval is `summary.compare`'s, for other seeds and facts; of averages, the mean of the intervals' ends over what
is averaged, which is about as wide as the average's own or wider. Where answers cannot be read, and of the logit lens,
it is over seeds alone, `stats.seeds_interval`.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import cycle, product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from remix_toolkit.evaluate.lens import Lens
from remix_toolkit.report import stats
from remix_toolkit.report.frame import RUN, Frame
from remix_toolkit.report.parts import Heading, Part, Table, Words
from remix_toolkit.report.summary import FLOOR, compare, pairs_of, slug
from remix_toolkit.report.words import premise, some

CELL = ["table", "D_A", "label", "D_B"]  # as the paper names them; the label is the arm's
Cell = tuple[str, str, str, str]
NUMBERS = ["D_A", "arm", "D_B", "mean", "sd", "low", "high", "n", "seeds", "paper"]
COMPARISON = ["claim", "more", "less", "difference", "low", "high", "seeds", "verdict", "why"]
VERDICTS = ("does not hold", "not enough data", "holds")  # of a claim's comparisons, the first of these decides
MEANS = "Percent of D_A's facts after the last stage: mean [95% interval] of n seeds (n=1: over its facts alone); \
[ ] is not run, ? is printed but unreadable in our copy."
EDITED = "The paper's profile, and no override that changes it; whether a recipe's file was edited is not looked at."
RULE = "A comparison holds if its whole 95% interval lies above 0, or what is claimed, and fails if it lies below; \
on both sides, or of one seed, it decides nothing."
FEW = 4  # of what is missing or decides, as many are named; the CSV has all


@cache
def paper() -> dict[str, Any]:
    """paper.yaml, which says itself what its keys mean."""
    return dict(yaml.safe_load((files("remix_toolkit") / "recipes/paper/paper.yaml").read_text(encoding="utf-8")))


@cache
def layout(table: str, profile: str) -> dict[str, Any]:
    """A table of paper.yaml under a profile: `tiny`, or a file of that name, has other rows, arms and columns.

    `rows` and `arms` are the names in the sweep -> the paper's; `shown` the paper's names -> those that are shown.
    """
    about, is_tiny = {**paper()["defaults"], **paper()["tables"][table]}, Path(profile).stem == "tiny"
    about |= about["tiny"] if is_tiny else {}
    for key in ("rows", "arms"):
        about[key] = about[key] if isinstance(about[key], dict) else {name: name for name in about[key]}
    shown = {name: ours if is_tiny else name for ours, name in (about["rows"] | about["arms"]).items()}
    return {**about, "shown": shown, "all": about["factoid"] + about["nonfactoid"]}


def cells(frame: Frame) -> pd.DataFrame:
    """The recalls that the paper's tables have a place for: a row for each cell, `setting` and seed, the newest.

    It has `CELL`, the columns of `frame.measured`, and `setting`: the profile, with all else that the command line
    changed in the weights. A run is in every table that shares it. An edit of the sweep's file is not seen.
    """
    asked = frame.measured[frame.measured["recall"].notna()]
    models = {model for about in paper()["tables"].values() for model in about["profile"]}
    places = []
    for table in paper()["tables"]:
        about = layout(table, "")
        shared = asked["recipe"].isin(about["also"]) & ~asked["profile"].isin(models.difference(about["profile"]))
        rows = asked[(asked["recipe"] == table) | shared]
        trained = rows[rows["own"]]
        taught = rows["list"].isin(trained.loc[trained["stage"] == "stage1", "list"]) & ~rows["own"]
        is_d_a = ~rows["list"].isin(trained["list"]) if about["measured"] else taught
        for row in rows[is_d_a & (rows["stage"] == about["last"])].itertuples():
            here = layout(table, row.profile)
            *point, arm = row.arm.split(", ")  # `kvr, lama, random / -`: of D_A and D_B, what the sweep varies
            varied = ", ".join(part for part in point if part not in (*here["rows"], Path(row.profile).stem))
            column = varied or (here["all"][0] if len(here["all"]) == 1 else None)
            fact, label = here["rows"].get(row.task.split()[0]), here["arms"].get(arm)
            places.append((row.Index, table, fact, label, column if column in here["all"] else None))
    placed = pd.DataFrame(places, columns=["row", *CELL]).dropna().astype({"row": asked.index.dtype})
    placed = placed.join(asked.drop(columns="label"), on="row")
    settings = [" with ".join(filter(None, [row.profile, ", ".join(row.overrides)])) for row in placed.itertuples()]
    return placed.assign(setting=settings).drop_duplicates([*CELL, "setting", "seed"], keep="last")


def _unlearned(frame: Frame, rows: pd.DataFrame) -> pd.DataFrame:
    """The stages that do not know their own facts, in the runs of some cells: table, D_A, label, stage, recall."""
    low = frame.measured[frame.measured["own"] & (frame.measured["recall"] < FLOOR)]
    return rows[["table", "D_A", "label", *RUN]].merge(low[[*RUN, "stage", "recall"]], on=RUN)


# --- the tables --------------------------------------------------------------------------------------------------


def _table(frame: Frame, rows: pd.DataFrame) -> Table:
    """A table as the paper lays it out, an arm's means above the paper's numbers; `rows` are its cells."""
    table, setting, profile = rows[["table", "setting", "profile"]].iloc[0]
    about, is_papers = layout(table, profile), setting in layout(table, "")["profile"]
    recalls = rows.pivot(index=["D_A", "label", "seed"], columns="D_B", values="recall").reindex(columns=about["all"])
    averages = [group for group in ("factoid", "nonfactoid", "all") if f"avg_{group}" in about["show"]]
    for group in averages:  # under the seeds that all of its columns have
        recalls[f"avg_{group}"] = recalls[about[group]].mean(axis="columns", skipna=False)
    facts, numbers = rows.groupby("D_A")["facts"].min(), []
    for fact, arm in product(*(dict.fromkeys(about[key].values()) for key in ("rows", "arms"))):
        printed = about["printed"].get(fact, {}).get(arm, []) if is_papers else []
        for column, value in zip_longest(about["show"], printed, fillvalue="-"):
            number = {"D_A": about["shown"][fact], "arm": about["shown"][arm], "D_B": column, "n": 0}
            number["paper"] = {None: "?", "-": None}.get(value, value)
            if (by_seed := recalls[column].dropna().get((fact, arm))) is not None:
                mean = vars(stats.recall(by_seed.tolist(), int(facts[fact])))
                number |= {**mean, "n": len(by_seed), "seeds": " ".join(map(str, by_seed.index))}
            numbers.append(number)
    ours = ["{mean:.1f} [{low:.1f}, {high:.1f}] n={n}".format(**one) if one["n"] else "[ ]" for one in numbers]
    texts = pd.DataFrame(numbers).assign(ours=ours, paper=lambda texts: texts["paper"].map(str, na_action="ignore"))
    lines = texts.groupby(["D_A", "arm"], sort=False)[["ours", "paper"]].agg(list).stack(future_stack=True)
    shown = pd.DataFrame(lines.tolist(), lines.index.set_names("whose", level=2), about["show"]).dropna(how="all")
    notes = [MEANS, *(f"avg_{group}: the mean of {', '.join(about[group])}." for group in averages)]
    other = f"This is {setting}, not the paper's setting: the paper's values are not comparable, and are left out."
    notes += [EDITED, *about["notes"]] if is_papers else [other]
    low = _unlearned(frame, rows).groupby(["D_A", "label", "stage"], sort=False)["recall"].min()
    for (fact, arm, stage), recall in low.items():
        notes.append(f"{about['shown'][fact]}, {about['shown'][arm]}: {premise(stage, f'{recall:.1f}%')}.")
    caption = f"{table.replace('table', 'Table ').replace('figure', 'Figure ')}: {about['title']} ({setting})"
    return Table(slug(table, setting), caption, shown, pd.DataFrame(numbers, columns=NUMBERS), notes)


# --- the claims --------------------------------------------------------------------------------------------------


def verdicts(frame: Frame, rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each comparison of the claims about tables that were run; `rows` are the cells under one setting.

    `more`, `less` and their `difference` are in percent, of the lens in layers; `why` is in words.
    """
    by_cell = dict(list(rows.groupby(CELL)))
    compared = []
    for name, claim in paper()["claims"].items():
        for check in claim["compare"] if claim["table"] in set(rows["table"]) else []:
            for words, pairs in _comparisons(claim["table"], check, rows["profile"].iloc[0]):
                lacking = dict.fromkeys(cell for pair in pairs for cell in pair if cell not in by_cell)
                names = [f"{arm} after {after} ({table}, {fact})" for table, fact, arm, after in lacking]
                differences = [] if names else [_difference(frame, check, by_cell[a], by_cell[b]) for a, b in pairs]
                reason = f"not measured: {some(names, FEW)}" if lacking else "no such D_B, seed or fact in both"
                result = _judged(differences, check.get("by", 0)) or {"verdict": "not enough data", "why": reason}
                compared.append({"claim": name, **result, "why": f"{words}: {result['why']}"})
    return pd.DataFrame(compared, columns=COMPARISON)


def _comparisons(table: str, check: dict[str, Any], profile: str) -> Iterator[tuple[str, list[tuple[Cell, Cell]]]]:
    """Each comparison in words, and the pairs of cells, first the one that is to be more, that it is the mean of."""
    other = check.get("less_table", table)
    about, shown = layout(other, profile), layout(table, profile)["shown"]

    def columns(after: Sequence[str]) -> list[str]:
        return [name for group in after for name in about.get(group, [group]) if name in about["all"]]

    arms = [" and ".join(shown.get(arm, arm) for arm in check[side]) for side in ("more", "less")]
    margin = f" by {check['by']} or more" if "by" in check else ""
    each = [[name] for name in columns(check["after"])] if check.get("each") else []
    for fact in [fact for fact in check["rows"] if fact in about["rows"].values()] or check["rows"][:1]:
        for after in each or [check["after"]]:
            less_after = check.get("less_after", after)
            words = f"{arms[0]} after {', '.join(after)} over {arms[1]} after {', '.join(less_after)}{margin}"
            of, less_of = columns(after), columns(less_after)
            in_columns = zip(of, of, strict=True) if of == less_of else product(of, less_of)
            both = product(zip(cycle(check["more"]), check["less"], strict=False), in_columns)
            pairs = [((table, fact, a, x), (other, fact, b, y)) for (a, b), (x, y) in both]
            yield f"{shown.get(fact, fact)}: {words}", pairs


def _difference(frame: Frame, check: dict[str, Any], more: pd.DataFrame, less: pd.DataFrame) -> dict[str, float]:
    """Of two cells over the seeds that both have; empty where they have none, or no fact, in common."""
    if "value" not in check and (one := compare(frame, less.itertuples(), more.itertuples())):
        means = {"more": one.of_second, "less": one.of_first, "difference": one.difference}
        return {**means, "low": one.low, "high": one.high, "seeds": len(one.seeds)}
    pairs = pairs_of(frame, *(_with_value(frame, check, rows).itertuples() for rows in (less, more)))
    if not pairs:
        return {}
    of_less, of_more = np.array([[row.value for row in pair] for pair in pairs]).T
    interval = stats.seeds_interval((of_more - of_less).tolist())
    means = {"more": of_more.mean(), "less": of_less.mean(), "seeds": len(pairs)}
    return {**means, **dict(zip(("difference", "low", "high"), interval, strict=True))}


def _with_value(frame: Frame, check: dict[str, Any], rows: pd.DataFrame) -> pd.DataFrame:
    """A cell with its recalls as `value`, or what the logit lens has of the same facts, where models were probed."""
    if "value" not in check:
        return rows.assign(value=rows["recall"])
    lens = [frame.read(path, lambda stage: stage.results(Lens()), "the paper's claims") or {} for path in rows["path"]]
    values = [getattr(probes.get(one), check["value"], None) for probes, one in zip(lens, rows["list"], strict=True)]
    return rows.assign(value=values).dropna(subset="value")


def _judged(differences: Sequence[dict[str, float]], by: float) -> dict[str, Any]:
    """The mean of differences between cells, and what its interval decides: nothing, under one seed."""
    if not (differences and all(differences)):
        return {}
    mean = {**pd.DataFrame(differences).mean(), "seeds": min(one["seeds"] for one in differences)}
    why = "{more:.1f} against {less:.1f}, {difference:+.1f}".format(**mean)
    if mean["seeds"] == 1:
        return {**mean, "low": None, "high": None, "verdict": "not enough data", "why": f"{why} under one seed"}
    holds = mean["low"] >= by if by else mean["low"] > 0  # "at least 30" is reached at 30, "more" not at 0
    fails = mean["high"] < by if by else mean["high"] <= 0
    why += " [{low:+.1f}, {high:+.1f}], {seeds} seeds".format(**mean)
    return {**mean, "verdict": "holds" if holds else "does not hold" if fails else "not enough data", "why": why}


def _claims(frame: Frame, rows: pd.DataFrame) -> Table:
    """What the claims come to under one setting; `rows` are its cells."""
    setting, comparisons, lines = rows["setting"].iloc[0], verdicts(frame, rows), []
    unlearned = set(_unlearned(frame, rows)["table"])
    for name, results in comparisons.groupby("claim", sort=False):
        claim = paper()["claims"][name]
        verdict = next(one for one in VERDICTS if one in set(results["verdict"]))
        deciding = results[results["verdict"] == verdict].sort_values("low")
        why = f"{len(deciding)} of {len(results)} comparisons: " if len(results) > 1 else ""
        why += "; ".join(deciding["why"][:FEW]) + ("; ..." if len(deciding) > FEW else "")
        if setting not in paper()["tables"][claim["table"]]["profile"]:
            why = f"On {setting}, which is not the paper's model and setting: {why}"
        if claim["table"] in unlearned:
            why += f". Some stages know under {FLOOR:.0f}% of their own facts (100% is the premise)"
        text = f"{claim['text']}. {claim.get('note', '')}".strip()
        lines.append({"claim": text, "section": claim["section"], "verdict": verdict, "why": f"{why}."})
    shown = pd.DataFrame(lines).set_index("claim")
    caption, words = f"The paper's claims on {setting}", ("section", "verdict", "why")
    return Table(slug("claims", setting), caption, shown, comparisons, [RULE], words=words)


def section(frame: Frame) -> list[Part]:
    """The paper's tables and figures that were run, even in part, and what its claims come to; none if none was."""
    placed = cells(frame)
    if placed.empty:
        return []
    parts: list[Part] = [_table(frame, rows) for _, rows in placed.groupby(["table", "setting"], sort=False)]
    if rest := sorted(paper()["tables"].keys() - set(placed["table"])):
        parts.append(Words([f"Nothing of these is run yet: {', '.join(rest)}."]))
    judged = [_claims(frame, rows) for _, rows in placed.groupby("setting", sort=False)]
    return [*parts, Heading("What the paper claims", 3), *judged]
