"""Half an hour of traffic at 70% of what the server was found to hold: nothing fails, and nothing grows.

    make soak                     # 30 minutes a shard backend
    make soak MINUTES=5           # or ELASTICREC_SOAK_MINUTES=5 pytest -m soak

The records, which `elasticrec report` shows, go to ELASTICREC_SOAK_RUNS, a folder, where it is set.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import tritonclient.http

from loadtest.clients import SenderSettings
from loadtest.open_loop import Answer, send
from loadtest.perf_run import highest_rate, within
from loadtest.run import Run, read_run, write_run
from repo_builder.access.load import load_hotness
from repo_builder.access.queries import draw_queries
from repo_builder.export.dlrm.source import open_source
from repo_builder.machine import machine_facts
from repo_builder.partition.cost import Profile, ServiceTime
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.serving.install import installation
from repo_builder.serving.processes import memory_by_model
from repo_builder.serving.server import Server, free_ports, running, stubs
from repo_builder.spec import Spec, load_spec
from tests.partition.helpers import DENSE_TIME
from tests.soak.traffic import SAMPLE_S, point, samples
from tests.soak.watch import Held, grown, held, pss_slope, watching

MINUTES = float(os.environ.get("ELASTICREC_SOAK_MINUTES", "30"))
SHARE = 0.7
WARM_UP = 0.2  # of the time, more, at the same rate before anything is compared
GUESS_QPS, PROBE_S = 200, 6
FLOOD, FLOOD_S = 5, 1  # times the found rate: as many queries under way as the sender can have
MOST_FLOODS = 12
SETTLED_S = 2
QUERIES = 256
EXAMPLE = Path(__file__).parents[2] / "examples/rm1.yaml"

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(75 * MINUTES + 900)]


@dataclass(frozen=True)
class Soaked:
    """A served model, and a workload with the scores that PyTorch gives it."""

    spec: Spec
    server: Server
    workload: Path
    backend: str


@pytest.fixture(params=["python", "native"])
def soaked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Soaked]:
    spec = load_spec(EXAMPLE)
    spec = replace(spec, serving=replace(spec.serving, target_qps=800))
    weights, hotness = open_source(spec), load_hotness(spec)
    profile = Profile("40 MB a service", ServiceTime(5e-4, 5e-8), 40_000_000, DENSE_TIME)
    plan = make_plan(spec, hotness, profile, "tiered", 4)
    build(spec, plan, hotness, weights, tmp_path / "rm1", shard_backend=request.param)
    queries = draw_queries(spec.model, hotness, QUERIES, spec.serving.batch, seed=0)
    scores = weights.answers(queries.inputs)["score"].reshape(QUERIES, spec.serving.batch, 1)
    (tmp_path / "workload.npz").write_bytes(replace(queries, expected={"score": scores}).to_bytes())
    log = tmp_path / "server.log"
    with installation() as installed, running(installed, tmp_path / "rm1", free_ports(), log) as server:
        yield Soaked(spec, server, tmp_path / "workload.npz", request.param)


def test_it_holds_and_nothing_grows(soaked: Soaked, tmp_path: Path) -> None:
    server, spec, seconds = soaked.server, soaked.spec, 60 * MINUTES
    processes = [psutil.Process(server.process.pid), *stubs(server)]
    tensors = (spec.model.inputs, spec.model.outputs)
    load = SenderSettings("grpc", server.grpc, spec.name, str(soaked.workload), spec.serving.batch, 30, 0, *tensors)
    found_qps = found_rate(load, spec.serving.sla_ms)
    flooded(load, FLOOD * found_qps, processes, server.regions)
    send(load, SHARE * found_qps, WARM_UP * seconds)
    before = at_rest(processes, server.regions)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with watching(lambda time_s: held(processes, server.regions, time_s), SAMPLE_S / 2) as seen:
        answers = send(load, SHARE * found_qps, seconds)
    after = at_rest(processes, server.regions)
    run = record(soaked, started, found_qps, answers, seen)
    path = Path(os.environ.get("ELASTICREC_SOAK_RUNS", tmp_path)) / f"soak-{soaked.backend}.json"
    write_run(path, run)
    assert read_run(path) == run
    tell(run, seen, before, after)
    assert [answer.problem for answer in answers if answer.problem] == []
    assert len(answers) == pytest.approx(SHARE * found_qps * seconds, rel=0.1)
    assert grown(before, after) == []
    assert {process.pid for process in processes} == {server.process.pid, *(stub.pid for stub in stubs(server))}


def flooded(load: SenderSettings, qps: float, processes: Sequence[psutil.Process], prefix: str) -> None:
    """Flood the server until one more flood does not make it grow."""
    before = at_rest(processes, prefix)
    for _ in range(MOST_FLOODS):
        assert [answer.problem for answer in send(load, qps, FLOOD_S) if answer.problem] == []
        after = at_rest(processes, prefix)
        if after.pss_bytes - before.pss_bytes < 2**20 and after.region_bytes == before.region_bytes:
            return
        before = after
    raise AssertionError(f"it still grows after {MOST_FLOODS} floods: {before}")


def at_rest(processes: Sequence[psutil.Process], prefix: str) -> Held:
    """What is held when no query is under way."""
    time.sleep(SETTLED_S)
    return held(processes, prefix, 0.0)


def found_rate(load: SenderSettings, sla_ms: float) -> float:
    """The highest rate that this very sender gets answered within the SLA: it takes its own share of the machine."""

    def holds(qps: float) -> bool:
        return within(point(send(load, qps, PROBE_S), qps, PROBE_S), sla_ms, 95)

    found_qps = highest_rate(holds, GUESS_QPS, precision=0.1)
    assert found_qps
    return found_qps


def record(soaked: Soaked, started: str, found_qps: float, answers: Sequence[Answer], seen: Sequence[Held]) -> Run:
    """What a report shows of the run."""
    spec, qps = soaked.spec, SHARE * found_qps
    with tritonclient.http.InferenceServerClient(soaked.server.http) as client:
        version = str(client.get_server_metadata()["version"])
    return Run(
        title=f"soak, {soaked.backend} shards",
        tool="locust",  # whose open-loop sender it is
        started=started,
        command=("make", "soak", f"MINUTES={MINUTES:g}"),
        model=spec.name,
        layout="single",
        batch=spec.serving.batch,
        sla_ms=spec.serving.sla_ms,
        percentile=95,
        machine=machine_facts(version),
        complete=True,
        points=(point(answers, qps, 60 * MINUTES),),
        timeline=samples(answers, qps, {int(each.time_s / SAMPLE_S): each.pss_bytes for each in seen}),
        memory_bytes=dict(memory_by_model(soaked.server.process.pid)),
        found_qps=found_qps,
    )


def tell(run: Run, seen: Sequence[Held], before: Held, after: Held) -> None:
    """Print the figures, for whoever runs it by hand."""
    whole = run.points[0]
    lines = (
        f"{run.title}: {whole.queries:,} queries, {whole.load:.0f} of {run.found_qps:.0f} queries/s, "
        f"p50 {whole.p50_ms:.2f} ms, p99 {whole.p99_ms:.2f} ms, {whole.errors} errors",
        f"PSS {after.pss_bytes / 2**20:.1f} MiB, {pss_slope(seen) / 2**20:+.1f} MiB an hour while it ran",
        f"at rest before {before}",
        f"at rest after  {after}",
    )
    print("", *lines, sep="\n")  # noqa: T201 - the figures are for who runs it by hand
