"""The main job with the network cut: in a network namespace of its own, which has no device that is up."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from conftest import ROOT, SMALL

CUT = ["unshare", "--user", "--map-root-user", "--net"]


@pytest.fixture(scope="module")
def cut_off() -> list[str]:
    """What a command line begins with to run without a network."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here (util-linux), to make a network namespace")
    tried = subprocess.run([*CUT, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this system makes no network namespace: {tried.stderr.strip()}")
    return CUT


@pytest.mark.slow
def test_a_stage_is_trained_and_measured_with_the_network_cut(cut_off: list[str], runs: Path) -> None:
    line = [*cut_off, sys.executable, "-m", "remix_toolkit", "run", "kvr", "--stage", "stage1", "--runs", runs, *SMALL]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = (runs / "stages").iterdir()
    assert {"model.safetensors", "recall.json", "manifest.json"} <= {file.name for file in folder.iterdir()}
    assert "retry" not in done.stderr.lower()  # it did not even try


def test_an_audit_says_that_it_cannot_reach_the_database(cut_off: list[str]) -> None:
    line = [*cut_off, "make", "audit", f"PYTHON={sys.executable}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "not audited" in done.stderr) == (0, True), done.stderr


def test_every_direct_dependency_has_a_licence_in_the_list() -> None:
    listed = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].strip("| *"): line for line in listed.splitlines() if line.startswith("| ")}
    names = [re.split(r"\W", line, maxsplit=1)[0] for line in requires("remix-toolkit") or [] if "extra ==" not in line]
    assert [name for name in names if name not in rows] == []
    assert [name for name, line in rows.items() if "not named" in line] == []
