"""Locust in several processes, of one machine or of several: the master decides what is sent and keeps the record.

Its users are shared out among the workers, each an open loop of its own: Poisson processes add up to one of the whole
rate. Their words, in this order: a worker ASKs; the master answers with its LOADS; the worker says that it is PREPARED,
or why not. Every report of locust's carries the queries since the last one. When a test is to stop, the master tells
the workers to FINISH, and waits until each has sent what was still to come, and has FINISHED.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gevent
import numpy as np
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.clients import Protocol, SenderSettings, settings_of
from loadtest.queries import load_queries
from loadtest.users import GrpcUser, HttpUser, SenderProcess
from repo_builder.errors import ElasticRecError
from repo_builder.profiling.perf_analyzer import LoadTestError
from repo_builder.words import count

ASK, LOADS, PREPARED = "elasticrec_ask", "elasticrec_loads", "elasticrec_prepared"
FINISH, FINISHED = "elasticrec_finish", "elasticrec_finished"
QUERIES = "elasticrec_queries"  # of a report: (due_unix_s, latency_ms, problem) each
POLL_S = 0.05
SPARE_S = 5.0  # beside a query's own timeout, for the workers' last words

Record = Callable[[float, float, Exception | None], None]


class Master:
    """Tells workers what to send, whenever they come, and waits for their last answers when a test is to stop."""

    def __init__(
        self, environment: Environment, runner: MasterRunner, loads: Mapping[Protocol, SenderSettings]
    ) -> None:
        self._runner, self._loads = runner, loads
        self._prepared: set[str] = set()
        self._finished: set[str] = set()
        self._problem: str | None = None
        runner.register_message(ASK, lambda msg, **_: self._tell(msg.node_id))
        runner.register_message(PREPARED, self._note_prepared)
        runner.register_message(FINISHED, lambda msg, **_: self._finished.add(msg.node_id))
        environment.events.test_stopping.add_listener(self._finish)
        for worker in list(runner.clients):  # those that asked before we listened
            self._tell(worker)

    def wait(self, workers: int, most_s: float) -> None:
        """Until so many can send; `most_s`: 0 for as long as it takes. Raises LoadTestError where one cannot."""
        since_s = time.monotonic()
        while len(self._prepared) < workers and self._problem is None:
            if most_s and time.monotonic() - since_s > most_s:
                raise LoadTestError(
                    f"expected {count(workers, 'worker')} within {most_s:g} s, got {len(self._prepared)}"
                )
            gevent.sleep(POLL_S)
        if self._problem is not None:
            raise LoadTestError(self._problem)

    def _tell(self, worker: str) -> None:
        """What to send, with arrivals of its own: the same seed would have all workers send at the same times."""
        index = self._runner.get_worker_index(worker)
        loads: dict[str, Any] = {
            protocol: asdict(replace(load, seed=_seed(load.seed, index))) for protocol, load in self._loads.items()
        }
        self._runner.send_message(LOADS, loads, worker)

    def _note_prepared(self, msg: Any, **_: Any) -> None:
        if msg.data["problem"] is None:
            self._prepared.add(msg.node_id)
        else:
            self._problem = f"worker {msg.node_id}: {msg.data['problem']}"

    def _finish(self, **_: Any) -> None:
        self._finished.clear()
        self._runner.send_message(FINISH)
        until_s = time.monotonic() + max(load.timeout_s for load in self._loads.values()) + SPARE_S
        while {worker.id for worker in self._active()} - self._finished and time.monotonic() < until_s:
            gevent.sleep(POLL_S)

    def _active(self) -> list[Any]:
        workers = self._runner.clients
        return [*workers.ready, *workers.spawning, *workers.running]


def record_reports(environment: Environment, record: Record) -> None:
    """Have the master record what workers report."""

    def read(data: Mapping[str, Any], **_: Any) -> None:
        for due_unix_s, latency_ms, problem in data.get(QUERIES, ()):
            record(due_unix_s, latency_ms, RuntimeError(problem) if problem else None)

    environment.events.worker_report.add_listener(read)


class Worker:
    """Sends what the master says, and reports every query of it, where the master records them."""

    def __init__(self, environment: Environment, runner: WorkerRunner) -> None:
        self._environment, self._runner = environment, runner
        self._sources: list[SenderProcess] = []
        self._queries: list[tuple[float, float, str]] = []
        runner.register_message(LOADS, self._prepare, concurrent=True)
        runner.register_message(FINISH, self._finish, concurrent=True)
        environment.events.request.add_listener(self._note)
        environment.events.report_to_master.add_listener(self._report)
        environment.events.quitting.add_listener(self._tell_rest)  # called in reverse: the sources have closed before
        runner.send_message(ASK)

    def _prepare(self, msg: Any, **_: Any) -> None:
        if self._sources:
            return  # told before it asked, and again when it did
        loads: dict[str, SenderSettings] = {protocol: settings_of(load) for protocol, load in msg.data.items()}
        try:
            for user in (GrpcUser, HttpUser):
                if user in self._environment.user_classes and user.protocol in loads:
                    load = loads[user.protocol]
                    # what is wrong with it goes to the master
                    load_queries(Path(load.workload), load.batch, load.inputs, load.outputs)
                    self._sources.append(SenderProcess(self._environment, load))
                    user.source.set(self._sources[-1])
        except (ElasticRecError, OSError) as exc:
            logging.getLogger(__name__).error("%s", exc)
            self._runner.send_message(PREPARED, {"problem": str(exc)})
            self._environment.process_exit_code = 2
            self._runner.quit()
        else:
            self._runner.send_message(PREPARED, {"problem": None})

    def _note(self, start_time: float, response_time: float, exception: Exception | None, **_: Any) -> None:
        options: Any = self._environment.parsed_options  # the master's, which came before the first user
        if options.record:
            self._queries.append((start_time, response_time, str(exception or "")))

    def _report(self, data: dict[str, Any], **_: Any) -> None:
        data[QUERIES], self._queries = self._queries, []

    def _finish(self, **_: Any) -> None:
        for source in self._sources:
            source.pause()
        self._tell_rest()
        self._runner.send_message(FINISHED)

    def _tell_rest(self, **_: Any) -> None:
        """A report before its time."""
        data: dict[str, Any] = {}
        self._environment.events.report_to_master.fire(client_id=self._runner.client_id, data=data)
        self._runner.send_message("stats", data)


def _seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
