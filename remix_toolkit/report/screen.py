"""What `remix run`, `remix show` and `remix sweep` print of a frame, and what `remix show --json` has."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any, Literal

import pandas as pd
from rich.console import Console
from rich.table import Table

from remix_toolkit.evaluate.known import Known
from remix_toolkit.evaluate.measurements import MEASUREMENTS
from remix_toolkit.report.frame import BASE, Frame
from remix_toolkit.report.results import numbers
from remix_toolkit.report.stage import Stage
from remix_toolkit.report.summary import Comparison, Sweep, over_seeds, sweeps
from remix_toolkit.report.tables import plain
from remix_toolkit.report.words import (
    explain_comparisons,
    explain_means,
    held_out_text,
    known_before,
    notes,
    p_values,
    shown,
    ties_and_memory,
    unlearned,
    unmeasured,
)

COMPARISON = ["points", "95% interval", "1 -> 0 / 0 -> 1", "facts", "seeds", "p", "p (Holm)"]
WIDE = 4  # columns of means in one table: more do not fit 120 characters beside the arms' names


def console() -> Console:
    """Where everything is printed as it is: no name of an arm is markup."""
    return Console(width=None if Console().is_terminal else 120, markup=False, highlight=False)


def print_lines(lines: Iterable[str]) -> None:
    """Each on a line of its own; a terminal obeys nothing that is in them."""
    for line in lines:
        console().print(plain(line))


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], words: Sequence[str] = (), lines: bool = False
) -> None:
    """Rows under columns, the first one and those of `words` on the left; with `lines`, one between rows."""
    table = Table(title=plain(title), title_justify="left", show_lines=lines)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in (columns[0], *words) else "right"
        table.add_column(plain(column), overflow="fold", justify=justify)
    for row in rows:
        cells = ("-" if cell is None else str(cell) for cell in row)
        table.add_row(*("\n".join(map(plain, cell.split("\n"))) for cell in cells))
    console().print(table)


def print_runs(frame: Frame, each: bool, over_all_seeds: bool) -> None:
    """The runs of each recipe and profile: several seeds together, unless `each` is wanted; one as a matrix.

    With `over_all_seeds`, runs of one seed are shown as several are.
    """
    for recipe, profile in dict.fromkeys((run.recipe, run.profile) for run in frame.begun):
        measured = frame.measured
        begun = [run for run in frame.begun if (run.recipe, run.profile) == (recipe, profile)]
        rows = (measured["recipe"] == recipe) & (measured["profile"] == profile)
        part = replace(frame.where(rows), begun=begun)
        if not each and (over_all_seeds or len({run.seed for run in begun}) > 1):
            print_seeds(part)
        else:
            print_matrices(part)


# --- one run -----------------------------------------------------------------------------------------------------


def print_matrices(frame: Frame) -> None:
    """A matrix for each run: stages as rows, tasks as columns, recall in percent."""
    run = ["recipe", "arm", "profile", "seed", "overrides", "run"]
    for (recipe, arm, profile, seed, overrides, _), rows in frame.measured.groupby(run, sort=False):
        of_arm = f", arm {arm}" if arm != recipe else ""
        title = " ".join([f"{recipe}{of_arm} on {profile}, seed {seed}", *overrides])
        stages = {stage: list(lists.itertuples()) for stage, lists in rows.groupby("stage", sort=False)}
        tasks = list(rows["task"].unique())
        others = {stage: _other_numbers(frame, lists[0].path) for stage, lists in stages.items()}
        names = list(dict.fromkeys(name for numbers in others.values() for name in numbers))
        cells = []
        first = next(iter(stages.values()))[0].path
        if base := _other_numbers(frame, first, of_base=True):
            more = (f"{base[name]:.4g}" if name in base else None for name in names)
            cells.append([BASE, *(None for _ in tasks), *more, None])
        for stage, lists in stages.items():
            recalls = {row.task: _recall(row, 1) for row in lists}
            more = (f"{others[stage][name]:.4g}" if name in others[stage] else None for name in names)
            cells.append([stage, *map(recalls.get, tasks), *more, lists[0].path])
        columns = ["after", *tasks, *names, "model"]
        print_table(f"{title}: recall in percent after each stage", columns, cells, words=["model"])
        known = known_before(frame.where(frame.measured.index.isin(rows.index)).results(Known()))
        print_lines([*unlearned(rows), *known, *ties_and_memory(rows)])


def _other_numbers(frame: Frame, path: str, of_base: bool = False) -> dict[str, float]:
    """What else is a number, of a stage or of its base: the harness's metrics, perplexity if the base was pretrained.

    Perplexity of a base with random weights has nothing to be compared with.
    """
    wanted = {"lm_eval"} if "tiny" in frame.stages[path].record.declaration["base"] else {"lm_eval", "perplexity"}
    measured = {}
    for one in (measurement for measurement in MEASUREMENTS if measurement.name in wanted):
        read = partial(Stage.base_results if of_base else Stage.results, measurement=one)
        results = frame.read(path, read, "the numbers beside recall")
        measured[one.name] = {asked: result.model_dump() for asked, result in (results or {}).items()}
    return numbers(measured)


def _recall(row: Any, digits: int) -> str:
    """Recall in percent; of an instruction task, the loss on held-out rows and, where there is one, the accuracy."""
    if not pd.isna(row.recall):
        return f"{row.recall:.{digits}f}"
    return held_out_text(row)


# --- several seeds -----------------------------------------------------------------------------------------------


def print_seeds(frame: Frame) -> None:
    """For each sweep: recall over seeds, what weakens it, and every arm against the first one, fact by fact."""
    for sweep in sweeps(frame):
        if not sweep.means.empty:
            _print_means(sweep)
            print_lines([*notes(sweep), *known_before(sweep.frame.results(Known())), *ties_and_memory(sweep.rows)])
            for task in sweep.tasks:
                _print_compared(sweep, task)
    print_lines(unmeasured(frame))


def _print_means(sweep: Sweep) -> None:
    columns = list(sweep.means[["stage", "task"]].drop_duplicates().itertuples(index=False, name=None))
    title = f"{sweep.title}: recall in percent, mean ± sd over n seeds [95% interval]"
    for start in range(0, len(columns), WIDE):
        some = columns[start : start + WIDE]
        rows = ([arm, *(_mean(sweep.mean(arm, *column)) for column in some)] for arm in sweep.arms)
        print_table(title, ["arm", *(f"{task} after {stage}" for stage, task in some)], rows, lines=True)
    print_lines([explain_means(sweep.means)])


def _mean(row: Any) -> str | None:
    if row is None:
        return None
    sd = f" ± {row.sd:.1f}" if row.n > 1 else ""
    return f"{row.mean:.1f}{sd}, n={row.n}\n[{row.low:.1f}, {row.high:.1f}]"


def _print_compared(sweep: Sweep, task: str) -> None:
    first, *others = sweep.arms
    compared = sweep.against_first[task]
    if compared:
        title = f"{sweep.title}: {task} after {sweep.stages[-1]}, compared with {first}, fact by fact"
        print_table(title, ["arm", *COMPARISON], ([one.second, *comparison_cells(one)] for one in compared))
        print_lines([explain_comparisons(compared)])
    if apart := [arm for arm in others if arm not in {one.second for one in compared}]:
        print_lines([f"Not compared with {first}, no seed and fact in common there: {', '.join(apart)}"])


def comparison_cells(one: Comparison) -> list[object]:
    """A comparison in the columns COMPARISON."""
    interval, flips = f"[{one.low:+.1f}, {one.high:+.1f}]", f"{one.one_to_zero} / {one.zero_to_one}"
    return [f"{one.difference:+.1f}", interval, flips, one.facts, ", ".join(map(str, one.seeds)), *p_values(one)]


# --- a sweep -----------------------------------------------------------------------------------------------------


def print_arms(frame: Frame, paper: Mapping[str, float]) -> None:
    """Arms as rows, recall after each stage as columns; several seeds stand beside one another, in order.

    `paper` is what the paper prints for an arm: recall of the first stage's facts after the last stage. Where two arms
    are in another order here, that is said.
    """
    rows = frame.measured.sort_values("seed", kind="stable")
    arms, seeds = frame.measured["label"].unique(), rows["seed"].unique()
    columns = list(frame.measured[["stage", "task"]].drop_duplicates().itertuples(index=False, name=None))
    (first, task), (last, _) = columns[0], columns[-1]
    recalls = rows.assign(recall=[_recall(row, 0) for row in rows.itertuples()])
    recalls = recalls.groupby(["label", "stage", "task"])["recall"].agg(", ".join)
    steps = rows[rows["stage"] == first].groupby("label")["steps"].unique()
    cells = []
    for arm in arms:
        shown = (recalls.get((arm, *column)) for column in columns)
        cells.append([arm, ", ".join(map(str, steps.get(arm, []))), *shown, *([paper.get(arm)] if paper else [])])
    names = ["arm", f"{first} steps", *(f"{task} after {stage}" for stage, task in columns)]
    names += [f"the paper's {task} after {last}"] if paper else []
    which = f"seeds {', '.join(map(str, seeds))} beside one another" if len(seeds) > 1 else f"seed {seeds[0]}"
    about = rows.iloc[0]
    print_table(f"{about['recipe']} on {about['profile']}: recall in percent, {which}", names, cells)
    print_lines(unlearned(frame.measured))
    kept = rows[(rows["stage"] == last) & (rows["task"] == task)].groupby("label")["recall"].mean().dropna()
    print_lines(_in_another_order([arm for arm in arms if arm in kept], kept, paper))


def print_shown(frame: Frame, paper: Mapping[str, float]) -> None:
    """What the arms of each point of a sweep show, in a sentence or two."""
    for sweep in sweeps(frame):
        print_lines(shown(sweep, paper))


def _in_another_order(arms: Sequence[str], kept: Mapping[str, float], paper: Mapping[str, float]) -> Iterator[str]:
    for a, b in combinations([arm for arm in arms if arm in paper], 2):
        if (paper[a] - paper[b]) * (kept[a] - kept[b]) < 0:
            here = f"here {kept[a]:.0f} and {kept[b]:.0f}"
            yield f"Not as in the paper: there {a} keeps {paper[a]} and {b} {paper[b]}, {here}"


# --- JSON --------------------------------------------------------------------------------------------------------


def as_entries(frame: Frame) -> list[dict[str, Any]]:
    """A row for each list of facts, or held-out loss, of each stage of each run; recall in percent.

    An instruction task has no recall (None) but `held_out`: the rows, the loss, and GSM8K's accuracy in percent.
    """
    rows = frame.measured.drop(columns=["label", "source", "held_out_loss", "held_out_accuracy"])
    entries = as_records(rows.astype({"memory_estimated": "Int64", "memory_peak": "Int64"}))
    for entry in entries:
        held_out = frame.stages[entry["path"]].held_out if entry["list"] is None else None
        entry["held_out"] = held_out and held_out.model_dump()
    return entries


def seeds_as_json(frame: Frame) -> dict[str, Any]:
    """`recall` over seeds, see `over_seeds`, and `paired`: every arm against the first one, with all that differs."""
    compared = []
    for sweep in sweeps(frame):
        about = sweep.rows[["recipe", "profile", "grid_point"]].iloc[0].to_dict()
        for one in (one for of_task in sweep.against_first.values() for one in of_task):
            compared.append({**about, **vars(one), "flips": one.flips.to_dict("records")})
    return {"recall": as_records(over_seeds(frame).drop(columns="label")), "paired": compared}


def as_records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """For JSON: what is missing is None."""
    records: list[dict[str, Any]] = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return records
