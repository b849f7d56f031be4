"""What the tests share: a tiny base made once, a runs directory that holds it, the real `remix` command, sweeps."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a network
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes side by side: a thread each, their children too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = ROOT.parent / "shared" / "data"  # real files in upstream formats; a user's clone has none

# Eight facts, a batch of eight, a few steps: seconds, and every path of the real thing.
SMALL = [
    "global_batch_size=8",
    "stages.stage1.data.size=16",
    "stages.stage1.train.num_train_epochs=2",
    "stages.stage2.data.size=16",
    "stages.stage2.train.num_train_epochs=2",
    f"evaluate.text={ROOT / 'LICENSE'}",  # a short text
]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked `faults` takes minutes: it runs where it is asked for."""
    if "faults" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("faults")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tiny base model."""
    from trained_store import once

    from remix_toolkit.recipe.load import load_base
    from remix_toolkit.store import base_model

    def make(runs: Path) -> None:
        (runs / "bases").mkdir(parents=True)
        base_model(load_base("tiny"), runs)

    folders = (once(tmp_path_factory.getbasetemp(), "base", make) / "bases").iterdir()
    return next(folder for folder in folders if folder.is_dir())


@pytest.fixture(scope="session")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory):
    """The store that is trained once for the tests of all processes."""
    from trained_store import TrainedStore, once, train

    return TrainedStore(once(tmp_path_factory.getbasetemp(), "trained", lambda folder: train(folder, tiny_base)))


@pytest.fixture(scope="session")
def tokenizer(tiny_base: Path):
    from remix_toolkit.data.encoding import load_tokenizer

    return load_tokenizer(str(tiny_base))


@pytest.fixture
def runs(tmp_path: Path, tiny_base: Path) -> Path:
    """An empty runs directory that holds the tiny base already."""
    shutil.copytree(tiny_base, tmp_path / "runs" / "bases" / tiny_base.name)
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def remix() -> Callable[..., subprocess.CompletedProcess]:
    """Call the real command in a process of its own: `remix("run", "kvr", ...)`."""

    def call(*arguments: object, check: bool = True, **options: object) -> subprocess.CompletedProcess:
        line = [sys.executable, "-m", "remix_toolkit", *map(str, arguments)]
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=600, **options)
        if check and done.returncode:
            raise AssertionError(f"{line}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return call


def run_here(*arguments: object, check: bool = True, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """`remix` in this process: ten seconds of imports less, where it is not the process that is tested."""
    from remix_toolkit import disk
    from remix_toolkit.cli.main import main

    disk._warn_once.cache_clear()
    line = ["remix", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with chdir(folder), redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", line):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    assert not (check and code), f"{line}: exit code {code}\n{out.getvalue()}\n{err.getvalue()}"
    return subprocess.CompletedProcess(line, code, out.getvalue(), err.getvalue())


@pytest.fixture
def here() -> Callable[..., subprocess.CompletedProcess]:
    return run_here


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hub datasets are kept in this test."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "remix-toolkit"


@pytest.fixture
def write_sweep(tmp_path: Path) -> Callable[..., str]:
    """Write a sweep beside `facts.yaml`; its path."""
    from sweeps import FACTS

    (tmp_path / "facts.yaml").write_text(FACTS, encoding="utf-8")

    def write(text: str, name: str = "mine.yaml") -> str:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return str(file)

    return write


@pytest.fixture
def cells(write_sweep):
    """The cells of a sweep of `facts.yaml`, or of another recipe or sweep that the text begins with."""
    from remix_toolkit.graph.sweep import load_sweep

    def of(text: str, profile: str | None = None, overrides: list[str] | None = None):
        own = text.startswith(("recipe:", "extends:"))
        return load_sweep(write_sweep(text if own else f"recipe: facts.yaml\n{text}"), profile, None, overrides)[1]

    return of


def real(name: str) -> Path:
    """A real file, or a skip that says why."""
    path = REAL_DATA / name
    if not path.exists():
        pytest.skip(f"{name}: real data is not beside this clone")
    return path
