"""Where a program looks rows up in a parameter: the operators that do, and what they take."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from repo_builder.export.exported.graph import ProgramGraph, argument, shape_of
from repo_builder.model.types import Mode

_ATEN = torch.ops.aten


@dataclass(frozen=True, slots=True)
class ProgramSite:
    """A look-up in the graph: `result` is what comes out, `operator` what does it, `table` the parameter's placeholder.

    offsets: where bags begin; with_last: whether the end of the last stands there too. Of a pooled look-up without them
    the ids' last dimension is a bag.
    weights: by which rows are multiplied. padding: the id that counts for none. from_end: -1 is the last row.
    flaw: why it cannot be cut off, if so.
    """

    operator: Node
    result: Node
    table: Node
    ids: Node
    mode: Mode = "none"
    offsets: Node | None = None
    with_last: bool = False
    weights: Node | None = None
    padding: int | None = None
    from_end: bool = False
    flaw: str | None = None


def find_sites(graph: ProgramGraph) -> list[ProgramSite]:
    """All look-ups in matrices of numbers, or of quantized rows, among the parameters, in the graph's order."""
    sites, used = [], set(graph.nodes)
    for node in graph.nodes:
        if node.op == "call_function" and (read := _READERS.get(node.target)) is not None:
            site = read(node)
            held = graph.parameters.get(site.table) if site is not None else None
            if site is None or held is None or held.values.dim() != 2:
                continue
            if held.values.is_floating_point() or (node.target is _BYTES_BAG and held.values.dtype == torch.uint8):
                sites.append(_pooled_after(site, used))
    return sites


def _pooled_after(site: ProgramSite, used: AbstractSet[Node]) -> ProgramSite:
    """The look-up with the sum or mean over the ids' last dimension that all its vectors go into, if they do."""
    users = [user for user in site.result.users if user in used]
    ids = shape_of(site.ids)
    if site.mode != "none" or len(users) != 1 or len(ids) < 2 or (len(ids) > 2 and not isinstance(ids[-1], int)):
        return site
    mode = _POOLED.get(users[0].target)
    taken = users[0].args[1] if len(users[0].args) > 1 else None
    same_dtype = users[0].meta["val"].dtype == site.result.meta["val"].dtype
    if mode is None or taken not in ([len(ids) - 1], [-2]) or not same_dtype:
        return site
    return replace(site, result=users[0], mode=mode)


def _embedding(node: Node) -> ProgramSite | None:
    return ProgramSite(node, node, argument(node, 0), argument(node, 1))


def _index_select(node: Node) -> ProgramSite | None:
    return ProgramSite(node, node, argument(node, 0), argument(node, 2)) if argument(node, 1) in (0, -2) else None


def _index(node: Node) -> ProgramSite | None:
    positions = argument(node, 1)
    if len(positions) != 1 or not isinstance(positions[0], Node) or positions[0].meta["val"].dtype == torch.bool:
        return None
    return ProgramSite(node, node, argument(node, 0), positions[0], from_end=True)


def _bag(node: Node) -> ProgramSite | None:
    parts = {user.args[1]: user for user in node.users if user.target is operator.getitem and user.users}
    others = [user.name for user in node.users if user.target is not operator.getitem]
    result = parts.pop(0, None)
    if result is None:
        return None
    modes: tuple[Mode, ...] = ("sum", "mean")
    mode = argument(node, "mode")
    flaw = None
    if mode >= len(modes):
        flaw = f"{node.name} takes the largest of a bag's values (mode max), which partial sums cannot"
    elif parts or others:
        flaw = f"{node.name}'s other results are used, by {next(iter(parts.values())).name if parts else others[0]}"
    padding = argument(node, "padding_idx", -1)
    return ProgramSite(
        operator=node,
        result=result,
        table=argument(node, 0),
        ids=argument(node, 1),
        mode=modes[min(mode, 1)],
        offsets=argument(node, 2),
        with_last=bool(argument(node, "include_last_offset", False)),
        weights=argument(node, "per_sample_weights"),
        padding=None if padding is None or padding < 0 else int(padding),
        flaw=flaw,
    )


def _bytes_bag(node: Node) -> ProgramSite:
    """Sums of rows of bytes that end with scale and bias; the operator's mode says nothing."""
    pruned = argument(node, "pruned_weights", False) or argument(node, "compressed_indices_mapping") is not None
    return ProgramSite(
        operator=node,
        result=node,
        table=argument(node, 0),
        ids=argument(node, 1),
        mode="sum",
        offsets=argument(node, 2),
        with_last=bool(argument(node, "include_last_offset", False)),
        weights=argument(node, "per_sample_weights"),
        flaw=f"{node.name} has pruned rows, whose places are in a mapping" if pruned else None,
    )


_BYTES_BAG = torch.ops.quantized.embedding_bag_byte_rowwise_offsets.default
_POOLED: Mapping[object, Mode] = {_ATEN.sum.dim_IntList: "sum", _ATEN.mean.dim: "mean"}
_READERS: Mapping[object, Callable[[Node], ProgramSite | None]] = {
    _ATEN.embedding.default: _embedding,
    _ATEN.index_select.default: _index_select,
    _ATEN.index.Tensor: _index,
    _ATEN.embedding_bag.default: _bag,
    _ATEN.embedding_bag.padding_idx: _bag,
    _ATEN._embedding_bag.default: _bag,
    _ATEN._embedding_bag_forward_only.default: _bag,
    _BYTES_BAG: _bytes_bag,
}
