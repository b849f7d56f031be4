"""YAML as recipes need it: `1e-4` is a number, `no` and dates are words, duplicate keys are refused, lines kept."""

import re
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TextIO

import yaml

from remix_toolkit.errors import BadInput

Key = tuple[str | int, ...]  # the keys and list indices that lead to a value
Locations = dict[Key, str]  # where each value was set: "file:line", or the override

PLAIN = {  # what a plain word may be besides text: YAML 1.2's types, so that neither `no` nor a date is one of them
    "null": r"(~|null|Null|NULL|)$",
    "bool": r"(true|True|TRUE|false|False|FALSE)$",
    "int": r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0o?[0-7]+)$",
    "float": r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$",
    "merge": r"<<$",
}
TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """A SafeLoader of JSON's types: no dates, sets, bytes or Python objects."""

    yaml_constructors: ClassVar = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(TAG) in ("null", "bool", "int", "float", "str", "seq", "map")
    }


_Loader.yaml_implicit_resolvers = {None: [(TAG + name, re.compile(pattern)) for name, pattern in PLAIN.items()]}


def load_mapping(path: Path) -> tuple[dict[str, Any], Locations]:
    """The mapping in a YAML file, and where each key and list item of it is.

    Raises BadInput for a file that is missing, empty, not a mapping, or that has duplicate keys or other types.
    """
    value, locations = _load_cached(read_text(path), str(path))
    if not isinstance(value, dict):
        what = "is empty" if value is None else f"is a {type(value).__name__}"
        raise BadInput(f"{path}:1: {what}; a mapping of keys to values is expected")
    return _copy(value), dict(locations)


def load_value(text: str, origin: str) -> Any:
    """One value as YAML (`4`, `1e-4`, `{passages: {ratio: 2}}`); `origin` names it in messages. Raises BadInput."""
    return _copy(_load(text, origin)[0])


def _load(text: str, origin: str) -> tuple[Any, Locations]:
    locations: Locations = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, locations
        _walk(node, (), origin, locations)
        return loader.construct_document(node), locations
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadInput(f"{origin}{line}: not valid YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise BadInput(f"{origin}:{number}: not valid YAML: the character {text[error.position]!r}") from None
    except ValueError as error:  # `!!int x`
        raise BadInput(f"{origin}: not valid YAML: {error}") from None
    except RecursionError:
        raise BadInput(f"{origin}: not valid YAML: nested too deeply, or an alias that contains itself") from None


_load_cached = cache(_load)  # a sweep reads its recipe and its profile for every cell


def _walk(node: yaml.Node, path: Key, origin: str, locations: Locations) -> None:
    """Note where each key and item is, and refuse duplicate keys, of which YAML readers silently keep the last."""
    locations.setdefault(path, f"{origin}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), origin, locations)
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        line = f"{origin}:{key.start_mark.line + 1}"
        if key.tag not in (TAG + "str", TAG + "merge"):
            raise BadInput(f"{line}: {dotted(path)}: a key is one word; quote a number, or what begins with {{ or [")
        below = (*path, key.value)
        if below in locations:
            raise BadInput(f"{line}: {dotted(below)}: duplicate key, first set at {locations[below]}")
        locations[below] = line
        _walk(value, below, origin, locations)


def _copy(value: Any) -> Any:
    """A copy in which nothing is shared: an anchor's mapping may be changed where it is used and not elsewhere."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def location_of(locations: Locations, path: Key, default: str) -> str:
    """Where a key was set, or the nearest key above it; `default` where none of them is known."""
    return next((locations[path[:n]] for n in range(len(path), -1, -1) if path[:n] in locations), default)


def dotted(path: Key) -> str:
    """`('stages', 'stage1', 'mix')` as the user writes it: `stages.stage1.mix`."""
    return ".".join(str(part) if str(part).isprintable() else ascii(part)[1:-1] for part in path)


def open_text(path: Path) -> TextIO:
    """A UTF-8 text file, opened. Raises BadInput where it cannot be."""
    try:
        return path.open(encoding="utf-8-sig")  # spreadsheets save a byte-order mark
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except IsADirectoryError:
        raise BadInput(f"{path}: is a directory; a file is expected") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def read_text(path: Path) -> str:
    """The whole of a UTF-8 text file. Raises BadInput."""
    with open_text(path) as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            raise BadInput(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
