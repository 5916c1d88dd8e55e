"""Small ONNX files by hand, and the proof of a cut: look-ups bag by bag, the written graphs run as a server does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from repo_builder.export.onnx_file import open_onnx
from repo_builder.export.onnx_file.cut import Keep
from repo_builder.export.onnx_file.source import OnnxSource
from repo_builder.model.source import Partial, divisors_name
from repo_builder.model.types import Lookup, Model, Ragged, RowFormat
from tests.export.quantized_rows import PACK

Arrays = Mapping[str, NDArray[Any]]
INT64, INT32, FLOAT, BOOL = TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.BOOL


def table(rows: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, dim), np.float32)


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str] | str, **attributes: Any) -> onnx.NodeProto:
    outputs = [outputs] if isinstance(outputs, str) else outputs
    domain = attributes.pop("domain", "")
    return helper.make_node(op_type, inputs, outputs, f"n_{outputs[0]}", domain=domain, **attributes)


def make(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str | None]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str | None]]],
    arrays: Mapping[str, NDArray[Any]],
    opset: int = 18,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model; arrays are its initializers."""
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def opened(
    model: onnx.ModelProto, folder: Path, keep_under_bytes: int = 0, keep: Mapping[str, Keep] | None = None
) -> OnnxSource:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return open_onnx(path, "toy", None, keep_under_bytes, keep or {})


def read_tables(source: OnnxSource) -> list[NDArray[np.float32]]:
    tables = []
    for each in source.model.tables:
        blocks, dtype = list(source.table_chunks(each)), np.float32 if each.format.dtype == "fp32" else np.uint8
        assert all(block.flags.c_contiguous and block.dtype == dtype for block in blocks)
        tables.append(_unpacked(np.concatenate(blocks), each.format))
        assert tables[-1].shape == (each.rows, each.format.dim)
    return tables


def _unpacked(rows: NDArray[Any], row_format: RowFormat) -> NDArray[np.float32]:
    """The numbers of rows as they come, by PyTorch's operators where they are quantized."""
    if row_format.dtype not in PACK:
        return rows
    return np.ascontiguousarray(PACK[row_format.dtype][1](torch.from_numpy(rows)).numpy()[:, : row_format.dim])


def looked_up(model: Model, lookup: Lookup, tensors: Arrays, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums (rows, count, dim), bag by bag; a mean is not divided."""
    ids = tensors[lookup.ids.tensor]
    assert ids.dtype in (np.int64, np.int32)
    weights = tensors[lookup.ids.weights].reshape(ids.shape) if lookup.ids.weights else np.ones(ids.shape)
    places = bags_of(lookup, tensors)
    sums = np.zeros((len(places), lookup.count, rows.shape[1]), np.float32)
    for row, bags in enumerate(places):
        for number, bag in enumerate(bags):
            for id_, weight in zip(ids.reshape(-1)[bag], weights.reshape(-1)[bag], strict=True):
                if id_ == lookup.ids.padding:
                    continue
                assert (-len(rows) if lookup.ids.from_end else 0) <= id_ < len(rows)
                sums[row, number] += rows[id_] * np.float32(weight)
    return sums


def bags_of(lookup: Lookup, tensors: Arrays) -> list[list[range]]:
    """Of each row, the places of its bags' ids in their tensor."""
    ids, layout = tensors[lookup.ids.tensor], lookup.ids.layout
    if isinstance(layout, Ragged):
        assert ids.ndim == 1
        bounds = tensors[layout.bounds].tolist()
        bounds = bounds if layout.kind == "ends" else [*bounds, len(ids)]
        return [[range(begin, end)] for begin, end in pairwise(bounds)]
    width = ids.shape[-1] if layout.width is None else layout.width
    bag = ids.shape[-1] if layout.width is None else layout.bag
    begins = [row * width + layout.begin for row in range(ids.size // width if width else 0)]
    return [[range(begin + i * bag, begin + (i + 1) * bag) for i in range(lookup.count)] for begin in begins]


def partials_of(model: Model, shards: int) -> list[Partial]:
    """Each group's look-ups in so many partials: all in the first, fewer in the others, the last ones first."""
    partials = []
    for group in range(len(model.groups)):
        places = list(model.in_group(group))
        for shard in range(min(shards, len(places))):
            columns, width = {}, 0
            for place in places if shard == 0 else reversed(places[shard:]):
                columns[place] = width
                width += model.width(model.lookups[place])
            partials.append(Partial(f"sums_{group}_{shard}", group, width, columns))
    return partials


def answer(
    source: OnnxSource, files: Path, partials: Sequence[Partial], tables: Sequence[NDArray[np.float32]], query: Arrays
) -> dict[str, NDArray[Any]]:
    """What the written graphs answer: the ids graph's, then look-ups, then the dense graph's."""
    model = source.model
    tensors = dict(query)
    if model.ids_graph is not None:
        session = InferenceSession(str(files / "ids" / "model.onnx"))
        names = [tensor.name for tensor in model.ids_graph.outputs]
        given = {tensor.name: query[tensor.name] for tensor in model.ids_graph.inputs}
        tensors |= dict(zip(names, session.run(names, given), strict=True))
    given = {tensor.name: tensors[tensor.name] for tensor in model.dense.inputs}
    for place, lookup in enumerate(model.lookups):
        sums = looked_up(model, lookup, tensors, tables[lookup.table])
        holders = [partial for partial in partials if place in partial.columns]
        for number, partial in enumerate(holders):
            matrix = given.setdefault(partial.name, np.zeros((len(sums), partial.width), np.float32))
            assert len(matrix) == len(sums)  # look-ups of a group have its rows
            share = sums * np.float32(0.5) if len(holders) == 2 else sums * np.float32(number == 0)
            begin = partial.columns[place]
            matrix[:, begin : begin + model.width(lookup)] = share.reshape(len(sums), model.width(lookup))
        if lookup.mode == "mean":
            name, bags = divisors_name(lookup.group), model.in_group(lookup.group)
            count = sum(model.lookups[each].count for each in bags)
            divisors = given.setdefault(name, np.ones((len(sums), count), np.float32))
            begin = sum(model.lookups[each].count for each in bags if each < place)
            ids = tensors[lookup.ids.tensor].reshape(-1)
            sizes = [
                [max(1, sum(ids[i] != lookup.ids.padding for i in bag)) for bag in bags]
                for bags in bags_of(lookup, tensors)
            ]
            divisors[:, begin : begin + lookup.count] = sizes
    session = InferenceSession(str(files / "dense" / "model.onnx"))
    names = [tensor.name for tensor in model.outputs]
    assert [entry.name for entry in session.get_outputs()] == names
    return dict(zip(names, session.run(names, given), strict=True))


def prove(source: OnnxSource, whole: Path, queries: Sequence[Arrays], folder: Path) -> None:
    """The cut answers every query as the whole model, whichever partials hold the look-ups."""
    model, tables, session = source.model, read_tables(source), InferenceSession(str(whole))
    assert [entry.name for entry in session.get_inputs()] == [tensor.name for tensor in model.inputs]
    for shards in (1, 3):
        files = folder / f"shards_{shards}"
        (files / "dense").mkdir(parents=True)
        (files / "ids").mkdir()
        partials = partials_of(model, shards)
        source.write_dense(partials, files / "dense")
        assert bool(source.write_ids(files / "ids")) == (model.ids_graph is not None)
        for query in queries:
            names = [tensor.name for tensor in model.outputs]
            expected = dict(zip(names, session.run(names, dict(query)), strict=True))
            for name, got in answer(source, files, partials, tables, query).items():
                assert got.dtype == expected[name].dtype
                np.testing.assert_allclose(got, expected[name], rtol=1e-5, atol=1e-5)
            for name, reference in source.answers(query).items():
                np.testing.assert_array_equal(reference, expected[name])
