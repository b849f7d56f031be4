"""Datasets of the hub: downloaded once and whole, then read without a network; and why where they cannot be."""

import errno
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


def serve(patch: Patch, stop: int = 10, error: Exception | None = None, commit: str = "c1") -> Mock:
    """A hub whose stream ends, or breaks off, before row `stop`; returns the `load_dataset` that was called."""

    class Stream:
        info = SimpleNamespace(splits={"train": SimpleNamespace(num_examples=len(ROWS))})

        def __iter__(self) -> Iterator[Row]:
            yield from ROWS[:stop]
            if error:
                raise error

    def opened(name: str, *_: object, revision: str, **__: object) -> Stream:
        assert (name, revision) == ("some/dataset", commit)
        time.sleep(0.1)  # others have time to come in between
        return Stream()

    load_dataset = Mock(side_effect=opened)
    patch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha=commit))
    patch.setattr("datasets.load_dataset", load_dataset)
    return load_dataset


@pytest.mark.parametrize(
    ("error", "message", "commit"),
    [
        (None, "some/dataset, train: .*ended after 4 of 10 rows.*same command", "c1"),
        (None, "ended after 4 of 10", "c2"),  # upstream has changed in the meantime
        (ConnectionError("gone\nfar"), r"broke off after 4 rows \(ConnectionError: gone\).*same command", "c1"),
        (ValueError("at hf_secret"), r"4 rows \(ValueError: at \*\*\*\)", "c1"),
        (OSError(errno.ENOSPC, "No space left"), "^.Errno 28. No space left", "c1"),  # a full disk is no broken stream
    ],
)
def test_a_download_that_broke_off_leaves_nothing_and_can_be_run_again(
    monkeypatch: Patch, hub_cache: Path, error: Exception | None, message: str, commit: str
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    serve(monkeypatch, 4, error)
    with pytest.raises(OSError if "Errno" in message else RunFailed, match=message):
        list(hub.read_rows(SELECTION))
    assert hub.cached_download(SELECTION) is None
    assert not [*hub_cache.glob("*/source.json"), *hub_cache.glob("*/rows.jsonl")]
    serve(monkeypatch, commit=commit)
    rows = [(f"some/dataset: row {number}", {"q": row["q"]}) for number, row in enumerate(ROWS, start=1)]
    assert list(hub.read_rows(SELECTION)) == rows
    assert (SELECTION.folder / "rows.jsonl").read_bytes() == LINES
    assert {file.name for file in SELECTION.folder.iterdir()} <= {"rows.jsonl", "source.json", "lock"}
    assert hub.newer_commit(SELECTION) is None
    serve(monkeypatch, commit="c3")
    assert (hub.newer_commit(SELECTION), hub.cached_download(SELECTION).commit) == ("c3", commit)
    assert list(hub.read_rows(SELECTION)) == rows


@pytest.mark.parametrize("first", [None, 8])
def test_whatever_a_crash_left_the_rows_are_those_of_an_uninterrupted_download(
    tmp_path: Path, first: int | None
) -> None:
    """With a stream of `datasets`."""
    selection = hub.Selection(str(on_hub(tmp_path / "hub", ROWS)), None, "train", None, ("q",), first)
    hub.fetch(selection)
    whole = b"".join(LINES.splitlines(keepends=True)[:first])
    source = (selection.folder / "source.json").read_bytes()
    for name in ("rows.partial", "rows.jsonl"):
        for cut in (0, whole.index(b" 4") - 1, len(whole)):
            (selection.folder / "source.json").unlink()
            (selection.folder / "rows.jsonl").unlink()
            (selection.folder / name).write_bytes(whole[:cut])
            hub.fetch(selection)
            assert (selection.folder / "rows.jsonl").read_bytes() == whole
            assert (selection.folder / "source.json").read_bytes() == source


def test_threads_that_want_the_same_rows_download_them_once(monkeypatch: Patch) -> None:
    load_dataset = serve(monkeypatch)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: list(hub.read_rows(SELECTION)), range(4)))
    assert load_dataset.call_count == 1
    assert all(result == results[0] and len(result) == 10 for result in results)


def test_a_second_read_needs_no_source_and_notices_a_change(tmp_path: Path, hub_cache: Path) -> None:
    rows = [{"question": f"{n} + {n}?", "answer": f"{2 * n}\n#### {2 * n}"} for n in range(3)]
    folder = on_hub(tmp_path / "hub", rows, "main")
    first = read("gsm8k", f"hub={folder}")
    folder.rename(tmp_path / "gone")
    assert read("gsm8k", f"hub={folder}") == first
    (stored,) = hub_cache.glob("*/rows.jsonl")
    stored.write_text(stored.read_text().replace("#### 2", "#### 7"))
    damaged = f"{stored}: .*; delete {stored.parent} "
    with pytest.raises(BadInput, match=damaged):
        read("gsm8k", f"hub={folder}")
    stored.unlink()
    with pytest.raises(BadInput, match=damaged):
        read("gsm8k", f"hub={folder}")
    source = stored.with_name("source.json")
    source.write_text("{")
    with pytest.raises(BadInput, match=f"{source}: .*damaged; delete {stored.parent} "):
        read("gsm8k", f"hub={folder}")


@pytest.mark.parametrize("behind", ["huggingface_hub.HfApi.dataset_info", "datasets.load_dataset"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("HfHubHTTPError", r"(\w+Error: 403|RuntimeError: from).*\*\*\*\. Is the name right.*\?"),
        ("RepositoryNotFoundError", "there is no such dataset, or it is private: then `hf auth login`"),
        ("RevisionNotFoundError", "it has no revision 'refs/convert/parquet'"),
        ("GatedRepoError", r"accepted its terms at https://\S*/datasets/codeparrot/apps; then `hf auth login`"),
    ],
)
def test_no_access_says_why(monkeypatch: Patch, behind: str, kind: str, message: str) -> None:
    def fail(*_: object, **__: object) -> None:
        response = SimpleNamespace(headers={}, request=None, status_code=403)
        error = getattr(huggingface_hub.errors, kind)("403 at https://hf_secret", response=response)
        raise error if "HfApi" in behind else RuntimeError("from hf_secret") from error

    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    if "HfApi" not in behind:
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="c1"))
    monkeypatch.setattr(behind, fail)
    with pytest.raises(BadInput, match=f"hub dataset codeparrot/apps, train, .*{message}.*path=FILE") as raised:
        read("apps")
    assert "hf_secret" not in str(raised.value)


@pytest.mark.parametrize("name", [n for n, e in catalog().items() if e.hub and n not in ("pairs", "passages")])
def test_without_a_network_the_local_file_is_named(monkeypatch: Patch, name: str) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", Mock(side_effect=ConnectionError("no route to host")))
    with pytest.raises(BadInput) as raised:
        passages(name, 1) if name in CORPORA else read(name)
    for said in (catalog()[name].hub.split(",")[0].split(" at ")[0], f"({catalog()[name].local})", f"paths.{name}"):
        assert said in str(raised.value)
