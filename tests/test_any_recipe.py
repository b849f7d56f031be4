"""Any recipe, sweep, profile or override is either accepted or refused with the place of the mistake."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remix_toolkit.errors import BadInput
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.recipe.difference import as_overrides, settings_of
from remix_toolkit.recipe.load import load_recipe, read_resolved, resolved_yaml
from remix_toolkit.recipe.schema import CORPORA, TASKS, Curve, Evaluate, Match, Mix, Profile, RandomWords, Recipe, Stage
from remix_toolkit.recipe.sft_fields import RESERVED

MODELS = [*TASKS.values(), *CORPORA.values(), Curve, Evaluate, Match, Mix, Profile, RandomWords, Recipe, Stage]
WORDS = {
    *TASKS,
    *CORPORA,
    *RESERVED,
    "id",
    "tiny",
    "fp32",
    "stage1",
    "stage2",
    "pydoc",
    "replay",
    "lens",
    "",
    ".",
    "\0",
}
FIELDS = {name for model in MODELS for name in model.model_fields}
FIELDS |= {"profiles", "learning_rate", "max_steps", "save_steps"}
KEY = st.sampled_from(sorted(FIELDS | WORDS)) | st.text(max_size=3)
WORD = st.sampled_from(sorted(WORDS)) | st.text(st.characters(exclude_characters="\n"), max_size=3) | st.just("x" * 300)
NUMBER = st.integers(-1, 9) | st.integers() | st.floats() | st.floats(0, 2)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3),
    max_leaves=6,
)


def some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings with some of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


@st.composite
def spoilt(draw: st.DrawFn, valid: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Valid mappings in which up to two keys, however deep, have any value, and any name."""
    tree = deepcopy(draw(valid))  # hypothesis keeps what it drew
    for _ in range(draw(st.integers(0, 2))):
        node = tree
        while below := [value for value in node.values() if isinstance(value, dict)]:
            if draw(st.booleans()):
                break
            node = draw(st.sampled_from(below))
        node[draw(st.sampled_from(sorted(node)) | KEY if node else KEY)] = draw(VALUE)
    return tree


SIZE = st.integers(1, 9)
RATIO = some(words=SIZE).flatmap(lambda words: st.builds(lambda ratio: {"ratio": ratio, **words}, st.floats(0, 9)))
GENERATED = st.builds(
    lambda task, rest: {"task": task, **rest}, st.sampled_from(["kvr", "invented_facts"]), some(size=SIZE)
)
ROWS = GENERATED | st.sampled_from(
    [{"task": "lama", "path": "x"}, {"task": "popqa"}, {"task": "gsm8k", "config": None}]
)
PASSAGES = RATIO.flatmap(lambda ratio: st.sampled_from([ratio, {**ratio, "text": "x"}, {**ratio, "hub": "x"}]))
REST = {
    "mix": some(random_words=RATIO, passages=PASSAGES, fineweb=RATIO), "recall": st.lists(GENERATED, max_size=2),
    "train": some(learning_rate=st.floats(1e-9, 1), max_steps=SIZE), "probe": st.sampled_from([[], ["lens"]]),
}  # fmt: skip
STAGE1 = st.builds(lambda data, rest: {"data": data, **rest}, ROWS, some(**REST))
STAGE2 = st.builds(
    lambda data, rest: {"data": data, **rest},
    ROWS | some(start=SIZE, size=SIZE).map(lambda rest: {"task": "id", **rest}),
    some(**REST, curve=st.just({"epochs": 1}), stop=st.just({"loss_below": 0.1})),
)
STAGES = st.fixed_dictionaries({"stage1": STAGE1}, optional={"stage2": STAGE2})
TOP = {
    "base": st.just("tiny"), "paths": some(lama=WORD, popqa=WORD, fineweb=WORD), "seed": SIZE, "train": REST["train"],
    "profiles": st.just({"tiny": {"stages.stage1.data.size": 3}}), "adapter": st.just({"r": 3}),
}  # fmt: skip
RECIPE = spoilt(st.builds(lambda stages, top: {"stages": stages, **top}, STAGES, some(**TOP)))
PROFILE = spoilt(
    some(train=REST["train"], mix=REST["mix"], parameters=st.floats(1, 9)).map(lambda rest: {"base": "x", **rest})
)
DEEP = ["stages.stage1.data.task", "stages.stage2.data", "stages.stage1.mix.passages.text", "train.max_steps", "stages"]
DOTTED = st.lists(KEY, min_size=1, max_size=4).map(".".join) | st.sampled_from([*DEEP, "paths"])
OVERRIDE = st.one_of(
    st.builds("{}={}".format, DOTTED, VALUE.map(json.dumps)), st.builds("{}={}".format, DOTTED, st.text()), st.text()
)
TEXT = st.text() | st.text("{}[]&*!|>:-?#'\"%@` \n\tabc1\0")
ARBITRARY = settings(
    deadline=None, max_examples=120, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(file: Path, tree: Any) -> Path:
    text = tree if isinstance(tree, str) else yaml.safe_dump(tree, allow_unicode=True)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return file


def result_or_mistake(call: Any, *places: str) -> Any:
    """What the call returns, or None where it refuses, every line of that with one of the places."""
    try:
        return call()
    except BadInput as error:
        for line in str(error).split("\n"):
            assert any(place in line for place in places), line
        return None


def check_recipe(recipe: Recipe, folder: Path) -> None:
    """A recipe that was taken can be frozen and read back, and resolved again from what it differs in."""
    if recipe == recipe.model_copy(deep=True):  # else there is a number in it that is none, which equals nothing
        assert read_resolved(write(folder / "frozen.yaml", resolved_yaml(recipe))) == recipe
        changes = as_overrides(settings_of(recipe))
        assert load_recipe(recipe.source, recipe.profile, changes, recipe.seed) == recipe


@ARBITRARY
@given(tree=RECIPE | TEXT)
def test_any_recipe(tmp_path: Path, tree: Any) -> None:
    file = write(tmp_path / "any.yaml", tree)
    if recipe := result_or_mistake(lambda: load_recipe(file), "any.yaml:"):
        check_recipe(recipe, tmp_path)


@ARBITRARY
@given(tree=PROFILE | TEXT)
def test_any_profile(tmp_path: Path, tree: Any) -> None:
    file = write(tmp_path / "any.yaml", tree)
    recipe = write(tmp_path / "recipe.yaml", "stages: {stage1: {data: {task: kvr}, mix: {passages: {ratio: 1}}}}")
    if resolved := result_or_mistake(lambda: load_recipe(recipe, str(file)), "any.yaml", "recipe.yaml:"):
        check_recipe(resolved, tmp_path)


@ARBITRARY
@given(overrides=st.lists(OVERRIDE, max_size=3))
def test_any_override(overrides: list[str]) -> None:
    result_or_mistake(lambda: load_recipe("kvr", "tiny", overrides), "override", "kvr.yaml:")


POINT = st.sampled_from(
    ["stages.stage1.data.size", "train.learning_rate", "precision", "stages.stage1.mix", "recipe", "profile"]
)
SETTINGS = st.dictionaries(
    POINT, SIZE | st.sampled_from(["fp32", "recipe.yaml", {"random_words": {"ratio": 1}}, "tiny"])
)
ARMS = st.dictionaries(
    st.sampled_from(["none", "random", "a, b"]), some(**{"stages.stage1.data.size": SIZE}), min_size=1
)
MORE = some(
    grid=st.fixed_dictionaries({"train.max_steps": st.lists(SIZE, min_size=1, max_size=2, unique=True)}),
    set=st.just({"stages.stage1.data.size": 3}) | SETTINGS,
    seeds=st.lists(SIZE, min_size=1, max_size=2, unique=True),
    exclude=st.just([{"arm": "none"}]) | st.lists(SETTINGS, max_size=1),
    keep=st.sampled_from(["all", ["stage1"], ["stage"]]),
    paper=st.just({"none": 1.0}),
    profiles=st.fixed_dictionaries({"tiny": SETTINGS | some(seeds=st.just([1]), arms=st.just({"only": {}}))}),
    extends=st.just("sweep.yaml") | WORD,
)
SWEEP = spoilt(st.builds(lambda arms, rest: {"recipe": "recipe.yaml", "arms": arms, **rest}, ARMS, MORE))


@ARBITRARY
@given(tree=SWEEP | TEXT)
def test_any_sweep(tmp_path: Path, tree: Any) -> None:
    write(tmp_path / "recipe.yaml", "stages: {stage1: {data: {task: kvr, size: 5}}}")
    write(tmp_path / "sweep.yaml", "recipe: recipe.yaml\narms: {base: {}}")
    file = write(tmp_path / "any.yaml", tree)
    result_or_mistake(lambda: load_sweep(str(file)), "any.yaml", "recipe.yaml:", "sweep.yaml")
