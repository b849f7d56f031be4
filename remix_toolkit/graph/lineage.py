"""The lineage: the chain of stages that leads to a model, and its key, a hash of all that determines the weights.

Two runs that agree on a chain share its stages, whatever their recipes are called. The key is over the declaration:
nothing is trained, loaded or tokenized to compute it. Local files count by their content, not by their path.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remix_toolkit.data import encoding, few_shot, gguf, identity, mixing, pretrained, tiny
from remix_toolkit.data.files import sha256
from remix_toolkit.data.identity import facts_ids, list_id, short_hash
from remix_toolkit.data.mixing import local_documents
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.measurements import requested
from remix_toolkit.recipe.difference import settings_of
from remix_toolkit.recipe.key_fields import NOT_IN_KEY
from remix_toolkit.recipe.remedies import REMEDIES
from remix_toolkit.recipe.schema import Factoid, Recipe, Rows, Stage
from remix_toolkit.recipe.sft_fields import field_type
from remix_toolkit.recipe.tiny_size import tiny_size
from remix_toolkit.records import FactList, RunRecord, RunStage
from remix_toolkit.store import UNSEALED

KEY = re.compile(r"[0-9a-f]{16}")  # a stage's

TRAIN_VERSION = 1  # raise it when train.py gives other weights for the same declaration
ADAPTER_VERSION = 2  # the same, of stages with an adapter
FAMILIAR_VERSION = 2  # raise it when familiar.py gives other verdicts for the same declaration


@dataclass(frozen=True)
class Node:
    """One stage of a recipe in the graph of stages."""

    stage: str
    position: int
    key: str  # 16 hexadecimal digits
    ancestors: tuple[str, ...]  # keys of the stages before, first stage first
    declaration: dict[str, Any]  # what the key is the hash of
    trained: "Node | None" = None  # where weights are changed after training: the stage as it is trained

    @property
    def keys(self) -> set[str]:
        """Its key, and that of the stage that it is made of."""
        return {self.key} | (self.trained.keys if self.trained else set())


def lineage(recipe: Recipe, until: str | None = None) -> list[Node]:
    """The recipe's stages in order (up to one, if only that is wanted), each with its key.

    Raises BadInput for an unknown stage and for local files that are not there.
    """
    names = list(recipe.stages)[: recipe.position(until) + 1 if until else None]
    start = _start(recipe)
    nodes: list[Node] = []
    stages: list[dict[str, Any]] = []
    for position, name in enumerate(names):
        stage, ancestors = recipe.stages[name], tuple(node.key for node in nodes)
        trained = None
        if stage.as_trained:
            declaration = {**start, "stages": [*stages, _stage(recipe, stage.as_trained)]}
            trained = Node(name, position, short_hash(declaration), ancestors, declaration)
        stages.append(_stage(recipe, stage))
        declaration = {**start, "stages": list(stages)}
        nodes.append(Node(name, position, short_hash(declaration), ancestors, declaration, trained))
    return nodes


def _start(recipe: Recipe) -> dict[str, Any]:
    """What a declaration has besides the stages."""
    versions = {"train": TRAIN_VERSION, "tulu": encoding.VERSION, "overlap": mixing.VERSIONS["overlap"]}
    if recipe.adapter and not _as_in_version_1(recipe):
        versions["adapter"] = ADAPTER_VERSION
    return {
        "base": base(recipe),
        "precision": recipe.precision,
        "adapter": recipe.adapter,
        **({"quantization": recipe.quantization} if recipe.quantization else {}),
        "global_batch_size": recipe.global_batch_size,
        "seed": recipe.seed,
        "versions": versions,
    }


def _as_in_version_1(recipe: Recipe) -> bool:
    """Were the adapter and the base held in the same dtypes before there was one rule for them?"""
    return recipe.precision != "bf16" and recipe.quantization is None


def run_record(
    recipe: Recipe, nodes: list[Node], arm: str, grid_point: str = "", overrides: dict[str, Any] | None = None
) -> RunRecord:
    """Which stages this run consists of, and which lists of facts are measured after each.

    `overrides` are the settings that the command line changed; without a sweep, all of them.
    """
    settings, trained = settings_of(recipe), facts_ids(recipe)
    return RunRecord(
        recipe=recipe.name,
        arm=arm,
        grid_point=grid_point,
        profile=recipe.profile,
        seed=recipe.seed,
        source=recipe.source,
        settings=settings,
        overrides=settings if overrides is None else overrides,
        stages=[
            RunStage(
                stage=node.stage,
                key=node.key,
                task=recipe.stages[node.stage].data.task,
                trained=trained[node.stage],
                lists=fact_lists(recipe, node.position),
                measurements=sorted(requested(recipe, node.stage)),
            )
            for node in nodes
        ],
    )


def fact_lists(recipe: Recipe, position: int) -> dict[str, FactList]:
    """The lists of facts measured after a stage, by id: those of all stages so far, and those that it names itself.

    A label is the task's name; where a recipe has two lists of one task, the stage or the rows stand beside the name.
    """
    lists: dict[str, tuple[str, str]] = {}  # id -> the task, and what tells it from another list of that task
    trained = facts_ids(recipe)
    for name, id_ in trained.items():
        lists.setdefault(id_, (recipe.stages[name].data.task, f" of {name}"))
    for stage in recipe.stages.values():
        for task in stage.recall:
            lists.setdefault(list_id(task, recipe), (task.task, _details(task)))
    names = Counter(task for task, _ in lists.values())
    labels = {id_: task + (details if names[task] > 1 else "") for id_, (task, details) in lists.items()}
    taken = Counter(labels.values())
    labels = {id_: label if taken[label] == 1 else f"{label} ({id_})" for id_, label in labels.items()}
    stages = list(recipe.stages.values())[: position + 1]
    measured = [id_ for id_, stage in zip(trained.values(), stages, strict=False) if isinstance(stage.data, Factoid)]
    measured += [list_id(task, recipe) for task in stages[position].recall]
    return {id_: FactList(task=lists[id_][0], label=labels[id_]) for id_ in measured}


def _details(task: Rows) -> str:
    """What tells a list of a recipe's `recall` from others of its task: ` unfamiliar[0:100] of facts.csv, few-shot`."""
    rows = f"[{task.start}:{'' if task.size is None else task.start + task.size}]"
    file = f" of {Path(path).name}" if (path := getattr(task, "path", None)) else ""
    familiarity = f" {task.familiarity}" if isinstance(task, Factoid) and task.familiarity else ""
    prompt = ", few-shot" if isinstance(task, Factoid) and task.prompt == "few_shot" else ""
    return familiarity + rows + file + prompt


def base(recipe: Recipe) -> dict[str, Any]:
    """What determines the base model: the tiny one's text, the files of a directory, a GGUF file, or a hub id."""
    if size := tiny_size(recipe.base):
        return tiny.identity(recipe.base, size)
    model = pretrained.locate(recipe)
    if model.gguf:
        return {"gguf": sha256(model.gguf), "version": gguf.VERSION}
    if os.path.exists(model.source):
        return {"files": identity.hash_source(model.source, without=UNSEALED)}
    return {"hub": model.source, "revision": model.revision}


def _stage(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    declared = {
        "data": identity.declaration(stage.data, recipe),
        "mix": _mix(recipe, stage),
        "train": _train(stage),
        "stop": stage.stop.model_dump() if stage.stop else None,
    }
    if stage.adapter:
        declared["adapter"] = {**stage.adapter, "version": ADAPTER_VERSION}
    for name in REMEDIES:
        if spec := getattr(stage, name):
            declared[name] = {**spec.model_dump(exclude_defaults=True), "version": spec.version}
    if stage.match is None:
        return declared
    if not KEY.fullmatch(stage.match.other):
        raise BadInput(f"{recipe.name}: match: {stage.match.other!r} is an arm; only a sweep has arms: `remix sweep`")
    return declared | {"match": stage.match.model_dump(exclude_none=True)}


def _train(stage: Stage) -> dict[str, Any]:
    """The training arguments that determine the weights, a float as a float: 60 epochs are 60.0 epochs."""
    kept = {field: value for field, value in stage.train.items() if field not in NOT_IN_KEY}
    init = dict(kept.pop("model_init_kwargs", None) or {})
    init.pop("attn_implementation", None)
    kept = {f: float(v) if field_type(f) == "float" and v is not None else v for f, v in kept.items()}
    return kept | ({"model_init_kwargs": init} if init else {})


def _mix(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    sources: dict[str, Any] = {}
    for source, spec in stage.mix.model_dump(exclude_none=True).items():
        if spec.get("ratio") == 0:  # nothing is drawn: the same as no mixing
            continue
        text = spec.pop("text", None)
        path = spec.pop("path", None)
        if text or path:
            spec = {key: value for key, value in spec.items() if key in {"ratio", "words", "column", "documents"}}
        if text == "pydoc":
            spec["text"] = hashlib.sha256("\n".join(local_documents("pydoc")).encode()).hexdigest()
        elif text or path:
            spec["text" if text else "path"] = text if text == "nltk" else identity.hash_source(text or path)
        if "stage" in spec:
            spec["stage"] = recipe.position(spec["stage"])  # stages are named freely; their place is what counts
        if not spec.get("redraw", True):
            del spec["redraw"]
        sources[source] = {**spec, "version": mixing.VERSIONS[source]}
    return sources


def base_results(runs: Path, declaration: Mapping[str, Any]) -> Path:
    """Where it is kept what was measured of the base model of a stage with this declaration, as it is published."""
    published = "fp32" if declaration["precision"] == "fp32" else "bf16"
    return runs / "measured" / short_hash({"base": declaration["base"], "precision": published})


def split_folder(recipe: Recipe, task: Factoid, runs: Path) -> Path:
    """Where the verdicts of the recipe's base model on this task are kept."""
    return runs / "familiar" / f"{task.task}-{split_key(recipe, task)}"


def split_key(recipe: Recipe, task: Factoid) -> str:
    """A hash of what determines the verdicts: the model that is asked, the task's rows, the prompt."""
    return identity.short_hash(split_declaration(recipe, task))


def split_declaration(recipe: Recipe, task: Factoid) -> dict[str, Any]:
    """What the key of a familiarity split is the hash of."""
    stage = lineage(recipe, until=recipe.base_stage)[-1].key if recipe.base_stage else None
    return {
        "base": {"stage": stage} if stage else base(recipe),
        "precision": recipe.precision,
        "task": identity.source_declaration(task, recipe.data_seed),
        "few_shot": recipe.few_shot.model_dump(exclude={"format"}),  # all of them are asked
        "versions": {"familiar": FAMILIAR_VERSION, "few_shot": few_shot.VERSION, "tulu": encoding.VERSION},
    }
