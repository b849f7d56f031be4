"""What commands have in common: their arguments and options, and the files that they write."""

import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from remix_toolkit.errors import BadInput

RecipeArg = Annotated[str, typer.Argument(help="a recipe file, or the name of one in recipes/")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value ..., such as stages.stage1.data.size=50")]
Profile = Annotated[str, typer.Option(help="which base model at which scale: a profile's name, or its file")]
Seed = Annotated[int | None, typer.Option(help="seed of order and mixing data [default: the recipe's, else 0]")]
Runs = Annotated[Path, typer.Option(help="where stages are published")]
Json = Annotated[bool, typer.Option("--json", help="for machines")]
SweepArg = Annotated[str, typer.Argument(help="a sweep or recipe: a file, or the name of one in recipes/")]
SweepProfile = Annotated[str | None, typer.Option(help="another profile than the sweep's")]
Seeds = Annotated[list[int] | None, typer.Option(help="a seed; again for more [default: the sweep's]")]
JobsAtOnce = Annotated[int | None, typer.Option(min=1, help="stages at once [default: as devices allow]")]


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
