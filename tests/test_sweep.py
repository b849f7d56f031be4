"""Sweeps before anything is trained: cells of a grid, mistakes, the graph of stages, what is left to do, the plan."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from functools import cache
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from remix_toolkit import cli, disk, store
from remix_toolkit.data.tasks import noting_absent
from remix_toolkit.errors import BadInput
from remix_toolkit.graph import Job, children, graph
from remix_toolkit.lineage import lineage
from remix_toolkit.plan import plan
from remix_toolkit.report.plan import draw
from remix_toolkit.resolve import load_base, load_recipe
from remix_toolkit.sweep import Cell, load_cells, load_sweep

PAPER = sorted((ROOT / "recipes" / "paper").glob("*.yaml"))
ABLATIONS = sorted((ROOT / "recipes" / "ablations").glob("*.yaml"))
NOWHERE = Path("no such runs directory")

FACTS = """\
stages:
  stage1:
    data: {task: kvr, size: 64}
  stage2:
    data: {task: invented_facts, size: 64}
"""
RANDOM = "stages.stage1.mix: {random_words: {ratio: 2}}"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a sweep beside `facts.yaml`; its path."""
    (tmp_path / "facts.yaml").write_text(FACTS, encoding="utf-8")

    def to(text: str, name: str = "mine.yaml") -> str:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return str(file)

    return to


@pytest.fixture
def cells(write) -> Callable[..., list[Cell]]:
    """The cells of a sweep of `facts.yaml`, or of another recipe that the text names."""

    def of(text: str, profile: str | None = None, overrides: list[str] | None = None, name: str = "mine.yaml"):
        own = re.match("recipe:|extends:", text)
        return load_sweep(write(text if own else f"recipe: facts.yaml\n{text}", name), profile, None, overrides)[1]

    return of


def names(of: list[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.arm for cell in of))


def keys(of: list[Cell]) -> set[str]:
    return {node.key for cell in of for node in cell.nodes}


def sizes(cell: Cell) -> tuple[int | None, ...]:
    return tuple(stage.data.size for stage in cell.recipe.stages.values())


def find(of: list[Cell], arm: str, seed: int = 0) -> Cell:
    (cell,) = (cell for cell in of if (cell.arm, cell.recipe.seed) == (arm, seed))
    return cell


def resolves_again(cell: Cell) -> bool:
    """Do the overrides that are recorded of a run give the same stages?"""
    again = load_recipe(cell.file, cell.recipe.profile, cell.overrides, cell.recipe.seed)
    return [node.key for node in lineage(again)] == [node.key for node in cell.nodes]


def assert_in_order(jobs: dict[str, Job]) -> None:
    before: set[str] = set()
    for key, job in jobs.items():
        assert set(job.needs) <= before, f"{job.name} {key} comes before what it needs"
        before.add(key)


@cache
def shipped(name: str, profile: str | None = None) -> list[Cell]:
    """The cells of a file of recipes/, as a plan makes them on a machine that has no data."""
    with chdir(ROOT), noting_absent():
        return load_cells(f"recipes/{name}.yaml", profile)[1]


@cache
def shipped_plan(name: str, profile: str | None = None) -> dict[str, Any]:
    """Its plan, where nothing is published."""
    with chdir(ROOT), noting_absent():
        return plan(shipped(name, profile), "all", NOWHERE)


def shipped_graph(name: str, profile: str | None = None) -> dict[str, Job]:
    with chdir(ROOT), noting_absent():
        return graph(shipped(name, profile))


# --- the paper's sweeps --------------------------------------------------------------------------------------------


def test_table_2_is_planned_without_its_data(remix) -> None:
    made = json.loads(remix("plan", "recipes/paper/table2.yaml", "--json", "--runs", NOWHERE).stdout)
    assert (made["runs"], made["arms"], made["seeds"]) == (486, 162, [0, 1, 2])
    assert (made["stages_requested"], made["stages_distinct"], made["stages_to_train"]) == (972, 513, 513)
    assert (made["stages_published"], made["profiles"], made["keep"]) == (0, ["llama3-8b"], "none")
    assert made["absent"] == [path for path in ("data/EntityQuestions", "data/LAMA") if not (ROOT / path).exists()]
    assert made["seconds"] < 20
    kinds = [job["kind"] for job in made["order"]]
    assert (kinds.count("stage"), kinds.count("split"), made["splits"]) == (513, 5, 5)
    assert not (ROOT / NOWHERE).exists()  # a plan writes nothing


def test_a_plan_imports_nothing_heavy() -> None:
    line = ["remix", "plan", "recipes/paper/table2.yaml", "--json", "--runs", str(NOWHERE)]
    code = f"import sys; from remix_toolkit import cli; sys.argv = {line}\ntry: cli.main()\nexcept SystemExit: pass\n"
    code += "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["runs"] == 486
    assert not {"torch", "transformers", "trl", "datasets", "numpy"} & set(done.stderr.split())


@pytest.mark.parametrize("file", [*PAPER, *ABLATIONS], ids=lambda file: file.stem)
def test_shipped_sweeps_plan_under_their_own_profile_and_small(file: Path) -> None:
    name = f"{file.parent.name}/{file.stem}"
    for profile in (None, "tiny", *(["llama3-8b"] if file in ABLATIONS else [])):
        found = shipped(name, profile)
        made = shipped_plan(name, profile)
        assert made["runs"] == len(found) == len({(cell.arm, cell.recipe.seed) for cell in found}) > 1
        assert made["arms"] * len(made["seeds"]) == made["runs"]
        assert made["stages_to_train"] == made["stages_distinct"] == len(keys(found))
        assert min(job["steps"] for job in made["order"] if job["kind"] == "stage") > 0
        assert made["disk_peak_bytes"] > 0
        assert_in_order(shipped_graph(name, profile))
        if profile:
            assert made["profiles"] == [profile]
    small = shipped_plan(name, "tiny")
    assert (small["gpu_hours"], small["devices_per_stage"]) == (None, [1])
    trained = {stage.data.task for cell in shipped(name, "tiny") for stage in cell.recipe.stages.values()}
    assert trained <= {"kvr", "invented_facts"}  # nothing to download


@pytest.mark.parametrize("file", [*PAPER, *ABLATIONS], ids=lambda file: file.stem)
def test_the_counts_in_a_files_header_are_the_plans(file: Path) -> None:
    header = file.read_text(encoding="utf-8").partition("\nprofile")[0].replace("\n#", " ")
    factors = r"(?:(?P<factors>\d+ \w+(?: x \d+ \w+)+): )?"
    stages = r"(?:, (?P<stages>\d+) stages| of one stage| of two stages.*? (?P<trained>\d+) stages are trained)"
    said = re.search(rf"{factors}(?P<runs>\d+) runs{stages}", header)
    if file in ABLATIONS and not said:
        return
    assert said, "how many runs and stages?"
    made = shipped_plan(f"{file.parent.name}/{file.stem}")
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


@pytest.mark.parametrize("name", ["paper/table2", "paper/figure9", "paper/figure8", "demo", "popqa_then"])
def test_recorded_overrides_of_shipped_sweeps_resolve_to_the_same_stages(name: str) -> None:
    with chdir(ROOT), noting_absent():
        assert all(resolves_again(cell) for cell in shipped(name) if cell.recipe.seed == 0)


@pytest.mark.parametrize("name", ["ablations/mixing_ratio", "ablations/replay", "ablations/three_stages"])
def test_recorded_overrides_of_small_sweeps_resolve_to_the_same_stages(name: str) -> None:
    with chdir(ROOT):
        assert all(resolves_again(cell) for cell in shipped(name, "tiny"))


# --- cells ---------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_in_the_files_order(cells) -> None:
    grid = "grid:\n  stages.stage1.data.size: [64, 32]\n  stages.stage2.data.size: [48, 32, 64]\n"
    found = cells(f"{grid}arms: {{b: {{}}, a: {{}}}}\nseeds: [1, 0]\n")
    assert [(*sizes(cell), cell.arm.rpartition(", ")[2], cell.recipe.seed) for cell in found] == [
        (*sizes_, arm, seed) for *sizes_, arm, seed in product([64, 32], [48, 32, 64], ["b", "a"], [1, 0])
    ]


def test_arms_are_named_by_their_place_in_the_grid(cells) -> None:
    recipes = ROOT / "recipes"
    with noting_absent():
        found = cells(
            f"recipe: {recipes}/kvr.yaml\n"
            f"grid:\n  recipe: [{recipes}/kvr.yaml, {recipes}/popqa.yaml]\n  stages.stage2.data.task: [lama, webqa]\n"
            f"arms: {{none: {{}}, random: {{{RANDOM}}}}}\n"
        )
    assert names(found)[:3] == ["kvr, lama, none", "kvr, lama, random", "kvr, webqa, none"]
    assert names(found)[-1] == "popqa, webqa, random"
    assert len(found) == len(names(found)) == 8
    last = found[-1].recipe
    assert (found[-1].file, last.name) == (f"{recipes}/popqa.yaml", "mine")
    assert [stage.data.task for stage in last.stages.values()] == ["popqa", "webqa"]
    assert last.stages["stage1"].mix.random_words.ratio == 2


@pytest.mark.parametrize(
    ("grid", "arms", "expected"),
    [
        (
            "stages.stage2.mix.replay.ratio: [0, 0.1]",
            "replay: {stages.stage2.mix.replay.stage: stage1}",
            ["ratio=0, replay", "ratio=0.1, replay"],
        ),
        ("precision: [bf16], stages.stage1.data.size: [32, 64]", "a: {}", ["size=32, a", "size=64, a"]),
        ("precision: [bf16]", "a: {}, b: {}", ["a", "b"]),
        ("profile: [tiny, mistral-7b]", '"": {}', ["tiny", "mistral-7b"]),
        ("precision: [fp32]", '"": {}', ["mine"]),
        (
            "stages.stage1.data.size: [32, 64], stages.stage2.data.size: [32, 64]",
            '"": {}',
            [f"stage1.data.size={one}, stage2.data.size={two}" for one in (32, 64) for two in (32, 64)],
        ),
        ("stages.stage1.mix: [{}, {random_words: {ratio: 1}}]", '"": {}', None),
        ("stages.stage1.stop: [null, {loss_below: 1e-4}]", '"": {}', None),
    ],
)
def test_names_say_what_varies(cells, grid: str, arms: str, expected: list[str] | None) -> None:
    found = names(cells(f"grid: {{{grid}}}\narms: {{{arms}}}\n"))
    if expected is None:
        part = grid.partition(":")[0].rpartition(".")[2]
        assert len(found) == 2
        assert all(name.startswith(f"{part}=") for name in found)
    else:
        assert found == expected


def test_a_profile_may_be_an_axis(cells) -> None:
    found = cells("grid: {profile: [tiny, mistral-7b]}\narms: {a: {}}\n")
    assert [(cell.recipe.profile, cell.recipe.base) for cell in found] == [
        ("tiny", "tiny"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.3"),
    ]
    assert not keys(found[:1]) & keys(found[1:])
    assert all(resolves_again(cell) for cell in found)


def test_an_arm_may_name_its_recipe_and_profile(cells, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(FACTS.replace("64", "16"), encoding="utf-8")
    found = cells("arms: {a: {}, b: {recipe: other.yaml, profile: mistral-7b}}\n")
    assert [(sizes(cell), cell.recipe.profile) for cell in found] == [((64, 64), "tiny"), ((16, 16), "mistral-7b")]


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
        assert cell.overrides[-3:] == [*own[:2], "stages.stage1.train.learning_rate=0.0007"]
        assert resolves_again(cell)
    assert {sizes(cell) for cell in cells(text, overrides=["stages.stage1.data.size=16"])} == {(16, 8)}


def test_seeds_of_the_command_line_stand_in_place_of_the_sweeps(write) -> None:
    sweep = write("recipe: facts.yaml\narms: {a: {}, b: {}}\nseeds: [0, 1, 2]\n")
    assert [cell.recipe.seed for cell in load_sweep(sweep)[1]] == [0, 1, 2, 0, 1, 2]
    assert [(cell.arm, cell.recipe.seed) for cell in load_sweep(sweep, seeds=[7])[1]] == [("a", 7), ("b", 7)]
    assert load_cells(sweep, seeds=[7]) == (
        "all",
        load_sweep(sweep, seeds=[7])[1],
    )


def test_a_plain_recipe_is_one_run_for_each_seed(write, tmp_path: Path) -> None:
    write("")
    keep, found = load_cells(str(tmp_path / "facts.yaml"), seeds=[0, 3], overrides=["stages.stage1.data.size=32"])
    assert keep == "all"
    assert [(cell.arm, cell.recipe.seed, sizes(cell)) for cell in found] == [
        ("facts", 0, (32, 64)),
        ("facts", 3, (32, 64)),
    ]
    assert all(resolves_again(cell) for cell in found)


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
    assert [(cell.arm, cell.recipe.seed, cell.recipe.profile) for cell in small] == [
        ("none", 5, "tiny"),
        ("random", 5, "tiny"),
    ]
    assert {sizes(cell) for cell in small} == {(32, 64)}
    assert {cell.recipe.stages["stage2"].data.task for cell in small} == {"invented_facts"}  # that axis is gone, too
    assert len(cells(SECTIONS, "mistral-7b")) == len(large)  # it has no section


def test_a_child_stands_over_what_it_extends(cells, write) -> None:
    write(f"recipe: facts.yaml\n{SECTIONS}", "parent.yaml")
    child = "extends: parent.yaml\narms: {alone: {}}\nseeds: [9]\n"
    large = cells(child)
    assert names(large)[0] == "size=64, webqa, alone"  # the parent's grid and profile
    assert {(cell.recipe.profile, cell.recipe.seed, cell.recipe.name) for cell in large} == {("llama3-8b", 9, "mine")}
    small = cells(child, "tiny")  # the parent's section, then the child's keys
    assert [(cell.arm, cell.recipe.seed, sizes(cell)) for cell in small] == [("alone", 9, (32, 64))]
    section = "profiles: {tiny: {seeds: [11, 12], set: {stages.stage2.data.size: 16}}}\n"
    smaller = cells(child + section, "tiny")  # and last the child's section
    assert [(cell.arm, cell.recipe.seed, sizes(cell)) for cell in smaller] == [
        ("alone", 11, (32, 16)),
        ("alone", 12, (32, 16)),
    ]
    assert [cell.recipe.seed for cell in cells(child + section)] == [9] * 4


def test_a_childs_own_profile_chooses_the_section_of_what_it_extends(cells, write) -> None:
    write(f"recipe: facts.yaml\n{SECTIONS}", "parent.yaml")
    write("extends: parent.yaml\nkeep: leaves\n", "middle.yaml")
    found = cells("extends: middle.yaml\nprofile: tiny\n")
    assert [(cell.arm, cell.recipe.profile, cell.recipe.seed) for cell in found] == [
        ("none", "tiny", 5),
        ("random", "tiny", 5),
    ]
    assert load_sweep(write("extends: middle.yaml\n"))[0].keep == "leaves"


@pytest.mark.parametrize(
    "text",
    [
        "recipe: ../facts.yaml\narms: {a: {}}\n",
        "recipe: ../facts.yaml\ngrid: {recipe: [../facts.yaml]}\n",
        "recipe: ../facts.yaml\narms: {a: {recipe: ../facts.yaml}}\n",
        "recipe: ../facts.yaml\narms: {a: {}}\nprofiles: {tiny: {grid: {recipe: [../facts.yaml]}}}\n",
    ],
    ids=["recipe", "grid", "arm", "section"],
)
def test_a_recipe_is_beside_the_file_that_names_it(cells, write, text: str) -> None:
    write(text, "below/parent.yaml")
    (cell,) = cells("extends: below/parent.yaml\n")
    assert sizes(cell) == (64, 64)


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
    keys_ = {cell.arm: [node.key for node in cell.nodes] for cell in found}
    assert keys_["none"] == keys_["zero"] == keys_["replay"]
    assert keys_["none"][0] != keys_["random"][0]
    assert plan(found, "all", NOWHERE)["stages_distinct"] == 4


def test_a_name_beyond_ascii_is_recorded_as_it_is(cells, tmp_path: Path) -> None:
    for name in ("été", "🦙"):
        (tmp_path / f"{name}.csv").write_text("prompt,response\na,1\nb,2\n", encoding="utf-8")
        file = json.dumps(str(tmp_path / f"{name}.csv"), ensure_ascii=False)
        (cell,) = cells(f"arms: {{a: {{stages.stage1.data: {{task: pairs, path: {file}}}}}}}\n")
        assert resolves_again(cell), cell.overrides


# --- mistakes ------------------------------------------------------------------------------------------------------

STOP = "stages.stage1.stop: {loss_below: 0.1}"
STEPS = "stages.stage1.train.max_steps: 3"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "grid:\n  stages.stage2.data.sise: [1, 2]\n",
            ["arm sise=1", ":3", "unknown key; did you mean 'size'?"],
        ),
        (
            "grid:\n  stages.stage3.data.size: [1, 2]\n",
            ["arm size=1", ":3", "no stage 'stage3'; did you mean 'stage2'"],
        ),
        (
            "arms:\n  a: {}\n  b:\n    stages.stage1.data.sise: 2\n",
            ["arm b", ":5", "unknown key; did you mean 'size'?"],
        ),
        ("set:\n  globl_batch_size: 2\narms: {a: {}}\n", ["arm a", ":3", "did you mean 'global_batch_size'?"]),
        ("grid: {stages.stage2.data.task: []}\n", [":2: grid.stages.stage2.data.task", "at least 1"]),
        ("grid: {stages.stage2.data.task: lama}\n", [":2: grid.stages.stage2.data.task", "valid list"]),
        ("grid: {stages.stage2.data.task: [kvr, lame]}\n", ["arm lame", ":2", "did you mean 'lama'?"]),
        ("arms: {a: {}}\nseeds: []\n", [":3: seeds", "at least 1"]),
        ("arms: {a: {}}\nseeds: [0.5]\n", [":3: seeds.0", "valid integer"]),
        ("arms: {}\n", [":2: arms", "at least 1"]),
        ("arms: [a, b]\n", [":2: arms", "valid dictionary"]),
        ("arms:\n  a: {}\n  b: {}\n  a: {data_seed: 1}\n", [":5: arms.a: duplicate key, first set at", ":3"]),
        ("sedes: [0]\ngrid: {}\n", [":2: sedes: unknown key; did you mean 'seeds'?"]),
        ("grid:\n  global_batch_size: [32, 64, 32]\n", [":3: grid: global_batch_size: one value stands there twice"]),
        ("grid:\n  stages.stage1.mix: [{}, {}]\n", [":3: grid: stages.stage1.mix: one value stands there twice"]),
        ("grid:\n  recipe: [facts.yaml, ./facts.yaml]\n", [":3: grid: recipe: one value stands there twice"]),
        (
            "grid:\n  global_batch_size: [1, 2]\narms:\n  a: {recipe: fact.yaml}\n",
            ["mine.yaml:5: arm global_batch_size=1, a", "fact.yaml: no such recipe; did you mean 'facts'?"],
        ),
        ("arms:\n  a:\n    profile: tinny\n", [":3: arm a", "no profile 'tinny'; did you mean 'tiny'?"]),
        ("profile: tinny\narms:\n  a: {}\n", [":4: arm a", "no profile 'tinny'; did you mean 'tiny'?"]),
        (
            "grid: {precision: [fp32, bf16]}\nexclude:\n- {precison: fp32}\n",
            [":4: exclude: precison: no key of the grid; did you mean 'precision'?"],
        ),
        (
            "grid: {precision: [fp32, bf16]}\nexclude:\n- {precision: fp32, arm: ''}\n- {precision: [bf16, fp33]}\n",
            [":5: exclude: precision has no value 'fp33'; did you mean 'fp32'?"],
        ),
        (
            "arms: {random: {}, none: {}}\nexclude:\n- {arm: randm}\n",
            [":4: exclude: arm has no value 'randm'; did you mean 'random'?"],
        ),
        ("arms: {a: {}, b: {}}\nexclude:\n- arm: [a, b]\n", [":3: exclude: leaves no cell of the sweep"]),
        ("arms: {a: {}}\npaper: {none: 13.5, a: 2}\n", [":3: paper: no arm 'none'; valid: a"]),
        ("arms: {a: {}}\nkeep: leafs\n", [":3: keep", "'all', 'leaves' or 'none'"]),
        ("arms: {a: {}}\nkeep: [stag1]\n", [":3: keep", "'stag1'", "'stage1'"]),
        ("arms: {a: {}}\nseeds: [0, 1, 0]\n", [":3: seeds"]),
        ("arms: {a: {}}\nprofiles: {tinny: {}}\n", [":3: profiles.tinny", "did you mean 'tiny'?"]),
        ("arms: {a: {}}\nprofiles: {tiny: [1]}\n", [":3: profiles: maps a profile's name to"]),
        ("arms: {a: {}}\nprofiles: {tiny: {gird: {}}}\n", [":3: gird: unknown key; did you mean 'grid'?"]),
        (
            "arms: {a: {}}\nprofiles:\n  tiny:\n    grid: {precision: []}\n",
            [":5: grid.precision", "at least 1"],
        ),
        ("extends: mine.yaml\n", ["mine.yaml: extends: goes round in a circle"]),
        ("extends: nowhere/mine.yaml\n", ["nowhere/mine.yaml: no such recipe"]),
        ("extends: fact.yaml\n", ["fact.yaml: no such recipe; did you mean 'facts'?"]),
        (
            "arms:\n  none: {}\n  b: {stages.stage1.match: {steps_of: nune}}\n",
            [":4: arm b: stages.stage1.match: no arm 'nune' beside it; did you mean 'none'?"],
        ),
        (
            "arms:\n  a: {stages.stage1.match: {steps_of: b}}\n  b: {stages.stage1.match: {tokens_of: a}}\n",
            [":3: stages.stage1.match: goes round in a circle: a -> b -> a"],
        ),
        (
            "arms:\n"
            "  a: {stages.stage2.match: {steps_of: b}}\n"
            "  b: {stages.stage2.match: {steps_of: c}}\n"
            "  c: {stages.stage2.match: {steps_of: a}}\n",
            [":3: stages.stage2.match: goes round in a circle: a -> b -> c -> a"],
        ),
        (
            "arms:\n"
            "  x: {stages.stage1.match: {steps_of: a}}\n"
            "  a: {stages.stage1.match: {steps_of: b}}\n"
            "  b: {stages.stage1.match: {steps_of: a}}\n",
            [":4: stages.stage1.match: goes round in a circle: x -> a -> b -> a"],
        ),
        ("arms:\n  a: {stages.stage1.match: {steps_of: a}}\n", [":3: ", "goes round in a circle: a -> a"]),
        (
            f"arms:\n  a: {{}}\n  b:\n    stages.stage1.match: {{steps_of: a}}\n    {STOP}\n",
            [":4: arm b", ":5: ", "says how long this stage trains, and so does its stop"],
        ),
        (
            f"arms:\n  a: {{}}\n  b:\n    stages.stage1.match: {{steps_of: a}}\n    {STEPS}\n",
            [":4: arm b", ":5: ", "says how long this stage trains, and so does its train.max_steps"],
        ),
        (
            "arms:\n  a: {}\n  b:\n    stages.stage1.match: {steps_of: a, tokens_of: a}\n",
            [":4: arm b", ":5: ", "say `steps_of` or `tokens_of`"],
        ),
        ("arms:\n  a: {}\n  b: {stages.stage1.match: {}}\n", [":4: arm b", "say `steps_of` or `tokens_of`"]),
        (
            "arms:\n  a:\n    stages.stage1.curve: {epochs: 1}\n",
            [":3: arm a", ":4: ", "shows the facts of earlier stages, and this is the first one"],
        ),
        (
            "arms:\n  a:\n    stages.stage2.curve: {epochs: 1, steps: 3}\n",
            [":3: arm a", ":4: ", "say `steps` or `epochs`"],
        ),
        ("grid:\n  seed: [0, 1]\n", [":3: ", "seed"]),
        ("arms:\n  a: {seed: 3}\n", [":3: ", "seed"]),
    ],
)
def test_mistakes_in_a_sweep_name_the_place_and_what_is_right(cells, text: str, says: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        cells(text)
    for part in says:
        assert (f"mine.yaml{part}" if part.startswith(":") else part) in str(caught.value)


def test_sweeps_that_extend_each_other_are_refused(write) -> None:
    write("extends: a.yaml\n", "c.yaml")
    write("extends: c.yaml\n", "b.yaml")
    with pytest.raises(BadInput, match=r"\w\.yaml: extends: goes round in a circle"):
        load_sweep(write("extends: b.yaml\n", "a.yaml"))


def test_a_mistake_that_is_inherited_is_named_where_it_stands(cells, write) -> None:
    write("recipe: facts.yaml\narms:\n  a: {}\n  b:\n    stages.stage1.data.sise: 2\n", "parent.yaml")
    with pytest.raises(BadInput, match=r"parent\.yaml:5: stages\.stage1\.data\.sise"):
        cells("extends: parent.yaml\nseeds: [1]\n")


def test_a_mistake_in_an_override_is_named_with_the_first_arm(cells) -> None:
    with pytest.raises(
        BadInput, match=r"arm a: override 'data_sed=1': data_sed: unknown key; did you mean 'data_seed'"
    ):
        cells("arms: {a: {}, b: {}}\n", overrides=["data_sed=1"])


def test_a_cell_left_out_is_nothing_to_be_matched_with(cells) -> None:
    text = "grid: {precision: [fp32, bf16]}\narms:\n  a: {}\n  b: {stages.stage1.match: {steps_of: a}}\n"
    assert len(cells(text)) == 4
    with pytest.raises(BadInput, match=r"arm bf16, b: stages\.stage1\.match: no arm 'a' beside it; valid: b"):
        cells(f"{text}exclude: [{{precision: bf16, arm: a}}]\n")


def test_a_match_in_a_plain_recipe_is_refused(write, tmp_path: Path) -> None:
    write("")
    recipe = load_recipe(tmp_path / "facts.yaml", overrides=["stages.stage1.match={steps_of: random}"])
    with pytest.raises(BadInput, match=r"facts: match: 'random' is an arm; only a sweep has arms: `remix sweep`"):
        lineage(recipe)


def test_a_profile_of_the_command_line_gives_no_cell_another_ones_name(cells) -> None:
    """`remix sweep figure9 --profile mistral-7b` must not train mistral-7b and call it llama3-8b."""
    try:
        found = cells("grid: {profile: [llama3-8b, mistral-7b]}\narms: {a: {}}\n", "mistral-7b")
    except BadInput:
        return
    assert all(cell.recipe.profile in cell.arm or len(found) == 1 for cell in found)
    assert {cell.recipe.profile for cell in found} == {"mistral-7b"}


def command(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Run the command in this process, for speed: exit code, stdout, stderr."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["remix", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demo"], "run it with `remix sweep`"),
        (["run", "recipes/ablations/replay.yaml"], "run it with `remix sweep`"),
        (["run", "recipes/paper/table1.yaml"], "run it with `remix sweep`"),
        (["sweep", "kvr"], "recipe: is missing"),
        (["sweep", "recipes/ablations/replay.yml"], "no such recipe"),
        (["plan", "recipes/ablations/replai.yaml"], "did you mean 'replay'?"),
        (["plan", "kvrr"], "no such recipe; did you mean 'kvr'?"),
        (["plan", "demo", "--profile", "tinny"], "no profile 'tinny'; did you mean 'tiny'"),
        (["plan", "demo", "stages.stage1.data.sise=3"], "arm none: override 'stages.stage1.data.sise=3'"),
        (["plan", "demo", "--graph", "svg"], "mermaid or dot"),
        (["plan", "kvr", "stages.stage1.match={steps_of: random}"], "only a sweep has arms"),
        (["sweep", "demo", "--keep", "leafs"], "leafs"),
    ],
)
def test_mistakes_end_with_exit_code_2(monkeypatch, capsys, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "file").write_text("no directory")  # nothing could be trained, were a mistake not noticed
    code, _, error = command(monkeypatch, capsys, *arguments, "--runs", tmp_path / "file")
    assert (code, message in error, "Traceback" in error) == (2, True, False), error


def test_a_sweep_of_seeds_alone_is_a_sweep_to_every_command(monkeypatch, capsys, write) -> None:
    sweep = write("recipe: facts.yaml\nset: {global_batch_size: 16}\nseeds: [3, 4]\n")
    assert len(load_sweep(sweep)[1]) == 2
    code, out, error = command(monkeypatch, capsys, "plan", sweep, "--json", "--runs", NOWHERE)
    assert code == 0, error
    assert json.loads(out)["seeds"] == [3, 4]


# --- matched controls ----------------------------------------------------------------------------------------------

CONTROL = f"""\
grid: {{stages.stage2.data.size: [32, 64]}}
arms:
  control: {{stages.stage1.match: {{steps_of: random}}, stages.stage2.match: {{tokens_of: random}}}}
  random: {{{RANDOM}, stages.stage2.mix: {{passages: {{ratio: 1}}}}}}
seeds: [0, 1]
"""


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


def test_what_a_stage_is_matched_with_comes_before_it(cells) -> None:
    found = cells(CONTROL)
    jobs = graph(found)
    assert_in_order(jobs)
    assert len(jobs) == len(keys(found)) == 2 * 2 + 2 * 4
    for cell in found:
        for node, stage in zip(cell.nodes, cell.recipe.stages.values(), strict=True):
            others = [stage.match.other] if stage.match else []
            assert jobs[node.key].needs == (*node.ancestors[-1:], *others)
    used = disk.users(jobs)
    assert all(not used[cell.nodes[1].key] for cell in found)  # a match reads no weights


def test_a_matched_stage_takes_the_others_steps_or_tokens(cells) -> None:
    found = cells(CONTROL)
    order = {job["key"]: job for job in plan(found, "all", NOWHERE)["order"]}
    for size, arm in (("32", "size=32, "), ("64", "size=64, ")):
        control, other = find(found, f"{arm}control"), find(found, f"{arm}random")
        one, two = ([order[node.key] for node in cell.nodes] for cell in (control, other))
        assert one[0]["steps"] == two[0]["steps"] == 100 * (64 * 3 // 32)
        assert one[0]["tokens"] < two[0]["tokens"]
        assert two[1]["steps"] == 100 * (int(size) * 2 // 32)
        assert abs(one[1]["tokens"] - two[1]["tokens"]) <= one[1]["tokens"] / one[1]["steps"]  # to a step


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


def test_a_recipe_matched_with_a_published_stage_is_planned(monkeypatch, capsys) -> None:
    """What `remix run` takes, `remix plan` takes: a match names an arm, or a stage's key."""
    match = "stages.stage1.match={steps_of: 0123456789abcdef}"
    assert len(lineage(load_recipe(ROOT / "recipes" / "kvr.yaml", overrides=[match]))) == 2
    code, out, error = command(monkeypatch, capsys, "plan", "kvr", match, "--json", "--runs", NOWHERE)
    assert code == 0, error
    assert json.loads(out)["stages_to_train"] == 2


# --- the graph -----------------------------------------------------------------------------------------------------

SHARED = """\
arms:
  none: {}
  generic: {stages.stage2.mix: {passages: {ratio: 2}}}
  replay: {stages.stage2.mix: {replay: {stage: stage1, ratio: 0.5}}}
"""


def test_a_stage_that_runs_share_is_one_job(cells) -> None:
    found = cells(SHARED)
    jobs = graph(found)
    first, *rest = jobs.values()
    assert (first.name, first.needs, first.parent, first.cell.arm) == ("stage1", (), None, "none")
    assert first.runs == ["none, seed 0", "generic, seed 0", "replay, seed 0"]
    assert [job.runs for job in rest] == [["none, seed 0"], ["generic, seed 0"], ["replay, seed 0"]]
    assert {job.needs for job in rest} == {(first.key,)}
    assert {job.parent for job in rest} == {first.key}
    assert children(jobs) == {first.key: [job.key for job in rest], **{job.key: [] for job in rest}}
    assert len(first.lists) == 1
    assert [len(job.lists) for job in rest] == [2, 2, 2]  # what it trains on, and what stage1 did
    assert not any(job.also for job in jobs.values())


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
    assert sorted(id_.rpartition("-")[0] for id_ in first.lists) == ["invented_facts", "kvr", "kvr"]
    assert (len(second.lists), second.also) == (2, [])


FAMILIAR = "stages.stage1.recall: [{task: invented_facts, familiarity: familiar, size: 8}]"


@pytest.mark.parametrize("arms", ["b: {MORE}, a: {}", "a: {}, b: {MORE}"], ids=["first", "later"])
def test_what_is_asked_for_a_later_run_comes_before_the_stage_it_shares(cells, tmp_path: Path, arms: str) -> None:
    jobs = graph(cells(f"arms: {{{arms.replace('MORE', FAMILIAR)}}}\n"))
    assert sorted(job.name for job in jobs.values()) == ["invented_facts", "stage1", "stage2"]
    assert disk.to_do(jobs, tmp_path) == set(jobs)
    assert_in_order(jobs)


def test_facts_known_already_are_asked_of_the_stage_that_counts_as_the_base() -> None:
    jobs = shipped_graph("familiar_facts")
    taught, split, stage = jobs.values()
    assert [job.name for job in jobs.values()] == ["taught", "invented_facts", "stage2"]
    assert (split.node, split.parent, split.needs) == (None, None, (taught.key,))
    assert (split.task.task, split.rows, split.lists) == ("invented_facts", 50, set())
    assert set(stage.needs) == {taught.key, split.key}
    assert stage.parent == taught.key
    assert disk.users(jobs) == {taught.key: {split.key, stage.key}, stage.key: set()}


def test_who_learns_what_a_stage_does_not_know_uses_that_stages_weights(cells, tmp_path: Path) -> None:
    """Even a stage that does not start from it: facts that are asked later than planned are asked of those weights."""
    third = "  stage3:\n    data: {task: invented_facts, start: 100, size: 32, familiarity: unfamiliar}\n"
    (tmp_path / "three.yaml").write_text(f"{FACTS}{third}base_stage: stage1\n", encoding="utf-8")
    jobs = graph(cells("recipe: three.yaml\narms: {a: {}}\n"))
    assert_in_order(jobs)
    of = {job.name: key for key, job in jobs.items()}
    assert jobs[of["stage3"]].needs == (of["stage2"], of["invented_facts"])
    assert disk.users(jobs) == {
        of["stage1"]: {of["stage2"], of["invented_facts"], of["stage3"]},
        of["stage2"]: {of["stage3"]},
        of["stage3"]: set(),
    }


def test_a_run_wants_an_answer_once() -> None:
    for name in ("familiar_facts", "paper/table2"):  # a run has two lists of one task
        for job in shipped_graph(name).values():
            assert len(job.runs) == len(set(job.runs)), job.name


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


# --- what stays on disk, and what is left to do --------------------------------------------------------------------


@pytest.fixture
def shared(cells) -> dict[str, Job]:
    """A stage and the three that start from it: `none`, `generic`, `replay`."""
    return graph(cells(SHARED))


def publish(
    runs: Path, job: Job, pruned: bool = False, measured: set[str] | None = None, sweep: str | None = None
) -> Path:
    """Publish a stage as training does, with as much in it as is looked at here; if it is there, measure it anew."""
    recall: dict[str, dict] = {id_: {} for id_ in (job.lists if measured is None else measured)}
    folder = runs / "stages" / f"mine-{job.name}-seed0-{job.key}"
    if not folder.exists():
        draft = store.work_dir(store.open_store(runs), job.key) / "draft"
        draft.mkdir(parents=True)
        (draft / "model.safetensors").write_bytes(b"weights")
        store.write_json(draft / "stage.json", {"sweep": sweep})
        store.write_json(draft / "recall.json", recall)
        store.publish(runs, draft, folder.name)
    store.write_json(folder / "recall.json", recall)
    if pruned and not store.is_pruned(folder):
        store.prune(folder)
    return folder


def test_the_users_of_weights_are_children_and_those_who_ask(shared) -> None:
    first, *rest = shared
    assert disk.users(shared) == {first: set(rest), **{key: set() for key in rest}}


@pytest.mark.parametrize(
    ("keep", "stays"),
    [
        ("all", [True, True]),
        ("leaves", [False, True]),
        ("none", [False, False]),
        (["stage1"], [True, False]),
        (["stage2"], [False, True]),
        (["stage1", "stage2"], [True, True]),
        ([], [False, False]),
    ],
)
def test_whose_weights_stay(keep: str | list[str], stays: list[bool]) -> None:
    assert [disk.is_kept(keep, "stage1", True), disk.is_kept(keep, "stage2", False)] == stays


def test_what_is_published_and_measured_is_not_to_do(shared, tmp_path: Path) -> None:
    assert disk.to_do(shared, tmp_path) == set(shared)
    first, second, third, last = shared.values()
    publish(tmp_path, first)
    assert disk.to_do(shared, tmp_path) == {second.key, third.key, last.key}
    publish(tmp_path, second)
    publish(tmp_path, third, measured=set(sorted(third.lists)[:1]))  # a list was added since
    assert disk.to_do(shared, tmp_path) == {third.key, last.key}
    publish(tmp_path, third, measured={*third.lists, "another-sweeps"})
    assert disk.to_do(shared, tmp_path) == {last.key}
    publish(tmp_path, last)
    assert disk.to_do(shared, tmp_path) == set()


def test_a_pruned_stage_is_trained_again_for_a_child_that_is_not_there(shared, tmp_path: Path) -> None:
    first, *rest = shared.values()
    publish(tmp_path, first, pruned=True)
    for job in rest[:-1]:
        publish(tmp_path, job, pruned=True)
    assert disk.to_do(shared, tmp_path) == {first.key, rest[-1].key}
    publish(tmp_path, rest[-1])
    assert disk.to_do(shared, tmp_path) == set()
    publish(tmp_path, rest[0], pruned=True, measured=set())  # its weights are gone, and are wanted to measure
    assert disk.to_do(shared, tmp_path) == {first.key, rest[0].key}


def test_a_pruned_stage_is_not_trained_again_to_measure_its_child(shared, tmp_path: Path) -> None:
    first, *rest = shared.values()
    publish(tmp_path, first, pruned=True)
    for job in rest:
        publish(tmp_path, job)
    publish(tmp_path, rest[0], measured=set())  # its own weights are there: that is all it takes
    assert disk.to_do(shared, tmp_path) == {rest[0].key}


def test_a_question_is_asked_for_a_stage_to_do_of_weights_that_are_there(tmp_path: Path) -> None:
    jobs = shipped_graph("familiar_facts")
    taught, split, stage = jobs.values()
    publish(tmp_path, taught)
    assert disk.to_do(jobs, tmp_path) == {split.key, stage.key}
    publish(tmp_path, taught, pruned=True)
    assert disk.to_do(jobs, tmp_path) == set(jobs)
    publish(tmp_path, stage)
    assert disk.to_do(jobs, tmp_path) == set()


def test_weights_are_spare_once_all_that_load_them_is_done(shared, tmp_path: Path) -> None:
    folders = {key: publish(tmp_path, job, sweep="mine") for key, job in shared.items()}
    first, *rest = shared

    def spare(done: list[str], keep: str | list[str] = "none", sweep: str = "mine") -> set[str]:
        found = disk.spare(shared, done, keep, sweep, tmp_path)
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


def test_the_peak_falls_as_less_is_kept(shared) -> None:
    weights = 4 * int(load_base("tiny").parameters)  # fp32
    working = (1 + 2) * 3 * weights + weights  # checkpoints with two moments each, two kept and one written; the draft
    last = list(shared)[-1:]
    peak = lambda keep, todo=tuple(shared), at_once=1: disk.peak(shared, todo, keep, at_once)  # noqa: E731
    assert peak("all") == 3 * weights + working  # while the last one is trained
    assert peak("leaves") == 3 * weights + working  # stage1 is needed until the end
    assert peak("none") == peak(["stage1"]) == weights + working
    assert peak("all", last) == peak("none", last) == working
    assert peak("all", ()) == 0
    assert peak("none", at_once=3) == peak("none") + 2 * working


def test_the_peak_over_several_first_stages(cells) -> None:
    jobs = graph(cells(f"{SHARED}seeds: [0, 1, 2]\n", overrides=["train.save_strategy='no'"]))
    weights = 4 * int(load_base("tiny").parameters)
    peaks = [disk.peak(jobs, set(jobs), keep) for keep in ("all", "leaves", "none")]
    assert peaks == [12 * weights, 10 * weights, 2 * weights]  # no checkpoints: only models, and one in the making


def test_nothing_is_known_of_a_base_of_unknown_size(cells) -> None:
    made = plan(cells(SHARED, overrides=["base=my/model"]), "none", NOWHERE)
    assert (made["disk_peak_bytes"], made["disk_peak_bytes_keep_all"], made["flops"], made["gpu_hours"]) == (None,) * 4
    assert made["steps"] > 0


# --- the plan ------------------------------------------------------------------------------------------------------


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
        (["train.max_steps=7"], [7, 7]),
        (["global_batch_size=50"], [120, 100]),
        (["stages.stage1.data.size=128"], [240, 150]),
        (["stages.stage2.data={task: popqa}"], [180, None]),  # all rows of the hub's: who knows how many
    ],
)
def test_steps_follow_from_the_declaration(overrides: list[str], steps: list[int | None]) -> None:
    found = load_cells(str(ROOT / "recipes" / "kvr.yaml"), overrides=overrides)[1]
    made = plan(found, "all", NOWHERE)
    assert [job["steps"] for job in made["order"]] == steps
    assert made["steps"] == (None if None in steps else sum(steps))
    assert (made["tokens"] is None, made["flops"] is None) == (None in steps, None in steps)


def test_rows_of_a_file_of_ones_own_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"who is {i}?,number {i}\n" for i in range(70))
    (tmp_path / "facts.csv").write_text(f"prompt,response\n{rows}", encoding="utf-8")
    own = [f"stages.stage1.data={{task: pairs, path: {tmp_path / 'facts.csv'}}}"]
    made = plan(load_cells(str(ROOT / "recipes" / "kvr.yaml"), overrides=own)[1], "all", NOWHERE)
    assert [job["steps"] for job in made["order"]] == [60 * (70 // 32), 150]


def test_hours_follow_from_flops_and_those_from_tokens() -> None:
    found = shipped("paper/figure4")
    made = shipped_plan("paper/figure4")
    with chdir(ROOT), noting_absent():
        slower = plan(found, "all", NOWHERE, utilization=0.2, tflops=494.5)
    assert made["gpu_hours"] == pytest.approx(made["flops"] / (989e12 * 0.4) / 3600)
    assert slower["gpu_hours"] == pytest.approx(4 * made["gpu_hours"])
    assert made["flops"] == pytest.approx(sum(job["flops"] for job in made["order"]))
    assert made["tokens"] == sum(job["tokens"] for job in made["order"] if job["kind"] == "stage")
    trained = 6 * 8.03e9 * made["tokens"]
    assert trained < made["flops"] < 1.1 * trained  # questions cost little


def test_published_stages_are_not_planned_again(cells, shared, tmp_path: Path) -> None:
    found = cells(SHARED)
    made = plan(found, "none", tmp_path)
    assert (made["stages_published"], made["stages_to_train"]) == (0, 4)
    first, second, *_ = shared.values()
    publish(tmp_path, first)
    publish(tmp_path, second)
    less = plan(found, "none", tmp_path)
    assert (less["runs"], less["stages_requested"], less["stages_distinct"]) == (3, 6, 4)
    assert (less["stages_published"], less["stages_to_train"]) == (2, 2)
    assert [job["to_do"] for job in less["order"]] == [False, False, True, True]
    assert less["steps"] == sum(job["steps"] for job in less["order"][2:]) < made["steps"]
    assert less["tokens"] < made["tokens"]
    assert less["flops"] < made["flops"]
    publish(tmp_path, first, pruned=True)
    assert plan(found, "none", tmp_path)["stages_to_train"] == 3


@pytest.mark.parametrize("how", ["mermaid", "dot"])
@pytest.mark.parametrize("name", ["familiar_facts", "recipes/demo.yaml", "recipes/ablations/three_stages.yaml"])
def test_a_drawing_has_every_job_and_every_edge(monkeypatch, capsys, how: str, name: str) -> None:
    _, out, _ = command(monkeypatch, capsys, "plan", name, "--json", "--runs", NOWHERE)
    made = json.loads(out)
    code, drawn, _ = command(monkeypatch, capsys, "plan", name, "--graph", how, "--runs", NOWHERE)
    assert (code, drawn) == (0, draw(made, how) + "\n")
    node, edge = (r"^  (\w{16})\[", r"^  (\w+) --> (\w+)$")
    if how == "dot":
        node, edge = (r'^  "(\w{16})" \[', r'^  "(\w+)" -> "(\w+)";$')
    assert re.findall(node, drawn, re.M) == [job["key"] for job in made["order"]]
    assert re.findall(edge, drawn, re.M) == [(need, job["key"]) for job in made["order"] for need in job["needs"]]


def test_a_drawing_tells_published_stages(cells, shared, tmp_path: Path) -> None:
    publish(tmp_path, next(iter(shared.values())))
    made = plan(cells(SHARED), "all", tmp_path)
    assert draw(made, "mermaid").count(":::published") == draw(made, "dot").count("style=dashed") == 1


def test_a_plan_on_the_screen_says_what_it_costs(monkeypatch, capsys) -> None:
    code, out, _ = command(monkeypatch, capsys, "plan", "recipes/paper/figure8.yaml", "--runs", NOWHERE)
    assert code == 0
    assert "24: 8 arms, seeds 0, 1, 2" in out
    assert "72 asked for, 42 different, 0 published, 42 to train" in out
    assert "data/EntityQuestions" in out or (ROOT / "data" / "EntityQuestions").exists()
    assert re.search(r"about [\d.,]+ at 40% of 989 TFLOP/s; 4 devices a stage", out)
