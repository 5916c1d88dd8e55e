"""Arrays in hand and on the wire."""

import numpy as np
import pytest

from repo_builder.model.arrays import DTYPES, from_wire, held, to_wire, wired
from repo_builder.model.types import Tensor


@pytest.mark.parametrize("datatype", DTYPES)
def test_what_goes_over_the_wire_comes_back(datatype: str) -> None:
    array = np.array([[0, 1], [1, 0]]).astype(DTYPES[datatype])
    sent = to_wire(array, datatype)
    size = 1 if datatype in ("BOOL", "INT8", "UINT8") else int(datatype[-2:]) // 8
    assert len(sent.tobytes()) == 4 * size and sent.shape == (2, 2)
    found = from_wire(sent, Tensor("x", datatype, (2, 2)))
    assert found.dtype == array.dtype and (found == array).all()


def test_bf16_is_the_upper_half_of_float32_rounded_to_even() -> None:
    """Of 1 + k/256 the odd halves lie between two of its numbers."""
    array = np.array([1, 1 + 1 / 256, 1 + 3 / 256, -2.5, 3e38], np.float32)
    assert to_wire(array, "BF16").view(np.uint16).tolist() == [0x3F80, 0x3F80, 0x3F82, 0xC020, 0x7F62]
    assert held(array, "BF16")[:4].tolist() == [1, 1, 1 + 4 / 256, -2.5] and held(array, "BF16").dtype == np.float32


def test_a_scalar_is_one_number_on_the_wire() -> None:
    sent = wired({"x": np.array(7)}, (Tensor("x", "INT32", ()),))["x"]
    assert sent.shape == (1,) and sent.dtype == np.int32
    assert from_wire(sent, Tensor("x", "INT32", ())).shape == ()
    assert from_wire(sent, Tensor("x", "INT32", (1,))).shape == (1,)


def test_a_slice_is_sent_as_its_own_numbers() -> None:
    assert to_wire(np.arange(6).reshape(2, 3)[:, 1:], "INT64").tobytes() == np.array([1, 2, 4, 5]).tobytes()
