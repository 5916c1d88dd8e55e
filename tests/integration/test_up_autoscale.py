"""`elasticrec up --autoscale` on real servers and a real Prometheus, by rules with shorter windows."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from elasticrec.cli import main
from repo_builder.local_fleet.prometheus import ask_prometheus
from repo_builder.scaling.rules import DOWN_PERIOD_S, DOWN_WINDOW_S
from tests.integration.fleets import Load, eventually
from tests.integration.ups import Built, Up, built, following_load, ready
from tests.k8s.prometheus import needs_prometheus

pytestmark = [pytest.mark.server, pytest.mark.long, needs_prometheus]

WINDOW_S = 10


def hurried_rules(fleet: Built, folder: Path) -> Path:
    """What `elasticrec k8s` writes, but that it looks back ten seconds and not half a minute or five."""
    assert main(["k8s", str(fleet.folder), "-o", str(folder)]) == 0
    for path in folder.glob("*-scaledobject.yaml"):
        text = path.read_text()
        for old, new in (
            ("[30s]", f"[{WINDOW_S}s]"),
            (f"stabilizationWindowSeconds: {DOWN_WINDOW_S}", "stabilizationWindowSeconds: 5"),
            (f"periodSeconds: {DOWN_PERIOD_S}", "periodSeconds: 5"),
        ):
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
    return folder


def wanted(fleet: Built) -> dict[str, int]:
    return {service["name"]: service["wanted"] for service in fleet.status()["services"]}


def memory(fleet: Built) -> dict[str, int]:
    return {service["name"]: service["memory_bytes"] for service in fleet.status()["services"]}


def prometheus_of(running: Up) -> psutil.Process:
    (prometheus,) = running.named("prometheus")
    return prometheus


def test_traffic_steps_up_and_down_and_prometheus_dies(tmp_path: Path) -> None:
    """The hot tier and the front end follow, the cold tier stays, and no query fails or is scored wrong."""
    fleet = built(tmp_path, target_qps=60, dense_qps=60)
    rules = hurried_rules(fleet, tmp_path / "rules")
    with ready(fleet, "--autoscale", rules, "--sync-s", "2") as running:
        with following_load(fleet, 1, pause_s=0.05) as calm:
            time.sleep(WINDOW_S + 4)
            assert wanted(fleet) == {"frontend": 1, "tier0": 1, "tier1": 1}, fleet.events()
            calm_qps = rate_is_counted(fleet, calm)
            before = memory(fleet)
        with following_load(fleet, 6, pause_s=0.04) as busy:
            eventually(lambda: len(fleet.replicas("tier0")) >= 2 and len(fleet.replicas("frontend")) >= 2, 60)
            assert wanted(fleet)["tier1"] == 1, fleet.events()
            assert counted_qps(busy, 3) > 4 * calm_qps
            after = memory(fleet)
        with following_load(fleet, 1, pause_s=0.1) as quiet:
            prometheus_dies_and_returns(fleet, running)
            eventually(lambda: wanted(fleet) == {"frontend": 1, "tier0": 1, "tier1": 1}, 90)
            eventually(lambda: all(len(service["replicas"]) == 1 for service in fleet.status()["services"]), 20)
            time.sleep(4)
            rested = memory(fleet)
    assert after["tier0"] > 1.5 * before["tier0"] and after["frontend"] > 1.3 * before["frontend"]
    assert after["tier1"] < 1.3 * before["tier1"]
    assert all(rested[name] < 1.3 * before[name] for name in before), (before, rested)
    for seen in (calm, busy, quiet):
        assert seen.answers > 50 and not seen.errors and not seen.wrong, seen.errors
    events = fleet.events()
    assert "autoscaler: tier0: 1 -> 2 (metrics, 2 asked for): throughput" in events or "tier0: 1 -> 3" in events
    assert "by hand" not in events


def counted_qps(seen: Load, seconds: float) -> float:
    """What the clients count from now on."""
    before, start = seen.answers, time.monotonic()
    time.sleep(seconds)
    return (seen.answers - before) / (time.monotonic() - start)


def rate_is_counted(fleet: Built, seen: Load) -> float:
    """What the status and Prometheus call queries/s, against the client's own count; returns that."""
    url = fleet.status()["prometheus"]
    counted = counted_qps(seen, WINDOW_S)
    query = f'sum(rate(nv_inference_request_success{{namespace="elasticrec",model="small"}}[{WINDOW_S}s]))'
    assert ask_prometheus(url, query)[0] == pytest.approx(counted, rel=0.2)
    assert fleet.service("frontend")["qps"] == pytest.approx(counted, rel=0.5)
    return counted


def prometheus_dies_and_returns(fleet: Built, running: Up) -> None:
    before = wanted(fleet)
    victim = prometheus_of(running)
    os.kill(victim.pid, signal.SIGKILL)
    eventually(lambda: "prometheus: ended with status -9; it is started again" in fleet.events(), 10)
    assert wanted(fleet)["tier0"] <= before["tier0"]
    eventually(lambda: ask(fleet) == [len(fleet.status()["services"])] or ask(fleet)[0] > 2, 30)
    assert prometheus_of(running).pid != victim.pid


def ask(fleet: Built) -> list[float]:
    try:
        return list(ask_prometheus(fleet.status()["prometheus"], "sum(up)")) or [0.0]
    except Exception:  # noqa: BLE001 - it just starts
        return [0.0]
