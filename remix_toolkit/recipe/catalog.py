"""Every task and mixing source, from catalog.yaml: for `remix data list` and for messages about missing files."""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from remix_toolkit.recipe.yaml_file import load_mapping


class CatalogEntry(BaseModel):
    """One task or mixing source."""

    kind: Literal["facts", "instructions", "mixing"]
    characters: tuple[int, int] = (0, 0)  # of the prompt, of the response
    random: tuple[int, int] = (0, 0)  # random ones besides
    about: str
    licence: str
    size: str
    hub: str | None
    local: str | None


@cache
def catalog() -> dict[str, CatalogEntry]:
    """All entries by name, in the order of the file."""
    entries, _ = load_mapping(Path(str(resources.files("remix_toolkit.recipe")), "catalog.yaml"))
    return {name: CatalogEntry.model_validate(entry) for name, entry in entries.items()}


def local_alternative(name: str) -> str:
    """The end of a message about the hub: which local file would do instead."""
    local = catalog()[name].local
    return f"Or download upstream's file ({local}) yourself and set path=FILE (in a recipe, paths.{name})"
