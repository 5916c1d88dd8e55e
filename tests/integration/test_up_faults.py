"""`elasticrec up` where something beside the shards fails: a front end dies, Prometheus is silent, or not there."""

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from playwright.sync_api import Page, expect

from elasticrec.cli import main
from tests.browser import chromium
from tests.integration.fleets import eventually
from tests.integration.models import pytorch_scores, random_query, score
from tests.integration.ups import Built, Up, built, following_load, ready
from tests.k8s.prometheus import needs_prometheus

pytestmark = [pytest.mark.server, pytest.mark.slow]

WINDOW_S = 10
TWO_EACH = [word for name in ("frontend", "tier0", "tier1") for word in ("--replicas", f"{name}=2")]


def quick_rules(fleet: Built, folder: Path) -> Path:
    """What `elasticrec k8s` writes for two replicas at least, but with rates and stabilisation over some seconds."""
    assert main(["k8s", str(fleet.folder), "-o", str(folder), "--min-replicas", "2"]) == 0
    for path in folder.glob("*-scaledobject.yaml"):
        text = path.read_text()
        for pattern, quick in (
            (r"\[\d+s\]", f"[{WINDOW_S}s]"),
            (r"(stabilizationWindow|period)Seconds: \d+", r"\1Seconds: 4"),
        ):
            text, count = re.subn(pattern, quick, text)
            assert count > 1, text
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return built(tmp_path_factory.mktemp("faults"), target_qps=60, dense_qps=60)


@pytest.fixture(scope="module")
def scaled(fleet: Built) -> Iterator[Up]:
    """Two replicas of each service, scaled by rules that want two at least."""
    rules = quick_rules(fleet, fleet.folder.with_name("rules"))
    with ready(fleet, "--autoscale", rules, "--sync-s", "1", *TWO_EACH) as process:
        yield process


@needs_prometheus
def test_a_killed_front_end_is_replaced_and_its_clients_go_to_the_other(fleet: Built, scaled: Up) -> None:
    """Clients that ask again, once, where the addresses file leads them."""
    victim = fleet.replicas("frontend")[0]
    with following_load(fleet, 2, pause_s=0.02, tries=2) as seen:
        time.sleep(0.5)
        os.kill(victim["pid"], signal.SIGKILL)
        eventually(lambda: victim["name"] not in [replica["name"] for replica in fleet.replicas("frontend")], 20)
        eventually(lambda: len(fleet.replicas("frontend")) == 2, 60)
        time.sleep(0.5)
    assert seen.answers > 50 and not seen.errors and not seen.wrong, seen.errors
    assert f"{victim['name']}: tritonserver was ended by SIGKILL (Killed)" in fleet.events()


@needs_prometheus
def test_while_prometheus_is_silent_nothing_is_scaled_down(fleet: Built, scaled: Up) -> None:
    """A third replica that the traffic does not need stays as long; queries are served all the while."""
    (prometheus,) = scaled.named("prometheus")
    with following_load(fleet, 1, pause_s=0.05) as seen:
        prometheus.suspend()
        eventually(lambda: "prometheus does not answer: timed out; no scaling by metrics until" in fleet.events(), 20)
        assert main(["scale", str(fleet.folder), "tier0=3"]) == 0
        eventually(lambda: len(fleet.replicas("tier0")) == 3, 60)
        time.sleep(WINDOW_S)
        assert fleet.service("tier0")["wanted"] == 3, fleet.events()
        assert "prometheus answers again" not in fleet.events()
        prometheus.resume()
        eventually(lambda: "autoscaler: prometheus answers again" in fleet.events(), 20)
        eventually(lambda: fleet.service("tier0")["wanted"] == 2, 3 * WINDOW_S)
    assert seen.answers > 50 and not seen.errors and not seen.wrong, seen.errors
    assert psutil.pid_exists(prometheus.pid) and "prometheus: ended" not in fleet.events()


@pytest.fixture
def no_prometheus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program on PATH but that one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for path in Path(place).glob("*"):
            (folder / path.name).unlink(missing_ok=True)
            (folder / path.name).symlink_to(path)
    (folder / "prometheus").unlink(missing_ok=True)
    monkeypatch.setenv("PATH", str(folder))
    assert shutil.which("sh") and not shutil.which("prometheus")


@pytest.mark.usefixtures("no_prometheus")
def test_without_prometheus_a_fleet_runs_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To scale itself it would need one: that is refused, with the remedy. The status page needs none."""
    fleet = built(tmp_path)
    assert main(["up", str(fleet.folder), "--autoscale"]) == 1
    told = capsys.readouterr().err.replace("\n", " ")
    assert "prometheus: not on PATH" in told and "run: apt-get install prometheus" in told
    with ready(fleet) as running:
        assert "prometheus  none" in running.lines
        assert any("no prometheus on PATH: the fleet runs without" in line for line in running.lines)
        query = random_query(fleet.spec, 4, seed=1)
        address = fleet.replicas("frontend")[0]["grpc"]
        np.testing.assert_allclose(
            score("grpc", address, "small", *query), pytorch_scores(fleet.spec, *query), atol=1e-5
        )
        with following_load(fleet, 3, pause_s=0.005) as seen, chromium() as browser:
            page = browser.new_page()
            page.goto(fleet.status()["page"])
            check_page(page, fleet)
        assert seen.answers > 50 and not seen.errors and not seen.wrong


def check_page(page: Page, fleet: Built) -> None:
    """It comes to show each service's replicas and traffic, as `ps` does."""
    expect(page.locator("#summary")).to_have_text("up · no Prometheus · scaled by hand")
    asked = "Number(facts['queries/s']) > 5 && Number(facts['p95 ms']) > 0"  # no latency while a start's calls make it
    page.wait_for_function(f"() => Object.values({SHOWN}).every((facts) => {asked})", timeout=90_000)
    shown = page.evaluate(SHOWN)
    assert list(shown) == ["frontend", "tier0", "tier1"]
    for name, facts in shown.items():
        service = fleet.service(name)
        assert facts["replicas ready"] == "1 of 1" and facts["replicas"] == [f"{name}-1"]
        assert float(facts["queries/s"]) == pytest.approx(service["qps"], rel=0.5)
        assert float(facts["p95 ms"]) > 0
        assert float(facts["memory (PSS) MiB"].replace(",", "")) == pytest.approx(
            service["memory_bytes"] / 1024**2, rel=0.2
        )


SHOWN = """Object.fromEntries([...document.querySelectorAll("#services section")].map((card) => [
  card.querySelector("h2").textContent,
  Object.fromEntries([
    ...[...card.querySelectorAll("dt")].map((term) => [term.textContent, term.nextElementSibling.textContent]),
    ["replicas", [...card.querySelectorAll("li span:first-child")].map((span) => span.textContent)],
  ]),
]))"""
