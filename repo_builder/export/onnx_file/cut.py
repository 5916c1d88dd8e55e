"""The cut: which initializers become tables, which look-ups read them, and what stays in the dense graph, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from repo_builder.errors import ModelFileError
from repo_builder.export.onnx_file.graph import Graph, Size
from repo_builder.export.onnx_file.ids import (
    BagShape,
    IdsTensor,
    bags_of,
    ids_tensor_of,
    masked,
    may_come_before,
    reason_against,
)
from repo_builder.export.onnx_file.loops import looped
from repo_builder.export.onnx_file.quantized import QuantizedInitializer
from repo_builder.export.onnx_file.sites import OnnxSite, find_sites, pooled
from repo_builder.export.onnx_file.tensors import node_name
from repo_builder.model.types import Kept, Mode, RowFormat

Keep = Literal["dense", "shard"]
"""Where the spec wants a table, whatever its size."""


@dataclass(frozen=True, slots=True)
class OnnxRead:
    """How rows are read: look-ups of two tables that read alike can be one."""

    source: IdsTensor
    bags: BagShape
    mode: Mode
    padding: int | None


@dataclass(frozen=True, slots=True)
class OnnxLookup:
    """A look-up: of a table, whose members are initializers side by side, at the sites of each member."""

    table: int
    read: OnnxRead
    sites: tuple[OnnxSite, ...]


@dataclass(frozen=True, slots=True)
class OnnxCut:
    """What is cut off a graph. members: each table's initializers; names: each table's.

    quantized: those initializers whose numbers are.
    """

    names: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]
    quantized: Mapping[str, QuantizedInitializer]
    lookups: tuple[OnnxLookup, ...]
    kept: tuple[Kept, ...]
    notes: tuple[str, ...]

    def format(self, dim: int, members: Sequence[str]) -> RowFormat:
        """Of a table's rows, `dim` numbers of all its members."""
        alone = self.quantized.get(members[0]) if len(members) == 1 else None
        return alone.format if alone else RowFormat(dim)


def cut(graph: Graph, path: Path, keep_under_bytes: int, keep: Mapping[str, Keep]) -> OnnxCut:
    """Cut the graph of a file at its look-ups.

    Raises ModelFileError where `keep` names no table, or one that cannot be cut, or a quantized table is damaged.
    """
    sites, reasons = find_sites(graph)
    names = table_names([*dict.fromkeys([*(site.table for site in sites), *reasons])])
    _check_keep(keep, names, reasons)
    kept = dict(reasons)
    scales = {site.table: site.quantization for site in sites if site.quantization and site.table not in reasons}
    quantized = {table: QuantizedInitializer(path, graph, table, scale) for table, scale in scales.items()}
    for table, name in names.items():
        size_bytes = _size_bytes(graph, table, quantized)
        if keep.get(name) == "dense":
            kept.setdefault(table, f"keep: {name} is dense in the spec")
        elif keep.get(name) != "shard" and size_bytes < keep_under_bytes and not _is_looped(graph, sites, table):
            kept.setdefault(table, f"its {size_bytes} bytes are under {keep_under_bytes} (keep_under_bytes)")
    _keep_unreachable(graph, sites, kept)
    _check_keep(keep, names, kept)
    reads = _reads(graph, [site for site in sites if site.table not in kept])
    quantized = {table: each for table, each in quantized.items() if table in reads}
    members = _side_by_side(graph, reads, quantized)
    said = [*_loop_notes(graph, reads), *((table, each.note) for table, each in quantized.items())]
    notes = tuple(f"{names[table]}: {note}" for table, note in said)
    return OnnxCut(
        tuple(names[tables[0]] for tables in members),
        members,
        quantized,
        tuple(_found(members, reads)),
        tuple(_kept(graph, names, kept)),
        notes,
    )


def _size_bytes(graph: Graph, table: str, quantized: Mapping[str, QuantizedInitializer]) -> int:
    """Of its rows as they would be stored."""
    if table in quantized:
        return quantized[table].size_bytes
    return 4 * prod(size.number for size in graph.shapes[table])


def _is_looped(graph: Graph, sites: Sequence[OnnxSite], table: str) -> bool:
    """Whether a table's rows go through a loop that a look-up does without: it is the loop that is large."""
    return any(looped(graph, site, lambda _: True) != site for site in sites if site.table == table)


def table_names(initializers: Sequence[str]) -> Mapping[str, str]:
    """The initializers' names as a spec can hold them: letters, digits, `_`, `.` and `-`, 64 at most."""
    names: dict[str, str] = {}
    for initializer in initializers:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", initializer).strip("_.-")[-_NAME_LENGTH:].lstrip("_.-") or "table"
        taken = set(names.values())
        free = (name for name in (plain, *(f"{plain}_{i}" for i in range(2, len(names) + 3))) if name not in taken)
        names[initializer] = next(free)
    return names


_NAME_LENGTH = 58  # of 64: room for a number


def _check_keep(keep: Mapping[str, Keep], names: Mapping[str, str], reasons: Mapping[str, str]) -> None:
    problems = [
        f"keep: expected tables among {', '.join(names.values())}, got {name!r}"
        for name in keep
        if name not in names.values()
    ]
    problems += [
        f"keep: {name} cannot be sharded: {reasons[table]}; take it out of keep"
        for table, name in names.items()
        if keep.get(name) == "shard" and table in reasons
    ]
    if problems:
        raise ModelFileError(*problems)


def _keep_unreachable(graph: Graph, sites: Sequence[OnnxSite], kept: dict[str, str]) -> None:
    """Add the tables with a look-up whose ids cannot be known before the look-ups, until none is left."""
    found = True
    while found:
        looked_up = {site.node for site in sites if site.table not in kept}
        found = False
        for site in sites:
            if site.table in kept:
                continue
            reason = reason_against(graph, site, looked_up)
            if reason is not None:
                kept[site.table] = reason
                found = True
                break


def _reads(graph: Graph, sites: Sequence[OnnxSite]) -> Mapping[str, Mapping[OnnxRead, tuple[OnnxSite, ...]]]:
    """How each initializer is read, and where: a look-up that the graph has twice is one."""
    looked_up = {site.node for site in sites}
    reads: dict[str, dict[OnnxRead, tuple[OnnxSite, ...]]] = {}
    for plain in sites:
        of_table = reads.setdefault(plain.table, {})
        read, site = _read(graph, plain, looked_up)
        of_table[read] = (*of_table.get(read, ()), site)
    return reads


def _read(graph: Graph, plain: OnnxSite, looked_up: set[int]) -> tuple[OnnxRead, OnnxSite]:

    def weighable(tensor: str) -> bool:
        return may_come_before(graph, tensor, looked_up)

    site = looped(graph, plain, weighable)
    site = pooled(graph, plain, weighable) if site == plain else site
    for each in (masked(graph, site), site, plain):
        bags = bags_of(graph, each)
        source = ids_tensor_of(graph, each, bags) if bags is not None else None
        if bags is not None and source is not None:
            return OnnxRead(source, bags, each.mode, each.padding), each
    raise ValueError(f"node {node_name(graph.nodes[plain.node])}: its ids lie nowhere")


def _side_by_side(
    graph: Graph,
    reads: Mapping[str, Mapping[OnnxRead, tuple[OnnxSite, ...]]],
    quantized: Mapping[str, QuantizedInitializer],
) -> tuple[tuple[str, ...], ...]:
    """The initializers in tables: those of as many rows that are read alike, everywhere, are one.

    But one whose rows have a scale of their own is a table by itself.
    """
    alike: dict[tuple[Size, frozenset[OnnxRead], str], list[str]] = {}
    for initializer, of_table in reads.items():
        alone = initializer if initializer in quantized and quantized[initializer].format.dtype != "fp32" else ""
        alike.setdefault((graph.shapes[initializer][0], frozenset(of_table), alone), []).append(initializer)
    return tuple(tuple(tables) for tables in alike.values())


def _found(
    members: Sequence[Sequence[str]], reads: Mapping[str, Mapping[OnnxRead, tuple[OnnxSite, ...]]]
) -> Iterator[OnnxLookup]:
    """All look-ups, in the graph's order of their first site."""
    found = [
        OnnxLookup(table, read, tuple(site for member in of_table for site in reads[member][read]))
        for table, of_table in enumerate(members)
        for read in reads[of_table[0]]
    ]
    return iter(sorted(found, key=lambda each: min(site.node for site in each.sites)))


def _kept(graph: Graph, names: Mapping[str, str], kept: Mapping[str, str]) -> Iterator[Kept]:
    for table, reason in kept.items():
        shape = [size.number for size in graph.shapes[table]] or [1]
        yield Kept(names[table], shape[0], prod(shape[1:]), reason)


def _loop_notes(
    graph: Graph, reads: Mapping[str, Mapping[OnnxRead, tuple[OnnxSite, ...]]]
) -> Iterator[tuple[str, str]]:
    """What to say of a table whose looked-up rows are gone through by a loop: it works, but slowly."""
    for table, of_table in reads.items():
        for site in (site for sites in of_table.values() for site in sites):
            loop = _loop_after(graph, site.output)
            if loop is not None:
                yield (
                    table,
                    f"its rows go through the loop of node {loop}, as torch's exporters write EmbeddingBag, which "
                    "stays, slow as it was; the program of torch.export (source: exported) has none",
                )
                break


def _loop_after(graph: Graph, tensor: str) -> str | None:
    todo, seen = [tensor], set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in (graph.nodes[position] for position in graph.read_by.get(name, ())):
            if node.op_type in ("Loop", "Scan"):
                return node_name(node)
            if node.op_type in ("Cast", "Identity", "Mul", "Reshape", "Squeeze", "Unsqueeze"):
                todo += node.output
    return None
