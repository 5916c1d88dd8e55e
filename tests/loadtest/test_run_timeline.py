"""Figures of every second, against NumPy's percentiles on queries told apart by hand."""

import numpy as np
import pytest

from loadtest.run import timeline


def test_each_second_has_its_own_queries() -> None:
    due_s = np.array([100.0, 100.5, 100.9, 102.1])
    latency_ms = np.array([10.0, 20.0, 300.0, 40.0])
    failed = np.array([False, True, False, False])
    first, second, third = timeline(due_s, latency_ms, failed)
    assert (first.time_s, first.offered_qps, first.answered_qps, first.errors) == (0, 3, 1, 1)
    assert first.p50_ms == pytest.approx(155) and first.p99_ms == pytest.approx(np.percentile([10, 300], 99))
    assert (second.offered_qps, second.answered_qps, second.p50_ms, second.errors) == (0, 1, None, 0)
    assert (third.time_s, third.offered_qps, third.answered_qps, third.p95_ms) == (2, 1, 1, 40)


def test_nothing_is_lost() -> None:
    rng = np.random.default_rng(0)
    due_s, latency_ms = np.sort(rng.uniform(5, 35, 3000)), rng.exponential(200, 3000)
    failed = rng.random(3000) < 0.1
    samples = timeline(due_s, latency_ms, failed, bucket_s=2)
    assert sum(2 * each.offered_qps for each in samples) == 3000
    assert sum(2 * each.answered_qps for each in samples) == (~failed).sum()
    assert sum(each.errors for each in samples) == failed.sum()


def test_no_queries_no_samples() -> None:
    assert timeline(np.empty(0), np.empty(0), np.empty(0, bool)) == ()
