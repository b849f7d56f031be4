"""Every task and mixing source by name, as catalog.yaml has them: `remix data list`, and what errors say of files."""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from remix_toolkit.recipe.yaml_file import load_mapping


class CatalogEntry(BaseModel):
    """One task or source."""

    kind: Literal["facts", "instructions", "mixing"]
    characters: tuple[int, int] = (0, 0)  # of the prompt, of the response
    about: str
    licence: str
    size: str
    hub: str | None
    local: str | None


@cache
def catalog() -> dict[str, CatalogEntry]:
    """All entries by name, in the order in which they are listed."""
    read, _ = load_mapping(Path(str(resources.files("remix_toolkit.recipe")), "catalog.yaml"))
    return {name: CatalogEntry.model_validate(entry) for name, entry in read.items()}


def local_alternative(name: str) -> str:
    """What to do where the hub cannot be reached: which file to put where."""
    local = catalog()[name].local
    return f"Or have upstream's file ({local}) on this machine and say path=FILE (in a recipe paths.{name})"
