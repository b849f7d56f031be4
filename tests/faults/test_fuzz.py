"""Arbitrary recipes, sweeps, profiles, overrides, YAML, data, records, files for clusters and launchers, command lines.

Each is accepted or refused with the place of the mistake, within 10 seconds and 1 GB: never a traceback. A few of each
are tried in every run of the tests; `make test-faults` tries 10,000.
"""

import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import strategies
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remix_toolkit import results, store
from remix_toolkit.data import tasks
from remix_toolkit.data.encoding import encode_all
from remix_toolkit.errors import BadInput
from remix_toolkit.graph import devices
from remix_toolkit.graph.lineage import lineage
from remix_toolkit.graph.plan import plan
from remix_toolkit.graph.sweep import Cell, load_sweep
from remix_toolkit.graph.sweep_state import Command, JobState, SweepState
from remix_toolkit.launch.slurm import read_options
from remix_toolkit.launch.state import load as load_state
from remix_toolkit.recipe.difference import as_overrides, settings_of
from remix_toolkit.recipe.load import load_recipe, load_task, read_resolved, resolved_yaml
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.recipe.yaml_file import load_value
from remix_toolkit.report.frame import load as load_frame
from remix_toolkit.stage import adapter
from remix_toolkit.stage.train import sft_config

SECONDS, BYTES = 10, 10**9  # the most that a case may take


def write(file: Path, tree: Any) -> Path:
    text = tree if isinstance(tree, str) else yaml.safe_dump(tree, allow_unicode=True)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return file


def result_or_mistake(call: Callable[[], Any], *places: str) -> Any:
    """What the call returns, or None where it refuses, every line of that with one of the places."""
    try:
        return call()
    except BadInput as error:
        for line in str(error).split("\n") if places else ():
            assert any(place in line for place in places), line
        return None


def check_recipe(recipe: Recipe, folder: Path) -> None:
    """A recipe that was taken can be frozen and read back, resolved again from what it differs in, and planned."""
    assert read_resolved(write(folder / "frozen.yaml", resolved_yaml(recipe))) == recipe
    changes = as_overrides(settings_of(recipe))
    assert load_recipe(recipe.source, recipe.profile, changes, recipe.seed) == recipe
    cells = result_or_mistake(lambda: [Cell("arm", recipe, lineage(recipe))])
    if cells:
        json.dumps(result_or_mistake(lambda: plan(cells, "all", folder / "runs")))


def try_recipe(tree: Any, folder: Path) -> None:
    file = write(folder / "any.yaml", tree)
    if recipe := result_or_mistake(lambda: load_recipe(file), "any.yaml:"):
        check_recipe(recipe, folder)


def try_profile(tree: Any, folder: Path) -> None:
    file = write(folder / "any.yaml", tree)
    recipe = write(folder / "recipe.yaml", "stages: {stage1: {data: {task: kvr}, mix: {passages: {ratio: 1}}}}")
    if resolved := result_or_mistake(lambda: load_recipe(recipe, str(file)), "any.yaml", "recipe.yaml:"):
        check_recipe(resolved, folder)


def try_overrides(overrides: list[str], folder: Path) -> None:
    if recipe := result_or_mistake(lambda: load_recipe("kvr", "tiny", overrides), "override", "kvr.yaml:"):
        check_recipe(recipe, folder)


def try_sweep(tree: Any, folder: Path) -> None:
    write(folder / "recipe.yaml", "stages: {stage1: {data: {task: kvr, size: 50}}}")
    write(folder / "sweep.yaml", "recipe: recipe.yaml\narms: {base: {}}")
    file = write(folder / "any.yaml", tree)
    if swept := result_or_mistake(lambda: load_sweep(str(file)), "any.yaml", "recipe.yaml:", "sweep.yaml"):
        result_or_mistake(lambda: plan(swept[1], swept[0].keep, folder / "runs"))


def try_yaml(text: str, folder: Path) -> None:
    value = result_or_mistake(lambda: load_value(text, "here"), "here")
    json.dumps(value, allow_nan=False).encode()
    file = write(folder / "any.yaml", text)
    result_or_mistake(lambda: load_sweep(str(file)))
    result_or_mistake(lambda: read_resolved(file))
    if recipe := result_or_mistake(lambda: load_recipe(file)):
        check_recipe(recipe, folder)


def try_training(case: tuple[dict[str, Any], dict[str, Any], dict[str, Any]], folder: Path) -> None:
    """What a library refuses of the settings that were taken, it refuses before a model is loaded, and as BadInput."""
    train, lora, quantized = case
    given = [("train", train, "train"), ("adapter", lora, "adapter"), ("quantization", quantized, "quantization")]
    recipe = result_or_mistake(lambda: load_recipe("kvr", settings=given), *(name for name, _, _ in given))
    if recipe:
        result_or_mistake(lambda: sft_config(recipe, recipe.stages["stage1"], folder / "work", 1, use_cpu=True))
        result_or_mistake(lambda: adapter.peft_config(recipe.adapter))
        result_or_mistake(lambda: adapter.quantization(recipe))


def try_pairs(case: tuple[str, str], folder: Path, tokenizer: Any) -> None:
    file = write(folder / f"any.{case[0]}", case[1])
    if rows := result_or_mistake(lambda: tasks.read_task(load_task("pairs", [f"path={file}"]), 0), "any."):
        examples, _ = encode_all(tokenizer, rows.pairs, None)
        special = set(tokenizer.all_special_ids)
        assert all(len(special.intersection(example.input_ids)) == 2 for example in examples if example)


def try_accelerate(tree: Any, folder: Path) -> None:
    file = write(folder / "any.yaml", tree)
    recipe = load_recipe("kvr", overrides=[f"accelerate_config={file}"])
    result_or_mistake(lambda: devices.command(recipe, ["x"]), "any.yaml")
    result_or_mistake(lambda: plan([Cell("arm", recipe, lineage(recipe))], "all", folder / "runs"), "any.yaml")


def try_cluster(tree: Any, folder: Path) -> None:
    file = write(folder / "any.yaml", tree)
    flags, setup = result_or_mistake(lambda: read_options(file), "any.yaml") or ([], "")
    assert all(flag.startswith("--") for flag in flags)
    assert isinstance(setup, str)


def try_arguments(arguments: list[str], folder: Path, here: Callable[..., Any]) -> None:
    if any("\0" in argument or argument == "-" for argument in arguments):
        return
    done = here(*arguments, check=False, folder=folder)
    assert done.returncode in (0, 1, 2), done
    assert not (folder / "runs" / "errors").exists(), done.stderr  # where a traceback is written


KINDS: dict[str, tuple[Callable[..., None], st.SearchStrategy[Any], int]] = {  # and how many of 10,000
    "recipe": (try_recipe, strategies.RECIPE | strategies.TEXT, 1500),
    "profile": (try_profile, strategies.PROFILE | strategies.TEXT, 800),
    "override": (try_overrides, strategies.OVERRIDES, 1500),
    "sweep": (try_sweep, strategies.SWEEP | strategies.TEXT, 1500),
    "yaml": (try_yaml, strategies.YAML_TEXT, 1200),
    "training": (try_training, strategies.TRAINING, 800),
    "pairs": (try_pairs, strategies.PAIRS, 1000),
    "accelerate": (try_accelerate, strategies.spoilt(strategies.LAUNCH) | strategies.YAML_TEXT, 500),
    "cluster": (try_cluster, strategies.spoilt(strategies.CLUSTER) | strategies.YAML_TEXT, 500),
    "arguments": (try_arguments, strategies.ARGUMENTS, 500),
}


@contextmanager
def bounded() -> Iterator[None]:
    """In it, the process gets no more than BYTES of memory beyond what it has, and SECONDS of a processor."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + BYTES, before[1]))
    started = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - started < SECONDS


def fuzz(attempt: Callable[[Any], None], cases: st.SearchStrategy[Any], number: int, seeded: bool) -> None:
    """Try so many cases: the same ones each time if they are seeded."""

    slowly = {"deadline": None, "suppress_health_check": list(HealthCheck)}

    @settings(max_examples=number, database=None, derandomize=seeded, **slowly)
    @given(cases)
    def run(case: Any) -> None:
        with bounded():
            attempt(case)

    run()


@pytest.fixture
def attempts(
    tmp_path: Path, tokenizer, here, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Callable[[Any], None]]:
    """What a kind's cases are tried on, in an empty folder: a case may name the folder it is in."""
    monkeypatch.chdir(tmp_path)
    more = {"pairs": {"tokenizer": tokenizer}, "arguments": {"here": here}}
    return lambda kind: lambda case: KINDS[kind][0](case, tmp_path, **more.get(kind, {}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_of_each(attempts, kind: str) -> None:
    fuzz(attempts(kind), KINDS[kind][1], KINDS[kind][2] // 40, seeded=True)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_each(attempts, kind: str) -> None:
    fuzz(attempts(kind), KINDS[kind][1], KINDS[kind][2], seeded=False)


# --- the records of a store --------------------------------------------------------------------------------------


@pytest.fixture
def small_store(trained, tmp_path: Path) -> Path:
    """The trained store without its weights, and a sweep in it."""
    runs = tmp_path / "runs"
    shutil.copytree(trained.runs, runs, ignore=shutil.ignore_patterns("*.lock", "logs"))
    for folder in store.published_stages(runs).values():
        store.delete_weights(folder)
    job = JobState(kind="train", name="stage1", runs=["a"], needs=set(), loads=set())
    command = Command(sweep="demo", profile=None, seeds=[0], overrides=[])
    state = SweepState(id="demo", command=command, keep="all", launcher="local", jobs={"0" * 16: job})
    (runs / "sweeps" / "demo").mkdir(parents=True)
    state.save(runs / "sweeps" / "demo")
    return runs


def spoilt_record(text: str) -> st.SearchStrategy[str]:
    """A record's text with its pieces in disorder, or with other values in it."""
    cases = strategies.damaged(st.just(text))
    with suppress(ValueError):  # rows, of which only the text is damaged
        cases |= strategies.spoilt(st.just(json.loads(text))).map(json.dumps)
    return cases


def try_records(runs: Path, number: int, seeded: bool) -> None:
    files = sorted(file for file in runs.rglob("*.json*") if "data" not in file.parts)
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    [stage, *_] = store.published_stages(runs).values()

    def attempt(case: tuple[Path, str]) -> None:
        file, text = case
        write(file, text)
        try:
            for read in (
                lambda: load_frame(runs, warn=lambda warning: None),
                lambda: results(runs),
                lambda: store.find_damage(stage, True),
                lambda: store.records(runs),
                lambda: load_state(runs / "sweeps/demo"),
            ):
                result_or_mistake(read)
        finally:
            write(file, texts[file])

    cases = st.sampled_from(files).flatmap(lambda file: st.tuples(st.just(file), spoilt_record(texts[file])))
    fuzz(attempt, cases, number, seeded)


def test_a_few_records(small_store: Path) -> None:
    try_records(small_store, 25, seeded=True)


@pytest.mark.faults
def test_a_thousand_records(small_store: Path) -> None:
    try_records(small_store, 1000, seeded=False)
