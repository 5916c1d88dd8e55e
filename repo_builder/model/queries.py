"""What is wrong with arrays that should be a query of a model: recorded by its owner, or sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from repo_builder.model.arrays import DTYPES, Arrays
from repo_builder.model.types import BATCH, Tensor


def query_problems(inputs: Sequence[Tensor], query: Arrays) -> Iterator[str]:
    """Everything in which a query is none of a program with these inputs."""
    for name in query:
        if name not in {tensor.name for tensor in inputs}:
            yield f"{name}: expected inputs {', '.join(tensor.name for tensor in inputs)} alone, got this too"
    sizes: dict[str, int] = {}  # of dimensions, as the first input that has each says, one of another type too
    for tensor in inputs:
        got = query.get(tensor.name)
        dtype = DTYPES[tensor.datatype]
        if got is None:
            yield f"{tensor.name}: expected {_described(tensor)}, got none"
        elif len(got.shape) != len(tensor.shape):
            yield f"{tensor.name}: expected {_described(tensor)}, got {got.dtype} {list(got.shape)}"
        else:
            for want, size in zip(tensor.shape, got.shape, strict=True):
                if isinstance(want, str):
                    sizes.setdefault(want, size)
            if got.dtype != dtype:
                yield f"{tensor.name}: expected {_described(tensor)}, got {got.dtype} {list(got.shape)}"
            elif list(got.shape) != [sizes[want] if isinstance(want, str) else want for want in tensor.shape]:
                yield f"{tensor.name}: expected {_described(tensor, sizes)}, got {list(got.shape)}"


def request_problems(inputs: Sequence[Tensor], query: Arrays) -> Iterator[str]:
    """The same of recorded requests, of which there must be some."""
    problems = list(query_problems(inputs, query))
    yield from problems
    sizes = (query[tensor.name].shape[tensor.shape.index(BATCH)] for tensor in inputs if BATCH in tensor.shape)
    if not problems and 0 in sizes:
        yield "expected at least one row, got 0"


def _described(tensor: Tensor, sizes: Mapping[str, int] | None = None) -> str:
    shape = [f"{size} = {sizes[size]}" if sizes and isinstance(size, str) else size for size in tensor.shape]
    return f"{tensor.datatype} [{', '.join(map(str, shape))}]"
