"""Queries some of whose bags are those of the row before, as all of a user's are beside candidates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.triton_backends.lookups import Cut, Query, Source
from triton_backends.router.routing import ENDS, LENGTHS, OFFSETS


def with_repeats(rng: np.random.Generator, cut: Cut, query: Query, share: float = 0.6) -> Query:
    """The query with bags made the row before's, in that share of rows; of some the weights stay others."""
    found = dict(query)
    for s, source in enumerate(cut.sources):
        (repeat_columns if source.kind == 0 else repeat_ragged)(found, s, source, lambda: rng.random() < share)
    return found


def repeat_columns(query: Query, s: int, source: Source, chosen: Callable[[], bool]) -> None:
    ids, weights = query[f"ids{s}"].copy(), query.get(f"weights{s}")
    width = ids.shape[-1] if source.width < 0 else source.width
    matrices = [ids.reshape(-1, width)] if width else []
    if weights is not None and width:
        query[f"weights{s}"] = weights = weights.copy()
        matrices.append(weights.reshape(-1, width))
    for region in source.regions:
        bag = width if source.width < 0 else region.bag
        for begin in range(region.begin, region.begin + region.count * bag, bag or 1):
            for matrix in matrices:  # ids, then weights
                for row in range(1, len(matrix)):
                    if chosen():
                        matrix[row, begin : begin + bag] = matrix[row - 1, begin : begin + bag]
    query[f"ids{s}"] = ids


def repeat_ragged(query: Query, s: int, source: Source, chosen: Callable[[], bool]) -> None:
    ids, bounds, weights = query[f"ids{s}"], query[f"bounds{s}"], query.get(f"weights{s}")
    ends = {LENGTHS: np.cumsum(bounds), OFFSETS: np.append(bounds[1:], ids.size), ENDS: bounds[1:]}[source.kind]
    bags = np.split(np.arange(ids.size), ends)[:-1]  # of each, where its ids are
    rows = len(bags) // len(source.regions)
    for bag in range(len(bags)):
        if bag % rows and chosen():
            bags[bag] = bags[bag - 1]
    places, lengths = np.concatenate([*bags, np.empty(0, np.int64)]).astype(np.int64), [len(bag) for bag in bags]
    ends = np.cumsum(lengths)
    bounds_of = {LENGTHS: lengths, OFFSETS: ends - lengths, ENDS: np.concatenate([[0], ends])}
    query[f"ids{s}"] = ids[places]
    query[f"bounds{s}"] = np.asarray(bounds_of[source.kind]).astype(bounds.dtype)
    if weights is not None:
        query[f"weights{s}"] = weights[places]
