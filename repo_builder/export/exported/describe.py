"""A program in the model's words: its tables, groups and look-ups, and the tensors that ids come from, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch.fx import Node

from repo_builder.export.exported.cut import ProgramCut, ProgramLookup
from repo_builder.export.exported.graph import ProgramGraph, ancestors, shape_of
from repo_builder.export.exported.ids import RaggedNodes
from repo_builder.export.exported.programs import ids_dtype
from repo_builder.export.exported.sizes import DATATYPES, Sizes
from repo_builder.model.types import BATCH, Dense, Group, Ids, IdsGraph, Lookup, Model, Ragged, Tensor


@dataclass(frozen=True, slots=True)
class Described:
    """The model, but for what only a query shows; computed: what its ids graph's outputs are in the program."""

    model: Model
    computed: Mapping[str, Node]


def describe(
    name: str, graph: ProgramGraph, choice: ProgramCut, sizes: Sizes, outputs: Sequence[str], dense: Sequence[Node]
) -> Described:
    """Say what was chosen in the model's words; outputs: their names. dense: the inputs that the dense graph reads."""
    names = _tensor_names(graph, choice, {*outputs, *(node.name for node in graph.inputs)})
    rows = list(dict.fromkeys(sizes.name(read.found.rows) for read in choice.reads))
    rows.sort(key=lambda each: each != BATCH)  # the batch's group first
    lookups = tuple(
        Lookup(
            name=lookup_name,
            table=read.table,
            group=rows.index(sizes.name(read.found.rows)),
            ids=_ids(read, names),
            mode=read.mode,
            count=read.found.count,
            shape=_shape(choice, read, sizes),
            mean_ids=0.0,
        )
        for lookup_name, read in zip(_lookup_names(choice, names), choice.reads, strict=True)
    )
    computed = {each: node for node, each in names.items() if not _is_direct(graph, node)}
    tensors = {each: _tensor(node, each, sizes) for node, each in names.items()}
    read = [sizes.tensor(node, node.name) for node in dense]
    model = Model(
        name=name,
        inputs=tuple(sizes.tensor(node, node.name) for node in graph.inputs),
        outputs=tuple(sizes.tensor(node, each) for node, each in zip(graph.outputs, outputs, strict=True)),
        tables=tuple(joined.table for joined in choice.tables),
        groups=tuple(Group(each) for each in rows),
        lookups=lookups,
        dense=Dense(tuple(_dense_inputs(read, lookups, tensors)), 0, 0, batched=False),
        ids_graph=_ids_graph(graph, computed, tensors, sizes) if computed else None,
        kept=choice.kept,
    )
    return Described(model, computed)


def _tensor(node: Node, name: str, sizes: Sizes) -> Tensor:
    """A tensor that look-ups take: an input, or what the ids graph gives."""
    return Tensor(name, DATATYPES[ids_dtype(node)], tuple(sizes.name(size) for size in shape_of(node)))


def _ids_graph(
    graph: ProgramGraph, computed: Mapping[str, Node], tensors: Mapping[str, Tensor], sizes: Sizes
) -> IdsGraph:
    used = ancestors(computed.values())
    inputs = tuple(sizes.tensor(node, node.name) for node in graph.inputs if node in used)
    return IdsGraph(inputs, tuple(tensors[name] for name in computed))


def _dense_inputs(inputs: list[Tensor], lookups: Sequence[Lookup], tensors: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """What the dense graph reads, and the ids' tensors of look-ups whose several sizes vary and are nowhere else."""
    known = {size for tensor in inputs for size in tensor.shape}
    yield from inputs
    for lookup in lookups:
        varying = {size for size in lookup.shape if isinstance(size, str)}
        if len(varying) > 1 and not varying <= known:
            yield tensors[lookup.ids.tensor]
            known |= varying


def _nodes(read: ProgramLookup) -> Iterator[Node]:
    """The tensors that a look-up takes."""
    yield read.found.ids
    if isinstance(read.found.layout, RaggedNodes):
        yield read.found.layout.bounds
    if read.found.weights is not None:
        yield read.found.weights


def _is_direct(graph: ProgramGraph, node: Node) -> bool:
    return node in graph.inputs and bool(node.meta["val"].dtype == ids_dtype(node))


def _tensor_names(graph: ProgramGraph, choice: ProgramCut, taken: set[str]) -> dict[Node, str]:
    """Inputs have their own names, what is computed is `ids_0`, `ids_1`, ..."""
    nodes = dict.fromkeys(node for read in choice.reads for node in _nodes(read))
    free = (name for i in range(len(nodes) + len(taken)) if (name := f"ids_{i}") not in taken)
    return {node: node.name if _is_direct(graph, node) else next(free) for node in nodes}


def _lookup_names(choice: ProgramCut, names: Mapping[Node, str]) -> Iterator[str]:
    """A look-up is called as its table; of several in one each by its ids' tensor too, then by number."""
    tables = Counter(read.table for read in choice.reads)
    seen: Counter[str] = Counter()
    for read in choice.reads:
        name = choice.tables[read.table].table.name
        if tables[read.table] > 1:
            name = f"{name}.{names[read.found.ids]}"
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}_{seen[name]}"


def _ids(read: ProgramLookup, names: Mapping[Node, str]) -> Ids:
    found = read.found
    layout = found.layout
    placed = (
        Ragged(names[layout.bounds], layout.kind, layout.block, layout.blocks)
        if isinstance(layout, RaggedNodes)
        else layout
    )
    weights = None if found.weights is None else names[found.weights]
    return Ids(names[found.ids], placed, weights, read.padding, read.from_end)


def _shape(choice: ProgramCut, read: ProgramLookup, sizes: Sizes) -> tuple[int | str, ...]:
    result = read.sites[0][1].result
    return (*(sizes.name(size) for size in shape_of(result)[:-1]), choice.tables[read.table].table.format.dim)
