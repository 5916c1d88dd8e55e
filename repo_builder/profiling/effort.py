"""What a profile measures, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass

from repo_builder.partition.plan import Grouping
from repo_builder.profiling.queries import Accesses
from repo_builder.repository.configs import ShardBackend


@dataclass(frozen=True, slots=True)
class Effort:
    """What is measured, and for how long: `seconds` a point, spread over `rounds` that take all points in turn.

    A point is the median of its rounds, so that a short disturbance does not show. The most queries `in_flight` count
    as full load. `end_gathers` is the size of the queries that show what hot and cold rows cost.
    """

    seconds: float
    rounds: int
    gathers: tuple[int, ...]
    in_flight: tuple[int, ...]
    dense_rows: tuple[int, ...]
    dense_in_flight: tuple[int, ...]
    end_gathers: int = 32768

    @property
    def full_load(self) -> int:
        """Queries in flight that count as full load."""
        return max(self.in_flight)

    @property
    def embedding_loads(self) -> list[tuple[Accesses, int, int]]:
        """The accesses, the gathers and the queries in flight of every point of the embedding service."""
        loads: list[tuple[Accesses, int, int]] = [("spec", g, n) for g in self.gathers for n in self.in_flight]
        return [*loads, ("hot", self.end_gathers, self.full_load), ("cold", self.end_gathers, self.full_load)]

    @property
    def dense_loads(self) -> list[tuple[int, int]]:
        """The rows a query and the queries in flight of every point of the dense service."""
        return [(rows, in_flight) for rows in self.dense_rows for in_flight in self.dense_in_flight]


STANDARD = Effort(3.0, 3, (32, 1024, 4096, 16384, 32768, 65536), (1, 4, 16), (1, 8, 32, 128, 512), (1, 16))
QUICK = Effort(1.0, 1, (32, 8192, 32768), (4, 16), (1, 32, 256), (16,))


@dataclass(frozen=True, slots=True)
class Options:
    """What the profile is for: services of which grouping and backend, measured on at most some `max_rows` rows."""

    grouping: Grouping
    backend: ShardBackend
    max_rows: int
    effort: Effort
