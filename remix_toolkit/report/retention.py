"""What was retained, as tables for the screen, the page and its files: after each stage, by arm, arm against arm."""

from collections.abc import Mapping, Sequence

import pandas as pd

from remix_toolkit.report.frame import SWEEP
from remix_toolkit.report.parts import Table
from remix_toolkit.report.summary import CELL, Comparison, Sweep
from remix_toolkit.report.words import explain, explain_comparisons, held_out_text, uncounted

NOT_IN_CSV = ["arm", "overrides", "own", "lists"]  # of the means
HOLM = "p (Holm) is corrected for all arms at once."
FLIPS = "1 -> 0 and 0 -> 1: facts, counted under each seed, that only the first or only the second knows."


def matrix(sweep: Sweep, intervals: bool = False) -> Table:
    """Stages as rows under each arm, tasks as columns: the mean over seeds; of an instruction task, the loss."""
    rows, means = sweep.rows, sweep.means.set_index(CELL)
    texts = {row.Index: f"{row.mean:.1f}" + (f" ± {row.sd:.1f}" if row.n > 1 else "") for row in means.itertuples()}
    notes = ["Mean ± standard deviation over seeds."] if len(sweep.seeds) > 1 else []
    if intervals and texts:
        texts = {row.Index: f"{texts[row.Index]} [{row.low:.1f}, {row.high:.1f}]" for row in means.itertuples()}
        notes.append(f"In brackets, the 95% interval. {explain(means['n'], means['seeds_to_halve'])}")
    asked = rows[rows["held_out_loss"].notna()].groupby(CELL)[["held_out_loss", "held_out_accuracy"]]
    texts |= {row.Index: held_out_text(row) for row in asked.mean().itertuples()}
    seeds = rows.groupby(["label", "stage"])["seed"].agg(lambda seeds: joined(sorted(set(seeds))))
    order = pd.MultiIndex.from_product([sweep.arms, sweep.stages], names=["arm", "after"])
    order = order[order.isin(seeds.index)]
    shown = pd.Series(texts).unstack().reindex(index=order, columns=list(rows["task"].unique()))
    shown.insert(0, "seeds", seeds.reindex(order), allow_duplicates=True)
    caption = f"{sweep.title}: recall in percent after each stage"
    shades = means["mean"].unstack().reindex(order)
    return Table(f"retention-{sweep.slug}", caption, shown, _numbers(sweep.means), notes, shades)


def arms(sweep: Sweep, task: str, more: Mapping[str, Mapping[str, object]], notes: Sequence[str] = ()) -> Table:
    """What is left of a task in each arm, the best one first; `more` are further columns, by their arms."""
    first, last, after = sweep.stages[0], sweep.stages[-1], sweep.ranked(task)
    before = sweep.ranked(task, first)["mean"].reindex(after.index)
    columns = {f"after {first}": before, f"after {last}": after["mean"], "sd": after["sd"]}
    columns["95% interval"] = [f"[{row.low:.1f}, {row.high:.1f}]" for row in after.itertuples()]
    about = [explain(after["n"], after["seeds_to_halve"]), *notes]
    if first != last:
        columns["lost"] = before - after["mean"]
        about.insert(0, "lost: points between the two.")
    columns |= {head: pd.Series(values, dtype=object).reindex(after.index) for head, values in more.items()}
    columns |= {name: after[name].map(joined) for name in ("seeds", "missing") if after[name].map(len).any()}
    names = [arm + " *" * (arm in sweep.uncounted) for arm in after.index]
    if not_counted := uncounted(sweep, after.index):
        about.append(f"* does not count: {not_counted}.")
    caption = f"{sweep.title}: {task}, the best arm first, in percent"
    shown = pd.DataFrame(columns).set_axis(pd.Index(names, name="arm"))
    return Table(f"arms-{sweep.slug}-{task}", caption, shown, _numbers(after), about)


def differences(sweep: Sweep, task: str) -> Table | None:
    """Every arm against the first one, fact by fact; None where none can be compared with it."""
    if not (compared := sweep.against_first[task]):
        return None
    first, second = sweep.arms[0], [one.second for one in compared]
    about = [explain_comparisons(compared), HOLM, FLIPS]
    if apart := [arm for arm in sweep.arms[1:] if arm not in second]:
        about.append(f"Not compared, no seed and fact in common with {first}: {', '.join(apart)}.")
    caption = f"{sweep.title}: {task} after {sweep.stages[-1]}, difference from {first}, fact by fact"
    sweep_columns = sweep.rows[SWEEP].iloc[0].to_dict()
    numbers = pd.DataFrame([{**sweep_columns, **vars(one)} for one in compared]).drop(columns=["flips", "list"])
    shown = in_columns(compared).set_axis(pd.Index(second, name="arm"))
    return Table(f"differences-{sweep.slug}-{task}", caption, shown, numbers, about)


def in_columns(compared: Sequence[Comparison]) -> pd.DataFrame:
    """Comparisons as they are shown."""
    rows = [
        {
            "points": f"{one.difference:+.1f}",
            "95% interval": f"[{one.low:+.1f}, {one.high:+.1f}]",
            "1 -> 0 / 0 -> 1": f"{one.one_to_zero} / {one.zero_to_one}",
            "facts": f"{one.facts:,}",
            "seeds": joined(one.seeds),
            "p": None if one.p_holm is None else _p(one.p),
            "p (Holm)": None if one.p_holm is None else _p(one.p_holm),
        }
        for one in compared
    ]
    return pd.DataFrame(rows)


def joined(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _numbers(means: pd.DataFrame) -> pd.DataFrame:
    return means.drop(columns=NOT_IN_CSV).rename(columns={"label": "arm"})
