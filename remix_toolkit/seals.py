"""Is a published stage or a base model what it was when its manifest was written?"""

import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from remix_toolkit.console import warn
from remix_toolkit.data.files import sha256
from remix_toolkit.disk import Damaged, unreadable
from remix_toolkit.records import FileSeal, Manifest

MANIFEST = "manifest.json"
PRUNED = "pruned.json"  # the weights were deleted, and which files those were
WEIGHTS = ".safetensors"
SHOWN = {"stage.json", "recipe.yaml", "loss.csv", "retention.jsonl"}  # what `show`, the report and their like read


def find_damage(folder: Path, checksums: bool, inner: str = "", but: Collection[str] = ()) -> Damaged | None:
    """What is wrong with a directory's sealed files (those in its folder `inner`, if given); None if nothing is.

    Those that `but` names are not looked at.

    Without `checksums`, those of the files in SHOWN are compared, and of the others the sizes.
    """
    try:
        files = sealed_files(folder)
    except Damaged as error:
        return error
    for name, seal in files.items():
        if name in but or not name.startswith(inner):
            continue
        file = folder / name
        try:
            about = file.stat()
            intact = stat.S_ISREG(about.st_mode) and about.st_size == seal.bytes
            if intact and (checksums or name in SHOWN):
                intact = sha256(file) == seal.sha256
        except FileNotFoundError:
            if name.endswith(WEIGHTS) and os.path.lexists(folder / PRUNED):  # perhaps by a sweep just now
                continue
            return Damaged(folder, f"{name} is missing")
        except OSError as error:
            return unreadable(folder, error, name)
        if not intact:
            return Damaged(folder, f"{name} is not the file that was published (its checksum differs)")
    return None


def undamaged(stages: Mapping[str, Path]) -> dict[str, Path]:
    """Those of some published stages, by key, in which `find_damage` finds none; the others are named in a warning."""
    damages = {key: find_damage(folder, checksums=False) for key, folder in stages.items()}
    for damage in filter(None, damages.values()):
        warn(f"{damage}: this stage is left out")
    return {key: folder for key, folder in stages.items() if not damages[key]}


def sealed_files(folder: Path) -> dict[str, FileSeal]:
    """The files that a manifest names. Raises Damaged where it cannot be read, or where one is not in the folder."""
    files = Manifest.read(folder / MANIFEST).files
    for inner in {parent for name in files if "/" in name for parent in Path(name).parents if parent.name}:
        if leads_out(folder / inner, folder):
            raise Damaged(folder, f"{inner} is a link that leads out of the folder")
    return files


def leads_out(path: Path, folder: Path) -> bool:
    """Is this a link to somewhere outside of the folder?"""
    return os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
