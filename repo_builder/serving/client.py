"""Sending rows to a served model with `tritonclient`, over gRPC or HTTP."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Literal

import numpy as np
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from repo_builder.errors import ServerError

Protocol = Literal["grpc", "http"]
_SDK: dict[Protocol, ModuleType] = {"grpc": tritonclient.grpc, "http": tritonclient.http}


def score(
    protocol: Protocol, address: str, model: str, dense: NDArray[np.float32], indices: NDArray[Any]
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
    client = sdk.InferenceServerClient(address)
    try:
        scores: NDArray[np.float32] = client.infer(model, inputs).as_numpy("score")
        return scores
    except (InferenceServerException, OSError) as exc:
        raise ServerError(f"{protocol}://{address}: {_reason(exc)}") from exc
    finally:
        client.close()


def _reason(error: Exception) -> str:
    text = error.message() if isinstance(error, InferenceServerException) else str(error)
    if "failed to connect" in text or "Connection refused" in text:
        return "no server answers there; start one with: elasticrec serve DIR"
    return text
