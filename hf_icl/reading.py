"""JSON and YAML that somebody else may have written: bounded in size and depth, each key once, plain data."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from hf_icl.wording import shorten

MOST_BYTES = 64 << 20  # of a JSON file; more is no description of anything
MOST_YAML_BYTES = 1 << 20  # read by Python at some 100 kB a second
MOST_DEPTH = 64
MOST_NODES = 100_000  # of a YAML document, those that aliases repeat counted each time
_YAML = "tag:yaml.org,2002:"
_PLAIN = {
    yaml.ScalarNode: {"str", "int", "float", "bool", "null", "merge"},
    yaml.MappingNode: {"map"},
    yaml.SequenceNode: {"seq"},
}
TOO_DEEP = f"is nested more than {MOST_DEPTH} deep"


def parse_json(text: str | bytes, most_depth: int = MOST_DEPTH) -> Any:
    """Return what JSON says, as plain data.

    Raises:
        ValueError: If it is no JSON, names a key twice, or is nested too deeply.

    >>> parse_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
        ...
    ValueError: the key 'a' stands twice
    """
    try:
        value = json.loads(text, object_pairs_hook=_take_once)
        check_depth(value, most_depth)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    return value


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Return what a JSON file says, as plain data.

    Raises:
        OSError: If it cannot be read.
        ValueError: As `parse_json`, or if the file is too long.
    """
    return parse_json(read_bounded(path, most_bytes))


def parse_yaml(text: str | bytes) -> Any:
    """Return what YAML says, as plain data; `1e-3` is a number, as everyone expects (YAML 1.1: text).

    Raises:
        ValueError: If it is no YAML, names a key twice, is too long or too deep, or grows by its aliases.

    >>> parse_yaml("a: 1e-3"), parse_yaml("[yes, no]"), parse_yaml("[010, 1:30]")
    ({'a': 0.001}, [True, False], ['010', '1:30'])
    >>> parse_yaml("a: 1\\na: 2")
    Traceback (most recent call last):
        ...
    ValueError: the key 'a' stands twice (line 2)
    """
    if len(text) > MOST_YAML_BYTES:
        raise ValueError(f"has more than {MOST_YAML_BYTES:,} characters")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"is no YAML: {error}") from error
    except LookupError as error:  # of yaml itself, for `!!bool x` and `!!int ''`
        raise ValueError(f"is no YAML: a value is not of the type that its tag says ({error})") from error
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def read_yaml(path: Path) -> Any:
    """Return what a YAML file says, as plain data.

    Raises:
        OSError: If it cannot be read.
        ValueError: As `parse_yaml`.
    """
    return parse_yaml(read_bounded(path, MOST_YAML_BYTES))


def read_bounded(path: Path, most_bytes: int) -> str:
    """Return the text of a file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is longer than that, or not UTF-8.
    """
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"is longer than {most_bytes:,} bytes")
    return content.decode("utf-8")


def check_depth(value: Any, most: int) -> None:
    """Raise `ValueError` if lists and mappings lie more than so deep in each other."""
    level, depth = [value], 0
    while level := [item for each in level for item in _list_inner(each)]:
        depth += 1
        if depth > most:
            raise ValueError(TOO_DEEP)


def _list_inner(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _take_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    taken = dict(pairs)
    if len(taken) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shorten(twice)} stands twice")
    return taken


def _check_nodes(root: yaml.Node) -> None:
    """Raise `ValueError` if a document, its aliases followed, is too deep or has too many parts."""
    waiting, n_nodes = [(root, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        n_nodes += 1
        if depth > MOST_DEPTH:
            raise ValueError(TOO_DEEP)
        if node.tag.removeprefix(_YAML) not in _PLAIN[type(node)]:
            where = f"line {node.start_mark.line + 1}"
            raise ValueError(f"holds a {shorten(node.tag)} ({where}), which is no plain data")
        if n_nodes > MOST_NODES:
            raise ValueError(f"has more than {MOST_NODES:,} parts, those of aliases counted each time")
        if isinstance(node, yaml.MappingNode):
            waiting += [(each, depth + 1) for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(each, depth + 1) for each in node.value]


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            where = f"(line {key_node.start_mark.line + 1})"
            if not isinstance(key_node, yaml.ScalarNode):
                raise ValueError(f"a key is no text {where}")
            if key_node.value in seen:
                raise ValueError(f"the key {shorten(key_node.value)} stands twice {where}")
            seen.add(key_node.value)
        made = super().construct_mapping(node, deep)
        if odd := [key for key in made if not isinstance(key, str)]:
            line = node.start_mark.line + 1
            raise ValueError(f"the key {shorten(odd[0])} is no text: quote it (near line {line})")
        return made

    def construct_number_or_text(self, node: yaml.ScalarNode) -> str | float:
        text = self.construct_scalar(node)
        if node.style is None and "e" in text.lower():
            try:
                return float(text)
            except ValueError:
                pass
        return text

    def construct_decimal(self, node: yaml.ScalarNode) -> str | float:
        text = self.construct_scalar(node)
        if ":" in text or re.match(r"[-+]?0\d", text):  # YAML 1.1: 1:30 is 90, and 010 is 8; nobody means it
            return text
        made = self.construct_yaml_int if node.tag.endswith(":int") else self.construct_yaml_float
        return made(node)


_Loader.add_constructor(f"{_YAML}str", _Loader.construct_number_or_text)
_Loader.add_constructor(f"{_YAML}int", _Loader.construct_decimal)
_Loader.add_constructor(f"{_YAML}float", _Loader.construct_decimal)
_Loader.yaml_implicit_resolvers = {  # a date is text
    first: [each for each in resolvers if each[0] != f"{_YAML}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
