"""A stand-in for Triton's native ONNX Runtime backend where only the Python backend is at hand.

It serves models that say `backend: "onnxruntime"` unchanged; NVIDIA's container serves the same files natively.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True  # the repository stays as it was built
sys.path.insert(0, str(Path(__file__).parent))  # the package shipped beside this file

import triton_python_backend_utils as pb_utils  # noqa: E402 - after the path is set

from triton_backends.onnxruntime.session import OnnxModel  # noqa: E402 - likewise


class TritonPythonModel:
    """Serves `model.onnx` of the model's version folder."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session with the config's parameters."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.model = OnnxModel(path, parameters)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests of the batch at once; where that fails, each gets the error."""
        try:
            results = self.model.run([self._inputs(request) for request in requests])
        except Exception as exc:  # noqa: BLE001 - the one guard: the server must go on
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(exc))) for _ in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in result.items()])
            for result in results
        ]

    def _inputs(self, request: Any) -> dict[str, Any]:
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.model.inputs}
