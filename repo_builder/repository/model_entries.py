"""A manifest's entries of the model: its inputs, outputs, tables and look-ups, as read from the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from repo_builder.model.types import Columns, Group, Ids, Lookup, Ragged, RowFormat, Table, Tensor

_LAYOUTS = {frozenset(each.name for each in fields(layout)): layout for layout in (Columns, Ragged)}
"""Which layout an entry is, by its fields."""


def read_model_entries(document: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a manifest's document without `model_problems`, as what a Manifest holds."""
    return {
        "inputs": tuple(_tensor(entry) for entry in document["inputs"]),
        "outputs": tuple(_tensor(entry) for entry in document["outputs"]),
        "tables": tuple(_table(entry) for entry in document["tables"]),
        "groups": tuple(Group(**entry) for entry in document["groups"]),
        "lookups": tuple(_lookup(entry) for entry in document["lookups"]),
    }


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    return Tensor(**{**entry, "shape": tuple(entry["shape"])})


def _table(entry: Mapping[str, Any]) -> Table:
    return Table(entry["name"], entry["rows"], RowFormat(entry["dim"], entry.get("dtype", "fp32")))


def _lookup(entry: Mapping[str, Any]) -> Lookup:
    layout = entry["ids"]["layout"]
    ids = Ids(**{**entry["ids"], "layout": _LAYOUTS[frozenset(layout)](**layout)})
    return Lookup(**{**entry, "ids": ids, "shape": tuple(entry["shape"])})


def model_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """What the schema cannot say: names that must differ, places that must be there."""
    for key in ("inputs", "outputs", "tables", "lookups"):
        yield from _name_problems(key, document[key])
    inputs = {entry["name"]: entry for entry in document["inputs"]}
    for i, lookup in enumerate(document["lookups"]):
        for key, many in (("table", "tables"), ("group", "groups")):
            if lookup[key] >= len(document[many]):
                yield f"lookups[{i}].{key}: expected a place in {many}, below {len(document[many])}, got {lookup[key]}"
        yield from _ids_problems(f"lookups[{i}].ids", lookup, inputs)


def _name_problems(key: str, entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    seen: set[str] = set()
    for i, entry in enumerate(entries):
        if entry["name"] in seen:
            yield f"{key}[{i}].name: expected each name once, got {entry['name']!r} twice"
        seen.add(entry["name"])


def _ids_problems(where: str, lookup: Mapping[str, Any], inputs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Of a look-up's tensors; what is no input of the model comes out of its ids graph, and is not looked at."""
    ids, layout = lookup["ids"], lookup["ids"]["layout"]
    if frozenset(layout) not in _LAYOUTS:
        expected = ", or ".join(", ".join(each.name for each in fields(kind)) for kind in (Columns, Ragged))
        yield f"{where}.layout: expected the fields {expected}, got {', '.join(layout) or 'none'}"
        return
    if "bounds" in layout and (layout["block"] >= layout["blocks"] or lookup["count"] != 1):
        yield f"{where}.layout.block: expected one below blocks, {layout['blocks']}, got {layout['block']}"
    width = layout.get("width")
    if width is not None:
        if layout["bag"] < 1:
            yield f"{where}.layout.bag: expected at least 1 where the width is told, got {layout['bag']}"
        end = layout["begin"] + lookup["count"] * layout["bag"]
        if end > width:
            yield f"{where}.layout: expected columns up to {width}, got {end}"
    ragged = "bounds" in layout
    for key, name in (("tensor", ids["tensor"]), *([("bounds", layout["bounds"])] if ragged else [])):
        found = inputs.get(name)
        if found and found["datatype"] not in ("INT64", "INT32"):
            yield f"{where}.{key}: expected an input of INT64 or INT32, got {name} of {found['datatype']}"
        elif found and ragged and (not found["shape"] or any(size != 1 for size in found["shape"][1:])):
            yield f"{where}.{key}: expected an input of one dimension, got {name} of {len(found['shape'])}"
    weights = inputs.get(ids["weights"])
    if weights and weights["datatype"] != "FP32":
        yield f"{where}.weights: expected an input of FP32, got {ids['weights']} of {weights['datatype']}"
