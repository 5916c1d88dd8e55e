"""Measurements as a machine of known times would show them."""

from repo_builder.model.types import RowFormat
from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.table_accesses import TableAccesses
from repo_builder.profiling.points import (
    STANDARD,
    DensePoint,
    EmbeddingPoint,
    FrontPoint,
    LoadFigures,
    Measured,
    RemoteCall,
    RowPoint,
)
from repo_builder.profiling.row_prices import FORMATS
from tests.partition.helpers import zipf_cdf

CALL_S, QUERY_S = 3e-4, 6e-5
CACHES = 512 << 10, 32 << 20
GATHER_S = {"spec": 2e-8, CACHES[0] // 2: 6e-9, CACHES[1] // 2: 1e-8, "cold": 3e-8}
ROW_BYTES = 128.0
HITS, MISS = ((1e-9, 5e-12), (2e-9, 1e-11)), (5e-9, 1.5e-10)  # of the kernel, a row and a byte
DENSE_S, PER_FLOP_S, FLOPS = 2e-4, 5e-11, 160_000
FRONT_S, PER_ID_S, PER_CALL_S = 3e-4, 2e-8, 3e-5
WAKING_S = 5e-4  # of CPU that a query takes more where it comes alone
BUSY = 0.8  # of a saturated server's core: the rest others took


def figures(cpu_s: float, queries: float, in_flight: int) -> LoadFigures:
    """Of so much CPU a query; one query in flight waits for the client too."""
    cpu_s += WAKING_S if in_flight == 1 else 0.0
    return LoadFigures(BUSY / cpu_s / (3 if in_flight == 1 else 1), queries, cpu_s, 1.0, 2.0)


def accesses() -> ModelAccesses:
    """Rows of 128 bytes, more than any cache holds."""
    return ModelAccesses((TableAccesses("A", zipf_cdf(1_000_000), 4096.0, RowFormat(32)),))


def _row_s(stored: RowFormat, price: tuple[float, float]) -> float:
    return price[0] + price[1] * stored.row_bytes


def exact() -> Measured:
    """Every point of the standard effort, without any error; capacities are those of the most joined queries."""
    embedding = []
    for load in STANDARD.embedding_loads(CACHES):
        cpu_s = CALL_S / load.joined + QUERY_S + GATHER_S[load.within_bytes or load.accesses] * load.gathers
        capacity = load.accesses == "spec" and load.joined == max(STANDARD.joined)
        embedding.append(EmbeddingPoint(load, figures(cpu_s, float(load.joined), load.in_flight), capacity))
    rows = [RowPoint(each, tuple(_row_s(each, hit) for hit in HITS), _row_s(each, MISS)) for each in FORMATS]
    dense = []
    for count, in_flight in STANDARD.dense_loads:
        found = figures(DENSE_S + PER_FLOP_S * FLOPS * count, 2.0, in_flight)
        dense.append(DensePoint(count, FLOPS * count, in_flight, found, capacity=in_flight == 16))
    front = []
    for services, ids in ((2, 2048), (2, 20480), (8, 2048), (8, 20480)):
        found = figures(FRONT_S + PER_ID_S * ids + PER_CALL_S * services, 1.0, 16)
        front.append(FrontPoint(services, ids, 32, 16, found))
    machine = {"cpu": "a processor", "cores": 2, "cache_bytes": 32 << 20, "date": "2026-01-02"}
    points = tuple(embedding), CACHES, tuple(rows), ROW_BYTES, tuple(dense), tuple(front)
    return Measured(*points, RemoteCall(4e-4, 2e-4), 70_000_000, 10, 2_000_000, machine)
