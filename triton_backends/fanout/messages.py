"""Triton's inference messages for an embedding service: only real ids travel, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

Part = tuple[NDArray[np.int32], NDArray[np.int32]]  # a query's ids (nnz,) and lengths (rows * tables,) of one service

_DTYPES = {"FP32": np.float32, "FP16": np.float16}


def infer_request(model: str, version: str, parts: Sequence[Part]) -> bytes:
    """The call that sums the bags of several queries as if they were one; parts: a query's each."""
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    for name, arrays in zip(("ids", "lengths"), zip(*parts, strict=True), strict=True):
        tensor = request.inputs.add(name=name, datatype="INT32")
        tensor.shape.extend((1, sum(array.size for array in arrays)))
        request.raw_input_contents.append(b"".join(array.data for array in arrays))
    return bytes(request.SerializeToString())


def probe_request(model: str, version: str, tables: int) -> bytes:
    """The cheapest call that goes all the way: one row whose bags are empty."""
    return infer_request(model, version, [(np.empty(0, np.int32), np.zeros(tables, np.int32))])


def sums_of(response: bytes, datatype: str, rows: int) -> NDArray[Any]:
    """The answer's `sums`, (rows, width) of `datatype`: FP32 or FP16. Raises ValueError where they are not."""
    answer = pb.ModelInferResponse.FromString(response)
    output = answer.outputs[0]
    if output.datatype != datatype or list(output.shape)[:-1] != [rows]:
        raise ValueError(f"sums: expected {datatype} of {rows} rows, got {output.datatype} {list(output.shape)}")
    return np.frombuffer(answer.raw_output_contents[0], _DTYPES[datatype]).reshape(rows, -1)
