"""What a service does, from what its servers say."""

from repo_builder.local_fleet.status import ReplicaReading, ServiceSample, combine, metric

METRICS = """# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="small",version="1"} 7
nv_inference_request_success{model="small",version="2"} 4
nv_inference_request_success{model="small_dense",version="1"} 100
# TYPE nv_inference_request_summary_us summary
nv_inference_request_summary_us_count{model="small",version="1"} 11
nv_inference_request_summary_us{model="small",version="1",quantile="0.95"} Nan
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="a, \\"b\\""} 0.5
"""


def test_a_metric_is_read_by_its_labels() -> None:
    assert list(metric(METRICS, "nv_inference_request_success", model="small")) == [7, 4]
    assert list(metric(METRICS, "nv_inference_request_summary_us", quantile="0.5")) == []
    assert str(next(metric(METRICS, "nv_inference_request_summary_us", model="small"))) == "nan"
    assert list(metric(METRICS, "nv_gpu_utilization", gpu_uuid='a, "b"')) == [0.5]


def test_a_service_is_the_sum_of_its_replicas_and_a_newcomer_counts_from_its_second_reading() -> None:
    old = (ReplicaReading(100, 1500, 10), ReplicaReading(160, 2500, 10))
    new, gone = (None, ReplicaReading(1000, 500, 7)), (ReplicaReading(5, 1, 9), None)
    assert combine([old, new, gone], 2.0) == ServiceSample(30.0, 2.5, 17)
    assert combine([], 2.0) == ServiceSample(0.0, None, 0)


def test_a_latency_is_of_queries_not_of_the_calls_of_a_start() -> None:
    """Triton's summary looks back a minute: what a start called slowly stands in it, though no query came."""
    start = ReplicaReading(4, 260_000, 10, startup=4, ready_s=3)
    assert combine([(start, start)], 2.0).p95_ms is None  # no query at all
    few = ReplicaReading(30, 260_000, 10, startup=4, ready_s=5)
    assert combine([(start, few)], 2.0) == ServiceSample(13.0, None, 10)  # 4 slow calls of 30: they are the percentile
    many = ReplicaReading(200, 1500, 10, startup=4, ready_s=9)
    assert combine([(few, many)], 2.0).p95_ms == 1.5
    later = ReplicaReading(31, 1400, 10, startup=4, ready_s=61)
    assert combine([(few, later)], 2.0).p95_ms == 1.4  # they have left the summary's minute
    assert combine([(later, later)], 2.0).p95_ms is None  # and now nobody asks
