"""Which replica of a service takes a call. Pure: knows neither gRPC nor time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Generic, Protocol, TypeVar


class Member(Protocol):
    """A replica as the balancer sees it: calls under way, and whether it answered when last heard of."""

    in_flight: int
    ready: bool


M = TypeVar("M", bound=Member)


class Balancer(Generic[M]):
    """Chooses the ready replica with the fewest calls under way; equals take turns.

    A slow or frozen replica gathers calls and is so avoided before anything has timed out.
    """

    def __init__(self, members: Iterable[M] = ()) -> None:
        self._members: Sequence[M] = tuple(members)
        self._turn = 0

    @property
    def members(self) -> Sequence[M]:
        """All replicas."""
        return self._members

    def replace(self, members: Iterable[M]) -> None:
        """Choose from these replicas from now on."""
        self._members = tuple(members)

    def pick(self, exclude: Collection[M] = ()) -> M | None:
        """A replica that is not in `exclude`: a ready one; where there is none, one that was set aside; else None."""
        self._turn += 1
        count = len(self._members)
        best: M | None = None
        for i in range(count):
            member = self._members[(self._turn + i) % count]
            if member not in exclude and (best is None or _load(member) < _load(best)):
                best = member
        return best


def _load(member: Member) -> tuple[bool, int]:
    return not member.ready, member.in_flight
