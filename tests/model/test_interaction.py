"""What follows from an interaction's numbers, by hand: for two tables of dim 4, so 3 vectors, 12 numbers."""

from __future__ import annotations

import numpy as np
import pytest

from repo_builder.export.dlrm.source import open_weights
from repo_builder.model.dlrm import dlrm_model
from repo_builder.model.interaction import Cross, Dot, Interaction, Projection
from tests.export.dlrm.oracles import make_spec

CROSS = Cross(layers=3, rank=2)
PROJECTION = Projection(branch1=(5, 8), branch2=(12,))


@pytest.mark.parametrize(
    ("interaction", "width", "multiply_adds"),
    [
        (Dot(), 4 + 3, 3 * 4),
        (CROSS, 12, 3 * (2 * 12 + 12 * 2 + 12)),
        (PROJECTION, 4 + 2 * 3, (5 * 12 + 8 * 5) + 12 * 12 + 2 * 3 * 4),
    ],
)
def test_width_and_work(interaction: Interaction, width: int, multiply_adds: int) -> None:
    assert interaction.width(4, 3) == width
    assert interaction.multiply_adds(4, 3) == multiply_adds


@pytest.mark.parametrize(
    ("interaction", "shapes"),
    [
        (Dot(), {}),
        (CROSS, {"cross": [[(2, 12), (12, 2), (12,)]] * 3}),
        (PROJECTION, {"branch1": [[(5, 12), (5,)], [(8, 5), (8,)]], "branch2": [[(12, 12), (12,)]]}),
    ],
)
def test_arrays(interaction: Interaction, shapes: dict[str, list[list[tuple[int, ...]]]]) -> None:
    stacks = interaction.stacks(4, 3)
    assert {name: [[each.shape for each in layer] for layer in stack] for name, stack in stacks.items()} == shapes
    spec = make_spec(rows=(9, 9), dim=4, interaction=interaction)
    drawn = open_weights(spec).dense().interaction
    assert {name: [[each.shape for each in layer] for layer in stack] for name, stack in drawn.items()} == shapes


@pytest.mark.parametrize(("interaction", "own", "width"), [(CROSS, 3 * (24 + 24 + 12), 12), (PROJECTION, 269, 10)])
def test_the_model_counts_what_the_interaction_costs(interaction: Interaction, own: int, width: int) -> None:
    """3 -> 6 -> 4 below, width -> 8 -> 1 above; 269 = 60 + 5 + 40 + 8 + 144 + 12."""
    spec = make_spec(rows=(9, 9), dim=4, interaction=interaction)
    dense = dlrm_model("m", spec).dense
    assert dense.parameter_bytes == 4 * ((18 + 6) + (24 + 4) + own + (8 * width + 8) + (8 + 1))
    assert dense.flops_per_row == 2 * (18 + 24 + interaction.multiply_adds(4, 3) + 8 * width + 8)
    assert open_weights(spec).dense().size_bytes == dense.parameter_bytes


def test_layers_are_drawn_from_streams_of_their_own() -> None:
    one, two = (open_weights(make_spec(interaction=Cross(layers, 2))).dense() for layers in (1, 2))
    np.testing.assert_array_equal(one.interaction["cross"][0][0], two.interaction["cross"][0][0])
    assert not np.array_equal(two.interaction["cross"][0][0], two.interaction["cross"][1][0])
    branches = open_weights(make_spec(interaction=Projection((8,), (8,)))).dense().interaction
    assert not np.array_equal(branches["branch1"][0][0], branches["branch2"][0][0])
    np.testing.assert_array_equal(one.bottom[0][0], open_weights(make_spec()).dense().bottom[0][0])
