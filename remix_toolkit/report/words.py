"""A sweep in sentences: what was retained, what the intervals are over, and what weakens any of it."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from remix_toolkit.graph.memory import GB
from remix_toolkit.report.frame import Frame
from remix_toolkit.report.summary import FLOOR, Comparison, Sweep, retrained

KNOWN = ["task", "asked", "facts", "guesses"]  # of evaluate.known: the list, and what the base model knew of it
REAL_MODEL = (
    "This model started from random weights and has no knowledge to lose: recipes/real_model.yaml has these arms on a "
    "pretrained one, SmolLM2-135M (a night on two cores)."
)


def answer(sweep: Sweep) -> list[tuple[str, list[str]]]:
    """For each task to remember: the answer in one sentence, and the sentences that qualify it."""
    if not sweep.tasks:
        return [("Nothing can be said about retention: no stage here is measured by recall.", [])]
    if len(sweep.stages) == 1 and sweep.rows["own"].all():
        means = sweep.means[sweep.means["task"] == sweep.tasks[0]]
        recalls = some([f"{row.label} {row.mean:.1f}%" for row in means.itertuples()])
        only = f"{sweep.stages[0]} is the only stage, and what it knows of its facts it has only just learnt"
        return [(f"Nothing can be said about retention yet: {only} ({recalls}).", [])]
    return [_answer(sweep, task) for task in sweep.tasks]


def _answer(sweep: Sweep, task: str) -> tuple[str, list[str]]:
    first, last = sweep.stages[0], sweep.stages[-1]
    ranked = list(sweep.ranked(task).itertuples())
    if not ranked:
        return f"Nothing can be said about {task} yet: it is not measured after {last}.", []
    trained = bool((sweep.rows["own"] & (sweep.rows["task"] == task)).any())
    sound = [row for row in ranked if not (trained and row.label in sweep.uncounted)]
    best, *others = sound or ranked
    facts = f"the {best.facts:,} {task} facts" + (f" that {first} taught" if trained else "")
    notes = []
    if len(sound) < len(ranked):
        notes.append(f"Left out of this answer: {uncounted(sweep, {row.label for row in ranked})}.")
    if not sound:
        why = "in no arm did each stage learn what it was for"
        return f"Nothing can be said about what was retained of {facts}: {why}.", notes
    interval = f"mean of {best.n} seeds, 95% interval {best.low:.1f} to {best.high:.1f}"
    over = f"seed {best.seeds[0]} alone" if best.n == 1 else interval
    head = f"After {last}, {best.label} still knows {best.mean:.1f}% of {facts} ({over})"
    if not others:
        only = "It is the only arm: nothing can be said about what helps."
        why = only if len(sweep.arms) == 1 else "No other arm can be compared with it."
        return f"{head}. {why}", [*notes, explain([best.n], [best.seeds_to_halve])]
    compared = {one.first: one for one in sweep.compare(task, [(other.label, best.label) for other in others])}
    winners = {arm: one.winner for arm, one in compared.items()}
    undecided = [other.label for other in others if winners.get(other.label) != best.label]
    claim = f"{'the highest mean' if undecided else 'the most'} of {len(sound)} arms"
    # In full: the first arm, which the others are compared with, the next best, and whoever is ahead of the best.
    in_full = {row.label: row for row in others if row.label == sweep.arms[0]} | {others[0].label: others[0]}
    in_full |= {row.label: row for row in others if winners.get(row.label) == row.label}
    sentences = [_against(best, row, compared.get(arm)) for arm, row in in_full.items()]
    briefly = [arm for arm in undecided if arm not in in_full]
    one_seed = [arm for arm in briefly if arm in compared and compared[arm].is_clear_under_one_seed]
    alike = [arm for arm in briefly if arm not in one_seed]
    sentences += [f"Nor can it be said of {some(one_seed)}, under one seed."] if one_seed else []
    sentences += [f"It cannot be told apart from {some(alike)}."] if alike else []
    if best.label in (winners.get(arm) for arm in in_full):
        notes.append(f"The best of {len(sound)} arms was chosen after the fact, which flatters its lead.")
    if compared:
        notes.append(explain_comparisons(list(compared.values())))
    return f"{head}, {claim}. {' '.join(sentences)}", notes


def _against(best: Any, other: Any, comparison: Comparison | None) -> str:
    """The best arm against another one, by the seeds that both have: each one's mean may be of others too."""
    if comparison is None:
        return f"It cannot be compared with {other.label} ({other.mean:.1f}%): they share no seed and facts."
    name = f"{other.label} ({comparison.of_first:.1f}%)"
    if not comparison.seeds == best.seeds == other.seeds:
        recalls = f"{comparison.of_second:.1f}% against {comparison.of_first:.1f}%"
        name = f"{other.label} on what both have, {seeds_text(comparison.seeds)} ({recalls}),"
    by = f"{comparison.difference:+.1f} points, 95% interval {comparison.low:+.1f} to {comparison.high:+.1f}"
    if comparison.winner:
        return f"It is {'ahead of' if comparison.winner == best.label else 'behind'} {name} by {by}."
    is_one_seed = comparison.is_clear_under_one_seed
    doubt = ", under one seed" if is_one_seed else f" (Holm's p {comparison.p_holm:.3f})" if comparison.is_clear else ""
    return f"Whether it is better than {name} cannot be said: {by}{doubt}."


def uncounted(sweep: Sweep, arms: Container[str]) -> str:
    """Those of some arms that do not count, and why."""
    return some([f"{arm} ({why})" for arm, why in sweep.uncounted.items() if arm in arms])


def beside_paper(sweep: Sweep, paper: Mapping[str, float]) -> list[str]:
    """Which arms keep more or less here and the other way round in the paper; of a tiny model, what would show it."""
    kept = {row.label: row.mean for task in sweep.tasks[:1] for row in sweep.ranked(task).itertuples()}
    lines = [
        f"Not as in the paper: there {a} keeps {paper[a]} and {b} {paper[b]}, here {kept[a]:.0f} and {kept[b]:.0f}"
        for a, b in combinations([arm for arm in sweep.arms if arm in paper and arm in kept], 2)
        if (paper[a] - paper[b]) * (kept[a] - kept[b]) < 0
    ]
    is_pretrained = sweep.frame.stages[sweep.rows["path"].iloc[0]].is_pretrained
    return [*lines, REAL_MODEL] if lines and not is_pretrained else lines


def known_before(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each arm and list of facts: what the base model knew, and what is left of it, means over seeds.

    `results` are those of Known, as `Frame.results` has them.
    """
    lines: list[str] = []
    for (task, asked, facts, guesses), rows in pd.DataFrame(results).groupby(KNOWN, sort=False) if results else ():
        if not facts:
            lines.append(f"known before: none of the {asked} facts of {task} that the base model was asked")
            continue
        about = f"known before: {facts} of {asked} facts of {task}{f' ({guesses} of them guesses)' if guesses else ''}"
        for arm, of_arm in rows.groupby("arm", sort=False):
            left = (100 * of_arm["kept"] / facts).groupby(of_arm["stage"], sort=False).mean()
            after = ", ".join(f"{share:.1f}% after {stage}" for stage, share in left.items())
            lines.append(f"{f'{arm}: ' if rows['arm'].nunique() > 1 else ''}{about}, {after}")
    return lines


# --- what weakens it ---------------------------------------------------------------------------------------------


def notes(sweep: Sweep) -> list[str]:
    """What a reader must know before any number is believed."""
    lines = [*_missing(sweep.means), *unlearned(sweep.rows), *_retrained(sweep)]
    last = sweep.means[(sweep.means["stage"] == sweep.stages[-1]) & sweep.means["task"].isin(sweep.tasks)]
    measured = set(last["label"])
    if sweep.tasks and (apart := [arm for arm in sweep.arms if arm not in measured]):
        asked = f"{some(sweep.tasks)} after {sweep.stages[-1]}"
        lines.append(f"{some(apart)}: nothing is measured of {asked}")
    return lines


def _retrained(sweep: Sweep) -> Iterator[str]:
    is_first = sweep.published["label"] == sweep.arms[0]
    first, others = sweep.published[is_first], sweep.published[~is_first]
    for pair in first.merge(others, on=["stage", "seed"], suffixes=("_first", "")).itertuples():
        if why := retrained(*(sweep.frame.stages[path] for path in (pair.path_first, pair.path))):
            yield f"{pair.label}, seed {pair.seed}: {pair.stage} is not compared with the first arm's: {why}"


def premise(stage: str, known: str) -> str:
    """In words: a stage knows only so much of its own facts; nothing below that can be read as forgetting."""
    return f"{stage} knows only {known} of its own facts (100% is the premise)"


def _missing(means: pd.DataFrame) -> Iterator[str]:
    """A line for each arm and the seeds that it lacks, and one where its seeds were asked different facts."""
    lacks: dict[tuple[str, str], list[str]] = {}
    for row in means.itertuples():
        if row.missing:
            gap = f"{seeds_text(row.missing)} missing"
            lacks.setdefault((row.label, gap), []).append(f"{row.task} after {row.stage}")
        if len(row.lists) > 1:
            different = (row.label, "not the same facts under all seeds")
            lacks.setdefault(different, []).append(f"{row.task} after {row.stage}")
    return (f"{arm}: {what} ({', '.join(where)})" for (arm, what), where in lacks.items())


def unlearned(rows: pd.DataFrame) -> Iterator[str]:
    """A line for each arm and stage that does not know its own facts."""
    low = rows[rows["own"] & (rows["recall"] < FLOOR)].sort_values("seed")
    for (arm, stage), seeds in low.groupby(["label", "stage"], sort=False):
        known = ", ".join(f"{row.recall:.1f}% (seed {row.seed})" for row in seeds.itertuples())
        yield f"{arm}: {premise(stage, known)}"


def ties_and_memory(rows: pd.DataFrame) -> list[str]:
    """A line for each stage: its near ties, and the most memory of a device in GB, as far as either is known."""
    lines = []
    for stage, asked in rows.drop_duplicates(["key", "task"]).groupby("stage", sort=False):  # runs share stages
        ties = asked["near_ties"].sum()
        parts = [f"{ties:,} of {asked['facts'].sum():,} answers were near ties"] if ties else []
        for name, what in (("memory_estimated", "estimated"), ("memory_peak", "at the peak")):
            if asked[name].notna().any():
                parts.append(f"{asked[name].max() / GB:.3g} GB of memory {what}")
        lines += [f"{stage}: {', '.join(parts)}"] if parts else []
    return lines


def unmeasured(frame: Frame) -> list[str]:
    """A line for each arm that was begun, and of which nothing is measured yet."""
    arm = ["recipe", "profile", "arm"]
    measured = set(frame.measured[arm].itertuples(index=False, name=None))
    begun = dict.fromkeys((run.recipe, run.profile, run.arm) for run in frame.begun)
    absent = (one for one in begun if one not in measured)
    return [f"{recipe} on {profile}, {name}: nothing is measured yet" for recipe, profile, name in absent]


# --- what the numbers mean ---------------------------------------------------------------------------------------


def explain(seeds: Iterable[int], seeds_to_halve: Iterable[Any]) -> str:
    """What intervals are over, from the number of seeds of each, and how many seeds would halve them."""
    numbers, wanted = set(seeds), [number for number in seeds_to_halve if not pd.isna(number)]
    lines = []
    if numbers - {1}:
        lines.append("Intervals are for other seeds and other facts of the same kind.")
    if 1 in numbers:
        lines.append("The interval of one seed is for other facts under it, and says nothing of other seeds.")
    if wanted:
        most = f" to {max(wanted)}" if max(wanted) > min(wanted) else ""
        lines.append(f"Intervals would be half as wide with {min(wanted)}{most} seeds.")
    return " ".join(lines)


def explain_comparisons(compared: Sequence[Comparison]) -> str:
    """What the intervals of comparisons are over."""
    return explain([len(one.seeds) for one in compared], [one.seeds_to_halve for one in compared])


def held_out_text(row: Any) -> str:
    """The loss on held-out rows of a row of `Frame.measured` and, where there is one, the accuracy."""
    accuracy = "" if pd.isna(row.held_out_accuracy) else f", {row.held_out_accuracy:.0f}% right"
    return f"loss {row.held_out_loss:.2f}{accuracy}"


def seeds_text(seeds: Sequence[int]) -> str:
    """`seed 1`, or `seeds 1, 2`."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def some(names: Sequence[str], limit: int = 8) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
