"""The marks of identity: a change of a field changes the key of a recipe's last stage if, and only if, it has none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from remix_toolkit.graph.lineage import lineage
from remix_toolkit.recipe import sft_fields
from remix_toolkit.recipe.key_fields import NOT_IN_KEY, determines_weights
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.recipe.schema import CORPORA, TASKS, Factoid
from remix_toolkit.recipe.yaml_file import load_mapping

CHANGES: dict[str, Any] = {  # other values of fields that are not set, or not set to a number or a text
    "revision": "a1b2", "config": "other", "data_dir": "other", "path": "elsewhere", "text": "elsewhere", "hub": "c/d",
    "parameters": 1.0, "device_gb": 1.0, "adapter": {"r": 4}, "quantization": {"load_in_4bit": False},
    "shape": dict.fromkeys(("layers", "hidden", "intermediate", "key_value", "vocabulary"), 1), "size": 7,
    "accelerate_config": "here.yaml", "base_stage": "kvr", "paths": {"lama": "P"}, "stop": {"loss_below": 0.1},
    "match": {"steps_of": "b" * 16}, "steps_of": "b" * 16, "tokens_of": "b" * 16, "curve": {"epochs": 1},
    "recall": [{"task": "kvr", "size": 3}], "probe": ["lens"], "lm_eval": ["arc"], "limit": 3, "stage": "webqa",
    "average": {"parent": 0.5}, "finch": {"kappa": 0.1}, "leave_out": {"largest": 0.1},
    "familiarity": "familiar", "format": "qa", "known": {"task": "kvr", "size": 3},
}  # fmt: skip
BESIDE = {  # what has to go where a field is set
    "stages.pairs.data.path": "stages.pairs.data.hub",
    "stages.last.mix.passages.path": "stages.last.mix.passages.hub",
    "stages.last.mix.passages.text": "stages.last.mix.passages.hub",
    "stages.last.match.tokens_of": "stages.last.match.steps_of",
    "stages.last.stop": "stages.last.match",
}
VALUES: dict[str, Any] = {"bool": True, "int": 3, "float": 0.5, "str": "x", "list[str]": ["x"]}
VALID = {"log_level": "info", "log_level_replica": "info", "optim_args": "x=1"}
VALID |= {"dataloader_multiprocessing_context": "spawn", "torch_compile_mode": "max-autotune"}
VALUES |= {name: {"x": True} for name in ("dict", "dict[str, Any]", "dict[str, bool]")}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with a stage for each task and a last one with every source, in which each field counts."""
    stages: dict[str, Any] = {}
    for name, task in TASKS.items():
        data = {"size": 5, "prompt": "few_shot"} if issubclass(task, Factoid) else {}  # instructions: all but held_out
        stages[name] = {"data": {"task": name, **data}}
    stages["lama"]["data"]["path"] = stages["entityquestions"]["data"]["path"] = "P"
    stages["pairs"]["data"]["hub"] = "a/b"
    stages["webqa"]["data"]["familiarity"] = "unfamiliar"
    mix: dict[str, Any] = {source: {"ratio": 1} for source in ("random_words", *CORPORA)}
    mix["passages"]["hub"] = "a/b"
    mix["replay"] = {"stage": "kvr", "ratio": 0.1}
    stages["last"] = {"data": {"task": "kvr", "size": 5}, "mix": mix, "match": {"steps_of": "a" * 16}}
    recipe = {"base": "a/b", "adapter": {"r": 8}, "quantization": {"load_in_4bit": True}, "stages": stages}
    file = tmp_path_factory.mktemp("recipes") / "full.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


def fields(model: BaseModel, above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every field in and below a model that is no model itself: its dotted key, its type and its value."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from fields(value, f"{above}{name}.")
        elif name == "stages":
            for stage in TASKS:  # what else a stage has is looked at in the last one
                yield from fields(value[stage].data, f"stages.{stage}.data.")
            yield from fields(value["last"], "stages.last.")
        else:
            yield f"{above}{name}", field.annotation, value


def another(name: str, annotation: Any, value: Any) -> Any:
    """Another value of the field's type."""
    if get_origin(annotation) is Literal and len(get_args(annotation)) > 1:
        return next(other for other in get_args(annotation) if other != value)
    if isinstance(value, bool):
        return not value
    if name == "task":
        return "kvr" if value != "kvr" else "popqa"
    return CHANGES[name] if name in CHANGES else value + "x" if isinstance(value, str) else value + 1


def key_of(recipe: Path | str, *changes: tuple[str, Any]) -> str:
    loaded = load_recipe(recipe, "tiny", settings=[(key, value, "the test") for key, value in changes])
    return lineage(loaded)[-1].key


def test_a_field_is_in_the_key_unless_it_is_marked(full: Path) -> None:
    recipe, key, counted = load_recipe(full), key_of(full), 0
    for field, annotation, value in fields(recipe):
        name = field.rpartition(".")[2]
        # The fields of `train` are below, a GGUF file counts by its content, and the other two cannot be set.
        if name in ("train", "gguf_file", "profile", "source"):
            continue
        # These are not for an adapter, few-shot prompts or other tasks: tests/test_remedies.py
        if name in ("freeze", "sam", "l2", "ewc", "kl", "format_anchor", "paraphrases"):
            continue
        beside = [(BESIDE[field], None)] if field in BESIDE else []
        changed = key_of(full, *beside, (field, another(name, annotation, value)))
        assert (changed != key) == determines_weights(field), field
        counted += 1
    assert counted > 150


def test_a_training_argument_is_in_the_key_unless_it_is_listed(monkeypatch) -> None:
    monkeypatch.setattr("remix_toolkit.recipe.ranges.find_spec", lambda package: package)  # each is installed
    types = load_mapping(Path(sft_fields.__file__).with_suffix(".yaml"))[0]["fields"]
    assert types.keys() >= NOT_IN_KEY
    for field in types.keys() - sft_fields.RESERVED.keys():
        value = next(VALUES[name] for name in types[field].split(" | ") if name in VALUES)
        value = VALID.get(field, value)
        changed = key_of("kvr", ("train.dataloader_num_workers", 1), (f"train.{field}", value))
        assert (changed != key_of("kvr")) == determines_weights(f"train.{field}"), field
    attention = {"attn_implementation": "eager"}
    assert key_of("kvr", ("train.model_init_kwargs", attention)) == key_of("kvr")


def test_a_replay_that_is_not_redrawn_has_the_key_that_it_always_had() -> None:
    replay = ("stages.stage2.mix.replay", {"stage": "stage1", "ratio": 0.1})
    assert key_of("kvr", replay) == "c1ff9fea4f07ee36"
    assert key_of("kvr", replay, ("stages.stage2.mix.replay.redraw", False)) == key_of("kvr", replay)
    assert key_of("kvr", replay, ("stages.stage2.mix.replay.redraw", True)) != key_of("kvr", replay)
