"""The loads that words ask for, sweeps, and the search, against queues whose knee is known."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from loadtest.perf_run import Load, Recording, concurrencies, highest_rate, request_rates, search, sweep, within
from loadtest.run import NOT_ENDED, LoadPoint, Run, Seen
from repo_builder.errors import InputError
from repo_builder.profiling.perf_analyzer import LoadTestError
from tests.loadtest.test_run import POINT, RUN


@pytest.mark.parametrize(
    ("text", "values"),
    [("3", [3]), ("1:4", [1, 2, 3, 4]), ("1:16:5", [1, 6, 11, 16]), ("1:15:5", [1, 6, 11]), ("2:2", [2])],
)
def test_concurrencies(text: str, values: list[float]) -> None:
    assert [(load.kind, load.value) for load in concurrencies(text)] == [("concurrency", value) for value in values]


def test_request_rates_may_be_fractions() -> None:
    assert [load.value for load in request_rates("0.1:0.4:0.1")] == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1:", "1:2:0", "5:1", "1:2:3:4", "nan", "inf", "1:100000", "1.5"])
def test_mistakes_are_one_line(text: str) -> None:
    with pytest.raises(InputError, match="--concurrency: expected") as caught:
        concurrencies(text)
    assert "\n" not in str(caught.value)


SERVICE_S = 0.004


class Queue:
    """An M/M/1 server: at `rate` the time in it is exponential with mean 1 / (mu - rate), so p95 is its 3.0 fold."""

    def __init__(self, seed: int = 0, noise: float = 0.0) -> None:
        self.random, self.noise, self.asked = random.Random(seed), noise, 0

    def measure(self, load: Load) -> LoadPoint:
        self.asked += 1
        mu = 1 / SERVICE_S
        rate = load.value if load.kind == "request_rate" else 1.0
        mean_s = 1 / (mu - rate) if rate < mu else 10.0
        mean_s *= self.random.lognormvariate(0, self.noise)
        answered = min(rate, mu) if load.kind == "request_rate" else mu
        p50_ms, p95_ms, p99_ms = (1000 * mean_s * factor for factor in (0.693, 2.996, 4.605))
        return LoadPoint(load.kind, load.value, answered, p50_ms, p95_ms, p99_ms, 1000 * mean_s, 5000, 0, {}, None)


def knee_qps(sla_ms: float, factor: float) -> float:
    """Where factor / (mu - rate) is the SLA."""
    return 1 / SERVICE_S - factor / (sla_ms / 1000)


@pytest.mark.parametrize("guess_qps", [0.3, 40.0, 5000.0])
@pytest.mark.parametrize("limit_qps", [1.0, 77.7, 12345.0])
def test_an_exact_limit_is_found_from_any_guess(guess_qps: float, limit_qps: float) -> None:
    asked = []

    def holds(rate_qps: float) -> bool:
        asked.append(rate_qps)
        return rate_qps <= limit_qps

    found = highest_rate(holds, guess_qps)
    assert found is not None and limit_qps / 1.05 <= found <= limit_qps
    assert len(asked) < 50


@pytest.mark.parametrize(("percentile", "factor"), [(95, 2.996), (99, 4.605)])
@pytest.mark.parametrize("sla_ms", [20.0, 40.0, 400.0])
def test_the_knee_of_a_queue_is_found(percentile: int, factor: float, sla_ms: float) -> None:
    kept: list[Run] = []
    recording = Recording(replace(RUN, percentile=percentile), kept.append)
    knee = knee_qps(sla_ms, factor)
    if knee < 0:
        with pytest.raises(LoadTestError):
            search(Queue(), sla_ms, recording)
        return
    found = search(Queue(), sla_ms, recording)
    assert knee / 1.06 <= found <= knee
    assert len(kept) == 1 + len(recording.run.points)  # written after each


@pytest.mark.parametrize("seed", range(10))
def test_noise_moves_it_little(seed: int) -> None:
    """Latencies that are off by 15% (one standard deviation) where a third of all is the queue's."""
    recording = Recording(RUN, lambda _: None)
    queue = Queue(seed, noise=0.15)
    found = search(queue, 40, recording)
    assert found == pytest.approx(knee_qps(40, 2.996), rel=0.25)
    assert queue.asked < 60


def test_one_stall_of_the_machine_is_forgiven() -> None:
    stalled: set[float] = set()

    def holds(rate_qps: float) -> bool:
        if rate_qps not in stalled:
            stalled.add(rate_qps)
            return False  # the first measurement of every rate
        return rate_qps <= 100

    found = highest_rate(holds, 10)
    assert found is not None and 95 <= found <= 100


def test_a_rate_that_held_by_luck_is_not_the_answer() -> None:
    """It must hold once more."""
    lucky = {160.0}

    def holds(rate_qps: float) -> bool:
        if rate_qps in lucky:
            lucky.remove(rate_qps)
            return True
        return rate_qps <= 100

    found = highest_rate(holds, 20)
    assert found is not None and 90 <= found <= 100


def test_a_server_that_never_holds_ends_the_search() -> None:
    assert highest_rate(lambda _: False, 1000) is None


def test_an_sla_that_an_idle_server_misses_is_one_line() -> None:
    queue, recording = Queue(), Recording(RUN, lambda _: None)
    with pytest.raises(
        LoadTestError, match="p95 within the SLA of 5 ms, but one query at a time takes 12 ms"
    ) as caught:
        search(queue, 5, recording)
    assert queue.asked == 1 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({}, True),
        ({"errors": 1}, False),
        ({"p95_ms": 41.0}, False),
        ({"throughput_qps": 88.0}, True),  # of 1000 queries by chance
        ({"throughput_qps": 86.0}, False),
    ],
)
def test_what_counts(change: dict[str, float], counts: bool) -> None:
    point = replace(POINT, load=100.0, throughput_qps=100.0, p95_ms=39.0, queries=1000, errors=0)
    assert within(replace(point, **change), 40, 95) == counts


def test_memory_is_the_most_that_was_seen() -> None:
    looks = iter([Seen({"a": 5, "b": 1}, {"a": 1}), Seen({"a": 3, "b": 2}, {"a": 2})])
    recording = Recording(RUN, lambda _: None, looks.__next__)
    sweep(Queue(), [Load("concurrency", n) for n in (1, 2)], recording)
    assert (recording.run.memory_bytes, recording.run.replicas) == ({"a": 5, "b": 2}, {"a": 2})


def failing_after(points: int) -> Callable[[Load], LoadPoint]:
    left = iter(range(points))

    def measure(load: Load) -> LoadPoint:
        if next(left, None) is None:
            raise LoadTestError("the server died")
        return replace(POINT, load=load.value)

    return measure


def test_what_was_measured_before_a_failure_is_kept() -> None:
    kept: list[Run] = []
    recording = Recording(RUN, kept.append)
    queue = Queue()
    queue.measure = failing_after(2)  # type: ignore[method-assign] # the fault
    with pytest.raises(LoadTestError):
        sweep(queue, [Load("concurrency", n) for n in (1, 2, 3)], recording)
    assert [point.load for point in kept[-1].points] == [1, 2]
    assert not kept[-1].complete and kept[-1].why == NOT_ENDED
    recording.cut_off("the server died")
    assert kept[-1].why == "the server died" and not kept[-1].complete
    recording.finish(None)
    assert kept[-1].complete and kept[-1].why is None
