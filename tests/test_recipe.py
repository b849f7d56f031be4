"""Recipes: how YAML is read, how layers are merged, which mistakes are refused and with which place."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import ROOT

from remix_toolkit.errors import BadInput
from remix_toolkit.graph.lineage import lineage
from remix_toolkit.recipe import sft_fields
from remix_toolkit.recipe.json_schema import json_schema
from remix_toolkit.recipe.load import load_base, load_recipe, load_task
from remix_toolkit.recipe.yaml_file import load_mapping, load_value

GOOD = """\
stages:
  stage1:
    data: {task: kvr, size: 100}
    mix:
      random_words: {ratio: 2, words: 50}
    train:
      learning_rate: 1e-4
  stage2:
    data: {task: invented_facts, size: 100}
profiles:
  tiny:
    stages.stage2.data.size: 50
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("100", 100),
        ("1.", 1.0),
        ("true", True),
        ("no", "no"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", 1000),
    ],
)
def test_numbers_are_numbers(text: str, value: object) -> None:
    read = load_value(text, "here")
    assert read == value
    assert type(read) is type(value)


def test_layers(recipe: Path) -> None:
    resolved = load_recipe(recipe, "tiny", ["stages.stage1.data.size=7", "train.weight_decay=0.1"], seed=3)
    stage1, stage2 = resolved.stages["stage1"], resolved.stages["stage2"]
    assert (resolved.name, resolved.profile, resolved.seed) == ("mine", "tiny", 3)
    assert stage1.data.size == 7  # the command line's, over the recipe's
    assert stage2.data.size == 50  # the recipe's section for this profile, over the recipe's
    assert stage1.train["learning_rate"] == 1e-4  # the stage's, over the profile's
    assert stage2.train["learning_rate"] == load_base("tiny").train["learning_rate"]
    assert stage1.train["weight_decay"] == 0.1  # every stage's
    assert stage1.mix.random_words.words == 50  # the recipe's
    assert stage1.mix.random_words.text == "pydoc"  # the profile's


def test_train_for_all_stages_wins_over_a_stages_own_train(recipe: Path) -> None:
    for override in ("train.learning_rate=3e-5", "train={learning_rate: 3e-5}"):
        resolved = load_recipe(recipe, "tiny", [override])
        assert [stage.train["learning_rate"] for stage in resolved.stages.values()] == [3e-5, 3e-5]
        assert resolved.stages["stage1"].train["adam_beta2"] == 0.95  # the profile's other arguments stay
    later = load_recipe(recipe, "tiny", ["train.learning_rate=3e-5", "stages.stage2.train.learning_rate=7e-5"])
    assert [stage.train["learning_rate"] for stage in later.stages.values()] == [3e-5, 7e-5]


def test_another_text_replaces_the_profiles_source(recipe: Path) -> None:
    mix = "stages.stage2.mix={passages: {ratio: 1, text: notes.txt}}"
    for profile in ("tiny", "llama3-8b"):
        passages = load_recipe(recipe, profile, [mix]).stages["stage2"].mix.passages
        assert (passages.text, passages.hub) == ("notes.txt", None)


@pytest.mark.parametrize("profile", ["tiny", "llama3-8b", "mistral-7b"])
def test_profiles_have_the_papers_hyperparameters(profile: str) -> None:
    train = load_base(profile).train
    assert (train["adam_beta1"], train["adam_beta2"], train["weight_decay"]) == (0.9, 0.95, 0.0)
    assert (train["lr_scheduler_type"], train["warmup_steps"], train["max_grad_norm"]) == ("cosine", 0.05, 1.0)
    assert load_base(profile).global_batch_size == 32
    rate = {"llama3-8b": 5e-5, "mistral-7b": 1e-5}.get(profile)
    assert rate is None or (train["learning_rate"] == rate and train["num_train_epochs"] == 20)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.stage1.data.sise=3", "stages.stage1.data.sise: unknown key; did you mean 'size'?"),
        ("stages.stage3.data.size=3", "no stage 'stage3'; did you mean"),
        ("stages.stage1.data.task=popqq", "unknown task 'popqq'; did you mean 'popqa'?"),
        ("stages.stage1.data={size: 3}", "stages.stage1.data: names no task; valid: kvr, "),
        ("stages.stage1.mix.random_word.ratio=1", "unknown key; did you mean 'random_words'?"),
        ("stages.stage1.mix.random_words.ratio=-1", "greater than or equal to 0"),
        ("stages.stage1.mix.random_words.ratio=.nan", "finite number"),
        ("stages.stage1.data.size=true", "valid integer"),
        ("stages.stage1.data.size.x=1", "is 100; it has no key 'x'"),
        ("stages.stage1.train.learning_rte=1", "did you mean 'learning_rate'?"),
        ("stages.stage1.train.learning_rate=fast", "SFTConfig expects float"),
        ("train.max_steps=-5", "or -1 for whole epochs"),
        ("train.save_total_limit=1", "at least 2"),
        ("train.gradient_checkpointing=true", "activation_checkpointing now"),
        ("name=../x", "name: String should match"),
        ("data_seed=2024-13-45", "valid integer"),
        ("train.bf16=true", "set `precision`"),
        ("stages.stage1.stop={times: 3}", "stages.stage1.stop.loss_below: is missing"),
        ("stages.stage2.mix.replay={stage: stage2, ratio: 0.1}", "did you mean 'stage1'?"),
        ("stages.stage2.data={task: pairs}", "either `path` (a file or folder) or `hub`"),
        ("stages.stage1.mix.passages={ratio: 1, text: a.txt, hub: b}", "one of `text`"),
        ("precision=fp8", "'fp32', 'bf16' or 'pure_bf16'"),
        ("size", "write it as key=value"),
        ("stages={}", "at least 1 item"),
        ("profile=llama3-8b", "--profile llama3-8b"),
        ("stages.stage1.data.task={{ task }}", "a key is one word"),
    ],
)
def test_mistakes_in_overrides(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_recipe(recipe, "tiny", [override])
    assert message in str(caught.value)
    assert override in str(caught.value)  # the place: which of the overrides


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        (3, "    data: {task: kvr, sise: 100}", "mine.yaml:3: stages.stage1.data.sise: unknown key"),
        (5, "      randm_words: {ratio: 2}", "mine.yaml:5: stages.stage1.mix.randm_words: unknown key"),
        (7, "      learnin_rate: 1e-4", "mine.yaml:7: stages.stage1.train.learnin_rate: no such SFTConfig field"),
        (12, "    stages.stage9.data.size: 50", "mine.yaml:12: no stage 'stage9'"),
        (8, "  stage1:", "mine.yaml:8: stages.stage1: duplicate key, first set at"),
        (3, "    data: !!python/object/apply:os.system ['true']", "mine.yaml:3: not valid YAML"),
        (3, "    data: &x {task: *x}", "alias"),
        (3, "    data: {task: kvr, ? [a]: 3}", "mine.yaml:3: stages.stage1.data: a key is one word"),
        (7, "      - 1", "mine.yaml:6: stages.stage1.train"),
        (11, "  tinny:", "mine.yaml:11: profiles.tinny: no such profile; did you mean 'tiny'"),
        (1, "profile: tiny\nstages:", "mine.yaml:1: profile: choose it with --profile tiny"),
        (1, "arms: {}\nstages:", "run it with `remix sweep`"),
    ],
)
def test_mistakes_in_files_name_the_line(recipe: Path, line: int, replacement: str, message: str) -> None:
    lines = GOOD.splitlines()
    lines[line - 1] = replacement
    recipe.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        load_recipe(recipe, "tiny")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"- a\n- b\n", "is a list"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        load_mapping(tmp_path / "x.yaml")


def test_unknown_names() -> None:
    with pytest.raises(BadInput, match="no such recipe; did you mean 'kvr'"):
        load_recipe(ROOT / "recipes" / "kvrr.yaml")
    with pytest.raises(BadInput, match="no profile 'tny'; did you mean 'tiny'"):
        load_base("tny")
    with pytest.raises(BadInput, match="no task 'popq'; did you mean 'popqa'"):
        load_task("popq", [])
    with pytest.raises(BadInput, match="is a directory"):
        load_recipe(ROOT / "recipes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("precision: fp32\n", "mine.yaml:1: base: is missing"),
        ("base: x\ntrain: [1]\n", "mine.yaml:2: train"),
        ("base: x\nmix: {random_word: {words: 3}}\n", "mine.yaml:2: mix.random_word"),
        ("base: x\nstages: {}\n", "mine.yaml:2: stages: unknown key"),
    ],
)
def test_mistakes_in_a_profile_of_ones_own(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        load_base(str(tmp_path / "mine.yaml"))
    assert message in str(caught.value)


LAMA_SECOND = """\
stages:
  stage1: {data: {task: kvr, size: 5}}
  stage2:
    data: {task: lama, size: 5}
    recall: [{task: entityquestions, path: EQ}, {task: entityquestions}]
"""


def test_a_missing_path_is_asked_for_at_its_stage(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(LAMA_SECOND, encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        load_recipe(file)
    data, recall = str(caught.value).splitlines()
    assert re.search(r"mine.yaml:4: stages.stage2.data.path: is missing; expected: data.zip of .*LAMA", data)
    assert re.search(r"mine.yaml:5: stages.stage2.recall.1.path: is missing; expected: .*EntityQuestions", recall)
    with pytest.raises(BadInput, match=r"path: is missing; expected: data\.zip"):
        load_task("lama", [])


def test_an_anchor_is_a_copy(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("stages: {one: {data: &data {task: kvr, size: 5}}, two: {data: *data}}", encoding="utf-8")
    resolved = load_recipe(file, "tiny", ["stages.two.data.size=9"])
    assert [stage.data.size for stage in resolved.stages.values()] == [5, 9]


def test_a_recipes_section_for_a_profile_of_ones_own(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(GOOD + "  mine:\n    stages.stage1.data.size: 7\n", encoding="utf-8")
    (tmp_path / "mine.yaml").rename(tmp_path / "facts.yaml")
    (tmp_path / "mine.yaml").write_text("base: x\n", encoding="utf-8")
    own = load_recipe(tmp_path / "facts.yaml", str(tmp_path / "mine.yaml"))
    assert (own.stages["stage1"].data.size, own.base) == (7, "x")
    assert load_recipe(tmp_path / "facts.yaml", "tiny").stages["stage1"].data.size == 100


def test_listed_fields_are_those_of_the_installed_sftconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = sft_fields.installed_fields()
    assert all(map(sft_fields.field_type, sft_fields.RESERVED))
    listed = load_mapping(Path(sft_fields.__file__).with_suffix(".yaml"))[0]
    if listed["versions"] == {package: version(package) for package in listed["versions"]}:
        assert listed["fields"] == fields, "run: python -m remix_toolkit.recipe.sft_fields"
    other = {"versions": {"trl": "0.1"}, "fields": {"learning_rate": "float"}}
    monkeypatch.setattr(sft_fields, "_listed", lambda: other)  # a list made under another TRL
    assert {name: sft_fields.field_type(name) for name in fields} == fields
    assert sft_fields.field_type("learning_rte") is None


def test_a_listed_training_argument_is_checked_without_trl() -> None:
    code = "import sys; from remix_toolkit.recipe.load import load_recipe; load_recipe('kvr')\n"
    code += "from remix_toolkit.recipe.sft_fields import train_mistake; assert train_mistake('learning_rate', 'x')\n"
    code += "assert not {'trl', 'transformers', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_recipes_name_the_schema_and_how_to_run(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=") or re.search(
        "^(arms|extends):", text, re.MULTILINE
    )  # a sweep
    assert re.search("#   (make|remix) ", text.split("stages:")[0])


def test_schema_file_is_current() -> None:
    shipped = json.loads((ROOT / "recipes" / "schema.json").read_text(encoding="utf-8"))
    assert shipped == json_schema(), "run: remix schema > recipes/schema.json"


RANDOM, REPLAY = (
    "mix={random_words: {ratio: 2}}",
    "mix={replay: {stage: stage1, ratio: 0.1}, knowledge_pile: {ratio: 2}}",
)
FAR = ["stages.stage2.data.task=apps", "stages.stage2.mix.fineweb.ratio=1", "train.learning_rate=3e-5", "data_seed=2"]
THREE = ["stages.stage3.data={task: pairs, hub: a/b}", "stages.stage2.curve={epochs: 1}", "adapter={r: 16}"]
WEBQA = ["stages.stage2.data={task: webqa, familiarity: unfamiliar}", f"stages.stage2.{REPLAY}"]
GSM8K = ["stages.stage2.data.task=gsm8k", f"stages.stage1.{RANDOM}"]
KEYS = [  # of November 2026; a change of code that moves one orphans the stages that were published under it
    ("kvr", "llama3-8b", ["stages.stage2.data.task=id"], "1ed31db0c84ae833 dd50c5e3356cca91"),
    ("kvr", "mistral-7b", GSM8K, "e410d57c6ffbe8de ec86d820ce3b8a34"),
    ("kvr", "llama3-8b-24gb", WEBQA, "cd3b57329c535ed0 975fe3bc8ecacaec"),
    ("popqa", "llama3-8b", ["stages.stage2.data.task=ultrachat", "seed=1"], "2fe2cb69c415c386 0d4cb362e04e5fb3"),
    ("triviaqa", "llama3-8b", FAR, "740a3c22ea1a08b0 e99d2b923b12017d"),
    ("three_stages", "llama3-8b", THREE, "46ad1f5a3256a5d7 fa86ed677f43dfc1 f2bf535015426d96"),
    ("familiar_facts", "llama3-8b", ["stages.stage2.data.task=evolcode"], "df1e859dcad1536f"),
]


@pytest.mark.parametrize(("recipe", "profile", "overrides", "keys"), KEYS)
def test_stage_keys_of_shipped_recipes(recipe: str, profile: str, overrides: list[str], keys: str) -> None:
    resolved = load_recipe(ROOT / "recipes" / f"{recipe}.yaml", profile, overrides)
    assert [node.key for node in lineage(resolved)] == keys.split()
