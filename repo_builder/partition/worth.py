"""Cuts that are worth a container more: of the plans with the least memory, the one whose every service pays.

The paper's recurrence counts a container's least memory in every replica, and nothing else of what one more costs: a
deployment to watch, a call more in every query, which takes CPU in the front ends, and one more that can be slow. So it
cuts for a thousandth of the memory where calls are cheap. Here a service must be worth `Worth.service_bytes` besides:
the front ends that its calls take up, and a share of the least memory that there is. The optimum under that price is as
exact as the plain one (`chain.py`), and has the property that counts: no two neighbours of its services can be joined
for less than that.

A profile is never exact: where it may be off by a share, the cuts are those with the least mean of that price over its
errors (`robust.py`), so that no service which holds much is loaded to the brim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from repo_builder.partition.cost import CostModel, Profile
from repo_builder.partition.dp import Partition, cut_at, partition
from repo_builder.partition.order import Order
from repo_builder.partition.priced import PricedOrder
from repo_builder.partition.robust import RobustCuts, mean_cost, robust_cuts
from repo_builder.spec import Spec

LEAST_SAVING = 0.01
"""The share of its tables' least memory that a service must save, where nobody says another."""

PROFILE_ERROR = 0.4
"""The share by which a profile's times may be off, where nobody says another."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What a service must save: `share` of the least memory of the rows that are cut, and `call_bytes`.

    The latter is the memory of the front ends whose CPU its calls take. `profile_error` is the share by which the
    profile's times may be off, either way.
    """

    share: float = 0.0
    call_bytes: int = 0
    profile_error: float = 0.0

    def service_bytes(self, least_bytes: int) -> int:
        """For rows that take so many bytes at the least."""
        return round(self.share * least_bytes) + self.call_bytes


def worth_of(spec: Spec, profile: Profile, target_qps: float, least_saving: float, profile_error: float = 0.0) -> Worth:
    """What a service of the spec must save; nothing for 0, which leaves the paper's recurrence as it is: it takes the
    profile to the letter too.
    """
    if not least_saving:
        return Worth()
    front_bytes = spec.model.dense.parameter_bytes + profile.min_memory_bytes
    return Worth(least_saving, round(target_qps * profile.front_time.per_call_s * front_bytes), profile_error)


@dataclass(frozen=True, slots=True)
class Cuts:
    """The cuts that are worth it, priced so, and those with the least memory.

    `robust` is what is known of the former where the profile may be off, and `least_mean_bytes` what the latter then
    take on average, a service's worth counted in both.
    """

    taken: Partition
    least: Partition
    worth: Worth
    robust: RobustCuts | None = None
    least_mean_bytes: float = 0.0

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
    """The cuts of rows: the least memory with `worth` counted for each service, the mean over the profile's errors."""
    least = partition(order, model, s_max)
    priced = replace(model, service_bytes=worth.service_bytes(least.cost_bytes))
    exact = partition(order, priced, s_max) if priced != model else least
    error = worth.profile_error
    if not error:
        return Cuts(exact, least, worth)
    rows = PricedOrder(order, priced)
    robust = robust_cuts(rows, s_max, error, (exact.cuts, least.cuts))
    return Cuts(cut_at(rows, robust.cuts[1:-1]), least, worth, robust, mean_cost(rows, least.cuts, error))
