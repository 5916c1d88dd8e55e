"""Measurements as a machine of known times would show them."""

from repo_builder.profiling.points import STANDARD, DensePoint, EmbeddingPoint, LoadFigures, Measured, RemoteCall

CALL_S, QUERY_S = 3e-4, 6e-5
PER_GATHER_S = {"spec": 2e-8, "hot": 5e-9, "cold": 3e-8}
DENSE_S, PER_FLOP_S, FLOPS = 2e-4, 5e-11, 160_000


def joined(in_flight: int) -> float:
    """Queries joined in a call."""
    return max(1.0, in_flight / 3)


def exact() -> Measured:
    """Every point of the standard effort, without any error; one query in flight waits for the client too."""
    embedding = []
    for accesses, gathers, in_flight in STANDARD.embedding_loads:
        queries = joined(in_flight)
        call_s = CALL_S + queries * (QUERY_S + PER_GATHER_S[accesses] * gathers)
        found = LoadFigures(queries / (call_s if in_flight > 1 else 3 * call_s), queries, 1.0, 2.0)
        embedding.append(EmbeddingPoint(accesses, gathers, in_flight, found))
    dense = []
    for rows, in_flight in STANDARD.dense_loads:
        seconds = (DENSE_S + PER_FLOP_S * FLOPS * rows) * (1 if in_flight > 1 else 3)
        dense.append(DensePoint(rows, FLOPS * rows, in_flight, LoadFigures(1 / seconds, 2.0, 1.0, 2.0)))
    machine = {"cpu": "a processor", "cores": 2, "cache_bytes": 32 << 20, "date": "2026-01-02"}
    return Measured(tuple(embedding), tuple(dense), RemoteCall(4e-4, 2e-4), 70_000_000, 10, 2_000_000, machine)
