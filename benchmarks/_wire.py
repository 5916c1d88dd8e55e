"""Counting the bytes that cross a TCP connection: a proxy that passes them on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_CHUNK_BYTES = 1 << 16


@dataclass
class Wire:
    """Where to connect to instead, and the bytes that crossed so far, both ways, TCP's own headers not counted."""

    address: str
    crossed_bytes: int = 0


@contextmanager
def counting(target: str) -> Iterator[Wire]:
    """A proxy to `host:port` on this machine, while the block runs."""
    listener = socket.create_server(("127.0.0.1", 0))
    wire = Wire(f"127.0.0.1:{listener.getsockname()[1]}")
    lock, opened = threading.Lock(), [listener]

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                with lock:
                    wire.crossed_bytes += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        host, port = target.rsplit(":", 1)
        with suppress(OSError):  # the listener is closed at the end
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                opened.extend((client, server))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield wire
    finally:
        for each in opened:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for it
            each.close()
