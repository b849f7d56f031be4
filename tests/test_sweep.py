"""Sweep files: the cells of a grid and its arms, what they are called, what stands over what, what is recorded."""

from contextlib import chdir
from itertools import product
from pathlib import Path

import pytest
from conftest import ROOT
from sweeps import CONTROL, FACTS, RANDOM, find, keys, shipped

from remix_toolkit.errors import BadInput
from remix_toolkit.graph.lineage import lineage
from remix_toolkit.graph.sweep import Cell, load_sweep
from remix_toolkit.graph.sweep_state import Command, JobState, SweepState
from remix_toolkit.launch.status import Screen
from remix_toolkit.launch.sweep import side_by_side
from remix_toolkit.recipe.difference import as_overrides
from remix_toolkit.recipe.load import load_recipe


def names(of: list[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.arm for cell in of))


def sizes(cell: Cell) -> tuple[int | None, ...]:
    return tuple(stage.data.size for stage in cell.recipe.stages.values())


def resolves_again(cell: Cell) -> bool:
    """Do the settings that are recorded of a run give the same stages?"""
    again = load_recipe(cell.recipe.source, cell.recipe.profile, as_overrides(cell.record().settings), cell.recipe.seed)
    return [node.key for node in lineage(again)] == [node.key for node in cell.nodes]


# --- grid and arms -------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_in_the_files_order(cells) -> None:
    grid = "grid:\n  stages.stage1.data.size: [64, 32]\n  stages.stage2.data.size: [48, 32, 64]\n"
    found = cells(f"{grid}arms: {{b: {{}}, a: {{}}}}\nseeds: [1, 0]\n")
    assert [(*sizes(cell), cell.arm.rpartition(", ")[2], cell.recipe.seed) for cell in found] == [
        (*sizes_, arm, seed) for *sizes_, arm, seed in product([64, 32], [48, 32, 64], ["b", "a"], [1, 0])
    ]


def test_arms_are_named_by_their_place_in_the_grid(cells) -> None:
    recipes = ROOT / "recipes"
    found = cells(
        f"recipe: {recipes}/kvr.yaml\n"
        f"grid:\n  recipe: [{recipes}/kvr.yaml, {recipes}/popqa.yaml]\n  stages.stage2.data.task: [lama, webqa]\n"
        f"arms: {{none: {{}}, random: {{{RANDOM}}}}}\n"
    )
    assert names(found)[:3] == ["kvr, lama, none", "kvr, lama, random", "kvr, webqa, none"]
    assert names(found)[-1] == "popqa, webqa, random"
    assert len(found) == len(names(found)) == 8
    last = found[-1].recipe
    assert (last.source, last.name) == (f"{recipes}/popqa.yaml", "mine")
    assert [stage.data.task for stage in last.stages.values()] == ["popqa", "webqa"]
    assert last.stages["stage1"].mix.random_words.ratio == 2


PLACES = [f"stage1.data.size={one}, stage2.data.size={two}" for one in (32, 64) for two in (32, 64)]
REPLAYED = "replay: {stages.stage2.mix.replay.stage: stage1}"


@pytest.mark.parametrize(
    ("grid", "arms", "expected"),
    [
        ("stages.stage2.mix.replay.ratio: [0, 0.1]", REPLAYED, ["ratio=0, replay", "ratio=0.1, replay"]),
        ("precision: [bf16], stages.stage1.data.size: [32, 64]", "a: {}", ["size=32, a", "size=64, a"]),
        ("profile: [tiny, mistral-7b]", '"": {}', ["tiny", "mistral-7b"]),
        ("precision: [fp32]", '"": {}', ["mine"]),
        ("stages.stage1.data.size: [32, 64], stages.stage2.data.size: [32, 64]", '"": {}', PLACES),
        ("stages.stage1.stop: [null, {loss_below: 1e-4}]", '"": {}', ["stop=null", 'stop={"loss_below": 0.0001}']),
    ],
)
def test_names_say_what_varies(cells, grid: str, arms: str, expected: list[str]) -> None:
    assert names(cells(f"grid: {{{grid}}}\narms: {{{arms}}}\n")) == expected


def test_a_profile_may_be_an_axis(cells) -> None:
    text = "grid: {profile: [tiny, mistral-7b]}\narms: {a: {}}\n"
    found = cells(text)
    models = [("tiny", "tiny"), ("mistral-7b", "mistralai/Mistral-7B-v0.3")]
    assert [(cell.recipe.profile, cell.recipe.base) for cell in found] == models
    assert not keys(found[:1]) & keys(found[1:])
    assert all(resolves_again(cell) for cell in found)
    assert [(cell.arm, cell.recipe.profile) for cell in cells(text, "mistral-7b")] == [("a", "mistral-7b")]
    with pytest.raises(BadInput, match="arm tiny, a: has profile tiny; run it without --profile llama3-8b"):
        cells(text, "llama3-8b")  # no cell is trained under another one's name


def test_an_arm_may_name_its_recipe_and_profile(cells, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(FACTS.replace("64", "16"), encoding="utf-8")
    found = cells("arms: {a: {}, b: {recipe: other.yaml, profile: mistral-7b}}\n")
    assert [(sizes(cell), cell.recipe.profile) for cell in found] == [((64, 64), "tiny"), ((16, 16), "mistral-7b")]


def test_cells_are_left_out_by_value_and_by_list(cells) -> None:
    text = "grid:\n  stages.stage1.data.size: [32, 48, 64]\n  precision: [fp32, bf16]\narms: {a: {}, b: {}, c: {}}\n"
    everything = names(cells(text))
    assert len(everything) == 18
    by_value = names(cells(f"{text}exclude:\n- {{precision: bf16, arm: b}}\n"))
    assert by_value == [name for name in everything if "bf16, b" not in name]
    by_list = names(cells(f"{text}exclude:\n- {{stages.stage1.data.size: [32, 64], arm: [a, c]}}\n"))
    assert by_list == [name for name in everything if "=48" in name or name.endswith("b")]
    two = names(cells(f"{text}exclude:\n- stages.stage1.data.size: 48\n- arm: a\n"))
    assert two == [name for name in everything if "=48" not in name and not name.endswith("a")]


def test_a_mix_of_ratio_0_is_no_mixing(cells) -> None:
    zero = "stages.stage1.mix: {random_words: {ratio: 0}}"
    later = "stages.stage2.mix: {replay: {stage: stage1, ratio: 0}}"
    found = cells(f"arms: {{none: {{}}, zero: {{{zero}}}, replay: {{{later}}}, random: {{{RANDOM}}}}}\n")
    none, *others, random = (keys([cell]) for cell in found)
    assert others == [none, none]
    assert not none & random


def test_a_match_is_with_the_same_place_and_seed(cells) -> None:
    found = cells(CONTROL)
    controls = [cell for cell in found if cell.arm.endswith("control")]
    assert len(controls) == 4
    for cell in controls:
        other = find(found, cell.arm.replace("control", "random"), cell.recipe.seed)
        first, second = (stage.match for stage in cell.recipe.stages.values())
        assert (first.steps_of, first.tokens_of) == (other.nodes[0].key, None)
        assert (second.steps_of, second.tokens_of) == (None, other.nodes[1].key)
        assert resolves_again(cell)
    assert len({stage.match.other for cell in controls for stage in cell.recipe.stages.values()}) == 2 + 4


# --- overrides and seeds -------------------------------------------------------------------------------------------


def test_set_holds_for_every_cell_under_the_grid_and_the_arm(cells) -> None:
    found = cells(
        "set: {global_batch_size: 16, stages.stage1.data.size: 8, stages.stage2.data.size: 8}\n"
        "grid: {stages.stage1.data.size: [32, 48]}\n"
        "arms: {a: {}, b: {stages.stage1.data.size: 64}}\n"
    )
    assert [sizes(cell) for cell in found] == [(32, 8), (64, 8), (48, 8), (64, 8)]
    assert {cell.recipe.global_batch_size for cell in found} == {16}
    assert all(resolves_again(cell) for cell in found)


def test_the_command_lines_overrides_come_last(cells) -> None:
    text = "set: {data_seed: 1}\ngrid: {stages.stage1.data.size: [32, 48]}\narms: {a: {stages.stage2.data.size: 8}}\n"
    own = ["stages.stage2.data.size=9", "data_seed=2", "stages.stage1.train.learning_rate=7e-4"]
    for cell in cells(text, overrides=own):
        assert (sizes(cell)[1], cell.recipe.data_seed) == (9, 2)
        assert cell.recipe.stages["stage1"].train["learning_rate"] == 7e-4
        overrides = {"data_seed": 2, "stages.stage1.train.learning_rate": 7e-4, "stages.stage2.data.size": 9}
        assert cell.record().overrides == overrides
        assert resolves_again(cell)
    assert {sizes(cell) for cell in cells(text, overrides=["stages.stage1.data.size=16"])} == {(16, 8)}


def test_seeds_of_the_command_line_stand_in_place_of_the_sweeps(write_sweep) -> None:
    sweep = write_sweep("recipe: facts.yaml\narms: {a: {}, b: {}}\nseeds: [0, 1, 2]\n")
    assert [cell.recipe.seed for cell in load_sweep(sweep)[1]] == [0, 1, 2, 0, 1, 2]
    assert [(cell.arm, cell.recipe.seed) for cell in load_sweep(sweep, seeds=[7])[1]] == [("a", 7), ("b", 7)]


def test_a_plain_recipe_is_one_run_for_each_seed(write_sweep) -> None:
    recipe = write_sweep(FACTS, "facts.yaml")
    declared, found = load_sweep(recipe, seeds=[0, 3], overrides=["stages.stage1.data.size=32"])
    assert declared.keep == "all"
    assert [(cell.arm, cell.recipe.seed, sizes(cell)) for cell in found] == [("facts", n, (32, 64)) for n in (0, 3)]
    assert all(resolves_again(cell) for cell in found)


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        *[("paper/table2", None), ("paper/figure9", None), ("paper/figure8", None), ("demo", None)],
        *[("popqa_then", None), ("ablations/mixing_ratio", "tiny"), ("ablations/three_stages", "tiny")],
    ],
)
def test_recorded_overrides_of_shipped_sweeps_resolve_to_the_same_stages(name: str, profile: str | None) -> None:
    with chdir(ROOT):
        assert all(resolves_again(cell) for cell in shipped(name, profile))


# --- profiles and extends ------------------------------------------------------------------------------------------

SECTIONS = f"""\
profile: llama3-8b
grid:
  stages.stage1.data.size: [64, 48]
  stages.stage2.data.task: [webqa, gsm8k]
arms:
  none: {{}}
  random: {{{RANDOM}}}
seeds: [0, 1]
keep: none
profiles:
  tiny:
    grid: {{stages.stage1.data.size: [32]}}
    seeds: [5]
"""


def test_a_section_for_a_profile_replaces_whole_keys(cells) -> None:
    large, small = cells(SECTIONS), cells(SECTIONS, "tiny")
    assert {cell.recipe.profile for cell in large} == {"llama3-8b"}
    assert len(large) == 2 * 2 * 2 * 2
    assert [(cell.arm, cell.recipe.seed) for cell in small] == [("none", 5), ("random", 5)]
    assert {cell.recipe.profile for cell in small} == {"tiny"}
    assert {sizes(cell) for cell in small} == {(32, 64)}
    assert {cell.recipe.stages["stage2"].data.task for cell in small} == {"invented_facts"}  # that axis is gone, too
    assert len(cells(SECTIONS, "mistral-7b")) == len(large)  # it has no section


def test_several_profiles_in_a_grid(cells) -> None:
    grid = "grid: {profile: [llama3-8b, tiny]}\narms: {a: {}, b: {}}\n"
    rest = "exclude: [{profile: llama3-8b, arm: b}]\nprofiles: {tiny: {set: {stages.stage1.data.size: 50}}}\n"
    found = cells(grid + rest)  # no section is for all of them
    assert [(cell.arm, sizes(cell)[0]) for cell in found] == [("llama3-8b, a", 64), ("tiny, a", 64), ("tiny, b", 64)]
    small = cells(grid + rest, "tiny")  # what is left out of another profile is no mistake
    assert [(cell.recipe.profile, sizes(cell)[0]) for cell in small] == [("tiny", 50), ("tiny", 50)]


def test_a_child_stands_over_what_it_extends(cells, write_sweep) -> None:
    write_sweep(f"recipe: facts.yaml\n{SECTIONS}", "parent.yaml")
    child = "extends: parent.yaml\narms: {alone: {}}\nseeds: [9]\n"
    large = cells(child)
    assert names(large)[0] == "size=64, webqa, alone"  # the parent's grid and profile
    assert {(cell.recipe.profile, cell.recipe.seed, cell.recipe.name) for cell in large} == {("llama3-8b", 9, "mine")}
    small = cells(child, "tiny")  # the parent's section, then the child's keys
    assert [(cell.arm, cell.recipe.seed, sizes(cell)) for cell in small] == [("alone", 9, (32, 64))]
    section = "profiles: {tiny: {seeds: [11, 12], set: {stages.stage2.data.size: 16}}}\n"
    smaller = cells(child + section, "tiny")  # and last the child's section
    assert [(cell.arm, cell.recipe.seed, sizes(cell)) for cell in smaller] == [("alone", n, (32, 16)) for n in (11, 12)]
    assert [cell.recipe.seed for cell in cells(child + section)] == [9] * 4


def test_a_childs_own_profile_chooses_the_section_of_what_it_extends(cells, write_sweep) -> None:
    write_sweep(f"recipe: facts.yaml\n{SECTIONS}", "parent.yaml")
    write_sweep("extends: parent.yaml\nkeep: leaves\n", "middle.yaml")
    found = cells("extends: middle.yaml\nprofile: tiny\n")
    runs = [("none", "tiny", 5), ("random", "tiny", 5)]
    assert [(cell.arm, cell.recipe.profile, cell.recipe.seed) for cell in found] == runs
    assert load_sweep(write_sweep("extends: middle.yaml\n"))[0].keep == "leaves"


@pytest.mark.parametrize(
    "text",
    [
        "arms: {a: {}}\n",
        "grid: {recipe: [../facts.yaml]}\n",
        "arms: {a: {recipe: ../facts.yaml}}\n",
        "arms: {a: {}}\nprofiles: {tiny: {grid: {recipe: [../facts.yaml]}}}\n",
    ],
    ids=["recipe", "grid", "arm", "section"],
)
def test_a_recipe_is_beside_the_file_that_names_it(cells, write_sweep, text: str) -> None:
    write_sweep(f"recipe: ../facts.yaml\n{text}", "below/parent.yaml")
    (cell,) = cells("extends: below/parent.yaml\n")
    assert sizes(cell) == (64, 64)


def test_tiny_models_are_trained_side_by_side_and_others_one_by_one(monkeypatch) -> None:
    tiny, large = shipped("demo", None), shipped("demo", "llama3-8b")
    for cores, expected in ((2, 2), (64, 8), (None, 1)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert (side_by_side(tiny, []), side_by_side(large, [])) == (expected, 1)
    assert (side_by_side(tiny, ["0", "1"]), side_by_side(large, ["0"])) == (2, 1)


def test_the_time_left_is_estimated_once_a_stage_is_trained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A split may be in the store already: by that alone, hours would look like seconds."""
    jobs = {
        kind: JobState(kind=kind, name=kind, runs=["none, seed 0"], needs=set(), loads=set())
        for kind in ("split", "train", "measure")
    }
    command = Command(sweep="demo", profile=None, seeds=None, overrides=[])
    state = SweepState(id="x", command=command, keep="all", launcher="local", jobs=jobs)
    shown = Screen(state, tmp_path, dict.fromkeys(jobs, 1.0))
    for kind, estimated in (("split", False), ("train", True)):
        jobs[kind].status = "done"
        shown.show_end(kind)
        printed = capsys.readouterr()
        assert (" left" in printed.out + printed.err) == estimated, kind
