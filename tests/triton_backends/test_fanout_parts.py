"""The router's pure parts: balancer, latency window, gate, counters, addresses, verdicts, TLS settings, messages."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from triton_backends.fanout.addresses import AddressFile, Endpoint, parse_addresses
from triton_backends.fanout.channels import Tls
from triton_backends.fanout.counters import COUNTERS, Counters
from triton_backends.fanout.failures import Reason, judge
from triton_backends.fanout.gate import Gate, OverloadedError
from triton_backends.fanout.latency import EVERY, LEAST, WINDOW, LatencyWindow
from triton_backends.fanout.messages import infer_request, probe_request, sums_of
from triton_backends.fanout.replicas import Balancer


@dataclass(eq=False)
class Member:
    name: str
    in_flight: int = 0
    ready: bool = True


def test_equals_take_turns() -> None:
    members = [Member("a"), Member("b"), Member("c")]
    balancer = Balancer(members)
    picked = [balancer.pick().name for _ in range(9)]
    assert sorted(picked[:3]) == sorted(picked[3:6]) == ["a", "b", "c"]


def test_the_least_busy_of_the_ready_is_picked() -> None:
    busy, idle, gone = Member("busy", 2), Member("idle", 1), Member("gone", 0, ready=False)
    assert all(Balancer([busy, idle, gone]).pick() is idle for _ in range(3))


def test_one_set_aside_is_better_than_none() -> None:
    gone, tried = Member("gone", ready=False), Member("tried")
    balancer = Balancer([gone, tried])
    assert balancer.pick([tried]) is gone
    assert balancer.pick([tried, gone]) is None
    assert Balancer().pick() is None


def test_the_window_gives_the_quantile_of_the_latest_calls() -> None:
    window = LatencyWindow(0.9)
    for i in range(LEAST - 1):
        window.add(float(i))
    assert window.value_s is None
    window.add(float(LEAST - 1))
    assert window.value_s == pytest.approx(np.quantile(np.arange(LEAST), 0.9), abs=1)
    for _ in range(WINDOW + EVERY):
        window.add(7.0)
    assert window.value_s == 7.0


def test_the_gate_lets_no_more_in_than_its_limit() -> None:
    gate = Gate(2)
    gate.enter()
    gate.enter()
    with pytest.raises(OverloadedError, match="2 queries are under way and max_in_flight is 2"):
        gate.enter()
    gate.leave()
    gate.enter()
    with pytest.raises(OverloadedError):
        gate.enter()


def test_counters_tell_only_what_grew() -> None:
    counters, told = Counters(), []
    counters.add("elasticrec_retries_total", service="a")
    counters.add("elasticrec_retries_total", service="a")
    counters.tell(lambda *args: told.append(args))
    counters.add("elasticrec_retries_total", 3, service="b")
    counters.tell(lambda *args: told.append(args))
    name = "elasticrec_retries_total"
    assert name in COUNTERS
    assert told == [(name, {"service": "a"}, 2), (name, {"service": "b"}, 3)]


def test_addresses_are_names_or_lists() -> None:
    text = json.dumps({"a": "dns:///rm1-a:8001", "b": ["h:1", "[::1]:2", "h:1"], "c": [], "other": 5})
    assert parse_addresses(text, ["a", "b", "c"]) == {
        "a": (Endpoint("rm1-a", 8001, resolve=True),),
        "b": (Endpoint("::1", 2), Endpoint("h", 1)),
        "c": (),
    }
    assert str(Endpoint("::1", 2)) == "[::1]:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "expected an object"),
        ('{"b": []}', 'a: expected "dns:///HOST:PORT"'),
        ('{"a": "h:1", "b": []}', 'a: expected "dns:///HOST:PORT"'),
        ('{"a": [1], "b": []}', 'a: expected "dns:///HOST:PORT"'),
        ('{"a": ["h"], "b": []}', "a: expected HOST:PORT"),
        ('{"a": ["h:0"], "b": []}', "a: expected HOST:PORT"),
        ('{"a": ["h:65536"], "b": []}', "a: expected HOST:PORT"),
        ('{"a": ["::1:80"], "b": []}', "a: expected HOST:PORT"),
        ('{"a": "dns:///h/x:1", "b": []}', "a: expected HOST:PORT"),
    ],
)
def test_wrong_addresses_are_told(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_addresses(text, ["a", "b"])


def test_the_address_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    file = AddressFile(path, ["a"])
    with pytest.raises(ValueError, match=r"a.json: cannot be read"):
        file.changed()
    path.write_text('{"a": ["h:1"]}')
    assert file.changed() == {"a": (Endpoint("h", 1),)}
    assert file.changed() is None
    other = tmp_path / "b.json"
    other.write_text('{"a": ["h:2"]}')
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))  # a file swapped in with the same time
    other.rename(path)
    assert file.changed() == {"a": (Endpoint("h", 2),)}
    path.write_text("{")
    with pytest.raises(ValueError, match=r"a.json: expected JSON"):
        file.changed()
    assert file.changed() is None
    path.unlink()
    assert file.changed() is None


@pytest.mark.parametrize(
    ("code", "details", "reason", "another", "aside"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect", Reason.GONE, True, True),
        (grpc.StatusCode.INTERNAL, "Stub process 'm_0_0' is not healthy", Reason.GONE, True, True),
        (grpc.StatusCode.NOT_FOUND, "version 7 is not found", Reason.GONE, True, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", Reason.TIMEOUT, False, True),
        (grpc.StatusCode.INVALID_ARGUMENT, "ids: expected", Reason.REFUSED, False, False),
        (grpc.StatusCode.INTERNAL, "ids: expected", Reason.REFUSED, False, False),
    ],
)
def test_what_follows_from_a_failure(
    code: grpc.StatusCode, details: str, reason: Reason, another: bool, aside: bool
) -> None:
    verdict = judge(code, details)
    assert (verdict.reason, verdict.try_another, verdict.set_aside) == (reason, another, aside)


def test_tls_is_told_by_the_environment() -> None:
    assert Tls.from_environment({}) is None
    assert Tls.from_environment({"ELASTICREC_TLS_CA": ""}) is None
    assert Tls.from_environment({"ELASTICREC_TLS_CA": "/ca"}) == Tls(Path("/ca"))
    pair = {"ELASTICREC_TLS_CERT": "/cert", "ELASTICREC_TLS_KEY": "/key"}
    assert Tls.from_environment({"ELASTICREC_TLS_CA": "/ca", **pair}) == Tls(Path("/ca"), Path("/cert"), Path("/key"))
    with pytest.raises(ValueError, match="ELASTICREC_TLS_CA"):
        Tls.from_environment(pair)
    with pytest.raises(ValueError, match="only one"):
        Tls.from_environment({"ELASTICREC_TLS_CA": "/ca", "ELASTICREC_TLS_KEY": "/key"})


def test_a_request_joins_queries_without_padding() -> None:
    first = (np.array([3, 1], np.int32), np.array([2, 0], np.int32))
    second = (np.array([5], np.int32), np.array([0, 1], np.int32))
    request = pb.ModelInferRequest.FromString(infer_request("m", "7", [first, second]))
    assert (request.model_name, request.model_version) == ("m", "7")
    assert [(item.name, item.datatype, list(item.shape)) for item in request.inputs] == [
        ("ids", "INT32", [1, 3]),
        ("lengths", "INT32", [1, 4]),
    ]
    assert [np.frombuffer(raw, np.int32).tolist() for raw in request.raw_input_contents] == [[3, 1, 5], [2, 0, 0, 1]]


def test_a_probe_is_one_row_of_empty_bags() -> None:
    request = pb.ModelInferRequest.FromString(probe_request("m", "7", 3))
    assert [np.frombuffer(raw, np.int32).tolist() for raw in request.raw_input_contents] == [[], [0, 0, 0]]


@pytest.mark.parametrize("datatype", ["FP32", "FP16"])
def test_sums_are_of_the_asked_type_and_rows(datatype: str) -> None:
    values = np.arange(6, dtype={"FP32": np.float32, "FP16": np.float16}[datatype]).reshape(2, 3)
    answer = pb.ModelInferResponse()
    answer.outputs.add(name="sums", datatype=datatype, shape=values.shape)
    answer.raw_output_contents.append(values.tobytes())
    np.testing.assert_array_equal(sums_of(answer.SerializeToString(), datatype, 2), values)
    with pytest.raises(ValueError, match="of 3 rows"):
        sums_of(answer.SerializeToString(), datatype, 3)
    with pytest.raises(ValueError, match="sums: expected"):
        sums_of(answer.SerializeToString(), "FP16" if datatype == "FP32" else "FP32", 2)
