"""YAML as recipes need it: `1e-4` is a number, `no`, `010` and dates are words, duplicate keys are refused, lines kept.

Files come from others, too: what is read has bounds, which no recipe or sweep that people write comes near.
"""

import math
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

MOST_CHARACTERS = 1_000_000  # of a file; one of 10,000 arms has fewer
MOST_VALUES = 100_000  # keys and values, an alias counted each time: more take seconds to read, and aliases grow as 9^n

TAG = "tag:yaml.org,2002:"
PLAIN = {  # what a plain word may be besides text: YAML 1.2's types, so that neither `no` nor a date is one of them
    name: re.compile(pattern)
    for name, pattern in {
        "null": r"(~|null|Null|NULL|)$",
        "bool": r"(true|True|TRUE|false|False|FALSE)$",
        # A number begins with no further zeros: to YAML 1.1 `010` is 8, to YAML 1.2 it is 10, and here it is a word.
        "int": r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+)$",
        "float": r"[-+]?((0|[1-9][0-9_]*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$",
    }.items()
}
UNWRITABLE = re.compile(r"[\0\ud800-\udfff]")  # in no file's name, and not in UTF-8


class _Loader(yaml.SafeLoader):
    """A SafeLoader with these types for plain words, and a bound."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.nodes += 1
        if self.nodes > MOST_VALUES:
            raise yaml.composer.ComposerError(None, None, TOO_MANY, self.peek_event().start_mark)
        return super().compose_node(parent, index)


TOO_MANY = f"it holds more than {MOST_VALUES:,} keys and values"
_Loader.yaml_implicit_resolvers = {None: [(TAG + name, pattern) for name, pattern in PLAIN.items()]}


def load_mapping(path: Path) -> tuple[dict[str, Any], Locations]:
    """The mapping in a YAML file, and where each key and list item of it is.

    Raises BadInput for a file that is missing, empty, too large, not a mapping, or has duplicate keys or other types.
    """
    locations: Locations = {}
    with open_text(path) as file:
        text = file.read(MOST_CHARACTERS + 1)
    if len(text) > MOST_CHARACTERS:
        raise BadInput(f"{path}: has more than {MOST_CHARACTERS:,} characters, which is no file of settings")
    value = load_value(text, str(path), locations)
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
    except ValueError as error:  # a number of more digits than Python reads
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
    if len(locations) > MOST_VALUES:
        raise BadInput(f"{line}: {dotted(key):.200}: {TOO_MANY}, aliases counted each time")
    kind = node.tag.removeprefix(TAG)
    if isinstance(node, yaml.ScalarNode) and kind in (*PLAIN, "str"):
        if kind in PLAIN and not PLAIN[kind].match(node.value):  # `!!bool x`
            raise BadInput(f"{line}: {dotted(key):.200}: not valid YAML: {node.value!r:.200} is no {kind}")
        if UNWRITABLE.search(node.value):
            raise BadInput(f"{line}: {dotted(key):.200}: {node.value!r:.200} holds a NUL or half a surrogate pair")
        value = yaml.constructor.SafeConstructor().construct_object(node)
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{line}: {dotted(key):.200}: {node.value:.200} is no finite number")
        return value
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_read(item, (*key, index), origin, locations) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode) or kind != "map":
        raise BadInput(f"{line}: not valid YAML: {node.tag} is none of JSON's types")
    mapping: dict[str, Any] = {}
    for name, item in node.value:
        line = f"{origin}:{name.start_mark.line + 1}"
        if name.tag != TAG + "str":
            raise BadInput(f"{line}: {dotted(key)}: a key is one word; quote a number, or what begins with {{ or [")
        below = (*key, name.value)
        if below in locations:  # YAML readers silently keep the last of them
            raise BadInput(f"{line}: {dotted(below)}: duplicate key, first set at {locations[below]}")
        locations[below] = line
        mapping[name.value] = _read(item, below, origin, locations)
    return mapping


def location_of(locations: Locations, path: Key, default: str) -> str:
    """Where a key was set, or the nearest key above it; `default` where none of them is known."""
    return next((locations[path[:n]] for n in range(len(path), -1, -1) if path[:n] in locations), default)


def dotted(path: Key) -> str:
    """`('stages', 'stage1', 'mix')` as the user writes it: `stages.stage1.mix`."""
    return ".".join(str(part) if str(part).isprintable() else ascii(part)[1:-1] for part in path)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A UTF-8 text file. Raises BadInput where it cannot be read, or may be without end: a device, a pipe."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise BadInput(f"{path}: is a device or a pipe; a file is expected")
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
