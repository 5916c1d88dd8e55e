"""Queries, an array an input: what is wrong with one, the whole program's answers, and those that come with it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from repo_builder.errors import InputError, ModelFileError
from repo_builder.export.exported.graph import ProgramGraph
from repo_builder.model.types import Tensor

Query = Mapping[str, NDArray[Any]]


def query_problems(inputs: Sequence[Tensor], query: Query) -> Iterator[str]:
    """Everything in which a query is none of a program with these inputs."""
    for name in query:
        if name not in {tensor.name for tensor in inputs}:
            yield f"{name}: expected inputs {', '.join(tensor.name for tensor in inputs)} alone, got this too"
    sizes: dict[str, int] = {}
    for tensor in inputs:
        got = query.get(tensor.name)
        dtype = numpy_dtype(tensor)
        if got is None:
            yield f"{tensor.name}: expected {_described(tensor)}, got none"
        elif got.dtype != dtype or len(got.shape) != len(tensor.shape):
            yield f"{tensor.name}: expected {_described(tensor)}, got {got.dtype} {list(got.shape)}"
        else:
            for want, size in zip(tensor.shape, got.shape, strict=True):
                if size != (sizes.setdefault(want, size) if isinstance(want, str) else want):
                    yield f"{tensor.name}: expected {_described(tensor, sizes)}, got {list(got.shape)}"
                    break


def _described(tensor: Tensor, sizes: Mapping[str, int] | None = None) -> str:
    shape = [f"{size} = {sizes[size]}" if sizes and isinstance(size, str) else size for size in tensor.shape]
    return f"{tensor.datatype} [{', '.join(map(str, shape))}]"


def numpy_dtype(tensor: Tensor) -> np.dtype[Any]:
    """A tensor's dtype in a query; that of BF16, which numpy has not, is float32."""
    if tensor.datatype == "BF16":
        return np.dtype(np.float32)
    kinds = {"FP": "float", "INT": "int", "UINT": "uint", "BOOL": "bool"}
    kind = tensor.datatype.rstrip("0123456789")
    return np.dtype(kinds[kind] + tensor.datatype.removeprefix(kind))


def whole_answers(graph: ProgramGraph, query: Query) -> list[NDArray[Any]]:
    """The outputs of the program, in order; raises InputError where it refuses the query."""
    try:
        values = graph.run(graph.outputs, feeds_of(graph, query))
    except (IndexError, RuntimeError, ValueError) as exc:
        line = next(iter(str(exc).splitlines()), type(exc).__name__)
        raise InputError(f"the model refuses the query: {line[:300]}; check its ids and sizes") from exc
    return [to_numpy(values[node]) for node in graph.outputs]


def feeds_of(graph: ProgramGraph, query: Query) -> dict[Any, torch.Tensor]:
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


def read_samples(path: Path, inputs: Sequence[Tensor]) -> Query:
    """A query from an .npz with an array an input; raises ModelFileError where it is none of the model's."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            query = {name: archive[name] for name in archive.files}
    except FileNotFoundError as exc:
        raise ModelFileError(
            f"{path}: expected a file of samples, found none; check model.samples in the spec"
        ) from exc
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as exc:
        raise ModelFileError(f"{path}: expected an .npz with an array an input, got another file ({exc})") from exc
    problems = [f"{path}: {problem}" for problem in query_problems(inputs, query)]
    if problems:
        raise ModelFileError(*problems)
    return query


def example_query(graph: ProgramGraph) -> Query | None:
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
