"""Faults of what surrounds a server: a network that is slow or cut, a /dev/shm that is full."""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from repo_builder.serving.install import Installation
from repo_builder.serving.server import Server

CLONE_NEWNET = 0x40000000
MAC = "02:00:00:00:00:02"


class Delay:
    """A TCP proxy on the loopback address whose answers come `delay_s` later than the server's."""

    def __init__(self, server: str) -> None:
        self.delay_s = 0.0
        self.address = ""
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))

    async def run(self, told: Callable[[Callable[[], None]], None]) -> None:
        """Pass on until the function that `told` is given is called; `address` is known by then."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._connect, "127.0.0.1", 0) as listener:
            self.address = "{}:{}".format(*listener.sockets[0].getsockname())
            told(lambda: loop.call_soon_threadsafe(stop.set))
            await stop.wait()

    async def _connect(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        server, requests = await asyncio.open_connection(*self._server)
        await asyncio.gather(self._pump(client, requests, late=False), self._pump(server, answers, late=True))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, late: bool) -> None:
        try:
            while data := await source.read(1 << 16):
                asyncio.get_running_loop().call_later(self.delay_s if late else 0, sink.write, data)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            sink.close()


@contextmanager
def delay(server: str) -> Iterator[Delay]:
    """A proxy to the server at `host:port` while the block runs."""
    proxy, stops = Delay(server), queue.Queue[Callable[[], None]]()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.run(stops.put)))
    thread.start()
    stop = stops.get(timeout=5)
    try:
        yield proxy
    finally:
        stop()
        thread.join()


@dataclass(frozen=True)
class Cable:
    """A network namespace at the other end of a cable; `host` is its address."""

    namespace: str
    link: str
    host: str

    def cut(self) -> None:
        """Nothing passes, and nobody is told."""
        ip("-n", self.namespace, "link", "set", self.link, "down")

    def mend(self) -> None:
        """As before."""
        ip("-n", self.namespace, "link", "set", self.link, "up")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it starts, belong to the namespace while the block runs."""
        with Path("/proc/thread-self/ns/net").open() as home, Path(f"/run/netns/{self.namespace}").open() as there:
            setns(there.fileno())
            try:
                yield
            finally:
                setns(home.fileno())


def setns(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def cable() -> Iterator[Cable]:
    """A namespace that this machine reaches by a veth pair; skips the test where none can be made."""
    name, here, there = f"elasticrec-{os.getpid()}", f"er{os.getpid()}h", f"er{os.getpid()}t"
    net, first = f"198.18.{random.randrange(256)}", 4 * random.randrange(64)  # of the addresses kept for such tests
    near, far = f"{net}.{first + 1}", f"{net}.{first + 2}"
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"no network namespace can be made (it takes root and iproute2): {getattr(exc, 'stderr', exc)}")
    try:
        ip("link", "add", here, "type", "veth", "peer", "name", there, "address", MAC, "netns", name)
        ip("addr", "add", f"{near}/30", "dev", here)
        ip("-n", name, "addr", "add", f"{far}/30", "dev", there)
        ip("link", "set", here, "up")
        ip("neigh", "replace", far, "lladdr", MAC, "dev", here)  # else the sender would learn that nobody is there
        for link in ("lo", there):
            ip("-n", name, "link", "set", link, "up")
        yield Cable(name, there, far)
    finally:
        ip("netns", "del", name)


@dataclass(frozen=True)
class Shm:
    """A server's own /dev/shm."""

    server: Server

    def fill(self) -> None:
        """To the last byte."""
        self._run("dd if=/dev/zero of=/dev/shm/filler bs=4k || test $(stat -f -c %f /dev/shm) = 0")

    def free(self) -> None:
        """What `fill` took."""
        self._run("rm /dev/shm/filler")

    def _run(self, script: str) -> None:
        inside = ["nsenter", f"--mount=/proc/{self.server.process.pid}/ns/mnt"]
        subprocess.run([*inside, "sh", "-c", script], check=True, capture_output=True)


def with_own_shm(installed: Installation, folder: Path, size_kib: int) -> Installation:
    """A tritonserver that sees a /dev/shm of its own, of this size; skips the test where none can be mounted."""
    mounted = f'mount -t tmpfs -o size={size_kib}k tmpfs /dev/shm && exec "$@"'
    tried = subprocess.run(["unshare", "--mount", "sh", "-c", mounted, "sh", "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no private /dev/shm can be mounted (it takes root): {tried.stderr}")
    script = folder / f"tritonserver-{size_kib}k"
    script.write_text(f"#!/bin/sh\nexec unshare --mount sh -c '{mounted}' sh '{installed.binary}' \"$@\"\n")
    script.chmod(0o755)
    return replace(installed, binary=script)
