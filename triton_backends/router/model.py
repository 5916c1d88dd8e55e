"""Triton's shell around the router: one response per request, the logic is in `routing.py`."""

import sys
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True  # the repository stays as it was built
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the package shipped beside this file, not one that happens to be installed

import numpy as np  # noqa: E402 - after the path is set
import triton_python_backend_utils as pb_utils  # noqa: E402 - likewise

from triton_backends.router.routing import Router, check_dense  # noqa: E402 - likewise


class TritonPythonModel:
    """`dense`, `indices` -> for each embedding service NAME: `NAME_ids` and `NAME_lengths`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Map the id maps; `args` is Triton's, not needed."""
        self.router = Router.open(HERE)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Route each query on its own."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            check_dense(pb_utils.get_input_tensor_by_name(request, "dense").as_numpy())
            routed = self.router.route(pb_utils.get_input_tensor_by_name(request, "indices").as_numpy())
        except Exception as exc:  # noqa: BLE001 - one request's failure must not fail the others of its batch
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(exc)))
        tensors = []
        for service, (ids, lengths) in zip(self.router.services, routed, strict=True):
            tensors.append(pb_utils.Tensor(f"{service.name}_ids", ids[np.newaxis]))
            tensors.append(pb_utils.Tensor(f"{service.name}_lengths", lengths[np.newaxis]))
        return pb_utils.InferenceResponse(tensors)
