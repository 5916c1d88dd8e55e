"""Whole models as one ONNX file on Triton, and the same models cut: the single layout, and a fleet.

For each: the p50 of a lone client's queries, queries per second with eight in flight, and memory, each server as if it
were alone on its machine. In turn in the same run, on the same Triton, with the same ONNX Runtime; answers are compared
first.

The fleet's memory counts at the traffic of ten replicas of the whole model: a replica's machine is the CPU that a query
takes of the whole model, ten of these carry the traffic, and a service gets as many replicas as its own CPU seconds a
query fill of them.

Models of torch-rechub and others are the zoo's (tests/zoo), with more rows; MLPerf's DLRMv2 is examples/mlperf, scaled.
Its bags are loops in ONNX, so beside that file stand our kernels uncut, the layout `model-wise`. ONNX Runtime maps the
file's tables: rows that no query has touched yet count all the same, since the traffic of hours touches them. Needs the
extra zoo.

    python benchmarks/zoo.py [--models dcn_v2 din sasrec dlrm_v2] [--times 40] [--scale 0.01] [--seconds 3] [--rounds 3]
        [--without kernels single]
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import psutil
import tritonclient.grpc as triton
from _contenders import Contender, Load, load, served, served_fleet
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import np_to_triton_dtype

from repo_builder.access.load import load_hotness
from repo_builder.access.queries import draw_queries
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, Profile, ServiceTime
from repo_builder.partition.planner import make_plan, model_wise_plan
from repo_builder.profiling import perf_analyzer
from repo_builder.repository.build import build
from repo_builder.serving.install import Installation, installation
from repo_builder.serving.processes import memory_alone
from repo_builder.serving.server import Server
from repo_builder.spec import Spec, parse_spec
from repo_builder.words import times_less

ROOT = Path(__file__).parent.parent
MODELS = ("dcn_v2", "din", "sasrec", "dlrm_v2")
BATCH, QUERIES, IN_FLIGHT, REPLICAS = 32, 16, 8, 10
WHOLE, KERNELS, SINGLE, FLEET = "whole ONNX", "uncut, our kernels", "single layout", "fleet"
BESIDE = {"kernels": KERNELS, "single": SINGLE}
LOOPS = {"dlrm_v2"}  # models whose bags are loops in ONNX
P50_GOAL, P50_SLACK_MS, MEMORY_GOAL = 1.15, 0.3, 8.0


@dataclass(frozen=True, slots=True)
class Files:
    """A model as a program, and as an ONNX file of the same inputs."""

    program: Path
    onnx: Path


@dataclass(frozen=True, slots=True)
class Seen:
    """What a contender did: medians over rounds; CPU seconds a query by server, when eight are in flight."""

    p50_ms: float
    qps: float
    cpu_s: Mapping[str, float]
    memory_bytes: Mapping[str, int]


def main() -> None:
    """Measure the models one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--times", type=int, default=40, help="the zoo's tables, so many times their rows")
    parser.add_argument("--scale", type=float, default=0.01, help="of DLRMv2's tables")
    parser.add_argument("--seconds", type=float, default=3, help="a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", nargs="+", choices=("kernels", "single"), default=(), help="where memory is short")
    args = parser.parse_args()
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder, installation() as installed:
            measure(Path(folder), name, installed, args)


def made(folder: Path, name: str, args: argparse.Namespace) -> Files:
    """Have the model exported, by a process that holds its library."""
    if name != "dlrm_v2":
        python("-m", "tests.zoo", folder, name, "--times", args.times)
        return Files(folder / f"{name}.pt2", folder / f"{name}.dynamo.onnx")
    files = Files(folder / "dlrm_v2.pt2", folder / "dlrm_v2.onnx")
    python(ROOT / "examples/mlperf/export.py", "--scale", args.scale, "-o", files.program, "--onnx", files.onnx)
    return files


def python(*words: object) -> None:
    """Run a program of ours, its libraries' warnings aside."""
    subprocess.run([sys.executable, "-W", "ignore", *map(str, words)], cwd=ROOT, check=True, capture_output=True)


def measure(folder: Path, name: str, installed: Installation, args: argparse.Namespace) -> None:
    """Build all layouts of a model, serve them beside one another, take turns, and tell."""
    files = made(folder, name, args)
    beside = [each for each in (["kernels", "single"] if name in LOOPS else ["single"]) if each not in args.without]
    spec, services = build_all(folder, name, files, beside)
    hotness, source = load_hotness(spec), open_source(spec)
    drawn = draw_queries(spec.model, hotness, QUERIES, BATCH, 0, source.samples())
    queries = [drawn.query(k, BATCH) for k in range(QUERIES)]
    input_data = folder / "queries.json"
    perf_analyzer.write_queries(input_data, queries)
    with ExitStack() as stack:
        contenders = [
            stack.enter_context(served(installed, WHOLE, folder / "whole")),
            *(stack.enter_context(served(installed, BESIDE[each], folder / each)) for each in beside),
            stack.enter_context(served_fleet(installed, FLEET, folder / "fleet", services)),
        ]
        for query in queries[:4]:
            compare([answers(contender, name, query) for contender in contenders])
        tell(name, spec, take_turns(contenders, name, input_data, args))


def build_all(folder: Path, name: str, files: Files, beside: Sequence[str]) -> tuple[Spec, list[str]]:
    """The whole model's repository, the fleet, and what is measured beside; the spec, and the embedding services."""
    document = {
        "name": name,
        "model": {"source": "exported", "path": str(files.program)},
        "access": {"source": "powerlaw", "locality": 0.9},
        "serving": {"target_qps": 400, "batch": BATCH},
    }
    spec = parse_spec(document, folder / "spec.yaml")
    hotness, source = load_hotness(spec), open_source(spec)
    profile = Profile("80 MB a service", ServiceTime(5e-4, 5e-8), 80_000_000, DEFAULT_DENSE_TIME)
    plan = make_plan(spec, hotness, profile, "tiered", 3)
    build(spec, plan, hotness, source, folder / "fleet", shard_backend="native", layout="fleet")
    if "single" in beside:
        build(spec, plan, hotness, source, folder / "single", shard_backend="native")
    if "kernels" in beside:
        whole = model_wise_plan(spec, hotness, profile)
        build(spec, whole, hotness, source, folder / "kernels", shard_backend="native", layout="model-wise")
    write_whole(folder / "whole", name, files.onnx)
    return spec, [service.name for service in plan.embedding_services]


def write_whole(repository: Path, name: str, file: Path) -> None:
    """A repository of one model: the ONNX file as it is, an instance a core that this machine is taken to have."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    for part in (file, file.with_name(f"{file.name}.data")):
        if part.exists():
            part.rename(version / part.name)
    (version / file.name).rename(version / "model.onnx")
    graph = onnx.load(version / "model.onnx", load_external_data=False).graph
    config = pb.ModelConfig(name=name, backend="onnxruntime", max_batch_size=0)
    for ours, theirs in ((config.input, graph.input), (config.output, graph.output)):
        for value in theirs:
            tensor = value.type.tensor_type
            dims = [int(dim.dim_value) if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
            ours.add(name=value.name, data_type=TYPES[tensor.elem_type], dims=dims)
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=2)
    config.parameters["intra_op_thread_count"].string_value = "1"
    (repository / name / "config.pbtxt").write_text(text_format.MessageToString(config))


TYPES = {
    onnx.TensorProto.FLOAT: pb.TYPE_FP32,
    onnx.TensorProto.INT64: pb.TYPE_INT64,
    onnx.TensorProto.INT32: pb.TYPE_INT32,
}


def answers(contender: Contender, model: str, query: Mapping[str, NDArray]) -> list[NDArray]:
    """All outputs of one query, in order; the whole model's have other names."""
    inputs = []
    for name, array in query.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(np.ascontiguousarray(array))
        inputs.append(tensor)
    with triton.InferenceServerClient(contender.asked.grpc) as client:
        names = [output.name for output in client.get_model_config(model).config.output]
        answer = client.infer(model, inputs)
    return [answer.as_numpy(name) for name in names if name != "degraded"]


def compare(found: list[list[NDArray]]) -> None:
    """All contenders answer alike."""
    for others in found[1:]:
        for ours, whole in zip(others, found[0], strict=True):
            np.testing.assert_allclose(ours, whole, rtol=1e-4, atol=1e-5)


def take_turns(
    contenders: list[Contender], model: str, input_data: Path, args: argparse.Namespace
) -> Mapping[str, Seen]:
    """Alone and with eight queries in flight, a round after another."""
    alone: dict[str, list[Load]] = defaultdict(list)
    busy: dict[str, list[Load]] = defaultdict(list)
    for _ in range(args.rounds):
        for contender in contenders:
            alone[contender.name].append(load(contender, model, input_data, 1, args.seconds))
            busy[contender.name].append(load(contender, model, input_data, IN_FLIGHT, args.seconds))
    return {each.name: seen(each, alone[each.name], busy[each.name]) for each in contenders}


def seen(contender: Contender, alone: list[Load], busy: list[Load]) -> Seen:
    """Medians over rounds."""
    return Seen(
        statistics.median(found.seen.p50_ms for found in alone),
        statistics.median(found.seen.throughput_qps for found in busy),
        {name: statistics.median(found.cpu_s[name] for found in busy) for name in contender.servers},
        {
            name: memory_alone(server.process.pid) + untouched_bytes(server)
            for name, server in contender.servers.items()
        },
    )


def untouched_bytes(server: Server) -> int:
    """Of the mapped tables of an ONNX file, what no query has touched yet."""
    maps = psutil.Process(server.process.pid).memory_maps(grouped=True)
    return sum(each.size - each.rss for each in maps if each.path.endswith(".data"))


def tell(model: str, spec: Spec, found: Mapping[str, Seen]) -> None:
    """The table, ratios to the whole model, and the goals."""
    whole = found[WHOLE]
    machine_s = sum(whole.cpu_s.values())
    print(f"\n{model}: {spec.model.size_bytes / 2**20:,.0f} MiB of tables cut, queries of {BATCH} rows")
    print(f"{'':20}{'p50 ms':>16}{'queries/s':>18}{'memory MiB':>14}{f'at {REPLICAS} x the traffic MiB':>28}")
    grown = {}
    for name, each in found.items():
        counts = {server: max(1, math.ceil(REPLICAS * s / machine_s)) for server, s in each.cpu_s.items()}
        grown[name] = sum(counts[server] * size for server, size in each.memory_bytes.items())
        memory = sum(each.memory_bytes.values())
        print(
            f"{name:20}{each.p50_ms:8.2f} ({each.p50_ms / whole.p50_ms:4.2f}x){each.qps:10.0f} "
            f"({each.qps / whole.qps:4.2f}x){memory / 2**20:14.0f}{grown[name] / 2**20:14.0f} in "
            f"{'+'.join(map(str, counts.values()))}"
        )
    if SINGLE in found:
        limit = P50_GOAL * whole.p50_ms + P50_SLACK_MS
        met = found[SINGLE].p50_ms <= limit
        print(f"single layout p50 goal {limit:.2f} ms: {'met' if met else 'missed'}")
    ratio = grown[WHOLE] / grown[FLEET]
    print(f"fleet's memory at that traffic: {times_less(ratio)}; goal {MEMORY_GOAL:g} for DLRMv2")


if __name__ == "__main__":
    main()
