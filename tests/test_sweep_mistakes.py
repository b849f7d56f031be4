"""Sweeps that are refused before anything is trained: each message names the place and what is right."""

from pathlib import Path

import pytest

from remix_toolkit.errors import BadInput
from remix_toolkit.graph.sweep import load_sweep


def assert_refused(cells, text: str, says: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        cells(text)
    for part in says:
        assert (f"mine.yaml{part}" if part.startswith(":") else part) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sedes: [0]\ngrid: {}\n", [":2: sedes", "'seeds'"]),
        ("arms: {}\n", [":2: arms"]),
        ("arms:\n  a: {}\n  b: {}\n  a: {data_seed: 1}\n", [":5: arms.a: duplicate key", ":3"]),
        ("grid: true\n", [":2: grid"]),
        ("extends: none.yaml\narms: {a: {}}\n", [":1: extends"]),
        ("set: {stages.stage1.data.task: [kvr]}\n", ["stages.stage1.data"]),
        ("arms: {a: {}}\nseeds: [0.5]\n", [":3: seeds.0"]),
        ("arms: {a: {}}\nseeds: [0, 1, 0]\n", [":3: seeds", "seed 0"]),
        ("arms: {a: {}}\nkeep: leafs\n", [":3: keep", "'leaves'"]),
        ("arms: {a: {}}\nkeep: [stag1]\n", [":3: keep", "'stag1'", "'stage1'"]),
        ("arms: {a: {}}\npaper: {none: 13.5, a: 2}\n", [":3: paper", "'none'"]),
        ("grid: {stages.stage2.data.task: lama}\n", [":2: grid.stages.stage2.data.task"]),
        ("grid:\n  global_batch_size: [32, 64, 32]\n", ["mine.yaml: the arm 'global_batch_size=32' is listed twice"]),
        ("grid:\n  recipe: [facts.yaml, ./facts.yaml]\n", ["arm 'facts'"]),
        ("arms:\n  a: {seed: 3}\n", [":3: seed", "`seeds: [...]`"]),
        ("grid: {precision: [fp32, bf16]}\nexclude:\n- {precison: fp32}\n", [":4: exclude: precison", "'precision'"]),
        ("arms: {random: {}, none: {}}\nexclude:\n- {arm: randm}\n", [":4: exclude", "'randm'", "'random'"]),
        ("arms: {a: {}, b: {}}\nexclude:\n- arm: [a, b]\n", [":3: exclude"]),
        ("arms: {a: {}}\nprofiles: {tinny: {}}\n", [":3: profiles.tinny", "'tiny'"]),
        ("arms: {a: {}}\nprofiles: {tiny: {gird: {}}}\n", [":3: gird", "'grid'"]),
        ("extends: fact.yaml\n", ["fact.yaml", "'facts'"]),
        ("grid:\n  stages.stage2.data.sise: [1, 2]\n", ["arm sise=1", ":3", "'size'"]),
        ("grid:\n  stages.stage3.data.size: [1, 2]\n", ["arm size=1", ":3", "'stage3'", "'stage2'"]),
        ("grid: {stages.stage2.data.task: [kvr, lame]}\n", ["arm lame", ":2", "'lama'"]),
        ("arms:\n  a: {}\n  b:\n    stages.stage1.data.sise: 2\n", ["arm b", ":5", "'size'"]),
        ("set:\n  globl_batch_size: 2\narms: {a: {}}\n", ["arm a", ":3", "'global_batch_size'"]),
        ("arms:\n  a: {recipe: fact.yaml}\n", [":3: arm a", "fact.yaml", "'facts'"]),
        ("profile: tinny\narms:\n  a: {}\n", [":4: arm a", "'tinny'", "'tiny'"]),
        ("arms:\n  a:\n    stages.stage1.curve: {epochs: 1}\n", [":3: arm a", ":4: ", "stages.stage1.curve"]),
    ],
)
def test_mistakes_in_a_sweep_name_the_place_and_what_is_right(cells, text: str, says: list[str]) -> None:
    assert_refused(cells, text, says)


MATCH = "stages.stage1.match: {steps_of: a}"
CIRCLE = ["a: {MATCH: {steps_of: b}}", "b: {MATCH: {tokens_of: c}}", "c: {MATCH: {steps_of: a}}"]


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        (["none: {}", "b: {stages.stage1.match: {steps_of: nune}}"], [":4: arm b: stages.stage1.match", "'none'"]),
        (["a: {stages.stage1.match: {steps_of: a}}"], [":3: match: ", "a circle: a -> a"]),
        (
            [arm.replace("MATCH", "stages.stage2.match") for arm in CIRCLE],
            [":3: match", "a -> b -> c -> a"],
        ),
        (["a: {}", "b:", f"  {MATCH}", "  stages.stage1.stop: {loss_below: 0.1}"], [":4: arm b", ":5: ", "stop"]),
        (["a: {}", "b:", f"  {MATCH}", "  stages.stage1.train.max_steps: 3"], [":4: arm b", ":5: ", "train.max_steps"]),
        (["a: {}", "b: {stages.stage1.match: {}}"], [":4: arm b", "either `steps_of` or `tokens_of`"]),
    ],
)
def test_mistakes_in_a_match(cells, arms: list[str], says: list[str]) -> None:
    assert_refused(cells, "arms:\n" + "".join(f"  {line}\n" for line in arms), says)


def test_a_cell_left_out_is_nothing_to_be_matched_with(cells) -> None:
    text = "grid: {precision: [fp32, bf16]}\narms:\n  a: {}\n  b: {stages.stage1.match: {steps_of: a}}\n"
    assert len(cells(text)) == 4
    with pytest.raises(BadInput, match=r"arm bf16, b: stages\.stage1\.match: no arm 'a' beside it .*; valid: b"):
        cells(f"{text}exclude: [{{precision: bf16, arm: a}}]\n")


def test_sweeps_that_extend_each_other_are_refused(write_sweep) -> None:
    write_sweep("extends: a.yaml\n", "c.yaml")
    write_sweep("extends: c.yaml\n", "b.yaml")
    with pytest.raises(BadInput, match=r"\w\.yaml: extends: the files extend one another in a circle"):
        load_sweep(write_sweep("extends: b.yaml\n", "a.yaml"))


def test_a_mistake_that_is_inherited_is_named_where_it_stands(cells, write_sweep) -> None:
    write_sweep("recipe: facts.yaml\narms:\n  a: {}\n  b:\n    stages.stage1.data.sise: 2\n", "parent.yaml")
    with pytest.raises(BadInput, match=r"parent\.yaml:5: stages\.stage1\.data\.sise"):
        cells("extends: parent.yaml\nseeds: [1]\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "recipes/ablations/replay.yaml"], "`remix sweep`"),
        (["plan", "recipes/ablations/replai.yaml"], "'replay'"),
        (["plan", "demo", "--profile", "tinny"], "'tiny'"),
        (["plan", "demo", "stages.stage1.data.sise=3"], "arm none: override 'stages.stage1.data.sise=3'"),
        (["plan", "demo", "--graph", "svg"], "mermaid"),
        (["sweep", "demo", "--launcher", "slum"], "'slurm'"),
        (["run", "kvr", "stages.stage1.match={steps_of: random}"], "only a sweep has arms"),
        (["plan", "kvr", "stages.stage1.match={steps_of: random}"], "only a sweep has arms"),
        (["plan", "demo", "seed=3"], "or --seed 3"),
        (["plan", "kvr", "--seed", "1", "--seed", "1"], "--seed: seed 1 is listed twice"),
        (["plan", "kvr", "stages.stage1.data.size=10"], "10 examples are fewer than one batch of 32"),
        (["plan", "kvr", "accelerate_config=none.yaml"], "none.yaml: no such file"),
        (["plan", "kvr", "stages.stage1.data.size='100'", "stages.stage2.data.task=id"], "id means the rows after"),
        (["sweep", "demo", "--slurm", "cluster.yaml"], "--slurm needs --launcher slurm"),
        (["sweep", "demo", "--launcher", "slurm", "--plot", "demo.png"], "--plot is for --launcher local"),
        (["sweep", "demo", "--keep", "leafs"], "'leaves'"),
    ],
)
def test_mistakes_end_with_exit_code_2(here, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "file").write_text("no directory")  # nothing could be trained, were a mistake not noticed
    done = here(*arguments, "--runs", tmp_path / "file", check=False)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
