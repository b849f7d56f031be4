"""`remix run` and `remix stage`: all stages of a recipe, or one in each process of a launcher."""

import json
from pathlib import Path
from typing import Annotated

import typer

from remix_toolkit.cli.options import Overrides, Profile, RecipeArg, Runs, Seed
from remix_toolkit.stage.command import stage

commands = typer.Typer()


@commands.command()
def run(
    recipe: RecipeArg,
    overrides: Overrides = None,
    profile: Profile = "tiny",
    stage: Annotated[str | None, typer.Option(help="this stage only, and those before it if not published")] = None,
    seed: Seed = None,
    runs: Runs = Path("runs"),
    accelerate: Annotated[str | None, typer.Option(help="an accelerate config, in place of accelerate_config")] = None,
) -> None:
    """Train, publish and measure a recipe's stages; what is published already is reused."""
    from remix_toolkit import api
    from remix_toolkit.report.frame import load
    from remix_toolkit.report.screen import print_matrices

    overrides = [*(overrides or []), *([f"accelerate_config={json.dumps(accelerate)}"] if accelerate else [])]
    resolved = api.load_recipe(recipe, profile, overrides, seed)
    *_, folder = api.run(resolved, runs, stage).values()
    frame = load(runs, resolved.name)
    rows, key = frame.measured, folder.name.rpartition("-")[2]
    print_matrices(
        frame.where((rows["arm"] == resolved.name) & (rows["profile"] == resolved.profile) & (rows["run"] == key))
    )


commands.command()(stage)
