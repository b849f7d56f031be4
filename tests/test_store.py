"""Lineage keys, and a store in which a stage is complete or absent."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from trained_store import KVR, TrainedStore

from remix_toolkit import store
from remix_toolkit.data.files import sha256
from remix_toolkit.disk import file_lock
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.measurements import measured
from remix_toolkit.graph import prune
from remix_toolkit.graph.lineage import lineage, run_record
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.records import Manifest, Pruned, seal
from remix_toolkit.report.frame import load


def keys(*overrides: str, seed: int = 0, recipe: Path = KVR) -> list[str]:
    return [node.key for node in lineage(load_recipe(recipe, "tiny", list(overrides), seed))]


def test_a_stage_has_one_key_whatever_the_recipe_is_called(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(KVR.read_text(encoding="utf-8").replace("stage1", "first"), encoding="utf-8")
    assert keys(recipe=other) == keys() == keys()


@pytest.mark.parametrize(
    ("override", "shares"),
    [
        ("stages.stage2.train.learning_rate=1e-5", 1),  # stage1 is shared, stage2 is not
        ("stages.stage2.mix={replay: {stage: stage1, ratio: 0.1}}", 1),
        ("stages.stage1.mix={random_words: {ratio: 2}}", 0),
        ("stages.stage1.stop={loss_below: 1e-4}", 0),
        ("stages.stage1.data.size=99", 0),
        ("precision=bf16", 0),
        ("train.adam_beta2=0.999", 0),
        ("train.save_steps=7", 2),  # how, not what
        ("stages.stage1.recall=[{task: kvr, start: 500}]", 2),  # what is measured
    ],
)
def test_whose_key_a_change_is_in(override: str, shares: int) -> None:
    assert sum(a == b for a, b in zip(keys(), keys(override), strict=True)) == shares
    assert keys(seed=1)[0] != keys(seed=0)[0]


def test_a_local_file_counts_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,response\nx,1\n", encoding="utf-8")
    shutil.copy(tmp_path / "a.csv", tmp_path / "b.csv")
    of = lambda name: keys(f"stages.stage1.data={{task: pairs, path: {tmp_path / name}}}")[0]  # noqa: E731
    before = of("a.csv")
    assert of("b.csv") == before
    (tmp_path / "a.csv").write_text("prompt,response\nx,2\n", encoding="utf-8")
    assert of("a.csv") != before
    assert of("none.csv") not in (before, of("a.csv"))  # provisional: whoever reads the data refuses the missing file


KEY = "0123456789abcdef"


def published(trained: TrainedStore, runs: Path, lists: str = "A", weights: str = "weights", recipe: str = "r") -> Path:
    """A published stage, with recall of some lists if it had none."""
    files = {"model.safetensors": weights}
    folder = trained.publish(runs, "stage1", KEY, f"{recipe}-stage1-seed0", files, sweep=recipe)
    if not (folder / "recall.json").exists():
        trained.recall({name: [1] for name in lists}).write(folder / "recall.json")
    return folder


def test_publication_is_complete_and_checked(trained, tmp_path: Path) -> None:
    folder = published(trained, tmp_path)
    assert store.find_stage(tmp_path, KEY) == folder
    assert not list(store.work_dir(tmp_path, KEY).iterdir())
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert manifest["model.safetensors"]["sha256"] == sha256(folder / "model.safetensors")
    store.verify(folder)
    (folder / "model.safetensors").write_bytes(b"weighty")  # the same size
    with pytest.raises(BadInput, match=r"model\.safetensors is not the file that was published"):
        store.verify(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"model\.safetensors is missing; `remix store verify --remove`"):
        store.find_stage(tmp_path, KEY)


def test_a_directory_of_ones_own_is_no_stage(trained, tmp_path: Path) -> None:
    folder = published(trained, tmp_path)
    for name in ("mine", "my-merged-model", "r-stage1-seed0-backup"):
        (tmp_path / "stages" / name).mkdir()
    assert store.published_stages(tmp_path) == {KEY: folder}


def test_weights_are_deleted_once_by_whoever_comes_first(trained, tmp_path: Path) -> None:
    folder = published(trained, tmp_path)
    for _ in range(2):
        store.delete_weights(folder)
        assert Pruned.read(folder / "pruned.json").weights == ["model.safetensors"]
        store.verify(folder)
    assert store.find_stage(tmp_path, KEY) == folder


def test_a_stage_trained_again_takes_the_place_of_one_without_weights(trained, tmp_path, capsys) -> None:
    folder = published(trained, tmp_path, "AX")
    store.delete_weights(folder)
    again = published(trained, tmp_path, "B", weights="changed", recipe="another")
    assert list((tmp_path / "stages").iterdir()) == [again]  # found by its key, whatever the name
    assert not store.is_pruned(again)
    store.verify(again)
    assert store.trained_for(again) == "another"
    assert measured(again) == {"recall B"}  # what was measured of other weights would not be these weights'
    assert "measured again" in capsys.readouterr().out


def test_an_older_store_is_refused_in_one_line(trained, here, tmp_path: Path) -> None:
    folder = published(trained, tmp_path)
    (tmp_path / "store.json").unlink()
    for read in (store.open_store, store.records, load):
        with pytest.raises(BadInput, match=r"written by an earlier version of this toolkit") as refused:
            read(tmp_path)
        assert "\n" not in str(refused.value)
    (tmp_path / "store.json").write_text('{"version": 9}', encoding="utf-8")
    with pytest.raises(BadInput, match=r"store\.json: has format version 9; this toolkit reads version 4"):
        store.open_store(tmp_path)
    checked = here("store", "verify", "--remove", "--runs", tmp_path, check=False)
    assert (checked.returncode, "has format version 9" in checked.stderr) == (2, True)  # and nothing is removed
    assert (folder / "recall.json").exists()


STORES = Path(__file__).with_name("stores")  # one of each version, of one stage whose weights were deleted
READING = (["show"], ["results"], ["store", "list"], ["store", "verify", "--remove"], ["store", "prune"])


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_store_of_an_earlier_version_is_refused_in_one_line(here, tmp_path: Path, version: int) -> None:
    runs = shutil.copytree(STORES / f"version-{version}", tmp_path / "runs")
    before = {file: file.read_bytes() for file in runs.rglob("*.json")}
    for line in (*READING, ["plan", str(KVR)], ["run", str(KVR)], ["sweep", str(KVR)]):
        done = here(*line, "--runs", runs, check=False)
        assert (done.returncode, done.stdout) == (2, ""), line
        assert re.fullmatch(r"error: .*store\.json: .*; use another --runs \(or RUNS=\).*\n", done.stderr), done.stderr
    assert {file: file.read_bytes() for file in runs.rglob("*.json")} == before


def test_a_store_of_this_version_opens(here, tmp_path: Path) -> None:
    """Its manifest and its record are of before they had checksums of themselves."""
    runs = shutil.copytree(STORES / "version-4", tmp_path / "runs")
    assert not any("checksum" in file.read_text(encoding="utf-8") for file in runs.rglob("manifest.json"))
    for line in (*READING, ["show", "--json"]):
        shown = here(*line, "--runs", runs)
        assert shown.stderr == "", line
    (entry,) = json.loads(shown.stdout)
    assert (entry["recall"], entry["facts"], entry["key"]) == (0.0, 8, "063a8c9adc3444d1")
    (runs / "store.json").unlink()
    asked = here("show", "--runs", runs, check=False)
    assert (asked.returncode, 'a store of this version has {"version": 4} there' in asked.stderr) == (2, True)


def test_what_was_half_written_an_hour_ago_is_deleted(here, tmp_path: Path) -> None:
    runs = store.open_store(tmp_path / "runs")
    old = [f"{place}/x.json.1.partial" for place in ("records", "sweeps/s", "sweeps/s/jobs/k", "familiar/f")]
    for name in (*old, "records/y.json.2.partial"):
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        (runs / name).write_text("{")
    for name in old:
        os.utime(runs / name, (0, 0))
    dry = here("store", "prune", "--dry-run", "--runs", runs).stdout
    assert [name for name in old if name in dry] == old
    assert "y.json" not in dry
    prune.delete_left_behind(runs)
    assert [file.name for file in runs.rglob("*.partial")] == ["y.json.2.partial"]


def test_a_directory_in_place_of_a_lock_makes_room(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with file_lock(tmp_path / "lock"):
        assert (tmp_path / "lock").is_file()
    (tmp_path / "full" / "file").mkdir(parents=True)
    with pytest.raises(BadInput, match="full: is a directory with files in it"):
        file_lock(tmp_path / "full")


def test_an_unusable_runs_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="cannot be used as the runs directory"):
        store.open_store(tmp_path / "file")


def test_a_longer_run_takes_the_place_of_its_beginning(tmp_path: Path) -> None:
    store.open_store(tmp_path)
    recipe = load_recipe(KVR)
    nodes = lineage(recipe)
    for part in (nodes[:1], nodes, nodes[:1]):
        store.record_runs(tmp_path, [run_record(recipe, part, "kvr")])
    (record,) = store.records(tmp_path)
    assert [stage.stage for stage in record.stages] == ["stage1", "stage2"]
    changed = ["stages.stage2.train.learning_rate=1e-5"]  # the same stage1, another stage2: another run
    other = load_recipe(KVR, overrides=changed)
    for part in (lineage(other)[:1], lineage(other)):
        store.record_runs(tmp_path, [run_record(other, part, "kvr")])
    edited = load_recipe(KVR, overrides=["stages.stage2.data.size=50"])
    for part in (lineage(edited)[:1], lineage(edited)):
        store.record_runs(tmp_path, [run_record(edited, part, "kvr")])
    found = {record.keys[-1]: (record.settings, len(record.stages)) for record in store.records(tmp_path)}
    assert found == {
        nodes[-1].key: ({}, 2),
        lineage(other)[-1].key: ({"stages.stage2.train.learning_rate": 1e-5}, 2),
        lineage(edited)[-1].key: ({"stages.stage2.data.size": 50}, 2),
    }


def test_two_spellings_of_one_change_are_one_run(tmp_path: Path) -> None:
    store.open_store(tmp_path)
    whole = "stages.stage1.mix={random_words: {ratio: 2}}"
    for override in (
        whole,
        "stages.stage1.mix.random_words.ratio=2.0",
        "stages.stage1.mix={random_words: {ratio: 2.0}}",
    ):
        recipe = load_recipe(KVR, overrides=[override])
        store.record_runs(tmp_path, [run_record(recipe, lineage(recipe), "kvr")])
    (record,) = store.records(tmp_path)
    assert record.settings == {"stages.stage1.mix.random_words": {"ratio": 2.0}}


def test_two_lists_of_one_task_are_told_apart(
    trained,
) -> None:
    recipe = load_recipe(KVR, overrides=["stages.stage2.data={task: kvr, size: 100, start: 100}"])
    second = run_record(recipe, lineage(recipe), "kvr").stages[1]
    assert sorted(listed.label for listed in second.lists.values()) == ["kvr of stage1", "kvr of stage2"]
    assert second.lists[second.trained].label == "kvr of stage2"


def test_two_files_of_ones_own_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"prompt,response\n{name},1\n", encoding="utf-8")
    own = [f"stages.stage{i}.data={{task: pairs, path: {tmp_path / name}.csv}}" for i, name in ((1, "a"), (2, "b"))]
    also = f"stages.stage2.recall=[{{task: pairs, path: {tmp_path / 'b.csv'}, size: 1}}]"
    recipe = load_recipe(KVR, overrides=[*own, also])
    second = run_record(recipe, lineage(recipe), "kvr").stages[1]
    labels = [listed.label for listed in second.lists.values()]
    assert labels == ["pairs of stage1", "pairs of stage2", "pairs[0:1] of b.csv"]


def test_runs_of_the_same_weights_are_one_run(trained, tmp_path: Path) -> None:
    """An override that is in no key (how often a checkpoint is saved) makes no other model, under whatever seed."""
    known = {"stage1": {"kvr": [1, 1]}, "stage2": {"kvr": [1, 0], "webqa": [1]}}
    for seed in (0, 1):
        trained.write_run(tmp_path, "none", seed, known)
    record = next(record for record in store.records(tmp_path) if record.seed == 0)
    fewer = [stage.model_copy(update={"lists": dict(list(stage.lists.items())[:1])}) for stage in record.stages]
    changed = {"train.save_strategy": "no"}
    again = record.model_copy(update={"stages": fewer, "settings": changed, "overrides": changed})
    store.record_runs(tmp_path, [again])
    measured = load(tmp_path).measured
    assert measured["overrides"].tolist() == [()] * 6  # they determine no weights; lama, asked by one record, is there
    assert measured.loc[measured["seed"] == 0, "settings"].tolist() == [changed] * 3


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("held_out.json", '{"rows": 8', "held_out.json: cannot be read (Invalid JSON"),
        ("held_out.json", '{"version": 3, "rows": 8}', "held_out.json: results: Field required"),
        ("recall.json", "[]", "recall.json: the file: Input should be"),
        ("recall.json", ("recall", "null"), "recall: Input should be a valid number"),
        ("recall.json", ("recall", "NaN"), "recall: Input should be a finite number"),
        (
            "recall.json",
            ("recall", "101"),
            "recall: Input should be less than or equal to 100",
        ),
        ("recall.json", ("facts", '"2"'), "facts: Input should be a valid integer"),
        ("recall.json", ("version", "7"), "recall.json: has format version 7; this toolkit reads version 3"),
        ("stage.json", ("counts", "null"), "stage.json: counts: Input should be"),
        ("stage.json", ("libraries", "null"), "stage.json: libraries: Input should be"),
        ("stage.json", ("seconds", "NaN"), "stage.json: seconds: Input should be a finite number"),
        ("stage.json", ("steps", '4, "more": 1'), "stage.json: more: Extra inputs are not permitted"),
        ("stage.json", '{"key": "k", "steps": 4}', "stage.json: has format version none; this toolkit reads version 2"),
        ("manifest.json", "[]", "manifest.json: "),
    ],
)
def test_a_damaged_stage_is_left_out_and_said(trained, tmp_path: Path, file: str, text: str | tuple, said: str) -> None:
    """The text of the file, or one of its fields and what is written there."""
    damaged = trained.write_run(
        tmp_path, "none", 0, {"stage1": {"kvr": [1, 1]}, "stage2": {"kvr": [1, 0], "webqa": [1]}}
    )["stage2"]
    if isinstance(text, tuple):
        field, value = text
        whole = (damaged / file).read_text(encoding="utf-8")
        text = re.sub(
            rf'^( +"{field}": )(\{{.*?\n \}}|[^,\n]+)', rf"\g<1>{value}", whole, flags=re.DOTALL | re.MULTILINE
        )
        assert text != whole
    (damaged / file).write_text(text, encoding="utf-8")
    if file == "stage.json":  # it is sealed: as if it had been published so
        sealed = Manifest.read(damaged / "manifest.json").files | {file: seal(text.encode())}
        Manifest(files=sealed).write(damaged / "manifest.json")
    warnings: list[str] = []
    assert set(load(tmp_path, warn=warnings.append).measured["stage"]) == {"stage1"}
    (warning,) = warnings
    assert said in warning


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null", '{"stages": [{"stage": "stage1"}]}'])
def test_a_damaged_record_is_left_out_but_never_where_something_is_deleted(trained, tmp_path: Path, text: str) -> None:
    trained.write_run(tmp_path, "none", 0, {"stage1": {"kvr": [1, 1]}})
    (tmp_path / "records" / "cut.json").write_text(text, encoding="utf-8")
    warnings: list[str] = []
    assert len(load(tmp_path, warn=warnings.append).measured) == 1
    assert ["cut.json: " in warning for warning in warnings] == [True]
    trained.write_run(tmp_path, "none", 1, {"stage1": {"kvr": [1, 1]}})  # it does not keep others from being recorded
    assert len(load(tmp_path, warn=warnings.append).measured) == 2
    with pytest.raises(BadInput, match=r"cut\.json: "):
        store.records(tmp_path)
