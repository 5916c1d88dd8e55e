"""Queries to sums: one call to each embedding service that holds an id of theirs, all at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_backends.fanout.counters import Counters
from triton_backends.fanout.failures import CallFailedError
from triton_backends.fanout.messages import Part, infer_request, sums_of
from triton_backends.fanout.remote import RemoteService
from triton_backends.fanout.settings import RemoteShard, Settings


@dataclass(frozen=True, slots=True)
class Query:
    """A query's rows, and its ids by embedding service as `Router.route` sorts them."""

    rows: int
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums of all tables' bags, (rows, tables * dim) float32, and the services that they lack."""

    values: NDArray[np.float32]
    missing: tuple[str, ...]


class FanOut:
    """Asks the services for partial sums and adds them up, in the order of the services: the plan's."""

    def __init__(self, settings: Settings, remotes: Mapping[str, RemoteService], counters: Counters) -> None:
        self._settings = settings
        self._remotes = [remotes[service.name] for service in settings.services]
        self._counters = counters
        self._degrade = settings.missing_shard == "degrade"
        self._datatype = settings.sums_dtype.upper()

    async def sums(self, queries: Sequence[Query]) -> Sums:
        """The sums of several queries, their rows one query after another: a service is called once for all of them.

        Raises CallFailedError where a service gives no answer by the deadline and `missing_shard` is fail.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.deadline_ms / 1000
        rows = sum(query.rows for query in queries)
        calls: dict[int, asyncio.Future[bytes]] = {}
        missing = []
        for k, service in enumerate(self._settings.services):
            parts = [query.parts[k] for query in queries]
            if not any(ids.size for ids, _ in parts):
                self._counters.add("elasticrec_remote_skipped_total", service=service.name)
            elif self._degrade and not self._remotes[k].ready:
                missing.append(k)  # known to be gone: no reason to wait for the deadline
            else:
                request = infer_request(self._settings.remote_model(service), self._settings.version, parts)
                calls[k] = asyncio.ensure_future(self._remotes[k].call(request, deadline))
        try:
            missing += await self._missing(calls)
        finally:
            for call in calls.values():
                call.cancel()
        answers = {k: call.result() for k, call in calls.items() if k not in missing}
        names = tuple(self._settings.services[k].name for k in sorted(missing))
        return Sums(self._add_up(answers, rows), names)

    async def _missing(self, calls: Mapping[int, asyncio.Future[bytes]]) -> list[int]:
        """Wait for the calls; which of them failed, where that is allowed."""
        if not calls:
            return []
        if not self._degrade:
            done, _ = await asyncio.wait(calls.values(), return_when=asyncio.FIRST_EXCEPTION)
            errors = [error for call in done if (error := call.exception())]
            if errors:
                raise errors[0]
            return []
        await asyncio.wait(calls.values())
        return [k for k, call in calls.items() if _is_missing(call)]

    def _add_up(self, answers: Mapping[int, bytes], rows: int) -> NDArray[np.float32]:
        tables, dim = self._settings.tables, self._settings.dim
        total = np.zeros((rows, tables, dim), np.float32)
        for k, response in answers.items():
            service = self._settings.services[k]
            partial = sums_of(response, self._datatype, rows).reshape(rows, len(service.tables), dim)
            _add(total, service, partial)
        return total.reshape(rows, tables * dim)


def _is_missing(call: asyncio.Future[bytes]) -> bool:
    """Whether the service gave no answer; that it refused the call is no outage but a fault, and is raised."""
    error = call.exception()
    if error is None:
        return False
    if isinstance(error, CallFailedError) and error.verdict.set_aside:
        return True
    raise error


def _add(total: NDArray[np.float32], service: RemoteShard, partial: NDArray[Any]) -> None:
    first, last = service.tables[0], service.tables[-1]
    if last - first + 1 == len(service.tables):  # neighbours: a slice is faster than a list of places
        total[:, first : last + 1] += partial
    else:
        total[:, service.tables] += partial
