"""Datasets of the hub: downloaded once and whole, then read without a network; and why where they cannot be."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import huggingface_hub.errors
import pytest
from upstream import Patch, Row, on_hub, passages, read

from remix_toolkit.data import hub
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.recipe.catalog import catalog
from remix_toolkit.recipe.schema import CORPORA

SELECTION = hub.Selection("some/dataset", None, "train", None, ("q",))
ROWS = [{"q": f"Ä {number}", "unused": 1} for number in range(10)]
LINES = "".join(f'{{"q": "Ä {number}"}}\n' for number in range(10)).encode()


def serve(patch: Patch, error: Exception | None = None, commit: str = "c1") -> Mock:
    """A hub whose stream breaks off after four rows, if there is an error; returns its `load_dataset`."""

    def stream() -> Iterator[Row]:
        yield from ROWS[:4]
        if error:
            raise error
        yield from ROWS[4:]

    def opened(name: str, *_: object, revision: str, **__: object) -> Iterator[Row]:
        assert (name, revision) == ("some/dataset", commit)
        time.sleep(0.1)  # others have time to come in between
        return stream()

    load_dataset = Mock(side_effect=opened)
    patch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha=commit))
    patch.setattr("datasets.load_dataset", load_dataset)
    return load_dataset


@pytest.mark.parametrize(
    ("error", "message", "commit"),
    [
        (ConnectionError("gone\nfar"), r"train: .*broke off after 4 rows \(ConnectionError: gone far\).*same", "c1"),
        (ValueError("at hf_secret"), r"4 rows \(ValueError: at \*\*\*\)", "c2"),  # upstream changes in the meantime
    ],
)
def test_a_download_that_broke_off_leaves_nothing_and_can_be_run_again(
    monkeypatch: Patch, hub_cache: Path, error: Exception, message: str, commit: str
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    serve(monkeypatch, error)
    with pytest.raises(RunFailed, match=message):
        list(hub.read_rows(SELECTION))
    assert hub.cached_file(SELECTION) is None
    assert not [*hub_cache.glob("*/*.jsonl")]
    serve(monkeypatch, commit=commit)
    rows = [(f"some/dataset: row {number}", {"q": row["q"]}) for number, row in enumerate(ROWS, start=1)]
    assert [(row.place, row) for row in hub.read_rows(SELECTION)] == rows
    assert (SELECTION.folder / f"{commit}.jsonl").read_bytes() == LINES
    assert {file.name for file in SELECTION.folder.iterdir()} <= {f"{commit}.jsonl", "lock"}
    assert hub.newer_commit(SELECTION) is None
    serve(monkeypatch, commit="c3")
    assert (hub.newer_commit(SELECTION), hub.cached_file(SELECTION)) == ("c3", SELECTION.folder / f"{commit}.jsonl")
    assert [(row.place, row) for row in hub.read_rows(SELECTION)] == rows


@pytest.mark.parametrize("first", [None, 8])
def test_whatever_a_crash_left_the_rows_are_those_of_an_uninterrupted_download(
    tmp_path: Path, first: int | None
) -> None:
    """With a stream of `datasets`."""
    selection = hub.Selection(str(on_hub(tmp_path / "hub", ROWS)), None, "train", None, ("q",), first)
    whole = b"".join(LINES.splitlines(keepends=True)[:first])
    assert hub.fetch(selection).read_bytes() == whole
    for cut in (0, whole.index(b" 4") - 1, len(whole)):
        hub.fetch(selection).unlink()
        (selection.folder / "rows.partial").write_bytes(whole[:cut])
        assert hub.fetch(selection).read_bytes() == whole


def test_threads_that_want_the_same_rows_download_them_once(monkeypatch: Patch) -> None:
    load_dataset = serve(monkeypatch)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: list(hub.read_rows(SELECTION)), range(4)))
    assert load_dataset.call_count == 1
    assert all(result == results[0] and len(result) == 10 for result in results)


def test_a_second_read_needs_no_source(tmp_path: Path) -> None:
    rows = [{"question": f"{n} + {n}?", "answer": f"{2 * n}\n#### {2 * n}"} for n in range(3)]
    folder = on_hub(tmp_path / "hub", rows, "main")
    first = read("gsm8k", f"hub={folder}")
    folder.rename(tmp_path / "gone")
    assert read("gsm8k", f"hub={folder}") == first


@pytest.mark.parametrize("behind", ["huggingface_hub.HfApi.dataset_info", "datasets.load_dataset"])
@pytest.mark.parametrize("kind", ["HfHubHTTPError", "RepositoryNotFoundError", "GatedRepoError"])
def test_no_access_says_why(monkeypatch: Patch, behind: str, kind: str) -> None:
    def fail(*_: object, **__: object) -> None:
        response = SimpleNamespace(headers={}, request=None, status_code=403)
        raise getattr(huggingface_hub.errors, kind)("403 Forbidden\nfor hf_secret", response=response)

    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="c1"))
    monkeypatch.setattr(behind, fail)
    reason = {
        "HfHubHTTPError": r"refuses access \(403\)",
        "RepositoryNotFoundError": "has no such dataset, or not for you",
        "GatedRepoError": r"gated \(403\)",
    }
    message = rf"hub dataset codeparrot/apps, train, .*{reason[kind]}.*hf auth login.*path=FILE"
    with pytest.raises(BadInput, match=message) as raised:
        read("apps")
    assert "hf_secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("no/such/directory", "base no/such/directory: no such directory, and no id of a model on the hub either"),
        ("org/model", r"base org/model: cannot be downloaded: .*HF_HUB_OFFLINE"),
    ],
)
def test_a_base_that_is_neither_here_nor_on_the_hub(here, runs: Path, base: str, message: str) -> None:
    done = here("data", "recipes/kvr.yaml", f"base={base}", "--runs", runs, check=False)
    assert done.returncode == 2
    assert re.search(message, done.stderr)


@pytest.mark.parametrize("name", [n for n, e in catalog().items() if e.hub and n not in ("pairs", "passages")])
def test_without_a_network_the_local_file_is_named(monkeypatch: Patch, name: str) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", Mock(side_effect=ConnectionError("no route to host")))
    with pytest.raises(BadInput) as raised:
        passages(name, 1) if name in CORPORA else read(name)
    for said in (catalog()[name].hub.split(",")[0].split(" at ")[0], f"({catalog()[name].local})", f"paths.{name}"):
        assert said in str(raised.value)
