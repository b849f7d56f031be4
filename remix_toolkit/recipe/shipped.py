"""The recipes, sweeps and accelerate configs that come with the package, found by name from any folder.

They stand at the top of the repository, where a reader of it looks for them. `remix_toolkit/recipes` and
`remix_toolkit/accelerate_configs` are symbolic links to them: an editable install follows the links, and a wheel or an
sdist holds copies of the files in their place. So they are always found beside this package's code, without a build
hook and without a second lookup for checkouts. Nothing is ever written there.
"""

import os
from itertools import takewhile
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
PAPER = "paper/paper"  # what the paper prints and claims stands among the recipes and is none


def locate(name: str | Path, folder: str) -> Path | None:
    """The file that a name or a path means, or None where there is no such file.

    A bare name (`kvr`, `paper/table2`) is looked up as NAME.yaml in the user's `folder`, in the current folder, then in
    the package's `folder`. A relative path such as `recipes/kvr.yaml` that does not exist here is the package's.
    """
    path = Path(name)
    candidates = [path, in_package(path)]
    if path.suffix != ".yaml" and not path.is_absolute():
        file = Path(f"{path}.yaml")
        candidates = [path, folder / file, file, PACKAGE / folder / file]
    return next((file for file in candidates if os.path.exists(file) and not os.path.isdir(file)), None)


def here_or_shipped(path: str) -> str:
    """A path to a data file, unchanged unless only the package has such a file: then the path to that one."""
    shipped = in_package(Path(path))
    return str(shipped) if not os.path.exists(path) and os.path.exists(shipped) else path


def names(folder: str = "recipes") -> dict[str, Path]:
    """`kvr`, `paper/table2`, ...: the package's files in `folder` by the names under which they are found."""
    root = PACKAGE / folder
    files = sorted([*root.glob("*.yaml"), *root.glob("*/*.yaml")], key=lambda file: (len(file.parts), file))
    named = {file.relative_to(root).with_suffix("").as_posix(): file for file in files}
    return {name: file for name, file in named.items() if name != PAPER}


def summary(file: Path) -> str:
    """What a recipe's first comment says of it, in one line: its first paragraph."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if "yaml-language-server" not in line]
    comment = [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]
    return " ".join("\n".join(comment).strip().split("\n\n")[0].split())


def in_package(path: Path) -> Path:
    """The package's file of a path such as `recipes/kvr.yaml`; any other path is returned as it is."""
    plain = Path(os.path.normpath(path))
    return PACKAGE / plain if plain.parts[:1] in (("recipes",), ("accelerate_configs",)) else path
