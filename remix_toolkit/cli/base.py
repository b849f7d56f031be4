"""`remix base`: the base model, before anything is trained on it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from remix_toolkit.cli.options import Json, Runs
from remix_toolkit.cli.output import emit, keep_stdout_for_json, print_record

commands = typer.Typer()


@commands.command()
def base(
    profile: Annotated[str, typer.Argument(help="a profile's name, or its file")] = "smollm2",
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Download a profile's base model, unless it is here, and make it ready to be trained."""
    from remix_toolkit import store
    from remix_toolkit.console import silence_libraries
    from remix_toolkit.data import pretrained
    from remix_toolkit.data.encoding import load_tokenizer
    from remix_toolkit.graph import lineage
    from remix_toolkit.recipe.load import load_base
    from remix_toolkit.recipe.sft_fields import trusts_code

    silence_libraries()
    with keep_stdout_for_json(as_json):
        recipe = load_base(profile)
        pretrained.fetch(recipe)
        path, revision = store.base_model(recipe, store.open_store(runs))
        load_tokenizer(path, revision, trusts_code(recipe.train))
        ready: dict[str, Any] = {"base": recipe.base, **lineage.base(recipe), "path": path, "commit": revision}
    emit(ready, as_json, print_record)
