"""The statistics: against tables and cases worked out by hand, and a small part of the simulation."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from remix_toolkit.report.stats import (
    Variance,
    difference,
    flips,
    holm,
    normal_quantile,
    recall,
    recall_interval,
    seeds_interval,
    seeds_to_halve,
    t_quantile,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from intervals import CELLS, simulate_differences, simulate_one_seed, simulate_recall


@pytest.mark.parametrize(
    ("level", "df", "t"),
    [(0.5, 1, 1), (0.05, 1, 12.7062), (0.05, 2, 4.3027), (0.001, 2, 31.5991), (0.01, 5, 4.0321), (0.05, 30, 2.0423)],
)
def test_t_as_in_printed_tables(level: float, df: int, t: float) -> None:
    assert t_quantile(level, df) == pytest.approx(t, abs=1e-4)


def test_one_proportion_has_wilsons_interval() -> None:
    low, high = recall_interval(np.array([0.4]), 100)  # in closed form: (p + z²/200 -+ ...) / (1 + z²/100)
    assert (float(low), float(high)) == (pytest.approx(0.3094, abs=1e-4), pytest.approx(0.4980, abs=1e-4))


@pytest.mark.parametrize("value", [0.0, 100.0])
def test_nothing_and_everything_known_have_an_interval(value: float) -> None:
    found = recall([value] * 3, 100)
    outer = 100 * 1.96**2 / (100 + 1.96**2)  # Wilson's with no, or no other, answer
    assert (found.mean, found.sd, found.seeds_to_halve) == (value, 0.0, None)
    assert abs(value - found.low) + abs(value - found.high) == pytest.approx(outer, abs=0.01)
    nearly = recall([value, value, abs(value - 1)], 100)
    assert 0 <= nearly.low <= nearly.mean <= nearly.high <= 100


def test_seeds_that_disagree_widen_the_interval() -> None:
    """All facts gained under one seed, none under two: the facts have no spread, the seeds have it all.

    t s / sqrt(3), with s² = (4/9 + 1/9 + 1/9) / 2.
    """
    none, some = np.zeros((3, 40), bool), np.repeat([[True], [False], [False]], 40, axis=1)
    found = difference(none, some)
    assert found.difference == pytest.approx(100 / 3)
    assert (found.low, found.high) == (-100, 100)  # within what there is: the half-width is 143 points
    assert found.p == pytest.approx(0.4226, abs=1e-4)  # of t = 1 with two degrees of freedom: 1 - 1 / sqrt(3)


def test_p_is_the_level_whose_interval_touches_zero() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 4, 60)) < np.array([0.4, 0.6])[:, None, None]
    found = difference(first, second)
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    turned = difference(second, first)
    assert (turned.low, turned.high, turned.p) == (-found.high, -found.low, found.p)


def test_equal_arms_and_one_seed() -> None:
    same = np.tile([True, False], 50)[None]
    found = difference(same.repeat(3, axis=0), same.repeat(3, axis=0))
    assert (found.difference, found.p, found.one_to_zero, found.zero_to_one) == (0, 1, 0, 0)
    assert (-2 < found.low < 0 < found.high < 2, found.seeds_to_halve) == (True, None)
    one = difference(same, ~same)
    assert (one.over, one.difference, one.one_to_zero, one.zero_to_one) == ("facts of one seed", 0, 50, 50)


def test_flips_are_counted_for_each_fact() -> None:
    first = np.array([[1, 1, 0, 0], [1, 0, 0, 1]], bool)
    second = np.array([[0, 1, 1, 0], [0, 1, 1, 0]], bool)
    lost, gained = flips(first, second)
    assert (lost.tolist(), gained.tolist()) == ([2, 0, 0, 1], [0, 1, 2, 0])


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == [0.04, 0.09, 0.09, 0.5]
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_how_many_seeds_halve_the_interval() -> None:
    """Without facts' part t / sqrt(S) counts: 12.71 / sqrt(2), 4.30 / sqrt(3), 2.78 / sqrt(5), 2.18 / sqrt(13)."""
    seeds_alone = Variance(np.array(0.01), np.array(0.0), np.array(0.0))
    assert [seeds_to_halve(seeds_alone, seeds) for seeds in (1, 2, 3, 5)] == [None, 3, 5, 13]
    assert seeds_to_halve(Variance(np.array(0.01), np.array(0.1), np.array(0.0)), 5) is None  # the facts' part stays


def test_over_seeds_alone() -> None:
    assert seeds_interval([10, 20, 30]) == pytest.approx((20, 20 - 24.84, 20 + 24.84), abs=0.01)  # 4.303 * 10 / sqrt(3)
    assert math.isnan(seeds_interval([5])[1])


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell[0] == 100 or cell[1] == 3])
def test_what_the_intervals_promise_holds_in_simulation(cell: tuple[int, int, float]) -> None:
    """Coverage of 93% and false alarms in 6% of cases, with three standard errors for so few repetitions."""
    repetitions = 300 if cell[0] == 2000 else 1000
    rng, slack = np.random.default_rng(0), 3 * math.sqrt(0.05 * 0.95 / repetitions) * 100
    for own in (0.0, 1.0):
        alarms = simulate_differences(rng, cell, (-0.5, -0.5), own, repetitions, 0)
        misses = simulate_differences(rng, cell, (-0.5, 0.5), own, repetitions, 0)
        assert alarms["chosen"][0] <= 6 + slack
        assert misses["chosen"][0] <= 7 + slack
    if cell[2] == 1:  # what was promised before did not hold
        assert alarms["former McNemar"][0] > 30
    for level in (-0.5, 4.0):
        assert simulate_recall(rng, cell, level, repetitions)["chosen"][0] <= 7 + slack


def test_one_seed_holds_for_the_facts_of_its_run() -> None:
    missed = simulate_one_seed(np.random.default_rng(0), 100, 500)
    assert max(missed.values()) <= 7 + 3
    assert normal_quantile(0.05) == pytest.approx(1.959964)
