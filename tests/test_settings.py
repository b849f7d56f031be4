"""What a run differs in from its recipe file: the same for every spelling, and enough to make the same run again."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from remix_toolkit.errors import BadInput
from remix_toolkit.graph.sweep import is_sweep
from remix_toolkit.recipe.difference import as_overrides, difference, settings_of
from remix_toolkit.recipe.load import load_recipe, read_resolved, resolved_yaml
from remix_toolkit.recipe.yaml_file import load_value

RECIPES = sorted(file for file in (ROOT / "recipes").glob("*.yaml") if not is_sweep(str(file)))
PROFILES = ["tiny", "llama3-8b", "llama3-8b-24gb"]
ID = """\
stages:
  stage1: {data: {task: kvr, size: 100}, train: {learning_rate: 1e-4}, mix: {random_words: {ratio: 1, words: 50}}}
  stage2: {data: {task: id}, recall: [{task: kvr, start: 5000, size: 10}, {task: id, size: 5}]}
  stage3: {data: {task: lama, size: 10, familiarity: unfamiliar}, mix: {fineweb: {ratio: 1}}}
adapter: {r: 8, lora_alpha: 16}
paths: {lama: LAMA, fineweb: web}
"""


def settings_with(file: str | Path, *overrides: str, profile: str = "tiny") -> dict[str, Any]:
    return settings_of(load_recipe(file, profile, overrides))


@pytest.fixture(scope="module")
def id_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "id.yaml"
    file.write_text(ID, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("one", "other", "changes"),
    [
        (["train.learning_rate=0.0005"], ["train={learning_rate: 5e-4}"], {"train.learning_rate": 5e-4}),
        (
            ["stages.stage1.mix={random_words: {ratio: 2}}"],
            ["stages.stage1.mix.random_words.ratio=2"],
            {"stages.stage1.mix.random_words": {"ratio": 2.0}},
        ),
        (["stages.stage1.data.size=9"], ["stages.stage1.data={task: kvr, size: 9}"], {"stages.stage1.data.size": 9}),
        (
            ["paths.lama=L", "stages.stage2.data.task=lama"],
            ["stages.stage2.data={task: lama, size: 100}", "paths.lama=L"],
            {"paths.lama": "L", "stages.stage2.data.task": "lama"},
        ),
        (["adapter={r: 4}"], ["adapter={r: 8}", "adapter.r=4"], {"adapter": {"r": 4}}),
        (["seed=4", "name=other"], [], {}),
        (["stages.stage1.train.learning_rate=1e-3"], [], {}),  # the profile's
        (["stages.stage1.data.size=7", "stages.stage1.data.size=100"], [], {}),
    ],
)
def test_every_spelling_of_a_change_has_the_same_settings(one: list, other: list, changes: dict) -> None:
    kvr = ROOT / "recipes" / "kvr.yaml"
    assert settings_with(kvr, *one) == settings_with(kvr, *other) == changes


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("stages.stage1.data.size=50", {"stages.stage1.data.size": 50}),  # the rows of `id` follow
        ("stages.stage1.train={}", {"stages.stage1.train.learning_rate": 1e-3}),
        ("stages.stage1.mix={}", {"stages.stage1.mix.random_words": None}),
        ("stages.stage1.mix={random_words: {ratio: 1}}", {"stages.stage1.mix.random_words.words": 5}),
        ("stages.stage2.recall=[]", {"stages.stage2.recall": []}),
    ],
)
def test_settings_are_named_as_deep_as_they_differ(id_recipe: Path, override: str, changes: dict) -> None:
    assert settings_with(id_recipe, override) == changes


def test_a_file_that_leaves_a_key_open_has_settings_too(tmp_path: Path) -> None:
    (tmp_path / "open.yaml").write_text("stages: {one: {data: {task: pairs}}}\n")
    recipe = load_recipe(tmp_path / "open.yaml", "tiny", ["stages.one.data.path=a.csv"], seed=2)
    found = settings_of(recipe)
    assert found == {"stages.one.data": {"task": "pairs", "path": "a.csv"}}
    assert load_recipe(tmp_path / "open.yaml", "tiny", as_overrides(found), seed=2) == recipe


def test_settings_of_a_file_that_changed(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(ID)
    recipe = load_recipe(file)
    file.write_text(ID.replace("size: 100", "size: 50"))
    assert settings_of(recipe) == {"stages.stage1.data.size": 100}
    file.unlink()
    with pytest.raises(BadInput, match="mine"):
        settings_of(recipe)


HUB = {"hub": "b"}
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "train.learning_rate": st.sampled_from([1e-3, 1e-4, 5e-4]),
    "train.num_train_epochs": st.integers(1, 9),
    "stages.stage1.train.learning_rate": st.sampled_from([1e-3, 1e-4, 5e-4]),
    "stages.stage2.train": st.sampled_from([{}, {"learning_rate": 1e-3}, {"optim_args": None}]),
    "stages.stage1.data.size": st.integers(1, 200),
    "stages.stage1.data.familiarity": st.sampled_from(["familiar", None]),
    "stages.stage2.data.start": st.integers(0, 200),
    "stages.stage2.data.size": st.integers(1, 200),
    "stages.stage2.data.task": st.sampled_from(["id", "lama", "gsm8k", "kvr", "popqa"]),
    "stages.stage2.data": st.sampled_from([{"task": "id"}, {"task": "kvr"}, {"task": "popqa", "path": None}]),
    "stages.stage2.recall": st.sampled_from([[], [{"task": "id"}], [{"task": "lama", "size": 3}]]),
    "stages.stage1.mix": st.sampled_from([{}, {"random_words": {"ratio": 2}}, {"passages": {"ratio": 1}}]),
    "stages.stage1.mix.random_words.ratio": st.sampled_from([1, 2.0, 0.5]),
    "stages.stage1.mix.random_words.words": st.sampled_from([5, 50]),
    "stages.stage2.mix.fineweb": st.sampled_from([None, *({"ratio": 1, **more} for more in ({}, {"path": None}, HUB))]),
    "stages.stage2.mix.passages": st.sampled_from(
        [{"ratio": 1, **HUB, "column": "content"}, {"ratio": 1, "text": "f"}]
    ),
    "stages.stage2.stop": st.sampled_from([None, {"loss_below": 1e-3}, {"loss_below": 1e-3, "times": 3}]),
    "paths": st.dictionaries(st.sampled_from(["lama", "popqa", "fineweb", "entityquestions"]), TEXT),
    "paths.lama": TEXT,
    "paths.fineweb": TEXT,
    "adapter": st.none() | st.fixed_dictionaries({"r": st.integers(1, 9)}, optional={"target.modules": TEXT}),
    "adapter.r": st.integers(1, 9),
    "base": st.sampled_from(["tiny", "other"]),
    "parameters": st.sampled_from([None, 3.74e6, 1.0]),
    "few_shot.exemplars": st.integers(1, 9),
    "evaluate.lm_eval": st.lists(TEXT, max_size=2),
}
OVERRIDES = st.lists(
    st.sampled_from(sorted(VALUES)).flatmap(lambda key: st.tuples(st.just(key), VALUES[key])), max_size=5
)


@settings(deadline=None, max_examples=150, database=None)
@given(file=st.sampled_from([None, *RECIPES]), profile=st.sampled_from(PROFILES), changes=OVERRIDES)
def test_settings_lead_to_the_same_recipe_whatever_was_set(id_recipe, file, profile, changes) -> None:
    file = file or id_recipe
    try:
        recipe = load_recipe(file, profile, settings=[(key, value, "the test") for key, value in changes])
    except BadInput:
        return
    found = settings_of(recipe)
    again = load_recipe(file, profile, as_overrides(found))
    assert again == recipe
    assert list(again.stages) == list(recipe.stages)
    assert settings_of(again) == found
    declared = load_recipe(file, profile)
    assert bool(difference(declared.model_dump(), recipe)) == (recipe != declared) == bool(found)


# --- frozen recipes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_resolved_recipe_is_read_back(tmp_path: Path, file: Path, profile: str) -> None:
    recipe = load_recipe(file, profile, ["train.optim_args=null", "adapter={layers_pattern: null}"])
    (tmp_path / "frozen.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
    assert read_resolved(tmp_path / "frozen.yaml") == recipe


def test_a_null_in_place_of_a_default_is_kept(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "recipes" / "kvr.yaml", "tiny", ["stages.stage2.data={task: gsm8k, config: null}"])
    text = resolved_yaml(recipe)
    assert re.findall("(.*): null", text) == ["      config"]
    (tmp_path / "frozen.yaml").write_text(text, encoding="utf-8")
    assert read_resolved(tmp_path / "frozen.yaml") == recipe


def test_a_frozen_recipe_edited_by_hand(tmp_path: Path) -> None:
    text = resolved_yaml(load_recipe(ROOT / "recipes" / "kvr.yaml"))
    assert "size: 100\n" in text
    (tmp_path / "frozen.yaml").write_text(text.replace("size: 100\n", "sise: 100\n"), encoding="utf-8")
    with pytest.raises(BadInput, match=r"frozen.yaml:\d+: stages.stage1.data.sise: .*did you mean 'size'"):
        read_resolved(tmp_path / "frozen.yaml")


def test_every_override_is_read_back() -> None:
    values = {"a": "\u2028\x7f\U0001f600\\\"'", "b": [None, True, 1e-5, 3], "c": {"x.y": {"z": "1e-4"}}}
    lines = [line.partition("=") for line in as_overrides(values)]
    assert {key: load_value(text, "here") for key, _, text in lines} == values
