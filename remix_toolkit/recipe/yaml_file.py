"""YAML as recipes need it: safe, duplicate keys refused, `1e-4` a number, `no` a word, every key's line kept."""

import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import yaml

from remix_toolkit.errors import BadInput

Locations = dict[tuple[str | int, ...], str]  # path of a key -> "file:line" (or the override) that set it


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's floats and booleans: `1e-4` is a number, `save_strategy: no` is not False."""


_REPLACED = {
    "tag:yaml.org,2002:float": (
        r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$",
        "-+0123456789.",
    ),
    "tag:yaml.org,2002:bool": (r"^(true|True|TRUE|false|False|FALSE)$", "tTfF"),
}
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in _REPLACED]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, (_pattern, _first) in _REPLACED.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


def open_text(path: Path) -> TextIO:
    """A UTF-8 text file, opened; one that is not there is the user's mistake and said so."""
    try:
        return path.open(encoding="utf-8-sig")  # spreadsheets save a byte-order mark
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except IsADirectoryError:
        raise BadInput(f"{path}: is a directory; a file is expected") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def read_text(path: Path) -> str:
    """A UTF-8 text file, whole. Raises BadInput."""
    with open_text(path) as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            raise BadInput(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def load_mapping(path: Path) -> tuple[dict[str, Any], Locations]:
    """The mapping in a YAML file and, for each path of keys in it, "file:line".

    Raises BadInput for a file that is missing, empty, no mapping, or that has duplicate keys or Python tags.
    """
    value, where = deepcopy(_read(read_text(path), str(path)))
    if value is None:
        raise BadInput(f"{path}: is empty; a mapping of keys to values is expected")
    if not isinstance(value, dict):
        raise BadInput(f"{path}:1: is a {type(value).__name__}; a mapping of keys to values is expected")
    return value, where


@cache  # a sweep reads its recipe and its profile for every cell
def _read(text: str, origin: str) -> tuple[Any, Locations]:
    return _construct(text, origin)


def load_value(text: str, origin: str) -> Any:
    """One value as YAML reads it (`4`, `1e-4`, `{passages: {ratio: 2}}`); `origin` names it in errors."""
    return _construct(text, origin)[0]


def _construct(text: str, origin: str) -> tuple[Any, Locations]:
    where: Locations = {}
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, where
        _walk(node, (), origin, where)
        return loader.construct_document(node), where
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadInput(f"{origin}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{origin}: not valid YAML: {error}") from None
    except ValueError as error:  # a date that is none
        raise BadInput(f"{origin}: not valid YAML: {error}") from None
    except RecursionError:
        raise BadInput(f"{origin}: not valid YAML: an alias that contains itself") from None
    finally:
        if loader:
            loader.dispose()


def _walk(node: yaml.Node, path: tuple[str | int, ...], origin: str, where: Locations) -> None:
    """Record the line of every key, and refuse duplicates, which YAML readers keep the last of in silence."""
    where.setdefault(path, f"{origin}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = f"{origin}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise BadInput(f"{line}: {dotted(path)}: a key is one word; quote a value that begins with {{ or [")
            below = (*path, key.value)
            if below in where:
                raise BadInput(f"{line}: {dotted(below)}: duplicate key, first set at {where[below]}")
            where[below] = line
            _walk(value, below, origin, where)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), origin, where)


def dotted(path: tuple[str | int, ...]) -> str:
    """`('stages', 'stage1', 'mix')` as the user writes it: `stages.stage1.mix`."""
    return ".".join(str(part) for part in path)
