"""Rows as a service stores them: in its own format, or as they came where that is smaller already."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.model.types import RowDtype
from triton_backends.kernels.row_formats import encode_rows


class UnstorableError(ValueError):
    """Numbers that a format cannot hold."""


def stored_rows(rows: NDArray[Any], dtype: RowDtype) -> NDArray[np.uint8]:
    """Rows in a service of that dtype, (n, row_bytes), in the order of `rows`.

    rows: as `Source.table_chunks` gives them: (n, dim) float32, which are encoded, or (n, row_bytes) uint8, which stay.
    Raises UnstorableError where a number does not fit the format.
    """
    if rows.dtype == np.uint8:
        return rows
    if dtype == "fp32":
        return np.ascontiguousarray(rows).view(np.uint8)
    try:
        return encode_rows(rows, dtype)
    except ValueError as exc:
        raise UnstorableError(
            f"expected numbers that {dtype} can hold, got a larger one; say fp32 or bf16 for its rows in the spec"
        ) from exc
