"""From which weights a published stage descends: its key names its ancestors, not the bits that they were trained to.

Where a stage was trained again (after its directory was deleted, or its weights were) and came out with other bits, the
stages that started from the former ones are the children of another model, though the keys are the same.
"""

from collections.abc import Mapping
from pathlib import Path

from remix_toolkit.records import Manifest, StageRecord
from remix_toolkit.seals import MANIFEST, WEIGHTS

Weights = dict[str, str]  # file -> SHA-256


def weights(folder: Path) -> Weights:
    """The weights' files of a published stage, as its manifest has them; none where there is no manifest."""
    manifest = Manifest.read_if_exists(folder / MANIFEST)
    files = manifest.files if manifest else {}
    return {name: seal.sha256 for name, seal in files.items() if name.endswith(WEIGHTS)}


def lineage_weights(folder: Path) -> dict[str, Weights]:
    """The weights of a published stage and of those that it descends from, by key, as far back as is recorded.

    Raises BadInput where a record cannot be read.
    """
    record = StageRecord.read_if_exists(folder / "stage.json")
    known = {record.key: weights(folder)} if record else {}
    while record and record.parent_weights is not None:
        parent_key = record.ancestors[-1]
        known[parent_key] = record.parent_weights
        named = folder.parent / Path(record.started_from).name
        parent = named if named.is_dir() else next(folder.parent.glob(f"*-{parent_key}"), None)  # a slow search
        if parent is None or weights(parent) != record.parent_weights:
            break  # what is published under that key now is not the parent, and has other ancestors perhaps
        record = StageRecord.read(parent / "stage.json")
    return known


def retrained_ancestor(a: Mapping[str, Weights], b: Mapping[str, Weights]) -> str | None:
    """The key of a stage from which two published stages descend, but from other weights each; None if there is none.

    `a` and `b` are their `lineage_weights`.
    """
    return next((key for key, files in a.items() if key in b and b[key] != files), None)
