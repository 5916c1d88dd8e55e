"""What a listener reads into: a request that stays there is nobody else's, and TLS keeps nothing back."""

import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.certificates import Certificates
from tests.triton_backends.fake_triton import Backend
from tests.triton_backends.fanouts import eventually
from tests.triton_backends.listening import HELLO, REQUEST, infer_of, request
from tests.triton_backends.listening import listening as opened
from tests.triton_backends.test_fanout_frames import DATA, END_HEADERS, END_STREAM, HEADERS, frame, prefixed
from tests.triton_backends.test_native_shard import bags

PING = 6


def test_a_request_stays_as_it_came_though_what_came_behind_it_ends_its_connection(
    shard: Backend, tmp_path: Path
) -> None:
    """Pings whose answers wait: nghttp2 gives up at a thousand, mostly in the very read that has the request.

    `opened` says at its end whether a request has changed.
    """
    first, other = (prefixed(request(bags(seed, 450)).SerializeToString()) for seed in (1, 2))
    assert 8_192 < len(first) < 14_000  # it stays in a buffer of 32 KB, and 1,100 pings beside it
    calls = [frame(HEADERS, END_HEADERS, 1, REQUEST) + frame(DATA, END_STREAM, 1, body) for body in (first, other)]
    with opened(shard, tmp_path, None) as fresh:
        with fresh.channel() as channel:
            infer_of(channel)(request(bags(3, 1_000)))  # what is read into has 32 KB since
        for _ in range(8):
            with fresh.connect() as flooding, fresh.connect() as after, fresh.holding():
                for client in (flooding, after):
                    client.sendall(HELLO)
                flooding.sendall(calls[0] + frame(PING, 0, 0, bytes(8)) * 1_100)
                while flooding.recv(1 << 16):
                    pass
                assert fresh.holds(1)
                after.sendall(calls[1])
                eventually(partial(fresh.holds, 2))
            eventually(fresh.idle)


def test_nothing_of_a_long_record_is_kept_back_behind_short_ones(shard: Backend, tmp_path: Path) -> None:
    """All there at once, the long one at a turn's last read: no more comes that epoll could tell of."""
    certificates, query = Certificates(tmp_path / "pki"), bags(1, 480)
    body = prefixed(request(query).SerializeToString())
    call = frame(HEADERS, END_HEADERS, 1, REQUEST) + frame(DATA, END_STREAM, 1, body)
    with opened(shard, tmp_path, certificates) as fresh, fresh.connect_plainly() as client:
        client.settimeout(5)
        coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured = certificates.context(certificates).wrap_bio(coming, going, server_hostname="127.0.0.1")
        exchange(client, coming, going, secured.do_handshake)
        for record in (HELLO, *[frame(PING, 0, 0, bytes(8))] * 14, call):
            assert secured.write(record) == len(record)
        answers = b""
        while sums_bytes(query) > len(answers):
            answers += exchange(client, coming, going, partial(secured.read, 1 << 16))
        eventually(fresh.idle)


def exchange(client: socket.socket, coming: ssl.MemoryBIO, going: ssl.MemoryBIO, step: Callable[[], Any]) -> Any:
    """What a step of TLS gives, once all that it needs was sent and received."""
    while True:
        try:
            done = step()
        except ssl.SSLWantReadError:
            client.sendall(going.read())
            coming.write(client.recv(1 << 16))
            continue
        client.sendall(going.read())
        return done


def sums_bytes(query: dict[str, np.ndarray]) -> int:
    """Of the answer, at least."""
    return 16 * len(query["lengths"][0])
