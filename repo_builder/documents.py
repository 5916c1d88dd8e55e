"""Reading YAML and JSON files and checking them against the shipped schemas, with messages a person can act on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from repo_builder.errors import InputError


class _DuplicateKeyError(ValueError):
    pass


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, but a key that comes twice is an error instead of silently the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
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
        raise error(f"{path}: expected YAML, but{line} {getattr(exc, 'problem', None) or exc}") from exc


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
    validator = Draft202012Validator(schema(schema_name))
    errors = sorted(validator.iter_errors(document), key=lambda error: [str(part) for part in error.absolute_path])
    problems = [problem for error in errors for problem in _describe(error)]
    return problems + _not_finite(document, "")


def field_path(parts: list[str | int]) -> str:
    """`["tables", 1, "rows"]` as `tables[1].rows`; the top level is `(top level)`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.lstrip(".") or "(top level)"


def _describe(error: ValidationError) -> list[str]:
    parts = list(error.absolute_path)
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        # jsonschema reports each missing key on its own; the message quotes the key
        return [f"{field_path([*parts, key])}: expected this field, got none" for key in missing if repr(key) in error.message]
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = [key for key in error.instance if key not in known]
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
    "minItems": lambda value: f"at least {value} item",
    "minLength": lambda value: f"at least {value} character",
    "pattern": lambda value: f"a name like {value} (a letter, then letters, digits or underscores)",
}


def _got(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _not_finite(value: object, path: str) -> list[str]:
    """NaN and infinity pass every bound of a schema, so they are looked for on their own."""
    if isinstance(value, Mapping):
        return [p for key, item in value.items() for p in _not_finite(item, f"{path}.{key}")]
    if isinstance(value, list):
        return [p for i, item in enumerate(value) for p in _not_finite(item, f"{path}[{i}]")]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{path.lstrip('.')}: expected a finite number, got {value}"]
    return []
