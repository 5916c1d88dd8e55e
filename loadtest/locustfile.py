"""The file for locust: options, what to send, and the traffic's shape.

    locust -f loadtest/locustfile.py --repository DIR --headless -u 20 -t 60s GrpcUser
    locust -f loadtest/locustfile.py --repository DIR --traffic steps:50,100,200@60 --headless GrpcUser
    locust -f loadtest/locustfile.py --repository DIR --processes 4 --headless -u 400 -t 60s GrpcUser

A user is a source of `--queries-per-user` queries per second: users times that is the traffic, however slow the server,
and however many processes share it. Of workers on other machines (`--worker --master-host HOST`) only locust's own
options count: what they send is the master's, the workload at the same path.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import gevent
import psutil
from locust import LoadTestShape, events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner
from locust.util.timespan import parse_timespan

from loadtest.clients import Protocol, SenderSettings
from loadtest.distributed import Master, Worker, record_reports
from loadtest.queries import load_queries
from loadtest.recording import Recorder, RunRecorder
from loadtest.run import Run
from loadtest.servers import Servers, behind
from loadtest.service_rows import service_rows
from loadtest.target import check_server
from loadtest.users import GrpcUser, HttpUser, SenderProcess
from repo_builder.errors import ElasticRecError, InputError
from repo_builder.machine import machine_facts
from repo_builder.profiling.perf_analyzer import LoadTestError
from repo_builder.repository.manifest import QUERIES, load_manifest
from repo_builder.traffic import FORMS, parse_traffic

__all__ = ["GrpcUser", "HttpUser"]
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Our options beside locust's own."""
    if any(word.startswith("--processes") for word in sys.argv):  # workers of this machine: nobody else need reach us
        parser.set_defaults(master_bind_host="127.0.0.1")
    group = parser.add_argument_group("elasticrec")
    group.add_argument("--repository", metavar="DIR", default="", help="the served repository (needed)")
    group.add_argument("--workload", metavar="FILE", default="", help="queries from elasticrec workload")
    where = "servers that take queries in turn, commas between (default: %s, of a running fleet all its front ends)"
    group.add_argument("--grpc-url", metavar="HOST:PORT", default="", help=where % "127.0.0.1:8001")
    group.add_argument("--http-url", metavar="HOST:PORT", default="", help=where % "127.0.0.1:8000")
    group.add_argument("--queries-per-user", metavar="QPS", type=float, default=10.0, help="(default: %(default)s)")
    group.add_argument("--timeout", metavar="S", type=float, default=10.0, help="of a query (default: %(default)s)")
    group.add_argument("--seed", metavar="N", type=int, default=0, help="of the arrivals (default: %(default)s)")
    group.add_argument("--record", metavar="FILE", default="", help="a run for a report (.json), or every query (.csv)")
    group.add_argument("--traffic", metavar="SHAPE", default="", help=FORMS)


def prepare(environment: Environment, **_: Any) -> None:
    """Read what to send, and start what sends it, before any clock runs; a mistake ends locust with one line."""
    options: Any = environment.parsed_options
    gevent.signal_handler(signal.SIGINT, _interrupt)
    if isinstance(environment.runner, WorkerRunner):
        Worker(environment, environment.runner)
        return
    try:
        _prepare(environment, options)
    except (ElasticRecError, OSError) as exc:
        _end_workers(environment.runner)
        _give_up(exc)
    except KeyboardInterrupt:
        _end_workers(environment.runner)
        _give_up(LoadTestError("interrupted before the run began"))


def _prepare(environment: Environment, options: Any) -> None:
    """What sends the queries: a process for each protocol, of a master's workers each one of its own."""
    loads, servers = _loads(options)
    users = [user for user in (GrpcUser, HttpUser) if user in environment.user_classes]
    sent: dict[Protocol, SenderSettings] = {user.protocol: loads[user.protocol] for user in users}
    runner = environment.runner
    if not isinstance(runner, MasterRunner):
        for user in users:
            user.source.set(SenderProcess(environment, sent[user.protocol]))
    found = {_check(load) for load in sent.values()}  # late: who has used gRPC must not fork under gevent
    if options.record:
        recorder = _recorder(options, servers, ", ".join(sorted(found)))
        recorder.listen(environment)
        record_reports(environment, recorder.record)
    if isinstance(runner, MasterRunner):
        master = Master(environment, runner, sent)
        if options.headless:
            master.wait(options.expect_workers, options.expect_workers_max_wait)


def _end_workers(runner: object) -> None:
    """A master that gives up takes its workers along: locust would leave those behind that it has forked."""
    if isinstance(runner, MasterRunner):
        runner.quit()  # reaches those that have connected
        for worker in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself
                worker.terminate()


def _interrupt() -> None:
    """Ctrl-C reaches locust's main greenlet; not whatever runs just then, which would die of it with a traceback."""
    gevent.get_hub().handle_system_error(KeyboardInterrupt, KeyboardInterrupt())


def _check(load: SenderSettings) -> str:
    """The version of the servers; raises LoadTestError as `check_server` does."""
    versions = {check_server(load.protocol, address, load.model) for address in load.address.split(",")}
    return ", ".join(sorted(versions))


def _recorder(options: Any, servers: Servers, version: str) -> Recorder | RunRecorder:
    """A run for a report where the file's name ends in .json, else a CSV."""
    path = Path(options.record)
    if path.suffix != ".json":
        return Recorder(path)
    manifest = load_manifest(Path(options.repository))
    run = Run(
        title=f"{manifest.name}, {manifest.layout}, locust",
        tool="locust",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=("locust", *sys.argv[1:]),
        model=manifest.name,
        layout=manifest.layout,
        batch=manifest.batch,
        sla_ms=manifest.sla_ms,
        percentile=95,
        machine=machine_facts(version),
        rows=service_rows(Path(options.repository), manifest),
        score_error=manifest.proof.score_error if manifest.proof else None,
    )
    return RunRecorder(path, run, servers, _expected_s(options))


def _expected_s(options: Any) -> float | None:
    """How long the run is to be: locust's own --run-time, else the traffic's end; None where neither ends it."""
    if options.run_time:
        run_time = options.run_time
        return float(run_time if isinstance(run_time, int) else parse_timespan(run_time))
    end_s = getattr(parse_traffic(options.traffic), "end_s", math.inf) if options.traffic else math.inf
    return end_s if math.isfinite(end_s) else None


def _give_up(error: Exception) -> NoReturn:
    sys.stderr.write(f"elasticrec: {error}\n")
    raise SystemExit(2) from error


def _loads(options: Any) -> tuple[dict[Protocol, SenderSettings], Servers]:
    """What to send by each protocol, and the servers behind."""
    if not options.repository:
        raise InputError("--repository: expected the folder of the served repository, got none")
    if not options.queries_per_user > 0:
        raise InputError(f"--queries-per-user: expected more than 0, got {options.queries_per_user}")
    manifest = load_manifest(Path(options.repository))
    workload = Path(options.workload or Path(options.repository) / QUERIES)
    tensors = (manifest.inputs, manifest.outputs)
    load_queries(workload, manifest.batch, *tensors)  # what is wrong is told here and not by the sending process
    repository, given = Path(options.repository), {"grpc": options.grpc_url, "http": options.http_url}
    found: dict[Protocol, tuple[str, Servers]] = {
        protocol: behind(repository, manifest, protocol, given[protocol]) for protocol in PROTOCOLS
    }
    loads = {
        protocol: SenderSettings(
            protocol, address, manifest.name, str(workload), manifest.batch, options.timeout, options.seed, *tensors
        )
        for protocol, (address, _) in found.items()
    }
    return loads, found["grpc" if options.grpc_url or not options.http_url else "http"][1]


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(prepare)


def _traffic_option() -> tuple[str, float]:
    """`--traffic` and `--queries-per-user` as given: locust wants the shape's class before it parses its options."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--traffic", default="")
    parser.add_argument("--queries-per-user", type=float, default=10.0)
    known, _ = parser.parse_known_args()
    return known.traffic, known.queries_per_user


_text, _queries_per_user = _traffic_option()
if _text:
    try:
        _traffic = parse_traffic(_text)
    except InputError as exc:
        _give_up(exc)

    class TrafficShape(LoadTestShape):
        """Starts and stops users so that they make the traffic of `--traffic`; its end is the run's."""

        def tick(self) -> tuple[int, float] | None:
            """Users now, and how fast to start or stop them (at once)."""
            qps = _traffic.at(self.get_run_time())
            return None if qps is None else (math.ceil(qps / _queries_per_user), 1000.0)
