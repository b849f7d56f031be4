"""The layout of the package: a room imports only rooms below it."""

import ast
import sys
import tomllib
from importlib.util import find_spec

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from lines import ROOMS, room_of, upward_imports

PACKAGE = ROOT / "remix_toolkit"


def test_every_room_has_its_floor() -> None:
    rooms = {room_of(file, PACKAGE) for file in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms == set(ROOMS)


def test_no_import_runs_back_up() -> None:
    assert upward_imports(PACKAGE) == []


def test_private_names_of_libraries_are_used_in_one_file() -> None:
    """What may change without notice from one version to the next is gathered in stage/private_api.py."""
    ours = {"self", "cls"}
    used = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}"
        for file in PACKAGE.rglob("*.py")
        if file.name != "private_api.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not (isinstance(node.value, ast.Name) and node.value.id in ours)
        and not node.attr.startswith("__")
        and ast.unparse(node) != "os._exit"  # which is documented
    ]
    assert used == []


def test_benchmarks_import_only_what_exists() -> None:
    """mypy does not see it: it takes a module that it cannot find for a library without types."""
    modules = {
        name
        for file in (ROOT / "benchmarks").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert [name for name in sorted(modules) if find_spec(name.split(".")[0]) is None] == []


def test_the_lowest_versions_are_those_of_the_ranges() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    lowest = {line.replace("==", ">=") for line in lines if "==" in line}
    assert lowest == {dependency.partition(",")[0] for dependency in dependencies if "<" in dependency}
