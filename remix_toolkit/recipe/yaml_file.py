"""YAML as recipes need it: `1e-4` is a number, `no` and dates are words, duplicate keys are refused, lines kept."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import yaml

from remix_toolkit.errors import BadInput

Key = tuple[str | int, ...]  # the keys and list indices that lead to a value
Locations = dict[Key, str]  # where each value was set: "file:line", or the override

TAG = "tag:yaml.org,2002:"
PLAIN = {  # what a plain word may be besides text: YAML 1.2's types, so that neither `no` nor a date is one of them
    "null": r"(~|null|Null|NULL|)$",
    "bool": r"(true|True|TRUE|false|False|FALSE)$",
    "int": r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0o?[0-7]+)$",
    "float": r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$",
}


class _Loader(yaml.SafeLoader):
    """A SafeLoader with these types for plain words."""


_Loader.yaml_implicit_resolvers = {None: [(TAG + name, re.compile(pattern)) for name, pattern in PLAIN.items()]}


def load_mapping(path: Path) -> tuple[dict[str, Any], Locations]:
    """The mapping in a YAML file, and where each key and list item of it is.

    Raises BadInput for a file that is missing, empty, not a mapping, or that has duplicate keys or other types.
    """
    locations: Locations = {}
    value = load_value(read_text(path), str(path), locations)
    if not isinstance(value, dict):
        what = "is empty" if value is None else f"is a {type(value).__name__}"
        raise BadInput(f"{path}:1: {what}; a mapping of keys to values is expected")
    return value, locations


def load_value(text: str, origin: str, locations: Locations | None = None) -> Any:
    """One value as YAML (`4`, `1e-4`, `{passages: {ratio: 2}}`); `origin` names it in messages. Raises BadInput."""
    try:
        node = _parse(text)
        return None if node is None else _read(node, (), origin, {} if locations is None else locations)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadInput(f"{origin}{line}: not valid YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise BadInput(f"{origin}:{number}: not valid YAML: the character {text[error.position]!r}") from None
    except (ValueError, KeyError) as error:  # `!!int x`, `!!bool x`
        raise BadInput(f"{origin}: not valid YAML: {error}") from None
    except RecursionError:
        raise BadInput(f"{origin}: not valid YAML: nested too deeply, or an alias that contains itself") from None


@cache  # a sweep reads its recipe and its profile for every cell
def _parse(text: str) -> yaml.Node | None:
    return _Loader(text).get_single_node()


def _read(node: yaml.Node, key: Key, origin: str, locations: Locations) -> Any:
    """The value of a node, of JSON's types; notes where each key and item is. An anchor's value is a copy each time."""
    line = f"{origin}:{node.start_mark.line + 1}"
    locations.setdefault(key, line)
    kind = node.tag.removeprefix(TAG)
    if isinstance(node, yaml.ScalarNode) and kind in ("null", "bool", "int", "float", "str"):
        return yaml.constructor.SafeConstructor().construct_object(node)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_read(item, (*key, index), origin, locations) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode) or kind != "map":
        raise BadInput(f"{line}: not valid YAML: {node.tag} is none of JSON's types")
    value: dict[str, Any] = {}
    for name, item in node.value:
        line = f"{origin}:{name.start_mark.line + 1}"
        if name.tag != TAG + "str":
            raise BadInput(f"{line}: {dotted(key)}: a key is one word; quote a number, or what begins with {{ or [")
        below = (*key, name.value)
        if below in locations:  # YAML readers silently keep the last of them
            raise BadInput(f"{line}: {dotted(below)}: duplicate key, first set at {locations[below]}")
        locations[below] = line
        value[name.value] = _read(item, below, origin, locations)
    return value


def location_of(locations: Locations, path: Key, default: str) -> str:
    """Where a key was set, or the nearest key above it; `default` where none of them is known."""
    return next((locations[path[:n]] for n in range(len(path), -1, -1) if path[:n] in locations), default)


def dotted(path: Key) -> str:
    """`('stages', 'stage1', 'mix')` as the user writes it: `stages.stage1.mix`."""
    return ".".join(str(part) if str(part).isprintable() else ascii(part)[1:-1] for part in path)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A UTF-8 text file. Raises BadInput where it cannot be opened or read."""
    try:
        with path.open(encoding="utf-8-sig") as file:  # spreadsheets save a byte-order mark
            yield file
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise BadInput(f"{path}: {str(error.strerror).lower()}; a file is expected") from None


def read_text(path: Path) -> str:
    """The whole of a UTF-8 text file. Raises BadInput."""
    with open_text(path) as file:
        return file.read()
