"""YAML and JSON text as plain values, in time and memory that grow with the text alone: duplicates are refused, and
aliases and nesting are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable
from typing import Any

import yaml

MOST_ALIASED = 100_000
"""Values that YAML's aliases may add to those that are spelled out: nine aliases per level would make 9**levels."""

DEEPEST = 100
"""Levels of lists and mappings; no document of ours has ten."""


class RefusedError(ValueError):
    """The text is well-formed, but not what a document may be."""


def parse_json(text: str) -> object:
    """The value of a JSON text; raises ValueError (with it json.JSONDecodeError) and RecursionError."""
    value = json.loads(text, object_pairs_hook=unique_object)
    _refuse_depth(value)
    return value


def parse_yaml(text: str) -> object:
    """The value of a YAML text; raises yaml.YAMLError, ValueError and RecursionError."""
    value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader that refuses more
    _refuse_depth(value)
    return value


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but a key that comes twice is an error instead of silently the last one."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _refuse_expansion(node)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]
        _refuse_duplicates(keys, f" at line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def _bounded_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Decimal numbers of thousands of digits are refused by Python itself, those to other bases here."""
    value = int(loader.construct_yaml_int(node))
    if abs(value) >= 10**4300:
        raise RefusedError(f"expected a number of at most 4300 digits at line {node.start_mark.line + 1}")
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _bounded_int)
_Loader.add_implicit_resolver(  # numbers of YAML 1.2 that PyYAML, which goes by 1.1, takes for text: 1e-3, 2.5E6
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+\Z"), list("-+.0123456789")
)


def _refuse_expansion(root: yaml.Node) -> None:
    """Count what the aliases stand for before anything is built of it: each node once, in the order of its children."""
    sizes: dict[int, int | None] = {}  # by node: values in it, itself too; None while it is being counted

    def size(node: yaml.Node) -> int:
        if not isinstance(node, yaml.CollectionNode):
            sizes[id(node)] = 1
            return 1
        if id(node) in sizes:
            known = sizes[id(node)]
            if known is None:
                raise RefusedError(f"an alias stands inside what it names, at line {node.start_mark.line + 1}")
            return known
        sizes[id(node)] = None
        total = 1 + sum(size(child) for child in _children(node))
        sizes[id(node)] = total
        return total

    whole = size(root)
    if whole - len(sizes) > MOST_ALIASED:
        got = f"{whole - len(sizes):,}" if whole < 10**15 else "more than a thousand million million"
        raise RefusedError(f"its aliases stand for {got} values, at most {MOST_ALIASED:,} are allowed; spell them out")


def _children(node: yaml.CollectionNode) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return (each for pair in node.value for each in pair)
    return node.value  # type: ignore[no-any-return] # PyYAML's stubs leave it untyped


def _refuse_depth(value: object) -> None:
    """Deeper values would exhaust the stack of whoever walks through them."""
    level = [value]
    for _ in range(DEEPEST):
        containers = [each for each in level if isinstance(each, dict | list)]
        if not containers:
            return
        level = [item for each in containers for item in (each.values() if isinstance(each, dict) else each)]
    raise RefusedError(f"nested deeper than {DEEPEST} levels")


def unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of keys and values, each key once."""
    _refuse_duplicates([key for key, _ in pairs], "")
    return dict(pairs)


def _refuse_duplicates(keys: Iterable[Any], where: str) -> None:
    seen = set()
    for key in keys:
        if not isinstance(key, Hashable):
            continue  # refused where the mapping is made
        if key in seen:
            raise RefusedError(f"{shortened(key)}: expected each key once, got it twice{where}")
        seen.add(key)


def shortened(value: object, most: int = 60) -> str:
    """A value as a message may quote it: on one line, and not too long."""
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    if not text.isprintable():
        text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[: most + 1])
    return text if len(text) <= most else f"{text[: most - 3]}..."
