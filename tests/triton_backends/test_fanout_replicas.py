"""Where the router finds its replicas, and what it makes of servers that break HTTP/2 or TLS rather than calls."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme

from tests.triton_backends.fake_shard import FakeShard, serving
from tests.triton_backends.fake_triton import Backend, BackendError
from tests.triton_backends.fanouts import FanOut, Model, eventually, make


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("", "expected JSON"),
        ("[]", "expected an object"),
        ('{"tier1": []}', 'tier0: expected "dns:///HOST:PORT"'),
        ('{"tier0": "h:1", "tier1": []}', 'tier0: expected "dns:///HOST:PORT"'),
        ('{"tier0": [1], "tier1": []}', 'tier0: expected "dns:///HOST:PORT"'),
        ('{"tier0": ["h"], "tier1": []}', "tier0: expected HOST:PORT"),
        ('{"tier0": ["h:0"], "tier1": []}', "tier0: expected HOST:PORT"),
        ('{"tier0": ["h:65536"], "tier1": []}', "tier0: expected HOST:PORT"),
        ('{"tier0": ["::1:80"], "tier1": []}', "tier0: expected HOST:PORT"),
        ('{"tier0": "dns:///h/x:1", "tier1": []}', "tier0: expected HOST:PORT"),
    ],
)
def test_wrong_addresses_are_told(backend: Backend, tmp_path: Path, text: str, message: str) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(text)
    fanout = make(backend, tmp_path, [], [])
    fanout.environment = {"ELASTICREC_ADDRESSES": str(wrong)}
    with pytest.raises(BackendError, match=f"wrong.json: {message}"), fanout.running():
        pass


def test_the_address_file_is_followed(backend: Backend, tmp_path: Path) -> None:
    """Entries of other services, nested ones too, are passed over; a broken file changes nothing."""
    a, b, other = (FakeShard(2) for _ in range(3))
    with serving(a, b, other):
        fanout = make(backend, tmp_path, [a], [b])
        with fanout.running() as model:
            fanout.check(model)
            fanout.write_addresses(tier1=[other.address], more={"a": [1, {}, None]}, tier0=[a.address])
            eventually(lambda: f"replica {other.address} serves" in fanout.log)
            calls = b.calls
            fanout.check(model, 1, 2)
            assert (b.calls, other.calls) == (calls, 2)
            fanout.addresses.write_text("{")
            eventually(lambda: "addresses.json: expected JSON; the former addresses stay in use" in fanout.log)
            fanout.check(model)
            fanout.write_addresses(tier0=[a.address], tier1=f"dns:///localhost:{b.address.split(':')[1]}")
            eventually(lambda: fanout.log.count(f"replica {b.address} serves") == 2)
            fanout.check(model)
            assert b.calls == calls + 1
            fanout.write_addresses(tier0=[a.address], tier1=[])
            eventually(lambda: "service tier1: replicas none" in fanout.log)
            with pytest.raises(BackendError, match="service tier1: its address list is empty"):
                model.infer(fanout.query(2))


def test_no_query_fails_while_servers_end_connections_of_old_age(backend: Backend, tmp_path: Path) -> None:
    a, b = FakeShard(2), FakeShard(2)
    with serving(a, b, options=[("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 5000)]):
        fanout = make(backend, tmp_path, [a], [b])
        with fanout.running() as model:
            until = time.monotonic() + 2
            while time.monotonic() < until or a.calls <= 20:
                fanout.check(model)
            assert fanout.metric("remote_failures") == 0


@contextmanager
def raw_server(answer: bytes | None) -> Iterator[str]:
    """A TCP server that says this to each client and hangs up; None: that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept = []

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                kept.append(client)
                if answer is not None:
                    client.sendall(answer)
                    client.shutdown(socket.SHUT_WR)  # `close` would reset what the client has not read yet

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for client in kept:
            client.close()


SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
GOODBYE = bytes([0, 0, 12, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) + b"full"
# by name: what it says, and what is said of it
GARBAGE = {
    "silence": (None, "failed to connect: the server says nothing in time"),
    "nothing": (b"", "before it spoke HTTP/2; is it a gRPC server?"),
    "a beginning": (b"\0\0", "before it spoke HTTP/2; is it a gRPC server?"),
    "another protocol": (
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        'it is no gRPC server: it speaks HTTP/1, not HTTP/2 (it says "HTTP/1.1 400 Bad Request")',
    ),
    "a greeting": (
        b"SSH-2.0-\xff\n",
        'it is no gRPC server: it speaks something else, not HTTP/2 (it says "SSH-2.0-..")',
    ),
    "TLS": (bytes([21, 3, 1, 0, 2, 2, 70]), "the server speaks TLS; set ELASTICREC_TLS_CA"),
    "settings and the end": (SETTINGS_FRAME, "the server closed the connection"),
    "a goodbye at once": (
        SETTINGS_FRAME + GOODBYE,
        "the server ended the connection with GOAWAY (NO_ERROR: full), as it does with each",
    ),
    "frames of no stream": (
        SETTINGS_FRAME + bytes([0, 0, 4, 0, 0, 0, 0, 0, 9]) + b"\x00" * 64,
        "the server breaks the rules of HTTP/2",
    ),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_a_server_that_speaks_no_grpc_does_no_harm(backend: Backend, tmp_path: Path, case: str) -> None:
    """It is never ready, and the queries go to the other one; where there is none they and the log are told so."""
    said, text = GARBAGE[case]
    a, b = FakeShard(2), FakeShard(2)
    with serving(a, b), raw_server(said) as address:
        fanout = make(backend, tmp_path, [a], [b])
        with fanout.running() as model:
            fanout.write_addresses(tier0=[a.address], tier1=[b.address, address])
            eventually(lambda: f"{address}" in fanout.log)
            until = time.monotonic() + 0.6
            while time.monotonic() < until:
                fanout.check(model)
            fanout.write_addresses(tier0=[a.address], tier1=[address])
            eventually(lambda: f"service tier1: replicas {address}\n" in fanout.log)
            eventually(lambda: text in refusal(fanout, model, address))
            eventually(lambda: text in "".join(re.findall(rf"replica {address} does not serve: (.*)", fanout.log)))


def refusal(fanout: FanOut, model: Model, address: str) -> str:
    """What a query is told of a replica."""
    with pytest.raises(
        BackendError, match=rf"service tier1: replica {address}(: UNAVAILABLE: | did not answer)"
    ) as told:
        model.infer(fanout.query(2))
    return str(told.value)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write_client(authority: trustme.CA, folder: Path) -> dict[str, str]:
    issued = authority.issue_cert("client.example")
    paths = {name: str(folder / f"{name}.pem") for name in ("CA", "CERT", "KEY")}
    authority.cert_pem.write_to_path(paths["CA"])
    Path(paths["CERT"]).write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(paths["KEY"])
    return {f"ELASTICREC_TLS_{name}": path for name, path in paths.items()}


def server_credentials(authority: trustme.CA, host: str) -> grpc.ServerCredentials:
    issued = authority.issue_cert(host)
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    pair = [(issued.private_key_pem.bytes(), chain)]
    return grpc.ssl_server_credentials(pair, authority.cert_pem.bytes(), require_client_auth=True)


def secured(backend: Backend, folder: Path, authority: trustme.CA, *shards: FakeShard) -> FanOut:
    fanout = make(backend, folder, *([shard] for shard in shards))
    fanout.environment = write_client(authority, folder)
    return fanout


def test_sums_over_mutual_tls(backend: Backend, tmp_path: Path, authority: trustme.CA) -> None:
    a, b = FakeShard(2), FakeShard(2)
    with serving(a, b, credentials=server_credentials(authority, "127.0.0.1")):
        fanout = secured(backend, tmp_path, authority, a, b)
        with fanout.running() as model:
            fanout.check(model, 1, 2, 3)


def test_a_certificate_for_another_host_is_refused(backend: Backend, tmp_path: Path, authority: trustme.CA) -> None:
    a, b, wrong = (FakeShard(2) for _ in range(3))
    with (
        serving(a, b, credentials=server_credentials(authority, "127.0.0.1")),
        serving(wrong, credentials=server_credentials(authority, "elsewhere.example")),
    ):
        fanout = secured(backend, tmp_path, authority, a, b)
        with fanout.running() as model:
            fanout.write_addresses(tier0=[a.address], tier1=[wrong.address])
            eventually(lambda: f"service tier1: replicas {wrong.address}\n" in fanout.log)
            with pytest.raises(BackendError, match=r"UNAVAILABLE: failed to connect: TLS: the server's certificate"):
                eventually(lambda: not model.infer(fanout.query(2)))
            assert wrong.calls == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("CERT", "KEY"), "expected ELASTICREC_TLS_CA beside ELASTICREC_TLS_CERT"),
        (("CA", "KEY"), "expected both ELASTICREC_TLS_CERT and ELASTICREC_TLS_KEY, or neither, got only one"),
    ],
)
def test_half_of_what_tls_needs_is_told(
    backend: Backend, tmp_path: Path, authority: trustme.CA, names: tuple[str, ...], message: str
) -> None:
    given = write_client(authority, tmp_path)
    fanout = make(backend, tmp_path, [], [])
    fanout.environment = {f"ELASTICREC_TLS_{name}": given[f"ELASTICREC_TLS_{name}"] for name in names}
    with pytest.raises(BackendError, match=message), fanout.running():
        pass


def test_broken_settings_are_told(backend: Backend, tmp_path: Path) -> None:
    """Cut at any place, or with a number that is out of bounds."""
    fanout = make(backend, tmp_path, [], [])
    fanout.write()
    path = tmp_path / "1/fanout.json"
    whole = path.read_text()
    document = json.loads(whole)
    services = document["services"]
    texts = [whole[:size] for size in range(0, len(whole) - 2, 7)]
    for change in (
        {"widths": []},
        {"widths": [0]},
        {"widths": [4, 4]},
        {"widths": [2**24 + 1]},
        {"widths": [3]},
        {"services": services[:1]},
        {"services": [*services, services[0]]},
        {"services": [services[0], {**services[1], "groups": []}]},
        {"services": [services[0], {**services[1], "groups": 2 * services[1]["groups"]}]},
        *(
            {"services": [services[0], {**services[1], "groups": [{**services[1]["groups"][0], **change}]}]}
            for change in (
                {"group": 1},
                {"width": 0},
                {"width": 3},
                {"pieces": []},
                {"dims": []},
                {"dims": [0]},
                {"dims": [3]},
                {"dims": [2, 2]},
                {"pieces": [{"from": 0, "to": 0, "columns": 3}, {"from": 3, "to": 3, "columns": 1}]},
                {"pieces": [{"from": 2, "to": 2, "columns": 2}, {"from": 0, "to": 0, "columns": 2}]},
                {"pieces": [{"from": 0, "to": 0, "columns": 2}]},
                *(
                    {"pieces": [{"from": 0, "to": 0, "columns": 2}, {"from": 2, "to": 2, "columns": 2, **piece}]}
                    for piece in ({"from": 3}, {"from": -1}, {"to": 3}, {"to": 4}, {"columns": 3}, {"columns": 0})
                ),
            )
        ),
    ):
        texts.append(json.dumps({**document, **change}))
    fanout.write = lambda: None
    for text in texts:
        path.write_text(text)
        with pytest.raises(BackendError, match=r"fanout\.json"), fanout.running():
            pass
