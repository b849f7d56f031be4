"""The graph of stages that runs share: its order, what is left to do, whose weights stay, how much disk that takes."""

from contextlib import chdir
from pathlib import Path

import pytest
from conftest import ROOT
from sweeps import CONTROL, FACTS, NOWHERE, RANDOM, SHARED, find, keys, shipped

from remix_toolkit import store
from remix_toolkit.disk import Damaged
from remix_toolkit.graph import prune
from remix_toolkit.graph.jobs import Job, due, graph, loaders, measure_key
from remix_toolkit.graph.plan import peak as peak_bytes
from remix_toolkit.graph.plan import plan
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.graph.sweep_state import Command, Outcome, outcome_file
from remix_toolkit.launch.job import delete_unneeded
from remix_toolkit.launch.state import begin, claim, job_recipes, needed_elsewhere, write_job
from remix_toolkit.recipe.load import load_base, read_resolved


@pytest.fixture
def shared(cells) -> dict[str, Job]:
    """A stage and the three that start from it: `none`, `generic`, `replay`."""
    return graph(cells(SHARED))


@pytest.fixture
def familiar() -> dict[str, Job]:
    """A stage that teaches, which of some facts it knows, and a stage that learns the others."""
    with chdir(ROOT):
        return graph(shipped("familiar_facts"))


def training(jobs: dict[str, Job]) -> list[Job]:
    return [job for job in jobs.values() if job.kind == "train"]


def measuring(jobs: dict[str, Job]) -> list[Job]:
    return [job for job in jobs.values() if job.kind == "measure"]


def train_loaders(jobs: dict[str, Job]) -> dict[str, set[str]]:
    """Who loads each stage's weights, besides those who measure it."""
    return {key: {other for other in by if jobs[other].kind != "measure"} for key, by in loaders(jobs).items()}


def assert_in_order(jobs: dict[str, Job]) -> None:
    before: set[str] = set()
    for key, job in jobs.items():
        assert set(job.needs) <= before, f"{job.name} {key} comes before what it needs"
        before.add(key)


# --- jobs and their order ------------------------------------------------------------------------------------------


def test_a_stage_that_runs_share_is_one_job(shared) -> None:
    first, *rest = training(shared)
    assert (first.name, first.needs, first.loads, first.cells[0].arm) == ("stage1", set(), set(), "none")
    assert first.runs == ["none, seed 0", "generic, seed 0", "replay, seed 0"]
    assert [job.runs for job in rest] == [["none, seed 0"], ["generic, seed 0"], ["replay, seed 0"]]
    assert [job.needs for job in rest] == [job.loads for job in rest] == [{first.key}] * 3
    assert train_loaders(shared) == {first.key: {job.key for job in rest}, **{job.key: set() for job in rest}}
    lists = [len(job.requested - {"perplexity docstrings"}) for job in measuring(shared)]
    assert lists == [1, 2, 2, 2]  # its own facts, and stage1's
    assert all(len(job.cells) == 1 for job in shared.values())


def test_a_stage_is_measured_behind_its_publication(trained, shared) -> None:
    """Nothing that is trained waits for a measurement."""
    for job in training(shared):
        measure = shared[measure_key(job.key)]
        assert measure.needs == measure.loads == {job.key}
        assert not any(measure.key in other.needs for other in shared.values())


def test_interference_is_measured_with_the_weights_that_the_stage_started_from(cells) -> None:
    jobs = graph(cells("arms: {a: {stages.stage2.probe: [interference]}}\n"))
    first, second = training(jobs)
    assert jobs[measure_key(second.key)].loads == {first.key, second.key}


def test_a_stages_children_follow_it_before_another_first_stage(cells) -> None:
    found = cells(f"grid: {{stages.stage1.data.size: [32, 64]}}\n{SHARED}seeds: [0, 1]\n")
    jobs = training(graph(found))
    assert [job.name for job in jobs] == ["stage1", "stage2", "stage2", "stage2"] * 4
    for at in range(0, len(jobs), 4):
        assert [job.loads for job in jobs[at + 1 : at + 4]] == [{jobs[at].key}] * 3


def test_runs_that_measure_different_lists_after_one_stage(cells) -> None:
    more = "stages.stage1.recall: [{task: kvr, start: 500, size: 8}]"
    other = "stages.stage1.recall: [{task: invented_facts, start: 100, size: 8}]"
    jobs = graph(cells(f"arms: {{a: {{}}, b: {{{more}}}, c: {{{more}}}, d: {{{other}}}}}\n"))
    first, second = measuring(jobs)
    assert first.runs == second.runs == [f"{arm}, seed 0" for arm in "abcd"]
    assert [cell.arm for cell in first.cells] == ["a", "b", "d"]  # c measures what b does
    lists = first.requested - {"perplexity docstrings"}
    assert sorted(id_.rpartition("-")[0] for id_ in lists) == ["recall invented_facts", "recall kvr", "recall kvr"]
    assert (len(second.requested - {"perplexity docstrings"}), [cell.arm for cell in second.cells]) == (2, ["a"])
    assert all([cell.arm for cell in job.cells] == ["a"] for job in training(jobs))


def test_what_a_stage_is_matched_with_comes_before_it(cells) -> None:
    found = cells(CONTROL)
    jobs = graph(found)
    assert_in_order(jobs)
    assert len(training(jobs)) == len(measuring(jobs)) == len(keys(found)) == 2 * 2 + 2 * 4
    for cell in found:
        for node, stage in zip(cell.nodes, cell.recipe.stages.values(), strict=True):
            others = {stage.match.other} if stage.match else set()
            assert jobs[node.key].needs == {*node.ancestors[-1:], *others}
    used = train_loaders(jobs)
    assert all(not used[cell.nodes[1].key] for cell in found)  # a match reads no weights


def test_matches_follow_one_another(cells) -> None:
    chain = "a: {stages.stage1.match: {steps_of: b}}, b: {stages.stage1.match: {steps_of: c}, data_seed: 1}"
    found = cells(f"arms: {{{chain}, c: {{{RANDOM}}}}}\n")
    jobs = graph(found)
    assert_in_order(jobs)
    firsts = [job.key for job in training(jobs) if job.name == "stage1"]
    assert firsts == [find(found, arm).nodes[0].key for arm in ("c", "b", "a")]
    planned = [job for job in plan(found, "all", NOWHERE)["order"] if job["kind"] == "train"]
    assert {job["steps"] for job in planned if job["name"] == "stage1"} == {600}


def test_arms_may_be_matched_with_each_other_at_different_stages(cells) -> None:
    """`b`'s stage2 follows `a`'s, `a`'s stage1 follows `b`'s: no circle."""
    a = f"a: {{stages.stage1.match: {{steps_of: b}}, {RANDOM}}}"
    found = cells(f"arms: {{{a}, b: {{stages.stage2.match: {{steps_of: a}}}}}}\n")
    jobs = graph(found)
    assert_in_order(jobs)
    assert len(training(jobs)) == 4


# --- questions -----------------------------------------------------------------------------------------------------

FAMILIAR = "stages.stage1.recall: [{task: invented_facts, familiarity: familiar, size: 8}]"


@pytest.mark.parametrize("arms", ["b: {MORE}, a: {}", "a: {}, b: {MORE}"], ids=["first", "later"])
def test_what_is_asked_for_a_later_run_comes_before_the_stage_it_is_measured_after(cells, tmp_path, arms: str) -> None:
    jobs = graph(cells(f"arms: {{{arms.replace('MORE', FAMILIAR)}}}\n"))
    assert sorted(job.name for job in jobs.values() if job.kind != "measure") == ["invented_facts", "stage1", "stage2"]
    (split,) = (job for job in jobs.values() if job.kind == "split")
    first = training(jobs)[0]
    assert (split.key in first.needs, split.key in jobs[measure_key(first.key)].needs) == (False, True)
    assert due(jobs, tmp_path) == set(jobs)
    assert_in_order(jobs)


def test_facts_known_already_are_asked_of_the_stage_that_counts_as_the_base(familiar) -> None:
    taught, stage = training(familiar)
    (split,) = (job for job in familiar.values() if job.kind == "split")
    assert (taught.name, split.name, stage.name) == ("taught", "invented_facts", "stage2")
    assert (split.node, split.needs, split.loads) == (None, {taught.key}, {taught.key})
    assert (split.task.task, split.rows, split.requested) == ("invented_facts", 50, set())
    assert split.runs == ["familiar_facts, seed 0"]  # once, though it has two lists of the task
    assert (stage.needs, stage.loads) == ({taught.key, split.key}, {taught.key})
    assert train_loaders(familiar) == {taught.key: {split.key, stage.key}, stage.key: set()}


def test_who_learns_what_a_stage_does_not_know_uses_that_stages_weights(cells, tmp_path: Path) -> None:
    """Even a stage that does not start from it: facts that are asked later than planned are asked of those weights."""
    third = "  stage3:\n    data: {task: invented_facts, start: 100, size: 32, familiarity: unfamiliar}\n"
    (tmp_path / "three.yaml").write_text(f"{FACTS}{third}base_stage: stage1\n", encoding="utf-8")
    jobs = graph(cells("recipe: three.yaml\narms: {a: {}}\n"))
    assert_in_order(jobs)
    of = {job.name: key for key, job in jobs.items() if job.kind != "measure"}
    assert jobs[of["stage3"]].needs == {of["stage2"], of["invented_facts"]}
    assert train_loaders(jobs) == {
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
    splits = {job.name: job for job in jobs.values() if job.kind == "split"}
    rows = {"popqa": 4000, "triviaqa": 4000, "lama": 2000, "entityquestions": 2000, "webqa": 2000}  # `id`: 2000 more
    assert {name: job.rows for name, job in splits.items()} == {**rows, "capitals": None}  # of what it knew before
    assert all(not job.needs for job in splits.values())  # the base model itself is asked
    for cell in found:
        for node, stage in zip(cell.nodes, cell.recipe.stages.values(), strict=True):
            asked = {need for need in jobs[node.key].needs if jobs[need].kind == "split"}
            assert asked == ({splits[stage.data.task].key} if stage.data.task in splits else set())
    assert_in_order(jobs)


# --- what is left to do --------------------------------------------------------------------------------------------


def test_what_is_published_and_measured_is_not_due(trained, shared, tmp_path: Path) -> None:
    assert due(shared, tmp_path) == set(shared)
    first, second, third, last = measuring(shared)
    of_last = {last.key, last.node.key}
    trained.publish_job(tmp_path, first)
    assert due(shared, tmp_path) == {second.key, second.node.key, third.key, third.node.key} | of_last
    trained.publish_job(tmp_path, second)
    trained.publish_job(tmp_path, third, measured=set(sorted(third.requested)[:1]))  # a list was added since
    assert due(shared, tmp_path) == {third.key} | of_last
    trained.publish_job(tmp_path, third, measured={*third.requested, "another-sweeps"})
    assert due(shared, tmp_path) == of_last
    trained.publish_job(tmp_path, last)
    assert due(shared, tmp_path) == set()


def test_a_pruned_stage_is_trained_again_for_a_child_that_is_not_there(trained, shared, tmp_path: Path) -> None:
    first, *rest = measuring(shared)
    trained.publish_job(tmp_path, first, pruned=True)
    for job in rest[:-1]:
        trained.publish_job(tmp_path, job, pruned=True)
    last = {rest[-1].node.key, rest[-1].key}
    assert due(shared, tmp_path) == {first.node.key, first.key, *last}  # first's results go too
    trained.publish_job(tmp_path, rest[-1])
    assert due(shared, tmp_path) == set()
    trained.publish_job(
        tmp_path, rest[0], pruned=True, measured=set()
    )  # its weights are gone, and are needed to measure it
    assert due(shared, tmp_path) == {first.node.key, first.key, rest[0].node.key, rest[0].key}


def test_a_pruned_stage_is_not_trained_again_to_measure_its_child(trained, shared, tmp_path: Path) -> None:
    first, *rest = measuring(shared)
    trained.publish_job(tmp_path, first, pruned=True)
    for job in rest:
        trained.publish_job(tmp_path, job)
    trained.publish_job(tmp_path, rest[0], measured=set())  # its own weights are there: that is all it takes
    assert due(shared, tmp_path) == {rest[0].key}


def test_a_split_is_due_for_a_stage_that_is_due(trained, familiar, tmp_path: Path) -> None:
    taught, stage = measuring(familiar)
    (split,) = (job for job in familiar.values() if job.kind == "split")
    trained.publish_job(tmp_path, taught)
    assert due(familiar, tmp_path) == {split.key, stage.node.key, stage.key}
    trained.publish_job(tmp_path, taught, pruned=True)
    assert due(familiar, tmp_path) == {taught.node.key, taught.key, split.key, stage.node.key, stage.key}
    trained.publish_job(tmp_path, stage)
    assert due(familiar, tmp_path) == set()


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


def test_weights_are_spare_once_all_that_load_them_is_done(trained, shared, tmp_path: Path) -> None:
    folders = {job.node.key: trained.publish_job(tmp_path, job, sweep="mine") for job in measuring(shared)}
    first, *rest = (job.key for job in training(shared))

    def spare(done: set[str], keep: str | list[str] = "none", sweep: str = "mine") -> set[str]:
        found = prune.unneeded(shared, done, keep, sweep, tmp_path)
        assert all(folder == folders[key] for key, folder in found.items())
        return set(found)

    everything, measures = set(shared), {job.key for job in measuring(shared)}
    assert spare(everything - {rest[2], measure_key(rest[2])}) == set(rest[:2])  # one child is still to start from it
    assert spare(everything - measures) == set()  # nothing is measured yet
    assert spare(everything) == {first, *rest}
    assert spare(everything, "leaves") == {first}
    assert spare(everything, ["stage1"]) == set(rest)
    assert spare(everything, "all") == set()
    assert spare(everything, sweep="another") == set()  # what this sweep did not train stays
    trained.publish_job(tmp_path, training(shared)[0], pruned=True, sweep="mine")
    assert spare(everything) == set(rest)


def command_of(file: object) -> Command:
    return Command(sweep=str(file), profile=None, seeds=None, overrides=[])


def test_a_living_sweep_keeps_what_it_has_to_do_and_loads(trained, shared, tmp_path: Path) -> None:
    first, second, *_ = measuring(shared)
    trained.publish_job(tmp_path, first)
    trained.publish_job(
        tmp_path, second, pruned=True
    )  # it will be trained again: its directory is there, its weights are not
    first, second = (job.node.key for job in (first, second))
    state = begin(command_of(ROOT / "recipes" / "demo.yaml"), shared, {second}, "none", "local")
    folder, lock = claim(tmp_path, state.id)
    state.save(folder)
    assert needed_elsewhere(tmp_path, None) == {first, second}
    assert needed_elsewhere(tmp_path, folder) == set()
    lock.release()
    assert needed_elsewhere(tmp_path, None) == set()  # it died
    state.launcher = "slurm"
    state.jobs[second].job_id = "7"
    state.save(folder)
    assert needed_elsewhere(tmp_path, None) == {first, second}
    assert set(state.unfinished(folder)) == {second}
    outcome_file(folder, second).parent.mkdir(parents=True)
    Outcome(status="done").write(outcome_file(folder, second))
    assert needed_elsewhere(tmp_path, None) == set()
    assert state.unfinished(folder) == {}


def test_a_state_that_cannot_be_read_stops_no_other_sweep(trained, shared, tmp_path: Path, capsys) -> None:
    state = begin(command_of(ROOT / "recipes" / "demo.yaml"), shared, set(shared), "none", "slurm")
    folder, _ = claim(tmp_path, state.id)
    state.save(folder)
    file = folder / "state.json"
    file.write_text(file.read_text().replace('"launcher"', '"launched_by"'), encoding="utf-8")
    with pytest.raises(Damaged, match=r"state\.json: launcher: .*--remove"):
        needed_elsewhere(tmp_path, None)
    another = begin(command_of(ROOT / "recipes" / "kvr.yaml"), shared, set(), "none", "local")
    folders = [trained.publish_job(tmp_path, job, sweep=another.id) for job in measuring(shared)]
    delete_unneeded(another, tmp_path / "sweeps" / "another")
    assert "no weights were deleted" in capsys.readouterr().err
    assert not any(store.is_pruned(folder) for folder in folders)


def test_the_peak_falls_as_less_is_kept(trained, shared) -> None:
    weights = 4 * int(load_base("tiny").parameters)  # fp32
    working = (1 + 2) * 3 * weights + weights  # checkpoints with two moments each, two kept and one written; the draft
    last = list(shared)[-2:]
    peak = lambda keep, todo=tuple(shared), at_once=1: peak_bytes(shared, todo, keep, at_once)  # noqa: E731
    assert peak("all") == 3 * weights + working  # while the last one is trained
    assert peak("leaves") == 3 * weights + working  # stage1 is needed until the end
    assert peak("none") == peak(["stage1"]) == weights + working
    assert peak("all", last) == peak("none", last) == working
    assert peak("all", ()) == 0
    assert peak_bytes(shared, last, "all", 1, dict.fromkeys(last, 0.0)) == weights  # too short for a checkpoint
    assert peak("none", at_once=3) == peak("none") + 2 * working


def test_the_peak_over_several_first_stages(cells) -> None:
    jobs = graph(cells(f"{SHARED}seeds: [0, 1, 2]\n", overrides=["train.save_strategy='no'"]))
    weights = 4 * int(load_base("tiny").parameters)
    peaks = [peak_bytes(jobs, set(jobs), keep) for keep in ("all", "leaves", "none")]
    assert peaks == [12 * weights, 10 * weights, 2 * weights]  # no checkpoints: only models, and one in the making


def test_each_run_that_measures_something_else_has_a_resolved_recipe_of_its_own(cells, tmp_path: Path) -> None:
    jobs = graph(cells("recipe: facts.yaml\narms:\n  plain: {}\n  seen: {stages.stage2.probe: [lens]}\n"))
    job = measuring(jobs)[1]
    write_job(tmp_path, job)
    recipes = [read_resolved(file) for file in job_recipes(tmp_path, job.key)]
    assert recipes == [cell.recipe for cell in job.cells]
    assert [recipe.stages["stage2"].probe for recipe in recipes] == [[], ["lens"]]
    assert any(id_.startswith("lens ") for id_ in job.requested)
