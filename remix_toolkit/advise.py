"""`remix advise`: which remedy keeps a recipe's first facts, found out by a pilot on these facts that halves its arms.

The pilot is a sweep in rounds. The first tries every remedy that the user's situation allows under one seed; each later
one goes on with the better half under more seeds. Everything is published in the store as by any sweep, so a pilot
that was stopped goes on where it stopped.
"""

import json
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, isnan, nan, sqrt
from pathlib import Path
from typing import Any

import yaml

from remix_toolkit import api
from remix_toolkit.console import format_duration, info, warn
from remix_toolkit.disk import write_text
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.graph.sweep_state import Command
from remix_toolkit.recipe.load import find_recipe, load_recipe, parse_override
from remix_toolkit.recipe.schema import Factoid, Mix, Recipe
from remix_toolkit.records import RunRecord
from remix_toolkit.report.summary import NONE, Comparison, Sweep, sweeps

ROUNDS = (1, 3, 5)  # seeds that an arm has had by the end of each round
FEWEST_FACTS, MOST_FACTS = 20, 100  # fewer make wide intervals; of more, a pilot needs only these
AS_IT_IS = "the recipe as it is"


@dataclass(frozen=True)
class Arm:
    """An arm of the pilot: settings of the first stage and of every later one, both without mixing but for these."""

    first: Mapping[str, Any]
    later: Mapping[str, Any]
    old_data: bool = False  # does a later stage need the first one's facts?


def remedies(first: str) -> dict[str, Arm]:
    """All arms; `first` is the name of the first stage."""
    words, text = {"mix.random_words": {"ratio": 2}}, {"mix.passages": {"ratio": 2}}
    return {
        "random words": Arm(words, {}),
        "text": Arm({}, text),
        "random words, text": Arm(words, text),
        "format anchor": Arm({}, {"mix.format_anchor": {"stage": first, "ratio": 0.1}}),
        "half frozen": Arm({}, {"freeze": {"half": True}}),
        "weights held": Arm({}, {"l2": {"weight": 0.1}}),
        "outputs held": Arm({}, {"kl": {"weight": 10, "on": "prompts"}}),
        "averaged": Arm({}, {"average": {"parent": 0.25}}),
        "replay 10%": Arm({}, {"mix.replay": {"stage": first, "ratio": 0.1, "redraw": True}}, old_data=True),
        "replay 10%, random words": Arm(
            words, {"mix.replay": {"stage": first, "ratio": 0.1, "redraw": True}}, old_data=True
        ),
    }


@dataclass(frozen=True)
class Pilot:
    """What all rounds have in common: the recipe under a profile with some settings, and where the rounds are."""

    name: str
    profile: str
    overrides: Sequence[str]
    runs: Path

    @property
    def folder(self) -> Path:
        """Of the rounds' sweep files, the page and the advised sweep."""
        return self.runs / "advice" / find_recipe(self.name).stem

    def write(self, part: str, arms: Mapping[str, Mapping[str, Any]], seeds: Iterable[int] = (0,)) -> Path:
        """A sweep of some arms; all rounds have one name, so that the report shows them as one."""
        file = self.folder / part / f"{self.folder.name}-advice.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        sweep = {
            "recipe": str(find_recipe(self.name).resolve()),
            "profile": str(Path(self.profile).resolve()) if Path(self.profile).is_file() else self.profile,
            "set": {key: value for key, value, _ in map(parse_override, self.overrides)},
            "arms": {arm: dict(settings) for arm, settings in arms.items()},
            "seeds": list(seeds),
        }
        write_text(file, yaml.safe_dump(sweep, sort_keys=False))
        return file

    def check(self, arm: str, settings: Mapping[str, Any]) -> int:
        """How many facts the first stage teaches in this arm. Raises BadInput where the arm cannot be trained."""
        from remix_toolkit.stage.prepare import prepare

        (cell,) = load_sweep(str(self.write("checked", {arm: settings})))[1]
        return len(prepare(cell.recipe, cell.nodes, self.runs, ask=False)[0].data.facts)

    def run(self, file: Path, jobs: int | None) -> list[RunRecord]:
        """Run a round; what its runs consist of. Raises RunFailed where a stage failed."""
        from remix_toolkit.launch.sweep import failures, run_sweep

        command = Command(sweep=str(file), profile=None, seeds=None, overrides=[])
        declared, cells, records = api.begin_sweep(command, self.runs)
        if failed := failures(run_sweep(command, cells, declared.keep, self.runs, jobs)):
            raise RunFailed(failed)
        return records


@dataclass(frozen=True)
class Advice:
    """What a pilot came to. `arm` is None where no remedy is better than none; shares are in percent."""

    arm: str | None
    settings: dict[str, Any]
    kept: float | None  # of the first stage's facts, under that arm
    kept_without: float
    gain: tuple[float, float] | None  # 95% interval of the difference
    seeds: int
    compute: float | None  # FLOPs of all stages, as a multiple of those of `none`, where these are known
    compared: list[str]  # the arms that were compared with none at the end
    left_out: dict[str, str]  # arms that were not tried, or not counted, and why
    sweep: Path | None  # of that arm alone: the file to train it by
    page: Path

    @property
    def lines(self) -> list[str]:
        """The advice in words, and then what was not counted."""
        seeds = f"{self.seeds} seeds" if self.seeds > 1 else "one seed"
        left_out = [f"not counted: {arm}: {why}" for arm, why in self.left_out.items()]
        if not self.compared:
            nothing = "No remedy can be advised: of those that were tried, none counts."
            return [f"{nothing} Without one, {self.kept_without:.1f}% is kept ({seeds}).", *left_out]
        if self.arm is None or self.gain is None:
            return [f"No remedy is better than none, which keeps {self.kept_without:.1f}% ({seeds}).", *left_out]
        low, high = self.gain
        settings = {key: value for key, value in self.settings.items() if value}
        compute = f"; it takes {self.compute:.1f} times the computation" if self.compute else ""
        return [
            f"Use {self.arm}: it keeps {self.kept:.1f}% of the facts, against {self.kept_without:.1f}% without a "
            f"remedy. The difference is between {low:+.1f} and {high:+.1f} points (95%, {seeds}){compute}.",
            f"its settings: {json.dumps(settings)}",
            f"to train it: remix sweep {shlex.quote(str(self.sweep))}",
            *left_out,
        ]


def advise(
    name: str,
    profile: str = "tiny",
    overrides: Sequence[str] = (),
    runs: Path = Path("runs"),
    jobs: int | None = None,
    redo_first: bool = True,
    old_data: bool = True,
) -> Advice:
    """Run the pilot for a recipe of two or more stages, and write its page and a sweep of the recommended arm alone.

    `redo_first`: may the first stage be trained differently? `old_data`: will its facts be at hand in later stages?
    Raises BadInput for a recipe that cannot be advised on, RunFailed where a stage fails or does not learn its facts.
    """
    recipe = load_recipe(name, profile, list(overrides))
    first, *later = recipe.stages
    if not later or not isinstance(recipe.stages[first].data, Factoid):
        raise BadInput(f"{name}: advice is on the facts of a first stage that another one comes after; it has {first}")
    whole = Pilot(name, profile, overrides, runs)
    pilot = _sampled(whole, recipe)
    allowed, left_out = _allowed(pilot, recipe, redo_first, old_data)
    arms = list(allowed)
    records = pilot.run(pilot.write("none", {NONE: allowed[NONE]}), jobs)
    if why := _measured(runs, records).uncounted.get(NONE):
        more = "" if pilot is whole else f", or teach more than {MOST_FACTS} facts: set stages.{first}.data.size"
        raise RunFailed(
            f"{name}: without a remedy, {why}: train longer (num_train_epochs of that stage), or at another rate{more}"
        )
    for number, (begin, end) in enumerate(pairwise((0, *ROUNDS)), start=1):
        settings = {arm: allowed[arm] for arm in arms}
        info(f"round {number} of {len(ROUNDS)}: {', '.join(arms)}; seeds {', '.join(map(str, range(begin, end)))}")
        started = time.monotonic()
        records += pilot.run(pilot.write(f"round{number}", settings, range(begin, end)), jobs)
        seconds_a_run = (time.monotonic() - started) / (len(arms) * (end - begin))
        sweep = _measured(runs, records)
        unmatched = _unmatched(sweep.uncounted, arms)
        if NONE in sweep.uncounted:
            warn(f"without a remedy, {sweep.uncounted[NONE]}")
        left_out |= unmatched
        ranked = [arm for arm in sweep.ranked(sweep.tasks[0]).index if arm in arms and arm not in (NONE, *unmatched)]
        arms = [NONE, *ranked]
        if not ranked:
            break
        if number < len(ROUNDS):
            arms = arms[: 1 + max(1, ceil(len(ranked) / 2))]
            runs_left = sum(len(arms) * (after - before) for before, after in pairwise(ROUNDS[number - 1 :]))
            info(f"{runs_left} runs at most are left: about {format_duration(runs_left * seconds_a_run)} at this pace")
    compared = {one.second: one for one in sweep.compare(sweep.tasks[0], [(NONE, arm) for arm in arms[1:]])}
    return _advice(whole, allowed, sweep, compared, left_out)


def _sampled(pilot: Pilot, recipe: Recipe) -> Pilot:
    """The pilot with the first MOST_FACTS facts, where there are more and its settings do not say how many."""
    size = f"stages.{next(iter(recipe.stages))}.data.size"
    facts = pilot.check(NONE, _plain(recipe))
    if facts < FEWEST_FACTS:
        wide = 98 / sqrt(facts)  # 1.96 standard errors of a share of a half, in points
        warn(f"{facts} facts are few: an interval for a share of them is some {wide:.0f} points to each side")
    if facts <= MOST_FACTS or any(override.startswith(f"{size}=") for override in pilot.overrides):
        return pilot
    info(f"the pilot teaches the first {MOST_FACTS} of {facts:,} facts; {size}={facts} teaches all")
    return replace(pilot, overrides=[*pilot.overrides, f"{size}={MOST_FACTS}"])


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The settings that take all mixing data out."""
    return {f"stages.{stage}.mix": {} for stage in recipe.stages}


def _allowed(
    pilot: Pilot, recipe: Recipe, redo_first: bool, old_data: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The settings of each arm that can be tried, and why the others cannot."""
    first, *later = recipe.stages
    plain = _plain(recipe)
    allowed: dict[str, dict[str, Any]] = {NONE: plain}
    left_out = {}
    if any(stage.mix != Mix() for stage in recipe.stages.values()):
        pilot.check(AS_IT_IS, {})
        allowed[AS_IT_IS] = {}
    for arm, remedy in remedies(first).items():
        if remedy.first and not redo_first:
            left_out[arm] = "the first stage stays as it is"
        elif remedy.old_data and not old_data:
            left_out[arm] = "the first stage's facts will not be at hand"
        else:
            settings = plain | {f"stages.{first}.{key}": value for key, value in remedy.first.items()}
            settings |= {f"stages.{stage}.{key}": value for stage in later for key, value in remedy.later.items()}
            try:
                pilot.check(arm, settings)
                allowed[arm] = settings
            except BadInput as error:
                left_out[arm] = str(error).partition("\n")[0].rstrip(":")
    return allowed, left_out


def _unmatched(uncounted: Mapping[str, str], arms: Sequence[str]) -> dict[str, str]:
    """The arms that are ruled out, and why; a fault that `none` has too is that of a stage which they share with it."""
    return {arm: why for arm, why in uncounted.items() if arm in arms and why != uncounted.get(NONE)}


def _measured(runs: Path, records: Sequence[RunRecord]) -> Sweep:
    from remix_toolkit.report.frame import load

    (sweep,) = sweeps(load(runs, records=records))
    return sweep


def _advice(
    pilot: Pilot,
    allowed: Mapping[str, dict[str, Any]],
    sweep: Sweep,
    compared: Mapping[str, Comparison],
    left_out: dict[str, str],
) -> Advice:
    """The best arm that is ahead of none, when p is corrected for all that are compared; or that there is none."""
    from remix_toolkit.report.page import PAGE, write_report

    ranked = sweep.ranked(sweep.tasks[0])
    kept = ranked["mean"]
    arm = next((arm for arm in kept.index if arm in compared and compared[arm].winner == arm), None)
    one = compared[arm] if arm else None
    stages = sweep.published
    stages = stages.assign(flops=[sweep.frame.stages[path].flops for path in stages["path"]]).astype({"flops": float})
    flops = stages.groupby("label")["flops"].mean()
    compute = float(flops[arm] / flops[NONE]) if arm else nan
    report = pilot.folder / "report"
    advice = Advice(
        arm=arm,
        settings=allowed[arm] if arm else {},
        kept=float(kept[arm]) if arm else None,
        kept_without=float(kept[NONE]),
        gain=(one.low, one.high) if one else None,
        seeds=len(one.seeds) if one else int(ranked.loc[NONE, "n"]),
        compute=None if isnan(compute) else compute,
        compared=list(compared),
        left_out=left_out,
        sweep=pilot.write("advised", {arm: allowed[arm]}) if arm else None,
        page=report / PAGE,
    )
    write_report(pilot.runs, report, f"{pilot.folder.name}-advice", advice.lines)
    return advice
