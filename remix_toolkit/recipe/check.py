"""Mistakes in a recipe as messages: place, key, what is wrong, what would be right."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe.catalog import catalog
from remix_toolkit.recipe.schema import (
    CORPORA,
    TASKS,
    Curve,
    Factoid,
    FewShot,
    Match,
    Mix,
    RandomWords,
    Recipe,
    Replay,
    Rows,
    Stage,
    Stop,
)
from remix_toolkit.recipe.sft_fields import train_mistake
from remix_toolkit.recipe.yaml_file import Locations, dotted

M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], tree: dict[str, Any], where: Locations, origin: str) -> M:
    """The tree as a model. Raises BadInput with a line per mistake: place, key, what is wrong, what is right."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        mistakes = [_mistake(item, model, tree, where, origin) for item in error.errors()]
        raise BadInput("\n".join(dict.fromkeys(mistakes))) from None


def _mistake(item: Any, model: type[BaseModel], tree: Any, where: Locations, origin: str) -> str:
    """One of pydantic's errors as a line of ours: place, key, what is wrong, what is right."""
    path: list[str | int] = []
    node = tree
    for part in item["loc"]:  # pydantic puts a union's chosen tag into the path; the user's file has no such key
        if isinstance(node, dict) and part not in node and (part in TASKS or part != item["loc"][-1]):
            continue
        if isinstance(part, str) and "[" in part:  # `literal['all','none']`: one of the kinds that a key may be
            continue
        path.append(part)
        node = node.get(part) if isinstance(node, dict) else _item(node, part)
    if item["type"] == "union_tag_invalid":
        path.append("task")
    key = dotted(tuple(path))
    place = next((where[p] for p in (tuple(path[:n]) for n in range(len(path), -1, -1)) if p in where), origin)
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{place}: {key}: unknown key; {nearest(path[-1], _fields_at(model, item['loc'][:-1]))}"
    if kind == "missing":
        task = next((part for part in item["loc"] if part in TASKS), model.__name__.lower())
        expected = f"; expected: {catalog()[task].local}" if path[-1] == "path" and task in catalog() else ""
        return f"{place}: {key}: is missing{expected}"
    if kind == "union_tag_invalid":
        return f"{place}: {key}: unknown task {context['tag']!r}; {nearest(context['tag'], TASKS)}"
    if kind == "union_tag_not_found":
        return f"{place}: {key}: says no task; valid: {', '.join(TASKS)}"
    return f"{place}: {key}: {item['msg'].removeprefix('Value error, ')} (it is {item['input']!r})"


def _item(node: Any, part: str | int) -> Any:
    return node[part] if isinstance(node, list) and isinstance(part, int) and part < len(node) else None


def _fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> set[str]:
    """The keys that are valid where pydantic met an unknown one."""
    types: dict[str, type[BaseModel]] = {
        "stages": Stage,
        "data": Rows,
        "recall": Rows,
        "mix": Mix,
        "random_words": RandomWords,
        **CORPORA,
        "replay": Replay,
        "stop": Stop,
        "match": Match,
        "curve": Curve,
        "few_shot": FewShot,
        **TASKS,
    }
    for part in reversed(loc):
        if part in types:
            return set(types[str(part)].model_fields)
    return set(model.model_fields)


def check_stages(recipe: Recipe, where: Locations, origin: str) -> None:
    """What no single field's type can say: `train` against SFTConfig, the adapter, replay's stage, texts and hubs."""
    mistakes: list[str] = []

    def wrong(path: tuple[str | int, ...], what: str) -> None:
        place = next((where[p] for p in (path, path[:-1], path[:1]) if p in where), origin)
        mistakes.append(f"{place}: {dotted(path)}: {what}")

    for name, stage in recipe.stages.items():
        for field, value in stage.train.items():
            if what := train_mistake(field, value):
                own = ("stages", name, "train", field)
                wrong(own if own in where else ("train", field), what)
        for number, rows in enumerate(stage.recall):
            if not isinstance(rows, Factoid):
                wrong(
                    ("stages", name, "recall", number, "task"),
                    "instructions have no recall; the stage that trains on them reports the loss on held-out rows",
                )
        if stage.match and (stage.stop or stage.train.get("max_steps", -1) != -1):
            other = "stop" if stage.stop else "train.max_steps"
            wrong(
                ("stages", name, "match"), f"says how long this stage trains, and so does its {other}: set it to null"
            )
        if stage.curve and recipe.position(name) == 0:
            wrong(("stages", name, "curve"), "shows the facts of earlier stages, and this is the first one")
        first = next(iter(recipe.stages.values())).data
        if "interference" in stage.probe and (recipe.position(name) == 0 or not isinstance(first, Factoid)):
            wrong(("stages", name, "probe"), "interference is with the facts of a first stage: say it in a later one")
        if stage.mix.replay:
            earlier = list(recipe.stages)[: recipe.position(name)]
            if stage.mix.replay.stage not in earlier:
                wrong(
                    ("stages", name, "mix", "replay", "stage"),
                    f"{stage.mix.replay.stage!r} is no earlier stage; {nearest(stage.mix.replay.stage, earlier)}",
                )
    if recipe.quantization and not recipe.adapter:
        wrong(("quantization",), "trains nothing without an `adapter`: quantized weights stay as they are")
    sources = {*TASKS, *CORPORA}
    for name in recipe.paths.keys() - sources:
        wrong(("paths", name), f"no such task or source; {nearest(name, sources)}")
    if recipe.base_stage is not None:
        if recipe.base_stage not in recipe.stages:
            wrong(("base_stage",), f"no stage {recipe.base_stage!r}; {nearest(recipe.base_stage, recipe.stages)}")
        else:
            for name in list(recipe.stages)[: recipe.position(recipe.base_stage) + 1]:
                for rows in (recipe.stages[name].data, *recipe.stages[name].recall):
                    if isinstance(rows, Factoid) and rows.familiarity:
                        what = f"what is familiar is known only after {recipe.base_stage}, the base_stage"
                        wrong(("stages", name, "data", "familiarity"), what)
    if mistakes:
        raise BadInput("\n".join(dict.fromkeys(mistakes)))
