"""Which ids a query's look-ups read, worked out with numpy from the tensors that they name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.model.types import Columns, Lookup, Model, Ragged

Ids = NDArray[np.int64]


def ids_read(model: Model, lookup: Lookup, tensors: Mapping[str, NDArray[Any]]) -> Ids:
    """The ids of a look-up's bags one behind another, (n,) int64: without its padding, and counted from the start.

    tensors: by name, those of a query. Ids may be outside the table. Raises ValueError where bounds do not fit.
    """
    layout, values = lookup.ids.layout, tensors[lookup.ids.tensor]
    if isinstance(layout, Columns):
        width = values.shape[-1] if layout.width is None and values.ndim else layout.width or 1
        rows = values.reshape(-1, width) if values.size else values.reshape(0, width)
        ids = rows if layout.width is None else rows[:, layout.begin : layout.begin + lookup.count * layout.bag]
    else:
        ids = _ragged(lookup, layout, values.reshape(-1), tensors[layout.bounds].reshape(-1))
    ids = ids.reshape(-1).astype(np.int64)
    if lookup.ids.padding is not None:
        ids = ids[ids != lookup.ids.padding]
    if lookup.ids.from_end:
        ids = np.where(ids < 0, ids + model.tables[lookup.table].rows, ids)
    return ids


def _ragged(lookup: Lookup, layout: Ragged, values: NDArray[Any], bounds: NDArray[Any]) -> NDArray[Any]:
    """The part of the values in which the look-up's own bags stand."""
    if layout.kind == "lengths":
        ends = np.cumsum(bounds, dtype=np.int64)
        starts = ends - bounds
    else:
        ends = np.append(bounds[1:], [] if layout.kind == "ends" else len(values)).astype(np.int64)
        starts = bounds[: len(ends)].astype(np.int64)
    bags, rest = divmod(len(starts), layout.blocks)
    if rest or (len(starts) and (starts[0] != 0 or ends[-1] > len(values) or bool((ends < starts).any()))):
        raise ValueError(f"{layout.bounds}: expected bounds of bags within {lookup.ids.tensor}, got others")
    own = slice(layout.block * bags, (layout.block + 1) * bags)
    return values[starts[own][0] : ends[own][-1]] if bags else values[:0]
