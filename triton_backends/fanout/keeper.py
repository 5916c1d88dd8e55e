"""Knows the replicas of all services: follows the address file and DNS, and probes what is not ready."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Iterable, Mapping

from triton_backends.fanout.addresses import AddressFile, Endpoint, Endpoints
from triton_backends.fanout.channels import Tls, open_channel
from triton_backends.fanout.remote import Log, RemoteService, Replica

TICK_S = 0.25
RESOLVE_S = 2.0  # how long a new pod may stay unknown


class Keeper:
    """Lives in the event loop's thread; `tick` is called every TICK_S.

    drain_s: how long a replica that left the list may still answer what it was asked.
    """

    def __init__(
        self, services: Mapping[str, RemoteService], file: AddressFile, tls: Tls | None, drain_s: float, log: Log
    ) -> None:
        self._services = services
        self._file = file
        self._tls = tls
        self._drain_s = drain_s
        self._log = log
        self._endpoints: Endpoints = {}
        self._resolved_at = float("-inf")
        self._unresolved: set[str] = set()  # hosts whose failure was told
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Read the addresses for the first time. Raises ValueError where the file is missing or wrong."""
        self._endpoints = self._file.changed() or {}
        await self._resolve()

    async def tick(self) -> None:
        """Look for changes and for replicas that are back."""
        try:
            changed = self._file.changed()
        except ValueError as exc:
            self._log(f"{exc}; the former addresses stay in use")
            changed = None
        if changed is not None:
            self._endpoints = changed
        if changed is not None or asyncio.get_running_loop().time() - self._resolved_at > RESOLVE_S:
            await self._resolve()
        for service in self._services.values():
            for replica in service.replicas.members:
                if not replica.ready and not replica.probing:
                    self._spawn(service.probe(replica))

    async def close(self) -> None:
        """Close all channels."""
        for task in self._tasks:
            task.cancel()
        for service in self._services.values():
            for replica in service.replicas.members:
                await replica.channel.close()

    async def _resolve(self) -> None:
        self._resolved_at = asyncio.get_running_loop().time()
        for name, endpoints in self._endpoints.items():
            found: dict[str, tuple[Endpoint, str]] = {}  # by address: the endpoint, and the host it was known by
            for endpoint in endpoints:
                for each in await self._addresses(endpoint):
                    found[str(each)] = (each, endpoint.host)
            if found or not endpoints:
                self._set_replicas(self._services[name], found)

    async def _addresses(self, endpoint: Endpoint) -> Iterable[Endpoint]:
        """What DNS says of an endpoint now; nothing where it says nothing, and the former replicas then stay."""
        if not endpoint.resolve:
            return [endpoint]
        try:
            answers = await asyncio.get_running_loop().getaddrinfo(
                endpoint.host, endpoint.port, type=socket.SOCK_STREAM
            )
        except OSError as exc:
            if endpoint.host not in self._unresolved:
                self._log(f"{endpoint.host}: cannot be resolved: {exc}; the former addresses stay in use")
            self._unresolved.add(endpoint.host)
            return []
        self._unresolved.discard(endpoint.host)
        return [Endpoint(str(answer[4][0]), endpoint.port) for answer in answers]

    def _set_replicas(self, service: RemoteService, found: Mapping[str, tuple[Endpoint, str]]) -> None:
        kept = {replica.address: replica for replica in service.replicas.members}
        if kept.keys() == found.keys():
            return
        for address in found.keys() - kept.keys():
            kept[address] = Replica(address, open_channel(*found[address], self._tls))
            self._spawn(service.probe(kept[address]))
        for address in kept.keys() - found.keys():
            self._spawn(self._drain(kept.pop(address)))
        service.replicas.replace(kept[address] for address in sorted(kept))
        self._log(f"service {service.name}: replicas {', '.join(sorted(kept)) or 'none'}")

    async def _drain(self, replica: Replica) -> None:
        await replica.channel.close(grace=self._drain_s)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
