"""The real controller's decisions, recorded: kube-controller-manager's own code under 500 random autoscalers.

`data/hpa_decisions.jsonl.gz` has a JSON line for each: its bounds, its metrics' targets, its `behavior` if any, rows of
[t seconds, spec.replicas, current pods, ready pods, metric values in thousandths or null, replicas decided, 1 if an
error was raised], t from the start.
"""

import gzip
import json
from pathlib import Path
from typing import Any

from repo_builder.scaling.edited import read_behavior
from repo_builder.scaling.hpa import HpaSpec, MetricTarget, Pods, State, decide

DECISIONS = Path(__file__).parent / "data" / "hpa_decisions.jsonl.gz"


def milli(quantity: str) -> int:
    assert quantity.endswith("m")
    return int(quantity[:-1])


def autoscaler(line: dict[str, Any]) -> HpaSpec:
    targets = (
        MetricTarget(each["type"], milli(each["value" if each["type"] == "Value" else "averageValue"]))
        for each in line["metrics"]
    )
    return HpaSpec(line["min"], line["max"], tuple(targets), read_behavior(line.get("behavior")))


def test_every_decision_is_the_real_controllers() -> None:
    with gzip.open(DECISIONS, "rt") as file:
        lines = [json.loads(line) for line in file]
    wrong = []
    for line in lines:
        hpa, state = autoscaler(line), State()
        for now_s, wanted, current, ready, values, expected, error in line["rows"]:
            decision, state = decide(hpa, state, Pods(wanted, current, ready), values, now_s)
            if decision.replicas != expected or (decision.reason == "metrics failed" and not error):
                wrong.append((line["name"], now_s, expected, decision))
    decided = sum(len(line["rows"]) for line in lines)
    assert not wrong, f"{len(wrong)} of {decided}, such as {wrong[:5]}"
    assert (len(lines), decided) == (500, 30_000)
