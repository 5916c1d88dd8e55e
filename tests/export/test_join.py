"""Partial sums joined before a cut graph: what comes out is numpy's, whatever the partials; and the graph is lean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime import InferenceSession

from repo_builder.errors import ExportError
from repo_builder.export.join import join_partials, lookup_name
from repo_builder.model.source import Partial, divisors_name
from repo_builder.model.types import Columns, Dense, Group, Ids, Lookup, Mode, Model, RowFormat, Table, Tensor

ROWS = {"batch": 3, "history": 5, "candidates": 4}
"""Sizes of the dimensions that vary, when run."""


def make_model(lookups: Sequence[tuple[int, int, Mode, int]], groups: Sequence[int | str], dense: Tensor) -> Model:
    """Look-ups (group, dim, mode, count), a table each, in the plainest shape (rows, count, dim) or (rows, dim)."""
    shapes = [(groups[g], dim) if count == 1 else (groups[g], count, dim) for g, dim, _, count in lookups]
    return Model(
        "toy",
        (dense,),
        tuple(Tensor(f"out_{i}", "FP32", shape) for i, shape in enumerate(shapes)),
        tuple(Table(f"t{i}", 7, RowFormat(dim)) for i, (_, dim, _, _) in enumerate(lookups)),
        tuple(Group(rows) for rows in groups),
        tuple(
            Lookup(f"l{i}", i, g, Ids(f"ids{i}", Columns(0, 2, 2 * count)), mode, count, shapes[i], 2.0 * count)
            for i, (g, _, mode, count) in enumerate(lookups)
        ),
        Dense((dense,), 1.0, 0, batched=False),
    )


def make_cut(model: Model, opset: int = 18) -> onnx.ModelProto:
    """The cut graph whose outputs are its look-ups, doubled."""
    inputs = [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape) for t in model.dense.inputs]
    inputs += [
        helper.make_tensor_value_info(lookup_name(i), TensorProto.FLOAT, lookup.shape)
        for i, lookup in enumerate(model.lookups)
    ]
    outputs = [
        helper.make_tensor_value_info(f"out_{i}", TensorProto.FLOAT, lookup.shape)
        for i, lookup in enumerate(model.lookups)
    ]
    nodes = [helper.make_node("Add", [lookup_name(i)] * 2, [f"out_{i}"]) for i in range(len(model.lookups))]
    graph = helper.make_graph(nodes, "cut", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def side_by_side(model: Model, group: int, places: Sequence[int], name: str) -> Partial:
    columns, width = {}, 0
    for place in places:
        columns[place] = width
        width += model.width(model.lookups[place])
    return Partial(name, group, width, columns)


def run(joined: onnx.ModelProto, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    onnx.checker.check_model(joined, full_check=True)
    return list(InferenceSession(joined.SerializeToString()).run(None, dict(inputs)))


def sizes(shape: Sequence[int | str]) -> list[int]:
    return [ROWS[size] if isinstance(size, str) else size for size in shape]


def draw(model: Model, partials: Sequence[Partial], dense: Sequence[int] = (3, 2)) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    inputs = {"dense": rng.random(dense, np.float32)}
    for partial in partials:
        inputs[partial.name] = rng.random((*sizes([model.groups[partial.group].rows]), partial.width), np.float32)
    for g, group in enumerate(model.groups):
        if model.has_means(g):
            bags = sum(model.lookups[place].count for place in model.in_group(g))
            inputs[divisors_name(g)] = rng.integers(1, 9, (*sizes([group.rows]), bags)).astype(np.float32)
    return inputs


def expected(
    model: Model, partials: Sequence[Partial], inputs: Mapping[str, NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Bag by bag."""
    answers = []
    for place, lookup in enumerate(model.lookups):
        dim = model.tables[lookup.table].format.dim
        before = sum(model.lookups[other].count for other in model.in_group(lookup.group) if other < place)
        bags = []
        for bag in range(lookup.count):
            parts = [(inputs[p.name], p.columns[place] + bag * dim) for p in partials if place in p.columns]
            total = np.add.reduce([values[:, begin : begin + dim] for values, begin in parts])
            if lookup.mode == "mean":
                total = total / inputs[divisors_name(lookup.group)][:, [before + bag]]
            bags.append(total)
        answers.append(2 * np.stack(bags, axis=1).reshape(sizes(lookup.shape)))
    return answers


def check(model: Model, partials: Sequence[Partial], opset: int = 18) -> onnx.ModelProto:
    joined = join_partials(make_cut(model, opset), model, partials)
    inputs = draw(model, partials)
    for got, want in zip(run(joined, inputs), expected(model, partials, inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    return joined


DENSE = Tensor("dense", "FP32", ("batch", 2))


@st.composite
def models(draw: st.DrawFn) -> tuple[Model, list[Partial]]:
    choices: list[list[int | str]] = [["batch"], ["batch", "history"], ["batch", "candidates", 1]]
    groups = draw(st.sampled_from(choices))
    modes: list[Mode] = ["none", "sum", "mean"]
    one = st.tuples(st.integers(0, len(groups) - 1), st.sampled_from([1, 4]), st.sampled_from(modes), st.integers(1, 3))
    model = make_model(draw(st.lists(one, min_size=1, max_size=7)), groups, DENSE)
    partials: list[Partial] = []
    for group in range(len(groups)):
        places = list(model.in_group(group))
        for _ in range(draw(st.integers(0, 3)) if places else 0):
            held = draw(st.lists(st.sampled_from(places), min_size=1, unique=True))
            partials.append(side_by_side(model, group, held, f"partial{len(partials)}"))
        rest = [place for place in places if all(place not in partial.columns for partial in partials)]
        if rest:
            partials.append(side_by_side(model, group, rest, f"partial{len(partials)}"))
    return model, partials


@given(models(), st.sampled_from([13, 17, 18, 21]))
@settings(max_examples=150, deadline=None)
def test_any_partials_join_to_the_look_ups(case: tuple[Model, list[Partial]], opset: int) -> None:
    """Each look-up is the sum of its columns in the partials that hold it, over its divisors where it is a mean."""
    check(*case, opset)


def test_whole_partials_are_added_without_a_slice() -> None:
    """26 averaged tables in 4 tiers: one sum, one division, and one split into the 26."""
    model = make_model([(0, 4, "mean", 1)] * 26, ["batch"], DENSE)
    joined = check(model, [side_by_side(model, 0, range(26), f"tier{i}") for i in range(4)])
    operators = Counter(node.op_type for node in joined.graph.node[: -len(model.lookups)])
    assert operators == {"Sum": 1, "Unsqueeze": 1, "Reshape": 2, "Div": 1, "Split": 1, "Identity": 26}


def test_neighbours_held_by_the_same_partials_are_added_as_one() -> None:
    """Runs of look-ups, not look-ups, are what is sliced and added."""
    model = make_model([(0, 4, "sum", 1)] * 10, ["batch"], DENSE)
    partials = [
        side_by_side(model, 0, range(10), "all"),
        side_by_side(model, 0, range(5), "half"),
        side_by_side(model, 0, range(5, 10), "rest"),
    ]
    operators = Counter(node.op_type for node in check(model, partials).graph.node)
    assert operators["Sum"] == 2
    assert operators["Split"] == 3
    assert not operators["Reshape"]


def test_columns_that_no_look_up_has_are_passed_over() -> None:
    model = make_model([(0, 4, "sum", 1), (0, 1, "sum", 1)], ["batch"], DENSE)
    check(model, [Partial("wide", 0, 11, {1: 2, 0: 5})])


def test_an_empty_group_gives_an_empty_look_up() -> None:
    model = make_model([(0, 4, "mean", 2), (1, 4, "mean", 3)], ["batch", "history"], DENSE)
    partials = [side_by_side(model, 0, [0], "a"), side_by_side(model, 1, [1], "b")]
    inputs = draw(model, partials)
    inputs |= {"b": inputs["b"][:0], "divisors_1": inputs["divisors_1"][:0]}
    assert run(join_partials(make_cut(model), model, partials), inputs)[1].shape == (0, 3, 4)


def test_two_varying_sizes_come_from_an_input() -> None:
    """(batch, history, dim) from rows of batch * history, also where one of them is nothing."""
    ids = Tensor("ids0", "INT64", ("batch", "history"))
    lookup = Lookup("l", 0, 0, Ids("ids0", Columns(0, 1, 1)), "none", 1, ("batch", "history", 4), 1.0)
    model = Model(
        "m", (ids,), (Tensor("out_0", "FP32", lookup.shape),), (Table("t", 7, RowFormat(4)),), (Group("places"),),
        (lookup,), Dense((ids,), 1.0, 0, batched=False),
    )  # fmt: skip
    cut = make_cut(model)
    cut.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    joined = join_partials(cut, model, [Partial("sums", 0, 4, {0: 0})])
    for batch, history in ((2, 3), (0, 3), (2, 0)):
        sums = np.random.default_rng(0).random((batch * history, 4), np.float32)
        (got,) = run(joined, {"ids0": np.zeros((batch, history), np.int64), "sums": sums})
        np.testing.assert_array_equal(got, 2 * sums.reshape(batch, history, 4))


def test_names_of_the_cut_graph_are_left_alone() -> None:
    """A tensor of the cut graph that is called as a partial, or as ours are, keeps what it is."""
    model = make_model([(0, 4, "mean", 1), (0, 4, "mean", 1)], ["batch"], DENSE)
    cut = make_cut(model)
    names = {"out_0": "joined_0", "out_1": "tier0"}
    for node in cut.graph.node:
        node.output[:] = [names[name] for name in node.output]
    cut.graph.node.extend(helper.make_node("Neg", [inner], [name]) for name, inner in names.items())
    partials = [side_by_side(model, 0, (0, 1), "tier0")]
    before = cut.SerializeToString()
    inputs = draw(model, partials)
    for got, want in zip(
        run(join_partials(cut, model, partials), inputs), expected(model, partials, inputs), strict=True
    ):
        np.testing.assert_allclose(got, -want, rtol=1e-6)
    assert cut.SerializeToString() == before


def test_the_same_bytes_twice() -> None:
    model = make_model([(0, 4, "mean", 1), (0, 1, "sum", 2)], ["batch"], DENSE)
    partials = [side_by_side(model, 0, (1, 0), "a"), side_by_side(model, 0, (0,), "b")]
    first, second = (
        join_partials(make_cut(model), model, partials).SerializeToString(deterministic=True) for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    ("partials", "message"),
    [
        ([Partial("a", 0, 4, {0: 0})], "look-up l1: expected a partial that holds it, got none"),
        ([Partial("a", 0, 8, {0: 0, 1: 4})] * 2, "'a': expected names"),
        ([Partial("dense", 0, 8, {0: 0, 1: 4})], "'dense': expected names"),
        ([Partial("a", 0, 8, {0: 0, 1: 3})], "partial 'a': expected 4 columns of its 8 for look-up l1 alone"),
        ([Partial("a", 0, 7, {0: 0, 1: 4})], "partial 'a': expected 4 columns of its 7 for look-up l1 alone"),
        ([Partial("a", 1, 8, {0: 0, 1: 4})], "partial 'a': expected look-ups of group 1, got look-up 0"),
    ],
)
def test_partials_that_do_not_make_up_the_model_are_refused(partials: list[Partial], message: str) -> None:
    model = make_model([(0, 4, "sum", 1), (0, 4, "sum", 1)], ["batch", "history"], DENSE)
    with pytest.raises(ExportError, match=message.replace("(", r"\(")):
        join_partials(make_cut(model), model, partials)
