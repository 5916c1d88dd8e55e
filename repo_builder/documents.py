"""Reading YAML and JSON files and checking them against the shipped schemas, with messages a person can act on."""

from __future__ import annotations

import difflib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml
from jsonschema import Draft202012Validator, ValidationError, validators
from referencing import Registry, Resource

from repo_builder.errors import InputError
from repo_builder.parsing import RefusedError, parse_json, parse_yaml, shortened


def _matches_whole(_: object, pattern: str, instance: object, __: object) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not re.fullmatch(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


# JSON Schema counts 2.0 as an integer, and Python's "$" matches before a final line feed; neither is wanted here
_StrictValidator = validators.extend(  # type: ignore[no-untyped-call] # jsonschema has no types for its own extend
    Draft202012Validator,
    validators={"pattern": _matches_whole},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def read_document(path: Path, error: type[InputError]) -> object:
    """Parse a `.json` file, or any other as YAML; raises `error` naming the file, and the line where there is one."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return parse_json(text)
        return parse_yaml(text)
    except FileNotFoundError as exc:
        raise error(f"{path}: expected a file, found none; check the path") from exc
    except OSError as exc:
        raise error(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise error(f"{path}: expected UTF-8 text, got byte {exc.object[exc.start]:#x} at offset {exc.start}") from exc
    except RefusedError as exc:
        raise error(f"{path}: {exc}") from exc
    except json.JSONDecodeError as exc:
        raise error(f"{path}: expected JSON, but line {exc.lineno}: {exc.msg}") from exc
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        why = " ".join(str(getattr(exc, "problem", None) or exc).split())
        raise error(f"{path}: expected YAML, but{line} {why}") from exc
    except (ValueError, RecursionError) as exc:  # no such date; an integer of thousands of digits; nested too deep
        raise error(f"{path}: cannot be parsed: {exc}") from exc


def format_problems(document: object, known: int, remedy: str) -> list[str]:
    """That a document says to be of another format than the known one; without a word of it it is of that."""
    told = document.get("format", known) if isinstance(document, Mapping) else known
    return [] if told == known and _is_number(told) else [f"format: expected {known}, got {_got(told)}; {remedy}"]


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def schema(name: str) -> dict[str, Any]:
    """A JSON Schema shipped in `repo_builder/schemas`."""
    text = resources.files("repo_builder").joinpath("schemas", name).read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


_SCHEMAS: Registry[Any] = Registry(
    retrieve=lambda name: Resource.from_contents(schema(name))  # type: ignore[call-arg] # mypy does not see `retrieve`, the alias by which attrs takes the field `_retrieve`
)
"""Schemas refer to parts of each other by their files' names."""


def schema_problems(document: object, schema_name: str) -> list[str]:
    """Where a document breaks a shipped schema, as `field.path: expected ..., got ...`, in the file's order."""
    validator = _StrictValidator(schema(schema_name), registry=_SCHEMAS)
    positions = _Positions(document)
    found = (error for error in validator.iter_errors(document) if not _is_infinite(error.instance))
    errors = sorted(found, key=lambda error: positions.of(error.absolute_path))
    problems = [problem for error in errors for problem in _describe(error)]
    return problems + list(_unusable(document, "", set()))


def _is_infinite(value: object) -> bool:
    """What passes no upper bound is told once, by `_unusable`."""
    return isinstance(value, float) and math.isinf(value)


class _Positions:
    """Where fields stand in their file; each mapping's keys are numbered once, however many of them are wrong."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._numbers: dict[int, Mapping[Any, int]] = {}  # by mapping: the position of each of its keys

    def of(self, parts: Iterable[str | int]) -> list[int]:
        """A field's position among its siblings, at each level down to it."""
        position: list[int] = []
        value = self._document
        for part in parts:
            if isinstance(value, list):
                position.append(int(part))
            else:
                if id(value) not in self._numbers:
                    self._numbers[id(value)] = {key: number for number, key in enumerate(value)}
                position.append(self._numbers[id(value)][part])
            value = value[part]
        return position


def field_path(parts: list[str | int]) -> str:
    """`["tables", 1, "rows"]` as `tables[1].rows`; the top level is `(top level)`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{shortened(part)}" for part in parts)
    return text.lstrip(".") or "(top level)"


def _describe(error: ValidationError) -> list[str]:
    parts, instance, schema_here = list(error.absolute_path), cast(Any, error.instance), cast(Any, error.schema)
    if error.validator == "required":
        missing = [key for key in schema_here["required"] if key not in instance]
        # jsonschema reports each missing key on its own; the message quotes the key
        return [
            f"{field_path([*parts, key])}: expected this field, got none"
            for key in missing
            if repr(key) in error.message
        ]
    if error.validator == "additionalProperties":
        known = list(schema_here["properties"])
        unknown = [shortened(key) for key in instance if key not in known]
        return [f"{field_path([*parts, key])}: unknown field; {_remedy(key, known)}" for key in unknown]
    describe = _EXPECTED.get(str(error.validator), lambda value: f"{error.validator} {value}")
    return [f"{field_path(parts)}: expected {describe(error.validator_value)}, got {_got(error.instance)}"]


def _remedy(unknown: str, known: Sequence[str]) -> str:
    """What a field that no schema knows was probably meant to be."""
    close = difflib.get_close_matches(unknown.lower(), known, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"


_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "null": "null",
}


def _types(value: str | Sequence[str]) -> str:
    """JSON Schema's `type`: one name, or a list of them."""
    return " or ".join(_TYPES[name] for name in ([value] if isinstance(value, str) else value))


_USUAL_NAME = "a letter, then letters, digits or underscores"
_NAMES = {"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$": "letters, digits, _ - or .; neither - nor . first"}
_EXPECTED: Mapping[str, Callable[[Any], str]] = {
    "type": _types,
    "minimum": lambda value: f"at least {value}",
    "maximum": lambda value: f"at most {value}",
    "exclusiveMinimum": lambda value: f"more than {value}",
    "exclusiveMaximum": lambda value: f"less than {value}",
    "enum": lambda value: f"one of {', '.join(map(str, value))}",
    "const": lambda value: repr(value),
    "uniqueItems": lambda value: "each item once",
    "maxLength": lambda value: f"at most {value} characters",
    "minItems": lambda value: f"at least {value} item",
    "minLength": lambda value: f"at least {value} character",
    "pattern": lambda value: f"a name like {value} ({_NAMES.get(value, _USUAL_NAME)})",
}


def _got(value: object) -> str:
    try:
        text = json.dumps(value, default=str)
    except (TypeError, ValueError):  # keys that JSON has not, such as dates; an integer of thousands of digits
        return shortened(value)
    return shortened(text)


def _unusable(value: object, path: str, seen: set[int]) -> Iterator[str]:
    """NaN, infinity and text that no file can hold pass every bound of a schema, so they are looked for on their own.

    `seen` holds the containers visited: with YAML's anchors one may stand in many places.
    """
    here = path.lstrip(".") or "(top level)"
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{here}: expected a finite number, got {value}"
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        yield f"{here}: expected a number below 1.8e308, got a larger one"
    if isinstance(value, str) and _NO_TEXT.search(value):
        yield f"{here}: expected text, got {shortened(ascii(value))}"
    if not isinstance(value, (Mapping, list)) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _unusable(item, f"{path}[{i}]", seen)
        return
    for key, item in value.items():
        if isinstance(key, str) and _NO_TEXT.search(key):
            yield f"{here}: expected text for a key, got {shortened(ascii(key))}"
        yield from _unusable(item, f"{path}.{shortened(key)}", seen)


_NO_TEXT = re.compile("[\ud800-\udfff]")
"""Halves of surrogate pairs: JSON and YAML can write them, UTF-8 cannot."""
