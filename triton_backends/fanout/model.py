"""Triton's shell around the fan-out: requests in, responses out; the logic is in `engine.py` and beside it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True  # the repository stays as it was built
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the package shipped beside this file, not one that happens to be installed

import numpy as np  # noqa: E402 - after the path is set
import triton_python_backend_utils as pb_utils  # noqa: E402 - likewise

from triton_backends.fanout.channels import Tls  # noqa: E402 - likewise
from triton_backends.fanout.counters import Counters  # noqa: E402 - likewise
from triton_backends.fanout.engine import Answer, Engine, Task  # noqa: E402 - likewise
from triton_backends.fanout.fanout import Query  # noqa: E402 - likewise
from triton_backends.fanout.gate import Gate, OverloadedError  # noqa: E402 - likewise
from triton_backends.fanout.metrics import TritonMetrics  # noqa: E402 - likewise
from triton_backends.fanout.settings import Settings  # noqa: E402 - likewise
from triton_backends.router.routing import Router, check_dense  # noqa: E402 - likewise

ADDRESSES = "ELASTICREC_ADDRESSES"
CONNECT_WAIT_S = 10.0  # then it serves all the same, and says which services do not answer
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """`dense`, `indices` -> `sums`, asked of the embedding services; with `missing_shard: degrade` also `degraded`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Map the id maps and connect to the embedding services."""
        self.router = Router.open(HERE)
        settings = Settings.open(HERE / "fanout.json")
        self.flagged = settings.missing_shard == "degrade"
        self.gate = Gate(settings.max_in_flight)
        self.counters = Counters()
        self.metrics = TritonMetrics(pb_utils, args["model_name"])
        addresses = Path(os.environ.get(ADDRESSES) or HERE / "fleet.json")
        tls = Tls.from_environment(os.environ)
        log = pb_utils.Logger.log_warn
        self.engine = Engine(settings, addresses, tls, self.counters, self.metrics.increment, log)
        self.engine.start(CONNECT_WAIT_S)

    def execute(self, requests: list[Any]) -> None:
        """Route each query and hand all to the engine, which sends the responses when it has them."""
        tasks = [task for request in requests if (task := self._accept(request))]
        if tasks:
            self.engine.submit(tasks)

    def finalize(self) -> None:
        """Close the connections."""
        self.engine.stop()

    def _accept(self, request: Any) -> Task | None:
        """The query routed, or None where it was answered with an error."""
        sender = request.get_response_sender()
        try:
            self.gate.enter()
        except OverloadedError as exc:
            self.counters.add("elasticrec_overloaded_queries_total")
            sender.send(_error(exc, pb_utils.TritonError.UNAVAILABLE), FINAL)
            return None
        try:
            check_dense(pb_utils.get_input_tensor_by_name(request, "dense").as_numpy())
            indices = pb_utils.get_input_tensor_by_name(request, "indices").as_numpy()
            return Task(Query(len(indices), self.router.route(indices)), self._reply(sender))
        except Exception as exc:  # noqa: BLE001 - one request's failure must not fail the others of its batch
            self.gate.leave()
            sender.send(_error(exc, pb_utils.TritonError.INVALID_ARG), FINAL)
            return None

    def _reply(self, sender: Any) -> Callable[[Answer | Exception], None]:
        def reply(answer: Answer | Exception) -> None:
            self.gate.leave()
            if isinstance(answer, Exception):
                sender.send(_error(answer, pb_utils.TritonError.UNAVAILABLE), FINAL)
                return
            tensors = [pb_utils.Tensor("sums", answer.sums)]
            if self.flagged:
                tensors.append(pb_utils.Tensor("degraded", np.full((len(answer.sums), 1), answer.degraded)))
            sender.send(pb_utils.InferenceResponse(tensors), FINAL)

        return reply


def _error(error: Exception, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
