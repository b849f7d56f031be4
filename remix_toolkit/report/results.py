"""results.json: what is known of published stages, in one documented form (docs/results.schema.json).

It names neither the machine nor its user: of a local path the last part is kept, of a token nothing. Numbers that are
not finite are null.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from pydantic import Field

from remix_toolkit import store
from remix_toolkit.console import warn
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.measurements import MEASUREMENTS
from remix_toolkit.evaluate.recall import Recall as RecallMeasurement
from remix_toolkit.recipe.schema import Evaluate
from remix_toolkit.recipe.strict import Strict
from remix_toolkit.records import Part, RunRecord, RunStage, StageRecord
from remix_toolkit.report.stage import Stage

SCHEMA: Literal[4] = 4  # raise it with every change of the form
PROBES = {one.name: one for one in MEASUREMENTS if one.name not in ("recall", "held_out")}
# Keys whose value is always a local path.
PATHS = {"path", "text", "source", "profile", "accelerate_config", "deepspeed", "logging_dir"}
# Absolute, or with a . or .. in it.
LOCAL = re.compile(r"/|~|[A-Za-z]:[/\\]|\\\\|file:|\.\.?[/\\]|.*[/\\]\.\.([/\\]|$)")
WITHIN = re.compile(r"(?<![^\s=:'\"(\[{,])(?:/(?=[^\s/])|~|[A-Za-z]:[/\\])[^'\")\]},\n]*[/\\]")  # the folders of a path
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


class Recall(Strict):
    recall: float | None = Field(description="greedy exact match, in percent")
    facts: int = Field(description="how many were asked")
    correct: int = Field(description="how many were answered right")
    own_at_least: float | None = Field(
        None, description="of the wrong answers, in percent, right ones of the facts that the stage itself trained on"
    )
    own_at_most: float | None = Field(None, description="with those that may become one: scoring cuts off wrong ones")


class HeldOut(Strict):
    rows: int = Field(description="rows of an instruction task that were not trained on")
    loss: float | None = Field(description="mean over their trained tokens, in nats")
    tokens: int = Field(description="how many tokens that is the mean of")
    accuracy: float | None = Field(None, description="right results in percent, where the task has results (GSM8K)")


class Published(Strict):
    """One published stage."""

    key: str = Field(description="16 hexadecimal digits: a hash of `declaration`")
    name: str = Field(description="of its directory: recipe, stage, seed, key")
    stage: str = Field(description="what the recipe that trained it calls it")
    ancestors: list[str] = Field(description="keys of the stages before it, the first one first")
    base_file: dict[str, Any] | None = Field(None, description="what a base's GGUF file said of itself, if it was one")
    declaration: dict[str, Any] = Field(description="all that determines the weights, of all stages so far")
    recipe: dict[str, Any] = Field(description="the resolved recipe under which it was trained")
    counts: dict[str, Any] = Field(description="facts, mixing pairs, what was dropped and why, tokens, hub commits")
    steps: int = Field(description="optimizer steps")
    epochs: float | None = None
    trained_tokens: int | None = Field(None, description="tokens with a loss that all steps saw")
    flops: float | None = Field(None, description="of training, as a plan estimates them, on the tokens that it saw")
    last_loss: float | None = Field(None, description="of the last optimizer step, in nats a token")
    seconds: float | None = Field(None, description="how long it trained, in its last run if it was resumed")
    stop_fired: bool | None = Field(None, description="did it end before its last planned step?")
    weights: bool = Field(description="are they in the store? A sweep may have deleted them; the results stay")
    recall: dict[str, Recall] = Field(description="by the id of a list of facts: a task and a hash of which rows")
    held_out: HeldOut | None = Field(None, description="of an instruction stage, in place of its own recall")
    probes: dict[str, Any] = Field(description=f"of {', '.join(PROBES)} those that were run, each by what was asked")
    base: dict[str, Any] = Field({}, description="of the base model itself, perplexity and lm_eval, as in `probes`")
    device: str | None = None
    processes: int | None = None
    python: str | None = None
    libraries: dict[str, str] = Field(description="name -> the version that trained it")


class Run(Strict):
    """One run of a recipe: which stages it consists of."""

    recipe: str
    arm: str = Field(description="of a sweep; of a plain recipe, its name")
    grid_point: str = Field(description="of the arm in a sweep's grid")
    profile: str
    seed: int
    settings: dict[str, Any] = Field(description="dotted keys in which the run differs from its recipe file")
    overrides: dict[str, Any] = Field(description="of these, what the command line changed; the rest is the sweep's")
    stages: list[RunStage]


class Results(Strict):
    """Published stages, each after those that it starts from, and the runs that they are part of."""

    version: Literal[4] = Field(SCHEMA, alias="schema", description="of this form")
    stages: list[Published]
    runs: list[Run]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of results.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Results.model_json_schema(),
    }


def of_stage(folder: Path) -> Results:
    """A published stage, and what its store has of the stages that it starts from; the stage comes last.

    Raises BadInput where the stage is damaged. Of the others, a damaged one is left out, with a warning.
    """
    runs = folder.parent.parent if folder.parent.name == "stages" else None
    if runs:
        store.check_format(runs)
    last = read_stage(folder)
    there = store.published_stages(runs) if runs else {}
    lineage = [*_sound([there[key] for key in last.ancestors if key in there]), last]
    records = store.records(runs, warn) if runs else []
    with_it = [record for record in records if last.key in record.keys]
    return Results(schema=SCHEMA, stages=lineage, runs=_runs(with_it, {*last.ancestors, last.key}))


def of_store(runs: Path, recipe: str | None = None) -> Results:
    """All that is published in a runs directory, or of one recipe or sweep in it.

    A damaged stage is left out, with a warning. Raises BadInput where nothing is published, or no such run.
    """
    if not (runs / "stages").is_dir():
        raise BadInput(f"{runs}: nothing is published there; --runs says where stages are")
    records, published = store.records(runs, warn, recipe), store.published_stages(runs)
    if recipe is not None:
        keys = {key for record in records for key in record.keys}
        published = {key: folder for key, folder in published.items() if key in keys}
    stages = sorted(_sound(list(published.values())), key=lambda stage: len(stage.ancestors))
    return Results(schema=SCHEMA, stages=stages, runs=_runs(records, None))


def as_json(results: Results) -> str:
    """The text of results.json."""
    return results.model_dump_json(by_alias=True, indent=1) + "\n"


def read_stage(folder: Path) -> Published:
    """What a published directory says of itself. Raises BadInput where a file is damaged or unreadable."""
    stage = Stage(folder)
    stage.verify()
    try:
        record, recipe = stage.record, public(stage.recipe)
        if not record.declaration["base"].keys().isdisjoint({"files", "gguf"}):
            recipe["base"] = last_part(recipe["base"])
        probes = {name: _dumped(stage.results(probe)) for name, probe in PROBES.items()}
        of_base = {name: _dumped(stage.base_results(probe)) for name, probe in PROBES.items() if probe.of_base}
        return Published.model_validate(
            record.model_dump(include=set(Published.model_fields) & set(StageRecord.model_fields))
            | {"name": f"{recipe['name']}-{record.stage}-seed{recipe['seed']}-{record.key}", "recipe": recipe}
            | {"declaration": public(record.declaration), "counts": public(record.counts.model_dump())}
            | {"recall": {id_: _recall(stage, id_, one) for id_, one in stage.results(RecallMeasurement()).items()}}
            | {"flops": stage.flops}
            | {"held_out": stage.held_out and _only(HeldOut, stage.held_out)}
            | {"probes": public({name: results for name, results in probes.items() if results})}
            | {"base": public({name: results for name, results in of_base.items() if results})}
            | {"weights": not store.is_pruned(folder), "base_file": stage.base_file}
        )
    except (BadInput, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(f"{folder}: its results cannot be read ({problem[:300]})") from None


def _dumped(results: Mapping[str, Part]) -> dict[str, Any]:
    return {item: result.model_dump() for item, result in results.items()}


def _recall(stage: Stage, list_id: str, record: Part) -> dict[str, Any]:
    at_least, at_most = stage.answers_of_own(list_id) or (None, None)
    return _only(Recall, record) | {"own_at_least": at_least, "own_at_most": at_most}


def _only(kind: type[Strict], record: Part) -> dict[str, Any]:
    """The fields of a record that results.json has too."""
    return record.model_dump(include=set(kind.model_fields))


def numbers(probes: Mapping[str, Any]) -> dict[str, float]:
    """Of a stage's probes those that are a number: `perplexity` of generic text, the harness's tasks and metrics.

    A task that is a file goes by its name alone.
    """
    values: dict[str, float] = {}
    for text, result in probes.get("perplexity", {}).items():
        values["perplexity" if text == Evaluate().text else f"perplexity of {Path(text).name}"] = result["perplexity"]
    for result in probes.get("lm_eval", {}).values():
        task = Path(result["task"]).stem + (f" on {result['limit']} rows" if result["limit"] else "")
        metrics = {name: value for name, value in result["metrics"].items() if isinstance(value, int | float)}
        kept = {name: value for name, value in metrics.items() if "stderr" not in name and name != "sample_len"}
        values |= {f"{task} {name}": value for name, value in kept.items()}
    return values


def until(recipe: dict[str, Any], stage: str) -> dict[str, Any]:
    """The recipe that trained a stage, without the stages behind it: those are not of this model."""
    names = list(recipe["stages"])
    kept = {name: recipe["stages"][name] for name in names[: names.index(stage) + 1]}
    without = {"base_stage"} if recipe.get("base_stage") not in kept else set()  # it decides on later stages only
    return {key: value for key, value in recipe.items() if key not in without} | {"stages": kept}


def public(value: Any, key: str = "") -> Any:
    """Settings without what is nobody else's business: a local path becomes its last part, and a token is struck."""
    if isinstance(value, dict):
        cleaned: dict[Any, Any] = {}
        for name, one in value.items():  # a name may be a path too: lm_eval.json has tasks that are files
            short = public(name)
            unique = short if short not in cleaned else f"{short} ({len(cleaned)})"
            is_path = key == "paths" or str(name).startswith("paths.")
            cleaned[unique] = public(one, "path" if is_path else str(name).rpartition(".")[2])
        return cleaned
    if isinstance(value, list):
        return [public(one, key) for one in value]
    if not isinstance(value, str):
        return value
    if key in PATHS or LOCAL.match(value):
        value = last_part(value)
    return TOKEN.sub("hf_...", WITHIN.sub("", value))


def last_part(path: str) -> str:
    """`c.csv` of `/a/b/c.csv`, of `..\\b\\c.csv` too."""
    return PureWindowsPath(path).name


def _sound(folders: list[Path]) -> list[Published]:
    """The stages in these folders; a damaged one is left out, with a warning."""
    stages = []
    for folder in folders:
        try:
            stages.append(read_stage(folder))
        except BadInput as error:
            warn(str(error))
    return stages


def _runs(records: list[RunRecord], keys: set[str] | None) -> list[Run]:
    """The records as runs without local paths, of their stages those with these keys."""
    dumps = [public(record.model_dump(include=set(Run.model_fields))) for record in records]
    runs = [Run.model_validate(dump) for dump in dumps]
    return [
        run.model_copy(update={"stages": [stage for stage in run.stages if keys is None or stage.key in keys]})
        for run in runs
    ]
