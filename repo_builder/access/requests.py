"""Accesses counted in requests as clients send them: a model's inputs, whose ids its look-ups read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.counted import CountedHotness, Counts
from repo_builder.access.counter import AccessCounter
from repo_builder.access.npz import open_npz
from repo_builder.access.progress import Progress, Tell
from repo_builder.errors import AccessError
from repo_builder.model.lookups import ids_read
from repo_builder.model.source import Source
from repo_builder.model.types import BATCH, Model

_ROWS = 4096
"""Of a batch whose ids are worked out at once."""

Inputs = Mapping[str, NDArray[Any]]


def holds_requests(path: Path, model: Model) -> bool:
    """Whether a trace holds an array for each of the model's inputs, rather than one for each of its tables."""
    if path.suffix != ".npz":
        return False
    with open_npz(path) as reader:
        return {tensor.name for tensor in model.inputs} <= set(reader.names)


def read_requests(path: Path, model: Model) -> Inputs:
    """The arrays of a trace of requests, whole."""
    with open_npz(path) as reader:
        return {
            tensor.name: np.concatenate(list(reader.chunks(tensor.name, 1 << 20))).reshape(
                reader.header(tensor.name).shape
            )
            for tensor in model.inputs
        }


def count_requests(where: str, source: Source, requests: Inputs, progress: Progress, tell: Tell) -> CountedHotness:
    """How often each row of each table is read by requests; a table without any counts as read evenly, told once.

    where: what messages call the requests. Raises AccessError where an id is outside its table.
    """
    model = source.model
    counters = {table.name: AccessCounter(table.rows) for table in model.tables}
    pieces = list(_pieces(model, requests))
    for done, piece in enumerate(pieces):
        tensors = source.ids(piece)
        for lookup in model.lookups:
            table = model.tables[lookup.table]
            ids = ids_read(model, lookup, tensors)
            wrong = next(iter(np.flatnonzero((ids < 0) | (ids >= table.rows))), None)
            if wrong is not None:
                raise AccessError(
                    f"{where}: {lookup.name}: expected ids from 0 to {table.rows - 1} of table {table.name}, "
                    f"got {ids[wrong]}"
                )
            counters[table.name].add(ids)
        progress(done + 1, len(pieces))
    counts: dict[str, Counts] = {name: counter.counts for name, counter in counters.items()}
    _fill(where, counts, tell)
    return CountedHotness(lambda table: counts[table.name])


def _pieces(model: Model, requests: Inputs) -> Iterator[Inputs]:
    """Some rows of the batch at a time, where every input has them."""
    batched = model.dense.batched and all(tensor.shape[:1] == (BATCH,) for tensor in model.inputs)
    if not batched:
        yield requests
        return
    rows = min(len(array) for array in requests.values())
    for begin in range(0, rows, _ROWS):
        yield {name: array[begin : begin + _ROWS] for name, array in requests.items()}


def _fill(where: str, counts: dict[str, Counts], tell: Tell) -> None:
    unseen: Sequence[str] = [name for name, found in counts.items() if not found.any()]
    for name in unseen:
        counts[name].fill(1)
    if unseen:
        tell(f"{where}: no access to {', '.join(unseen)}: all of their rows count as equally hot")
