"""The wheel, not the checkout: installed into a fresh environment, and used from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, SMALL

pytestmark = pytest.mark.slow
SOURCES = ("LICENSE", "README.md", "accelerate_configs", "pyproject.toml", "recipes", "remix_toolkit")
BUILD = "import setuptools.build_meta as build, sys; print(getattr(build, sys.argv[1])(sys.argv[2]))"


def outside_the_checkout() -> dict[str, str]:
    """The environment variables, less what would let Python see the checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def build(sources: Path, kind: str, into: Path) -> Path:
    """Build a `build_wheel` or `build_sdist`, as pip does, with the setuptools that is installed here."""
    into.mkdir(exist_ok=True)
    line = [sys.executable, "-c", BUILD, kind, str(into)]
    done = subprocess.run(line, cwd=sources, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built outside of the checkout."""
    sources = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        here = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        if here.is_dir():
            shutil.copytree(here, sources / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(here, sources)
    return build(sources, "build_wheel", sources / "dist")


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds the wheel.

    Its dependencies are those of the environment that runs the tests, seen through a .pth file: what is tested is that
    the wheel is whole, not that an index can be reached. The editable install there is not seen: a .pth file inside a
    folder that a .pth file names is not read.
    """
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(install, cwd=folder, env=outside_the_checkout(), check=True, timeout=120)
    (site_packages,) = folder.glob("lib/python3*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_and_the_sdist_hold_every_file_of_the_package(wheel: Path, tmp_path: Path) -> None:
    files = set(zipfile.ZipFile(wheel).namelist())
    for folder, above in (("recipes", ROOT), ("accelerate_configs", ROOT), ("remix_toolkit", ROOT / "remix_toolkit")):
        for file in (file for file in (ROOT / folder).rglob("*") if file.is_file() and file.suffix != ".pyc"):
            is_result = "results" in file.parent.parts  # the arena's are for the repository's docs
            assert (f"remix_toolkit/{file.relative_to(above)}" in files) != is_result, file
    sdist = build(wheel.parent.parent, "build_sdist", tmp_path)
    shutil.unpack_archive(sdist, tmp_path)
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert set(zipfile.ZipFile(build(unpacked, "build_wheel", tmp_path / "dist")).namelist()) == files


def test_the_installed_command_works_in_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    """And writes nothing into its own package, which may be read-only."""
    empty = tmp_path / "empty"
    empty.mkdir()
    variables = outside_the_checkout()
    variables |= {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}

    def run(*arguments: str, code: int = 0) -> str:
        line = [str(environment / "bin" / "remix"), *arguments]
        done = subprocess.run(line, cwd=empty, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, f"{line}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    (package,) = environment.glob("lib/python3*/site-packages/remix_toolkit")
    folders = [package, *(path for path in package.rglob("*") if path.is_dir())]
    shipped = {file: file.stat().st_mtime_ns for file in package.rglob("*")}
    for folder in folders:
        folder.chmod(0o555)
    assert "recipes" in run("--help")
    listed = json.loads(run("recipes", "--json"))
    assert all(Path(row["path"]).is_relative_to(package) for row in listed)
    run("new", "my_facts")
    assert {file.name for file in empty.iterdir()} == {"my_facts.yaml", "my_facts.csv"}
    assert "my_facts.yaml" in run("new", "my_facts", code=2)
    assert "my_facts.csv" in run("data", "my_facts")
    assert json.loads(run("plan", "paper/table2", "--json"))["runs"] == 486
    run("run", "kvr", "--stage", "stage1", *SMALL, "train.max_steps=2", "evaluate.text=my_facts.csv")
    (stage,) = (empty / "runs" / "stages").iterdir()
    assert (stage / "model.safetensors").is_file()
    assert {file: file.stat().st_mtime_ns for file in package.rglob("*")} == shipped  # root writes anywhere: look
    for folder in folders:
        folder.chmod(0o755)
