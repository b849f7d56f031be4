"""`remix advise`: which remedy keeps a recipe's first facts, found out by a pilot on these facts that halves its arms.

The pilot is a sweep in rounds. The first tries every remedy that the user's situation allows under one seed; each later
one goes on with the better half under more seeds. Everything is published in the store as by any sweep, so a pilot
that was stopped goes on where it stopped.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from remix_toolkit import api
from remix_toolkit.console import info, warn
from remix_toolkit.disk import write_text
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.graph.sweep_state import Command
from remix_toolkit.recipe.load import find_recipe, load_recipe, parse_override
from remix_toolkit.recipe.schema import Factoid, Mix, Recipe
from remix_toolkit.records import RunRecord

if TYPE_CHECKING:
    from remix_toolkit.report.summary import Comparison, Sweep

ROUNDS = (1, 3, 5)  # seeds that an arm has had by the end of each round
FEWEST_FACTS = 20
LEARNT = 95.0  # percent of its own facts that a later stage knows in an arm that counts
LOSS_ABOVE = 0.02  # or the share by which its held-out loss may be above that of `none`
NONE, AS_IT_IS = "none", "the recipe as it is"


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
        "format anchor": Arm({}, {"mix.format_anchor": {"stage": first, "ratio": 0.5}}),
        "half frozen": Arm({}, {"freeze": {"half": True}}),
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
    compute: float | None  # steps of all stages, as a multiple of those of `none`
    left_out: dict[str, str]  # arms that were not tried, or not counted, and why
    sweep: Path | None  # of that arm alone: the file to train it by
    page: Path


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
    pilot = Pilot(name, profile, overrides, runs)
    recipe = load_recipe(name, profile, list(overrides))
    first, *later = recipe.stages
    if not later or not isinstance(recipe.stages[first].data, Factoid):
        raise BadInput(f"{name}: advice is on the facts of a first stage that another one comes after; it has {first}")
    allowed, left_out = _allowed(pilot, recipe, redo_first, old_data)
    arms = list(allowed)
    records: list[RunRecord] = []
    for number, (begin, end) in enumerate(pairwise((0, *ROUNDS)), start=1):
        settings = {arm: allowed[arm] for arm in arms}
        info(f"round {number} of {len(ROUNDS)}: {', '.join(arms)}; seeds {begin} to {end - 1}")
        records += pilot.run(pilot.write(f"round{number}", settings, range(begin, end)), jobs)
        sweep = _measured(runs, records)
        unmatched = _unmatched(sweep, later[-1], arms)
        left_out |= unmatched
        ranked = [arm for arm in _ranked(sweep) if arm in arms and arm not in (NONE, *unmatched)]
        arms = [NONE, *ranked[: max(1, ceil(len(ranked) / 2))]] if number < len(ROUNDS) else [NONE, *ranked]
    compared = {one.second: one for one in sweep.compare(sweep.tasks[0], [(NONE, arm) for arm in arms[1:]])}
    return _advice(pilot, allowed, sweep, compared, left_out)


def _allowed(
    pilot: Pilot, recipe: Recipe, redo_first: bool, old_data: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The settings of each arm that can be tried, and why the others cannot. Raises BadInput where none can."""
    from remix_toolkit.stage.prepare import prepare

    def check(arm: str, settings: dict[str, Any]) -> int:
        (cell,) = load_sweep(str(pilot.write("checked", {arm: settings})))[1]
        prepared = prepare(cell.recipe, cell.nodes, pilot.runs, ask=False)
        allowed[arm] = settings
        return len(prepared[0].data.facts)

    first, *later = recipe.stages
    allowed: dict[str, dict[str, Any]] = {}
    left_out = {}
    plain: dict[str, Any] = {f"stages.{stage}.mix": {} for stage in recipe.stages}
    facts = check(NONE, plain)
    if facts < FEWEST_FACTS:
        wide = 98 / sqrt(facts)  # 1.96 standard errors of a share of a half, in points
        warn(f"{facts} facts are few: an interval for a share of them is some {wide:.0f} points to each side")
    if any(stage.mix != Mix() for stage in recipe.stages.values()):
        check(AS_IT_IS, {})
    for arm, remedy in remedies(first).items():
        if remedy.first and not redo_first:
            left_out[arm] = "the first stage stays as it is"
        elif remedy.old_data and not old_data:
            left_out[arm] = "the first stage's facts will not be at hand"
        else:
            settings = plain | {f"stages.{first}.{key}": value for key, value in remedy.first.items()}
            settings |= {f"stages.{stage}.{key}": value for stage in later for key, value in remedy.later.items()}
            try:
                check(arm, settings)
            except BadInput as error:
                left_out[arm] = str(error).partition("\n")[0].rstrip(":")
    return allowed, left_out


def _measured(runs: Path, records: Sequence[RunRecord]) -> "Sweep":
    from remix_toolkit.report.frame import load
    from remix_toolkit.report.summary import sweeps

    (sweep,) = sweeps(load(runs, records=records))
    return sweep


def _ranked(sweep: "Sweep") -> list[str]:
    return list(sweep.ranked(sweep.tasks[0]).index)


def _unmatched(sweep: "Sweep", last: str, arms: Sequence[str]) -> dict[str, str]:
    """The arms that do not count, because a stage did not learn what it was for.

    Raises RunFailed where that is so without a remedy.
    """
    rows = sweep.rows[(sweep.rows["stage"] == last) & sweep.rows["own"]].groupby("arm")
    recall, loss = rows["recall"].mean(), rows["held_out_loss"].mean()
    reasons = {arm: f"{sweep.stages[0]} did not learn all its facts" for arm in arms if arm in sweep.unlearned}
    if NONE in reasons or recall.get(NONE, LEARNT) < LEARNT:
        raise RunFailed(f"{sweep.title}: not all facts of each stage are learnt without a remedy: train longer")
    for arm in arms:
        if recall.get(arm) is not None and recall[arm] < LEARNT:
            reasons[arm] = f"{last} knows {recall[arm]:.1f}% of its own facts, under {LEARNT:.0f}%"
        elif loss.get(arm) is not None and loss[arm] > (1 + LOSS_ABOVE) * loss[NONE]:
            reasons[arm] = f"the loss on held-out rows is {loss[arm]:.2f}, over {LOSS_ABOVE:.0%} above {loss[NONE]:.2f}"
    return reasons


def _advice(
    pilot: Pilot,
    allowed: Mapping[str, dict[str, Any]],
    sweep: "Sweep",
    compared: Mapping[str, "Comparison"],
    left_out: dict[str, str],
) -> Advice:
    """The best arm that is ahead of none, when p is corrected for all that are compared; or that there is none."""
    from remix_toolkit.report.page import write_report

    page = write_report(pilot.runs, pilot.folder / "report", f"{pilot.folder.name}-advice")
    assert page
    kept = sweep.ranked(sweep.tasks[0])["mean"]
    arm = next((arm for arm in kept.index if arm in compared and compared[arm].winner == arm), None)
    one = compared[arm] if arm else None
    steps = sweep.rows.drop_duplicates(["arm", "seed", "stage"]).groupby("arm")["steps"].mean()
    return Advice(
        arm=arm,
        settings=allowed[arm] if arm else {},
        kept=float(kept[arm]) if arm else None,
        kept_without=float(kept[NONE]),
        gain=(one.low, one.high) if one else None,
        seeds=len(one.seeds) if one else max((len(other.seeds) for other in compared.values()), default=1),
        compute=float(steps[arm] / steps[NONE]) if arm else None,
        left_out=left_out,
        sweep=pilot.write("advised", {arm: allowed[arm]}) if arm else None,
        page=page,
    )
