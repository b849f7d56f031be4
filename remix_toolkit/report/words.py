"""A sweep in sentences: what was retained, what the intervals are over, and what weakens any of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from remix_toolkit.graph.memory import GB
from remix_toolkit.report.frame import Frame
from remix_toolkit.report.stats import LEVEL
from remix_toolkit.report.summary import FLOOR, Comparison, Sweep, retrained, with_holm

KNOWN = ["task", "asked", "facts", "guesses"]  # of evaluate.known: the list, and what the base model knew of it


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
    low = sweep.unlearned() & {row.label for row in ranked} if trained else set()
    sound = [row for row in ranked if row.label not in low]
    best = (sound or ranked)[0]
    facts = f"the {best.facts:,} {task} facts" + (f" that {first} taught" if trained else "")
    notes = []
    if low:
        unlearned = some([arm for arm in sweep.arms if arm in low])
        notes.append(
            f"Left out of this answer, because {first} did not reach {FLOOR:.0f}% of its own facts: {unlearned}."
        )
    if not sound:
        return f"Nothing can be said about what was retained of {facts}: in no arm were they all learnt first.", notes
    head = f"After {last}, {best.label} still knows {best.mean:.1f}% of {facts}{_interval(best)}"
    if len(sweep.arms) == 1:
        return f"{head}. It is the only arm: nothing can be said about what helps.", [*notes, *_few_seeds(best, [])]
    if len(sound) == 1:
        return f"{head}. No other arm can be compared with it.", [*notes, *_few_seeds(best, [])]
    judged = _judged(sweep, task, best, sound[1:])
    is_ahead_of_all = all(one.is_ahead for one in judged)
    claim = f", {'the most' if is_ahead_of_all else 'the highest mean'} of {len(sound)} arms"
    # In full: the first arm, which the others are compared with, the next best, and whoever is ahead of the best.
    in_full = [one for one in judged if one.arm == sweep.arms[0] or one is judged[0] or one.is_behind]
    in_full.sort(key=lambda one: one.arm != sweep.arms[0])
    briefly = [one for one in judged if one not in in_full and not one.is_ahead]
    one_seed = [one.arm for one in briefly if one.comparison and one.comparison.is_clear_under_one_seed]
    alike = [one.arm for one in briefly if one.arm not in one_seed]
    sentences = [one.sentence for one in in_full]
    sentences += [f"Nor can it be said of {some(one_seed)}, under one seed."] if one_seed else []
    sentences += [f"It cannot be told apart from {some(alike)}."] if alike else []
    if any(one.is_ahead for one in in_full):
        notes.append(f"The best of {len(sound)} arms was chosen after the fact, which flatters its lead.")
    return f"{head}{claim}. {' '.join(sentences)}", [*notes, *_few_seeds(best, judged)]


@dataclass(frozen=True)
class _Judgement:
    """The best arm against another one."""

    arm: str
    comparison: Comparison | None
    is_ahead: bool
    is_behind: bool
    sentence: str


def _judged(sweep: Sweep, task: str, best: Any, others: Sequence[Any]) -> list[_Judgement]:
    compared = [sweep.compare(other.label, best.label, task) for other in others]
    corrected = iter(with_holm([one for one in compared if one]))
    return [_judge(other, best, one and next(corrected)) for other, one in zip(others, compared, strict=True)]


def _judge(other: Any, best: Any, comparison: Comparison | None) -> _Judgement:
    """By the seeds that both have: the means of each over all of its own may be of different ones.

    The best arm is ahead, or behind, if p is below 0.05 even when it is corrected for all the others, and of more than
    one seed.
    """
    arm = other.label
    if comparison is None:
        why = f"It cannot be compared with {arm} ({other.mean:.1f}%): they share no seed and facts."
        return _Judgement(arm, None, False, False, why)
    seeds = list(comparison.seeds)
    name = f"{arm} ({comparison.of_first:.1f}%)"
    if not seeds == best.seeds == other.seeds:
        shared = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        recalls = f"{comparison.of_second:.1f}% against {comparison.of_first:.1f}%"
        name = f"{arm} on what both have, {shared} ({recalls}),"
    by = f"{comparison.difference:+.1f} points, 95% interval {comparison.low:+.1f} to {comparison.high:+.1f}"
    p = comparison.p_holm
    ahead = comparison.difference > 0
    if p is not None and p < LEVEL:
        sentence = f"It is {'ahead of' if ahead else 'behind'} {name} by {by}."
        return _Judgement(arm, comparison, ahead, not ahead, sentence)
    is_one_seed = comparison.is_clear_under_one_seed
    doubt = ", under one seed" if is_one_seed else f" (Holm's p {p:.3f})" if comparison.is_clear else ""
    return _Judgement(arm, comparison, False, False, f"Whether it is better than {name} cannot be said: {by}{doubt}.")


def _few_seeds(best: Any, judged: Sequence[_Judgement]) -> list[str]:
    """What the intervals are over, by the comparison that has the fewest seeds; how many seeds would halve them."""
    compared = [one.comparison for one in judged if one.comparison]
    seeds = min([len(one.seeds) for one in compared] or [best.n])
    if seeds == 1:
        shared = "One seed" if best.n == 1 else "One seed in common"
        return [f"{shared}: the intervals are over facts only and say nothing about other seeds."]
    wanted = [one.seeds_to_halve for one in compared if one.seeds_to_halve] if judged else [best.seeds_to_halve]
    wanted = [one for one in wanted if not pd.isna(one)]
    return [f"{seeds} seeds: with {max(wanted)}, the intervals would be half as wide."] if wanted else []


def _interval(row: Any) -> str:
    if row.n == 1:
        return f" (seed {row.seeds[0]} alone)"
    return f" (mean of {row.n} seeds, 95% interval {row.low:.1f} to {row.high:.1f})"


def shown(sweep: Sweep, paper: Mapping[str, float]) -> list[str]:
    """What a sweep's arms show of the first task to remember, in a sentence.

    Of a tiny model whose arms the `paper` has too, a second one says which of its effects are not seen, and what would
    show them.
    """
    if not sweep.tasks or len(sweep.arms) < 2 or len(sweep.stages) < 2:
        return []
    task, first, last, low = sweep.tasks[0], sweep.arms[0], sweep.stages[-1], sweep.unlearned()
    kept = {row.label: row for row in sweep.ranked(task).itertuples()}
    compared = [one for one in sweep.against_first[task] if not {first, one.second} & low]
    if first not in kept or not compared:
        learnt = f"{sweep.stages[0]} did not teach all of its facts" if low else "the arms have no seed in common"
        return [f"Nothing can be said of what helps to keep {task}: {learnt} ({some(sorted(low) or sweep.arms)})."]
    clear = [one for one in compared if one.is_clear and (one.p_holm is None or one.p_holm < LEVEL)]
    ahead = [one for one in clear if one.difference > 0]
    behind = [one for one in clear if one.difference < 0]
    alike = [one for one in compared if one not in clear]
    parts = [
        (ahead, "keeps more", "keep more"),
        (behind, "keeps less", "keep less"),
        (alike, "cannot be told apart from it", "cannot be told apart from it"),
    ]
    words = [
        f"{_and([f'{one.second} ({one.of_second:.0f}%)' for one in group])} {plural if len(group) > 1 else singular}"
        for group, singular, plural in parts
        if group
    ]
    facts = f"{kept[first].mean:.0f}% of the {kept[first].facts:,} {task} facts"
    where = "" if any(one.p_holm is not None for one in compared) else ", under one seed"
    sentences = [f"Seen here{where}: after {last}, {first} still knows {facts}; {'; '.join(words)}."]
    if low:
        sentences[0] += f" Left out, as {sweep.stages[0]} did not teach them all of its facts: {_and(sorted(low))}."
    if first not in paper or "tiny" not in sweep.frame.stages[sweep.rows["path"].iloc[0]].record.declaration["base"]:
        return sentences
    effects = [arm for arm in paper if paper[arm] > paper[first]]
    missing = [arm for arm in effects if arm not in {one.second for one in ahead}]
    seen = (
        f"Of what keeps more than {first} in the paper, {_and(missing)} did not here"
        if missing
        else (f"All that keeps more than {first} in the paper did here, too")
    )
    why = "this model started from random weights and has no knowledge to lose"
    real = "recipes/real_model.yaml has these arms on a pretrained one, SmolLM2-135M (a night on two cores)"
    return [*sentences, f"{seen}; {why}: {real}."]


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def known_before(results: pd.DataFrame) -> list[str]:
    """A line for each arm and list of facts: what the base model knew, and what is left of it, means over seeds.

    `results` are those of Known, as `Frame.results` has them.
    """
    lines: list[str] = []
    for (task, asked, facts, guesses), rows in results.groupby(KNOWN, sort=False) if len(results) else ():
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
    first = sweep.rows[sweep.rows["label"] == sweep.arms[0]].drop_duplicates(["stage", "seed"], keep="last")
    others = sweep.rows[sweep.rows["label"] != sweep.arms[0]].drop_duplicates(["label", "stage", "seed"], keep="last")
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
            gap = f"seed{'s' * (len(row.missing) > 1)} {', '.join(map(str, row.missing))} missing"
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


def explain_means(means: pd.DataFrame) -> str:
    """What the intervals of means are over."""
    lines = []
    if (means["n"] > 1).any():
        lines.append("Intervals are for other seeds and other facts of the same kind.")
    if (means["n"] == 1).any():
        lines.append("The interval of one seed (n=1) is for other facts under it, and says nothing of other seeds.")
    return " ".join([*lines, *_more_seeds(means["seeds_to_halve"].dropna())])


def explain_comparisons(comparisons: Sequence[Comparison]) -> str:
    """What the intervals and p of comparisons are over."""
    lines = []
    if any(len(one.seeds) > 1 for one in comparisons):
        lines.append(
            "Intervals and p are for other seeds and other facts of the same kind, p (Holm) for all arms at once."
        )
    if any(len(one.seeds) == 1 for one in comparisons):
        lines.append("The interval of one seed is for other facts under it, and says nothing of other seeds.")
    lines.append("1 -> 0 and 0 -> 1: facts, counted under each seed, that only the first or only the second knows.")
    return " ".join([*lines, *_more_seeds([one.seeds_to_halve for one in comparisons if one.seeds_to_halve])])


def _more_seeds(wanted: "Sequence[int] | pd.Series[int]") -> list[str]:
    """How many seeds would halve the intervals, from the least to the most."""
    if not len(wanted):
        return []
    least, most = min(wanted), max(wanted)
    return [f"Intervals would be half as wide with {least}{f' to {most}' if most > least else ''} seeds."]


def held_out_text(row: Any) -> str:
    """The loss on held-out rows of a row of `Frame.measured` and, where there is one, the accuracy."""
    accuracy = "" if pd.isna(row.held_out_accuracy) else f", {row.held_out_accuracy:.0f}% right"
    return f"loss {row.held_out_loss:.2f}{accuracy}"


def p_values(comparison: Comparison) -> tuple[str, str]:
    """p of two arms and p corrected for several, with three digits; of one seed, dashes."""
    if comparison.p_holm is None:
        return "-", "-"
    p, corrected = ("<0.001" if p < 0.001 else f"{p:.3f}" for p in (comparison.p, comparison.p_holm))
    return p, corrected


def some(names: Sequence[str], limit: int = 8) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
