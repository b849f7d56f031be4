"""`python -m remix_toolkit.stage`: `remix stage`, as accelerate launches it.

    accelerate launch --config_file accelerate_configs/fsdp_4gpu.yaml -m remix_toolkit.stage \\
        recipes/kvr.yaml --profile llama3-8b --stage stage1
"""

from remix_toolkit.errors import exit_on_error


def main() -> None:
    """The command."""
    exit_on_error(_command)


def _command() -> None:
    import typer

    from remix_toolkit.stage.command import stage

    typer.run(stage)


if __name__ == "__main__":
    main()
