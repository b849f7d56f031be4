"""`python -m remix_toolkit`: the `remix` command."""

from remix_toolkit.cli.main import main

if __name__ == "__main__":
    main()
