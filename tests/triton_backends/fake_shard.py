"""A gRPC server that fails on command: for faults that a real server cannot be brought to on time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

SERVICE, METHOD = "inference.GRPCInferenceService", "ModelInfer"
DTYPES = {"FP32": np.float32, "FP16": np.float16, "INT32": np.int32}


@dataclass
class FakeShard:
    """Sums bags to (sum of its ids, `value` an id), after `delay_s`; or ends with `status`, or answers with `spoilt`.

    spoilt: makes other bytes of the right answer's. While it is held it answers nothing.
    """

    tables: int
    value: float = 1.0
    datatype: str = "FP32"
    delay_s: float = 0.0
    status: tuple[grpc.StatusCode, str] | None = None
    spoilt: Callable[[bytes], bytes] | None = None
    rows: list[int] = field(default_factory=list)  # of each call that holds ids
    begun: int = 0  # calls, probes too
    over: int = 0
    cancelled: int = 0
    address: str = ""
    ended: threading.Event = field(default_factory=threading.Event)
    free: threading.Event = field(default_factory=threading.Event)  # set: it is not held

    def __post_init__(self) -> None:
        self.free.set()

    def hold(self) -> None:
        self.free.clear()

    def let_go(self) -> None:
        self.free.set()

    @property
    def calls(self) -> int:
        """But for probes."""
        return len(self.rows)

    def infer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        message = pb.ModelInferRequest.FromString(request)
        pairs = list(zip(message.inputs, message.raw_input_contents, strict=True))
        inputs = {item.name: np.frombuffer(raw, DTYPES[item.datatype]) for item, raw in pairs}
        assert [list(item.shape) for item in message.inputs] == [[1, each.size] for each in inputs.values()]
        asks = any(each.size for name, each in inputs.items() if name.startswith("ids"))
        if asks:
            self.rows.append(inputs.get("lengths", np.empty(0)).size // self.tables)
        self.begun += 1
        context.add_callback(lambda: self.count_cancelled(context))
        self.free.wait()
        self.ended.wait(self.delay_s)
        if self.status:
            context.abort(*self.status)
        answer = self.answer(inputs)
        return self.spoilt(answer) if self.spoilt and asks else answer

    def count_cancelled(self, context: grpc.ServicerContext) -> None:
        self.cancelled += context.code() is grpc.StatusCode.CANCELLED
        self.over += 1

    def answer(self, inputs: Mapping[str, np.ndarray]) -> bytes:
        ids, lengths = inputs["ids"], inputs["lengths"]
        ends = np.cumsum(lengths)
        totals = np.concatenate([[0], np.cumsum(ids, dtype=np.int64)])
        sums = np.stack([totals[ends] - totals[ends - lengths], lengths * self.value], axis=1)  # (bags, 2)
        sums = sums.astype(DTYPES[self.datatype]).reshape(-1, 2 * self.tables)
        answer = pb.ModelInferResponse(model_name="m")
        answer.outputs.add(name="sums", datatype=self.datatype, shape=sums.shape)
        answer.raw_output_contents.append(sums.tobytes())
        return bytes(answer.SerializeToString())


@contextmanager
def serving(
    *shards: FakeShard,
    options: Sequence[tuple[str, int]] = (),
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[None]:
    """Give each shard a server and its address while the block runs."""
    servers = []
    for shard in shards:
        server = grpc.server(ThreadPoolExecutor(8), options=options)
        handler = grpc.unary_unary_rpc_method_handler(shard.infer)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        if credentials:
            shard.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
        else:
            shard.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        servers.append(server)
    try:
        yield
    finally:
        for shard in shards:
            shard.ended.set()
            shard.let_go()
        for server in servers:
            server.stop(None).wait()
