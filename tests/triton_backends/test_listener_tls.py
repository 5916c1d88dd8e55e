"""TLS of the native shard's own port: who is let in, who keeps nobody waiting, and files that are renewed or wrong."""

import re
import signal
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization

from tests.certificates import Certificates
from tests.triton_backends.fake_triton import Backend, BackendError, Model
from tests.triton_backends.fanouts import eventually
from tests.triton_backends.listening import (
    HELLO,
    WHOLE,
    Listening,
    free_port,
    infer_of,
    listening,
    request,
    sums,
)
from tests.triton_backends.test_native_shard import bags, write


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("ours") / "pki")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of an authority that nobody here trusts."""
    return Certificates(tmp_path_factory.mktemp("theirs") / "pki")


@pytest.fixture(scope="module")
def secured(shard: Backend, ours: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with listening(shard, tmp_path_factory.mktemp("secured"), ours) as made:
        yield made


def check(listening: Listening, credentials: grpc.ChannelCredentials | None = None) -> None:
    """A new client's call is answered: by default one with the right certificate."""
    query = bags(7, 3)
    with channel(listening, credentials) if credentials else listening.channel() as opened:
        answer = infer_of(opened)(request(query), timeout=20)
    np.testing.assert_array_equal(sums(answer), listening.python.answer(query)["sums"])


def channel(listening: Listening, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """One that shares no connection with others."""
    address, options = f"127.0.0.1:{listening.port}", [("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, credentials, options)


def check_refused(listening: Listening, credentials: grpc.ChannelCredentials | None) -> None:
    with channel(listening, credentials) as opened, pytest.raises(grpc.RpcError) as caught:
        infer_of(opened)(request(bags(7, 3)), timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("who", ["plain text", "no certificate", "another authority's certificate"])
def test_who_shows_no_certificate_of_ours_is_refused(
    secured: Listening, ours: Certificates, theirs: Certificates, who: str
) -> None:
    check_refused(
        secured,
        {
            "plain text": None,
            "no certificate": ours.credentials(None),
            "another authority's certificate": ours.credentials(theirs),
        }[who],
    )
    check(secured)


def test_why_somebody_was_refused_is_in_the_log(secured: Listening, ours: Certificates) -> None:
    def is_told() -> bool:
        check_refused(secured, ours.credentials(None))
        return bool(re.search(warning, secured.log))

    warning = "ELASTICREC_LISTEN: a client at 127.0.0.1: TLS: handshake: .*:peer did not return a certificate"
    eventually(is_told, 20)  # one warning a second


@pytest.mark.parametrize("protocols", [[], ["http/1.1"], ["http/1.1", "h2"]], ids=str)
def test_http2_is_agreed_on(secured: Listening, ours: Certificates, protocols: list[str]) -> None:
    context = ssl.create_default_context(cafile=ours.ca)
    context.load_cert_chain(ours.cert, ours.key)
    if protocols:
        context.set_alpn_protocols(protocols)
    agreed, answer = None, b""
    plain = secured.connect_plainly()
    with plain, suppress(OSError), context.wrap_socket(plain, server_hostname="127.0.0.1") as client:
        agreed = client.selected_alpn_protocol()
        client.sendall(HELLO)
        answer = client.recv(9)
    assert bool(answer) is (agreed == "h2") is ("h2" in protocols)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken_and_no_session_is_offered(
    secured: Listening, ours: Certificates, version: ssl.TLSVersion
) -> None:
    """Who comes again shows its certificate again. (`SSLSocket.session` would tell, but leaks what it tells of.)"""
    context, messages = ours.context(ours), dict[ssl._TLSMessageType, bytes]()
    context.minimum_version = context.maximum_version = version
    context._msg_callback = lambda _, direction, *about: direction == "read" and messages.update([about[-2:]])
    with context.wrap_socket(secured.connect_plainly(), server_hostname="127.0.0.1") as client:
        client.sendall(HELLO)
        assert client.recv(9)  # what the server says first stands behind any ticket
        assert client.version() == version.name.replace("v1_", "v1.")
    assert ssl._TLSMessageType.CERTIFICATE_REQUEST in messages
    assert ssl._TLSMessageType.NEWSESSION_TICKET not in messages
    if version is ssl.TLSVersion.TLSv1_2:
        assert messages[ssl._TLSMessageType.SERVER_HELLO][38] == 0  # the session's name has so many bytes


def client_hello(certificates: Certificates) -> bytes:
    """What a client sends first."""
    sent = ssl.MemoryBIO()
    client = certificates.context(certificates).wrap_bio(ssl.MemoryBIO(), sent, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


def is_open(client: socket.socket) -> bool:
    """Whatever was received before."""
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return False


def test_half_a_handshake_holds_nobody_up_and_is_dropped(secured: Listening, ours: Certificates) -> None:
    """Who says nothing, half of a greeting, or no more than that. Who is let in may be as silent afterwards."""
    hello = client_hello(ours)
    with secured.connect() as guest, ExitStack() as stack:
        strangers = [stack.enter_context(secured.connect_plainly()) for _ in range(90)]
        guest.sendall(HELLO)
        for stranger, said in zip(strangers, 30 * [b"", hello[: len(hello) // 2], hello], strict=True):
            stranger.sendall(said)
        check(secured)
        assert all(map(is_open, strangers))
        eventually(lambda: not any(map(is_open, strangers)), 30)
        guest.sendall(WHOLE)
        answer, expected = b"", secured.python.answer(bags(1, 2))["sums"].tobytes()
        while expected not in answer:
            received = guest.recv(65536)
            assert received
            answer += received


def test_the_oldest_stranger_makes_room_for_the_next(secured: Listening) -> None:
    """However many come, they take up no more than 1,024 places, and none of a guest's."""
    with secured.connect() as guest, ExitStack() as stack:
        strangers = [stack.enter_context(secured.connect_plainly()) for _ in range(1100)]
        eventually(lambda: list(map(is_open, strangers)) == 76 * [False] + 1024 * [True])
        check(secured)
        guest.sendall(HELLO)
        assert guest.recv(9)


def test_clients_that_are_gone_when_they_are_answered_raise_no_signal(secured: Listening, ours: Certificates) -> None:
    """SIGPIPE would end the server, whose threads need not have blocked it."""
    hello, raised = client_hello(ours), list[int]()
    before = signal.signal(signal.SIGPIPE, lambda number, _: raised.append(number))
    try:
        for _ in range(200):
            with secured.connect_plainly() as client:
                client.sendall(hello)
                client.shutdown(socket.SHUT_WR)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        check(secured)
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert not raised


def test_renewed_files_are_read_for_the_next_connection(shard: Backend, theirs: Certificates, tmp_path: Path) -> None:
    """Those that are wrong leave the former, and the log names them; who is connected stays so."""
    files, former = Certificates(tmp_path / "files"), Certificates(tmp_path / "former")
    former.replace(files)
    query = bags(3, 2)
    with listening(shard, tmp_path, files) as secured:
        check(secured)
        with channel(secured, former.credentials(former)) as connected:
            assert infer_of(connected)(request(query), timeout=20).model_name == "m"
            files.key.write_bytes(theirs.key.read_bytes())
            check(secured, former.credentials(former))
            eventually(lambda: f"TLS: {files.key}: " in secured.log)
            files.replace(theirs)
            check(secured, theirs.credentials(theirs))
            check_refused(secured, former.credentials(former))
            assert infer_of(connected)(request(query), timeout=20).model_name == "m"
            files.cert.unlink()
            check(secured, theirs.credentials(theirs))


def test_without_an_authority_a_server_shows_its_certificate_and_asks_for_none(
    shard: Backend, ours: Certificates, tmp_path: Path
) -> None:
    with listening(shard, tmp_path, ours, mutual=False) as secured:
        check(secured, ours.credentials(None))
        check_refused(secured, None)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("CA",), "expected ELASTICREC_LISTEN_CERT and ELASTICREC_LISTEN_KEY beside ELASTICREC_LISTEN_CA"),
        (("CA", "CERT"), "expected both ELASTICREC_LISTEN_CERT and ELASTICREC_LISTEN_KEY, or neither, got only one"),
        (("KEY",), "expected both ELASTICREC_LISTEN_CERT and ELASTICREC_LISTEN_KEY, or neither, got only one"),
    ],
)
def test_files_without_others_are_told(
    shard: Backend,
    ours: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parts: tuple[str, ...],
    message: str,
) -> None:
    check_not_loaded(shard, tmp_path, {f"ELASTICREC_LISTEN_{part}": "x" for part in parts}, monkeypatch, message)


def check_not_loaded(
    shard: Backend, folder: Path, environment: dict[str, str], patch: pytest.MonkeyPatch, message: str
) -> None:
    """And nobody listens: not in plain text either."""
    port = free_port()
    for name, value in {**environment, "ELASTICREC_LISTEN": f"127.0.0.1:{port}"}.items():
        patch.setenv(name, value)
    with pytest.raises(BackendError, match=re.escape(message)), Model(shard, write(folder)):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("part", ["CA", "CERT", "KEY"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense"], ids=["none", "empty", "nonsense"])
def test_a_file_that_cannot_be_used_is_named(
    shard: Backend,
    ours: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    content: bytes | None,
) -> None:
    wrong = tmp_path / "wrong.pem"
    if content is not None:
        wrong.write_bytes(content)
    environment = {**ours.listener, f"ELASTICREC_LISTEN_{part}": str(wrong)}
    check_not_loaded(shard, tmp_path, environment, monkeypatch, f"TLS: {wrong}: error:")


def test_a_key_of_another_certificate_is_named(
    shard: Backend, ours: Certificates, theirs: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**ours.listener, "ELASTICREC_LISTEN_KEY": str(theirs.key)}
    check_not_loaded(shard, tmp_path, environment, monkeypatch, f"TLS: {theirs.key}: error:")


def test_a_key_with_a_password_is_named(
    shard: Backend, ours: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = serialization.load_pem_private_key(ours.key.read_bytes(), None)
    form, locked = serialization.PrivateFormat.TraditionalOpenSSL, tmp_path / "locked.pem"
    sealed = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, sealed))
    environment = {**ours.listener, "ELASTICREC_LISTEN_KEY": str(locked)}
    check_not_loaded(shard, tmp_path, environment, monkeypatch, f"TLS: {locked}: error:")


def test_tls_variables_alone_open_no_port(
    shard: Backend, ours: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ours.listener.items():
        monkeypatch.setenv(name, value)
    with Model(shard, write(tmp_path)):
        pass
