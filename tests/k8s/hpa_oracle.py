"""The HPA written down a second time, from the rules' words alone: whole histories, fractions, no state passed on."""

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

from k8s.hpa import Autoscaler, Behavior, ScalingRules


@dataclass
class Oracle:
    """One workload's controller; `sync` is given the metrics, and the pods as they are."""

    autoscaler: Autoscaler
    proposals: list[tuple[float, int]] = field(default_factory=list)
    sizes: list[tuple[float, int]] = field(default_factory=list)  # (time, change) of every rescale

    def sync(self, wanted: int, current: int, ready: int, values_milli: list[int | None], now_s: float) -> int:
        hpa = self.autoscaler
        if not self.proposals:
            self.proposals.append((now_s, wanted))
        if wanted == 0:
            return 0
        if wanted > hpa.max_replicas:
            return self._resize(wanted, hpa.max_replicas, now_s)
        if wanted < hpa.min_replicas:
            return self._resize(wanted, hpa.min_replicas, now_s)
        asked = [self._ask(i, value, wanted, current, ready) for i, value in enumerate(values_milli)]
        known = [each for each in asked if each is not None]
        if not known or (None in asked and max(known) < wanted):
            return wanted
        proposal = max(known)
        result = self._plain(wanted, proposal, now_s) if hpa.behavior is None else self._fine(wanted, proposal, now_s)
        self.proposals.append((now_s, proposal))
        return self._resize(wanted, result, now_s)

    def _resize(self, before: int, after: int, now_s: float) -> int:
        if before != after:
            self.sizes.append((now_s, after - before))
        return after

    def _ask(self, i: int, value: int | None, wanted: int, current: int, ready: int) -> int | None:
        if value is None:
            return None
        hpa, target = self.autoscaler, self.autoscaler.targets[i]
        down = up = Fraction(hpa.tolerance_ppm, 10**6)
        if hpa.behavior and hpa.behavior.down.tolerance_ppm is not None:
            down = Fraction(hpa.behavior.down.tolerance_ppm, 10**6)
        if hpa.behavior and hpa.behavior.up.tolerance_ppm is not None:
            up = Fraction(hpa.behavior.up.tolerance_ppm, 10**6)
        per_target = Fraction(value, target.threshold_milli)
        if target.kind == "Value":
            return wanted if 1 - down <= per_target <= 1 + up else ceil(per_target * ready)
        if current and 1 - down <= per_target / current <= 1 + up:
            return current
        return ceil(per_target)

    def _plain(self, wanted: int, proposal: int, now_s: float) -> int:
        highest = max([proposal] + [count for then, count in self.proposals if now_s - then <= 300])
        return max(self.autoscaler.min_replicas, min(highest, self.autoscaler.max_replicas, max(2 * wanted, 4)))

    def _fine(self, wanted: int, proposal: int, now_s: float) -> int:
        behavior = self.autoscaler.behavior or Behavior()
        lowest = min([proposal] + [n for then, n in self.proposals if now_s - then < behavior.up.window_s])
        highest = max([proposal] + [n for then, n in self.proposals if now_s - then < behavior.down.window_s])
        calm = wanted
        if lowest > wanted:
            calm = lowest
        if highest < wanted:
            calm = highest
        if calm > wanted:
            allowed = self._allowed(behavior.up, wanted, now_s, +1)
            return max(wanted, min(calm, allowed, self.autoscaler.max_replicas))
        if calm < wanted:
            allowed = self._allowed(behavior.down, wanted, now_s, -1)
            return min(wanted, max(calm, allowed, self.autoscaler.min_replicas))
        return wanted

    def _allowed(self, rules: ScalingRules, wanted: int, now_s: float, sign: int) -> int:
        if rules.select == "Disabled":
            return wanted
        reaches = []
        for policy in rules.policies:
            start = wanted - sum(change for then, change in self.sizes if now_s - then < policy.period_s)
            if policy.kind == "Pods":
                reaches.append(start + sign * policy.value)
            else:
                exact = start * (1 + sign * Fraction(policy.value, 100))
                reaches.append(ceil(exact) if sign > 0 else floor(exact))
        furthest = (rules.select == "Max") == (sign > 0)
        return max(reaches) if furthest else min(reaches)
