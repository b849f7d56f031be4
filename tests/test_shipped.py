"""Recipes that come with the package: found from any folder, listed, copied; nothing is written into the package."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from remix_toolkit import __version__
from remix_toolkit.cli.recipes import copies_of, new
from remix_toolkit.errors import BadInput
from remix_toolkit.graph.sweep import is_sweep, load_sweep
from remix_toolkit.recipe import shipped
from remix_toolkit.recipe.load import find_recipe, load_base, load_mix, load_recipe
from remix_toolkit.recipe.yaml_file import load_mapping


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def resolved(name: str) -> list[dict]:
    """The recipe, or the recipes of a sweep's cells, on `tiny`, less where their files are."""
    sweep = is_sweep(name)
    recipes = [cell.recipe for cell in load_sweep(name, "tiny", [0])[1]] if sweep else [load_recipe(name)]
    dumps = [recipe.model_dump(exclude={"name", "source"}) for recipe in recipes]
    for stage in (stage for dump in dumps for stage in dump["stages"].values()):
        stage["data"].pop("path", None)
    return dumps


@pytest.mark.parametrize("name", ["kvr", "paper/table2", "recipes/paper/table2.yaml", "recipes/mine/../kvr.yaml"])
def test_a_shipped_recipe_is_found_from_any_folder(empty: Path, name: str) -> None:
    found = find_recipe(name)
    name = name.removeprefix("recipes/").removesuffix(".yaml").removeprefix("mine/../")
    assert found.resolve() == (ROOT / "recipes" / f"{name}.yaml").resolve()


def test_the_users_own_file_comes_first(empty: Path) -> None:
    Path("kvr.yaml").write_text("stages: {stage1: {data: {task: kvr, size: 50}}}")
    assert find_recipe("kvr") == Path("kvr.yaml")
    Path("recipes").mkdir()
    shutil.copy("kvr.yaml", "recipes")
    assert find_recipe("kvr") == Path("recipes/kvr.yaml")
    Path("kvr").write_text("a file of that very name")
    assert find_recipe("kvr") == Path("kvr")


@pytest.mark.parametrize(
    ("name", "near"), [("kvrr", "kvr"), ("paper/tabel2", "paper/table2"), ("recipes/ablations/replai.yaml", "replay")]
)
def test_an_unknown_recipe_is_answered_with_the_nearest(empty: Path, name: str, near: str) -> None:
    with pytest.raises(BadInput, match=f"{name}.*{near!r}"):
        find_recipe(name)


def test_keys_do_not_depend_on_the_folder(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> list[str]:
        names = ("kvr", "my_facts", "ablations/mixing_length")
        return [node.key for name in names for cell in load_sweep(name, "tiny")[1] for node in cell.nodes]

    away = keys()
    monkeypatch.chdir(ROOT)
    assert keys() == away


def test_an_accelerate_config_is_found_by_path_and_by_name(empty: Path) -> None:
    declared = load_recipe("kvr", "llama3-8b").accelerate_config
    assert declared
    assert Path(declared).is_file()
    assert Path(declared).name == "fsdp_4gpu.yaml"
    for name in ("one_gpu", "accelerate_configs/one_gpu.yaml"):
        config = load_recipe("kvr", overrides=[f"accelerate_config={name}"]).accelerate_config
        assert config == str(shipped.PACKAGE / "accelerate_configs" / "one_gpu.yaml")
    Path("accelerate_configs").mkdir()
    Path("accelerate_configs/one_gpu.yaml").write_text("num_processes: 1")
    assert load_recipe("kvr", overrides=["accelerate_config=one_gpu"]).accelerate_config == (
        "accelerate_configs/one_gpu.yaml"
    )


def test_every_shipped_file_says_what_it_shows(here) -> None:
    rows = json.loads(here("recipes", "--json").stdout)
    assert {row["name"] for row in rows} == {
        file.relative_to(ROOT / "recipes").with_suffix("").as_posix() for file in (ROOT / "recipes").rglob("*.yaml")
    } - {"paper/paper"}  # what the paper prints and claims
    for row in rows:
        assert row["about"]
        assert row["command"] == f"remix {'sweep' if is_sweep(row['path']) else 'run'} {row['name']}"
    assert all(row["name"] in here("recipes").stdout for row in rows)


@pytest.mark.parametrize("name", sorted(shipped.names().keys() - {"popqa_then"}))  # which reads files not shipped
def test_a_copy_is_the_same_recipe(empty: Path, name: str) -> None:
    """Of every recipe and sweep: copied with the files that it names, it trains the same stages."""
    expected = resolved(name)
    for file, content in copies_of(shipped.names()[name], Path("copy.yaml")).items():
        file.write_bytes(content)
    assert resolved("copy") == expected
    assert not any("recipes/" in line.partition("#")[0] for line in Path("copy.yaml").read_text().splitlines())


def test_new_copies_and_never_overwrites(empty: Path) -> None:
    new("my_facts", None)
    assert {file.name for file in empty.iterdir()} == {"my_facts.yaml", "my_facts.csv"}
    Path("my_facts.yaml").write_text("edited")
    with pytest.raises(BadInput, match=r"^my_facts\.yaml"):
        new("my_facts", None)
    assert Path("my_facts.yaml").read_text() == "edited"
    Path("other.csv").write_text("facts")
    with pytest.raises(BadInput, match=r"^other\.csv"):
        new("my_facts", Path("other.yaml"))
    assert not Path("other.yaml").exists()
    with pytest.raises(BadInput, match="'my_facts'"):
        new("my_fact", None)
    with pytest.raises(BadInput, match=r"facts\.txt"):
        new("my_facts", Path("facts.txt"))
    for sweep in ("ablations/replay", "ablations/lora"):  # both bring kvr.yaml
        new(sweep, None)
    new("my_facts", Path("folder/mine.yaml"))
    assert load_recipe("folder/mine.yaml").stages["stage1"].data.path == "folder/mine.csv"


@pytest.mark.parametrize("place", ["./mine/model.yaml", "mine/model.yaml", "{cwd}/mine/model.yaml"])
def test_a_profile_is_given_by_any_path(empty: Path, place: str) -> None:
    """For recipes, sweeps, and the commands that need only its base model and tokenizer."""
    Path("mine").mkdir()
    shutil.copy(shipped.PACKAGE / "recipe" / "profiles" / "tiny.yaml", "mine/model.yaml")
    profile = place.format(cwd=empty)
    assert load_base(profile).base == "tiny"
    assert load_recipe("kvr", profile).profile == profile
    assert load_mix("random_words", profile).random_words
    cells = load_sweep("ablations/replay", profile, overrides=["stages.stage2.data.task=invented_facts"])[1]
    assert {cell.recipe.profile for cell in cells} == {profile}


def test_the_citation_is_of_this_version() -> None:
    citation = load_mapping(ROOT / "CITATION.cff")[0]
    assert citation["version"] == __version__
    assert citation["license"] == "MIT"
