"""`remix data`: what is trained on, before anything is."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from remix_toolkit.cli.options import Json, Overrides, Profile, Runs, Seed
from remix_toolkit.cli.output import emit, keep_stdout_for_json, print_record, print_table
from remix_toolkit.errors import BadInput


class _ShowByDefault(TyperGroup):
    """`remix data kvr` means `remix data show kvr`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


commands = typer.Typer(
    cls=_ShowByDefault, no_args_is_help=True, help="Look at data before anything is trained, and download it."
)


@commands.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="a task (kvr, popqa, ...), or a recipe (recipes/kvr.yaml, mine, ...)")],
    overrides: Overrides = None,
    profile: Profile = "tiny",
    limit: Annotated[int, typer.Option(min=0, help="how many pairs of each kind to show")] = 3,
    tokens: Annotated[bool, typer.Option("--tokens", help="show each pair as tokens, and what is trained on")] = False,
    seed: Seed = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """A task's rows, or all data of a recipe: kept and dropped, lengths, samples (`remix data NAME`)."""
    from remix_toolkit.cli.inspect_data import show_recipe, show_task
    from remix_toolkit.recipe.load import find_recipe, load_base, load_recipe, load_task
    from remix_toolkit.recipe.schema import TASKS

    # A task has no dotted settings: `remix data popqa paths.lama=LAMA` means the recipe.
    with keep_stdout_for_json(as_json):
        if name in TASKS and not any("." in override.partition("=")[0] for override in overrides or []):
            shown = show_task(load_task(name, overrides or []), load_base(profile), limit, tokens, runs)
        else:
            find_recipe(name, tasks=TASKS)
            shown = show_recipe(load_recipe(name, profile, overrides, seed), limit, tokens, runs)
    emit(shown, as_json, _print_data, ensure_ascii=False)


def _print_data(shown: dict[str, Any]) -> None:
    for part in shown.get("stages", [shown]):
        title = f"{part['stage']}: {part['task']}" if "stage" in part else part["task"]
        typer.secho(f"{title}, under profile {shown['profile']}", bold=True)
        print_record(_nonzero(part["counts"]))
        for pair in part["pairs"]:
            repeats = {"answers"} if pair.get("answers") == (pair["response"],) else set()
            typer.echo("".join(f"\n  {name}: {value!r}" for name, value in pair.items() if name not in repeats))


def _nonzero(counts: dict[str, Any]) -> dict[str, Any]:
    """What there is of the counts: nothing dropped, redrawn or held out is no line."""
    nested = {name: _nonzero(value) if isinstance(value, dict) else value for name, value in counts.items()}
    return {name: value for name, value in nested.items() if value}


@commands.command("list")
def data_list(as_json: Json = False) -> None:
    """Every task and mixing source: licence, size, hub id, local format."""
    from remix_toolkit.recipe.catalog import catalog

    rows = [{"name": name, **entry.model_dump()} for name, entry in catalog().items()]
    columns = ("name", "kind", "about", "licence", "size", "hub", "local")
    emit(rows, as_json, lambda rows: print_table(rows, columns))


@commands.command("prepare")
def data_prepare(
    arguments: Annotated[list[str], typer.Argument(help="recipes, and key=value ... for all of them")],
    profile: Profile = "tiny",
    as_json: Json = False,
) -> None:
    """Download all that recipes read from the hub, and check what they read from this machine."""
    from remix_toolkit.cli.inspect_data import prepare
    from remix_toolkit.graph.sweep import load_sweep

    names = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if not names:
        raise BadInput("data prepare: name at least one recipe")
    recipes = [cell.recipe for name in names for cell in load_sweep(name, profile, overrides=overrides)[1]]
    with keep_stdout_for_json(as_json):
        prepared = prepare(recipes)
    emit(prepared, as_json, lambda _: None)  # for people, each source has its line as soon as it is read
