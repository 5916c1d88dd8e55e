"""Cuts that are worth a container more: of the plans with the least memory, the one whose every service pays.

The paper's recurrence counts a container's least memory in every replica, and nothing else of what one more costs: a
deployment to watch, a call more in every query, which takes CPU in the front ends, and one more that can be slow. So it
cuts for a thousandth of the memory where calls are cheap. Here a service must be worth `Worth.service_bytes` besides:
the front ends that its calls take up, and a share of the least memory that there is. The optimum under that price is as
exact as the plain one (`chain.py`), and has the property that counts: no two neighbours of its services can be joined
for less than that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from repo_builder.partition.cost import CostModel, Profile
from repo_builder.partition.dp import Partition, partition
from repo_builder.partition.order import Order
from repo_builder.spec import Spec

LEAST_SAVING = 0.01
"""The share of its tables' least memory that a service must save, where nobody says another."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What a service must save: `share` of the least memory of the rows that are cut, and `call_bytes`.

    The latter is the memory of the front ends whose CPU its calls take.
    """

    share: float = 0.0
    call_bytes: int = 0

    def service_bytes(self, least_bytes: int) -> int:
        """For rows that take so many bytes at the least."""
        return round(self.share * least_bytes) + self.call_bytes


def worth_of(spec: Spec, profile: Profile, target_qps: float, least_saving: float) -> Worth:
    """What a service of the spec must save; nothing for 0, which leaves the paper's recurrence as it is."""
    if not least_saving:
        return Worth()
    front_bytes = spec.model.dense.parameter_bytes + profile.min_memory_bytes
    return Worth(least_saving, round(target_qps * profile.front_call_s * front_bytes))


@dataclass(frozen=True, slots=True)
class Cuts:
    """The cuts that are worth it, priced so, and those with the least memory."""

    taken: Partition
    least: Partition
    worth: Worth

    @property
    def service_bytes(self) -> int:
        """What a service had to save."""
        return self.worth.service_bytes(self.least.cost_bytes)

    @property
    def merged(self) -> int:
        """How many services fewer were taken than the least memory would have."""
        return len(self.least.replicas) - len(self.taken.replicas)

    @property
    def more_bytes(self) -> int:
        """What the taken cuts cost more than the least memory."""
        return self.taken.cost_bytes - len(self.taken.replicas) * self.service_bytes - self.least.cost_bytes


def cut(order: Order, model: CostModel, s_max: int, worth: Worth) -> Cuts:
    """The cuts of rows: the least memory with `worth` counted for each service."""
    least = partition(order, model, s_max)
    priced = replace(model, service_bytes=worth.service_bytes(least.cost_bytes))
    return Cuts(partition(order, priced, s_max) if priced != model else least, least, worth)
