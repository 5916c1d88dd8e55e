"""What the queries that are under way take of a server's memory, beside what it takes without any.

A front end holds a query's inputs, for a moment twice, as the message that came and as Triton's tensors; the ids that
its router sends, in 32 bits, and the sums that each service answers; and the outputs. Triton's gRPC keeps some requests
that were answered, as large as they ever were. How many queries are under way is bounded by the router, in
`max_in_flight`; their rows are the spec's `batch`, and those of one among them as many as the contract allows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

from repo_builder.errors import RepositoryError
from repo_builder.model.types import BATCH, Columns, Lookup, Tensor
from repo_builder.partition.plan import Service
from repo_builder.repository.manifest import Manifest

MAX_QUERY_ROWS = 4096
"""The wire contract's largest query."""

SPARE_REQUESTS = 8
"""Triton's own number (`--grpc-infer-allocation-pool-size`) of answered requests that its gRPC keeps."""

_DATATYPE_BYTES = {
    **dict.fromkeys(("BOOL", "UINT8", "INT8"), 1),
    **dict.fromkeys(("UINT16", "INT16", "FP16", "BF16"), 2),
    **dict.fromkeys(("UINT32", "INT32", "FP32"), 4),
    **dict.fromkeys(("UINT64", "INT64", "FP64"), 8),
}


def front_end_bytes(manifest: Manifest, shards: Iterable[Service], max_in_flight: int) -> int:
    """Of a front end that calls these services."""
    inputs = sum(_row_bytes(manifest, tensor) for tensor in manifest.inputs)
    outputs = sum(_row_bytes(manifest, tensor) for tensor in manifest.outputs)
    ids = sum(_ids(manifest, lookup) for lookup in manifest.lookups)
    sums = sum(_sums(manifest, lookup) for service in shards for lookup in _asked(manifest, service))
    held = 2 * inputs + outputs + 4 * (ids + sums)
    rows = max_in_flight * manifest.batch + MAX_QUERY_ROWS
    return math.ceil(rows * held + SPARE_REQUESTS * MAX_QUERY_ROWS * inputs)


def shard_bytes(manifest: Manifest, service: Service, front_ends: int) -> int:
    """Of an embedding service's replica that so many front ends call: each has a call for every instance under way."""
    instances = service.instances * (len(service.gpus) or 1)
    return front_ends * instances * MAX_QUERY_ROWS * call_row_bytes(manifest, service)


def call_row_bytes(manifest: Manifest, service: Service) -> int:
    """Bytes of a candidate row between front end and embedding service: ids, lengths and sums of 4 bytes each."""
    asked = list(_asked(manifest, service))
    return math.ceil(4 * sum(_ids(manifest, lookup) + _sums(manifest, lookup) for lookup in asked))


def max_in_flight(frontend: Path) -> int:
    """As the router of a front end's model repository was told. Raises RepositoryError where it says nothing."""
    paths = sorted(frontend.glob("*/1/fanout.json"))
    if len(paths) != 1:
        raise RepositoryError(f"{frontend}: expected one router with a fanout.json, found {len(paths)}; build again")
    try:
        most = json.loads(paths[0].read_text(encoding="utf-8"))["max_in_flight"]
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise RepositoryError(f"{paths[0]}: expected a router's settings, but {exc!r}; build again") from exc
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise RepositoryError(f"{paths[0]}: max_in_flight: expected a number of queries, got {most!r}; build again")
    return most


def _asked(manifest: Manifest, service: Service) -> list[Lookup]:
    """The look-ups in tables of which the service holds rows."""
    held = {shard.table for shard in service.shards}
    return [lookup for lookup in manifest.lookups if manifest.tables[lookup.table].name in held]


def _ids(manifest: Manifest, lookup: Lookup) -> float:
    """Of a look-up for a candidate row: its ids and their weights."""
    layout = lookup.ids.layout
    ids = lookup.count * layout.bag if isinstance(layout, Columns) and layout.width else lookup.mean_ids
    return manifest.groups[lookup.group].mean_rows * ids * (1 if lookup.ids.weights is None else 2)


def _sums(manifest: Manifest, lookup: Lookup) -> float:
    """Of a look-up for a candidate row: its bags' lengths, and the numbers of their sums."""
    dim = manifest.tables[lookup.table].format.dim
    return manifest.groups[lookup.group].mean_rows * lookup.count * (1 + dim)


def _row_bytes(manifest: Manifest, tensor: Tensor) -> float:
    """Of an input or output for a candidate row; of a dimension that nobody knows, as many as look-ups read there."""
    sizes: dict[str, float] = {BATCH: 1.0}
    sizes |= {group.rows: group.mean_rows for group in manifest.groups if isinstance(group.rows, str)}
    read = [each for each in manifest.lookups if tensor.name in (each.ids.tensor, each.ids.weights)]
    known = math.prod(size if isinstance(size, int) else sizes.get(size, 1.0) for size in tensor.shape)
    ids = sum(manifest.groups[each.group].mean_rows * each.mean_ids for each in read)
    return _DATATYPE_BYTES[tensor.datatype] * max(known, ids)
