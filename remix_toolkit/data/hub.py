"""Datasets of the hub, fetched once and then read from this machine: later runs need no network and get the same rows.

    <HF_HOME>/remix-toolkit/<dataset>-<hash>/rows.jsonl     the rows and columns that are used, nothing else
                                             source.json    the commit they came from, their number and checksum

Rows are streamed, so that of hundreds of gigabytes only the first documents are downloaded. A complete download has a
source.json; one that broke off has none and begins anew the next time.
"""

import errno
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel

from remix_toolkit.console import info
from remix_toolkit.data.files import LocatedRows, Row, first_line, sha256
from remix_toolkit.errors import BadInput, RunFailed, nearest

MAX_WORDS = 4000  # kept of a document of generic text: it makes one passage, and some documents are whole books
PROGRESS_ROWS = 5000  # between two lines of progress


@dataclass(frozen=True)
class Selection:
    """Which rows and columns of which dataset."""

    hub: str
    config: str | None
    split: str
    revision: str | None
    columns: tuple[str, ...]
    first: int | None = None  # only the first rows
    data_dir: str | None = None  # a folder of the repository
    local_alternative: str = ""  # for messages: which local file does as well

    @property
    def name(self) -> str:
        """As messages name it: dataset, configuration, split, revision."""
        return ", ".join(part for part in (self.hub, self.config, self.split, self.revision) if part)

    @property
    def declaration(self) -> dict[str, Any]:
        """What determines the rows, at a given commit."""
        return {key: value for key, value in asdict(self).items() if key != "local_alternative"}

    @property
    def folder(self) -> Path:
        """The folder in which the download is kept."""
        from huggingface_hub.constants import HF_HOME

        digest = hashlib.sha256(json.dumps(self.declaration, sort_keys=True).encode()).hexdigest()[:12]
        return Path(HF_HOME, "remix-toolkit", f"{self.hub.strip('/').replace('/', '--')}-{digest}")


class Download(BaseModel):
    """A complete download, as source.json records it."""

    commit: str
    rows: int
    sha256: str  # of rows.jsonl


def read_rows(selection: Selection) -> LocatedRows:
    """(where, row) of every row, downloaded first if need be. Raises BadInput or RunFailed."""
    download, file = fetch(selection), selection.folder / "rows.jsonl"
    if not file.exists() or sha256(file) != download.sha256:
        raise BadInput(f"{file}: is missing or not what was downloaded; delete {file.parent} to download it again")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            yield f"{selection.hub}: row {number}", json.loads(line)


def cached_download(selection: Selection) -> Download | None:
    """Where the rows that are on this machine already came from; None if there are none. Raises BadInput if damaged."""
    file = selection.folder / "source.json"
    try:
        return Download.model_validate_json(file.read_bytes()) if file.exists() else None
    except ValueError:
        raise BadInput(f"{file}: is damaged; delete {file.parent} to download it again") from None


def newer_commit(selection: Selection) -> str | None:
    """The hub's commit today if the rows on this machine are from another; None without network or such rows."""
    download = cached_download(selection)
    try:
        commit = _current_commit(selection) if download else None
    except Exception:  # no network, or no access any more: the rows that are here stay in use
        return None
    return commit if download and commit != download.commit else None


def fetch(selection: Selection) -> Download:
    """Have the rows on this machine. One process downloads them, others wait for it.

    Raises BadInput where the dataset cannot be had (no such name, no access, no network), and RunFailed where its
    stream breaks off or ends early.
    """
    folder = selection.folder
    if download := cached_download(selection):
        return download
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror}); set HF_HOME to another folder") from None
    with FileLock(folder / "lock"):
        return cached_download(selection) or _download(selection)


def _download(selection: Selection) -> Download:
    commit, stream, total = _open_stream(selection)
    draft, count = selection.folder / "rows.partial", 0
    try:
        with draft.open("wb") as out:
            for count, row in enumerate(stream, start=1):
                out.write(_as_line(selection, row, count))
                if count % PROGRESS_ROWS == 0:
                    info(f"{selection.hub}: {count:,}{f' of {total:,}' if total else ''} rows")
    except Exception as error:  # a network that goes away shows in a dozen kinds of errors
        if isinstance(error, BadInput) or getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise RunFailed(
            f"hub dataset {selection.name}: the download broke off after {count:,} rows ({type(error).__name__}: "
            f"{_without_token(first_line(error))}). The same command downloads it anew"
        ) from error
    if count < (total or 1):
        raise RunFailed(
            f"hub dataset {selection.name}: the stream ended after {count:,} of {total or 'at least 1'} rows. "
            "The same command downloads it anew; if the dataset has no more rows, lower `documents` or `first`"
        )
    download = Download(commit=commit, rows=count, sha256=sha256(draft))
    described = {**selection.declaration, **download.model_dump()}
    (selection.folder / "source.partial").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    draft.replace(selection.folder / "rows.jsonl")
    (selection.folder / "source.partial").replace(selection.folder / "source.json")
    return download


def _as_line(selection: Selection, row: Row, number: int) -> bytes:
    """The selected columns as a line of JSON; of a document of generic text, its beginning."""
    for column in selection.columns:
        if column not in row:
            raise BadInput(
                f"{selection.hub}: row {number}: no column {column!r}; {nearest(column, map(str, row))}. "
                "Has the dataset changed? A `revision` pins it"
            )
    kept = {column: row[column] for column in selection.columns}
    if selection.first is not None and len(kept) == 1:
        ((column, text),) = kept.items()
        if isinstance(text, str):
            kept[column] = " ".join(text.split(maxsplit=MAX_WORDS)[:MAX_WORDS])
    try:
        return json.dumps(kept, ensure_ascii=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"{selection.hub}: row {number}: has other values than texts, numbers and lists: {error}"
        ) from None


def _open_stream(selection: Selection) -> tuple[str, Iterable[Row], int | None]:
    """Today's commit, its rows, and their number as far as the dataset's card or `first` says it."""
    from datasets import load_dataset

    try:
        commit = _current_commit(selection)
        stream = load_dataset(
            selection.hub,
            selection.config,
            data_dir=selection.data_dir,
            split=selection.split,
            revision=selection.revision if Path(selection.hub).is_dir() else commit,
            streaming=True,
        )
    except Exception as error:
        raise BadInput(f"hub dataset {selection.name}: cannot be loaded: {_reason(selection, error)}") from error
    splits = stream.info.splits or {}
    total = (splits[selection.split].num_examples or None) if selection.split in splits else None
    if selection.first is None:
        return commit, stream, total
    return commit, stream.take(selection.first), min(selection.first, total or selection.first)


def _current_commit(selection: Selection) -> str:
    """The commit that the revision stands for today; for a dataset in a local folder, a hash of its files' dates."""
    if Path(selection.hub).is_dir():
        files = sorted(file for file in Path(selection.hub).rglob("*") if file.is_file())
        dates = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return hashlib.sha256(json.dumps(dates).encode()).hexdigest()
    from huggingface_hub import HfApi

    return HfApi().dataset_info(selection.hub, revision=selection.revision, timeout=20).sha or ""


def _reason(selection: Selection, error: Exception) -> str:
    """Why a dataset cannot be loaded, and what helps."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        terms = f"https://huggingface.co/datasets/{selection.hub}"
        reason = f"it needs an account that has accepted its terms at {terms}; then `hf auth login`."
    elif any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        reason = "there is no such dataset, or it is private: then `hf auth login`."
    elif any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        reason = f"it has no revision {selection.revision!r}."
    else:
        text = _without_token(first_line(error)).rstrip(".")
        reason = f"{type(error).__name__}: {text}. Is the name right, and is there a network?"
    return f"{reason} {selection.local_alternative}".rstrip()


def _without_token(text: str) -> str:
    """The text without the user's token, should an error have repeated it."""
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "***") if token else text
