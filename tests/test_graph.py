"""The graph of stages that runs share: its order, what is left to do, whose weights stay, how much disk that takes."""

from contextlib import chdir
from pathlib import Path

import pytest
from conftest import ROOT
from sweeps import CONTROL, FACTS, NOWHERE, RANDOM, SHARED, find, keys, publish, shipped

from remix_toolkit.graph import prune
from remix_toolkit.graph.jobs import Job, graph
from remix_toolkit.graph.plan import plan
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.launch.state import Command, begin, claim, end_of, save, wanted_elsewhere, with_slurm
from remix_toolkit.recipe.load import load_base


@pytest.fixture
def shared(cells) -> dict[str, Job]:
    """A stage and the three that start from it: `none`, `generic`, `replay`."""
    return graph(cells(SHARED))


@pytest.fixture
def familiar() -> dict[str, Job]:
    """A stage that teaches, which of some facts it knows, and a stage that learns the others."""
    with chdir(ROOT):
        return graph(shipped("familiar_facts"))


def assert_in_order(jobs: dict[str, Job]) -> None:
    before: set[str] = set()
    for key, job in jobs.items():
        assert set(job.needs) <= before, f"{job.name} {key} comes before what it needs"
        before.add(key)


# --- jobs and their order ------------------------------------------------------------------------------------------


def test_a_stage_that_runs_share_is_one_job(shared) -> None:
    first, *rest = shared.values()
    assert (first.name, first.needs, first.parent, first.cell.arm) == ("stage1", (), None, "none")
    assert first.runs == ["none, seed 0", "generic, seed 0", "replay, seed 0"]
    assert [job.runs for job in rest] == [["none, seed 0"], ["generic, seed 0"], ["replay, seed 0"]]
    assert {job.needs for job in rest} == {(first.key,)}
    assert {job.parent for job in rest} == {first.key}
    assert prune.users(shared) == {first.key: {job.key for job in rest}, **{job.key: set() for job in rest}}
    assert len(first.lists - {"perplexity"}) == 1
    assert [len(job.lists - {"perplexity"}) for job in rest] == [2, 2, 2]  # what it trains on, and what stage1 did
    assert not any(job.also for job in shared.values())


def test_a_stages_children_follow_it_before_another_first_stage(cells) -> None:
    found = cells(f"grid: {{stages.stage1.data.size: [32, 64]}}\n{SHARED}seeds: [0, 1]\n")
    jobs = list(graph(found).values())
    assert [job.name for job in jobs] == ["stage1", "stage2", "stage2", "stage2"] * 4
    for at in range(0, len(jobs), 4):
        assert {job.parent for job in jobs[at + 1 : at + 4]} == {jobs[at].key}


def test_runs_that_measure_different_lists_after_one_stage(cells) -> None:
    more = "stages.stage1.recall: [{task: kvr, start: 500, size: 8}]"
    other = "stages.stage1.recall: [{task: invented_facts, start: 100, size: 8}]"
    found = cells(f"arms: {{a: {{}}, b: {{{more}}}, c: {{{more}}}, d: {{{other}}}}}\n")
    first, second = graph(found).values()
    assert first.runs == second.runs == [f"{arm}, seed 0" for arm in "abcd"]
    assert first.cell.arm == "a"
    assert [cell.arm for cell in first.also] == ["b", "d"]  # c measures what b does
    assert sorted(id_.rpartition("-")[0] for id_ in first.lists - {"perplexity"}) == ["invented_facts", "kvr", "kvr"]
    assert (len(second.lists - {"perplexity"}), second.also) == (2, [])


def test_a_stage_without_facts_is_measured_for_whom_it_is_shared_with(cells, tmp_path: Path) -> None:
    own = "stages.stage1.data={task: gsm8k, size: 64}"
    text = "arms: {a: {}, b: {stages.stage1.recall: [{task: kvr, size: 8}]}}\n"
    first = next(iter(graph(cells(text, overrides=[own])).values()))
    assert [cell.arm for cell in first.also] == ["b"]
    (listed,) = first.lists - {"perplexity", "held_out 100"}
    assert listed.startswith("kvr-")


def test_what_a_stage_is_matched_with_comes_before_it(cells) -> None:
    found = cells(CONTROL)
    jobs = graph(found)
    assert_in_order(jobs)
    assert len(jobs) == len(keys(found)) == 2 * 2 + 2 * 4
    for cell in found:
        for node, stage in zip(cell.nodes, cell.recipe.stages.values(), strict=True):
            others = [stage.match.other] if stage.match else []
            assert jobs[node.key].needs == (*node.ancestors[-1:], *others)
    used = prune.users(jobs)
    assert all(not used[cell.nodes[1].key] for cell in found)  # a match reads no weights


def test_matches_follow_one_another(cells) -> None:
    chain = "a: {stages.stage1.match: {steps_of: b}}, b: {stages.stage1.match: {steps_of: c}, data_seed: 1}"
    found = cells(f"arms: {{{chain}, c: {{{RANDOM}}}}}\n")
    jobs = graph(found)
    assert_in_order(jobs)
    firsts = [key for key, job in jobs.items() if job.name == "stage1"]
    assert firsts == [find(found, arm).nodes[0].key for arm in ("c", "b", "a")]
    assert {job["steps"] for job in plan(found, "all", NOWHERE)["order"] if job["name"] == "stage1"} == {600}


def test_arms_may_be_matched_with_each_other_at_different_stages(cells) -> None:
    """`b`'s stage2 follows `a`'s, `a`'s stage1 follows `b`'s: no circle."""
    a = f"a: {{stages.stage1.match: {{steps_of: b}}, {RANDOM}}}"
    found = cells(f"arms: {{{a}, b: {{stages.stage2.match: {{steps_of: a}}}}}}\n")
    jobs = graph(found)
    assert_in_order(jobs)
    assert len(jobs) == 4


# --- questions -----------------------------------------------------------------------------------------------------

FAMILIAR = "stages.stage1.recall: [{task: invented_facts, familiarity: familiar, size: 8}]"


@pytest.mark.parametrize("arms", ["b: {MORE}, a: {}", "a: {}, b: {MORE}"], ids=["first", "later"])
def test_what_is_asked_for_a_later_run_comes_before_the_stage_it_shares(cells, tmp_path: Path, arms: str) -> None:
    jobs = graph(cells(f"arms: {{{arms.replace('MORE', FAMILIAR)}}}\n"))
    assert sorted(job.name for job in jobs.values()) == ["invented_facts", "stage1", "stage2"]
    assert prune.to_do(jobs, tmp_path) == set(jobs)
    assert_in_order(jobs)


def test_facts_known_already_are_asked_of_the_stage_that_counts_as_the_base(familiar) -> None:
    taught, split, stage = familiar.values()
    assert [job.name for job in familiar.values()] == ["taught", "invented_facts", "stage2"]
    assert (split.node, split.parent, split.needs) == (None, None, (taught.key,))
    assert (split.task.task, split.rows, split.lists) == ("invented_facts", 50, set())
    assert split.runs == ["familiar_facts, seed 0"]  # once, though it has two lists of the task
    assert set(stage.needs) == {taught.key, split.key}
    assert stage.parent == taught.key
    assert prune.users(familiar) == {taught.key: {split.key, stage.key}, stage.key: set()}


def test_who_learns_what_a_stage_does_not_know_uses_that_stages_weights(cells, tmp_path: Path) -> None:
    """Even a stage that does not start from it: facts that are asked later than planned are asked of those weights."""
    third = "  stage3:\n    data: {task: invented_facts, start: 100, size: 32, familiarity: unfamiliar}\n"
    (tmp_path / "three.yaml").write_text(f"{FACTS}{third}base_stage: stage1\n", encoding="utf-8")
    jobs = graph(cells("recipe: three.yaml\narms: {a: {}}\n"))
    assert_in_order(jobs)
    of = {job.name: key for key, job in jobs.items()}
    assert jobs[of["stage3"]].needs == (of["stage2"], of["invented_facts"])
    assert prune.users(jobs) == {
        of["stage1"]: {of["stage2"], of["invented_facts"], of["stage3"]},
        of["stage2"]: {of["stage3"]},
        of["stage3"]: set(),
    }


def test_the_papers_tasks_are_each_asked_once_for_all_runs(tmp_path: Path) -> None:
    for name in ("LAMA", "EntityQuestions"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    paths = [f"paths.lama={tmp_path / 'LAMA'}", f"paths.entityquestions={tmp_path / 'EntityQuestions'}"]
    found = load_sweep(str(ROOT / "recipes" / "paper" / "table2.yaml"), None, [0], paths)[1]  # nothing is absent now
    jobs = graph(found)
    splits = {job.name: job for job in jobs.values() if job.node is None}
    rows = {"popqa": 4000, "triviaqa": 4000, "lama": 2000, "entityquestions": 2000, "webqa": 2000}  # `id`: 2000 more
    assert {name: job.rows for name, job in splits.items()} == rows
    assert {job.needs for job in splits.values()} == {()}  # the base model itself is asked
    for cell in found:
        for node, stage in zip(cell.nodes, cell.recipe.stages.values(), strict=True):
            asked = {need for need in jobs[node.key].needs if jobs[need].node is None}
            assert asked == ({splits[stage.data.task].key} if stage.data.task in splits else set())
    assert_in_order(jobs)


# --- what is left to do --------------------------------------------------------------------------------------------


def test_what_is_published_and_measured_is_not_to_do(shared, tmp_path: Path) -> None:
    assert prune.to_do(shared, tmp_path) == set(shared)
    first, second, third, last = shared.values()
    publish(tmp_path, first)
    assert prune.to_do(shared, tmp_path) == {second.key, third.key, last.key}
    publish(tmp_path, second)
    publish(tmp_path, third, measured=set(sorted(third.lists)[:1]))  # a list was added since
    assert prune.to_do(shared, tmp_path) == {third.key, last.key}
    publish(tmp_path, third, measured={*third.lists, "another-sweeps"})
    assert prune.to_do(shared, tmp_path) == {last.key}
    publish(tmp_path, last)
    assert prune.to_do(shared, tmp_path) == set()


def test_a_pruned_stage_is_trained_again_for_a_child_that_is_not_there(shared, tmp_path: Path) -> None:
    first, *rest = shared.values()
    publish(tmp_path, first, pruned=True)
    for job in rest[:-1]:
        publish(tmp_path, job, pruned=True)
    assert prune.to_do(shared, tmp_path) == {first.key, rest[-1].key}
    publish(tmp_path, rest[-1])
    assert prune.to_do(shared, tmp_path) == set()
    publish(tmp_path, rest[0], pruned=True, measured=set())  # its weights are gone, and are wanted to measure
    assert prune.to_do(shared, tmp_path) == {first.key, rest[0].key}


def test_a_pruned_stage_is_not_trained_again_to_measure_its_child(shared, tmp_path: Path) -> None:
    first, *rest = shared.values()
    publish(tmp_path, first, pruned=True)
    for job in rest:
        publish(tmp_path, job)
    publish(tmp_path, rest[0], measured=set())  # its own weights are there: that is all it takes
    assert prune.to_do(shared, tmp_path) == {rest[0].key}


def test_a_question_is_asked_for_a_stage_to_do_of_weights_that_are_there(familiar, tmp_path: Path) -> None:
    taught, split, stage = familiar.values()
    publish(tmp_path, taught)
    assert prune.to_do(familiar, tmp_path) == {split.key, stage.key}
    publish(tmp_path, taught, pruned=True)
    assert prune.to_do(familiar, tmp_path) == set(familiar)
    publish(tmp_path, stage)
    assert prune.to_do(familiar, tmp_path) == set()


# --- what stays on disk --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "stays"),
    [
        ("all", [True, True]),
        ("leaves", [False, True]),
        ("none", [False, False]),
        (["stage1"], [True, False]),
        (["stage2"], [False, True]),
        ([], [False, False]),
    ],
)
def test_whose_weights_stay(keep: str | list[str], stays: list[bool]) -> None:
    assert [prune.is_kept(keep, "stage1", True), prune.is_kept(keep, "stage2", False)] == stays


def test_weights_are_spare_once_all_that_load_them_is_done(shared, tmp_path: Path) -> None:
    folders = {key: publish(tmp_path, job, sweep="mine") for key, job in shared.items()}
    first, *rest = shared

    def spare(done: list[str], keep: str | list[str] = "none", sweep: str = "mine") -> set[str]:
        found = prune.spare(shared, done, keep, sweep, tmp_path)
        assert all(folder == folders[key] for key, folder in found.items())
        return set(found)

    assert spare([first, *rest[:2]]) == set(rest[:2])  # one child is still to start from it
    assert spare(list(shared)) == set(shared)
    assert spare(list(shared), "leaves") == {first}
    assert spare(list(shared), ["stage1"]) == set(rest)
    assert spare(list(shared), "all") == set()
    assert spare(list(shared), sweep="another") == set()  # what this sweep did not train stays
    publish(tmp_path, shared[first], pruned=True, sweep="mine")
    assert spare(list(shared)) == set(rest)


def test_a_living_sweep_keeps_what_it_has_to_do_and_its_parents(shared, tmp_path: Path) -> None:
    first, second, *_ = shared.values()
    publish(tmp_path, first)
    publish(tmp_path, second, pruned=True)  # it will be trained again: its directory is there, its weights are not
    command = Command(str(ROOT / "recipes" / "demo.yaml"), None, None, [])
    state = begin(command, shared, {second.key}, "none", "local")
    folder, lock = claim(tmp_path, state.id)
    save(folder, state)
    assert wanted_elsewhere(tmp_path, None) == {first.key, second.key}
    assert wanted_elsewhere(tmp_path, folder) == set()
    lock.release()
    assert wanted_elsewhere(tmp_path, None) == set()  # it died
    state.launcher = "slurm"
    state.jobs[second.key].job_id = "7"
    save(folder, state)
    assert wanted_elsewhere(tmp_path, None) == {first.key, second.key}
    assert with_slurm(folder, state) == ["7"]
    end_of(folder, second.key).write_text("{}")
    assert wanted_elsewhere(tmp_path, None) == set()
    assert with_slurm(folder, state) == []


def test_a_sweeps_name_does_not_make_it_the_same_sweep(cells, write_sweep) -> None:
    one, other = (Command(write_sweep("", f"{folder}/demo.yaml"), None, None, []) for folder in "ab")
    assert one.id != other.id
    assert one.id.startswith("demo-")


def test_the_peak_falls_as_less_is_kept(shared) -> None:
    weights = 4 * int(load_base("tiny").parameters)  # fp32
    working = (1 + 2) * 3 * weights + weights  # checkpoints with two moments each, two kept and one written; the draft
    last = list(shared)[-1:]
    peak = lambda keep, todo=tuple(shared), at_once=1: prune.peak(shared, todo, keep, at_once)  # noqa: E731
    assert peak("all") == 3 * weights + working  # while the last one is trained
    assert peak("leaves") == 3 * weights + working  # stage1 is needed until the end
    assert peak("none") == peak(["stage1"]) == weights + working
    assert peak("all", last) == peak("none", last) == working
    assert peak("all", ()) == 0
    assert peak("none", at_once=3) == peak("none") + 2 * working


def test_the_peak_over_several_first_stages(cells) -> None:
    jobs = graph(cells(f"{SHARED}seeds: [0, 1, 2]\n", overrides=["train.save_strategy='no'"]))
    weights = 4 * int(load_base("tiny").parameters)
    peaks = [prune.peak(jobs, set(jobs), keep) for keep in ("all", "leaves", "none")]
    assert peaks == [12 * weights, 10 * weights, 2 * weights]  # no checkpoints: only models, and one in the making


def test_each_run_that_measures_something_else_has_a_command_of_its_own(cells) -> None:
    """Under a launcher, a stage is a command, which resolves the recipe of one run."""
    from remix_toolkit.launch.job import task_of

    shared = cells("recipe: facts.yaml\narms:\n  plain: {}\n  seen: {stages.stage2.probe: [lens]}\n")
    jobs = graph(shared)
    (key,) = (key for key, job in jobs.items() if job.name == "stage2")
    task = task_of(key, jobs, set(), "sweep", Path("runs"), wait=False)
    assert len(task.recipes) == len(task.commands) == 2
    assert [any("probe" in word for word in command) for command in task.commands] == [False, True]
    assert any(wanted.startswith("lens ") for wanted in jobs[key].lists)
