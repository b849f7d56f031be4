"""Datasets of the hub, read once and kept on this machine: a second run needs no network, and gets the same rows.

    <HF_HOME>/remix-toolkit/<dataset>-<digest>/rows.jsonl     the columns and rows that are used, nothing else
                                               source.json    the commit they came from, their number and checksum

Rows are streamed, so that of hundreds of gigabytes only the first documents are fetched. They are written to
rows.partial; what broke half way goes on there. Only a complete fetch gets its source.json.
"""

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock

from remix_toolkit.console import warn
from remix_toolkit.data.files import first_line, read_whole_lines
from remix_toolkit.errors import BadInput, RunFailed, nearest

MAX_WORDS = 4000  # of a document of generic text: it gives one passage, and documents may be whole books


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
    instead: str = ""  # what to say where there is no network: which file to put where

    @property
    def name(self) -> str:
        """As messages say it: dataset, configuration, split, revision."""
        parts = [self.hub, self.config, self.split, self.revision]
        return ", ".join(part for part in parts if part)

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        from huggingface_hub.constants import HF_HOME

        declared = {key: value for key, value in asdict(self).items() if key != "instead"}
        digest = hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()[:12]
        return Path(HF_HOME, "remix-toolkit", f"{self.hub.strip('/').replace('/', '--')}-{digest}")


def read_rows(wanted: Selection) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) for every row, fetched first if need be. Raises BadInput or RunFailed."""
    folder = fetch(wanted)
    source = cached_source(wanted) or {}
    if not (folder / "rows.jsonl").exists():
        raise BadInput(f"{folder}: rows.jsonl is gone; delete that directory to fetch it again")
    with (folder / "rows.jsonl").open("rb") as lines:
        if hashlib.file_digest(lines, "sha256").hexdigest() != source["sha256"]:
            raise BadInput(f"{folder}: rows.jsonl is not what was fetched; delete that directory to fetch it again")
        lines.seek(0)
        for number, line in enumerate(lines, start=1):
            yield f"{wanted.hub}: row {number}", json.loads(line)


def cached_source(wanted: Selection) -> dict[str, Any] | None:
    """The source.json of what is on this machine already, or None."""
    file = wanted.folder / "source.json"
    try:
        if not file.exists():
            return None
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {name: kept[name] for name in ("commit", "rows", "sha256")}
    except (ValueError, TypeError, KeyError):
        raise BadInput(f"{file}: is damaged; delete {file.parent} to fetch it again") from None


def newer_commit(wanted: Selection) -> str | None:
    """The hub's commit today, where it is another one than that of the rows kept here; None if not, or no network."""
    kept = cached_source(wanted)
    if kept is None:
        return None
    try:
        commit = _commit(wanted)
    except BadInput:
        return None
    return commit if commit != kept["commit"] else None


def fetch(wanted: Selection) -> Path:
    """Have the rows on this machine; returns their folder. One process fetches, others wait for it.

    Raises BadInput where the dataset cannot be had (no such name, no access, no network), and RunFailed where its
    stream breaks or ends early: what came so far is kept, and the same call goes on from there.
    """
    folder = wanted.folder
    if cached_source(wanted):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror}); HF_HOME names another place") from None
    with FileLock(folder / "lock"):
        if not cached_source(wanted):
            _fetch(wanted, folder)
    return folder


def _fetch(wanted: Selection, folder: Path) -> None:
    partial, begun = folder / "rows.partial", folder / "begun"
    commit = _commit(wanted)
    if not begun.exists() or begun.read_text(encoding="utf-8") != str(commit):
        partial.unlink(missing_ok=True)  # begun at another commit, or never
        begun.write_text(str(commit), encoding="utf-8")
    whole = read_whole_lines(partial)
    if partial.exists():
        os.truncate(partial, len(whole))
    have = whole.count(b"\n")
    del whole
    stream, total = _open(wanted, commit)
    if have:
        stream = stream.skip(have)
        print(f"{wanted.hub}: goes on after {have:,} rows", flush=True)
    count = have
    shown = time.monotonic()
    with partial.open("ab") as out:
        try:
            for row in islice(stream, None if wanted.first is None else wanted.first - have):
                out.write(_line(wanted, row, count + 1))
                count += 1
                if time.monotonic() - shown > 5:
                    shown = time.monotonic()
                    print(f"{wanted.hub}: {count:,}{f' of {total:,}' if total else ''} rows", flush=True)
        except (BadInput, OSError) as error:
            if isinstance(error, BadInput) or error.errno == errno.ENOSPC:
                raise
            raise RunFailed(_broke(wanted, count, error)) from error
        except Exception as error:  # a network that goes away ends in a dozen kinds
            raise RunFailed(_broke(wanted, count, error)) from error
        out.flush()
        os.fsync(out.fileno())
    if count < (total or 1):
        raise RunFailed(
            f"hub dataset {wanted.name}: its stream ended after {count:,} of {total or 'at least 1'} rows. "
            f"Run again to go on from there{'; if it has no more, say so: documents or first' if wanted.first else ''}"
        )
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if total is None:
        print(f"{wanted.hub}: its page does not say how many rows there are; {count:,} came", flush=True)
    partial.replace(folder / "rows.jsonl")
    source = {**asdict(wanted), "commit": commit, "rows": count, "sha256": digest}
    source.pop("instead")
    (folder / "source.partial").write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
    (folder / "source.partial").replace(folder / "source.json")
    begun.unlink()


def _line(wanted: Selection, row: dict[str, Any], number: int) -> bytes:
    for column in wanted.columns:
        if column not in row:
            raise BadInput(
                f"{wanted.hub}: row {number}: no column {column!r}; {nearest(column, map(str, row))}. "
                "Has the dataset changed? A `revision` pins it"
            )
    kept = {column: row[column] for column in wanted.columns}
    if wanted.first is not None and len(wanted.columns) == 1 and isinstance(row[wanted.columns[0]], str):
        words = row[wanted.columns[0]].split(maxsplit=MAX_WORDS)
        kept[wanted.columns[0]] = " ".join(words[:MAX_WORDS])
    try:
        return json.dumps(kept, ensure_ascii=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise BadInput(f"{wanted.hub}: row {number}: holds what is neither text, number nor list: {error}") from None


def _commit(wanted: Selection) -> str:
    """The commit that the revision stands for today; for a dataset in a local folder, a hash of its files' dates."""
    if Path(wanted.hub).is_dir():
        files = sorted(f for f in Path(wanted.hub).rglob("*") if f.is_file())
        dates = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return hashlib.sha256(json.dumps(dates).encode()).hexdigest()
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(wanted.hub, revision=wanted.revision, timeout=20).sha or ""
    except Exception as error:
        raise BadInput(_no_access(wanted, error)) from error


def _open(wanted: Selection, commit: str) -> tuple[Any, int | None]:
    """The stream and, as far as the dataset's card says it or only the first rows are wanted, its number of rows."""
    from datasets import load_dataset

    revision = wanted.revision if Path(wanted.hub).is_dir() else commit
    try:
        stream = load_dataset(
            wanted.hub,
            wanted.config,
            data_dir=wanted.data_dir,
            split=wanted.split,
            revision=revision,
            streaming=True,
        )
    except Exception as error:
        raise BadInput(_no_access(wanted, error)) from error
    splits = stream.info.splits or {}
    known = splits[wanted.split].num_examples if wanted.split in splits else None
    if wanted.first is None:
        return stream, known or None
    return stream, min(wanted.first, known) if known else wanted.first


def _no_access(wanted: Selection, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    what = f"hub dataset {wanted.name}: cannot be loaded: "
    causes = {type(e) for e in (error, error.__cause__, error.__context__)}
    if GatedRepoError in causes:
        what += (
            f"it needs an account that has accepted its terms at https://huggingface.co/datasets/{wanted.hub}; "
            "then `hf auth login`"
        )
    elif RepositoryNotFoundError in causes:
        what += "there is no such dataset, or it is private: then `hf auth login`"
    elif RevisionNotFoundError in causes:
        what += f"it has no revision {wanted.revision!r}"
    else:
        what += f"{type(error).__name__}: {_safe(first_line(error))}. Is the name right, is there a network?"
    return what + (f" {wanted.instead}" if wanted.instead else " A local file works too: path=...")


def _broke(wanted: Selection, count: int, error: Exception) -> str:
    return (
        f"hub dataset {wanted.name}: its stream broke after {count:,} rows ({type(error).__name__}: "
        f"{_safe(first_line(error))}). The same command goes on from there"
    )


def _safe(text: str) -> str:
    """The text without the user's token, should an error have repeated it."""
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "***") if token else text


def warn_newer_commit(wanted: Selection, commit: str) -> None:
    """Say that upstream has changed since the rows were fetched."""
    warn(
        f"{wanted.hub} is at {commit[:12]} now; the rows kept here are of an earlier commit and stay in use. "
        f"To use the new ones, say revision: {commit[:12]} or delete {wanted.folder}"
    )
