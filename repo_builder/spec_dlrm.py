"""The form of a spec that describes a DLRM by its numbers: read from the checked document, and what no schema says.

Widths must agree and names differ; the open questions of a checkpoint's format must be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights
from repo_builder.model.interaction import Cross, Dot, Interaction, Projection

_INTERACTIONS: Mapping[str, Callable[[Mapping[str, Any]], Interaction]] = {
    "dot": lambda _: Dot(),
    "dcn": lambda document: Cross(document["cross_layers"], document["cross_rank"]),
    "projection": lambda document: Projection(tuple(document["branch1_mlp"]), tuple(document["branch2_mlp"])),
}
_BRANCHES = ("branch1_mlp", "branch2_mlp")
_KEYS = {"cross_layers": "dcn", "cross_rank": "dcn", **dict.fromkeys(_BRANCHES, "projection")}
"""Keys that only one interaction has."""


def read_dlrm(document: Mapping[str, Any], folder: Path) -> Dlrm:
    """The DLRM of a document without problems; relative paths are taken from `folder`."""
    weights = document["weights"]
    return Dlrm(
        dense_features=document["dense_features"],
        bottom_mlp=tuple(document["bottom_mlp"]),
        top_mlp=tuple(document["top_mlp"]),
        tables=tuple(table for entry in document["tables"] for table in _expand(entry)),
        index_dtype=document.get("index_dtype", "int64"),
        weights=Weights(
            weights["source"],
            folder / weights["path"] if "path" in weights else None,
            weights.get("seed", 0),
            weights.get("tables_in_order", False),
        ),
        interaction=_INTERACTIONS[document.get("interaction", "dot")](document),
        keep_under_bytes=document.get("keep_under_bytes"),
    )


def dlrm_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """What the schema cannot say; fields that already break the schema are passed over."""
    for check in (_interaction_problems, _width_problems, _table_problems, _mode_problems, _keep_problems):
        yield from check(document)


def _expand(entry: Mapping[str, Any]) -> Iterator[DlrmTable]:
    names = [entry["name"]] if "count" not in entry else [f"{entry['name']}_{i}" for i in range(entry["count"])]
    mode, dtype, keep = entry.get("mode", "sum"), entry.get("dtype", "fp32"), entry.get("keep")
    return (DlrmTable(name, entry["rows"], entry["dim"], entry["pooling"], mode, dtype, keep) for name in names)


def _interaction_problems(document: Mapping[str, Any]) -> Iterator[str]:
    kind, weights = document.get("interaction", "dot"), document.get("weights")
    if not isinstance(kind, str) or kind not in _INTERACTIONS:
        return
    if kind != "dot" and isinstance(weights, Mapping) and weights.get("source") == "dlrm":
        yield f"interaction: expected dot, the only one that weights.source dlrm's checkpoints have, got {kind}"
    for key, owner in _KEYS.items():
        if key in document and kind != owner:
            yield f"{key}: expected only with interaction: {owner}, got it with {kind}; take it out or set that"
    bottom = _widths(document.get("bottom_mlp"))
    for key in _BRANCHES:
        widths = _widths(document.get(key))
        if kind == "projection" and bottom and bottom[-1] >= 1 and widths and widths[-1] % bottom[-1]:
            yield f"{key}: expected the last width to be a multiple of {bottom[-1]}, the tables' dim, got {widths[-1]}"


def _width_problems(document: Mapping[str, Any]) -> Iterator[str]:
    bottom, top = _widths(document.get("bottom_mlp")), _widths(document.get("top_mlp"))
    kind = document.get("interaction", "dot")
    if top and top[-1] != 1:
        yield f"top_mlp: expected the last width to be 1 (the score), got {top[-1]}"
    for i, entry in enumerate(_entries(document)):
        dim = entry.get("dim")
        if bottom and _is_int(dim) and 1 <= dim <= 65_536 and dim != bottom[-1]:
            expected = f"{bottom[-1]}, the last width of bottom_mlp ({kind} interaction)"
            yield f"tables[{i}].dim: expected {expected}, got {dim}"


def _mode_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """A TorchRec checkpoint has the same keys whether bags are summed or averaged: the spec must say it."""
    weights = document.get("weights")
    if not isinstance(weights, Mapping) or weights.get("source") != "torchrec":
        return
    for i, entry in enumerate(_entries(document)):
        pooling = entry.get("pooling")
        if _is_int(pooling) and pooling > 1 and "mode" not in entry:
            yield (
                f"tables[{i}].mode: expected sum or mean, the pooling of its EmbeddingBagConfig, got none; a TorchRec "
                "checkpoint does not hold it, and the scores differ"
            )


def _keep_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """Something must be cut: a model that is dense alone needs no plan."""
    entries, bound = _entries(document), document.get("keep_under_bytes")
    if not entries or not all(_is_int(entry.get("rows")) and _is_int(entry.get("dim")) for entry in entries):
        return
    if all(entry.get("keep") == "dense" for entry in entries):
        yield "tables: expected a table that is cut into shards, got keep: dense in all; take it out of the largest"
    elif _is_int(bound) and all(
        entry.get("keep") == "dense" or (entry.get("keep") is None and 4 * entry["rows"] * entry["dim"] < bound)
        for entry in entries
    ):
        largest = max(4 * entry["rows"] * entry["dim"] for entry in entries)
        yield (
            f"keep_under_bytes: expected a table of at least as many bytes, which is cut, got {bound}, and all stay in "
            f"the dense graph; the largest has {largest}"
        )


def _table_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """One line for each pair of entries whose expanded names clash."""
    owners: dict[str, int] = {}
    clashes: dict[tuple[int, int], list[str]] = {}
    for i, entry in enumerate(_entries(document)):
        name, count = entry.get("name"), entry.get("count")
        if isinstance(name, str) and (count is None or (_is_int(count) and 1 <= count <= 100_000)):
            for expanded in [name] if count is None else [f"{name}_{k}" for k in range(count)]:
                owner = owners.setdefault(expanded, i)
                if owner != i:
                    clashes.setdefault((owner, i), []).append(expanded)
    for (owner, i), names in clashes.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        where = f"tables[{owner}] and tables[{i}]"
        yield f"tables[{i}].name: expected unique table names, got {names[0]!r}{more} from {where}"


def _entries(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tables = document.get("tables")
    return [entry if isinstance(entry, Mapping) else {} for entry in tables] if isinstance(tables, list) else []


def _widths(value: object) -> list[int]:
    return value if isinstance(value, list) and value and all(_is_int(width) for width in value) else []


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
