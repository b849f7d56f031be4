"""Recall and differences of recall, with intervals that allow for the luck of seeds as well as of facts.

Facts of one run share that run's luck, and runs of one sweep share their facts. So an interval has two parts, each
with a quantile of its own: the spread between seeds with Student's t for S - 1 degrees of freedom, the spread between
facts with the normal's. `benchmarks/intervals.py` simulates what they hold, beside the methods that were not taken.

Arrays are of recall or right answers, with seeds and then facts as their last axes; axes before these are repetitions.
"""

import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Over = Literal["seeds and facts", "facts of one seed"]
LEVEL = 0.05  # of an error: intervals are of 95%
MOST_SEEDS = 1000  # that `seeds_to_halve` looks at


@dataclass(frozen=True)
class Recall:
    """Mean recall of an arm, and its 95% interval, in percent. One seed has no `sd`, its interval is over its facts."""

    mean: float
    sd: float | None
    low: float
    high: float
    over: Over
    seeds_to_halve: int | None  # with so many seeds, the interval would be half as wide; None: more seeds do not do it


@dataclass
class Difference:
    """The second arm's recall less the first's, its 95% interval in points, and p of there being no difference.

    `one_to_zero` counts the (seed, fact) pairs that only the first arm knows, `zero_to_one` those that only the second
    knows. Over `facts of one seed`, all of it is about that one run of each arm and says nothing of other seeds.
    """

    difference: float
    low: float
    high: float
    p: float
    over: Over
    seeds_to_halve: int | None
    one_to_zero: int
    zero_to_one: int


@dataclass(frozen=True)
class Variance:
    """Of a mean, split: by seeds, by facts (beyond what is left to single answers), and the least that facts give."""

    seeds: Array
    facts: Array
    floor: Array

    def half_width(self, t: Array | float, z: Array | float) -> Array:
        """sqrt(max(t² V_seeds + z² V_facts, z² V_floor)): Cochran and Cox's approximation to a sum of two variances.

        Each part is weighted by its own quantile in place of one quantile for an estimated number of degrees of
        freedom, which is too small just where few seeds happen to agree (Cochran and Cox, Experimental Designs, 1950,
        section 4.14; Cochran, Biometrics 20, 1964).
        """
        return np.sqrt(np.maximum(t**2 * self.seeds + z**2 * self.facts, z**2 * self.floor))


# --- an arm ------------------------------------------------------------------------------------------------------


def recall(recalls: Sequence[float], facts: int) -> Recall:
    """Mean recall over seeds; `recalls` in percent, each of `facts` facts. The interval is `recall_interval`'s."""
    seeds, mean, shares = len(recalls), float(np.mean(recalls)), np.asarray(recalls, dtype=np.float64) / 100
    low, high = (100 * float(end) for end in recall_interval(shares, facts))
    if seeds == 1:
        return Recall(mean, None, low, high, "facts of one seed", None)
    by_facts = np.asarray(shares.mean() * (1 - shares.mean()) / facts)
    more = seeds_to_halve(Variance(shares.var(ddof=1) / seeds, by_facts, np.zeros(())), seeds)
    return Recall(mean, float(np.std(recalls, ddof=1)), low, high, "seeds and facts", more)


def recall_interval(shares: Array, facts: int) -> tuple[Array, Array]:
    """The ends of a 95% interval of mean recall, for other seeds and other facts of the same kind; (..., seeds) of 0-1.

    With p the mean over S seeds and s their standard deviation, V_seeds = s²/S and V_facts = p (1 - p)/F. The latter is
    the most that F facts can give, as if all seeds knew the same ones; it needs no single answers, and keeps the
    interval open where all seeds agree. The interval is Wilson's (JASA 22, 1927), with n = p (1 - p)/(V_seeds +
    V_facts) independent answers (Korn and Graubard, Survey Methodology 24, 1998) and the quantile q, q² = (t² V_seeds +
    z² V_facts)/(V_seeds + V_facts): it stays between 0 and 100% and is not empty at either. With one seed V_seeds is
    unknown, and the interval is over the facts of this run alone.
    """
    seeds = shares.shape[-1]
    p = np.clip(shares.mean(axis=-1), 0, 1)
    z = normal_quantile(LEVEL)
    by_facts = p * (1 - p) / facts
    by_seeds = shares.var(axis=-1, ddof=1) / seeds if seeds > 1 else np.zeros_like(p)
    all_alike = by_facts <= 0  # nothing or everything is known under every seed
    whole = np.where(all_alike, 1, by_seeds + by_facts)
    n = np.where(all_alike, facts, p * (1 - p) / whole)
    t = t_quantile(LEVEL, seeds - 1) if seeds > 1 else 0.0
    q2 = np.where(all_alike, z**2, (t**2 * by_seeds + z**2 * by_facts) / whole)
    center = (p + q2 / (2 * n)) / (1 + q2 / n)
    half = np.sqrt(q2 * (p * (1 - p) / n + q2 / (4 * n**2))) / (1 + q2 / n)
    return np.minimum(np.maximum(center - half, 0), p), np.maximum(np.minimum(center + half, 1), p)


def seeds_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% interval over seeds of anything measured once a seed: mean -+ t s/sqrt(S), S - 1 degrees of freedom.

    Student (Biometrika 6, 1908). The facts count as fixed. The ends of one seed are NaN.
    """
    seeds, mean = len(values), float(np.mean(values))
    if seeds == 1:
        return mean, math.nan, math.nan
    half = t_quantile(LEVEL, seeds - 1) * float(np.std(values, ddof=1)) / math.sqrt(seeds)
    return mean, mean - half, mean + half


# --- two arms ----------------------------------------------------------------------------------------------------


def difference(first: Array, second: Array) -> Difference:
    """Second less first arm; right answers (seeds, facts) of the same seeds and facts, in the same order in both.

    The interval is the difference -+ `Variance.half_width` of `paired_variance`, within -100 and 100 points; p is the
    level at which it would just touch 0.
    """
    delta = second.astype(np.float64) - first
    seeds = len(delta)
    mean, variance = float(delta.mean()), paired_variance(delta)
    t = t_quantile(LEVEL, seeds - 1) if seeds > 1 else 0.0
    half = float(variance.half_width(t, normal_quantile(LEVEL)))
    lost, gained = flips(first, second)
    return Difference(
        difference=100 * mean,
        low=100 * max(mean - half, -1.0),
        high=100 * min(mean + half, 1.0),
        p=p_value(mean, variance, seeds),
        over="seeds and facts" if seeds > 1 else "facts of one seed",
        seeds_to_halve=seeds_to_halve(variance, seeds),
        one_to_zero=int(lost.sum()),
        zero_to_one=int(gained.sum()),
    )


def paired_variance(delta: Array) -> Variance:
    """The variance of the mean of (..., seeds, facts) differences d, each -1, 0 or 1, clustered by seeds and by facts.

    V_seeds = var(seeds' means)/S, V_facts = max(0, var(facts' means)/F - V_cells), V_cells the variance of what neither
    explains, over S F answers: the two-way cluster variance V_seeds + V_facts - V_cells of Cameron, Gelbach and Miller
    (J. of Business and Economic Statistics 29, 2011), which for this balanced table is that of crossed random effects.
    The floor is what facts alone give, with half a fact more lost and half a fact more gained, so that arms that answer
    alike have an interval too (after Agresti and Min, Statistics in Medicine 24, 2005). With one seed, it is all.
    """
    seeds, facts = delta.shape[-2:]
    mean = delta.mean(axis=(-2, -1))
    by_seed = delta.mean(axis=-1) - mean[..., None]
    by_fact = ((delta.mean(axis=-2) - mean[..., None]) ** 2).sum(axis=-1)
    others = max(facts - 1, 1)
    floor = (by_fact + 1) / (facts * others)
    if seeds == 1:
        return Variance(np.zeros_like(mean), np.zeros_like(mean), floor)
    by_seed = (by_seed**2).sum(axis=-1)
    left = (delta**2).sum(axis=(-2, -1)) - seeds * facts * mean**2 - facts * by_seed - seeds * by_fact
    cells = left / ((seeds - 1) * others * seeds * facts)
    return Variance(by_seed / (seeds * (seeds - 1)), np.maximum(by_fact / (facts * others) - cells, 0), floor)


def p_value(mean: float, variance: Variance, seeds: int) -> float:
    """The level a at which the half-width with quantiles t(a), z(a) is the difference itself.

    With several seeds by bisection.
    """
    if seeds == 1:
        return math.erfc(abs(mean) / math.sqrt(2 * float(variance.floor)))

    def is_within(angle: float) -> bool:
        level = max(t_tails(angle, seeds - 1), sys.float_info.min)
        half = variance.half_width(math.tan(angle) * math.sqrt(seeds - 1), normal_quantile(level))
        return bool(half < abs(mean))

    return max(t_tails(_bisect(is_within), seeds - 1), 0.0)


def flips(first: Array, second: Array) -> tuple[Array, Array]:
    """For each fact: under how many seeds only the first arm knows it (1 -> 0), and only the second (0 -> 1)."""
    return (first & ~second).sum(axis=-2), (~first & second).sum(axis=-2)


def holm(values: Sequence[float]) -> list[float]:
    """p of several comparisons, corrected so that the chance of any false alarm among them keeps its level.

    Holm (Scandinavian J. of Statistics 6, 1979): the i-th smallest of m, from 1, is multiplied by m - i + 1, and none
    becomes less than one before it.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, largest = [1.0] * len(values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


def seeds_to_halve(variance: Variance, seeds: int) -> int | None:
    """The least number of seeds with half the half-width, if seeds go on to differ as these do; None if none does.

    With n seeds the half-width is sqrt(t(n - 1)² V_seeds S/n + z² V_facts): the facts' part stays. One seed says
    nothing of how seeds differ, nor do seeds that agree to the last fact.
    """
    if seeds == 1 or not variance.seeds:
        return None
    z = normal_quantile(LEVEL)
    wanted = float(variance.half_width(t_quantile(LEVEL, seeds - 1), z)) / 2

    def is_narrow(more: int) -> bool:
        expected = Variance(variance.seeds * seeds / more, variance.facts, np.zeros(()))
        return bool(expected.half_width(t_quantile(LEVEL, more - 1), z) <= wanted)

    more = seeds + 1 + bisect_left(range(seeds + 1, MOST_SEEDS + 1), True, key=is_narrow)
    return more if more <= MOST_SEEDS else None


# --- quantiles ---------------------------------------------------------------------------------------------------


def normal_quantile(level: float) -> float:
    """z with P(|Z| > z) = level."""
    return -NormalDist().inv_cdf(level / 2)


@lru_cache(maxsize=4096)
def t_quantile(level: float, df: int) -> float:
    """t with P(|T| > t) = level, for Student's t with a whole number of degrees of freedom; by bisection."""
    return math.tan(_bisect(lambda angle: t_tails(angle, df) > level)) * math.sqrt(df)


def _bisect(is_low: Callable[[float], bool]) -> float:
    """The angle, from 0 to a right one, up to which `is_low` is true: its tangent is t / sqrt(df), see `t_tails`."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if is_low(angle) else (low, angle)
    return low


def t_tails(angle: float, df: int) -> float:
    """P(|T| > t) at angle = atan(t / sqrt(df)), by the sums 26.7.3 and 26.7.4 of Abramowitz and Stegun (1964)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term = whole = cosine if odd else 1.0
    for k in range(2 + odd, df - 1, 2):
        term *= cosine**2 * (k - 1) / k
        whole += term
    if odd:
        return 1 - 2 / math.pi * (angle + (sine * whole if df > 1 else 0.0))
    return 1 - sine * whole
