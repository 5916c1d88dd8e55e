"""Masks of ids as weights: of one id a padding, of several weights; and that the cut answers as the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from repo_builder.model.types import Columns
from tests.export.onnx_file.cutting import BOOL, FLOAT, node, table
from tests.export.onnx_file.test_patterns import DIM, Case, check, ids_like, one, plain


def masks() -> dict[str, Case]:
    gather = node("Gather", ["W", "ids"], "g")
    found: dict[str, Case] = {}
    found["from_ids"] = (
        one(
            [
                gather,
                node("Equal", ["ids", "zero"], "e"),
                node("Not", ["e"], "n"),
                node("Cast", ["n"], "m", to=FLOAT),
                node("Unsqueeze", ["m", "last"], "u"),
                node("Mul", ["g", "u"], "p"),
                node("ReduceSum", ["p", "one"], "s", keepdims=0),
                node("ReduceSum", ["m", "one"], "c"),
                node("Clip", ["c", "low"], "d"),
                node("Div", ["s", "d"], "y"),
            ],
            ("N", "L"),
            arrays={"zero": np.array(0), "low": np.array(1, np.float32)},
        ),
        lambda n: {"ids": ids_like(n, n + 1, low=0)},
        {"mode": "sum", "weights": None, "padding": 0, "layout": Columns(0, 0, None), "batched": True},
    )
    found["by_matrix_product"] = (
        one(
            [
                node("Cast", ["ids"], "b", to=BOOL),
                node("Unsqueeze", ["b", "one"], "u"),
                node("Cast", ["u"], "m", to=FLOAT),
                gather,
                node("MatMul", ["m", "g"], "p"),
                node("Squeeze", ["p", "one"], "y"),
            ],
        ),
        lambda n: {"ids": ids_like(n, 3, low=0)},
        {"mode": "sum", "weights": None, "padding": 0, "tensor": "ids", "ids_graph": None, "batched": True},
    )
    found["of_more_than_one_id"] = (
        one(
            [
                node("Greater", ["ids", "zero"], "b"),
                node("Cast", ["b"], "m", to=FLOAT),
                node("Unsqueeze", ["m", "last"], "u"),
                gather,
                node("Mul", ["u", "g"], "p"),
                node("ReduceSum", ["p", "one"], "y", keepdims=0),
            ],
            arrays={"zero": np.array(0)},
        ),
        plain(3),
        {"mode": "sum", "weights": "m", "padding": None, "layout": Columns(0, 3, 3), "ids_graph": ["m"]},
    )
    marks: dict[str, tuple[list[onnx.NodeProto], NDArray[Any]]] = {
        "list_of_ids": (
            [
                node("Unsqueeze", ["ids", "last"], "each"),
                node("Equal", ["each", "marks"], "are"),
                node("Cast", ["are"], "one_of", to=FLOAT),
                node("ReduceMax", ["one_of", "last"], "is", keepdims=0),
                node("Sub", ["real", "is"], "m"),
            ],
            np.array([0, 400]),
        ),
        "two_numbers_as_floats": (
            [
                node("Cast", ["ids"], "f", to=FLOAT),
                node("Cast", ["ids"], "not_0", to=BOOL),
                node("Equal", ["f", "marks"], "is"),
                node("Not", ["is"], "b"),
                node("And", ["not_0", "b"], "both"),
                node("Cast", ["both"], "m", to=FLOAT),
            ],
            np.array(499, np.float32),
        ),
    }
    for name, (mask, numbers) in marks.items():
        found[f"of_{name}"] = (
            one(
                [
                    *mask,
                    node("Unsqueeze", ["m", "last"], "u"),
                    gather,
                    node("Mul", ["u", "g"], "p"),
                    node("ReduceSum", ["p", "one"], "y", keepdims=0),
                ],
                arrays={"W": table(500, DIM), "marks": numbers, "real": np.array(1, np.float32)},
            ),
            lambda n: {"ids": np.resize([7, 400, 499, 0], (n, 3))},
            {"mode": "sum", "weights": "m", "padding": None, "ids_graph": ["m"]},
        )
    return found


@pytest.mark.parametrize("name", masks())
def test_mask(name: str, tmp_path: Path) -> None:
    check(masks()[name], tmp_path)
