"""What a server weighs beside its tables, by cause: a front end and a shard of DeepRecSys' RM3 or RM1.

After loading, after queries with 16 in flight, after a burst of 2,048 at once, and a quarter of a minute later. All as
if the server were alone on its machine (`memory_alone`). The tables have 20,000 rows each, so that a build takes
seconds: rows and id maps are counted apart.

 code        pages of programs and libraries as the files have them: several servers of one machine share them
 libraries'  what these write of their own data, relocations among it
 heap        glibc's: what is in use, and what was freed and is kept
 stacks      of threads

A front end refuses what is more than 256 queries under way: those are of the burst too. To compare with another version
of the product, run this file with that one's Python.

    python benchmarks/memory.py [--model rm3] [--rows 32] [--burst 2048] [--shard-backend native]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import psutil
import tritonclient.grpc.aio as triton
import yaml
from _contenders import Contender, served_fleet
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from repo_builder.access.load import load_hotness
from repo_builder.access.queries import draw_queries
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, Profile, ServiceTime
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.serving.install import installation
from repo_builder.serving.processes import memory_alone
from repo_builder.serving.server import Server, stubs
from repo_builder.spec import Spec, parse_spec

EXAMPLES = Path(__file__).parent.parent / "examples/deeprecsys"
ROWS, TARGET_QPS, S_MAX = 20_000, 8000, 3
SLA_MS = 60_000  # a burst waits
STACK_BYTES = 8 * 2**20
ROWS_FILES = ("weights.bin", "idmap.bin")
CAUSES = ("rows", "code", "libraries'", "heap", "stacks")


def main() -> None:
    """Build the fleet, serve it, and tell its memory step by step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["rm1", "rm3"], default="rm3")
    parser.add_argument("--rows", type=int, default=32, help="of a query")
    parser.add_argument("--queries", type=int, default=300, help="with 16 in flight")
    parser.add_argument("--burst", type=int, default=2048, help="queries at once")
    parser.add_argument("--shard-backend", choices=["native", "python"], default="native")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        document = yaml.safe_load((EXAMPLES / f"{args.model}.yaml").read_text())
        document["serving"] |= {"target_qps": TARGET_QPS, "sla_ms": SLA_MS}
        for table in document["tables"]:
            table["rows"] = ROWS
        measure(parse_spec(document, Path(folder) / "spec.yaml"), Path(folder) / args.model, args)


def measure(spec: Spec, repository: Path, args: argparse.Namespace) -> None:
    """A line a server and step."""
    hotness, source = load_hotness(spec), open_source(spec)
    tiny = Profile("40 KB a service", ServiceTime(5e-4, 5e-8), 40_000, DEFAULT_DENSE_TIME)
    plan = make_plan(spec, hotness, tiny, "tiered", S_MAX)
    build(spec, plan, hotness, source, repository, shard_backend=args.shard_backend, layout="fleet")
    services = [service.name for service in plan.embedding_services]
    query = draw_queries(spec.model, hotness, 1, args.rows, 0).query(0, args.rows)
    print(f"{'MiB':32}{'all':>8}" + "".join(f"{cause:>12}" for cause in CAUSES))
    with installation() as installed, served_fleet(installed, spec.name, repository, services) as fleet:
        tell("loaded", fleet, services)
        ask(fleet, spec.name, query, args.queries, 16)
        tell("16 in flight", fleet, services)
        ask(fleet, spec.name, query, args.burst, args.burst)
        tell(f"{args.burst:,} at once", fleet, services)
        time.sleep(15)
        tell("15 s later", fleet, services)


def ask(fleet: Contender, model: str, query: Mapping[str, NDArray], count: int, in_flight: int) -> None:
    """So many queries, so many at a time."""
    refused = asyncio.run(ask_all(fleet.asked.grpc, model, query, count, in_flight))
    print(f"{count:,} queries, {in_flight:,} at a time, {refused:,} of them refused")


async def ask_all(address: str, model: str, query: Mapping[str, NDArray], count: int, in_flight: int) -> int:
    """How many were refused."""
    tensors = []
    for name, array in query.items():
        tensors.append(triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        tensors[-1].set_data_from_numpy(array)
    free = asyncio.Semaphore(in_flight)
    async with triton.InferenceServerClient(address) as client:

        async def one() -> bool:
            async with free:
                try:
                    await client.infer(model, tensors)
                except InferenceServerException:
                    return True
                return False

        return sum(await asyncio.gather(*(one() for _ in range(count))))


def tell(step: str, fleet: Contender, services: list[str]) -> None:
    """The front end's bytes by cause, and those of the hottest shard."""
    for name, server in (("front end", fleet.asked), ("shard", fleet.servers[services[0]])):
        found = by_cause(server)
        all_mib = memory_alone(server.process.pid) / 2**20
        causes = "".join(f"{found[cause] / 2**20:12.1f}" for cause in CAUSES)
        print(f"{step + ', ' + name:32}{all_mib:8.1f}{causes}", flush=True)


def by_cause(server: Server) -> Counter[str]:
    """Bytes of the server and its Python stubs; code that both have mapped counts in each."""
    found: Counter[str] = Counter()
    for process in (psutil.Process(server.process.pid), *stubs(server)):
        for mapping in process.memory_maps(grouped=False):
            begin, end = (int(address, 16) for address in mapping.addr.split("-"))
            if Path(mapping.path).name in ROWS_FILES:
                found["rows"] += mapping.rss
            elif mapping.path.startswith("/"):
                found["libraries'"] += mapping.private_dirty
                found["code"] += mapping.rss - mapping.private_dirty
            else:
                of_thread = mapping.path == "[stack]" or (mapping.path == "[anon]" and end - begin == STACK_BYTES)
                found["stacks" if of_thread else "heap"] += mapping.rss
    return found


if __name__ == "__main__":
    main()
