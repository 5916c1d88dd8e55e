"""A gRPC server that fails on command: for faults that a real server cannot be brought to on time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from triton_backends.fanout.channels import INFER


@dataclass
class FakeShard:
    """Answers each call with sums of one value, after `delay_s`, or with `status`."""

    value: float = 1.0
    width: int = 2
    delay_s: float = 0.0
    status: tuple[grpc.StatusCode, str] | None = None
    calls: int = 0
    cancelled: int = 0
    address: str = ""

    async def infer(self, request: bytes, context: Any) -> bytes:
        self.calls += 1
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.status:
            await context.abort(*self.status)
        message = pb.ModelInferRequest.FromString(request)
        lengths = np.frombuffer(message.raw_input_contents[1], np.int32)
        sums = np.full((lengths.size, self.width), self.value, np.float32)  # one table: a bag is a row
        answer = pb.ModelInferResponse(model_name=message.model_name)
        answer.outputs.add(name="sums", datatype="FP32", shape=sums.shape)
        answer.raw_output_contents.append(sums.tobytes())
        return bytes(answer.SerializeToString())


@asynccontextmanager
async def serving(*shards: FakeShard) -> AsyncIterator[None]:
    """Give each shard a server and its address while the block runs."""
    servers = []
    for shard in shards:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(shard.infer)
        service, method = INFER.strip("/").split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        shard.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        servers.append(server)
    try:
        yield
    finally:
        for server in servers:
            await server.stop(None)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine."""
    asyncio.run(asyncio.wait_for(work(), 20))
