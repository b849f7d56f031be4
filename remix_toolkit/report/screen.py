"""What `remix run`, `remix show` and `remix sweep` print of a frame, and what `remix show --json` has."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table as Grid

from remix_toolkit.evaluate.known import Known
from remix_toolkit.report import retention
from remix_toolkit.report.frame import BASE, SWEEP, Frame
from remix_toolkit.report.parts import Table, as_text, kinds, plain
from remix_toolkit.report.summary import sweeps
from remix_toolkit.report.words import (
    answer,
    beside_paper,
    held_out_text,
    known_before,
    notes,
    ties_and_memory,
    unlearned,
    unmeasured,
)


def console() -> Console:
    """Where everything is printed as it is: no name of an arm is markup."""
    return Console(width=None if Console().is_terminal else 120, markup=False, highlight=False)


def print_lines(lines: Iterable[str]) -> None:
    """Each on a line of its own; a terminal obeys nothing that is in them."""
    for line in lines:
        console().print(plain(line))


def print_table(table: Table) -> None:
    """A table under its caption, and its notes."""
    text = as_text(table).map(plain)
    grid = Grid(title=plain(table.caption), title_justify="left")
    for column, kind in zip(text.columns, kinds(table), strict=True):
        grid.add_column(plain(column), overflow="fold", justify="right" if kind == "number" else "left")
    for row in text.to_numpy():
        grid.add_row(*row)
    console().print(grid)
    print_lines(table.notes)


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


def print_matrices(frame: Frame) -> None:
    """A matrix for each run: stages as rows, tasks as columns, recall in percent, and what else is a number."""
    run = ["recipe", "arm", "profile", "seed", "overrides", "run"]
    for (recipe, arm, profile, seed, overrides, _), rows in frame.measured.groupby(run, sort=False):
        of_arm = f", arm {arm}" if arm != recipe else ""
        title = " ".join([f"{recipe}{of_arm} on {profile}, seed {seed}", *overrides])
        part = frame.where(frame.measured.index.isin(rows.index))
        texts = [held_out_text(row) if pd.isna(row.recall) else f"{row.recall:.1f}" for row in rows.itertuples()]
        recall = rows[["stage", "task"]].assign(text=texts).pivot_table("text", "stage", "task", "last", sort=False)
        numbers = part.numbers()
        others = numbers.pivot_table("value", "stage", "measure", "last", sort=False).map("{:.4g}".format)
        shown = others.join(recall, how="outer")[[*recall.columns, *others.columns]]
        shown = shown.assign(model=rows.groupby("stage")["path"].last()).reindex([BASE, *rows["stage"].unique()])
        shown = shown.dropna(how="all").rename_axis("after")
        print_table(Table("", f"{title}: recall in percent after each stage", shown, words=("model",)))
        print_lines([*unlearned(rows), *known_before(part.results(Known())), *ties_and_memory(rows)])


def print_seeds(frame: Frame, paper: Mapping[str, float] | None = None) -> None:
    """For each sweep: recall over seeds, what weakens it, and every arm against the first one, fact by fact.

    `paper` is what the paper prints for an arm: recall of the first stage's facts after the last stage.
    """
    for sweep in sweeps(frame):
        print_table(retention.matrix(sweep, intervals=True))
        print_lines([*notes(sweep), *known_before(sweep.frame.results(Known())), *ties_and_memory(sweep.rows)])
        for task in sweep.tasks:
            if paper and not sweep.ranked(task).empty:
                print_table(retention.arms(sweep, task, {"the paper's": paper}))
            if compared := retention.differences(sweep, task):
                print_table(compared)
    print_lines(unmeasured(frame))


def print_shown(frame: Frame, paper: Mapping[str, float]) -> None:
    """What the arms of each point of a sweep show: the answer that its report begins with, and the paper's, if any."""
    for sweep in sweeps(frame):
        print_lines([answer(sweep)[0][0], *beside_paper(sweep, paper)])


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
    """`recall` over seeds, see `Sweep.means`, and `paired`: every arm against the first one, with all that differs."""
    means, compared = [], []
    for sweep in sweeps(frame):
        about = sweep.rows[SWEEP].iloc[0].to_dict()
        means += as_records(sweep.means.drop(columns="label"))
        for one in (one for of_task in sweep.against_first.values() for one in of_task):
            compared.append({**about, **vars(one), "flips": one.flips.to_dict("records")})
    return {"recall": means, "paired": compared}


def as_records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """For JSON: what is missing is None."""
    records: list[dict[str, Any]] = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return records
