"""Smaller parts: events, logs, samples, which replicas go first, the terminal view."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from repo_builder.errors import InputError
from repo_builder.local_fleet import services
from repo_builder.local_fleet.machine import FreePorts
from repo_builder.local_fleet.run_folder import Events, RunFolder, log_lines
from repo_builder.local_fleet.services import Launch, Replica, superfluous
from repo_builder.local_fleet.status import ReplicaReading, ServiceSample, combine, metric
from repo_builder.local_fleet.views import live_view, replica_table
from repo_builder.serving.install import Installation

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


def test_those_that_load_go_before_those_that_serve_and_the_newest_first() -> None:
    states = ["ready", "starting", "ready", "starting", "ready"]
    replicas = [SimpleNamespace(name=i, state=state) for i, state in enumerate(states)]
    for wanted, gone in ((5, []), (4, [3]), (3, [1, 3]), (2, [4, 1, 3]), (1, [2, 4, 1, 3])):
        assert [replica.name for replica in superfluous(replicas, wanted)] == gone


def test_events_are_logged_and_shown_once(tmp_path: Path) -> None:
    events = Events(tmp_path / "fleet.log")
    events.tell("one")
    events.tell("two\nand more")
    shown = [line[9:] for line in events.new()]
    assert shown == ["one", "two\n    and more"]
    assert events.new() == []
    events.tell("three")
    assert [line[9:] for line in events.new()] == ["three"]
    assert [line[9:] for line in events.last(2)] == ["two\n    and more", "three"]
    assert (tmp_path / "fleet.log").read_text().count("\n") == 4


def test_a_log_that_cannot_be_written_ends_nobody(tmp_path: Path) -> None:
    events = Events(tmp_path / "gone" / "fleet.log")
    events.tell("one")
    assert [line[9:] for line in events.new()] == ["one"]


def test_whatever_ends_a_replicas_thread_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def failing(*_: object, **__: object) -> None:
        raise IndexError("one word")

    monkeypatch.setattr(services, "running", failing)
    ports, changed = FreePorts(), threading.Event()
    replica = Replica("tier0-1", Launch(Installation(tmp_path), tmp_path, tmp_path, (), {}, ports), changed)
    replica.join()
    assert replica.state == "ended" and replica.error == "IndexError: one word" and changed.is_set()


def test_logs_are_followed_as_they_grow_and_new_ones_come(tmp_path: Path) -> None:
    run = RunFolder.of(tmp_path / "fleet")
    run.logs.mkdir(parents=True)
    (run.logs / "tier0-1.log").write_text("a\nhalf")
    (run.logs / "tier00-1.log").write_text("of another service\n")
    lines = log_lines(run, "tier0", follow=True)
    assert next(lines) == ("tier0-1", "a")
    with (run.logs / "tier0-1.log").open("a") as log:
        log.write(" and half\n")
    assert next(lines) == ("tier0-1", "half and half")
    (run.logs / "tier0-2.log").write_text("b\n")
    assert next(lines) == ("tier0-2", "b")
    (run.logs / "tier0-1.log").write_text("x\n")  # begun anew
    assert next(lines) == ("tier0-1", "x")
    lines.close()


def test_logs_that_are_not_there_are_said_to_be(tmp_path: Path) -> None:
    run = RunFolder.of(tmp_path / "fleet")
    with pytest.raises(InputError, match="expected logs of a fleet, found none; start it: elasticrec up"):
        list(log_lines(run, None, follow=False))


def test_the_views_show_names_as_they_are() -> None:
    """Square brackets are rich's markup; here they are text."""
    replica = {"name": "tier0-1", "state": "ready", "pid": 12, "grpc": "127.0.0.1:5", "http": None}
    service = {"name": "[red]x", "ready": 1, "wanted": 2, "qps": 12.34, "p95_ms": None, "memory_bytes": 3 * 1024**2}
    status = {
        "model": "[bold]m",
        "phase": "starting",
        "events": ["[dim]e"],
        "services": [{**service, "replicas": [replica]}],
    }
    for view in (live_view(status), replica_table(status)):
        text = console_text(view)
        assert "[red]x" in text and "12.3" in text and "3.0 MiB" in text and "127.0.0.1:5" in text
    assert "[bold]m: starting" in console_text(live_view(status)) and "[dim]e" in console_text(live_view(status))


def console_text(view: object) -> str:
    with open(os.devnull, "w") as sink:  # noqa: PTH123 - os.devnull is a name, no Path
        console = Console(width=120, file=sink, record=True)
        console.print(view)
        return console.export_text()


def test_ports_are_given_again_but_not_to_two() -> None:
    ports = FreePorts()
    first = ports.take()
    assert ports.take(first) != first
    ports.release(first)
    assert ports.take(first) == first != ports.take(first)


def test_no_port_is_given_twice_at_once() -> None:
    """More than the odds of one repetition allow, were they drawn alone."""
    ports = FreePorts()
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: ports.take(), range(300)))
    numbers = [number for each in taken for number in (each.http, each.grpc, each.metrics)]
    assert len(set(numbers)) == 900
