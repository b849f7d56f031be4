"""The layout of the package: a room imports only rooms below it."""

import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from lines import ROOMS, room_of, upward_imports

PACKAGE = ROOT / "remix_toolkit"


def test_every_room_has_its_floor() -> None:
    rooms = {room_of(file, PACKAGE) for file in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms == set(ROOMS)


def test_no_import_runs_back_up() -> None:
    assert upward_imports(PACKAGE) == []
