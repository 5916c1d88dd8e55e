"""Sending rows to a served model with `tritonclient`, over gRPC or HTTP."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Literal

import numpy as np
import tritonclient.grpc
import tritonclient.http
from geventhttpclient.response import HTTPParseError
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from repo_builder.errors import ServerError

Protocol = Literal["grpc", "http"]
_SDK: dict[Protocol, ModuleType] = {"grpc": tritonclient.grpc, "http": tritonclient.http}


def score(
    protocol: Protocol,
    address: str,
    model: str,
    dense: NDArray[np.float32],
    indices: NDArray[Any],
    timeout_s: float = 60,
) -> NDArray[np.float32]:
    """The scores (B, 1) float32 of `dense` (B, dense_features) and `indices` (B, sum of pooling), in one query.

    address: `host:port`. Raises ServerError with Triton's own message.
    """
    sdk = _SDK[protocol]
    inputs = []
    for name, array in (("dense", dense), ("indices", indices)):
        tensor = sdk.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    bounded = {"client_timeout": timeout_s} if protocol == "grpc" else {}
    options = {"network_timeout": timeout_s} if protocol == "http" else {}
    try:
        with sdk.InferenceServerClient(address, **options) as client:
            scores: NDArray[np.float32] = client.infer(model, inputs, **bounded).as_numpy("score")
            return scores
    except (InferenceServerException, HTTPParseError, OSError) as exc:
        raise ServerError(f"{protocol}://{address}: {_reason(exc)}") from exc


def _reason(error: Exception) -> str:
    text = str(error.message() if isinstance(error, InferenceServerException) else error)
    if ("failed to connect" in text or "refused" in text) and not text.startswith("in ensemble"):  # a shard's, not ours
        return "no server answers there; start one with: elasticrec serve DIR"
    return text
