"""Random weights and the opening of each source."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from repo_builder.export.dlrm.source import WeightSource, open_weights
from repo_builder.model.dlrm import DlrmTable
from tests.export.dlrm.oracles import make_spec


def whole(source: WeightSource, table: DlrmTable) -> NDArray[np.float32]:
    return np.concatenate(list(source.table_chunks(table.stored)))


def test_random_tables_are_the_same_again_and_whatever_the_order_or_the_other_tables() -> None:
    spec = make_spec(rows=(50, 60, 70))
    first, again = open_weights(spec), open_weights(replace(spec, tables=spec.tables[::-1]))
    for table in spec.tables:
        np.testing.assert_array_equal(whole(first, table), whole(again, table))


def test_random_tables_and_layers_differ_by_name_and_by_seed() -> None:
    spec = make_spec(rows=(50, 50), bottom=(4,), dense_features=4)
    source, other = open_weights(spec), open_weights(replace(spec, weights=replace(spec.weights, seed=1)))
    a, b = (whole(source, table) for table in spec.tables)
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, whole(other, spec.tables[0]))
    assert not np.array_equal(source.dense().bottom[0][0], source.dense().bottom[1][0])


def test_random_tables_have_the_dlrms_range() -> None:
    spec = make_spec(rows=(10_000,), dim=8)
    values = whole(open_weights(spec), spec.tables[0])
    bound = 10_000**-0.5
    assert values.dtype == np.float32 and values.shape == (10_000, 8)
    assert np.abs(values).max() <= bound * 1.000001
    assert np.std(values) == pytest.approx(bound / 3**0.5, rel=0.02)


def test_random_layers_have_the_dlrms_deviations_and_the_specs_shapes() -> None:
    spec = make_spec(rows=(5, 5), dim=64, bottom=(256,), dense_features=128, top=(300, 1))
    dense = open_weights(spec).dense()
    assert [w.shape for w, _ in dense.bottom] == [(256, 128), (64, 256)]
    assert [w.shape for w, _ in dense.top] == [(300, 64 + 3), (1, 300)]
    weight, bias = dense.bottom[0]
    assert weight.dtype == bias.dtype == np.float32
    assert np.std(weight) == pytest.approx((2 / (128 + 256)) ** 0.5, rel=0.02)
    assert np.std(bias) == pytest.approx((1 / 256) ** 0.5, rel=0.2)


def test_chunks_are_blocks_of_2_to_32_mib_in_id_order() -> None:
    spec = make_spec(rows=(300_000,), dim=32)
    blocks = list(open_weights(spec).table_chunks(spec.tables[0].stored))
    assert sum(len(block) for block in blocks) == 300_000
    assert all(block.flags.c_contiguous for block in blocks)
    assert all(2 * 2**20 <= block.nbytes <= 32 * 2**20 for block in blocks[:-1])
