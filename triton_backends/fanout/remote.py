"""One embedding service: its replicas, and a call that survives the loss of one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from triton_backends.fanout.channels import INFER
from triton_backends.fanout.counters import Counters
from triton_backends.fanout.failures import CallFailedError, Reason, judge
from triton_backends.fanout.latency import LatencyWindow
from triton_backends.fanout.replicas import Balancer

PROBE_TIMEOUT_S = 1.0
LOST_S = 60.0  # after which a call that nobody waits for is given up
Log = Callable[[str], None]


class Replica:
    """A server of the service behind one channel, kept open. Not ready until it has answered a first call."""

    def __init__(self, address: str, channel: Any) -> None:
        self.address = address
        self.in_flight = 0
        self.ready = False
        self.probing = False
        self.channel = channel
        self.infer = channel.unary_unary(INFER)  # bytes to bytes


class RemoteService:
    """Calls the replicas of one service; lives in the event loop's thread.

    probe: the request that tells whether a replica serves; hedge_quantile: None sends no call twice for slowness.
    """

    def __init__(self, name: str, probe: bytes, hedge_quantile: float | None, counters: Counters, log: Log) -> None:
        self.name = name
        self.replicas: Balancer[Replica] = Balancer()
        self._probe = probe
        self._window = LatencyWindow(hedge_quantile) if hedge_quantile is not None else None
        self._counters = counters
        self._log = log

    @property
    def ready(self) -> bool:
        """Whether some replica answers."""
        return any(replica.ready for replica in self.replicas.members)

    async def call(self, request: bytes, deadline: float) -> bytes:
        """The response to a ModelInfer request, both serialized, by `deadline` on the loop's clock.

        Where a replica is gone another is asked, once. Raises CallFailedError.
        """
        tried: list[Replica] = []
        try:
            return await self._hedged(request, deadline, tried)
        except CallFailedError as failure:
            other = self.replicas.pick(tried) if failure.verdict.try_another else None
            if other is None:
                raise
            self._counters.add("elasticrec_retries_total", service=self.name)
            return await self._attempt(other, request, deadline)

    async def _hedged(self, request: bytes, deadline: float, tried: list[Replica]) -> bytes:
        first = self._pick(tried)
        delay_s = self._window.value_s if self._window else None
        if delay_s is None or len(self.replicas.members) < 2:
            return await self._attempt(first, request, deadline)
        attempts = {asyncio.ensure_future(self._attempt(first, request, deadline))}
        try:
            done, _ = await asyncio.wait(attempts, timeout=delay_s)
            second = self.replicas.pick(tried) if not done else None
            if second is not None and second.ready:
                tried.append(second)
                self._counters.add("elasticrec_hedges_total", service=self.name)
                attempts.add(asyncio.ensure_future(self._attempt(second, request, deadline)))
            return await _first_answer(attempts)
        finally:
            for attempt in attempts:
                attempt.cancel()

    def _pick(self, tried: list[Replica]) -> Replica:
        replica = self.replicas.pick(tried)
        if replica is None:
            verdict = judge(grpc.StatusCode.UNAVAILABLE, "")
            raise CallFailedError(f"service {self.name}: its address list is empty", verdict)
        tried.append(replica)
        return replica

    async def _attempt(self, replica: Replica, request: bytes, deadline: float) -> bytes:
        loop = asyncio.get_running_loop()
        started = loop.time()
        replica.in_flight += 1
        try:
            response: bytes = await _within(max(deadline - started, 0), replica.infer(request, timeout=LOST_S))
        except grpc.aio.AioRpcError as exc:
            raise self._failed(replica, exc, loop.time() - started) from None
        finally:
            replica.in_flight -= 1
        spent_s = loop.time() - started
        replica.ready = True
        self._counters.add("elasticrec_remote_calls_total", service=self.name)
        self._counters.add("elasticrec_remote_call_duration_us_total", 1e6 * spent_s, service=self.name)
        if self._window:
            self._window.add(spent_s)
        return response

    def _failed(self, replica: Replica, error: grpc.aio.AioRpcError, spent_s: float) -> CallFailedError:
        details = error.details() or ""
        verdict = judge(error.code(), details)
        self._counters.add("elasticrec_remote_failures_total", service=self.name, reason=verdict.reason.value)
        text = f"service {self.name}: replica {replica.address}: {error.code().name}: {details}"
        if verdict.reason is Reason.TIMEOUT:
            text = f"service {self.name}: replica {replica.address} did not answer within {1000 * spent_s:.0f} ms"
        if verdict.set_aside and replica.ready:
            replica.ready = False
            self._log(f"{text}; set aside until it answers")
        return CallFailedError(text, verdict)

    async def probe(self, replica: Replica) -> None:
        """Ask a replica that is not ready whether it serves again."""
        replica.probing = True
        try:
            await _within(PROBE_TIMEOUT_S, replica.infer(self._probe, timeout=LOST_S))
        except grpc.aio.AioRpcError:
            return
        finally:
            replica.probing = False
        if not replica.ready:
            replica.ready = True
            self._log(f"service {self.name}: replica {replica.address} serves")


async def _within(seconds: float, call: Any) -> bytes:
    """The answer of a gRPC call that comes in so many seconds; a later one goes unheard.

    The call is not cancelled, nor does its deadline tell the server: Triton 2.51 was seen to crash on cancelled calls.
    """
    answer = asyncio.ensure_future(call)
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait({answer}, timeout=seconds)
    if not answer.done():
        none = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, none, none, "Deadline Exceeded")
    response: bytes = answer.result()
    return response


async def _first_answer(attempts: Iterable[asyncio.Future[bytes]]) -> bytes:
    """The first success; where all fail, the last failure."""
    pending = set(attempts)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        answered = [attempt for attempt in done if attempt.exception() is None]
        if answered or not pending:
            return (answered or list(done))[0].result()
