"""What a plan says a sweep takes, of the shipped ones too: counts, steps, FLOPs, hours; how it is drawn and printed."""

import json
import os
import re
from contextlib import chdir
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from sweeps import CONTROL, NOWHERE, SHARED, find, keys, shipped

from remix_toolkit.cli.plan import as_mermaid
from remix_toolkit.graph.cost import costs
from remix_toolkit.graph.hours import Rates
from remix_toolkit.graph.jobs import graph
from remix_toolkit.graph.lineage import lineage
from remix_toolkit.graph.plan import plan
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.records import StageRecord
from remix_toolkit.stage.data import build_all

KVR = str(ROOT / "recipes" / "kvr.yaml")
PAPER = sorted((ROOT / "recipes" / "paper").glob("[ft]*.yaml"))  # figures and tables, not the paper's numbers
ABLATIONS = sorted((ROOT / "recipes" / "ablations").glob("*.yaml"))


@cache
def shipped_plan(name: str, profile: str | None = None) -> dict[str, Any]:
    """The plan of a file of recipes/, where nothing is published."""
    with chdir(ROOT):
        return plan(shipped(name, profile), "all", NOWHERE)


def training(made: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages of a plan, in their order."""
    return [job for job in made["order"] if job["kind"] == "train"]


# --- the shipped sweeps --------------------------------------------------------------------------------------------


def test_table_2_is_planned_without_its_data_or_anything_heavy(remix) -> None:
    noted = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}  # what is imported goes to stderr
    done = remix("plan", "recipes/paper/table2.yaml", "--json", "--runs", NOWHERE, env=noted)
    made = json.loads(done.stdout)
    assert (made["runs"], made["arms"], made["seeds"]) == (486, 162, [0, 1, 2])
    assert (made["stages_requested"], made["stages_distinct"], made["stages_to_train"]) == (972, 513, 513)
    assert (made["stages_published"], made["profiles"], made["keep"]) == (0, ["llama3-8b"], "none")
    assert made["absent"] == [path for path in ("data/EntityQuestions", "data/LAMA") if not (ROOT / path).exists()]
    assert made["seconds"] < 20
    kinds = [job["kind"] for job in made["order"]]
    assert [kinds.count(kind) for kind in ("train", "measure", "split")] == [513, 513, made["splits"]] == [513, 513, 6]
    assert not (ROOT / NOWHERE).exists()  # a plan writes nothing
    imported = set(done.stderr.split())
    assert "remix_toolkit.graph.plan" in imported
    assert not {"torch", "transformers", "trl", "datasets", "numpy"} & imported


@pytest.mark.parametrize("file", [*PAPER, *ABLATIONS], ids=lambda file: file.stem)
def test_shipped_sweeps_plan_under_their_own_profile_and_small(trained, file: Path) -> None:
    name = f"{file.parent.name}/{file.stem}"
    for profile in (None, "tiny", *(["llama3-8b"] if file in ABLATIONS else [])):
        found = shipped(name, profile)
        made = shipped_plan(name, profile)
        assert made["runs"] == len(found) == len({(cell.arm, cell.recipe.seed) for cell in found}) > 1
        assert made["arms"] * len(made["seeds"]) == made["runs"]
        assert made["stages_to_train"] == made["stages_distinct"] == len(keys(found))
        assert made["disk_peak_bytes"] > 0
        before: set[str] = set()
        for job in made["order"]:
            assert set(job["needs"]) <= before
            assert len(job["runs"]) == len(set(job["runs"]))  # a run wants an answer once
            assert job["kind"] != "train" or job["steps"] > 0
            before.add(job["key"])
        if profile:
            assert made["profiles"] == [profile]
    small = shipped_plan(name, "tiny")
    assert (small["gpu_hours"], small["devices_per_stage"]) == (None, [1])
    trained = {stage.data.task for cell in shipped(name, "tiny") for stage in cell.recipe.stages.values()}
    assert trained <= {"kvr", "invented_facts"}  # nothing to download


@pytest.mark.parametrize("file", PAPER, ids=lambda file: file.stem)
def test_the_counts_in_a_files_header_are_the_plans(trained, file: Path) -> None:
    header = file.read_text(encoding="utf-8").partition("\nprofile")[0].replace("\n#", " ")
    factors = r"(?:(?P<factors>\d+ \w+(?: x \d+ \w+)+): )?"
    stages = r"(?:, (?P<stages>\d+) stages| of one stage| of two stages.*? (?P<trained>\d+) stages are trained)"
    said = re.search(rf"{factors}(?P<runs>\d+) runs{stages}", header)
    assert said, "how many runs and stages?"
    made = shipped_plan(f"paper/{file.stem}")
    assert made["runs"] == int(said["runs"])
    assert made["stages_to_train"] == int(said["stages"] or said["trained"] or said["runs"])
    assert prod(int(factor.split()[0]) for factor in (said["factors"] or said["runs"]).split(" x ")) == made["runs"]


def test_tables_and_figures_share_their_stages() -> None:
    of = {file.stem: keys(shipped(f"paper/{file.stem}")) for file in PAPER}
    assert of["table1"] < of["table2"]
    assert of["figure10"] < of["table2"]
    assert of["figure2"] == of["table4"]
    assert of["figure9"] == of["table5"] | of["table6"]
    assert not of["table5"] & of["table6"]  # two base models
    assert not of["table2"] & of["table3"]
    unmixed = keys([cell for cell in shipped("paper/table4") if cell.arm.endswith(", 0%")])
    assert unmixed < of["table1"]  # replay of 0% is no mixing


# --- what it takes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], [180, 150]),
        (["stages.stage1.mix={random_words: {ratio: 2}}"], [540, 150]),
        (["stages.stage2.mix={passages: {ratio: 2}, random_words: {ratio: 1}}"], [180, 600]),
        (["stages.stage2.mix={replay: {stage: stage1, ratio: 0.3}}"], [180, 200]),
        (["stages.stage1.mix={random_words: {ratio: 0}}"], [180, 150]),
        (["stages.stage1.train.num_train_epochs=1.5"], [5, 150]),
        (["stages.stage2.train.max_steps=7"], [180, 7]),
        (["global_batch_size=50"], [120, 100]),
        (["stages.stage1.data.size=128"], [240, 150]),
        (["stages.stage2.data={task: popqa}"], [180, None]),  # all rows of the hub's: who knows how many
    ],
)
def test_steps_follow_from_the_declaration(overrides: list[str], steps: list[int | None]) -> None:
    made = plan(load_sweep(KVR, overrides=overrides)[1], "all", NOWHERE)
    assert [job["steps"] for job in training(made)] == steps
    assert made["steps"] == (None if None in steps else sum(steps))
    assert (made["tokens"] is None, made["flops"] is None) == (None in steps, None in steps)


def test_rows_of_a_file_of_ones_own_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"who is {i}?,number {i}\n" for i in range(70))
    (tmp_path / "facts.csv").write_text(f"prompt,response\n{rows}", encoding="utf-8")
    own = [f"stages.stage1.data={{task: pairs, path: {tmp_path / 'facts.csv'}}}"]
    made = plan(load_sweep(KVR, overrides=own)[1], "all", NOWHERE)
    assert [job["steps"] for job in training(made)] == [60 * (70 // 32), 150]


def test_a_matched_stage_takes_the_others_steps_or_tokens(trained, cells) -> None:
    found = cells(CONTROL)
    order = {job["key"]: job for job in plan(found, "all", NOWHERE)["order"]}
    for size in (32, 64):
        control, other = find(found, f"size={size}, control"), find(found, f"size={size}, random")
        one, two = ([order[node.key] for node in cell.nodes] for cell in (control, other))
        assert one[0]["steps"] == two[0]["steps"] == 100 * (64 * 3 // 32)
        assert one[0]["tokens"] < two[0]["tokens"]
        assert two[1]["steps"] == 100 * (size * 2 // 32)
        assert one[1]["steps"] > two[1]["steps"]  # a passage has more trained tokens than a fact


@pytest.mark.parametrize("mixing", ["random_words: {ratio: 2, words: 50}", "passages: {ratio: 1, words: 5}"])
def test_steps_of_equal_tokens_are_nearly_what_a_run_will_take(
    trained, cells, tmp_path: Path, tokenizer, mixing: str
) -> None:
    found = cells(f"arms: {{a: {{stages.stage1.mix: {{{mixing}}}}}, b: {{stages.stage1.match: {{tokens_of: a}}}}}}\n")
    planned = [job["steps"] for job in training(plan(found, "all", NOWHERE)) if job["name"] == "stage1"]
    a, b = (build_all(find(found, arm).recipe, ["stage1"], tokenizer, tmp_path)["stage1"] for arm in "ab")
    tokens = [d.counts.trained_tokens / d.counts.examples for d in (a, b)]
    assert planned[1] == pytest.approx(planned[0] * tokens[0] / tokens[1], rel=0.2)


def test_a_recipe_matched_with_a_published_stage_is_planned() -> None:
    """What `remix run` takes, `remix plan` takes: a match names an arm, or a stage's key."""
    match = "stages.stage1.match={steps_of: 0123456789abcdef}"
    assert len(lineage(load_recipe(KVR, overrides=[match]))) == 2
    assert plan(load_sweep(KVR, overrides=[match])[1], "all", NOWHERE)["stages_to_train"] == 2


def test_hours_are_the_sum_of_their_causes_at_the_stated_rates(trained) -> None:
    found = shipped("paper/figure4")
    made = shipped_plan("paper/figure4")
    assert made["gpu_hours"] == pytest.approx(sum(made["gpu_hours_of"].values()))
    assert made["gpu_hours"] * 60 == pytest.approx(sum(4 * job["minutes"] for job in made["order"]))
    assert made["flops"] == pytest.approx(sum(job["flops"] for job in made["order"]))
    assert made["tokens"] == sum(job["tokens"] for job in made["order"] if job["kind"] == "train")
    trained = 6 * 8.03e9 * made["tokens"]
    assert trained < made["flops"] < 1.1 * trained  # questions cost little
    fast = {"exchange_gb_per_s": 1e9, "memory_gb_per_s": 1e9, "read_gb_per_s": 1e9, "write_gb_per_s": 1e9}
    with chdir(ROOT):
        slow = plan(found, "all", NOWHERE, rates=Rates(utilization=0.2, start_seconds=1e-9, **fast))
    assert slow["gpu_hours"] == pytest.approx(slow["flops"] / (989e12 * 0.2) / 3600, rel=1e-3)


def test_a_step_of_short_examples_takes_as_long_as_the_weights_take_to_move() -> None:
    """Llama-3-8B on four GPUs: 48 GB a step, of which each sends and receives three quarters."""
    stage = training(plan(load_sweep(KVR, "llama3-8b")[1], "all", NOWHERE))[0]
    seconds = 60 * stage["minutes"] - 60 - 16.06 / 2 - 16.06  # without the start, loading, publishing
    assert seconds / stage["steps"] == pytest.approx(0.75 * 48.18 / 240, rel=0.25)


@pytest.mark.parametrize(("task", "tokens", "trained"), [("kvr", 34.7, 7.1), ("popqa", 33.9, 4.8), ("lama", 25.6, 3.1)])
def test_tokens_of_facts_are_nearly_those_of_a_real_tokenizer(task: str, tokens: float, trained: float) -> None:
    """As SmolLM2's tokenizer counted them over a hundred rows."""
    overrides = [f"stages.stage1.data={{task: {task}, size: 320}}", "stages.stage1.train.num_train_epochs=1"]
    jobs = graph(load_sweep(KVR, "llama3-8b", overrides=overrides)[1])
    cost = next(cost for key, cost in costs(jobs).items() if jobs[key].name == "stage1")
    assert cost.tokens == pytest.approx(320 * tokens, rel=0.15)
    assert cost.trained_tokens == pytest.approx(320 * trained, rel=0.3)


def test_an_adapter_spares_the_gradients_of_what_is_frozen() -> None:
    full, lora = (
        training(plan(load_sweep(KVR, "llama3-8b", overrides=overrides)[1], "all", NOWHERE))[0]["flops"]
        for overrides in ([], ["adapter={r: 16}"])
    )
    assert lora == pytest.approx(full * 4 / 6)


def test_what_is_not_estimated_is_said_with_the_reason() -> None:
    made = plan(load_sweep(KVR, "llama3-8b", overrides=["device_gb=null"])[1], "all", NOWHERE)
    assert (made["memory"], made["not_estimated"]) == (None, ["memory: profile llama3-8b lacks device_gb"])
    made = plan(load_sweep(KVR, "mistral-7b", overrides=["parameters=null"])[1], "all", NOWHERE)
    assert made["gpu_hours"] is None
    assert made["not_estimated"][0].startswith("hours, disk and memory: profile mistral-7b lacks parameters")
    assert plan(load_sweep(KVR)[1], "all", NOWHERE)["not_estimated"] == []


def test_a_wrong_rate_is_refused_with_the_nearest_name(here) -> None:
    for rate, message in (("utilisation=0.5", "utilization"), ("utilization=2", "--rate: utilization: ")):
        done = here("plan", "kvr", "--rate", rate, "--runs", NOWHERE, check=False)
        assert (done.returncode, message in done.stderr) == (2, True)


def test_published_stages_are_not_planned_again(trained, cells, tmp_path: Path) -> None:
    found = cells(SHARED)
    made = plan(found, "none", tmp_path)
    assert (made["stages_published"], made["stages_to_train"]) == (0, 4)
    measure, measure_second, *_ = (job for job in graph(found).values() if job.kind == "measure")
    trained.publish_job(tmp_path, measure)
    trained.publish_job(tmp_path, measure_second)
    less = plan(found, "none", tmp_path)
    assert (less["runs"], less["stages_requested"], less["stages_distinct"]) == (3, 6, 4)
    assert (less["stages_published"], less["stages_to_train"]) == (2, 2)
    assert [job["to_do"] for job in training(less)] == [False, False, True, True]
    assert less["steps"] == sum(job["steps"] for job in training(less)[2:]) < made["steps"]
    assert less["tokens"] < made["tokens"]
    assert less["flops"] < made["flops"]
    assert as_mermaid(less).count(":::published") == 2
    trained.publish_job(tmp_path, measure, pruned=True)
    assert plan(found, "none", tmp_path)["stages_to_train"] == 3


def test_a_plan_says_why_a_stage_is_new(trained, cells, tmp_path: Path) -> None:
    found = cells("arms: {a: {}}\n")
    _, measure = (job for job in graph(found).values() if job.kind == "measure")
    record = trained.publish_job(tmp_path, measure) / "stage.json"
    stage = StageRecord.read(record).model_copy(update={"declaration": found[0].nodes[1].declaration})
    stage.write(record)
    changed = cells("arms: {a: {stages.stage1.train.learning_rate: 5e-4, stages.stage2.mix.passages.ratio: 1}}\n")
    first, second = training(plan(changed, "all", tmp_path))
    assert first["why"] is None  # no first stage is published to compare it with
    assert second["why"].startswith("stages.stage1.train.learning_rate 0.001 -> 0.0005, stages.stage2.mix.")


def test_nothing_is_known_of_a_base_of_unknown_size(cells) -> None:
    made = plan(cells(SHARED, overrides=["base=my/model"]), "none", NOWHERE)
    assert (made["disk_peak_bytes"], made["disk_peak_bytes_keep_all"], made["flops"], made["gpu_hours"]) == (None,) * 4
    assert made["steps"] > 0


# --- for a person --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["familiar_facts", "recipes/demo.yaml", "recipes/ablations/three_stages.yaml"])
def test_a_drawing_has_every_stage_and_split_and_every_edge(here, name: str) -> None:
    made = json.loads(here("plan", name, "--json", "--runs", NOWHERE).stdout)
    drawn = here("plan", name, "--graph", "mermaid", "--runs", NOWHERE).stdout
    assert drawn == as_mermaid(made) + "\n"
    jobs = [job for job in made["order"] if job["kind"] != "measure"]
    assert re.findall(r"^  (\w{16})\[", drawn, re.M) == [job["key"] for job in jobs]
    edges = [(need, job["key"]) for job in jobs for need in job["needs"]]
    assert re.findall(r"^  (\w+) --> (\w+)$", drawn, re.M) == edges


def test_a_plan_on_the_screen_says_what_it_costs(here) -> None:
    out = here("plan", "recipes/paper/figure8.yaml", "--runs", NOWHERE).stdout
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    values = {"runs": 24, "arms": 8, "seeds": "0, 1, 2", "stages_to_train": 42, "rates.tflops": 989}
    for name, value in values.items():
        assert [name, f"{value}"] in [[*map(str.strip, line)] for line in lines]
    assert "data/EntityQuestions" in out or (ROOT / "data" / "EntityQuestions").exists()
    assert re.search(r"^gpu_hours +\d", out, re.M)
    assert "GPU minutes" in out
    on_a_laptop = here("plan", "kvr", "--runs", NOWHERE).stdout
    assert "rates" not in on_a_laptop, "of a GPU: they count for nothing here"
    assert not re.search(r"^[a-z_.]+ +-\s*$", on_a_laptop, re.M), "what there is not is no line"
