"""A program's look-ups in the model's words: tables, groups, look-ups, and the tensors that ids come from, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch.fx import Node

from repo_builder.export.exported.choice import Choice, Read
from repo_builder.export.exported.cutting import ids_dtype
from repo_builder.export.exported.graph import ProgramGraph, shape_of
from repo_builder.export.exported.ids import RaggedNodes
from repo_builder.export.exported.sizes import DATATYPES, Sizes
from repo_builder.model.types import BATCH, Group, Ids, Lookup, Ragged, Tensor


@dataclass(frozen=True, slots=True)
class Described:
    """computed: the nodes that the ids graph computes, by the names of its outputs."""

    groups: tuple[Group, ...]
    lookups: tuple[Lookup, ...]
    computed: Mapping[str, Node]

    def tensor(self, name: str, sizes: Sizes) -> Tensor:
        """An output of the ids graph."""
        node = self.computed[name]
        shape = tuple(sizes.name(size) for size in shape_of(node))
        return Tensor(name, DATATYPES[ids_dtype(node)], shape)


def describe(graph: ProgramGraph, choice: Choice, sizes: Sizes, taken: Sequence[str]) -> Described:
    """Name what was chosen; taken: names that tensors have already. What ids are on average is not known yet."""
    names = _tensor_names(graph, choice, {*taken, *(node.name for node in graph.inputs)})
    rows = list(dict.fromkeys(sizes.name(read.found.rows) for read in choice.reads))
    rows.sort(key=lambda each: each != BATCH)  # the batch's group first
    lookup_names = list(_lookup_names(choice, names))
    lookups = [
        Lookup(
            name=name,
            table=read.table,
            group=rows.index(sizes.name(read.found.rows)),
            ids=_ids(read, names),
            mode=read.mode,
            count=read.found.count,
            shape=_shape(choice, read, sizes),
            mean_ids=0.0,
        )
        for name, read in zip(lookup_names, choice.reads, strict=True)
    ]
    computed = {name: node for node, name in names.items() if not _is_direct(graph, node)}
    return Described(tuple(Group(each) for each in rows), tuple(lookups), computed)


def _nodes(read: Read) -> Iterator[Node]:
    """The tensors that a look-up takes."""
    yield read.found.ids
    if isinstance(read.found.layout, RaggedNodes):
        yield read.found.layout.bounds
    if read.found.weights is not None:
        yield read.found.weights


def _is_direct(graph: ProgramGraph, node: Node) -> bool:
    return node in graph.inputs and bool(node.meta["val"].dtype == ids_dtype(node))


def _tensor_names(graph: ProgramGraph, choice: Choice, taken: set[str]) -> dict[Node, str]:
    """Inputs have their own names, what is computed is `ids_0`, `ids_1`, ..."""
    nodes = dict.fromkeys(node for read in choice.reads for node in _nodes(read))
    free = (name for i in range(len(nodes) + len(taken)) if (name := f"ids_{i}") not in taken)
    return {node: node.name if _is_direct(graph, node) else next(free) for node in nodes}


def _lookup_names(choice: Choice, names: Mapping[Node, str]) -> Iterator[str]:
    """A look-up is called as its table; of several in one each by its ids' tensor too, then by number."""
    tables = Counter(read.table for read in choice.reads)
    seen: Counter[str] = Counter()
    for read in choice.reads:
        name = choice.tables[read.table].table.name
        if tables[read.table] > 1:
            name = f"{name}.{names[read.found.ids]}"
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}_{seen[name]}"


def _ids(read: Read, names: Mapping[Node, str]) -> Ids:
    found = read.found
    layout = found.layout
    placed = (
        Ragged(names[layout.bounds], layout.kind, layout.block, layout.blocks)
        if isinstance(layout, RaggedNodes)
        else layout
    )
    weights = None if found.weights is None else names[found.weights]
    return Ids(names[found.ids], placed, weights, read.padding, read.from_end)


def _shape(choice: Choice, read: Read, sizes: Sizes) -> tuple[int | str, ...]:
    result = read.sites[0][1].result
    return (*(sizes.name(size) for size in shape_of(result)[:-1]), choice.tables[read.table].table.format.dim)
