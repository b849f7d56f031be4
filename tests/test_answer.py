"""The report's first sentence: what it says of arms and seeds, and what it must not say."""

from pathlib import Path

import pytest
from trained_store import FEW, HALF, TrainedStore, sweep_of

from remix_toolkit.report.words import answer, beside_paper, notes


def answered(trained: TrainedStore, runs: Path, arms: dict[str, dict[int, int]]) -> tuple[str, str]:
    """Arm -> seed -> how many of its forty facts it keeps. The answer, and what qualifies it."""
    for arm, by_seed in arms.items():
        for seed, kept in by_seed.items():
            known = {"stage1": {"kvr": [1] * 40}, "stage2": {"kvr": [1] * kept + [0] * (40 - kept), "webqa": [1]}}
            trained.write_run(runs, arm, seed, known)
    ((head, more),) = answer(sweep_of(runs))
    return head, " ".join(more)


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        ({"none": HALF}, "It is the only arm: nothing can be said about what helps."),
        ({"none": FEW[:1], "random": FEW[2:]}, "Whether it is better than none (10.0%) cannot be said: +5.0 points"),
        ({"none": FEW[:1], "random": HALF[:1]}, "The interval of one seed is for other facts under it"),
        ({"none": HALF, "random": FEW}, "none still knows 50.0%"),  # the first arm may be the best
    ],
)
def test_what_cannot_be_said(trained, tmp_path: Path, arms: dict, expected: str) -> None:
    trained.write_arms(tmp_path, arms)
    ((head, more),) = answer(sweep_of(tmp_path))
    assert expected in " ".join([head, *more])


def test_arms_are_compared_over_the_seeds_that_both_have(trained, tmp_path: Path) -> None:
    """One arm's mean is of an easy seed alone: under the other one, it has less. One shared seed makes no lead."""
    head, more = answered(trained, tmp_path / "less", {"none": {0: 4, 1: 36}, "random": {1: 24, 2: 40}})
    assert "random still knows 80.0%" in head
    assert "the highest mean of 2 arms. Whether it is better than none on what both have, seed 1 (60.0% against" in head
    assert head.endswith("cannot be said: -30.0 points, 95% interval -45.2 to -14.8, under one seed.")
    assert "chosen after the fact" not in more
    assert "The interval of one seed is for other facts under it" in more
    head, _ = answered(trained, tmp_path / "more", {"none": {0: 4, 1: 4}, "random": {1: 36, 2: 36}})
    assert "Whether it is better than none on what both have, seed 1 (90.0% against 10.0%), cannot be said" in head
    assert head.endswith(", under one seed.")


def test_the_best_arm_is_held_against_every_other(trained, tmp_path: Path) -> None:
    """The third arm varies too much to be told from the best one, though the first two can be."""
    arms = {"none": dict.fromkeys(range(3), 4), "best": dict.fromkeys(range(3), 36)}
    arms |= {"second": dict.fromkeys(range(3), 30), "wild": {0: 40, 1: 36, 2: 2}}
    head, more = answered(trained, tmp_path, arms)
    assert "the highest mean of 4 arms. It is ahead of none (10.0%)" in head
    assert head.endswith("It cannot be told apart from wild.")
    assert "The best of 4 arms was chosen after the fact" in more


def test_one_seed_compares_no_arms(trained, tmp_path: Path) -> None:
    """Thirty of forty facts apart is not alike, and one seed is not enough to be ahead."""
    arms = {"none": 4, "best": 36, "second": 30, "third": 6}
    head, _ = answered(trained, tmp_path, {arm: {0: kept} for arm, kept in arms.items()})
    assert head.endswith(", under one seed. Nor can it be said of third, under one seed.")


def test_seeds_that_do_not_agree_decide_nothing(trained, tmp_path: Path) -> None:
    """Three seeds say more, one a little less; more seeds of the kind would tell."""
    head, more = answered(
        trained, tmp_path, {"none": {0: 0, 1: 0, 2: 20, 3: 0}, "random": {0: 39, 1: 39, 2: 19, 3: 39}}
    )
    assert "Whether it is better than none (12.5%) cannot be said: +72.5 points, 95% interval -7" in head
    assert "chosen after the fact" not in more
    assert "Intervals would be half as wide with 9 seeds." in more
    assert "It is ahead of none" in answered(trained, tmp_path, {"none": {4: 0}, "random": {4: 39}})[0]


def test_arms_of_other_facts_or_fewer_stages_do_not_vanish(trained, tmp_path: Path) -> None:
    def run(arm: str, *tasks: str) -> None:
        known = {f"stage{n}": {task: [1, 1] for task in tasks[:n]} for n in range(1, len(tasks) + 1)}
        trained.write_run(tmp_path, arm, 0, known)

    run("kvr first", "kvr", "webqa")
    run("popqa first", "popqa", "webqa")
    sweep = sweep_of(tmp_path)
    assert sweep.tasks == ["kvr", "popqa"]
    assert ["popqa first still knows 100.0%" in head for head, _ in answer(sweep)] == [False, True]
    run("longer", "kvr", "webqa", "triviaqa")
    apart = "kvr first, popqa first: nothing is measured of kvr, popqa after stage3"
    assert apart in notes(sweep_of(tmp_path))


def test_an_arm_that_did_not_learn_is_no_answer(trained, tmp_path: Path) -> None:
    """Nor does it say how many facts there are."""
    low = {"stage1": {"kvr": [1, 1, 1, 0]}, "stage2": {"kvr": [1, 1, 1, 0], "webqa": [1]}}
    trained.write_run(tmp_path, "low", 0, low)
    ((head, more),) = answer(sweep_of(tmp_path))
    assert head.startswith("Nothing can be said about what was retained")
    assert more == ["Left out of this answer: low (stage1 knows 75.0% of its own facts under seed 0)."]
    left = {"kvr": [1] * 3 + [0] * 3, "webqa": [1]}
    trained.write_run(tmp_path, "random", 0, {"stage1": {"kvr": [1] * 6}, "stage2": left})
    assert "random still knows 50.0% of the 6 kvr facts" in answer(sweep_of(tmp_path))[0][0]
    trained.write_run(tmp_path, "too slow", 0, {"stage1": {"kvr": [1] * 6}, "stage2": {"kvr": [1] * 6, "webqa": [0]}})
    ((head, more),) = answer(sweep_of(tmp_path))
    assert "random still knows 50.0% of the 6 kvr facts" in head
    assert "too slow (stage2 knows 0.0% of its own facts, under 95%)" in more[0]


def test_one_stage_or_none_with_recall_says_nothing(trained, tmp_path: Path) -> None:
    trained.write_run(tmp_path / "one", "none", 0, {"stage1": {"kvr": [1, 1]}})
    assert answer(sweep_of(tmp_path / "one"))[0][0].startswith("Nothing can be said about retention yet: stage1 is the")
    trained.write_run(tmp_path / "none", "none", 0, {"stage1": {}})
    assert "no stage here is measured by recall" in answer(sweep_of(tmp_path / "none"))[0][0]


def test_a_sweep_is_held_beside_the_paper(trained, tmp_path: Path) -> None:
    trained.write_arms(tmp_path, {"none": FEW, "random": HALF, "generic": FEW[::-1]})
    sweep = sweep_of(tmp_path)
    assert beside_paper(sweep, {"none": 13.5, "random": 28.8, "not run": 1.0}) == []
    one, other, why = beside_paper(sweep, {"none": 28.8, "random": 27.8, "generic": 53.2})
    assert one == "Not as in the paper: there none keeps 28.8 and random 27.8, here 10 and 50"
    assert other == "Not as in the paper: there random keeps 27.8 and generic 53.2, here 50 and 10"
    assert why.startswith(
        "This model started from random weights and has no knowledge to lose: recipes/real_model.yaml"
    )
    trained.write_arms(tmp_path / "real", {"none": FEW, "random": HALF}, profile="llama3-8b")
    assert len(beside_paper(sweep_of(tmp_path / "real"), {"none": 28.8, "random": 27.8})) == 1
