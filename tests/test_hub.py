"""What is kept of the hub's datasets: fetched once, whole, and resumed; and what is said where it cannot be."""

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

SLICE = hub.Selection("some/dataset", None, "train", None, ("q",))
ROWS = [{"q": f"Ä {number}", "unused": 1} for number in range(10)]
LINES = "".join(f'{{"q": "Ä {number}"}}\n' for number in range(10)).encode()


def serve(patch: Patch, stop: int = 10, error: Exception | None = None, commit: str = "c1") -> list[int]:
    """A hub whose stream ends, or breaks, before row `stop`; returns how many rows each stream is told to skip."""
    skipped: list[int] = []

    class Stream:
        def skip(self, count: int) -> "Stream":
            skipped[-1] = count
            return self

        def __iter__(self) -> Iterator[Row]:
            yield from ROWS[skipped[-1] : stop]
            if error:
                raise error

    def opened(wanted: hub.Selection, at: str | None) -> tuple[Stream, int]:
        assert at == commit
        skipped.append(0)
        time.sleep(0.1)  # others have time to come in between
        return Stream(), len(ROWS)

    patch.setattr(hub, "_commit", lambda wanted: commit)
    patch.setattr(hub, "_open", opened)
    return skipped


@pytest.mark.parametrize(
    ("error", "message", "commit"),
    [
        (None, "some/dataset, train: its stream ended after 4 of 10 rows. Run again to go on from there", "c1"),
        (None, "ended after 4 of 10", "c2"),  # upstream has changed: begun again
        (ConnectionError("gone\nfar"), r"its stream broke after 4 rows \(ConnectionError: gone\)", "c1"),
        (ValueError("at hf_secret"), r"4 rows \(ValueError: at \*\*\*\)\. The same command goes on", "c1"),
        (OSError(errno.ENOSPC, "No space left"), "^.Errno 28. No space left", "c1"),  # a full disk is no broken stream
    ],
)
def test_a_fetch_cut_short_goes_on(
    monkeypatch: Patch, kept: Path, error: Exception | None, message: str, commit: str
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    serve(monkeypatch, 4, error)
    with pytest.raises(OSError if "Errno" in message else RunFailed, match=message):
        list(hub.read_rows(SLICE))
    assert hub.cached_source(SLICE) is None
    assert not [*kept.glob("*/source.json"), *kept.glob("*/rows.jsonl")]
    skipped = serve(monkeypatch, commit=commit)
    assert list(hub.read_rows(SLICE)) == [(f"some/dataset: row {n + 1}", {"q": row["q"]}) for n, row in enumerate(ROWS)]
    assert skipped == [4 if commit == "c1" else 0]
    assert (SLICE.folder / "rows.jsonl").read_bytes() == LINES
    assert {file.name for file in SLICE.folder.iterdir()} <= {"rows.jsonl", "source.json", "lock"}
    assert hub.newer_commit(SLICE) is None
    serve(monkeypatch, commit="c3")
    assert (hub.newer_commit(SLICE), hub.cached_source(SLICE)["commit"]) == ("c3", commit)


@pytest.mark.parametrize("first", [None, 8])
def test_a_half_written_line_is_fetched_again(tmp_path: Path, capsys, first: int | None) -> None:
    """A crash anywhere, with a stream of `datasets`: then the rows are those of an uninterrupted fetch."""
    wanted = hub.Selection(str(on_hub(tmp_path / "hub", ROWS)), None, "train", None, ("q",), first)
    folder = hub.fetch(wanted)
    commit = hub.cached_source(wanted)["commit"]
    whole = b"".join(LINES.splitlines(keepends=True)[:first])
    assert (folder / "rows.jsonl").read_bytes() == whole
    for cut in (0, 1, whole.index(b"\n") + 1, whole.index(b" 4") - 1, len(whole) - 1, len(whole)):
        (folder / "source.json").unlink()
        (folder / "rows.jsonl").unlink()
        (folder / "begun").write_text(commit)
        (folder / "rows.partial").write_bytes(whole[:cut])
        assert (hub.fetch(wanted) / "rows.jsonl").read_bytes() == whole
        rows = whole[:cut].count(b"\n")
        assert (f"goes on after {rows} rows" in capsys.readouterr().out) == (rows > 0)


def test_threads_that_want_the_same_rows_fetch_them_once(monkeypatch: Patch) -> None:
    skipped = serve(monkeypatch)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: list(hub.read_rows(SLICE)), range(4)))
    assert skipped == [0]
    assert all(result == results[0] and len(result) == 10 for result in results)


def test_a_second_read_needs_no_source_and_notices_a_change(tmp_path: Path, kept: Path) -> None:
    rows = [{"question": f"{n} + {n}?", "answer": f"{2 * n}\n#### {2 * n}"} for n in range(3)]
    folder = on_hub(tmp_path / "hub", rows, "main")
    first = read("gsm8k", f"hub={folder}")
    folder.rename(tmp_path / "gone")
    assert read("gsm8k", f"hub={folder}") == first
    (stored,) = kept.glob("*/rows.jsonl")
    stored.write_text(stored.read_text().replace("#### 2", "#### 7"))
    with pytest.raises(BadInput, match=f"{stored.parent}: rows.jsonl is not what was fetched; delete that directory"):
        read("gsm8k", f"hub={folder}")


@pytest.mark.parametrize("behind", ["huggingface_hub.HfApi.dataset_info", "datasets.load_dataset"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("HfHubHTTPError", r"(\w+Error: 403|RuntimeError: from).*\*\*\*\. Is the name right, is there a network\?"),
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
        monkeypatch.setattr(hub, "_commit", lambda wanted: "c1")
    monkeypatch.setattr(behind, fail)
    with pytest.raises(BadInput, match=f"hub dataset codeparrot/apps, train, .*{message}.*say path=FILE") as raised:
        read("apps")
    assert "hf_secret" not in str(raised.value)


@pytest.mark.parametrize("name", [n for n, e in catalog().items() if e.hub and n not in ("pairs", "passages")])
def test_without_a_network_the_local_file_is_named(monkeypatch: Patch, name: str) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", Mock(side_effect=ConnectionError("no route to host")))
    with pytest.raises(BadInput) as raised:
        passages(name, 1) if name in CORPORA else read(name)
    for said in (catalog()[name].hub.split(",")[0].split(" at ")[0], f"({catalog()[name].local})", f"paths.{name}"):
        assert said in str(raised.value)
