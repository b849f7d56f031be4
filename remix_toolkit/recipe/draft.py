"""A recipe in the making: the tree of its keys, over which layers are put, and where each key was set."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe import shipped
from remix_toolkit.recipe.schema import TASKS
from remix_toolkit.recipe.yaml_file import Key, Locations, dotted, location_of

Setting = tuple[str, Any, str]  # a dotted key, its value, and where it was set, as messages name it
KEPT_WITH_A_NEW_TASK = ("size", "start", "familiarity", "prompt")  # the other keys belong to the task before


@dataclass
class Draft:
    """Nothing in the tree is checked yet: what is not a mapping where one is expected is refused by validation."""

    tree: dict[str, Any]
    locations: Locations
    file: str  # the recipe file, for messages where nothing more precise is known

    def copy(self) -> "Draft":
        """Another one with the same keys."""
        return Draft(deepcopy(self.tree), dict(self.locations), self.file)

    def apply(self, settings: Iterable[Setting]) -> None:
        """Set dotted keys, in order. Raises BadInput for a key that cannot be set."""
        applied: set[str] = set()
        for key, value, origin in settings:
            parts = {key: value}
            if key == "train" and isinstance(value, dict):  # each of its fields is for every stage
                parts = {f"train.{field}": value[field] for field in value}
            for dotted_key, part in parts.items():
                applied.add(dotted_key)
                self._set(tuple(dotted_key.split(".")), part, origin, applied)

    def _set(self, key: tuple[str, ...], value: Any, origin: str, applied: set[str]) -> None:
        """Set one key. A stage must exist; an optional mapping on the way, such as `mix`, is created."""
        *parents, last = key
        stages = mapping(self.tree.get("stages"))
        if key[0] == "stages" and len(key) > 1 and key[1] not in stages:
            raise BadInput(f"{origin}: no stage {key[1]!r}; {nearest(key[1], stages)}")
        if parents == ["train"]:  # for every stage, even one that set this field itself
            for stage in self._stages().values():
                mapping(stage.get("train")).pop(last, None)
        node = self.tree
        for depth, part in enumerate(parents, start=1):
            if node.get(part) is None:
                node[part] = {}
                self.locations[key[:depth]] = origin
            node = node[part]
            if not isinstance(node, dict):
                raise BadInput(f"{origin}: {dotted(key[:depth])} is {node!r:.200}; it has no key {last!r}")
        if last == "task" and parents[2:] == ["data"] and node.get("task") != value:
            fields = TASKS[str(value)].model_fields if str(value) in TASKS else ("size",)
            for name in node.keys() - (set(KEPT_WITH_A_NEW_TASK) & set(fields)):
                if dotted((*parents, name)) not in applied:  # else it was set for the new task
                    del node[name]
        node[last] = deepcopy(value)
        self.locations = {at: line for at, line in self.locations.items() if at[: len(key)] != key} | {key: origin}

    def complete(self, mix_defaults: dict[str, dict[str, Any]]) -> None:
        """Fill in what a stage leaves to `task: id`, to `paths` and to the profile's `mix`."""
        self._resolve_id()
        paths = mapping(self.tree.get("paths"))
        for stage in self._stages().values():
            for key in ("mix", "train", "recall"):
                if stage.get(key) is None:  # a key with nothing after it
                    stage.pop(key, None)
            for source, options in mapping(stage.get("mix")).items():
                if isinstance(options, dict):
                    fill_path(options, paths, source, ("path", "hub", "text"))
                    stage["mix"][source] = with_defaults(options, mix_defaults.get(source, {}))
        listed = [rows for stage in self._stages().values() for _, rows in _rows(stage)]
        for rows in (*listed, mapping(mapping(self.tree.get("evaluate")).get("known"))):
            fill_path(rows, paths, str(rows.get("task")), ("path", "hub"))
            if isinstance(rows.get("path"), str):
                rows["path"] = shipped.here_or_shipped(rows["path"])

    def _resolve_id(self) -> None:
        """`task: id` is the first stage's task from the row after its last, as many rows unless `size` is set."""
        stages = self._stages()
        first_name = next(iter(stages), "")
        first = mapping(stages[first_name].get("data")) if stages else {}
        for name, stage in stages.items():
            for key, rows in _rows(stage):
                if rows.get("task") != "id":
                    continue
                path = ("stages", name, *key, "task")
                origin = f"{location_of(self.locations, path, self.file)}: {dotted(path)}: id means"
                if str(first.get("task")) not in TASKS:
                    hint = nearest(first.get("task"), TASKS)
                    raise BadInput(f"{origin} further rows of {first_name}'s task: name one there; {hint}")
                fields = TASKS[first["task"]].model_fields
                start, size = (first.get(field, fields[field].default) for field in ("start", "size"))
                if not isinstance(size, int) or not isinstance(start, int):
                    raise BadInput(f"{origin} the rows after {first_name}'s last: set stages.{first_name}.data.size")
                rows |= {**first, "start": start + size, "size": size, **rows, "task": first["task"]}

    def _stages(self) -> dict[str, dict[str, Any]]:
        return {name: stage for name, stage in mapping(self.tree.get("stages")).items() if isinstance(stage, dict)}


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def fill_path(options: dict[str, Any], paths: dict[str, Any], name: str, origins: tuple[str, ...]) -> None:
    """Add the local path that the recipe has for a task or source, unless that says itself where its data is."""
    if name in paths and not options.keys() & set(origins):
        options["path"] = paths[name]


def with_defaults(options: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A mixing source's options over the profile's. Another text than the profile's leaves only its `words`."""
    if options.keys() & {"text", "hub", "path"}:
        defaults = {key: value for key, value in defaults.items() if key == "words"}
    return {**defaults, **options}


def _rows(stage: dict[str, Any]) -> Iterator[tuple[Key, dict[str, Any]]]:
    """The rows that a stage trains on and those that it measures besides, each with its key below the stage."""
    recall = stage.get("recall")
    listed = enumerate(recall) if isinstance(recall, list) else ()
    for path, rows in ((("data",), stage.get("data")), *((("recall", index), rows) for index, rows in listed)):
        if isinstance(rows, dict):
            yield path, rows
