"""Calls that wait for a busy replica, so that the fan-out router joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from tests.triton_backends.fake_shard import FakeShard, serving
from tests.triton_backends.fake_triton import Backend, BackendError, Model, Pending
from tests.triton_backends.fanouts import FanOut, eventually, make

NEVER_US = 600_000_000
IN_FLIGHT = 1  # calls of ours under way at a replica of one instance, before others wait
ALONE_ROWS = 1  # of a query that is sent before those that wait
BAD_ROWS = 50  # of one that its shard cannot answer
LEAST = 64  # calls before a quantile means anything
Status = tuple[grpc.StatusCode, str]


@dataclass
class Choosy(FakeShard):
    """Refuses calls of many rows by `refusal`, and spoils answers of more than one query's."""

    refusal: Status | None = None
    spoilt_joined: Callable[[bytes], bytes] | None = None
    at_once: int = 0  # a query's rows, at most

    def infer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        answer = super().infer(request, context)
        rows = pb.ModelInferResponse.FromString(answer).outputs[0].shape[0]
        if self.refusal and rows >= BAD_ROWS:
            context.abort(*self.refusal)
        return self.spoilt_joined(answer) if self.spoilt_joined and rows > self.at_once else answer


def submit(model: Model, queries: Sequence[Mapping[str, np.ndarray]]) -> list[Pending]:
    """Each by itself, as Triton hands them over where they come one after another."""
    return [model.submit([query]) for query in queries]


def answers(pending: Sequence[Pending]) -> list[dict[str, np.ndarray] | BackendError]:
    return [each.answers(60)[0] for each in pending]


def fill(fanout: FanOut, model: Model, *replicas: FakeShard) -> list[Pending]:
    """Hold a service's replicas, and put as many calls under way there as they take."""
    sent: list[Pending] = []
    for replica in replicas:
        replica.hold()
    before = sum(replica.calls for replica in replicas)
    for number in range(IN_FLIGHT * len(replicas)):
        sent += submit(model, [fanout.query(ALONE_ROWS, number)])
        wait_for_calls(before + len(sent), *replicas)
    return sent


def wait_for_calls(calls: int, *replicas: FakeShard) -> None:
    eventually(lambda: sum(replica.calls for replica in replicas) == calls, 20)


def let_on(*replicas: FakeShard) -> None:
    """Let them answer what they have, and hold what comes then."""
    for replica in replicas:
        replica.let_go()
        replica.hold()


def check(fanout: FanOut, queries: Sequence[Mapping[str, np.ndarray]], found: Sequence[object]) -> None:
    """Each query's own sums."""
    for query, answer in zip(queries, found, strict=True):
        assert isinstance(answer, dict), answer
        np.testing.assert_array_equal(answer["sums"], fanout.sums(query))


@contextmanager
def joining(backend: Backend, folder: Path, *replicas: FakeShard, **options: object) -> Iterator[tuple[FanOut, Model]]:
    """A router before a steady service and one of these replicas."""
    steady = FakeShard(2)
    with serving(steady, *replicas):
        fanout = make(backend, folder, [steady], replicas, **{"deadline_us": NEVER_US, **options})
        with fanout.running() as model:
            eventually(lambda: fanout.metric("replicas_aside") == 0)
            yield fanout, model
