"""Asking a running server with `tritonclient`: a query's answer, over gRPC or HTTP, and its models' statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import tritonclient.grpc
import tritonclient.http
from geventhttpclient.response import HTTPParseError
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from repo_builder.errors import ServerError
from repo_builder.model.arrays import Array, Arrays

Protocol = Literal["grpc", "http"]
_SDK: dict[Protocol, ModuleType] = {"grpc": tritonclient.grpc, "http": tritonclient.http}


@dataclass(frozen=True, slots=True)
class ModelTimes:
    """A model's successful requests and executions so far, and a request's mean times in ms."""

    requests: int
    executions: int
    queue_ms: float
    compute_ms: float


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


def times_by_model(http_address: str) -> Mapping[str, ModelTimes]:
    """Triton's own statistics of every model of the server at HOST:PORT; raises OSError where none answers."""
    client = tritonclient.http.InferenceServerClient(http_address)
    try:
        statistics = client.get_inference_statistics()["model_stats"]
    finally:
        client.close()
    return {model["name"]: _times(model) for model in statistics}


def _reason(error: Exception) -> str:
    text = str(error.message() if isinstance(error, InferenceServerException) else error)
    if ("failed to connect" in text or "refused" in text) and not text.startswith("in ensemble"):  # a shard's, not ours
        return "no server answers there; start one with: elasticrec serve DIR"
    return text


def _times(model: Mapping[str, Any]) -> ModelTimes:
    stats = model["inference_stats"]
    requests = stats["success"]["count"]
    compute_ns = sum(stats[part]["ns"] for part in ("compute_input", "compute_infer", "compute_output"))
    per_request_ms = 1e-6 / max(requests, 1)
    return ModelTimes(
        requests, model["execution_count"], stats["queue"]["ns"] * per_request_ms, compute_ns * per_request_ms
    )
