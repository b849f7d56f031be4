"""What the intervals and p-values of remix_toolkit/report/stats.py hold, beside those of other methods, by simulation.

    python benchmarks/intervals.py [--repetitions 4000] [--bootstraps 50]

Facts are right or wrong by a logit model: the arm's level + the fact's effect (sd 1.5, the same in both arms and under
all seeds) + what the arm does to that fact (sd 0 or 1) + the luck of the arm's run (sd 0, 0.3 or 1, drawn for each arm
and seed). The true value is that over all seeds and all facts. Printed are, in percent: how often the 95% interval
misses the true difference (at most 7), how often there is an alarm where the arms are equal (at most 6), and the mean
half-width in points; then how often an arm's own interval misses.
"""

import argparse
import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from remix_toolkit.report.stats import (
    LEVEL,
    Array,
    normal_quantile,
    paired_variance,
    recall_interval,
    t_quantile,
)

CELLS = list(product((100, 2000), (3, 5, 10), (0.0, 0.3, 1.0)))  # facts, seeds, sd of a run's luck in logits
FACT_SD = 1.5
CHUNK = 4_000_000  # answers simulated at once
Z = normal_quantile(LEVEL)


def right_answers(
    rng: np.random.Generator, levels: tuple[float, ...], shape: tuple[int, int, int], luck: float, arm_fact_sd: float
) -> list[Array]:
    """For each arm's level in logits: (repetitions, seeds, facts) right answers, the facts common to the arms."""
    repetitions, seeds, facts = shape
    common = rng.normal(0, FACT_SD, (repetitions, 1, facts)).astype(np.float32)
    answers = []
    for level in levels:
        logits = level + common + rng.normal(0, luck, (repetitions, seeds, 1)).astype(np.float32)
        if arm_fact_sd:
            logits = logits + rng.normal(0, arm_fact_sd, (repetitions, 1, facts)).astype(np.float32)
        answers.append(rng.random(shape, dtype=np.float32) < 1 / (1 + np.exp(-logits)))
    return answers


def expected(level: float, sd: float) -> float:
    """Mean of 1/(1 + exp(-x)) for x normal about the level, by Gauss and Hermite's quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    return float((1 / (1 + np.exp(-(level + sd * points)))) @ weights / weights.sum())


def chunks(repetitions: int, seeds: int, facts: int) -> Iterator[int]:
    size = max(1, CHUNK // (seeds * facts))
    for start in range(0, repetitions, size):
        yield min(size, repetitions - start)


# --- methods for the difference: the half-width of a 95% interval ---------------------------------------------------


def half_widths(delta: Array) -> dict[str, Array]:
    """By method, for (repetitions, seeds, facts) differences: the methods that need no resampling."""
    seeds, facts = delta.shape[-2:]
    t = t_quantile(LEVEL, seeds - 1)
    variance = paired_variance(delta)
    by_fact = delta.mean(axis=-2)
    all_facts = by_fact.var(axis=-1, ddof=1) / facts
    both: Array = variance.seeds + variance.facts
    df = both**2 / np.maximum(variance.seeds**2 / (seeds - 1) + variance.facts**2 / (facts - 1), 1e-30)
    return {
        "chosen": variance.half_width(t, Z),
        "t, seeds": t * np.sqrt(variance.seeds),
        "CGM, t": t * np.sqrt(np.maximum(both, all_facts)),
        "crossed, Satt.": welch_quantile(df) * np.sqrt(both),
    }


def welch_quantile(df: Array) -> Array:
    """The 5% quantile of t for any number of degrees of freedom, between those for whole ones, linear in 1/df."""
    whole = np.array([*range(1, 31), 40, 60, 120, 1000])
    known = np.array([t_quantile(LEVEL, int(degrees)) for degrees in whole])
    quantiles: Array = np.interp(-1 / np.clip(df, 1, None), -1 / whole, known)
    return quantiles


def bootstraps(rng: np.random.Generator, delta: Array, draws: int = 200) -> dict[str, tuple[float, float]]:
    """Intervals of one (seeds, facts) table by resampling seeds and facts: percentiles (the former method), and those
    of the studentized mean."""
    seeds, facts = delta.shape
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    of_facts = rng.multinomial(facts, np.full(facts, 1 / facts), size=draws) / facts
    by_seed, by_fact = of_facts @ delta.T, of_seeds @ delta  # (draws, seeds) and (draws, facts)
    means = (of_seeds * by_seed).sum(axis=1)
    error = np.sqrt(
        (of_seeds * (by_seed - means[:, None]) ** 2).sum(axis=1) / (seeds - 1)
        + (of_facts * (by_fact - means[:, None]) ** 2).sum(axis=1) / (facts - 1)
    )
    mean = delta.mean()
    here = math.sqrt(delta.mean(axis=1).var() / (seeds - 1) + delta.mean(axis=0).var() / (facts - 1))
    studentized = np.divide(means - mean, error, out=np.zeros_like(means), where=error > 0)
    low, high = np.percentile(means, [2.5, 97.5])
    least, most = np.percentile(studentized, [2.5, 97.5])
    return {
        "former bootstrap": (float(low), float(high)),
        "studentized": (float(mean - most * here), float(mean - least * here)),
    }


def mcnemar_alarms(first: Array, second: Array) -> Array:
    """The former p under 0.05: McNemar's, over all (seed, fact) pairs, here by its normal approximation."""
    lost, gained = (first & ~second).sum(axis=(1, 2)), (~first & second).sum(axis=(1, 2))
    distance = np.maximum(np.abs(gained.astype(int) - lost.astype(int)) - 1, 0)
    alarms: Array = distance / np.sqrt(np.maximum(lost + gained, 1)) > Z
    return alarms


# --- tables ------------------------------------------------------------------------------------------------------


def simulate_differences(
    rng: np.random.Generator,
    cell: tuple[int, int, float],
    levels: tuple[float, float],
    arm_fact_sd: float,
    repetitions: int,
    resampled: int,
) -> dict[str, tuple[float, float]]:
    """Method -> how often its interval misses the true difference, in percent, and its mean half-width in points."""
    facts, seeds, luck = cell
    sd = math.sqrt(FACT_SD**2 + luck**2 + arm_fact_sd**2)
    true = expected(levels[1], sd) - expected(levels[0], sd)
    counted: dict[str, list[Any]] = {}
    for size in chunks(repetitions, seeds, facts):
        first, second = right_answers(rng, levels, (size, seeds, facts), luck, arm_fact_sd)
        delta = second.astype(np.float32) - first
        off = np.abs(delta.mean(axis=(1, 2), dtype=np.float64) - true)
        for name, half in half_widths(delta).items():
            counted.setdefault(name, []).append((off > half + 1e-6, half))
        if levels[0] == levels[1]:
            counted.setdefault("former McNemar", []).append((mcnemar_alarms(first, second), np.full(size, np.nan)))
        for table in delta[:resampled]:
            for name, (low, high) in bootstraps(rng, table).items():
                counted.setdefault(name, []).append(([not low <= true <= high], [(high - low) / 2]))
        resampled = max(0, resampled - size)
    return {
        name: (100 * np.concatenate(misses).mean(), 100 * np.concatenate(halves).mean())
        for name, (misses, halves) in ((name, zip(*pairs, strict=True)) for name, pairs in counted.items())
    }


def simulate_recall(
    rng: np.random.Generator, cell: tuple[int, int, float], level: float, repetitions: int
) -> dict[str, tuple[float, float]]:
    """As `simulate_differences`, for an arm's own interval."""
    facts, seeds, luck = cell
    true = expected(level, math.hypot(FACT_SD, luck))
    t = t_quantile(LEVEL, seeds - 1) if seeds > 1 else math.nan
    counted: dict[str, list[Any]] = {}
    for size in chunks(repetitions, seeds, facts):
        (answers,) = right_answers(rng, (level,), (size, seeds, facts), luck, 0.0)
        shares = answers.mean(axis=2)
        low, high = recall_interval(shares, facts)
        counted.setdefault("chosen", []).append(((low > true) | (high < true), (high - low) / 2))
        if seeds > 1:
            half = t * shares.std(axis=1, ddof=1) / math.sqrt(seeds)
            counted.setdefault("t, seeds", []).append((np.abs(shares.mean(axis=1) - true) > half, half))
    return {
        name: (100 * np.concatenate(misses).mean(), 100 * np.concatenate(halves).mean())
        for name, (misses, halves) in ((name, zip(*pairs, strict=True)) for name, pairs in counted.items())
    }


def simulate_one_seed(rng: np.random.Generator, facts: int, repetitions: int) -> dict[str, float]:
    """How often the intervals of one seed miss what these very runs would know of all facts; with luck of sd 1."""
    missed: dict[str, float] = {"recall": 0.0, "difference": 0.0}
    for _ in range(repetitions):
        levels = tuple(rng.normal((-0.5, 0.5), 1.0))
        first, second = right_answers(rng, levels, (1, 1, facts), 0.0, 0.0)
        true = [expected(level, FACT_SD) for level in levels]
        low, high = recall_interval(first.mean(axis=2), facts)
        missed["recall"] += not low[0] <= true[0] <= high[0]
        delta = second.astype(np.float64) - first
        half = paired_variance(delta).half_width(0.0, Z)
        missed["difference"] += abs(delta.mean() - true[1] + true[0]) > half[0]
    return {name: 100 * count / repetitions for name, count in missed.items()}


def print_table(title: str, rows: dict[tuple[int, int, float], dict[str, tuple[float, float]]]) -> None:
    """A row for each cell: misses in percent and, in brackets, the half-width in points; the worst cell at the end."""
    names = list(next(iter(rows.values())))
    print(f"\n{title}\nfacts seeds  luck" + "".join(f"{name:>18}" for name in names))
    for (facts, seeds, luck), row in rows.items():
        values = "".join(
            f"{row[name][0]:>18.1f}" if math.isnan(row[name][1]) else f"{row[name][0]:>10.1f} ({row[name][1]:5.1f})"
            for name in names
        )
        print(f"{facts:>5} {seeds:>5} {luck:>5.1f}{values}")
    print("worst            " + "".join(f"{max(row[name][0] for row in rows.values()):>18.1f}" for name in names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=4000, help="of each cell; beyond the first two tables, half")
    parser.add_argument("--bootstraps", type=int, default=50, help="of these, as many are resampled too: slow")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for arm_fact_sd, levels in (
        (0.0, (-0.5, -0.5)),
        (0.0, (-0.5, 0.5)),
        (1.0, (-0.5, -0.5)),
        (1.0, (-0.5, 0.5)),
        (0.0, (-4.0, -3.0)),
        (0.0, (4.0, 6.0)),
        (0.0, (-6.0, -1.0)),
    ):
        recalls = " and ".join(f"{100 * expected(level, math.hypot(FACT_SD, arm_fact_sd)):.0f}%" for level in levels)
        what = f"{recalls}{', each better at other facts' * bool(arm_fact_sd)}: "
        what += "false alarms" if levels[0] == levels[1] else "misses"
        central = arm_fact_sd == 0 and levels[0] == -0.5
        count, draws = (options.repetitions, options.bootstraps) if central else (options.repetitions // 2, 0)
        rows = {cell: simulate_differences(rng, cell, levels, arm_fact_sd, count, draws) for cell in CELLS}
        print_table(f"Difference of {what} (mean half-width)", rows)
    for level in (-0.5, -4.0, -6.0, 4.0, 7.0):
        rows = {cell: simulate_recall(rng, cell, level, options.repetitions // 2) for cell in CELLS}
        print_table(f"Recall of {100 * expected(level, FACT_SD):.1f}%: misses (mean half-width)", rows)
    for facts in (100, 2000):
        missed = simulate_one_seed(rng, facts, options.repetitions // 2)
        print(f"\nOne seed, {facts} facts, of its own run: recall misses {missed['recall']:.1f}%, ", end="")
        print(f"difference {missed['difference']:.1f}%")


if __name__ == "__main__":
    main()
