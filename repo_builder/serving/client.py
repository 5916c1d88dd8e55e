"""Sending a query to a served model with `tritonclient`, over gRPC or HTTP."""

from __future__ import annotations

from types import ModuleType
from typing import Literal

import tritonclient.grpc
import tritonclient.http
from geventhttpclient.response import HTTPParseError
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from repo_builder.errors import ServerError
from repo_builder.model.arrays import Array, Arrays

Protocol = Literal["grpc", "http"]
_SDK: dict[Protocol, ModuleType] = {"grpc": tritonclient.grpc, "http": tritonclient.http}


def infer(protocol: Protocol, address: str, model: str, inputs: Arrays, timeout_s: float = 60) -> dict[str, Array]:
    """The outputs of one query by name, as they came. inputs: as they go over the wire (`wired`).

    address: `host:port`. Raises ServerError with Triton's own message.
    """
    sdk = _SDK[protocol]
    tensors = []
    for name, array in inputs.items():
        tensors.append(sdk.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        tensors[-1].set_data_from_numpy(array)
    bounded = {"client_timeout": timeout_s} if protocol == "grpc" else {}
    options = {"network_timeout": timeout_s} if protocol == "http" else {}
    try:
        with sdk.InferenceServerClient(address, **options) as client:
            answer = client.infer(model, tensors, **bounded)
    except (InferenceServerException, HTTPParseError, OSError) as exc:
        raise ServerError(f"{protocol}://{address}: {_reason(exc)}") from exc
    said = answer.get_response()
    names = [each["name"] for each in said["outputs"]] if protocol == "http" else [each.name for each in said.outputs]
    return {name: answer.as_numpy(name) for name in names}


def _reason(error: Exception) -> str:
    text = str(error.message() if isinstance(error, InferenceServerException) else error)
    if ("failed to connect" in text or "refused" in text) and not text.startswith("in ensemble"):  # a shard's, not ours
        return "no server answers there; start one with: elasticrec serve DIR"
    return text
