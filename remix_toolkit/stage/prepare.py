"""All that is made ready and checked before a stage is trained: its data, its settings, where it starts."""

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from transformers import AutoConfig

from remix_toolkit import store
from remix_toolkit.console import silence_libraries
from remix_toolkit.data.encoding import load_tokenizer
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.base import Subject
from remix_toolkit.evaluate.measurements import MEASUREMENTS
from remix_toolkit.graph.lineage import Node, fact_lists
from remix_toolkit.recipe.schema import Recipe, Stage
from remix_toolkit.recipe.sft_fields import max_length, trusts_code
from remix_toolkit.stage import adapter, familiar, private_api, train
from remix_toolkit.stage.data import StageData, build_all
from remix_toolkit.stage.ranks import main_process_first


@dataclass(frozen=True)
class PreparedStage:
    """A stage that can be trained and measured: its data is built, and its settings are checked."""

    recipe: Recipe
    node: Node
    data: StageData
    runs: Path

    @property
    def stage(self) -> Stage:
        """What the recipe declares of it."""
        return self.recipe.stages[self.node.stage]

    @property
    def trained(self) -> "PreparedStage | None":
        """The same stage as it is trained, where its weights are changed after that."""
        trained = self.node.trained
        return replace(self, recipe=self.recipe.as_trained(trained.stage), node=trained) if trained else None

    @property
    def work(self) -> Path:
        """Where it is trained and put together."""
        return store.work_dir(self.runs, self.node.key)

    @property
    def draft(self) -> Path:
        """What is to be published, beside the checkpoints."""
        return self.work / "draft"

    @property
    def published_name(self) -> str:
        """The name of its directory, once it is published."""
        return f"{self.recipe.name}-{self.node.stage}-seed{self.recipe.seed}-{self.node.key}"

    @property
    def subject(self) -> Subject:
        """What the measurements are given of it."""
        return Subject(
            recipe=self.recipe,
            stage=self.node.stage,
            lists=fact_lists(self.recipe, self.node.position),
            facts=self.data.measured,
            pairs=self.data.facts,
            mixing=self.data.mixing,
            held_out=self.data.held_out,
            max_length=max_length(self.stage.train),
            known=partial(familiar.known_facts, self.recipe, self.runs),
        )


def prepare(recipe: Recipe, nodes: list[Node], runs: Path, ask: bool = True) -> list[PreparedStage]:
    """Some stages in order, after every check that can be made before training. Raises BadInput.

    Without `ask`, facts count as qualified where it is not known yet whether the base model knows them.
    """
    silence_libraries()
    trust = trusts_code(recipe.train)
    with main_process_first():  # which builds it: in the others, transformers saves nothing
        source, revision = store.base_model(recipe, runs)
    tokenizer = load_tokenizer(source, revision, trust_remote_code=trust)
    keys = dict(zip(recipe.stages, [*nodes[-1].ancestors, nodes[-1].key], strict=False))
    data = build_all(recipe, [node.stage for node in nodes], tokenizer, runs, ask, keys)
    prepared = [PreparedStage(recipe, node, data[node.stage], runs) for node in nodes]
    for stage in prepared:
        for measurement in MEASUREMENTS:
            if measurement.requested(recipe, stage.node.stage):
                measurement.check(stage.subject)
    for stage in prepared:
        _check_layers(stage)
        adapter.peft_config(recipe.of_stage(stage.node.stage).adapter)
    adapter.quantization(recipe)
    if "LOCAL_RANK" not in os.environ:  # else this process is one of a launcher's, which was checked before
        for stage in prepared:  # on the CPU: the devices may be for a launcher's processes
            train.sft_config(recipe, stage.stage, stage.work, 1, use_cpu=True)
        private_api.forget_devices()  # SFTConfig chose the CPU for the whole process
    return prepared


def _check_layers(prepared: PreparedStage) -> None:
    freeze = prepared.stage.freeze
    if freeze and freeze.layers:
        source, revision = store.base_model(prepared.recipe, prepared.runs)
        trust = trusts_code(prepared.stage.train)
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust).get_text_config()
        if freeze.layers > config.num_hidden_layers:
            where = f"{prepared.recipe.name}: stages.{prepared.node.stage}.freeze.layers"
            raise BadInput(f"{where}: is {freeze.layers}; the base model has {config.num_hidden_layers} layers")


def starting_model(prepared: PreparedStage, verify: bool = True) -> tuple[str, str | None]:
    """The directory of the stage before, checked against its manifest, or the base model and its revision.

    Raises BadInput where the stage before is not published, has no weights or is damaged.
    """
    recipe, node = prepared.recipe, prepared.node
    if not node.ancestors:
        return store.base_model(recipe, prepared.runs)
    parent = store.find_stage(prepared.runs, node.ancestors[-1])
    if parent is None:
        raise BadInput(f"{recipe.name}: {node.stage} starts from a stage that is not published yet: run that first")
    if store.is_pruned(parent):
        raise BadInput(f"{recipe.name}: {node.stage} starts from {parent}, whose weights were deleted: run that again")
    if verify:
        store.verify(parent)
    return str(parent), None
