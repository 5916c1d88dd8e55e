"""Every command with broken input, the same at every run: an exit code that is documented, a few lines, no traceback,
and nothing left where the output should be.

`ELASTICREC_FUZZ=20 pytest tests/test_fuzz.py` does twenty times as much; a failure names its case and its number.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from elasticrec.cli import main
from k8s.options import ManifestOptions, parse_source
from k8s.render import write
from loadtest.run import read_run, write_run
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.queries import draw_queries
from repo_builder.errors import InputError, ServerError
from repo_builder.partition.cost import load_profile
from repo_builder.partition.placement.cluster import load_cluster
from repo_builder.partition.plan import load_plan, plan_to_json
from repo_builder.repository.manifest import describe, load_manifest
from repo_builder.spec import load_spec
from tests import fuzzing
from tests.hand_models import RANKER, hand_spec
from tests.integration.models import document, make_repository
from tests.k8s.fleets import fleet
from tests.loadtest.runs import day, sweep

TIMES = int(os.environ.get("ELASTICREC_FUZZ", "1"))
DOCUMENTS = 40  # of each kind for its reader
MOST_CPU_S = 60.0  # of one run, however loaded the machine is
MOST_MEMORY_BYTES = 6 << 30
MOST_FILE_BYTES = 256 << 20
FREE_BYTES = 1 << 28  # what the commands are told that the machine has
DONE, BAD, FAILED = 0, 2, 1


@dataclass(frozen=True)
class Case:
    """A command, the file of `material` that is broken, and how."""

    words: tuple[str, ...]
    file: str = ""
    spoil: Callable[[Path, random.Random], None] = fuzzing.break_document
    codes: tuple[int, ...] = (DONE, BAD)
    runs: int = 6

    def __str__(self) -> str:
        return f"{self.words[0]} {self.file or 'options'}"


SERVERLESS = (DONE, BAD, FAILED)  # 1: no server answers
NPZ = fuzzing.break_npz
CASES = (
    Case(("plan", "spec.yaml", "-o", "out/plan.json"), "spec.yaml", runs=15),
    Case(("plan", "spec.yaml", "--profile", "profile.json", "-o", "out/plan.json"), "profile.json", runs=10),
    Case(("plan", "spec.yaml", "--cluster", "cluster.yaml", "-o", "out/plan.json"), "cluster.yaml", runs=10),
    Case(("plan", "counted.yaml", "-o", "out/plan.json"), "counts.npz", NPZ),
    Case(("plan", "traced.yaml", "-o", "out/plan.json"), "trace.npz", NPZ),
    Case(("plan", "spec.yaml", "-o", "out/plan.json"), runs=10),
    Case(("compare", "spec.yaml", "--cluster", "cluster.yaml", "-o", "out/c.json"), "spec.yaml", runs=4),
    Case(("compare", "spec.yaml", "--cluster", "cluster.yaml", "-o", "out/c.csv"), "cluster.yaml", runs=4),
    Case(("compare", "spec.yaml", "--cluster", "cluster.yaml", "-o", "out/c.json"), runs=4),
    Case(("simulate", "spec.yaml", "--traffic", "traffic.csv", "-o", "out/s.json"), "traffic.csv", fuzzing.break_csv),
    Case(("simulate", "spec.yaml", "--traffic", "traffic.csv", "-o", "out/s.csv"), "spec.yaml"),
    Case(("simulate", "spec.yaml", "--traffic", "traffic.csv", "-o", "out/s.csv")),
    Case(("build", "small.yaml", "-o", "out/repository"), "small.yaml", runs=6),
    Case(("build", "small.yaml", "--plan", "plan.json", "-o", "out/repository"), "plan.json", runs=5),
    Case(("build", "small.yaml", "-o", "out/repository"), runs=3),
    Case(("verify", "repository"), "repository/manifest.json", runs=15),
    Case(("query", "repository", "--url=127.0.0.1:9"), "repository/manifest.json", codes=SERVERLESS),
    Case(("query", "repository", "--url=127.0.0.1:9"), "repository/queries.npz", NPZ, codes=SERVERLESS),
    Case(("query", "repository"), codes=SERVERLESS),
    Case(("workload", "repository", "--queries", "3", "-o", "out/w.npz"), "repository/manifest.json"),
    Case(("workload", "repository", "--queries", "3", "--trace", "trace.npz", "-o", "out/w.npz"), "trace.npz", NPZ),
    Case(("workload", "repository", "--queries", "3", "--spec", "spec.yaml", "-o", "out/w.json"), "spec.yaml"),
    Case(("workload", "repository", "-o", "out/w.npz")),
    Case(("workload", "any", "--queries", "3", "-o", "out/w.npz"), "any/manifest.json", runs=20),
    Case(("query", "any", "--url=127.0.0.1:9"), "any/queries.npz", NPZ, codes=SERVERLESS),
    Case(
        ("loadtest", "perf", "repository", "--url=127.0.0.1:9", "-o", "out/r.json"),
        "repository/manifest.json",
        codes=SERVERLESS,
    ),
    Case(
        ("loadtest", "perf", "repository", "--url=127.0.0.1:9", "--workload=w.npz", "-o", "out/r.json"),
        "w.npz",
        NPZ,
        codes=SERVERLESS,
    ),
    Case(("loadtest", "perf", "repository", "-o", "out/r.json"), codes=SERVERLESS),
    Case(("report", "sweep.json", "day.json", "-o", "out/r.html", "--csv=out/r.csv"), "sweep.json", runs=10),
    Case(("report", "sweep.json", "day.json", "-o", "out/r.html", "--json=out/j.json"), "day.json", runs=10),
    Case(("k8s", "fleet", "-o", "out/k8s"), "fleet/manifest.json", runs=12),
    Case(("k8s", "fleet", "-o", "out/k8s"), "fleet/plan.json", runs=12),
    Case(("k8s", "fleet", "-o", "out/k8s"), runs=12),
    Case(("up", "fleet", "--autoscale", "rules"), "rules/rm1-tier0-scaledobject.yaml", codes=SERVERLESS, runs=12),
    Case(("up", "fleet"), codes=SERVERLESS),
    Case(("serve", "repository"), "repository/manifest.json", codes=SERVERLESS),
    Case(("serve", "repository"), codes=SERVERLESS),
    Case(("ps", "fleet"), codes=SERVERLESS, runs=2),
    Case(("logs", "fleet", "x"), codes=SERVERLESS, runs=2),
    Case(("down", "fleet"), "fleet/manifest.json", codes=SERVERLESS, runs=3),
    Case(("scale", "fleet", "tier0=2"), "fleet/manifest.json", codes=SERVERLESS, runs=3),
    Case(("profile", "spec.yaml", "-o", "out/p.json"), "spec.yaml", codes=SERVERLESS),
    Case(("profile", "spec.yaml", "-o", "out/p.json"), codes=SERVERLESS),
    Case(("demo", "-o", "out/demo"), codes=SERVERLESS, runs=8),
)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid files of every kind, small."""
    folder = tmp_path_factory.mktemp("material")
    spec, plan = make_repository(folder, "tiered")
    write(fleet(folder / "fleet"), ManifestOptions(parse_source("pvc:x")), folder / "rules")
    (folder / "plan.json").write_text(plan_to_json(plan))
    (folder / "any").mkdir()
    manifest = describe(hand_spec(RANKER, batch=8), "single", "0" * 64, "elasticrec 0", [])
    (folder / "any/manifest.json").write_text(manifest.to_json())
    queries = draw_queries(RANKER, PowerLawHotness(0.9, 0), 2, 8, seed=0)
    (folder / "any/queries.npz").write_bytes(queries.to_bytes())
    made = {**document(), "weights": {"source": "random", "seed": 1}}
    access = {"counted": {"source": "counts", "path": "counts.npz"}, "traced": {"source": "trace", "path": "trace.npz"}}
    (folder / "small.yaml").write_text(yaml.safe_dump(document()))
    (folder / "spec.yaml").write_text(yaml.safe_dump(made))
    for name, source in access.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**made, "access": source}))
    rng = np.random.default_rng(0)
    np.savez(folder / "counts.npz", **{table.name: rng.integers(1, 9, table.rows) for table in spec.dlrm.tables})
    ids = {table.name: rng.integers(0, table.rows, (40, table.pooling)) for table in spec.dlrm.tables}
    np.savez(folder / "trace.npz", **ids)
    dense, indices = rng.random((24, 5), np.float32), np.zeros((24, spec.dlrm.index_columns), np.int64)
    np.savez(folder / "w.npz", dense=dense, indices=indices)
    _copy_examples(folder)
    write_run(folder / "sweep.json", sweep("whole", "model-wise", 160, ("rm1", "rm1_dense"), "concurrency"))
    write_run(folder / "day.json", day())
    return folder


def _copy_examples(folder: Path) -> None:
    pools = [
        {"name": "cpu", "cores": 8, "memory_gb": 32, "price_per_hour": 0.4},
        {"name": "gpu", "count": 4, "cores": 8, "memory_gb": 32, "gpus": 1, "gpu_memory_gb": 16, "price_per_hour": 1.0},
    ]
    (folder / "cluster.yaml").write_text(yaml.safe_dump({"name": "c", "pools": pools, "spread": 0.5}))
    times = {"fixed_s": 1e-5, "per_row_s": 1e-6, "per_byte_s": 1e-9}
    profile = {
        "service_time": times,
        "dense_service_time": {"fixed_s": 1e-5, "per_flop_s": 1e-12},
        "min_memory_bytes": 10**7,
        "batching": {"call_s": 1e-5, "query_s": 1e-6, "queries": 2},
        "row_cache": {"size_bytes": 10**6, "per_row_s": 1e-8, "per_byte_s": 1e-10},
        "row_levels": [{"size_bytes": 10**5, "per_row_s": 1e-9, "per_byte_s": 1e-11}],
    }
    (folder / "profile.json").write_text(json.dumps(profile))
    (folder / "traffic.csv").write_text("seconds,qps\n0,100\n600,400\n1200,0\n1800,0\n")


@pytest.fixture(autouse=True)
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No server is started, little memory is free, and time, memory and files have an end."""

    def none_here(*_: object, **__: object) -> None:
        raise ServerError("no server here")

    monkeypatch.setattr("repo_builder.serving.install.installation", none_here)
    for name, stand_in in {
        "installation": contextlib.nullcontext,
        "verify": lambda *_: None,
        "find_prometheus": lambda: Path("/bin/true"),
        "Supervisor": none_here,
    }.items():
        monkeypatch.setattr(f"repo_builder.local_fleet.fleet.{name}", stand_in)
    monkeypatch.setattr("repo_builder.writing.sync_tree", lambda *_: None)  # nobody cuts the power here
    monkeypatch.setattr("repo_builder.profiling.measure.measure", none_here)
    monkeypatch.setattr("elasticrec.demo.run_demo", none_here)
    monkeypatch.setattr("repo_builder.machine.available_bytes", lambda: FREE_BYTES)
    monkeypatch.setattr("repo_builder.profiling.perf_analyzer.find", lambda: "perf_analyzer")

    def too_long(*_: object) -> None:
        raise AssertionError(f"more than {MOST_CPU_S:g} s of processor time")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = {
        resource.RLIMIT_AS: pages * resource.getpagesize() + MOST_MEMORY_BYTES,
        resource.RLIMIT_FSIZE: MOST_FILE_BYTES,
    }
    former = {limit: resource.getrlimit(limit) for limit in limits}
    former_handler = signal.signal(signal.SIGPROF, too_long)
    endings = {ending: signal.getsignal(ending) for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, former[limit][1]))
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    for limit, pair in former.items():
        resource.setrlimit(limit, pair)
    for ending, handler in {signal.SIGPROF: former_handler, **endings}.items():
        signal.signal(ending, handler)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_broken_input(case: Case, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [] if case.file else fuzzing.options_of(case.words[0])
    for number in range(case.runs * TIMES):
        folder = tmp_path / str(number)
        copy_needed(material, folder, case)
        monkeypatch.chdir(folder)
        rng = random.Random(f"{case} {' '.join(case.words)} {number}")
        words = list(case.words)
        if case.file:
            case.spoil(Path(case.file), rng)
        else:
            words += fuzzing.random_words(options, rng)
        check(words, case.codes, f"number {number}: {words}")
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(folder)


READERS: dict[str, Callable[[Path], object]] = {
    "spec.yaml": load_spec,
    "cluster.yaml": load_cluster,
    "profile.json": load_profile,
    "plan.json": load_plan,
    "repository/manifest.json": lambda path: load_manifest(path.parent),
    "sweep.json": read_run,
}


@pytest.mark.parametrize("file", READERS)
def test_broken_documents_are_read_or_told(file: str, material: Path, tmp_path: Path) -> None:
    """Many more than the commands get: the reader alone, which is where all of them are refused."""
    path, told = tmp_path / file, 0
    path.parent.mkdir(exist_ok=True)
    for number in range(DOCUMENTS * TIMES):
        shutil.copyfile(material / file, path)
        fuzzing.break_document(path, random.Random(f"{file} {number}"))
        try:
            READERS[file](path)
        except InputError:
            told += 1
        except Exception as exc:  # whatever else it raises is the fault that is looked for
            raise AssertionError(f"number {number}: {type(exc).__name__}: {exc}") from exc
    assert 0.3 * DOCUMENTS < told < DOCUMENTS * TIMES  # and some are right by chance


def copy_needed(material: Path, folder: Path, case: Case) -> None:
    """What the command's words name, and what these files name."""
    (folder / "out").mkdir(parents=True)
    named = {word.split("=")[-1] for word in case.words} | {"small.pt", "counts.npz", "trace.npz"}
    for path in material.iterdir():
        if path.name in named and path.is_dir():
            shutil.copytree(path, folder / path.name)
        elif path.name in named:
            shutil.copyfile(path, folder / path.name)


def check(words: list[str], codes: tuple[int, ...], what: str) -> None:
    """Run a command, and look at what it says and leaves."""
    said, told = io.StringIO(), io.StringIO()
    signal.setitimer(signal.ITIMER_PROF, MOST_CPU_S)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        try:
            code = main(words)
        except SystemExit as exc:  # argparse
            code = int(exc.code or 0)
        except Exception as exc:  # whatever else it raises is the fault that is looked for
            raise AssertionError(f"{what}: {type(exc).__name__}: {exc}") from exc
    signal.setitimer(signal.ITIMER_PROF, 0)
    lines = told.getvalue().splitlines()
    assert code in codes, f"{what}: exit code {code}: {lines[:5]}"
    assert not any("Traceback" in line for line in lines) and len(lines) <= 25, f"{what}: {lines[:30]}"
    assert max(map(len, lines), default=0) < 6000, f"{what}: {lines}"
    if code:
        assert lines, f"{what}: exit code {code} without a word"
        left = [str(path) for path in Path("out").rglob("*")]
        assert not left, f"{what}: left behind: {left}"
