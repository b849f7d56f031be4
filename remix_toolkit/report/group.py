"""What the report says of one sweep at one place of its grid: its arms, means, comparisons, and the answer in words."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from remix_toolkit.errors import BadInput
from remix_toolkit.report.facts import Facts, facts_of
from remix_toolkit.report.retention import FLOOR, remembered
from remix_toolkit.report.seeds import (
    aggregate,
    compared,
    correct,
    missing,
    named,
    paired,
    retrained,
    sweeps,
    unlearned,
)
from remix_toolkit.report.stats import LEVEL
from remix_toolkit.report.tables import slug
from remix_toolkit.report.verdicts import Answers

Entry = dict[str, Any]
Expected = Mapping[tuple[str, str, str], Collection[int]]


@dataclass
class Group:
    """The entries of one (recipe, profile, place in a grid), their arms named apart, and what follows from them."""

    recipe: str
    profile: str
    place: str
    entries: list[Entry]
    answers: Answers
    wanted: Expected
    slug: str  # in the names of its files
    warnings: list[str]

    @property
    def title(self) -> str:
        return f"{self.recipe} on {self.profile}" + (f", {self.place}" if self.place else "")

    @cached_property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(entry["stage"] for entry in self.entries))

    @cached_property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(entry["arm"] for entry in self.entries))

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({entry["seed"] for entry in self.entries})

    @cached_property
    def tasks(self) -> list[str]:
        """Those whose recall after the last stage says what was kept."""
        return remembered(self.entries)

    @cached_property
    def means(self) -> list[Entry]:
        """`aggregate`'s rows, under the arms' names here."""
        begun = {
            entry["arm"]: self.wanted.get((self.recipe, entry["own_arm"], self.profile), ()) for entry in self.entries
        }
        return aggregate(self.entries, {(self.recipe, arm, self.profile): seeds for arm, seeds in begun.items()})

    def mean(self, arm: str, stage: str, task: str) -> Entry | None:
        """The row of one arm, stage and task."""
        return next((r for r in self.means if (r["arm"], r["stage"], r["task"]) == (arm, stage, task)), None)

    @cached_property
    def readable(self) -> list[Entry]:
        """The entries without those whose recall.jsonl cannot be read; of these, a warning is noted."""
        readable = []
        for entry in self.entries:
            try:
                if entry["recall"] is not None and entry["task"] in self.tasks:
                    self.answers.of(entry["path"], entry["list"])
                readable.append(entry)
            except BadInput as error:
                self.warnings.append(str(error))
        return readable

    @cached_property
    def facts(self) -> dict[str, Facts]:
        """By the task to remember: every run's answers to its facts."""
        return {facts.task: facts for facts in facts_of(self)}

    @cached_property
    def compared(self) -> list[Entry]:
        """Every arm against the first, fact by fact."""
        return compared(self.readable, self.answers.known)

    def ranked(self, task: str) -> list[Entry]:
        """The rows of a task after the last stage, the best arm first."""
        rows = [row for row in self.means if (row["stage"], row["task"]) == (self.stages[-1], task)]
        return sorted(rows, key=lambda row: -row["mean"])

    def noted(self) -> list[str]:
        """What a reader must know before any number is believed."""
        last, measured = self.stages[-1], {(row["arm"], row["stage"], row["task"]) for row in self.means}
        apart = [arm for arm in self.arms if not any((arm, last, task) in measured for task in self.tasks)]
        lines = [*missing(self.means), *unlearned(self.entries), *retrained(self.entries)]
        if apart and self.tasks:
            asked = f"{_list(self.tasks)} after {last}"
            lines.append(f"{_list(apart)}: not in the answer, as nothing is measured of {asked}")
        return lines

    def unlearned(self) -> set[str]:
        """The arms whose first stage does not know its own facts under some seed: what they lack later was not lost."""
        first = [e for e in self.entries if e["stage"] == self.stages[0] and e["own"] and e["recall"] is not None]
        return {entry["arm"] for entry in first if entry["recall"] < FLOOR}


def groups(entries: Sequence[Entry], wanted: Expected, answers: Answers) -> list[Group]:
    """One for each recipe, profile and place, in the order of the entries."""
    all_groups = []
    for (recipe, profile, place), sweep in sweeps(entries).items():
        rows = [{**row, "own_arm": entry["arm"]} for row, entry in zip(named(sweep), sweep, strict=True)]
        all_groups.append(Group(recipe, profile, place, rows, answers, wanted, slug(recipe, profile, place), []))
    return all_groups


def answer(group: Group) -> list[tuple[str, list[str]]]:
    """For each task to remember: the answer in one sentence, and the sentences that qualify it."""
    if not group.tasks:
        return [("Nothing can be said about retention: no stage here is measured by recall.", [])]
    if len(group.stages) == 1 and all(e["own"] for e in group.entries):
        known = [row for row in group.means if row["task"] == group.tasks[0]]
        recalls = ", ".join(f"{row['arm']} {_percent(row)}" for row in known[:8])
        return [
            (
                f"Nothing can be said about retention yet: {group.stages[0]} is the only stage, "
                f"and what it knows of its facts it has only just learnt ({recalls}).",
                [],
            )
        ]
    return [_answer(group, task) for task in group.tasks]


def _answer(group: Group, task: str) -> tuple[str, list[str]]:
    last = group.stages[-1]
    ranked = group.ranked(task)
    if not ranked:
        return f"Nothing can be said about {task} yet: it is not measured after {last}.", []
    trained = any(e["own"] and e["task"] == task for e in group.entries)
    low = group.unlearned() & {row["arm"] for row in ranked} if trained else set()
    sound = [row for row in ranked if row["arm"] not in low]
    best = (sound or ranked)[0]
    of = f"the {best['facts']:,} {task} facts" + (f" that {group.stages[0]} taught" if trained else "")
    more = []
    if low:
        less = f"{group.stages[0]} did not reach {FLOOR:.0f}% of its own facts"
        more.append(f"Left out of this answer, because {less}: {_list(sorted(low, key=group.arms.index))}.")
    if not sound:
        return f"Nothing can be said about what was retained of {of}: in no arm were they all learnt first.", more
    head = f"After {last}, {best['arm']} still knows {_percent(best)} of {of}{_over(best)}"
    if len(group.arms) == 1:
        return f"{head}. It is the only arm: nothing can be said about what helps.", [*more, *_few(best, [])]
    if len(sound) == 1:
        return f"{head}. No other arm can be compared with it.", [*more, *_few(best, [])]
    differences = [_compared(group, task, other, best) for other in sound[1:]]
    correct([one for one in differences if one])
    judged = [_against(other, best, one) for other, one in zip(sound[1:], differences, strict=True)]
    clear = all(one.is_ahead for one in judged)
    claim = f", the most of {len(sound)} arms" if clear else f", the highest mean of {len(sound)} arms"
    # In full: the first arm, which the others are compared with, the next best, and whoever is ahead of the best.
    in_full = [one for one in judged if one.arm == group.arms[0] or one is judged[0] or one.is_behind]
    in_full.sort(key=lambda one: one.arm != group.arms[0])
    alike = [one.arm for one in judged if one not in in_full and not one.is_ahead]
    also = [f"It cannot be told apart from {_list(alike)}."] if alike else []
    sentences = " ".join([*(one.says for one in in_full), *also])
    ahead = any(one.is_ahead for one in in_full)
    notes = [f"The best of {len(sound)} arms was chosen after the fact, which flatters its lead."] if ahead else []
    return f"{head}{claim}. {sentences}", [*more, *notes, *_few(best, judged)]


@dataclass(frozen=True)
class _Against:
    """The best arm against another one: what can be said, in words, and over how many seeds that both have."""

    arm: str
    seeds: int
    seeds_to_halve: int | None
    is_ahead: bool
    is_behind: bool
    says: str


def _compared(group: Group, task: str, other: Entry, best: Entry) -> Entry | None:
    try:
        return paired(group.readable, other["arm"], best["arm"], group.stages[-1], task, known=group.answers.known)
    except ValueError:
        return None


def _against(other: Entry, best: Entry, pair: Entry | None) -> _Against:
    """By the seeds that both have: the means of each over all of its own may be of different ones.

    The best arm is ahead, or behind, if p is below 0.05 even when it is corrected for all the others, and of more than
    one seed.
    """
    arm = other["arm"]
    if pair is None:
        why = f"It cannot be compared with {arm} ({_percent(other)}): they share no seed and facts."
        return _Against(arm, 0, None, False, False, why)
    seeds, same = pair["seeds"], pair["seeds"] == best["seeds"] == other["seeds"]
    name = f"{arm} ({pair['of_first']:.1f}%)"
    if not same:
        named = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        name = f"{arm} on what both have, {named} ({pair['of_second']:.1f}% against {pair['of_first']:.1f}%),"
    by = f"{pair['difference']:+.1f} points, 95% interval {pair['low']:+.1f} to {pair['high']:+.1f}"
    clear, ahead = len(seeds) > 1 and pair["p_holm"] < LEVEL, pair["difference"] > 0
    says = f"It is {'ahead of' if ahead else 'behind'} {name} by {by}."
    if not clear:
        apart = pair["low"] > 0 or pair["high"] < 0
        doubt = "" if not apart else ", under one seed" if len(seeds) == 1 else f" (Holm's p {pair['p_holm']:.3f})"
        says = f"Whether it is better than {name} cannot be said: {by}{doubt}."
    return _Against(arm, len(seeds), pair["seeds_to_halve"], clear and ahead, clear and not ahead, says)


def _few(best: Entry, judged: Sequence[_Against]) -> list[str]:
    """What the intervals are over, by the comparison that has the fewest seeds; how many seeds would halve them."""
    seeds = min([one.seeds for one in judged if one.seeds] or [best["n"]])
    if seeds == 1:
        shared = "One seed" if best["n"] == 1 else "One seed in common"
        return [f"{shared}: the intervals are over facts only and say nothing about other seeds."]
    wanted = max([one.seeds_to_halve or 0 for one in judged] or [best["seeds_to_halve"] or 0])
    return [f"{seeds} seeds: with {wanted}, the intervals would be half as wide."] if wanted else []


def _percent(row: Entry) -> str:
    return f"{row['mean']:.1f}%"


def _over(row: Entry) -> str:
    if row["n"] == 1:
        return f" (seed {row['seeds'][0]} alone)"
    return f" (mean of {row['n']} seeds, 95% interval {row['low']:.1f} to {row['high']:.1f})"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
