"""How commands answer: one record, as JSON for machines or as a table for people; and the files that they write."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from remix_toolkit.errors import BadInput

R = TypeVar("R")


def emit(record: R, as_json: bool, show: Callable[[R], object], **options: Any) -> None:
    """Print a record as JSON (`options` are those of json.dumps), or in the words of `show`."""
    if as_json:
        json.dump(record, sys.stdout, **{"indent": 1, **options})  # as it goes: a large plan's text is as large as it
        typer.echo()
    else:
        show(record)


def print_record(record: Mapping[str, Any]) -> None:
    """A line for each value that is there, under its name in the JSON: `tokens_per_epoch.with_padding  3,200`."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _values(record):
        if value not in (None, []):
            table.add_row(name, _text(name, value))
    _console().print(table)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str | None = None) -> None:
    """A line for each record; `columns` are the names of the values that are shown."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        numbers = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(name, row[name]) for name in columns))
    _console().print(table)


def _console() -> Console:
    return Console(width=None if Console().is_terminal else 160, highlight=False, markup=False)


def _values(record: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _values(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _text(name: str, value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if "bytes" in name and isinstance(value, int):
        return decimal(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def keep_stdout_for_json(as_json: bool) -> AbstractContextManager[Any]:
    """With --json, progress goes to stderr: stdout is for machines."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def write_output(file: Path | None, text: str) -> None:
    """Write a text into a file, or to stdout. Raises BadInput where it cannot be written."""
    if file is None:
        return typer.echo(text, nl=False)
    if (file.parent / "stage.json").exists():  # a recipe may name the stage as its base: every file in it counts
        raise BadInput(
            f"--output {file}: is in a published stage, which stays as it is; write it beside that directory"
        )
    check_writable(file, "--output")
    file.write_text(text, encoding="utf-8")


def check_plot_file(file: Path | None, option: str) -> None:
    """Raise BadInput where a plot cannot be drawn into this file."""
    if file and file.suffix not in (".png", ".pdf", ".svg"):
        raise BadInput(f"{option} {file}: a name that ends in .png, .pdf or .svg is expected")
    check_writable(file, option)


def check_writable(file: Path | None, option: str) -> None:
    """Raise BadInput, before the work and not after it, if a result could not be written."""
    try:
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("a").close()
    except OSError as error:
        raise BadInput(f"{option} {file}: cannot be written ({error.strerror})") from None
