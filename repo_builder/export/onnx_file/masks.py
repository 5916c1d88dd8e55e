"""Weights that are a mask, 1 for an id and 0 for the one that stands for none: it is padding, and needs no weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repo_builder.export.onnx_file.graph import Graph
from repo_builder.export.onnx_file.ids import moved_from
from repo_builder.export.onnx_file.probe import INTEGERS, drawn_numbers, drawn_sizes, moved, numbers_at, session_between
from repo_builder.export.onnx_file.read import values
from repo_builder.export.onnx_file.run import RUNTIME_ERRORS
from repo_builder.export.onnx_file.sites import Site

_SEEDS = range(8)
_OF_THOSE = 0.3  # ids that may be the padding


def masked(graph: Graph, site: Site) -> Site:
    """The look-up with a padding in the place of its weights, or as it is where they are no mask of one id.

    Seen, not read: what makes the weights of the ids is run on drawn ids.
    """
    if site.weights is None or site.padding is not None:
        return site
    source = moved_from(graph, site.ids)[-1]
    places = graph.needed([site.weights], [source])
    read = {name for place in places for name in graph.reads[place]}
    if source not in read or any(name in graph.inputs and name != source for name in read):
        return site
    constants = [graph.initializers[name] for name in read if name in graph.initializers]
    numbers = (
        values(each, graph.folder) for each in constants if each.data_type in INTEGERS and each.dims in ([], [1])
    )
    left = list(dict.fromkeys([0, *(int(number.reshape(-1)[0]) for number in numbers)]))
    try:
        session = session_between(graph, [source], site.weights)
    except RUNTIME_ERRORS:
        return site
    for seed in _SEEDS:
        rng = np.random.default_rng(seed)
        sizes = drawn_sizes(graph, rng)
        shape = numbers_at(graph.shapes[source], sizes)
        if shape is None or not left:
            return site
        ids = drawn_numbers(graph, source, shape, rng)
        ids = np.where(rng.random(shape) < _OF_THOSE, rng.choice(left, shape), ids).astype(ids.dtype)
        got = moved(graph, session, {source: ids}, sizes)
        if got is None or got.size != ids.size:
            return site
        left = [each for each in left if np.array_equal(got.reshape(-1), (ids != each).reshape(-1))]
    return replace(site, weights=None, padding=left[0]) if len(left) == 1 else site
