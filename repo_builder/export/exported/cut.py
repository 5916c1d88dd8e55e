"""Which parameters become tables of shards, which of their look-ups are one, and which stay dense, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.fx import Node

from repo_builder.errors import ModelFileError
from repo_builder.export.exported.graph import ProgramGraph, ancestors
from repo_builder.export.exported.ids import ProgramIds, RaggedNodes, find_ids
from repo_builder.export.exported.probe import Probe, is_fixed
from repo_builder.export.exported.sites import ProgramSite
from repo_builder.export.stored import StoredTensor
from repo_builder.model.types import Kept, Mode, RowFormat, Table

Keep = Mapping[str, Literal["dense", "shard"]]
_Key = tuple[ProgramIds, Mode, int | None, bool]


@dataclass(frozen=True, slots=True)
class Joined:
    """A table, and the parameters whose rows lie side by side in it, by their names in the program."""

    table: Table
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProgramLookup:
    """A look-up of the model: of which table, with which ids, and the positions in the graph that it stands for.

    sites: each with its member of the table.
    """

    table: int
    found: ProgramIds
    mode: Mode
    padding: int | None
    from_end: bool
    sites: tuple[tuple[int, ProgramSite], ...]


@dataclass(frozen=True, slots=True)
class ProgramCut:
    """What is cut off, and what stays."""

    tables: tuple[Joined, ...]
    reads: tuple[ProgramLookup, ...]
    kept: tuple[Kept, ...]


def row_format(stored: StoredTensor) -> RowFormat:
    """Of a parameter's rows: numbers, or bytes that end with a scale and a bias."""
    return RowFormat(stored.shape[1] - _SIDES_BYTES, "int8") if stored.dtype == "uint8" else RowFormat(stored.shape[1])


_SIDES_BYTES = 8


def choose(
    graph: ProgramGraph, sites: Sequence[ProgramSite], probes: Sequence[Probe], keep_under_bytes: int, keep: Keep
) -> ProgramCut:
    """Decide for each parameter that look-ups read.

    Small ones stay, but not those that bags are pooled from: in ONNX an embedding bag is a loop over bags, which would
    cost more than a shard of a few rows, and keep the rows of several queries from being scored together.
    Raises ModelFileError where nothing can be cut off, or `keep` names what it cannot be said of.
    """
    by_parameter: dict[str, list[ProgramSite]] = defaultdict(list)
    for site in sites:
        by_parameter[_owner(graph, site.table)].append(site)
    reasons = {name: reason for name, held in by_parameter.items() if (reason := _reason(graph, name, held, sites))}
    same = _first_of_equal(graph)
    _refuse_bytes(graph, reasons, keep)
    keys: dict[str, dict[_Key, list[ProgramSite]]] = {}
    for name, held in by_parameter.items():
        if name not in reasons:
            keys[name] = defaultdict(list)
            for site in held:
                found = _canonical(find_ids(graph, probes, site), same)
                keys[name][found, site.mode, site.padding, site.from_end].append(site)
    joined = _joined(graph, keys)
    _check_keep(graph, keep, joined, reasons)
    kept = [_kept(graph, name, reason) for name, reason in reasons.items()]
    tables = []
    for each in joined:
        looped = each.table.format.dtype != "fp32" or any(
            site.offsets is not None for held in keys[each.members[0]].values() for site in held
        )
        reason = _why_dense(each.table, 0 if looped else keep_under_bytes, keep.get(each.table.name))
        if reason is None:
            tables.append(each)
        kept += [_kept(graph, member, reason) for member in each.members if reason is not None]
    if not tables:
        raise ModelFileError(*_nothing(graph, kept))
    return ProgramCut(tuple(tables), _reads(graph, tables, keys), tuple(kept))


def _refuse_bytes(graph: ProgramGraph, reasons: Mapping[str, str], keep: Keep) -> None:
    """Raise ModelFileError where a table of quantized rows would stay dense: ONNX has no such look-up."""
    said = {name: "keep: dense in the spec" for name, where in keep.items() if where == "dense"}
    problems = [
        f"{graph.program.path}: table {name}: its quantized rows cannot stay in the dense graph, but {reason}; "
        "cut them off, or export the model with float weights"
        for name, stored in graph.program.weights.tensors.items()
        if stored.dtype == "uint8" and (reason := reasons.get(name) or said.get(name.removesuffix(".weight")))
    ]
    if problems:
        raise ModelFileError(*problems)


def _owner(graph: ProgramGraph, placeholder: Node) -> str:
    """The name of a parameter; of one that is held under several names the first."""
    name = graph.parameters[placeholder].name
    position = graph.program.weights.tensors[name]
    return next(
        each.name
        for each in graph.parameters.values()
        if replace(graph.program.weights.tensors[each.name], key=name) == position
    )


def _placeholders(graph: ProgramGraph, name: str) -> list[Node]:
    return [node for node in graph.parameters if node in graph.nodes and _owner(graph, node) == name]


def _reason(graph: ProgramGraph, name: str, held: Sequence[ProgramSite], sites: Sequence[ProgramSite]) -> str | None:
    """Why a parameter cannot be cut off, whatever its size; None where it can."""
    stored = graph.program.weights.tensors[name]
    if (flaw := stored.flaw if stored.dtype == "uint8" else stored.problem()) is not None:
        return flaw
    if row_format(stored).dim < 1:
        return f"expected rows of bytes that end with a scale and a bias, got {stored.shape[1]} bytes a row"
    readers = {site.operator for site in held}
    for placeholder in _placeholders(graph, name):
        for user in placeholder.users:
            if user in graph.nodes and user not in readers:
                return f"node {user.name} ({user.target}) reads it too, as a whole"
    looked_up = {site.operator for site in sites}
    for site in held:
        if site.flaw is not None:
            return site.flaw
        taken = [node for node in (site.ids, site.offsets, site.weights) if node is not None]
        if (before := next((node for node in ancestors(taken) if node in looked_up), None)) is not None:
            return f"the ids of node {site.operator.name} depend on looked-up values, of node {before.name}"
        computed = ancestors(node for node in (site.ids, site.offsets) if node is not None)
        if (rounded := next((node for node in computed if _is_bfloat16(node)), None)) is not None:
            return (
                f"the ids of node {site.operator.name} are computed in bfloat16, by node {rounded.name}, but a server "
                "computes in float32"
            )
        if is_fixed(graph, site.ids):
            return f"the ids of node {site.operator.name} are the same in every query"
    return None


def _is_bfloat16(node: Node) -> bool:
    return getattr(node.meta.get("val"), "dtype", None) == torch.bfloat16


def _first_of_equal(graph: ProgramGraph) -> dict[Node, Node]:
    """For each node the first one that computes the same from the same."""
    first: dict[object, Node] = {}
    same: dict[Node, Node] = {}
    for node in graph.nodes:
        key = _spelled(node, same) if node.op == "call_function" else node
        same[node] = first.setdefault(key, node)
    return same


def _spelled(node: Node, same: Mapping[Node, Node]) -> str:
    """An operator and what it takes, in words that are alike where the values are."""
    return repr((node.target, torch.fx.node.map_arg((node.args, node.kwargs), lambda each: same[each])))


def _canonical(found: ProgramIds, same: Mapping[Node, Node]) -> ProgramIds:
    layout = found.layout
    if isinstance(layout, RaggedNodes):
        layout = replace(layout, bounds=same[layout.bounds])
    return replace(found, ids=same[found.ids], layout=layout, weights=found.weights and same[found.weights])


def _joined(graph: ProgramGraph, keys: Mapping[str, Mapping[_Key, Sequence[ProgramSite]]]) -> list[Joined]:
    """Parameters of as many rows that are read by the same ids only, side by side in one table."""
    groups: dict[object, list[str]] = defaultdict(list)
    rows = {name: graph.program.weights.tensors[name].shape[0] for name in keys}
    formats = {name: row_format(graph.program.weights.tensors[name]) for name in keys}
    for name, reads in keys.items():
        alone = "" if formats[name].dtype == "fp32" else name  # each has a scale of its own
        groups[rows[name], frozenset(reads), alone].append(name)
    joined = []
    for members in groups.values():
        widest = max(members, key=lambda name: formats[name].dim)
        joint = RowFormat(sum(formats[name].dim for name in members), formats[widest].dtype)
        joined.append(Joined(Table(_table_name(widest, keys), rows[widest], joint), tuple(members)))
    return joined


def _table_name(parameter: str, others: Mapping[str, object]) -> str:
    name = parameter.removesuffix(".weight")
    return parameter if name != parameter and name in others else name


def _check_keep(graph: ProgramGraph, keep: Keep, joined: Sequence[Joined], reasons: Mapping[str, str]) -> None:
    path, names = graph.program.path, [each.table.name for each in joined]
    problems = []
    for name, where in keep.items():
        reason = reasons.get(name) or reasons.get(f"{name}.weight")
        owner = next((each.table.name for each in joined if {name, f"{name}.weight"} & {*each.members}), None)
        if reason is not None and where == "shard":
            problems.append(f"{path}: table {name}: it cannot be cut off: {reason}; take keep: shard away")
        elif reason is None and name not in names and owner is not None:
            problems.append(
                f"{path}: table {name}: its rows are part of table {owner}, as both have the same ids; name that"
            )
        elif reason is None and name not in names:
            problems.append(f"{path}: table {name}: expected a table of the model ({', '.join(names)}), found none")
    if problems:
        raise ModelFileError(*problems)


def _why_dense(table: Table, keep_under_bytes: int, keep: str | None) -> str | None:
    if keep == "dense":
        return "the spec says keep: dense"
    if keep is None and table.size_bytes < keep_under_bytes:
        return f"it has {table.size_bytes} bytes, less than keep_under_bytes, {keep_under_bytes}"
    return None


def _kept(graph: ProgramGraph, name: str, reason: str) -> Kept:
    rows, dim = graph.program.weights.tensors[name].shape
    return Kept(name.removesuffix(".weight"), rows, dim, reason)


def _nothing(graph: ProgramGraph, kept: Sequence[Kept]) -> Iterator[str]:
    path = graph.program.path
    if not kept:
        yield (
            f"{path}: expected look-ups in tables (embedding, embedding_bag, index_select), found none in "
            f"{len(graph.nodes)} nodes; serve such a model whole"
        )
        for node in graph.branches:
            yield f"{path}: node {node.name}: look-ups in a branch stay in it; look the rows up before torch.cond"
    for each in kept:
        yield f"{path}: no table is left to cut off; {each.name} [{each.rows}, {each.dim}] stays dense: {each.reason}"


def _reads(
    graph: ProgramGraph, tables: Sequence[Joined], keys: Mapping[str, Mapping[_Key, Sequence[ProgramSite]]]
) -> tuple[ProgramLookup, ...]:
    order = {node: i for i, node in enumerate(graph.nodes)}
    reads = []
    for position, joined in enumerate(tables):
        for key in keys[joined.members[0]]:
            found, mode, padding, from_end = key
            sites = [(i, site) for i, member in enumerate(joined.members) for site in keys[member][key]]
            sites.sort(key=lambda each: order[each[1].result])
            reads.append(ProgramLookup(position, found, mode, padding, from_end, tuple(sites)))
    return tuple(sorted(reads, key=lambda read: order[read.sites[0][1].result]))
