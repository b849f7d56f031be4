"""Seeds together: means over seeds with their intervals, and arms compared fact by fact, by the formulas of `stats`.

All runs of a sweep share their facts (`data_seed`), so seeds and arms are paired: each model was asked the same ones.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from remix_toolkit.graph.retrained import retrained_ancestor
from remix_toolkit.records import RunRecord
from remix_toolkit.report import stats
from remix_toolkit.report.retention import FLOOR, premise, remembered
from remix_toolkit.report.verdicts import known

Entry = dict[str, Any]
Group = tuple[str, str, str, tuple[str, ...], str, str]  # recipe, arm, profile, overrides, stage, task
Known = Callable[[str, str], Mapping[str, bool]]  # a stage's folder, a list's id -> prompt -> was it answered right?
WIDE = 4  # columns of one table: more do not fit 120 characters beside the arms' names

# For an arm with `match`, a sweep names the other arm's stage by its key, and that differs from seed to seed.


def expected(records: Sequence[RunRecord]) -> dict[tuple[str, str, str], set[int]]:
    """(recipe, arm, profile) -> the seeds under which it was begun, measured yet or not, of `store.records`."""
    seeds: dict[tuple[str, str, str], set[int]] = {}
    for record in records:
        seeds.setdefault((record.recipe, record.arm, record.profile), set()).add(record.seed)
    return seeds


def aggregate(
    entries: Sequence[Entry], expected: Mapping[tuple[str, str, str], Collection[int]] | None = None
) -> list[Entry]:
    """Recall over seeds, a row per (recipe, arm, profile, overrides, stage, task) of `store.entries`, in their order.

    `mean`, `sd` (None for one seed), the 95% interval `low`, `high`, what it is `over` and `seeds_to_halve` are those
    of `stats.recall`. `n` and `seeds` are those that were measured; `missing` are those that anything else of this
    recipe and profile has, or that `expected` names for (recipe, arm, profile). `facts` is the number of facts, and
    `lists` their ids: more than one, and the seeds were asked different facts. Where one seed was run twice, the newest
    counts. In `overrides`, the key of a stage that `match` names is left out: it differs from seed to seed.
    """
    ran: dict[tuple[str, str], set[int]] = {}
    for entry in entries:
        ran.setdefault((entry["recipe"], entry["profile"]), set()).add(entry["seed"])
    rows = []
    for (recipe, arm, profile, overrides, stage, task), by_seed in _groups(entries).items():
        seeds = sorted(by_seed)
        fewest = min(entry["facts"] for entry in by_seed.values())
        recall = stats.recall([by_seed[seed]["recall"] for seed in seeds], fewest)
        wanted = ran[recipe, profile] | set((expected or {}).get((recipe, arm, profile), ()))
        newest = list(by_seed.values())[-1]
        row: Entry = {"recipe": recipe, "arm": arm, "profile": profile, "overrides": list(overrides)}
        row |= {"stage": stage, "task": task, "own": newest["own"], "facts": newest["facts"]}
        row |= {**vars(recall), "n": len(seeds), "seeds": seeds}
        row |= {"missing": sorted(wanted - set(seeds)), "lists": sorted({e["list"] for e in by_seed.values()})}
        rows.append(row)
    return rows


def paired(
    entries: Sequence[Entry], first: str, second: str, stage: str, task: str, known: Known = known
) -> dict[str, Any] | None:
    """How two arms differ in recall of one task's facts after one stage: the same seeds, the same facts in both.

    The fields of `stats.Difference` (second - first), over the `seeds` that both arms have and the facts of one list
    that all of them were asked (matched by prompt; `facts` is how many); `of_first`, `of_second` are each one's recall
    in percent there, `flips` the facts that only one arm knows, each with under how many seeds that is the first
    (`one_to_zero`) and the second (`zero_to_one`). Of several comparisons, none is corrected for the others here.

    Seeds under which the two descend from other weights of one stage are left out, see `other_parents`.

    None if there is no such seed or fact. Raises ValueError where the entries of the arms are of several recipes or
    profiles, or those of one arm of several overrides (choose before), and BadInput where a recall.jsonl is unreadable.
    """
    import numpy as np

    grouped = [(key, rows) for key, rows in _groups(entries).items() if key[4:] == (stage, task)]
    sides: list[dict[int, Entry]] = []
    for arm in (first, second):
        of_arm = [rows for key, rows in grouped if key[1] == arm]
        if len(of_arm) > 1 or len({(key[0], key[2]) for key, _ in grouped if key[1] in (first, second)}) > 1:
            raise ValueError(f"{first}, {second}: entries of several recipes, profiles or overrides")
        sides.append(of_arm[0] if of_arm else {})
    left, right = sides
    shared = {seed: left[seed]["list"] for seed in left if seed in right and left[seed]["list"] == right[seed]["list"]}
    shared = {seed: facts for seed, facts in shared.items() if not other_parents(left[seed], right[seed])}
    if not shared:
        return None
    (facts, _) = Counter(shared.values()).most_common(1)[0]  # a recipe edited between seeds: the list most of them had
    seeds = sorted(seed for seed in shared if shared[seed] == facts)
    verdicts = [[known(side[seed]["path"], facts) for seed in seeds] for side in sides]
    prompts = sorted(set.intersection(*(set(answers) for side in verdicts for answers in side)))
    if not prompts:
        return None
    a, b = np.array([[[answers[p] for p in prompts] for answers in side] for side in verdicts], dtype=bool)
    result = {"first": first, "second": second, "stage": stage, "task": task, "seeds": seeds, "facts": len(prompts)}
    result |= {"of_first": 100.0 * float(a.mean()), "of_second": 100.0 * float(b.mean())}
    counts = [(int(lost), int(gained)) for lost, gained in zip(*stats.flips(a, b), strict=True)]
    flips = [
        {"prompt": prompt, "one_to_zero": lost, "zero_to_one": gained}
        for prompt, (lost, gained) in zip(prompts, counts, strict=True)
        if lost or gained
    ]
    return result | vars(stats.difference(a, b)) | {"flips": flips}


def other_parents(one: Entry, other: Entry) -> str | None:
    """Why two stages cannot be compared fact by fact: one that both descend from was trained again, to other weights.

    Raises BadInput where their records cannot be read.
    """
    key = retrained_ancestor(Path(one["path"]), Path(other["path"]))
    return key and f"the stage {key}, from which both descend, was trained again in between, to other weights"


def retrained(entries: Sequence[Entry]) -> list[str]:
    """A line per arm and seed that cannot be compared with the first arm for that reason."""
    by_arm: dict[tuple[str, str], dict[int, Entry]] = {}
    for (_, arm, _, _, stage, _), by_seed in _groups(entries).items():
        by_arm.setdefault((stage, arm), {}).update(by_seed)
    lines = []
    for (stage, arm), by_seed in by_arm.items():
        first = next(by_seed for (at, _), by_seed in by_arm.items() if at == stage)
        for seed in by_seed.keys() & first.keys():
            if why := other_parents(first[seed], by_seed[seed]):
                lines.append(f"{arm}, seed {seed}: {stage} is not compared with the first arm's: {why}")
    return lines


def compared(entries: Sequence[Entry], known: Known = known) -> list[Entry]:
    """Every arm against the first one at its place in a grid, as `paired` has it, on each task to remember.

    `p_holm` is p corrected for all arms that are compared with that first one under several seeds.
    """
    results = []
    for (recipe, profile, place), sweep in sweeps(entries).items():
        sweep = named(sweep)
        for task in remembered(sweep):
            about = {"recipe": recipe, "profile": profile, "grid_point": place}
            results += [{**about, **result} for _, _, result in _against_first(sweep, task, known) if result]
    return results


def sweeps(entries: Sequence[Entry]) -> dict[tuple[str, str, str], list[Entry]]:
    """(recipe, profile, place in a grid) -> its entries."""
    by_sweep: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        by_sweep.setdefault((entry["recipe"], entry["profile"], entry.get("grid_point", "")), []).append(entry)
    return by_sweep


def named(entries: Sequence[Entry]) -> list[Entry]:
    """Those entries of one sweep, an arm that was run with several overrides named after them."""
    names = _names(entries)
    return [{**entry, "arm": names[entry["arm"], _key(entry)[3]]} for entry in entries]


def _against_first(entries: Sequence[Entry], task: str, known: Known = known) -> list[tuple[str, str, Entry | None]]:
    """(first arm, another, both compared on a task after the last stage); None if they share no seed and fact."""
    last = list(dict.fromkeys(entry["stage"] for entry in entries))[-1]
    first, *others = dict.fromkeys(entry["arm"] for entry in entries)
    compared = [(first, arm, paired(entries, first, arm, last, task, known=known)) for arm in others]
    correct([result for _, _, result in compared if result])
    return compared


def correct(results: Sequence[Entry]) -> None:
    """Give each of several comparisons, of several arms, its `p_holm`; None under one seed, which compares no arms."""
    several = [result for result in results if len(result["seeds"]) > 1]
    for result in results:
        result["p_holm"] = None
    for result, p in zip(several, stats.holm([result["p"] for result in several]), strict=True):
        result["p_holm"] = p


def _groups(entries: Sequence[Entry]) -> dict[Group, dict[int, Entry]]:
    """Recall by seed, the newest of each; the seeds in the order in which they were measured."""
    groups: dict[Group, dict[int, Entry]] = {}
    for entry in entries:
        if entry["recall"] is not None:
            by_seed = groups.setdefault(_key(entry), {})
            by_seed.pop(entry["seed"], None)  # so that the newest is last
            by_seed[entry["seed"]] = entry
    return groups


def _key(entry: Entry) -> Group:
    return entry["recipe"], entry["arm"], entry["profile"], tuple(entry["overrides"]), entry["stage"], entry["task"]


# --- on the screen -----------------------------------------------------------------------------------------------


def _names(entries: Sequence[Entry]) -> dict[tuple[str, tuple[str, ...]], str]:
    """(arm, overrides) -> a name: of an arm that was run with several overrides, with those from where they part."""
    by_arm: dict[str, list[tuple[str, ...]]] = {}
    for entry in entries:
        if (overrides := _key(entry)[3]) not in by_arm.setdefault(entry["arm"], []):
            by_arm[entry["arm"]].append(overrides)
    names: dict[tuple[str, tuple[str, ...]], str] = {}
    for arm, variants in by_arm.items():
        same = len(list(takewhile(lambda one: len(set(one)) == 1, zip(*variants, strict=False))))
        names |= {(arm, overrides): " ".join([arm, *overrides[same:]]) for overrides in variants}
    return names


def of_means(rows: Sequence[Entry]) -> str:
    """What the intervals of `aggregate`'s rows are over, in words."""
    lines = []
    if any(row["n"] > 1 for row in rows):
        lines.append("Intervals are for other seeds and other facts of the same kind.")
    if any(row["n"] == 1 for row in rows):
        lines.append("The interval of one seed (n=1) is for other facts under it, and says nothing of other seeds.")
    return " ".join([*lines, *_more_seeds(rows)])


def of_differences(results: Sequence[Entry]) -> str:
    """What the intervals and p of `paired`'s results are over, in words."""
    lines = []
    if any(len(row["seeds"]) > 1 for row in results):
        lines.append(
            "Intervals and p are for other seeds and other facts of the same kind, p (Holm) for all arms at once."
        )
    if any(len(row["seeds"]) == 1 for row in results):
        lines.append("The interval of one seed is for other facts under it, and says nothing of other seeds.")
    lines.append("1 -> 0 and 0 -> 1: facts, counted under each seed, that only the first or only the second knows.")
    return " ".join([*lines, *_more_seeds(results)])


def _more_seeds(rows: Sequence[Entry]) -> list[str]:
    """How many seeds would halve the interval, from the least to the most of the rows."""
    wanted = sorted(row["seeds_to_halve"] for row in rows if row["seeds_to_halve"])
    if not wanted:
        return []
    many = f"{wanted[0]}" + (f" to {wanted[-1]}" if wanted[-1] > wanted[0] else "")
    return [f"Intervals would be half as wide with {many} seeds."]


def p_values(result: Mapping[str, Any]) -> tuple[str, str]:
    """p of two arms and p corrected for several, with three digits; of one seed, dashes."""
    if result["p_holm"] is None:
        return "-", "-"
    p, corrected = ("<0.001" if p < 0.001 else f"{p:.3f}" for p in (result["p"], result["p_holm"]))
    return p, corrected


def missing(rows: Sequence[Entry]) -> list[str]:
    """A line per arm and seeds that it lacks, and one where its seeds were asked different facts."""
    lacks: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        at = f"{row['task']} after {row['stage']}"
        if row["missing"]:
            many = "seeds" if len(row["missing"]) > 1 else "seed"
            gap = f"{many} {', '.join(map(str, row['missing']))} missing"
            lacks.setdefault((row["arm"], gap), []).append(at)
        if len(row["lists"]) > 1:
            lacks.setdefault((row["arm"], "not the same facts under all seeds"), []).append(at)
    return [f"{arm}: {what} ({', '.join(where)})" for (arm, what), where in lacks.items()]


def unlearned(entries: Sequence[Entry]) -> list[str]:
    """A line per arm and stage that does not know its own facts: nothing below it can be read as forgetting."""
    lines = []
    for (_, arm, _, _, stage, _), by_seed in _groups(entries).items():
        low = {s: e["recall"] for s, e in sorted(by_seed.items()) if e["own"] and e["recall"] < FLOOR}
        if low:
            known = ", ".join(f"{recall:.1f}% (seed {seed})" for seed, recall in low.items())
            lines.append(f"{arm}: {premise(stage, known)}")
    return lines
