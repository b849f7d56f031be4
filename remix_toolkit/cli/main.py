"""The `remix` command. Nothing heavy is imported before a command needs it: help is on the screen at once."""

from typing import TYPE_CHECKING

from remix_toolkit.errors import exit_on_error

if TYPE_CHECKING:
    import typer


def main() -> None:
    """The console script."""
    exit_on_error(_command)


def _command() -> None:
    command_line()()


def command_line() -> "typer.Typer":
    """All commands."""
    import typer  # here: Ctrl-C ends the command from its first moment on

    from remix_toolkit.cli import advise, base, data, plan, probe, recipes, report, run, store, sweep

    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Teach a model facts that stay.",
    )
    for module in (run, base, plan, sweep, advise, recipes, report, probe):
        app.add_typer(module.commands)
    app.add_typer(data.commands, name="data")
    app.add_typer(store.commands, name="store")
    return app
