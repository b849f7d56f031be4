"""Where a stage starts: at the model of the stage before it, with the data that it was declared to have."""

from pathlib import Path

from remix_toolkit import store
from remix_toolkit.data.tiny import base_model
from remix_toolkit.errors import BadInput
from remix_toolkit.graph.lineage import Node
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import Fingerprints, StageRecord
from remix_toolkit.stage.data import StageData


def starting_model(recipe: Recipe, node: Node, runs: Path) -> tuple[str, str | None]:
    """The directory of the stage before, checked against its manifest, or the base model and its revision.

    Raises BadInput where the stage before is not published, has no weights or is damaged.
    """
    if not node.ancestors:
        return base_model(recipe, runs)
    parent = store.find(runs, node.ancestors[-1])
    if parent is None:
        raise BadInput(f"{recipe.name}: {node.stage} starts from a stage that is not published yet: run that first")
    if store.is_pruned(parent):
        raise BadInput(f"{recipe.name}: {node.stage} starts from {parent}, whose weights were deleted: run that again")
    store.verify(parent)
    return str(parent), None


def check_fingerprints(recipe: Recipe, node: Node, data: StageData, runs: Path) -> None:
    """Raise BadInput unless the data are the pairs that this stage, begun or published, and its ancestors trained on.

    A key is a hash of the declaration: a source that changed behind it (a hub's dataset, a corpus) is noticed here.
    """
    names = list(recipe.stages)
    for name, key, facts in zip(names, node.ancestors, data.earlier, strict=False):
        folder = store.find(runs, key)
        if folder and StageRecord.read(folder / "stage.json").fingerprints.facts != facts:
            raise BadInput(_data_changed(recipe, name, folder))
    published, begun = store.find(runs, node.key), store.work_dir(runs, node.key)
    recorded = Fingerprints.read_if_exists(begun / "fingerprints.json")
    if published:
        recorded = StageRecord.read(published / "stage.json").fingerprints
    if recorded is not None and recorded != Fingerprints.model_validate(data.fingerprints):
        raise BadInput(_data_changed(recipe, node.stage, published or begun))


def _data_changed(recipe: Recipe, stage: str, folder: Path) -> str:
    return (
        f"{recipe.name}: the data of {stage} is not what {folder} was trained on: its source has changed since. "
        "Delete that directory to train the stage on what the source holds now"
    )


def describe(data: StageData) -> str:
    """`100 facts + 200 random_words`, and what was dropped."""
    unit = "rows" if data.held_out else "facts"
    parts = [f"{data.counts['facts']} {unit}", *(f"{n} {source}" for source, n in data.counts["mixing"].items())]
    return " + ".join(parts) + "".join(f", {n} dropped: {why}" for why, n in data.counts["dropped"].items())
