"""What is refused in a recipe, as messages: file and line, key, what is wrong, what would be right."""

from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe.catalog import catalog
from remix_toolkit.recipe.credentials import refuse_credentials
from remix_toolkit.recipe.ranges import LIMITS, MOST_ROWS
from remix_toolkit.recipe.schema import CORPORA, TASKS, Factoid, Pairs, Recipe
from remix_toolkit.recipe.sft_fields import device_batch
from remix_toolkit.recipe.tiny_size import problem as tiny_problem
from remix_toolkit.recipe.tiny_size import tiny_size
from remix_toolkit.recipe.yaml_file import Key, Locations, dotted, location_of

M = TypeVar("M", bound=BaseModel)
Mistake = tuple[Key, str]


def validate(model: type[M], tree: dict[str, Any], locations: Locations, origin: str) -> M:
    """The tree as a model; a recipe's parts do not contradict each other, and its names exist.

    Raises BadInput with a line for each mistake; `origin` is named where no line is known. A credential comes first:
    the messages about other mistakes repeat what was set.
    """
    refuse_credentials(tree, locations, origin)
    try:
        valid = model.model_validate(tree)
    except ValidationError as error:
        mistakes = [_mistake(item, tree) for item in error.errors()]
    else:
        mistakes = list(_recipe_mistakes(valid)) if isinstance(valid, Recipe) else []
        if not mistakes:
            return valid
    lines = [f"{location_of(locations, key, origin)}: {dotted(key)}: {message}" for key, message in mistakes]
    raise BadInput("\n".join(dict.fromkeys(lines)))


def _mistake(error: Any, tree: Any) -> Mistake:
    """One of pydantic's errors as a key of the user's file and a message."""
    key: list[str | int] = []
    kind, loc, node = error["type"], error["loc"], tree
    for part in loc:  # between the keys, pydantic names the member of a union: a task, `list[str]`
        if (isinstance(node, dict) and part in node) or (isinstance(node, list) and part in range(len(node))):
            key.append(part)
            node = node[part]
    if kind == "missing":
        expected = f"; expected: {catalog()[node['task']].local}" if loc[-1] == "path" else ""
        return (*key, loc[-1]), f"is missing{expected}"
    if kind == "union_tag_invalid":
        tag = error["ctx"]["tag"]
        what = "instructions have no recall; the stage that trains on them reports the loss on held-out rows"
        return (*key, "task"), what if tag in TASKS else f"unknown task {tag!r}; {nearest(tag, TASKS)}"
    if kind == "union_tag_not_found":
        return tuple(key), f"names no task; valid: {', '.join(TASKS)}"
    why = next(
        (f": {LIMITS[limit]}" for name in ("le", "max_length") if (limit := error.get("ctx", {}).get(name)) in LIMITS),
        "",
    )
    shown = "" if kind == "mistake" else f" (it is {error['input']!r:.200})"
    return tuple(key), error["msg"].removeprefix("Value error, ") + why + shown


def _recipe_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    for name in recipe.stages:
        yield from _stage_mistakes(recipe, name)
    if problem := tiny_problem(recipe.base):
        yield ("base",), problem
    if recipe.quantization and not all(recipe.of_stage(name).adapter for name in recipe.stages):
        yield ("quantization",), "trains nothing without an `adapter`: quantized weights do not change"
    if recipe.quantization and any(recipe.of_stage(name).is_osf for name in recipe.stages):
        yield ("quantization",), "has no singular directions for OSF to keep: leave it out, or take LoRA"
    if recipe.gguf_file and (recipe.base == "smollm2" or tiny_size(recipe.base) or recipe.base.endswith(".gguf")):
        yield ("gguf_file",), f"is of a directory or of a repository on the hub, not of base {recipe.base!r}"
    sources = {*TASKS, *CORPORA}
    for name in recipe.paths.keys() - sources:
        yield ("paths", name), f"no such task or source; {nearest(name, sources)}"
    if known := recipe.evaluate.known or None:
        for key in [key for key, unset in (("familiarity", None), ("prompt", "plain")) if getattr(known, key) != unset]:
            yield (
                ("evaluate", "known", key),
                "`known` is what the base model answers under a few-shot prompt: leave it out",
            )
        if recipe.base_stage:
            yield (
                ("evaluate", "known"),
                f"is what the base knew before, and base_stage puts {recipe.base_stage!r} in its place",
            )
    if recipe.base_stage is None:
        return
    if recipe.base_stage not in recipe.stages:
        yield ("base_stage",), f"no stage {recipe.base_stage!r}; {nearest(recipe.base_stage, recipe.stages)}"
        return
    for name in list(recipe.stages)[: recipe.position(recipe.base_stage) + 1]:
        for rows in (recipe.stages[name].data, *recipe.stages[name].recall):
            if isinstance(rows, Factoid) and rows.familiarity:
                message = f"which facts are familiar is known only after {recipe.base_stage}, the base_stage"
                yield ("stages", name, "data", "familiarity"), message


def _stage_mistakes(recipe: Recipe, name: str) -> Iterator[Mistake]:
    stage, path = recipe.stages[name], ("stages", name)
    earlier = list(recipe.stages)[: recipe.position(name)]
    train = stage.train
    if not train.get("dataloader_num_workers"):
        for field in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
            if train.get(field):
                yield (*path, "train", field), "is for processes that load data: set dataloader_num_workers, too"
    for source, spec in stage.mix:
        if spec and source not in ("replay", "paraphrases") and spec.ratio * (stage.data.size or 0) > MOST_ROWS:
            yield (
                (*path, "mix", source, "ratio"),
                f"times {stage.data.size:,} facts is over {MOST_ROWS:,}: {LIMITS[MOST_ROWS]}",
            )
    if stage.match and (stage.stop or stage.train.get("max_steps", -1) != -1):
        other = "stop" if stage.stop else "train.max_steps"
        yield (*path, "match"), f"sets how long this stage trains, and so does its {other}: set that to null"
    if stage.curve and not earlier:
        yield (*path, "curve"), "measures the facts of earlier stages, and this is the first one"
    if "interference" in stage.probe and not (earlier and isinstance(recipe.stages[earlier[0]].data, Factoid)):
        yield (*path, "probe"), "interference is with the facts of a first stage: ask for it in a later one"
    if asked := [name for name in ("relearn", "drift") if name in stage.probe and not (earlier or stage.recall)]:
        yield (*path, "probe"), f"{asked[0]} is of earlier stages' facts, or of `recall`'s: ask for it in a later one"
    while_training = ("freeze", "sam", "l2", "ewc", "kl")
    for remedy in while_training if recipe.of_stage(name).adapter else ():
        if getattr(stage, remedy):
            yield (*path, remedy), "is for all weights, and under an `adapter` none of them are trained"
    if stage.sam and (at_once := device_batch(train)) < (batch := recipe.global_batch_size):
        message = f"takes the gradient of a whole batch, and a device takes {at_once} of its {batch} examples at once"
        yield (*path, "sam"), f"{message}: set train.per_device_train_batch_size to {batch}"
    if stage.ewc and not any(isinstance(recipe.stages[name].data, Factoid) for name in earlier):
        yield (*path, "ewc"), "holds on to the facts of earlier stages, and there are none"
    if stage.kl and stage.kl.on == "mixing" and not any(spec for _, spec in stage.mix):
        needed = "set `mix`, or kl.on to prompts or generated"
        yield (*path, "kl", "on"), f"is mixing, and nothing is mixed into this stage: {needed}"
    for source, spec in (("replay", stage.mix.replay), ("format_anchor", stage.mix.format_anchor)):
        if spec and spec.stage not in earlier:
            message = f"{spec.stage!r} is no earlier stage; {nearest(spec.stage, earlier)}"
            yield (*path, "mix", source, "stage"), message
    if stage.mix.paraphrases and not isinstance(stage.data, Pairs):
        yield (
            (*path, "mix", "paraphrases"),
            f"is a column of your own facts, of task pairs, and not of {stage.data.task}",
        )
    anchor = stage.mix.format_anchor
    if anchor and anchor.stage in earlier:
        data = recipe.stages[anchor.stage].data
        if not isinstance(data, Factoid) or data.prompt != "plain":
            message = f"{anchor.stage} trains on no facts under plain prompts, and the anchor is made of such"
            yield (*path, "mix", "format_anchor", "stage"), message
