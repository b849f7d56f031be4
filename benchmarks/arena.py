"""The arena's page: remedies against forgetting beside their controls, from the files in recipes/arena/results/ alone.

    python benchmarks/arena.py       # make pages: writes docs/arena.md and, for each file, docs/arena-<name>.svg

Each file is what `remix results --recipe SWEEP` wrote. tests/test_arena.py checks that the page is current.
"""

import math
import re
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import ValidationError

from remix_toolkit.errors import BadInput
from remix_toolkit.recipe import shipped
from remix_toolkit.recipe.difference import as_overrides
from remix_toolkit.report import figures
from remix_toolkit.report.frame import of_results
from remix_toolkit.report.parts import Table, as_markdown, escape_markdown, plain
from remix_toolkit.report.results import SCHEMA, Published, Results
from remix_toolkit.report.summary import LEARNT, LOSS_ABOVE, NONE, Sweep, slug, sweeps
from remix_toolkit.report.words import explain, seeds_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "recipes" / "arena" / "results", ROOT / "docs" / "arena.md"
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "remix-toolkit")
ENDS = ["mean", "low", "high"]
# Beside `kept` and `score`: of `Arena.arms`, the columns that a table shows, with their heads and styles.
SHOWN = {
    "cost": ("FLOPs, x none", "{:.2f}"),
    "known_before": ("known before, %", "{:.1f}"),
    "noise": ("with noise, %", "{:.1f}"),
    "relearnt": ("relearnt, %", "{:.1f}"),
    "own_at_least": ("later answers, % of wrong: from", "{:.0f}"),
    "own_at_most": ("to", "{:.0f}"),
    "drift": ("drift, nats", "{:.2f}"),
    "trained_tokens": ("trained tokens", "{:,.0f}"),
    "flops": ("FLOPs", "{:.2e}"),
    "seconds": ("seconds", "{:,.0f}"),
}
KEY = re.compile(r'"([0-9a-f]{16})"')  # of a stage
DARK = "<style>@media (prefers-color-scheme: dark) {svg {filter: invert(1) hue-rotate(180deg)}}</style>"
INTRODUCTION = f"""\
# The arena of remedies

[Remedies](remedies.md) against forgetting beside their controls, under the same seeds and on the same facts. `python
benchmarks/arena.py` wrote this page from the files in `recipes/arena/results/`; nothing in it is by hand.

To add results of your own, run a sweep of `recipes/arena/`, or one like it with an arm `none`, and write what came of
it into that folder: `remix results --recipe all -o recipes/arena/results/NAME.json`. Nothing in that file names your
machine or yourself. Then run the command above, and open a pull request with the file, this page and its picture.

**An arm counts** only if its stages learnt what they were for: the first one all of its facts under every seed, the
last one {LEARNT:.0f}% of its own in the mean or, of instructions, to a loss on held-out rows at most {LOSS_ABOVE:.0%}
above that of `none`. What the others keep is shown, hollow in the picture, and not ranked. [Intervals](statistics.md)
are of 95%.

"""
COLUMNS = """\
- *known before*: how many of the facts that the base model knew are still known. *not taught*: recall of facts that no
  stage teaches, a control.
- *with noise*: recall with noise of 10% on all weights. *relearnt*: recall of nine tenths of the facts after ten steps
  on the other tenth, by which what is only hidden comes back, and what is erased does not.
- *later answers*: how many of the wrong answers are right ones to the last stage's facts. Scoring cuts an answer off at
  its first wrong token: *from* counts those that are complete, *to* those as well that may still have become one.
- *drift*: how far the answers' tokens moved from those of the model that the last stage started from.
- *FLOPs*, *trained tokens* and *seconds* are of the training of all stages; *x none*: as a multiple of those of `none`.
  A remedy that changes weights after training takes what that training took.
  The one pass over the old facts by which `ewc` weighs the weights is not counted.
"""


@dataclass(frozen=True)
class Arena:
    """A results file: its sweep, its stages by key, and what each arm kept and took: see `measured`."""

    name: str
    sweep: Sweep
    stages: dict[str, Published]
    arms: pd.DataFrame

    @property
    def picture(self) -> Path:
        return PAGE.with_name(f"{PAGE.stem}-{slug(self.name)}.svg")

    @property
    def kept(self) -> str:
        """What is kept or lost."""
        return f"{self.sweep.tasks[0]} kept, %"

    @property
    def score(self) -> str:
        """What the last stage is measured by."""
        what = "loss" if self.arms["score_low"].isna().all() else "known, %"
        return f"{self.sweep.stages[-1]}: {what}"


def main() -> None:
    try:
        arenas = [read(file) for file in sorted(RESULTS.glob("*.json"))]
    except BadInput as error:
        sys.exit(f"error: {error}")
    for arena in arenas:
        svg = figures.rendered(partial(draw, arena), ["svg"])["svg"].decode()
        arena.picture.write_text(svg.replace(" <defs>", f" {DARK}\n <defs>", 1), encoding="utf-8")
    PAGE.write_text(page(arenas), encoding="utf-8")
    print(f"written: {PAGE}")


def read(file: Path) -> Arena:
    """Raises BadInput, with the file's name, where it is no results.json of one sweep with an arm `none`."""
    try:
        results = Results.model_validate_json(file.read_bytes())
    except ValidationError as error:
        mistakes = {mistake["loc"]: mistake for mistake in error.errors()}
        first = mistakes.get(("schema",)) or error.errors()[0]
        if first["type"] == "literal_error":
            what = f"is of schema {first['input']!r:.20}, and this version of the toolkit reads {SCHEMA}"
            raise BadInput(f"{file}: {what}; write it anew: `remix results --recipe NAME`") from None
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BadInput(f"{file}: is no results.json ({where}: {first['msg']})") from None
    several = sweeps(of_results(results))
    if len(several) != 1:
        titles = ", ".join(sweep.title for sweep in several) or "nothing that was measured"
        raise BadInput(f"{file}: one sweep is expected, see `remix results --recipe NAME`; it holds {titles}")
    (sweep,) = several
    if len(sweep.stages) == 1 or not sweep.tasks:
        raise BadInput(f"{file}: facts of a stage that another one comes after are expected; its only one loses none")
    arms = sweep.ranked(sweep.tasks[0]).index
    if NONE not in arms:
        what = f"has no arm `{NONE}` after {sweep.stages[-1]}, which the others are compared with"
        raise BadInput(f"{file}: {what}; it has {', '.join(arms) or 'nothing'} there")
    stages = {stage.key: stage for stage in results.stages}
    return Arena(file.stem, sweep, stages, measured(sweep, stages))


def measured(sweep: Sweep, stages: Mapping[str, Published]) -> pd.DataFrame:
    """A row for each arm that was measured after the last stage: means over its `n` seeds.

    Those that count come first, and of these the one that keeps the most. `kept` and `score` have the ends of their
    intervals beside them; `score` is recall of the last stage's own facts in percent or, of instructions, the loss on
    held-out rows, without an interval. `cost`: `flops` as a multiple of those of `none`. `why_not`: the arm does not
    count, and why.
    """
    after = sweep.rows["stage"] == sweep.stages[-1]
    arms = sweep.ranked(sweep.tasks[0])[["n", "seeds_to_halve"]]
    arms[["kept", "kept_low", "kept_high"]] = sweep.ranked(sweep.tasks[0])[ENDS]
    own = sweep.means[(sweep.means["stage"] == sweep.stages[-1]) & sweep.means["own"]].set_index("label")[ENDS]
    loss = sweep.rows[after & sweep.rows["own"]].groupby("label")["held_out_loss"].mean()
    scores = own if len(own) else loss.to_frame("mean").assign(low=math.nan, high=math.nan)
    arms[["score", "score_low", "score_high"]] = scores.reindex(arms.index)
    kept = sweep.rows[after & (sweep.rows["task"] == sweep.tasks[0])].itertuples()
    runs = pd.DataFrame([{"arm": row.label, "seed": row.seed, **_run(stages, row.key, row.list)} for row in kept])
    arms = arms.join(runs.drop(columns="seed").groupby("arm").mean())
    arms["cost"] = arms["flops"] / arms.loc[NONE, "flops"]
    unknown = arms["score"].map(lambda score: f"nothing is measured of what {sweep.stages[-1]} learnt" * pd.isna(score))
    arms["why_not"] = [sweep.uncounted.get(arm, unknown[arm]) for arm in arms.index]
    return arms.sort_values("why_not", key=lambda why: why != "", kind="stable")


def _run(stages: Mapping[str, Published], key: str, kept: str) -> dict[str, float]:
    """What a run took, all stages together, and what was measured after the last one of the list of facts `kept`."""
    last = stages[key]
    chain = [stages.get(one) for one in (*last.ancestors, key)]

    def total(field: str) -> float:
        return sum(math.nan if (taken := getattr(stage, field, None)) is None else taken for stage in chain)

    def probed(probe: str, field: str) -> float:
        return float(last.probes.get(probe, {}).get(kept, {}).get(field, math.nan))

    known = [one for one in last.probes.get("known", {}).values() if one["facts"]]
    values = {
        "known_before": 100 * sum(one["kept"] for one in known) / sum(one["facts"] for one in known) if known else None,
        "noise": probed("noise", "at_10"),
        "relearnt": probed("relearn", "after"),
        "own_at_least": last.recall[kept].own_at_least,
        "own_at_most": last.recall[kept].own_at_most,
        "drift": probed("drift", "divergence"),
        "trained_tokens": total("trained_tokens"),
        "flops": total("flops"),
        "seconds": total("seconds"),
    }
    return {name: math.nan if value is None else value for name, value in values.items()}


def page(arenas: Sequence[Arena]) -> str:
    """The text of docs/arena.md."""
    sections = [line for arena in arenas for line in section(arena)] or ["No results are in the folder yet."]
    return INTRODUCTION + "\n".join(sections).strip() + "\n"


def section(arena: Arena) -> list[str]:
    """Where and how an arena was run, its picture and its tables."""
    sweep, arms = arena.sweep, arena.arms
    counted, others = arms[arms["why_not"] == ""], arms[arms["why_not"] != ""]
    where = {
        f"{stage.device} ({stage.processes} process{'es' * (stage.processes != 1)}), Python {stage.python}, "
        + ", ".join(f"{name} {stage.libraries[name]}" for name in LIBRARIES if name in stage.libraries)
        for stage in arena.stages.values()
    }
    lines = [f"## {plain(arena.name)}", "", *commands(sweep)]
    lines += [f"Run with {seeds_text(sweep.seeds)} on {'; and on '.join(sorted(where))}.", ""]
    lines += [f"![What each arm keeps, takes, and knows of {sweep.stages[-1]}]({arena.picture.name})", ""]
    caption = f"{sweep.title}: the best arm first, means over seeds"
    lines += [as_markdown(table(arena, counted, caption, [explain(arms["n"], arms["seeds_to_halve"])])), COLUMNS]
    if len(others):
        caption = "Not counted, as a stage did not learn what it was for"
        why = [f"{arm}: {why}." for arm, why in others["why_not"].items()]
        lines.append(as_markdown(table(arena, others, caption, why)))
    lines.append(as_markdown(settings(sweep)))
    lacking = {run.arm for run in sweep.frame.begun} - set(sweep.rows.loc[sweep.rows["label"].isin(arms.index), "arm"])
    if lacking:  # their stages were left out of the file, or not trained yet
        lines += [f"Not measured after {sweep.stages[-1]}: {', '.join(map(escape_markdown, sorted(lacking)))}.", ""]
    return lines


def commands(sweep: Sweep) -> list[str]:
    """A block of the commands that run the sweep again: one for each set of changes on the command line."""
    name = f"arena/{sweep.recipe}" if f"arena/{sweep.recipe}" in shipped.names() else sweep.recipe
    seeds: dict[tuple[str, ...], set[int]] = {}
    for run in sweep.frame.begun:
        seeds.setdefault(tuple(as_overrides(run.overrides)), set()).add(run.seed)
    lines = []
    for overrides, of in seeds.items():
        options = [part for seed in sorted(of) for part in ("--seed", str(seed))]
        lines.append(shlex.join(["remix", "sweep", name, "--profile", sweep.profile, *options, *overrides]))
    return ["```text", *lines, "```", ""]


def settings(sweep: Sweep) -> Table:
    """What each arm sets that `none` does not; a stage of another arm by that arm's name."""
    arm_of = sweep.rows.drop_duplicates("key").set_index("key")["label"].to_dict()
    arms = {
        run.arm: [KEY.sub(lambda key: f'"{arm_of.get(key[1], key[1])}"', line) for line in as_overrides(run.settings)]
        for run in sweep.frame.begun
    }
    apart = [" ".join(line for line in lines if line not in arms[NONE]) or "-" for lines in arms.values()]
    shown = pd.DataFrame({"settings": apart}, pd.Index(list(arms), name="arm"))
    return Table("", f"What each arm sets that {NONE} does not", shown, words=("settings",))


def table(arena: Arena, arms: pd.DataFrame, caption: str, notes: Sequence[str]) -> Table:
    """Some of the arms, and all that was measured of them."""

    def interval(name: str, low: str, high: str) -> list[str]:
        ends = zip(arms[name], arms[low], arms[high], strict=True)
        texts = [f"{mean:.3f}" if pd.isna(down) else f"{mean:.1f} [{down:.1f}, {up:.1f}]" for mean, down, up in ends]
        return ["-" if text == "nan" else text for text in texts]

    shown = pd.DataFrame({"seeds": arms["n"], arena.kept: interval("kept", "kept_low", "kept_high")})
    shown[arena.score] = interval("score", "score_low", "score_high")
    for task in arena.sweep.tasks[1:]:
        shown[f"{task}, not taught, %"] = arena.sweep.ranked(task)["mean"]
    for name, (head, style) in SHOWN.items():
        if arena.arms[name].notna().any():
            shown[head] = arms[name].map(style.format, na_action="ignore")
    return Table("", caption, shown.rename_axis("arm"), notes=notes)


def draw(arena: Arena) -> "Drawing":
    """A row for each arm: what it keeps, what it takes, and what it knows of the last stage."""
    from matplotlib.figure import Figure

    arms, places, counted = arena.arms, range(len(arena.arms)), (arena.arms["why_not"] == "").sum()
    figure = Figure(figsize=(figures.WIDTH + 1.4, 1.3 + 0.25 * len(arms)))
    axes = figure.subplots(1, 3, sharey=True, width_ratios=(3, 1.3, 1.3))
    looks: dict[str, Any] = {"edgecolors": figures.ACCENT, "s": 32, "zorder": 3}
    for panel, name in zip(axes, ("kept", "cost", "score"), strict=True):
        if f"{name}_low" in arms:
            ends = [arms[name] - arms[f"{name}_low"], arms[f"{name}_high"] - arms[name]]
            width: dict[str, Any] = {"ecolor": (figures.ACCENT, 0.4), "elinewidth": 3, "label": "95% interval"}
            panel.errorbar(arms[name], places, xerr=ends, fmt="none", **width)
        panel.scatter(arms[name][:counted], places[:counted], c=figures.ACCENT, label="an arm that counts", **looks)
        panel.scatter(arms[name][counted:], places[counted:], c=figures.PAPER, label="does not count", **looks)
        panel.axvline(arms.loc[NONE, name], color=figures.MUTED, linestyle=":", linewidth=1, label="none")
        panel.axhline(counted - 0.5, color=figures.RULE, linewidth=1)
        panel.grid(axis="x")
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)
    axes[0].set_yticks(places, [textwrap.shorten(plain(arm), 40, placeholder=" ...") for arm in arms.index])
    axes[0].set(xlim=(-2, 102), ylim=(len(arms) - 0.4, -0.6), xlabel=plain(arena.kept))
    most = arms["cost"].max()
    axes[1].set(xlim=(0, None if math.isnan(most) else 1.1 * most), xlabel="FLOPs (none: 1)")
    axes[2].set(xlim=None if arms["score_low"].isna().all() else (-4, 104), xlabel=plain(arena.score))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4)
    return figure


if __name__ == "__main__":
    main()
