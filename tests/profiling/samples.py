"""Measurements as a machine of known times would show them."""

from repo_builder.profiling.points import STANDARD, DensePoint, EmbeddingPoint, LoadFigures, Measured, RemoteCall

CALL_S, QUERY_S = 3e-4, 6e-5
PER_GATHER_S = {"spec": 2e-8, "hot": 5e-9, "cold": 3e-8}
DENSE_S, PER_FLOP_S, FLOPS = 2e-4, 5e-11, 160_000
WAKING_S = 5e-4  # of CPU that a query takes more where it comes alone
BUSY = 0.8  # of a saturated server's core: the rest others took


def joined(in_flight: int) -> float:
    """Queries joined in a call."""
    return max(1.0, in_flight / 3)


def figures(cpu_s: float, queries: float, in_flight: int) -> LoadFigures:
    """Of so much CPU a query; one query in flight waits for the client too."""
    cpu_s += WAKING_S if in_flight == 1 else 0.0
    return LoadFigures(BUSY / cpu_s / (3 if in_flight == 1 else 1), queries, cpu_s, 1.0, 2.0)


def exact() -> Measured:
    """Every point of the standard effort, without any error; the capacities are at 16 queries in flight."""
    embedding = []
    for accesses, gathers, in_flight in STANDARD.embedding_loads:
        queries = joined(in_flight)
        cpu_s = CALL_S / queries + QUERY_S + PER_GATHER_S[accesses] * gathers
        capacity = accesses == "spec" and in_flight == 16
        point = EmbeddingPoint(accesses, gathers, in_flight, figures(cpu_s, queries, in_flight), capacity)
        embedding.append(point)
    dense = []
    for rows, in_flight in STANDARD.dense_loads:
        found = figures(DENSE_S + PER_FLOP_S * FLOPS * rows, 2.0, in_flight)
        dense.append(DensePoint(rows, FLOPS * rows, in_flight, found, capacity=in_flight == 16))
    machine = {"cpu": "a processor", "cores": 2, "cache_bytes": 32 << 20, "date": "2026-01-02"}
    return Measured(tuple(embedding), tuple(dense), RemoteCall(4e-4, 2e-4), 70_000_000, 10, 2_000_000, machine)
