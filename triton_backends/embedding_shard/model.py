"""Triton's shell around an embedding shard: one response per request, the logic is in `shard.py`."""

import json
import sys
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True  # the repository stays as it was built
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the package shipped beside this file, not one that happens to be installed

import triton_python_backend_utils as pb_utils  # noqa: E402 - after the path is set

from triton_backends.embedding_shard.shard import open_shard  # noqa: E402 - likewise


class TritonPythonModel:
    """`ids`, `lengths` and `weights` of each group -> its `sums`, of the query's bags over the rows held here, and its
    `rows`, as they are.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Map the weights, or on a GPU instance load them there."""
        gpu = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None
        self.shard = open_shard(HERE, gpu)
        self.dtype = pb_utils.triton_string_to_numpy(json.loads(args["model_config"])["output"][0]["data_type"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each query on its own."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            answer = {name: each.astype(self.dtype, copy=False) for name, each in self.shard.answer(inputs).items()}
        except Exception as exc:  # noqa: BLE001 - one request's failure must not fail the others of its batch
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(exc)))
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, each) for name, each in answer.items()])
