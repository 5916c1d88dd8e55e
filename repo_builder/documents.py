"""Reading YAML and JSON files and checking them against the shipped schemas, with messages a person can act on."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml
from jsonschema import Draft202012Validator, ValidationError, validators

from repo_builder.errors import InputError


def _matches_whole(_: object, pattern: str, instance: object, __: object) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not re.fullmatch(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


# JSON Schema counts 2.0 as an integer, and Python's "$" matches before a final line feed; neither is wanted here
_StrictValidator = validators.extend(  # type: ignore[no-untyped-call] # jsonschema leaves it untyped
    Draft202012Validator,
    validators={"pattern": _matches_whole},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


class _DuplicateKeyError(ValueError):
    pass


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, but a key that comes twice is an error instead of silently the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]
        _refuse_duplicates(keys, f" at line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def read_document(path: Path, error: type[InputError]) -> object:
    """Parse a `.json` file, or any other as YAML; raises `error` naming the file, and the line where there is one."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_unique_object)
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader that also refuses duplicates
    except FileNotFoundError as exc:
        raise error(f"{path}: expected a file, found none; check the path") from exc
    except OSError as exc:
        raise error(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise error(f"{path}: expected UTF-8 text, got byte {exc.object[exc.start]:#x} at offset {exc.start}") from exc
    except _DuplicateKeyError as exc:
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


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_duplicates([key for key, _ in pairs], "")
    return dict(pairs)


def _refuse_duplicates(keys: list[Any], where: str) -> None:
    for i, key in enumerate(keys):
        if key in keys[:i]:
            raise _DuplicateKeyError(f"{key}: expected each key once, got it twice{where}")


def schema(name: str) -> dict[str, Any]:
    """A JSON Schema shipped in `repo_builder/schemas`."""
    text = resources.files("repo_builder").joinpath("schemas", name).read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def schema_problems(document: object, schema_name: str) -> list[str]:
    """Every place where a document breaks a shipped schema, as `field.path: expected ..., got ...`, in file order."""
    validator = _StrictValidator(schema(schema_name))
    errors = sorted(validator.iter_errors(document), key=lambda error: _place(document, error.absolute_path))
    problems = [problem for error in errors for problem in _describe(error)]
    return problems + list(_not_finite(document, "", set()))


def _place(document: Any, parts: Iterable[str | int]) -> list[int]:
    """Where a field stands in its file: its position among its siblings, at each level down to it."""
    place: list[int] = []
    for part in parts:
        place.append(int(part) if isinstance(document, list) else list(document).index(part))
        document = document[part]
    return place


def field_path(parts: list[str | int]) -> str:
    """`["tables", 1, "rows"]` as `tables[1].rows`; the top level is `(top level)`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
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
        unknown = [str(key) for key in instance if key not in known]
        return [f"{field_path([*parts, key])}: unknown field; expected one of {', '.join(known)}" for key in unknown]
    describe = _EXPECTED.get(str(error.validator), lambda value: f"{error.validator} {value}")
    return [f"{field_path(parts)}: expected {describe(error.validator_value)}, got {_got(error.instance)}"]


_TYPES = {"object": "a mapping", "array": "a list", "integer": "an integer", "number": "a number", "string": "a string"}
_EXPECTED: Mapping[str, Callable[[Any], str]] = {
    "type": lambda value: _TYPES.get(value, value),
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
    "pattern": lambda value: f"a name like {value} (a letter, then letters, digits or underscores)",
}


def _got(value: object) -> str:
    try:
        text = json.dumps(value, default=str)
    except (TypeError, ValueError):  # keys that JSON has not, such as dates
        text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _not_finite(value: object, path: str, seen: set[int]) -> Iterator[str]:
    """NaN and infinity pass every bound of a schema, so they are looked for on their own.

    `seen` holds the containers visited: with YAML's anchors one may stand in many places, or inside itself.
    """
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{path.lstrip('.') or '(top level)'}: expected a finite number, got {value}"
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        yield f"{path.lstrip('.') or '(top level)'}: expected a number below 1.8e308, got a larger one"
    if not isinstance(value, (Mapping, list)) or id(value) in seen:
        return
    seen.add(id(value))
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _not_finite(item, f"{path}.{key}" if isinstance(value, Mapping) else f"{path}[{key}]", seen)
