"""Nothing is loaded that is not what was published: checksums before weights, and no name that leaves its folder."""

import ast
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from remix_toolkit import seals, store
from remix_toolkit.data import files
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.measurements import damaged
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.records import FileSeal, Manifest
from remix_toolkit.stage import familiar

KEY = "0123456789abcdef"


@pytest.fixture
def copy(trained, tmp_path: Path) -> Path:
    """A folder with a copy of the trained store, in which its recipe can be run."""
    return shutil.copytree(trained.folder, tmp_path / "copy")


def overwrite(file: Path) -> None:
    """Other bytes in the middle of a file, of which nothing but its checksum tells: the model can still be loaded."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(4096)
    file.write_bytes(content)


def stages_of(folder: Path) -> tuple[Path, Path]:
    first, second = sorted((folder / "runs" / "stages").iterdir())
    return first, second


def refused(done, *said: str) -> None:
    """Exit code 2, and one line for people."""
    assert done.returncode == 2, done.stdout + done.stderr
    line = done.stderr.strip().splitlines()[-1]
    for text in (*said, "`remix store verify --remove` removes it"):
        assert text in line, done.stderr
    assert "Traceback" not in done.stderr


DAMAGED = "model.safetensors is not the file that was published"


def test_a_damaged_stage_is_measured_by_nobody(here, copy: Path) -> None:
    first, second = stages_of(copy)
    for folder in (first, second):
        overwrite(folder / "model.safetensors")
    for name in ("recall.json", "recall.jsonl"):
        (first / name).unlink()
    refused(here("run", "trained", "--stage", "stage1", check=False, folder=copy), first.name, DAMAGED)
    assert not (first / "recall.json").exists()
    more = "stages.stage2.recall=[{task: invented_facts, size: 6}]"
    before = (second / "recall.json").read_bytes()
    refused(here("run", "trained", more, check=False, folder=copy), first.name, DAMAGED)
    only = "stages.stage1.recall=[{task: invented_facts, size: 6}]"
    refused(here("run", "trained", "--stage", "stage1", only, check=False, folder=copy), first.name, DAMAGED)
    assert (second / "recall.json").read_bytes() == before
    sound = next(store.published_bases(copy / "runs").__iter__())
    for line in (
        ("recall", second, "--task", "kvr", "size=4"),
        ("probe", "lens", second, "--task", "kvr", "size=4"),
        ("probe", "interference", second, "--a", "kvr size=4", "--b", "invented_facts size=4"),
        ("probe", "interference", sound, "--a", "kvr size=4", "--b", "invented_facts size=4", "--after", second),
    ):
        refused(here(*line, check=False), second.name, DAMAGED)


def test_a_damaged_stage_has_no_child_and_is_no_base(here, copy: Path) -> None:
    first, second = stages_of(copy)
    shutil.rmtree(second)
    overwrite(first / "tokenizer.json")
    refused(here("run", "trained", check=False, folder=copy), first.name, "tokenizer.json is not the file")
    assert not second.exists()
    recipe = load_recipe(copy / "trained.yaml", "tiny", ["base_stage=stage1"])
    asked = recipe.stages["stage1"].data.model_copy(update={"familiarity": "familiar", "size": 2})
    with pytest.raises(BadInput, match=r"tokenizer\.json is not the file"):
        familiar.split(recipe, asked, copy / "runs")
    assert not list((copy / "runs" / "familiar").glob("*/verdicts.jsonl"))


def test_a_copy_of_a_stage_is_verified_too(here, trained, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(trained.stages[0], tmp_path / "mine")
    line = ("recall", elsewhere, "--task", "kvr", "size=4")
    here(*line)
    overwrite(elsewhere / "model.safetensors")
    refused(here(*line, check=False), DAMAGED)
    (elsewhere / "manifest.json").unlink()
    refused(here(*line, check=False), "manifest.json: cannot be read")


def test_models_are_loaded_through_one_function() -> None:
    """The one that verifies them; a GGUF file, which data/gguf.py reads, is no model of a store yet."""
    package = ROOT / "remix_toolkit"
    loading = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Model.from_pretrained"))
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == "AutoModelForCausalLM.from_pretrained")
    }
    assert loading == {"stage/train.py", "data/gguf.py"}


def test_the_tiny_base_is_sealed_and_verified_before_it_is_used(here, copy: Path) -> None:
    (base,) = store.published_bases(copy / "runs")
    assert Manifest.read(base / "manifest.json").files.keys() >= {"model.safetensors", "tokenizer.json", "config.json"}
    shutil.rmtree(copy / "runs" / "stages")
    good = (base / "model.safetensors").read_bytes()
    overwrite(base / "model.safetensors")
    line = ("run", "trained", "--stage", "stage1")
    refused(here(*line, check=False, folder=copy), base.name, DAMAGED)
    refused(here("recall", base, "--task", "kvr", "size=4", check=False), base.name, DAMAGED)
    assert not (copy / "runs" / "stages").exists() or not list((copy / "runs" / "stages").iterdir())
    (copy / "runs" / "stages").mkdir(exist_ok=True)
    checked = here("store", "verify", check=False, folder=copy)
    assert (checked.returncode, "1 of 2 stages, bases" in checked.stdout) == (1, True), checked.stdout
    assert f"{base.name}: {DAMAGED}" in checked.stdout
    assert here("store", "verify", "--remove", check=False, folder=copy).returncode == 1
    assert not base.exists()
    assert store.base_model(load_recipe("kvr"), copy / "runs") == (str(base), None)
    assert (base / "model.safetensors").read_bytes() == good


def test_a_file_is_read_once_for_its_checksum_until_it_changes(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    os.utime(file, ns=(10**18, 10**18))
    one, real, read = files.sha256(file), files.hashlib.file_digest, list[str]()
    monkeypatch.setattr(files.hashlib, "file_digest", lambda s, kind: read.append(s.name) or real(s, kind))
    file = file.rename(tmp_path / "published")  # as a draft is
    assert (files.sha256(file), read) == (one, [])
    file.write_bytes(b"two")
    os.utime(file, ns=(10**18, 10**18 + 1))
    assert files.sha256(file) != one
    file.write_bytes(b"new")  # within one tick of the clock, perhaps
    new = files.sha256(file)
    file.write_bytes(b"old")
    assert files.sha256(file) != new


OUTSIDE = [
    "../../../outside/x.safetensors",
    "/outside/x.safetensors",
    "data/../../x.safetensors",
    "..",
    ".",
    "",
    "a\\b",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_of_its_folder_is_refused(trained, here, copy: Path, name: str) -> None:
    first, _ = stages_of(copy)
    outside = copy / "outside" / "x.safetensors"
    outside.parent.mkdir()
    outside.write_text("not yours")
    name = name.replace("/outside", str(outside.parent)) if name.startswith("/") else name
    manifest = json.loads((first / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = {"bytes": 9, "sha256": files.sha256(outside)}
    (first / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "leads out of the folder" in str(seals.find_damage(first, checksums=True))
    pruned = here("store", "prune", "--keep", "none", check=False, folder=copy)
    assert (pruned.returncode, "leads out of the folder" in pruned.stderr) == (0, True)
    assert outside.read_text() == "not yours"
    assert (first / "model.safetensors").exists()
    refused(here("recall", first, "--task", "kvr", "size=4", check=False), "leads out of the folder")


def test_links_out_of_the_store_are_no_stages(trained, here, tmp_path: Path) -> None:
    runs, theirs = tmp_path / "runs", tmp_path / "theirs"
    files_ = {"model.safetensors": "weights"}
    folder = trained.publish(runs, "stage1", KEY, "r-stage1-seed0", files_)
    shutil.move(folder, theirs)
    folder.symlink_to(theirs)
    assert store.published_stages(runs) == {}
    assert store.find_stage(runs, KEY) is None
    again = trained.publish(runs, "stage1", KEY, "r-stage1-seed0", files_)
    assert (again, again.is_symlink(), store.published_stages(runs)) == (folder, False, {KEY: folder})
    assert (theirs / "model.safetensors").read_text() == "weights"
    (tmp_path / "elsewhere").symlink_to(runs)  # a store behind a link is one
    assert store.published_stages(tmp_path / "elsewhere").keys() == {KEY}


def test_a_folder_in_a_stage_that_is_a_link_is_not_followed(trained, tmp_path: Path) -> None:
    runs, theirs = tmp_path / "runs", tmp_path / "theirs"
    folder = trained.publish(runs, "stage1", KEY, "r-stage1-seed0", {})
    theirs.mkdir()
    (theirs / "x.safetensors").write_text("not yours")
    seals = Manifest.read(folder / "manifest.json").files
    Manifest(files={**seals, "data/x.safetensors": seals["model.safetensors"]}).write(folder / "manifest.json")
    (folder / "data").symlink_to(theirs)
    delete: Callable[[Path], object] = store.delete_weights
    for touch in (delete, store.verify):
        with pytest.raises(BadInput, match="data is a link that leads out of the folder"):
            touch(folder)
    assert (theirs / "x.safetensors").read_text() == "not yours"
    assert not store.is_pruned(folder)


def test_recall_is_what_it_was_when_nothing_is_damaged(trained, here, copy: Path) -> None:
    """Verified, measured again, and the same to the byte."""
    first, _ = stages_of(copy)
    (first / "recall.json").unlink()
    here("run", "trained", "--stage", "stage1", folder=copy)
    assert Recall().read(first) == Recall().read(trained.stages[0])


# --- measurements: sealed, in range, and what their rows give -------------------------------------------------------


def cut_line(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").split("\n")
    file.write_text("\n".join([*lines[:-2], ""]), encoding="utf-8")


def change(old: str, new: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    return write


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


DAMAGES = [  # to files of the two stages; what is said of each; is it what `show` leaves the stage out for?
    [
        ("stage1", "recall.json", change('"facts": 40', '"facts": 41'), "recall.json: results", True),
        ("stage1", "perplexity.json", truncate, "perplexity.json: cannot be read", False),
        ("stage2", "recall.jsonl", cut_line, "recall.jsonl: is missing, or shorter than what was measured", True),
        ("stage2", "held_out.json", change('"loss": ', '"loss": 1'), "held_out.json: is not the file that was", False),
    ],
    [
        ("stage1", "recall.jsonl", Path.unlink, "recall.jsonl: is missing, or shorter", True),
        ("stage1", "lens.json", change('"never": ', '"never": 950'), "lens.json: results", False),
        ("stage2", "recall.jsonl", change("The value", "the value"), "recall.jsonl: is not the file that was", False),
        ("stage2", "interference.json", change('"parts": ', '"parts": 1'), "interference.json: is not the", False),
    ],
]


@pytest.mark.parametrize("damages", DAMAGES)
def test_a_damaged_measurement_is_named_and_measured_again_by_the_same_command(here, copy: Path, damages) -> None:
    by_name = dict(zip(("stage1", "stage2"), stages_of(copy), strict=True))
    good = {file: file.read_bytes() for folder in by_name.values() for file in folder.iterdir() if file.is_file()}
    assert here("store", "verify", folder=copy).returncode == 0
    for stage, name, damage, _, _ in damages:
        damage(by_name[stage] / name)
    checked = here("store", "verify", check=False, folder=copy)
    shown = here("show", check=False, folder=copy)
    again = here("run", "trained", folder=copy)
    for stage, name, _, said, in_show in damages:
        assert f"{by_name[stage]}/{said}" in checked.stdout.replace("runs/", f"{copy}/runs/"), name
        assert (said in shown.stderr) == in_show, name
        assert again.stderr.count(said) == 1, name
    assert checked.returncode == 1
    assert {file: file.read_bytes() for file in good} == good
    assert here("store", "verify", folder=copy).returncode == 0


def test_a_damaged_measurement_is_compared_with_nothing(here, copy: Path) -> None:
    first, second = stages_of(copy)
    change('"prediction":"', '"prediction":"x')(second / "recall.jsonl")
    compared = here("compare", first, second, check=False, folder=copy)
    assert "recall.jsonl: is not the file that was written" in compared.stderr + compared.stdout
    before = {file.name for file in second.iterdir()}
    assert here("store", "verify", "--remove", check=False, folder=copy).returncode == 1
    assert before - {file.name for file in second.iterdir()} == {"recall.json", "recall.jsonl"}  # and no more
    assert here("store", "verify", folder=copy).returncode == 0


def test_what_is_sealed_must_also_be_what_its_rows_give(trained, copy: Path) -> None:
    _, second = stages_of(copy)
    seal = json.loads(trained.text("recall.json"))["rows"]
    results = Recall().read(second)
    id_, one = next((id_, one) for id_, one in results.items() if one.correct < one.facts)
    more = one.model_copy(update={"correct": one.correct + 1, "recall": 100 * (one.correct + 1) / one.facts})
    Recall().record(results | {id_: more}, FileSeal(**seal)).write(second / "recall.json")
    with pytest.raises(BadInput, match=rf"recall\.json: {id_}: {more.correct} of {one.facts} facts are correct, of"):
        Recall().verify(second)
    change('"recall": ', '"recall": 95')(second / "recall.json")  # 950 percent
    with pytest.raises(BadInput, match="less than or equal to 100"):
        Recall().read(second)


def test_rows_of_a_run_that_was_ended_count_for_nothing(trained, copy: Path) -> None:
    """Rows are written before their results."""
    first, _ = stages_of(copy)
    file = first / "recall.jsonl"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole + whole.partition("\n")[0] + '\n{"list": "cut o', encoding="utf-8")
    assert Recall().verify(first) == Recall().read(trained.stages[0])
    assert Recall().rows_text(first) == whole
    assert list(damaged(first)) == []
