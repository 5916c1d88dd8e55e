"""The router's calls on servers that fail on command: retries, deadlines, hedges, missing shards, joined queries."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import grpc
import numpy as np
import pytest

from tests.triton_backends.fake_shard import FakeShard, run, serving
from triton_backends.fanout.addresses import Endpoint
from triton_backends.fanout.channels import open_channel
from triton_backends.fanout.counters import Counters
from triton_backends.fanout.failures import CallFailedError
from triton_backends.fanout.fanout import FanOut, Query
from triton_backends.fanout.latency import LEAST
from triton_backends.fanout.messages import Part, probe_request
from triton_backends.fanout.remote import RemoteService, Replica
from triton_backends.fanout.settings import RemoteShard, Settings

REQUEST = probe_request("m_a", "1", 1)
GONE = (grpc.StatusCode.UNAVAILABLE, "stopping")
SETTINGS = Settings(
    model="m",
    version="1",
    tables=2,
    dim=2,
    services=(RemoteShard("a", (0,)), RemoteShard("b", (1,))),
    deadline_ms=300,
    missing_shard="fail",
    hedge_quantile=None,
    max_in_flight=8,
    sums_dtype="fp32",
)


class Fleet:
    """A service over fake shards, and what it counted and logged."""

    def __init__(self, shards: Sequence[FakeShard], hedge_quantile: float | None = None, name: str = "a") -> None:
        self.counts: dict[str, float] = {}
        self.log: list[str] = []
        self.counters = Counters()
        self.service = RemoteService(name, REQUEST, hedge_quantile, self.counters, self.log.append)
        self.replicas = []
        for shard in shards:
            host, port = shard.address.split(":")
            replica = Replica(shard.address, open_channel(Endpoint(host, int(port)), host, None))
            replica.ready = True
            self.replicas.append(replica)
        self.service.replicas.replace(self.replicas)

    async def call(self, deadline_s: float = 1.0) -> bytes:
        return await self.service.call(REQUEST, asyncio.get_running_loop().time() + deadline_s)

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.channel.close()

    def told(self, name: str) -> float:
        found: dict[str, float] = {}
        self.counters.tell(lambda key, _labels, amount: found.update({key: found.get(key, 0) + amount}))
        self.counts.update({key: self.counts.get(key, 0) + amount for key, amount in found.items()})
        return self.counts.get(name, 0)


def test_a_gone_replica_is_replaced_once_and_set_aside() -> None:
    async def work() -> None:
        gone, good = FakeShard(status=GONE), FakeShard()
        async with serving(gone, good):
            fleet = Fleet([gone, good])
            for _ in range(6):
                await fleet.call()
            assert gone.calls == 1 and good.calls == 6
            assert fleet.told("elasticrec_retries_total") == 1
            assert fleet.told("elasticrec_remote_calls_total") == 6
            assert fleet.log == [
                f"service a: replica {gone.address}: UNAVAILABLE: stopping; set aside until it answers"
            ]
            gone.status = None
            await fleet.service.probe(fleet.replicas[0])
            assert fleet.replicas[0].ready
            await fleet.close()

    run(work)


def test_where_all_are_gone_the_error_names_service_and_replica() -> None:
    async def work() -> None:
        shards = [FakeShard(status=GONE) for _ in range(3)]
        async with serving(*shards):
            fleet = Fleet(shards)
            with pytest.raises(CallFailedError, match=r"service a: replica 127.0.0.1:\d+: UNAVAILABLE: stopping"):
                await fleet.call()
            assert sum(shard.calls for shard in shards) == 2  # one retry, not one each
            await fleet.close()

    run(work)


def test_a_refused_call_is_not_sent_again() -> None:
    async def work() -> None:
        shards = [FakeShard(status=(grpc.StatusCode.INVALID_ARGUMENT, "ids")) for _ in range(2)]
        async with serving(*shards):
            fleet = Fleet(shards)
            with pytest.raises(CallFailedError, match="INVALID_ARGUMENT: ids"):
                await fleet.call()
            assert sum(shard.calls for shard in shards) == 1
            assert all(replica.ready for replica in fleet.replicas)
            await fleet.close()

    run(work)


def test_a_call_ends_at_its_deadline() -> None:
    async def work() -> None:
        slow, good = FakeShard(delay_s=5), FakeShard()
        async with serving(slow, good):
            fleet = Fleet([slow])
            loop = asyncio.get_running_loop()
            started = loop.time()
            with pytest.raises(CallFailedError, match=r"service a: replica .* did not answer within 2\d\d ms"):
                await fleet.call(0.2)
            assert 0.2 <= loop.time() - started < 0.6
            assert not fleet.replicas[0].ready and fleet.replicas[0].in_flight == 0
            await fleet.close()

    run(work)


def test_a_slow_call_is_hedged_and_the_slower_one_goes_unheard() -> None:
    async def work() -> None:
        first, second = FakeShard(), FakeShard()
        async with serving(first, second):
            fleet = Fleet([first, second], hedge_quantile=0.9)
            for _ in range(LEAST):
                await fleet.call()
            assert fleet.told("elasticrec_hedges_total") < LEAST / 2
            hedges = fleet.told("elasticrec_hedges_total")
            first.delay_s = 0.8
            loop = asyncio.get_running_loop()
            for _ in range(4):
                started = loop.time()
                await fleet.call()
                assert loop.time() - started < 0.6
            assert fleet.told("elasticrec_hedges_total") > hedges
            await asyncio.sleep(0.1)
            assert first.cancelled == 0  # a cancelled call may crash Triton
            assert all(replica.in_flight == 0 for replica in fleet.replicas)
            await fleet.close()

    run(work)


def test_without_a_quantile_nothing_is_hedged() -> None:
    async def work() -> None:
        first, second = FakeShard(delay_s=0.05), FakeShard(delay_s=0.05)
        async with serving(first, second):
            fleet = Fleet([first, second])
            for _ in range(4):
                await fleet.call()
            assert first.calls + second.calls == 4
            await fleet.close()

    run(work)


def query(rows: int, *held: int) -> Query:
    """A query of `rows` whose services `held` get one id a row; the others none."""
    parts: list[Part] = [
        (np.zeros(rows if k in held else 0, np.int32), np.full(rows, k in held, np.int32)) for k in range(2)
    ]
    return Query(rows, parts)


async def two_services(a: FakeShard, b: FakeShard, settings: Settings) -> tuple[FanOut, Fleet, Fleet]:
    first, second = Fleet([a]), Fleet([b], name="b")
    return FanOut(settings, {"a": first.service, "b": second.service}, first.counters), first, second


def test_queries_are_joined_into_one_call_a_service() -> None:
    async def work() -> None:
        a, b = FakeShard(value=1), FakeShard(value=2)
        async with serving(a, b):
            fanout, first, second = await two_services(a, b, SETTINGS)
            sums = await fanout.sums([query(2, 0, 1), query(3, 0, 1)])
            np.testing.assert_array_equal(sums.values, np.tile(np.float32([1, 1, 2, 2]), (5, 1)))
            assert (a.calls, b.calls, sums.missing) == (1, 1, ())
            await first.close()
            await second.close()

    run(work)


def test_a_service_without_ids_is_not_called() -> None:
    async def work() -> None:
        a, b = FakeShard(value=1), FakeShard(value=2)
        async with serving(a, b):
            fanout, first, second = await two_services(a, b, SETTINGS)
            sums = await fanout.sums([query(2, 1)])
            np.testing.assert_array_equal(sums.values, np.tile(np.float32([0, 0, 2, 2]), (2, 1)))
            assert (a.calls, b.calls) == (0, 1)
            assert not (await fanout.sums([query(2)])).values.any()
            assert (a.calls, b.calls) == (0, 1)
            await first.close()
            await second.close()

    run(work)


def test_a_missing_shard_fails_the_query_at_once() -> None:
    """The other call is not waited for."""

    async def work() -> None:
        a, b = FakeShard(delay_s=5), FakeShard(status=GONE)
        async with serving(a, b):
            fanout, first, second = await two_services(a, b, SETTINGS)
            loop = asyncio.get_running_loop()
            started = loop.time()
            with pytest.raises(CallFailedError, match=r"service b: replica .*: UNAVAILABLE"):
                await fanout.sums([query(2, 0, 1)])
            assert loop.time() - started < 0.25
            await asyncio.sleep(0.1)
            assert a.cancelled == 0  # a cancelled call may crash Triton
            await first.close()
            await second.close()

    run(work)


@pytest.mark.parametrize("b", [FakeShard(status=GONE), FakeShard(delay_s=5)], ids=["gone", "frozen"])
def test_a_missing_shard_is_left_out_where_that_is_asked_for(b: FakeShard) -> None:
    async def work() -> None:
        a = FakeShard(value=1)
        async with serving(a, b):
            fanout, first, second = await two_services(a, b, replace(SETTINGS, missing_shard="degrade"))
            sums = await fanout.sums([query(2, 0, 1)])
            assert sums.missing == ("b",)
            np.testing.assert_array_equal(sums.values, np.tile(np.float32([1, 1, 0, 0]), (2, 1)))
            loop = asyncio.get_running_loop()
            started = loop.time()
            assert (await fanout.sums([query(2, 0, 1)])).missing == ("b",)
            assert loop.time() - started < 0.2  # known by now: not waited for again
            await first.close()
            await second.close()

    run(work)


@pytest.mark.parametrize(
    "b", [FakeShard(status=(grpc.StatusCode.INVALID_ARGUMENT, "ids: expected rows")), FakeShard(width=3)]
)
def test_a_shard_that_does_not_fit_is_an_error_even_then(b: FakeShard) -> None:
    """It is no outage: leaving it out would hide that the fleet was put together wrongly."""

    async def work() -> None:
        a = FakeShard(value=1)
        async with serving(a, b):
            fanout, first, second = await two_services(a, b, replace(SETTINGS, missing_shard="degrade"))
            with pytest.raises((CallFailedError, ValueError)):
                await fanout.sums([query(2, 0, 1)])
            await first.close()
            await second.close()

    run(work)
