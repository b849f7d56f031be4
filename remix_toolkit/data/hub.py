"""Datasets of the hub, fetched once and then read from this machine: later runs need no network and get the same rows.

    <HF_HOME>/remix-toolkit/<dataset>-<hash>/<commit>.jsonl     the rows and columns that are used, nothing else

Rows are streamed, so that of hundreds of gigabytes only the first documents are downloaded. The file gets its name when
it is complete; a download that broke off begins anew the next time.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from remix_toolkit.console import info
from remix_toolkit.data import hub_problem
from remix_toolkit.data.files import Row, one_line
from remix_toolkit.disk import file_lock
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.recipe.catalog import local_alternative
from remix_toolkit.recipe.schema import Corpus, Source

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
    local_alternative: str = field(default="", compare=False)  # for messages: which local file does as well

    @property
    def name(self) -> str:
        """Its name in messages: dataset, configuration, split, revision."""
        return ", ".join(part for part in (self.hub, self.config, self.split, self.revision) if part)

    @property
    def folder(self) -> Path:
        """The folder in which the download is kept."""
        from huggingface_hub.constants import HF_HOME

        declared = {key: value for key, value in asdict(self).items() if key != "local_alternative"} | {"format": 2}
        digest = hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()[:12]
        return Path(HF_HOME, "remix-toolkit", f"{self.hub.strip('/').replace('/', '--')}-{digest}")


def select(name: str, source: Source | Corpus, columns: tuple[str, ...] = ()) -> Selection:
    """What is downloaded for the task or corpus of this name. Raises BadInput where it has no hub id."""
    if not source.hub:
        raise BadInput(f"{name}: has neither `path` nor `hub`")
    first = source.documents if isinstance(source, Corpus) else getattr(source, "first", None)
    columns = (source.column,) if isinstance(source, Corpus) else columns
    place = source.hub, source.config, source.split, source.revision
    return Selection(*place, columns, first, getattr(source, "data_dir", None), local_alternative(name))


def read_rows(selection: Selection) -> Iterator[Row]:
    """The selected rows, downloaded first if need be. Raises BadInput or RunFailed."""
    with fetch(selection).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            yield Row(f"{selection.hub}: row {number}", json.loads(line))


def cached_file(selection: Selection) -> Path | None:
    """The file with the rows, named after the commit that they are from; None if it is not on this machine."""
    return next(selection.folder.glob("*.jsonl"), None)


def newer_commit(selection: Selection) -> str | None:
    """The hub's commit today if the rows on this machine are from another; None without network or such rows."""
    file = cached_file(selection)
    try:
        commit = _current_commit(selection) if file else None
    except Exception:  # no network, or no access any more: the rows that are here stay in use
        return None
    return commit if file and commit != file.stem else None


def fetch(selection: Selection) -> Path:
    """The file with the rows. If it is not there, one process downloads it, and others wait for that.

    Raises BadInput where the dataset cannot be had (no such name, no access, no network), and RunFailed where the hub
    is busy or in trouble, or the stream breaks off.
    """
    if file := cached_file(selection):
        return file
    try:
        selection.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{selection.folder}: cannot be written ({error.strerror}); set HF_HOME to another") from None
    with file_lock(selection.folder / "lock"):
        return cached_file(selection) or _download(selection)


def _download(selection: Selection) -> Path:
    from datasets import load_dataset

    try:
        commit = hub_problem.ask(partial(_current_commit, selection))
        options = {"data_dir": selection.data_dir, "split": selection.split, "revision": commit}
        stream = hub_problem.ask(partial(load_dataset, selection.hub, selection.config, streaming=True, **options))
    except Exception as error:
        what = f"hub dataset {selection.name}: cannot be loaded"
        raise hub_problem.failure(what, error, "dataset", selection.hub, selection.local_alternative) from error
    draft, count = selection.folder / "rows.partial", 0
    try:
        with draft.open("wb") as out:
            for count, row in enumerate(stream.take(selection.first) if selection.first else stream, start=1):
                out.write(_as_line(selection, Row(f"{selection.hub}: row {count}", row)))
                if count % PROGRESS_ROWS == 0:
                    info(f"{selection.hub}: {count:,} rows")
    except BadInput:
        raise
    except Exception as error:  # a network that goes away shows in a dozen kinds of errors
        raise RunFailed(
            f"hub dataset {selection.name}: the download broke off after {count:,} rows ({one_line(error)}). The same "
            "command downloads it anew"
        ) from error
    info(f"{selection.hub}: all {count:,} rows are here, of commit {commit[:12]}")
    return draft.replace(selection.folder / f"{commit}.jsonl")


def _as_line(selection: Selection, row: Row) -> bytes:
    """The selected columns as a line of JSON; of a document of generic text, its beginning."""
    kept = {column: row.value(column, object) for column in selection.columns}
    for column, text in kept.items():
        if selection.first and isinstance(text, str):
            kept[column] = " ".join(text.split(maxsplit=MAX_WORDS)[:MAX_WORDS])
    return json.dumps(kept, ensure_ascii=False).encode() + b"\n"


def _current_commit(selection: Selection) -> str:
    """The commit that the revision stands for today; `local` for a dataset in a local folder."""
    from huggingface_hub import HfApi

    local = os.path.isdir(selection.hub)
    return "local" if local else str(HfApi().dataset_info(selection.hub, revision=selection.revision, timeout=20).sha)
