"""The router's event loop, in a thread of its own: Triton's thread hands queries over and is free for the next."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from triton_backends.fanout.addresses import AddressFile
from triton_backends.fanout.channels import Tls
from triton_backends.fanout.counters import Counters
from triton_backends.fanout.fanout import FanOut, Query
from triton_backends.fanout.keeper import TICK_S, Keeper
from triton_backends.fanout.messages import probe_request
from triton_backends.fanout.remote import Log, RemoteService
from triton_backends.fanout.settings import Settings

TELL_S = 1.0  # between two tellings of the counters
Increment = Callable[[str, Mapping[str, str], float], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A query's sums, (rows, tables * dim) float32, and whether an embedding service's are missing from them."""

    sums: NDArray[np.float32]
    degraded: bool


@dataclass(frozen=True, slots=True)
class Task:
    """A query and what to do with its answer or error; `reply` is called once, in the engine's thread."""

    query: Query
    reply: Callable[[Answer | Exception], None]


class Engine:
    """Runs the fan-out from `start` to `stop`.

    increment: told the growth of each counter, in a thread of its own; log: told what an operator should know.
    """

    def __init__(
        self, settings: Settings, addresses: Path, tls: Tls | None, counters: Counters, increment: Increment, log: Log
    ) -> None:
        self._counters = counters
        self._increment = increment
        self._log = log
        self._services = {
            service.name: RemoteService(
                service.name,
                probe_request(settings.remote_model(service), settings.version, len(service.tables)),
                settings.hedge_quantile,
                counters,
                log,
            )
            for service in settings.services
        }
        self._fanout = FanOut(settings, self._services, counters)
        file = AddressFile(addresses, [service.name for service in settings.services])
        self._keeper = Keeper(self._services, file, tls, settings.deadline_ms / 1000, log)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="elasticrec-fanout", daemon=True)
        self._keeping: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    def start(self, wait_s: float) -> None:
        """Connect, and wait so long at most until each service has a replica that answers.

        Raises ValueError where the address file is missing or wrong.
        """
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        until = time.monotonic() + wait_s
        while time.monotonic() < until and self.unready:
            time.sleep(0.02)
        if self.unready:
            self._log(f"no replica answers yet: {', '.join(self.unready)}")

    @property
    def unready(self) -> Sequence[str]:
        """The services of which no replica answers."""
        return [name for name, service in self._services.items() if not service.ready]

    def submit(self, tasks: Sequence[Task]) -> None:
        """Answer these queries, together; returns at once."""
        self._loop.call_soon_threadsafe(self._begin, tasks)

    def stop(self) -> None:
        """Close the channels and end the thread; queries under way are dropped."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        await self._keeper.start()
        self._keeping = asyncio.ensure_future(self._keep())

    async def _stop(self) -> None:
        for task in (self._keeping, *self._under_way):
            if task:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._keeper.close()
        self._counters.tell(self._increment)

    def _begin(self, tasks: Sequence[Task]) -> None:
        work = self._loop.create_task(self._answer(tasks))
        self._under_way.add(work)
        work.add_done_callback(self._under_way.discard)

    async def _answer(self, tasks: Sequence[Task]) -> None:
        try:
            sums = await self._fanout.sums([task.query for task in tasks])
        except Exception as exc:  # noqa: BLE001 - the one guard: each query gets an answer, and the loop goes on
            for task in tasks:
                self._reply(task, exc)
            return
        for name in sums.missing:
            self._counters.add("elasticrec_degraded_queries_total", len(tasks), service=name)
        begin = 0
        for task in tasks:
            end = begin + task.query.rows
            self._reply(task, Answer(sums.values[begin:end], bool(sums.missing)))
            begin = end

    def _reply(self, task: Task, answer: Answer | Exception) -> None:
        try:
            task.reply(answer)
        except Exception as exc:  # noqa: BLE001 - the others must have their answers
            self._log(f"a response could not be sent: {exc}")

    async def _keep(self) -> None:
        told_at = self._loop.time()
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self._keeper.tick()
                if self._loop.time() - told_at >= TELL_S:
                    told_at = self._loop.time()
                    await self._loop.run_in_executor(None, self._counters.tell, self._increment)
            except Exception as exc:  # noqa: BLE001 - keeping must go on, whatever a file or a name server does
                self._log(f"keeping the replicas: {exc!r}")
