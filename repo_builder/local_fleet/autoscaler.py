"""KEDA's and the HPA's stand-in on one machine: asks Prometheus the rules' queries, and has the services scaled.

The arithmetic is that of `scaling.hpa`; here is only what surrounds it: a clock, Prometheus, and the log of decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from repo_builder.errors import NoAnswerError, ServerError
from repo_builder.local_fleet.run_folder import Tell
from repo_builder.scaling.hpa import Decision, MetricTarget, Pods, State, decide
from repo_builder.scaling.keda import ScaledObject, Trigger, answer_milli, own_polls, with_fallback

Ask = Callable[[str], Sequence[float]]
"""An instant query's values; raises ServerError, NoAnswerError where nobody answers."""


class Workloads(Protocol):
    """What is scaled."""

    def pods(self, service: str) -> Pods:
        """A service's replicas: wanted, there, ready."""

    def most(self, service: str) -> int:
        """How many replicas the machine has room for beside the other services."""

    def scale(self, service: str, replicas: int) -> None:
        """Want so many."""


@dataclass(slots=True)
class _Memory:
    """Of one service, from sync to sync; `failures` in a row by query, `failed`: the last decision lacked metrics,
    `full`: it asked for more than the machine holds.
    """

    failures: list[int]
    state: State = field(default_factory=State)
    failed: bool = False
    full: bool = False


class Autoscaler:
    """Decides for every service at each `sync`; logs each change, and what keeps it from deciding."""

    def __init__(self, rules: Mapping[str, ScaledObject], workloads: Workloads, ask: Ask, tell: Tell) -> None:
        self._rules = rules
        self._workloads = workloads
        self._ask = ask
        self._tell = tell
        self._memory = {service: _Memory([0] * len(rule.triggers)) for service, rule in rules.items()}
        self._blind = False
        self._synced_s: float | None = None

    def sync(self, now_s: float) -> None:
        """One round. Metrics that cannot be had follow KEDA's fallback; the log says when that begins and ends."""
        error: ServerError | None = None
        for service, rule in self._rules.items():
            answers, failed = self._answers(rule, error if isinstance(error, NoAnswerError) else None)
            error = failed if isinstance(failed, NoAnswerError) else error or failed
            polls = 0 if self._synced_s is None else own_polls(rule.polling_s, self._synced_s, now_s)
            self._decide(service, rule, answers, polls, now_s, told=failed is not None)
        self._synced_s = now_s
        if error and not self._blind:
            self._tell(f"autoscaler: {error}; no scaling by metrics until it answers")
        if self._blind and not error:
            self._tell("autoscaler: prometheus answers again")
        self._blind = bool(error)

    def _answers(self, rule: ScaledObject, silent: NoAnswerError | None) -> tuple[list[int | None], ServerError | None]:
        """Each query's answer in thousandths, None for a failure; and why one failed.

        silent: nobody answers in this round, so nobody is asked again: each time would be waited for in full.
        """
        answers: list[int | None] = []
        failed: ServerError | None = silent
        for trigger in rule.triggers:
            answer = None
            if not isinstance(failed, NoAnswerError):
                try:
                    answer = answer_milli(trigger, self._ask(trigger.query))
                except ServerError as exc:
                    failed = exc
            answers.append(answer)
        return answers, failed

    def _decide(
        self, service: str, rule: ScaledObject, answers: Sequence[int | None], polls: int, now_s: float, told: bool
    ) -> None:
        """`polls`: what KEDA would have asked since the last sync; `told`: why metrics are missing, once for all."""
        memory, pods = self._memory[service], self._workloads.pods(service)
        values: list[int | None] = []
        for i, (target, answer) in enumerate(zip(rule.hpa.targets, answers, strict=True)):
            value, memory.failures[i] = with_fallback(rule.fallback, target, pods, answer, memory.failures[i], polls)
            values.append(value)
        decision, memory.state = decide(rule.hpa, memory.state, pods, values, now_s)
        room = max(pods.wanted, self._workloads.most(service))
        replicas, full = min(decision.replicas, room), decision.replicas > room
        if replicas != pods.wanted or (full and not memory.full):
            told_room = f"; this machine has room for {room}" if full else ""
            line = _line(service, rule, pods, answers, replicas, decision)
            self._tell(line + told_room)
            self._workloads.scale(service, replicas)
        elif decision.reason == "metrics failed" and not memory.failed and not told:
            self._tell(
                f"autoscaler: {service}: stays at {pods.wanted}: prometheus has no values for it yet, or no more"
            )
        memory.full = full
        memory.failed = decision.reason == "metrics failed"


def _line(
    service: str, rule: ScaledObject, pods: Pods, answers: Sequence[int | None], replicas: int, decision: Decision
) -> str:
    """A decision with its reason: what every query answered, beside its threshold."""
    metrics = ", ".join(map(_metric, rule.triggers, rule.hpa.targets, answers))
    asked = "" if decision.proposal is None else f", {decision.proposal} asked for"
    return f"autoscaler: {service}: {pods.wanted} -> {replicas} ({decision.reason}{asked}): {metrics}"


def _metric(trigger: Trigger, target: MetricTarget, answer: int | None) -> str:
    value = "failed" if answer is None else f"{answer / 1000:,.1f}"
    share = " per replica" if target.kind == "AverageValue" else ""
    return f"{trigger.name or 'query'} {value} of {target.threshold_milli / 1000:,.1f}{share}"
