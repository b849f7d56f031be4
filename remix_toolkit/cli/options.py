"""The arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

RecipeArg = Annotated[str, typer.Argument(help="a recipe file, or the name of one in recipes/")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value ..., such as stages.stage1.data.size=50")]
Profile = Annotated[str, typer.Option(help="which base model at which scale: a profile's name, or its file")]
Seed = Annotated[int | None, typer.Option(help="seed of order and mixing data [default: the recipe's, else 0]")]
Runs = Annotated[Path, typer.Option(help="where stages are published")]
Json = Annotated[bool, typer.Option("--json", help="for machines")]
SweepArg = Annotated[str, typer.Argument(help="a sweep or recipe: a file, or the name of one in recipes/")]
SweepProfile = Annotated[str | None, typer.Option(help="another profile than the sweep's")]
Seeds = Annotated[list[int] | None, typer.Option(help="a seed; again for more [default: the sweep's]")]
JobsAtOnce = Annotated[
    int | None,
    typer.Option(
        min=1, help="stages at once [default: one a GPU; tiny ones, one a core; with SLURM, all that it takes]"
    ),
]
