"""`remix recipes` and `remix new`: the recipes and sweeps that come with the package, and copies of them to edit."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from remix_toolkit.cli.options import Json
from remix_toolkit.cli.output import emit, print_record, print_table
from remix_toolkit.errors import BadInput, nearest

commands = typer.Typer()


@commands.command()
def recipes(as_json: Json = False) -> None:
    """The recipes and sweeps that come with the package: what each one shows, and the command that runs it."""
    from remix_toolkit.graph.sweep import is_sweep
    from remix_toolkit.recipe import shipped

    rows = []
    for name, file in shipped.names().items():
        kind = "sweep" if is_sweep(str(file)) else "recipe"
        command = f"remix {'sweep' if kind == 'sweep' else 'run'} {name}"
        rows.append({"name": name, "kind": kind, "about": shipped.summary(file), "command": command, "path": str(file)})
    emit(rows, as_json, _print_recipes, ensure_ascii=False)


def _print_recipes(rows: list[dict[str, Any]]) -> None:
    from remix_toolkit.recipe import shipped

    print_table(rows, ("command", "about"))
    print_record({"accelerate configs": list(shipped.names("accelerate_configs")), "files": str(shipped.PACKAGE)})


@commands.command()
def new(
    name: Annotated[str, typer.Argument(help="one of `remix recipes`")],
    as_file: Annotated[
        Path | None, typer.Option("--as", help="the new file [default: NAME.yaml in this folder]")
    ] = None,
) -> None:
    """Copy a recipe or sweep of the package, with the files that it names, into this folder, to edit it."""
    from remix_toolkit.recipe import shipped

    files = shipped.names()
    if name not in files:
        raise BadInput(f"new {name}: no such recipe; {nearest(name, files)}")
    target = as_file or Path(f"{Path(name).name}.yaml")
    if target.suffix != ".yaml":
        raise BadInput(f"--as {target}: a name that ends in .yaml is expected")
    copies = copies_of(files[name], target)
    for file, content in copies.items():
        if file.exists() and (file == target or file.read_bytes() != content):  # two sweeps may share their recipe
            raise BadInput(f"{file}: exists already and is not overwritten; choose another name with --as FILE")
    for file, content in copies.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        except OSError as error:
            raise BadInput(f"{file}: cannot be written ({error.strerror})") from None
        typer.echo(file)


def copies_of(file: Path, target: Path) -> dict[Path, bytes]:
    """Path -> content of each file to write, so that a shipped recipe or sweep becomes the user's own at `target`.

    The files that it names are copied into the same folder, and the copy names them by their new paths: recipes from
    the folder of the sweep that refers to them, data files from the current one. A data file that is called like the
    recipe is called like its copy.
    """
    from remix_toolkit.recipe.shipped import in_package

    copies: dict[Path, bytes] = {}
    pending = [(file, target)]
    while pending:
        source, copy = pending.pop()
        text = source.read_text(encoding="utf-8")
        for name in sorted(set(re.findall(r"[\w./-]+", re.sub(r"#.*", "", text)))):
            recipe, data = source.parent / name, in_package(Path(name))
            if name.endswith(".yaml") and recipe.is_file():
                beside = copy.with_name(recipe.name)
                pending.append((recipe, beside))
                text = text.replace(name, beside.name)
            elif data != Path(name) and data.is_file():
                beside = copy.with_name((copy.stem if data.stem == source.stem else data.stem) + data.suffix)
                copies[beside] = data.read_bytes()
                text = text.replace(name, str(beside))
        copies[copy] = text.encode()
    return copies
