"""What the fuzzing draws from: settings that are nearly right, and texts that were damaged or mean harm."""

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from conftest import ROOT
from hypothesis import strategies as st

from remix_toolkit.recipe import sft_fields
from remix_toolkit.recipe.schema import CORPORA, TASKS, Evaluate, Mix, RandomWords, Recipe, Stage
from remix_toolkit.recipe.setup import Profile
from remix_toolkit.recipe.sft_fields import RESERVED
from remix_toolkit.recipe.training import Curve, Match
from remix_toolkit.recipe.yaml_file import load_mapping

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
NUMBER = st.integers(-1, 9) | st.integers() | st.floats() | st.floats(0, 2) | st.sampled_from([10**12, 10**400, 1e300])
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
OVERRIDES = st.lists(OVERRIDE, max_size=3)
TEXT = st.text() | st.text("{}[]&*!|>:-?#'\"%@` \n\tabc1\0")
POINT = st.sampled_from(
    ["stages.stage1.data.size", "train.learning_rate", "precision", "stages.stage1.mix", "recipe", "profile"]
)
SETTINGS = st.dictionaries(
    POINT, SIZE | st.sampled_from(["fp32", "recipe.yaml", {"random_words": {"ratio": 1}}, "tiny"])
)
ARMS = st.dictionaries(
    st.sampled_from(["none", "random", "a, b", "none[/x]"]), some(**{"stages.stage1.data.size": SIZE}), min_size=1
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

# --- files of text that were damaged, or made by somebody who means harm -----------------------------------------

SHIPPED = sorted(
    file for folder in ("recipes", "recipes/ablations", "accelerate_configs") for file in (ROOT / folder).glob("*.yaml")
)
NASTY = [
    "&a ", "*a", "!!bool x", "!!int ''", "!!timestamp x", "!!binary x", "!x y", "<<: *a", "? ", "- ", "---\n", "null",
    "{", "}", "[", "]", ": ", "\n  ", "|\n", "'", '"', '"\\0"', '"\\ud800"', "\t", "\0", "\ufeff", "\u2028", "é", "#",
    "1" * 5000, "1e999", ".nan", "010", "1:30", "-0", "2020-01-01", "~", "x" * 300, "../" * 40, "/", "<|end|>",
    "[[[" * 500, "{a: " * 500, '{"a": ', "\r", "\x1b[31m", "\udcff", "%YAML 1.1", ",",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A text in which some pieces are cut out, doubled, exchanged or put in."""
    text = draw(texts)
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted(draw(st.integers(0, len(text))) for _ in range(2))
        end = min(end, start + draw(st.integers(0, 60)))
        piece = draw(st.just("") | st.just(text[start:end] * 2) | st.sampled_from(NASTY) | st.text(max_size=3))
        text = text[:start] + piece + text[end:]
    return text


@cache
def shipped(file: Path) -> str:
    return file.read_text(encoding="utf-8")


YAML_TEXT = TEXT | damaged(st.sampled_from(SHIPPED).map(shipped))
JSON_ROW = st.dictionaries(st.sampled_from(["prompt", "response", "x"]), WORD | VALUE, max_size=3)
ROWS_OF_PAIRS = st.lists(st.fixed_dictionaries({"prompt": WORD, "response": WORD}) | JSON_ROW, max_size=4)
LINE = st.lists(WORD | st.sampled_from(NASTY), max_size=3).map(",".join)
PAIRS_TEXT = st.one_of(
    ROWS_OF_PAIRS.map(json.dumps),
    ROWS_OF_PAIRS.map(lambda rows: "".join(f"{json.dumps(row)}\n" for row in rows)),
    st.lists(LINE).map(lambda lines: "\n".join(["prompt,response", *lines])),
)
ENDING = st.sampled_from(["csv", "tsv", "jsonl", "json", "txt", ""])
PAIRS = st.tuples(ENDING, PAIRS_TEXT | damaged(PAIRS_TEXT) | TEXT)
LAUNCH = some(
    num_processes=SIZE, num_machines=SIZE, mixed_precision=st.just("no"),
    distributed_type=st.sampled_from(["FSDP", "NO"]), fsdp_config=some(fsdp_version=st.integers(1, 2)),
)  # fmt: skip
CLUSTER = some(**{"partition": WORD, "time": st.just("12:00:00"), "gpus": SIZE, "setup": WORD, "job-name": WORD})
OF_TYPE = {
    "int": SIZE | NUMBER, "float": st.floats(0, 2) | NUMBER, "bool": st.booleans(), "str": WORD, "None": st.none(),
    "dict": some(x=NUMBER), "dict[str, Any]": some(use_reentrant=st.booleans()), "list[str]": st.lists(WORD),
}  # fmt: skip
FIELD = {
    name: st.one_of(VALUE, *(OF_TYPE[kind] for kind in kinds.split(" | ") if kind in OF_TYPE))
    for name, kinds in load_mapping(Path(sft_fields.__file__).with_suffix(".yaml"))[0]["fields"].items()
    if name not in RESERVED and name != "trust_remote_code"
}
LORA = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_dora", "init_lora_weights", "rank_pattern")
QUANTIZED = ("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "llm_int8_threshold", "x")
TRAINING = st.tuples(
    st.sampled_from(sorted(FIELD)).flatmap(lambda name: st.fixed_dictionaries({name: FIELD[name]})),
    some(**dict.fromkeys(LORA, VALUE)),
    some(**dict.fromkeys(QUANTIZED, VALUE)),
)
OPTION = st.sampled_from(["--seed", "--profile", "--jobs", "--runs", "--json", "--keep", "--rate", "--limit", "-h"])
ARGUMENT = st.sampled_from(["kvr", "demo", "popqa", "any.yaml", "runs", "recipes"]) | OPTION | OVERRIDE | WORD
COMMAND = st.sampled_from(
    [["plan"], ["data"], ["show"], ["store", "list"], ["recipes"], ["new"], ["sweep", "--status"]]
)
ARGUMENTS = st.tuples(COMMAND, st.lists(ARGUMENT, max_size=3)).map(lambda parts: [*parts[0], *parts[1]])
