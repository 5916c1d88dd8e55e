"""What of an exported program's graph may reach torch's loader, which would run much of what a file says.

torch evaluates shape expressions and guards, imports what pytree specs name, writes names into code, and takes any name
under `torch`, `math` or `operator` for an operator. So known operators, plain arithmetic and plain names pass, and
nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any

import torch

from repo_builder.errors import ModelFileError

_TENSOR_OPERATOR = re.compile(r"torch\.ops\.(?:aten|prims)\.(\w+)\.(\w+)")
_BYTES_BAG = "torch.ops.quantized.embedding_bag_byte_rowwise_offsets.default"
_OUTSIDE = frozenset({"save", "from_file"})  # aten operators that touch files
_NUMBERS = """
    _operator.getitem _operator.eq _operator.ne _operator.le _operator.ge _operator.lt _operator.gt _operator.neg
    _operator.pos _operator.mul _operator.add _operator.sub _operator.floordiv _operator.mod _operator.pow
    _operator.truediv _operator.and_ _operator.or_ _operator.lshift _operator.rshift math.trunc math.ceil math.floor
    torch.sym_not torch.sym_int torch.sym_float torch.sym_ite torch.sym_max torch.sym_min torch._sym_sqrt
"""
_EXPRESSION_TOKENS = re.compile(r"\s*(?:'\w+'|[A-Za-z_]\w*|\d{1,20}(?:\.\d{1,20})?|//|<=|>=|==|!=|[-+*/(),=<>])")
_EXPRESSION_NAMES = """
    Symbol Integer Float Rational Add Mul Pow Max Min Mod PythonMod FloorDiv CleanDiv CeilDiv CeilToInt FloorToInt
    ToFloat TruncToInt TruncToFloat IntTrueDiv FloatTrueDiv FloatPow PowByNatural Where ModularIndexing Identity
    Eq Ne Lt Le Gt Ge And Or Not Piecewise ceiling floor true false True False positive integer nonnegative real
    StrictLessThan LessThan StrictGreaterThan GreaterThan Equality Unequality RoundToInt Abs precision prec
"""
_NAME = re.compile(r"[A-Za-z_0-9]+(\.[A-Za-z_0-9]+)*")
_TYPES: Mapping[str, type | UnionType] = {
    "as_int": int,
    "as_ints": int,
    "as_bool": bool,
    "as_bools": bool,
    "as_float": int | float,
    "as_floats": int | float,
    "min_val": int | None,
    "max_val": int | None,
    "dtype": int,
    "as_scalar_type": int,
    "as_memory_format": int,
    "as_layout": int,
    "layout": int,
}
_SYMBOL = re.compile(r"_?[a-z]{1,4}\d+")
_LONGEST_EXPRESSION = 4096
_LEAF: Mapping[str, Any] = {"type": None, "context": None, "children_spec": []}
_KINDS = {"as_custom_obj": "a script object", "as_operator": "an operator as a value"}
_BRANCH = "torch.ops.higher_order.cond"


def checked_graph(document: dict[str, Any]) -> dict[str, Any]:
    """The program's document, checked, without its guards, traces and trees of inputs: those are flat in what we load.

    Raises ModelFileError with a line for each node that cannot be taken.
    """
    module = document["graph_module"]
    nodes = [node for graph in _graphs(module["graph"]) for node in graph["nodes"]]
    problems = [problem for node in nodes if (problem := _operator_problem(node)) is not None]
    for node in nodes:
        node["metadata"] = {}
    signature = module["signature"]
    entry = {
        "inputs": [],
        "outputs": [],
        "in_spec": _flat_spec(number_of_inputs(signature["input_specs"])),
        "out_spec": _flat_spec(len(signature["output_specs"]), call=False),
        "forward_arg_names": [name for spec in signature["input_specs"] if (name := _input_name(spec)) is not None],
    }
    module |= {
        "module_call_graph": [{"fqn": "", "signature": entry}],
        "metadata": {},
        "treespec_namedtuple_fields": {},
    }
    # torch's own loader takes a range of an expression (s0 + 1) for a symbol's, and its exporter fails on that
    ranges = {name: each for name, each in document["range_constraints"].items() if _SYMBOL.fullmatch(name)}
    document |= {"guards_code": [], "verifiers": ["TRAINING"], "range_constraints": ranges}
    problems += _value_problems(document)
    if problems:
        raise ModelFileError(*dict.fromkeys(problems))
    return document


def _graphs(graph: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A graph and those within it, the branches of torch.cond."""
    yield graph
    for node in graph["nodes"]:
        for given in node["inputs"]:
            if "as_graph" in given["arg"]:
                yield from _graphs(given["arg"]["as_graph"]["graph"])


def number_of_inputs(specs: Sequence[Mapping[str, Any]]) -> int:
    """How many arguments the program takes, among all that its graph does."""
    return sum(_input_name(spec) is not None for spec in specs)


def _input_name(spec: Mapping[str, Any]) -> str | None:
    """The name of an argument of the program; None for a parameter or another thing that its graph takes."""
    if "user_input" in spec:
        (argument,) = spec["user_input"]["arg"].values()
        return str(argument["name"] if "name" in argument else argument["as_name"])
    return str(spec["constant_input"]["name"]) if "constant_input" in spec else None


def _operator_problem(node: Mapping[str, Any]) -> str | None:
    target = str(node["target"])
    where = f"node {node.get('name') or target}"
    if target.startswith("torch.ops.higher_order.wrap_with_"):
        return (
            f"{where}: expected straight-line operators, got a part under torch.no_grad or autocast; "
            "inline it before torch.export.save: program = program.run_decompositions({})"
        )
    if target == _BRANCH:
        return None
    if target.startswith("torch.ops.higher_order."):
        return (
            f"{where}: expected straight-line operators, got control flow ({target.rpartition('.')[2]}); "
            "write the branch or loop without control flow that depends on data, and export again"
        )
    if target in _NUMBERS.split() or target == _BYTES_BAG:
        return None
    if target.startswith(("torch.ops.quantized", "torch.ops.torchao.")):
        return (
            f"{where}: expected PyTorch's own operators (aten), got {target}; export the float model and say "
            "rows: int8 in the spec, or look up rows of torch.ops.quantized.embedding_bag_byte_prepack by "
            "embedding_bag_byte_rowwise_offsets"
        )
    found = _TENSOR_OPERATOR.fullmatch(target)
    if found is None or found[1] in _OUTSIDE:
        return (
            f"{where}: expected PyTorch's own operators (aten), got {target}; write it with PyTorch's operators, "
            "or decompose it: program.run_decompositions(...)"
        )
    packet = getattr(torch.ops.aten if target.startswith("torch.ops.aten.") else torch.ops.prims, found[1], None)
    if not isinstance(getattr(packet, found[2], None), torch._ops.OpOverload):
        return f"{where}: torch {torch.__version__} has no operator {target}; update torch, or export with this version"
    return None


def _value_problems(document: Mapping[str, Any]) -> Iterator[str]:
    for graph in _graphs(document["graph_module"]["graph"]):
        for values in ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "custom_obj_values"):
            yield from (problem for name in graph.get(values, {}) for problem in _name_problems(name))
    for key, value in _walk(document):
        if key == "expr_str":
            yield from _expression_problems(value)
        elif key in _KINDS:
            yield f"the graph: expected tensors and numbers, got {_KINDS[key]}; export the model without it"
        elif key in _TYPES and not all(_is(each, _TYPES[key]) for each in _as_list(value)):
            yield f"the graph: {key}: expected {_TYPES[key]}, got {value!r:.80}; the file is damaged: export it again"
        elif key == "name" or key.endswith("_name"):
            yield from _name_problems(value)
        elif key in ("device", "as_device") and isinstance(value, Mapping) and value["type"] not in ("cpu", "meta"):
            yield wrong_device("the program", value["type"])


def wrong_device(what: str, device: str) -> str:
    """What to say of a program for another device."""
    return (
        f"{what}: expected a program for the CPU, got tensors on {device}; export it there: "
        "torch.export.export(model.cpu(), cpu_inputs, ...)"
    )


def _is(value: object, kind: type | UnionType) -> bool:
    return isinstance(value, kind) or (kind == int | float and value in ("Infinity", "-Infinity", "NaN"))


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def is_name(name: object) -> bool:
    """Whether it is one: torch writes names into code."""
    return name is None or (isinstance(name, str) and _NAME.fullmatch(name) is not None)


def _name_problems(name: object) -> Iterator[str]:
    if not is_name(name) and name != "":
        yield f"the graph: expected names of letters, digits, _ and dots, got {name!r:.80}; rename the module"


def _walk(value: object) -> Iterator[tuple[str, Any]]:
    """Every key of every mapping within, and its value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key, item
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)


def _expression_problems(text: object) -> Iterator[str]:
    """torch evaluates it: names and signs of arithmetic alone may stand in it."""
    position, whole = 0, str(text).rstrip()
    while position < len(whole):
        match = _EXPRESSION_TOKENS.match(whole, position)
        token = match.group().strip() if match else ""
        word = token[:1].isalpha() or token[:1] == "_"
        known = not word or token in _EXPRESSION_NAMES.split() or _SYMBOL.fullmatch(token)
        if not match or not known or len(whole) > _LONGEST_EXPRESSION:
            yield f"the graph: expected shape expressions of symbols and arithmetic, got {whole[:80]!r}"
            return
        position = match.end()


def _flat_spec(leaves: int, *, call: bool = True) -> str:
    """A pytree spec, as torch writes it, of a flat tuple: of a call's arguments, or of what it returns."""

    def node(kind: str, context: str, children: list[Any]) -> dict[str, Any]:
        return {"type": f"builtins.{kind}", "context": context, "children_spec": children}

    flat = node("tuple", "null", [_LEAF] * leaves)
    return json.dumps([1, node("tuple", "null", [flat, node("dict", "[]", [])]) if call else flat])
