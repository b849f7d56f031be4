"""`remix store`: list what is published, check it, make room."""

import json
from pathlib import Path
from typing import Annotated

import typer

from remix_toolkit.cli.options import Json, Runs
from remix_toolkit.errors import RunFailed

commands = typer.Typer(no_args_is_help=True, help="What is published: list it, check it, make room.")


@commands.command("list")
def store_list(runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """Every published stage: its size, whether its weights are there, and how many runs it is part of."""
    from remix_toolkit.cli.print_store import listed, print_listed

    if as_json:
        typer.echo(json.dumps(listed(runs), indent=1))
    else:
        print_listed(runs)


@commands.command("verify")
def store_verify(
    runs: Runs = Path("runs"),
    remove: Annotated[bool, typer.Option("--remove", help="delete damaged stages, to be trained again")] = False,
) -> None:
    """Compare every file of every published stage with its checksum."""
    from remix_toolkit.cli.print_store import verify

    if wrong := verify(runs, remove):
        raise RunFailed(f"{wrong} damaged stages{' were removed' if remove else ''}")


@commands.command("prune")
def store_prune(
    runs: Runs = Path("runs"),
    keep: Annotated[str, typer.Option(help="leaves, none, or stages' names: whose weights stay")] = "leaves",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be deleted")] = False,
) -> None:
    """Delete weights of finished runs, never their results; a stage that is needed again is trained again."""
    from remix_toolkit.cli.print_store import delete_unneeded
    from remix_toolkit.graph.sweep import parse_keep

    delete_unneeded(runs, parse_keep(keep), dry_run)
