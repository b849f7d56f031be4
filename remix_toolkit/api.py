"""The toolkit from Python: what the commands of the same names do, without printing their tables.

    from remix_toolkit import load_recipe, results, run, sweep

    recipe = load_recipe("kvr", settings={"stages.stage1.data.size": 50})
    folders = run(recipe)                   # stage -> its model directory
    frame = results()                       # a row for each fact that a stage was asked
    print(100 * frame.groupby(["recipe", "seed", "stage", "task"]).correct.mean())

A mistake in the input raises BadInput, work that could not be finished RunFailed; both are in remix_toolkit.errors.
"""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from remix_toolkit import store
from remix_toolkit.console import silence_libraries
from remix_toolkit.data.missing_files import absent_sources, require_sources
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.graph.prune import delete_left_behind
from remix_toolkit.graph.sweep import Cell, Keep, Sweep, check_keep, load_sweep
from remix_toolkit.recipe import load
from remix_toolkit.recipe.credentials import refuse_credentials
from remix_toolkit.recipe.schema import Factoid, FewShot, Recipe, Rows
from remix_toolkit.records import RunRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from remix_toolkit.data.pair import Pair
    from remix_toolkit.graph.sweep_state import Command

Settings = Mapping[str, Any] | Sequence[str] | None  # {"stages.stage1.data.size": 50}, or "stages.stage1.data.size=50"
Folders = dict[str, Path]  # stage -> its published model directory, in the order of training


def load_recipe(
    recipe: str | Path, profile: str = "tiny", settings: Settings = None, seed: int | None = None
) -> Recipe:
    """A recipe, resolved and checked: a file, or the name of one (`remix recipes` lists those of the package).

    `profile` is a profile's name or its file. Raises BadInput for each mistake, with its file, line and key.
    """
    return load.load_recipe(recipe, profile, _overrides(settings), seed)


def run(recipe: Recipe, runs: str | Path = "runs", stage: str | None = None) -> Folders:
    """Train, publish and measure the stages of a recipe, or one and those before it; what is published is reused.

    Returns each stage's published directory. Raises BadInput, or RunFailed where training fails.
    """
    from remix_toolkit.launch.local import run as run_recipe

    record = run_recipe(recipe, Path(runs), stage)
    return _folders(record, Path(runs))


def plan(
    name: str | Path,
    profile: str | None = None,
    settings: Settings = None,
    seeds: Sequence[int] | None = None,
    runs: str | Path = "runs",
    jobs: int = 1,
    rates: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What a sweep or recipe will train and what that costs, as `remix plan --json` prints it; nothing is loaded.

    `jobs` stages are trained at once. GPU-hours are at `rates`, such as `{"utilization": 0.5}`, and at those of an H100
    for what is not set: graph.hours.Rates has them all.
    """
    from remix_toolkit.graph.hours import rates_of
    from remix_toolkit.graph.plan import plan as plan_cells

    started = perf_counter()
    declared, cells = load_sweep(str(name), profile, list(seeds or []), _overrides(settings))
    planned = plan_cells(cells, declared.keep, Path(runs), jobs, rates_of(rates or {}))
    stages = [stage for cell in cells for stage in cell.recipe.stages.values()]
    absent = absent_sources(stages, (cell.recipe.known for cell in cells))
    return {**planned, "absent": sorted(absent), "seconds": round(perf_counter() - started, 3)}


def sweep(
    name: str | Path,
    profile: str | None = None,
    settings: Settings = None,
    seeds: Sequence[int] | None = None,
    runs: str | Path = "runs",
    jobs: int | None = None,
    keep: Keep | None = None,
) -> dict[tuple[str, int], Folders]:
    """Run a recipe under every arm and seed of a sweep on this machine; a stage that runs share is trained once.

    `jobs` stages are trained at once: by default as many as there are GPUs or, of tiny models, CPUs. `keep` says whose
    weights stay: "all", "leaves", "none", or a list of stages' names; by default the sweep itself says so. Returns the
    published directories of each arm and seed. Raises BadInput, or RunFailed where a stage failed, after all that does
    not start from it.
    """
    from remix_toolkit.graph.sweep_state import Command
    from remix_toolkit.launch.sweep import failures, run_sweep

    command = Command(
        sweep=str(name), profile=profile, seeds=list(seeds) if seeds else None, overrides=_overrides(settings)
    )
    declared, cells, records = begin_sweep(command, Path(runs), keep)
    if failed := failures(run_sweep(command, cells, declared.keep, Path(runs), jobs)):
        raise RunFailed(failed)
    return {(record.arm, record.seed): _folders(record, Path(runs)) for record in records}


def begin_sweep(
    command: "Command", runs: Path, keep: Keep | None = None, origin: str = "sweep"
) -> tuple[Sweep, list[Cell], list[RunRecord]]:
    """A sweep's declaration, with `keep` in place of its own if that is given, its cells, and the record of each.

    All of its runs are recorded in the store: what is published is shown, and what is missing too. Raises BadInput for
    a mistake in any cell, or data that is not there; `origin` names where `keep` was given.
    """
    declared, cells = load_sweep(command.sweep, command.profile, command.seeds, command.overrides)
    if keep is not None:
        check_keep(keep, (node for cell in cells for node in cell.nodes), origin)
        declared = declared.model_copy(update={"keep": keep})
    stages = [stage for cell in cells for stage in cell.recipe.stages.values()]
    require_sources(stages, (cell.recipe.known for cell in cells))
    store.open_store(runs)
    delete_left_behind(runs)
    records = [cell.record() for cell in cells]
    store.record_runs(runs, records)
    return declared, cells, records


def recall(model: str | Path, task: str, data_seed: int = 0, details: Path | None = None) -> dict[str, Any]:
    """`{model, task, recall, facts, correct}` of any model directory or hub id; recall is in percent.

    `task` is a task of facts with its settings, such as "kvr size=100"; `details` is a file for each fact's verdict.
    """
    declared = _parse_facts(task)
    facts = _read_pairs(declared, data_seed)
    loaded, tokenizer = _load_model(str(model))
    from remix_toolkit.evaluate.recall import percent, verdict_rows
    from remix_toolkit.evaluate.recall import recall as ask
    from remix_toolkit.records import write_rows

    verdicts = ask(loaded, tokenizer, facts)
    if details:
        write_rows(details, verdict_rows(declared.task, verdicts))
    correct = sum(verdict.correct for verdict in verdicts)
    answered = {"recall": percent(verdicts), "facts": len(facts), "correct": correct}
    return {"model": str(model), "task": declared.task, **answered}


def lens(model: str | Path, task: str, data_seed: int = 0) -> dict[str, Any]:
    """`{model, task}` and the fields of a LensResult: at which layers the answers of a task's facts appear."""
    declared = _parse_facts(task)
    facts = _read_pairs(declared, data_seed)
    loaded, tokenizer = _load_model(str(model))
    from remix_toolkit.evaluate.lens import lens as look

    return {"model": str(model), "task": declared.task, **look(loaded, tokenizer, facts).model_dump()}


def interference(
    model: str | Path,
    a: str,
    b: str,
    mix: str | None = None,
    after: str | Path | None = None,
    profile: str = "tiny",
    parts: int = 8,
    data_seed: int = 0,
) -> dict[str, Any]:
    """`{model, after}` and the fields of an InterferenceResult: do the gradients of tasks A and B oppose each other?

    A mixing source, `mix`, is drawn for B as in a stage, with the profile's defaults; `after` is the model after
    training on B; the gradients of each task are those of so many `parts` of it.
    """
    from remix_toolkit.data import encoding, mixing

    tasks = {"a": _parse_task(a), "b": _parse_task(b)}
    declared = load.load_mix(mix, profile) if mix else None
    pairs = {name: _read_pairs(task, data_seed) for name, task in tasks.items()}
    if declared:
        pairs["m"], _ = mixing.draw(declared, pairs["b"], {"stage1": pairs["a"]}, seed=0, position=1)
    loaded, tokenizer = _load_model(str(model))
    later_model = _load_model(str(after))[0] if after else None
    from remix_toolkit.evaluate.gradients import interference as measure

    examples = {name: [encoding.encode(tokenizer, pair) for pair in rows] for name, rows in pairs.items()}
    sources = {name: task.task for name, task in tasks.items()}
    record = measure(loaded, tokenizer, examples, later_model, parts, sources).model_dump()
    return {"model": str(model), "after": str(after) if after else None, **record}


def familiar(
    task: str,
    profile: str = "tiny",
    base: str | None = None,
    few_shot: FewShot | None = None,
    runs: str | Path = "runs",
) -> dict[str, Any]:
    """Which facts of a task the base model already answers; recipes with `familiarity` reuse what is found.

    `base` is another base model than the profile's. All rows of the task are asked, unless its settings have a `size`.
    Returns `{task, model, facts, familiar, unfamiliar, tulu, qa, guesses, exemplars, path}`, see familiar.split.
    """
    declared = _parse_task(task)
    if not isinstance(declared, Factoid):
        raise BadInput(f"{declared.task}: instructions are not familiar or unfamiliar; name a task of facts")
    declared = declared.model_copy(
        update={"familiarity": "familiar"}
    )  # so that all generated facts are read from which a recipe chooses
    recipe = load.load_base(profile)
    refuse_credentials({"base": base}, {}, "familiar")
    changes = {"few_shot": few_shot or FewShot(), "base": base or recipe.base}
    from remix_toolkit.stage.familiar import split

    store.open_store(Path(runs))
    return split(recipe.model_copy(update=changes), declared, Path(runs))


def _parse_task(text: str) -> Rows:
    """A task with its settings, such as `kvr size=100`. Raises BadInput."""
    name, *settings = shlex.split(text) or [""]
    return load.load_task(name, settings)


def _parse_facts(text: str) -> Factoid:
    """A task of facts with its settings. Raises BadInput for one of instructions too, which has no recall."""
    task = _parse_task(text)
    if not isinstance(task, Factoid):
        raise BadInput(f"{task.task}: instructions have no recall; a stage reports the loss on held-out rows")
    return task


def _read_pairs(task: Rows, data_seed: int) -> "list[Pair]":
    """A task's rows as a model is prompted with them. Raises BadInput where they depend on a recipe's base model."""
    from remix_toolkit.data import few_shot, tasks

    if isinstance(task, Factoid) and task.familiarity:
        hint = "name the task in a recipe's `recall`, or run `remix familiar`"
        raise BadInput(f"familiarity: it depends on a recipe's base model; {hint}")
    pairs = tasks.read_task(task, data_seed).pairs
    if isinstance(task, Factoid) and task.prompt == "few_shot":
        shots, pairs = few_shot.draw_exemplars(task, pairs, FewShot())
        pairs = [few_shot.with_exemplars(shots, fact) for fact in pairs]
    return tasks.select_rows(task, pairs)


def _load_model(model: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A model in the dtype it was saved in, on the GPU if there is one. Raises BadInput."""
    silence_libraries()
    folder = Path(model)
    if os.path.exists(folder) and not (folder / "config.json").is_file():
        raise BadInput(f"{model}: not a model directory (it has no config.json)")
    if os.path.exists(folder) and store.is_pruned(folder):
        raise BadInput(f"{model}: its weights were deleted, only its results are left; run that stage again")
    import torch

    from remix_toolkit.data import encoding
    from remix_toolkit.stage.train import load_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_model(model, None, "auto", {}).to(device)  # type: ignore[arg-type]
    return loaded, encoding.load_tokenizer(model)


def _overrides(settings: Settings) -> list[str]:
    """Settings as the command line has them. JSON is YAML."""
    if not isinstance(settings, Mapping):
        return list(settings or [])
    return [f"{key}={json.dumps(value, default=str)}" for key, value in settings.items()]


def _folders(record: RunRecord, runs: Path) -> Folders:
    published = store.published_stages(runs)
    return {stage.stage: published[stage.key] for stage in record.stages}
