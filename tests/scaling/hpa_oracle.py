"""The HPA written down a second time, from the controller's own words: all that it ever saw, nothing passed on."""

from dataclasses import dataclass, field
from math import ceil, inf, trunc

from repo_builder.scaling.hpa import Behavior, HpaSpec, ScalingRules


@dataclass
class Oracle:
    """One workload's controller; `sync` is given the metrics, and the pods as they are."""

    autoscaler: HpaSpec
    proposals: list[tuple[float, int]] = field(default_factory=list)
    ups: list[tuple[float, int]] = field(default_factory=list)  # slots of (time, pods that came), reused when outdated
    downs: list[tuple[float, int]] = field(default_factory=list)  # and of those that went

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
        behavior = self.autoscaler.behavior
        if before != after and behavior:
            slots, rules = (self.ups, behavior.up) if after > before else (self.downs, behavior.down)
            longest_s, event = max(policy.period_s for policy in rules.policies), (now_s, abs(after - before))
            for k in reversed(range(len(slots))):
                if slots[k][0] + longest_s < now_s:
                    slots[k] = event
                    return after
            slots.append(event)
        return after

    def _ask(self, i: int, value: int | None, wanted: int, current: int, ready: int) -> int | None:
        if value is None:
            return None
        hpa, target = self.autoscaler, self.autoscaler.targets[i]
        down, up = 0.1, 0.1
        if hpa.behavior and hpa.behavior.down.tolerance_ppm is not None:
            down = hpa.behavior.down.tolerance_ppm / 1000 * 0.001
        if hpa.behavior and hpa.behavior.up.tolerance_ppm is not None:
            up = hpa.behavior.up.tolerance_ppm / 1000 * 0.001
        ratio = value / target.threshold_milli
        if target.kind == "Value":
            if 1 - down <= ratio <= 1 + up:
                return wanted
            return ceil(ratio * ready) if current + ready > 0 else None
        a_pod = value / (target.threshold_milli * current) if current else inf
        return current if 1 - down <= a_pod <= 1 + up else ceil(ratio)

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
            came, went = (
                sum(n for then, n in slots if now_s - then < policy.period_s) for slots in (self.ups, self.downs)
            )
            start = wanted - came + went
            if policy.kind == "Pods":
                reaches.append(start + sign * policy.value)
            else:
                reach = start * (1 + sign * (policy.value / 100))
                reaches.append(ceil(reach) if sign > 0 else trunc(reach))
        furthest = (rules.select == "Max") == (sign > 0)
        return max(reaches) if furthest else min(reaches)
