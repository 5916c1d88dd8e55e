"""An exported program's graph: its inputs, tensors and outputs by name, sizes by name, and running parts of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, cast

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx import GraphModule, Node
from torch.utils._sympy.functions import FloorDiv

from repo_builder.errors import InputError, ModelFileError
from repo_builder.export.exported.program import Program
from repo_builder.model.arrays import Arrays

Size: TypeAlias = "int | sympy.Expr"
"""A dimension: a number, or an expression of symbols."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter, buffer or constant of the program: its name there, and its values as they lie in the file."""

    name: str
    values: torch.Tensor


@dataclass(frozen=True, slots=True)
class ProgramGraph:
    """The graph's nodes in order, those that an output needs, and what its placeholders and outputs are.

    inputs: the program's, tensors all. parameters: by placeholder. fixed: inputs that are no tensors, and their values.
    outputs: a node each, in order.
    """

    program: Program
    nodes: Sequence[Node]
    inputs: Sequence[Node]
    parameters: Mapping[Node, Weight]
    fixed: Mapping[Node, Any]
    outputs: Sequence[Node]

    @property
    def branches(self) -> Sequence[Node]:
        """The nodes that take one of two ways, as values tell (torch.cond)."""
        return [node for node in self.nodes if node.target is torch.ops.higher_order.cond]

    @property
    def computes_in_halves(self) -> bool:
        """Whether some tensor has half precision."""
        values = (node.meta.get("val") for node in self.nodes)
        dtypes = {value.dtype for value in values if isinstance(value, torch.Tensor)}
        return bool(dtypes & {torch.float16, torch.bfloat16})

    def run(self, wanted: Iterable[Node], feeds: Mapping[Node, Any]) -> dict[Node, Any]:
        """The values of some nodes, where those of others (all inputs that they need) are given."""
        targets = list(wanted)
        needed = ancestors(targets, stop=feeds)
        values: dict[Node, Any] = {**self.fixed, **feeds}
        with torch.no_grad():
            for node in self.nodes:
                if node not in needed or node in values:
                    continue
                if node in self.parameters:
                    values[node] = self.parameters[node].values
                elif node.op == "get_attr":
                    values[node] = getattr(self.program.exported.graph_module, str(node.target))
                else:
                    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda each: values[each])
                    operator = cast("Callable[..., Any]", node.target)  # a function: nodes of other kinds are above
                    values[node] = operator(*args, **kwargs)
        return {node: values[node] for node in targets}


def open_graph(program: Program) -> ProgramGraph:
    """Say what each placeholder is; raises ModelFileError for inputs, outputs or states that cannot be served."""
    exported, problems = program.exported, []
    by_name = {node.name: node for node in exported.graph.nodes}
    inputs, parameters, fixed, outputs = [], {}, {}, []
    for spec in exported.graph_signature.input_specs:
        node = by_name[spec.arg.name]
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument):
            inputs.append(node)
        elif spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, ConstantArgument):
            fixed[node] = spec.arg.value
        elif spec.target is not None:
            held = exported.state_dict if spec.target in exported.state_dict else exported.constants
            parameters[node] = Weight(spec.target, held[spec.target])
        else:
            problems.append(
                f"input {node.name}: expected a tensor, got {spec.arg}; make it one, or a constant of the model"
            )
    for out in exported.graph_signature.output_specs:
        if out.kind is OutputKind.USER_OUTPUT and isinstance(out.arg, TensorArgument):
            outputs.append(by_name[out.arg.name])
        elif out.kind is OutputKind.USER_INPUT_MUTATION:
            continue  # clients do not see what becomes of what they sent
        elif out.kind is OutputKind.BUFFER_MUTATION:
            problems.append(
                f"buffer {out.target}: the program changes it at each call; call model.eval() before the export"
            )
        elif out.kind is OutputKind.PARAMETER_MUTATION:
            problems.append(
                f"parameter {out.target}: the program changes it at each call, as max_norm does; renormalise its "
                "rows once (torch.renorm), and set max_norm to None before the export"
            )
        else:
            problems.append(f"output {out.arg}: expected tensors; let the model return tensors alone")
    problems += [
        f"node {node.name}: it draws random numbers ({node.target}); call model.eval() before the export"
        for module in exported.graph_module.modules()
        if isinstance(module, GraphModule)
        for node in module.graph.nodes
        if _is_random(node)
    ]
    if problems:
        raise ModelFileError(*dict.fromkeys(f"{program.path}: {problem}" for problem in problems))
    used = ancestors(outputs)
    nodes = [node for node in exported.graph.nodes if node in used or node in inputs]
    return ProgramGraph(program, nodes, inputs, parameters, fixed, outputs)


def _is_random(node: Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    training = argument(node, "train", argument(node, "training", True))
    if training is False or argument(node, "dropout_p", 1.0) == 0.0:
        return False
    dropout = node.target in (torch.ops.aten.dropout.default, torch.ops.aten.native_dropout.default)
    return dropout or torch.Tag.nondeterministic_seeded in node.target.tags


def argument(node: Node, position: int | str, default: Any = None) -> Any:
    """An operator's argument by its position or name, where it is given or has a default value."""
    schema = node.target._schema.arguments  # type: ignore[union-attr] # torch types `target` as any callable or a name; a node of an operator has an OpOverload there
    index = (
        position
        if isinstance(position, int)
        else next((i for i, each in enumerate(schema) if each.name == position), None)
    )
    if index is None or index >= len(schema):
        return default
    if index < len(node.args):
        return node.args[index]
    return node.kwargs.get(schema[index].name, schema[index].default_value)


def ancestors(nodes: Iterable[Node], stop: Iterable[Node] = ()) -> set[Node]:
    """The nodes and all that they are computed from, but for what only those to stop at need."""
    ends, found, open_nodes = set(stop), set(), list(nodes)
    while open_nodes:
        node = open_nodes.pop()
        if node not in found:
            found.add(node)
            open_nodes += () if node in ends else node.all_input_nodes
    return found


def shape_of(node: Node) -> tuple[Size, ...]:
    """The sizes of a node's tensor."""
    return tuple(size_of(each) for each in node.meta["val"].shape)


def size_of(value: Any) -> Size:
    """A size as a number or an expression."""
    if isinstance(value, torch.SymInt):
        expression = simple(value.node.expr)
        return int(expression) if expression.is_Integer else expression
    return int(value)


@lru_cache(maxsize=4096)
def simple(expression: sympy.Expr) -> sympy.Expr:
    """An expression without roundings of what is whole: as many as arange(0, n * d, d) has are n."""
    for rounded in expression.atoms(FloorDiv):
        above, below = rounded.args
        whole = sympy.cancel((above - below + 1) / below)
        if whole.as_numer_denom()[1] == 1:
            expression = expression.subs(rounded, whole)
    return expression


def whole_answers(graph: ProgramGraph, query: Arrays) -> list[NDArray[Any]]:
    """The outputs of the program, in order; raises InputError where it refuses the query."""
    values = values_of(graph, graph.outputs, query)
    return [to_numpy(values[node]) for node in graph.outputs]


def values_of(graph: ProgramGraph, nodes: Iterable[Node], query: Arrays) -> Mapping[Node, torch.Tensor]:
    """What nodes are for a query; raises InputError where the program refuses it."""
    try:
        return graph.run(nodes, feeds_of(graph, query))
    except (IndexError, RuntimeError, ValueError) as exc:
        line = next(iter(str(exc).splitlines()), type(exc).__name__)
        raise InputError(f"the model refuses the query: {line[:300]}; check its ids and sizes") from exc


def feeds_of(graph: ProgramGraph, query: Arrays) -> dict[Any, torch.Tensor]:
    """A query as tensors of the program's inputs."""
    return {
        node: torch.from_numpy(np.require(query[node.name], requirements=["C", "W"])).to(node.meta["val"].dtype)
        for node in graph.inputs
    }


def to_numpy(value: torch.Tensor) -> NDArray[Any]:
    """A tensor as an array of its own; BF16 as float32."""
    value = value.detach()
    array: NDArray[Any] = (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()
    return array


def example_query(graph: ProgramGraph) -> Arrays | None:
    """The inputs that the program was exported with, where its file holds them."""
    names = [node.name for node in (*graph.inputs, *graph.fixed)]
    example = graph.program.example
    if example is None or len(example) != len(names):
        return None
    order = [node for node in graph.program.exported.graph.nodes if node in graph.inputs or node in graph.fixed]
    values = {node: value for node, value in zip(order, example, strict=True) if node in graph.inputs}
    if not all(isinstance(value, torch.Tensor) for value in values.values()):
        return None
    return {node.name: to_numpy(value) for node, value in values.items()}
