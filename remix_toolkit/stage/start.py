"""Where a stage starts: at the model of the stage before it, or the base model."""

from pathlib import Path

from remix_toolkit import store
from remix_toolkit.data.tiny import base_model
from remix_toolkit.errors import BadInput
from remix_toolkit.graph.lineage import Node
from remix_toolkit.recipe.schema import Recipe


def starting_model(recipe: Recipe, node: Node, runs: Path) -> tuple[str, str | None]:
    """The directory of the stage before, checked against its manifest, or the base model and its revision.

    Raises BadInput where the stage before is not published, has no weights or is damaged.
    """
    if not node.ancestors:
        return base_model(recipe, runs)
    parent = store.find_stage(runs, node.ancestors[-1])
    if parent is None:
        raise BadInput(f"{recipe.name}: {node.stage} starts from a stage that is not published yet: run that first")
    if store.is_pruned(parent):
        raise BadInput(f"{recipe.name}: {node.stage} starts from {parent}, whose weights were deleted: run that again")
    store.verify(parent)
    return str(parent), None
