"""Every alert fires where it should and nowhere else, by Prometheus's own promtool."""

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.alerts import alerts, prometheus_rule
from repo_builder.scaling.queries import Scope
from repo_builder.scaling.rules import service_rules
from tests.k8s.fleets import fleet, options

pytestmark = pytest.mark.skipif(
    not shutil.which("promtool"), reason="no promtool on PATH: run apt-get install prometheus"
)

FRONT = 'namespace="elasticrec",model="rm1"'
ROUTER = 'namespace="elasticrec",model="rm1_router",instance="front-0"'
TIER0, HPA0 = (
    'namespace="elasticrec",deployment="rm1-tier0"',
    'namespace="elasticrec",horizontalpodautoscaler="keda-hpa-rm1-tier0"',
)
KEDA = 'scaledObject="rm1-tier0",scaler="queue",metric="s1-prometheus",triggerIndex="1",type="scaledobject"'
SCRAPED = {
    f'nv_inference_request_success{{namespace="elasticrec",model="{model}"}}': "0+900x60"
    for model in ("rm1", "rm1_tier0", "rm1_tier1")
}


@dataclass(frozen=True)
class Case:
    """Series, a value a minute; the alert's own labels if it fires at the 25th, None if it must be silent."""

    alert: str
    series: dict[str, str]
    fires: dict[str, str] | None


def slow(values: str, quantile: str = "0.95") -> dict[str, str]:
    return {f'nv_inference_request_summary_us{{{FRONT},instance="front-0",quantile="{quantile}"}}': values}


def failed(values: str) -> dict[str, str]:
    return {
        f'nv_inference_request_failure{{{FRONT},reason="OTHER"}}': values,
        f'nv_inference_request_failure{{{FRONT},reason="CANCELED"}}': "0x60",
    }


def pods(ready: str, wanted: str = "4x60") -> dict[str, str]:
    return {
        f"kube_deployment_status_replicas_ready{{{TIER0}}}": ready,
        f"kube_deployment_spec_replicas{{{TIER0}}}": wanted,
    }


def scaled(wanted: str) -> dict[str, str]:
    return {
        f"kube_horizontalpodautoscaler_status_desired_replicas{{{HPA0}}}": wanted,
        f"kube_horizontalpodautoscaler_spec_max_replicas{{{HPA0}}}": "16x60",
    }


def keda(values: str, labels: str = 'namespace="elasticrec"') -> dict[str, str]:
    return {f"keda_scaler_detail_errors_total{{{labels},{KEDA}}}": values}


def routed(counter: str, values: str, answered: str = "0+600x60", labels: str = "") -> dict[str, str]:
    return {
        f'elasticrec_{counter}{{{ROUTER},service="tier0"{labels}}}': values,
        f'elasticrec_remote_calls_total{{{ROUTER},service="tier0"}}': answered,
    }


TIER = {"service": "tier0"}
CASES = [
    Case("ElasticrecSlaMissed", slow("390000x20 410000x40"), {}),
    Case("ElasticrecSlaMissed", slow("390000x60"), None),
    Case("ElasticrecSlaMissed", slow("390000x23 410000x40"), None),  # for a minute
    Case("ElasticrecSlaMissed", slow(" ".join(60 * ["NaN"])), None),  # no traffic
    Case("ElasticrecSlaMissed", slow("900000x60", "0.99"), None),
    Case("ElasticrecQueriesFail", {**SCRAPED, **failed("0+20x60")}, {}),  # 10 of 910 queries, counted twice
    Case("ElasticrecQueriesFail", {**SCRAPED, **failed("0+16x60")}, None),  # 8 of 908
    Case("ElasticrecQueriesFail", {**SCRAPED, **failed("0x60")}, None),
    Case("ElasticrecNotScraped", dict(list(SCRAPED.items())[:2]), {"model": "rm1_tier1", "namespace": "elasticrec"}),
    Case("ElasticrecNotScraped", SCRAPED, None),
    Case("ElasticrecScalingFallback", keda("0x20 1 2 2x40"), {"scaledObject": "rm1-tier0", "scaler": "queue"}),
    Case("ElasticrecScalingFallback", keda("0x20 1 1x40"), None),
    Case("ElasticrecScalingFallback", keda("7x60"), None),  # long ago
    Case(
        "ElasticrecScalingFallback",
        keda("0x20 1 2 3 3x40", 'namespace="keda",exported_namespace="elasticrec"'),
        {"scaledObject": "rm1-tier0", "scaler": "queue"},
    ),
    Case("ElasticrecScalingFallback", keda("0x20 1 2 3 3x40", 'namespace="other"'), None),
    Case("ElasticrecAtMaxReplicas", scaled("4x9 16x50"), {"deployment": "rm1-tier0"}),
    Case("ElasticrecAtMaxReplicas", scaled("4x9 15x50"), None),
    Case("ElasticrecAtMaxReplicas", scaled("4x20 16x40"), None),  # for five minutes
    Case("ElasticrecPodsMissing", pods("4x5 3x50"), {"deployment": "rm1-tier0"}),
    Case("ElasticrecPodsMissing", pods("4x60"), None),
    Case("ElasticrecPodsMissing", pods("4x15 3x50"), None),  # it may be loading
    Case("ElasticrecReplicaSetAside", routed("replicas_aside", "0x20 2x40"), TIER),
    Case("ElasticrecReplicaSetAside", routed("replicas_aside", "0x60"), None),
    Case("ElasticrecReplicaSetAside", routed("replicas_aside", "0x24 2x40"), None),  # just now
    Case("ElasticrecRemoteCallsFail", routed("remote_failures_total", "0+7x60", labels=',reason="timeout"'), TIER),
    Case("ElasticrecRemoteCallsFail", routed("remote_failures_total", "0+5x60", labels=',reason="timeout"'), None),
    Case("ElasticrecAnswersDegraded", routed("degraded_queries_total", "0x20 0+3x40"), TIER),
    Case("ElasticrecAnswersDegraded", routed("degraded_queries_total", "9x60"), None),
    Case("ElasticrecOverloaded", {f"elasticrec_overloaded_queries_total{{{ROUTER}}}": "0x18 0+30x40"}, {}),
    Case("ElasticrecOverloaded", {f"elasticrec_overloaded_queries_total{{{ROUTER}}}": "30x60"}, None),
]


def promtool(*words: str | Path) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The rules as Prometheus's operator hands them to Prometheus."""
    (tmp_path / "fleet").mkdir()
    rule = prometheus_rule(fleet(tmp_path / "fleet"), options())
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule["spec"]))
    return tmp_path / "rules.yml"


def test_prometheus_takes_the_rules(rules: Path) -> None:
    promtool("check", "rules", rules)


def test_every_alert_fires_where_it_should_and_nowhere_else(rules: Path, tmp_path: Path) -> None:
    found = {alert.name: alert for alert in alerts(fleet_of(tmp_path), "elasticrec")}
    for fires in (True, False):
        assert {case.alert for case in CASES if (case.fires is not None) == fires} == set(found)
    tests = []
    for case in CASES:
        alert = found[case.alert]
        expected: list[dict[str, Any]] = []
        if case.fires is not None:
            labels = {**case.fires, "severity": alert.severity, "fleet": "rm1"}
            expected = [{"exp_labels": labels, "exp_annotations": annotations(alert.summary, alert.reason, case.fires)}]
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
                "alert_rule_test": [{"eval_time": "25m", "alertname": case.alert, "exp_alerts": expected}],
            }
        )
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": [str(rules)], "tests": tests}))
    promtool("test", "rules", tmp_path / "tests.yml")


def test_a_services_queue_counts_what_waits_in_the_front_ends_routers(tmp_path: Path) -> None:
    """A request of it waited 2 ms, and a query 7 ms before; where the router says nothing, its own wait counts."""
    made = fleet_of(tmp_path)
    rule = next(rule for rule in service_rules(made, made.shards[0]) if rule.name == "queue")
    shard = 'namespace="elasticrec",model="rm1_tier0",instance="tier0-0"'
    own = {
        f"nv_inference_queue_duration_us{{{shard}}}": "0+200000x60",
        f"nv_inference_request_success{{{shard}}}": "0+100x60",
    }
    waits = {
        f'elasticrec_remote_wait_us_total{{{ROUTER},service="tier0"}}': "0+2100000x60",
        f'elasticrec_remote_queries_total{{{ROUTER},service="tier0"}}': "0+300x60",
        f'elasticrec_remote_wait_us_total{{{ROUTER},service="tier1"}}': "0+9000000x60",
    }
    tests = [
        {
            "interval": "10s",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": rule.query.promql(Scope("elasticrec")),
                    "eval_time": "5m",
                    "exp_samples": [{"labels": "{}", "value": value}],
                }
            ],
        }
        for series, value in ((own, 2000), ({**own, **waits}, 9000))
    ]
    (tmp_path / "queue.yml").write_text(yaml.safe_dump({"tests": tests}))
    promtool("test", "rules", tmp_path / "queue.yml")


def fleet_of(folder: Path) -> Any:
    (folder / "again").mkdir()
    return fleet(folder / "again")


def annotations(summary: str, reason: str, labels: dict[str, str]) -> dict[str, str]:
    """What is said of it, labels and values filled in."""
    for name, value in labels.items():
        summary = summary.replace(f"{{{{ $labels.{name} }}}}", value)
    return {"summary": summary.replace("{{ $value }}", "2" if "aside" in summary else "3"), "description": reason}


@pytest.mark.parametrize(("files_bytes", "minutes"), [(10**9, 15), (90 * 10**9, 62)])
def test_pods_that_load_a_large_service_are_not_missing(files_bytes: int, minutes: int, tmp_path: Path) -> None:
    """Their startup probe gives them a minute and a second a 50 MB: 31 minutes for 90 GB."""
    built = fleet(tmp_path)
    large = replace(built, services=(*built.services[:-1], replace(built.services[-1], files_bytes=files_bytes)))
    (missing,) = (alert for alert in alerts(large, "elasticrec") if alert.name == "ElasticrecPodsMissing")
    assert missing.minutes == minutes
