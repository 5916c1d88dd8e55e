"""The status page in real Chromium: a fleet's figures, readable at a desk and on a phone, in both themes."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from repo_builder.local_fleet.views import status_page
from tests.browser import CONTRASTS, WIDE, chromium

pytestmark = pytest.mark.slow

MIB = 1024**2
SPILLING = """() => [...document.querySelectorAll("section, section *")]
  .filter((element) => element.scrollWidth > element.clientWidth + 1).map((element) => element.textContent)"""
EVIL = "<img src=x onerror=alert(1)>"


def replicas(service: str, *states: str) -> list[dict[str, Any]]:
    return [
        {"name": f"{service}-{i + 1}", "state": state, "grpc": f"127.0.0.1:2{i:04}" if state != "starting" else None}
        for i, state in enumerate(states)
    ]


def service(name: str, wanted: int, figures: tuple[float, float | None, int], *states: str) -> dict[str, Any]:
    qps, p95_ms, memory_bytes = figures
    facts = {"name": name, "wanted": wanted, "ready": states.count("ready"), "qps": qps, "p95_ms": p95_ms}
    return {**facts, "memory_bytes": memory_bytes, "replicas": replicas(name, *states)}


STATUS: dict[str, Any] = {
    "model": "rm1",
    "phase": "up",
    "page": "http://127.0.0.1:8080/",
    "prometheus": "http://127.0.0.1:9090",
    "rules": "/srv/models/rm1.run/rules",
    "services": [
        service("frontend", 2, (1234.56, 12.345, 1500 * MIB), "ready", "ready"),
        service("tier0", 3, (1234.56, 3.21, 900 * MIB), "ready", "ready", "starting"),
        service("tier1_with_a_name_of_some_length", 1, (1200.0, 4.0, 450 * MIB), "ready", "draining"),
        service("tier2", 1, (0.0, None, 5300 * MIB), "ended", "starting"),
    ],
    "events": [
        "12:00:01 tier0-3: starting",
        "12:00:02 autoscaler: tier0: 2 -> 3 (metrics, 3 asked for): throughput 1,234.6 of 520.0 a replica, "
        "queue 12.0 of 40,000.0",
        f"12:00:03 {EVIL}",
    ],
}


PAST = {
    "frontend": {"qps": [0.0, 600.0, 1234.56], "p95_ms": [None, 8.0, 12.345], "ready": [1, 1, 2]},
    "tier0": {"qps": [0.0, 600.0, 1234.56], "p95_ms": [None, 2.0, 3.21], "ready": [1, 2, 2]},
    "tier1_with_a_name_of_some_length": {"qps": [0.0, 10.0, 1200.0], "p95_ms": [3.0, None, 4.0], "ready": [1, 1, 1]},
    "tier2": {"qps": [0.0, 0.0, 0.0], "p95_ms": [None, None, None], "ready": [1, 1, 0]},
}
STATUS |= {
    "totals": {"qps": 1234.56, "p95_ms": 12.345, "ready": 5, "wanted": 7, "memory_bytes": 8150 * MIB},
    "history": PAST,
    "history_unix_s": [1000.0, 1100.0, 1240.0],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with status_page(0, lambda: STATUS) as url:
        yield url


def visit(browser: Browser, address: str, width: int = 1280, scheme: Any = "light") -> tuple[Page, list[str]]:
    """The page once it shows the fleet, and all that it said."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    expect(page.locator("#model")).to_have_text("rm1")
    return page, said


def test_it_shows_services_replicas_traffic_latency_and_memory(browser: Browser, address: str) -> None:
    page, said = visit(browser, address)
    cards = page.locator("#services section").all()
    shown = [
        dict(zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts(), strict=True))
        for card in cards
    ]
    assert [card.locator("h2").inner_text() for card in cards] == [
        "frontend",
        "tier0",
        "tier1_with_a_name_of_some_length",
        "tier2",
    ]
    assert shown[0] == {
        "replicas ready": "2 of 2",
        "queries/s": "1,234.6",
        "p95 ms": "12.35",
        "memory (PSS) MiB": "1,500.0",
    }
    assert shown[3] == {
        "replicas ready": "0 of 1",
        "queries/s": "0.0",
        "p95 ms": "no queries",
        "memory (PSS) MiB": "5,300.0",
    }
    assert cards[1].locator("li").all_inner_texts()[2].split() == ["tier0-3", "starting"]
    assert page.locator("#events").inner_text().splitlines()[2].endswith(EVIL)
    assert said == []


def test_a_latency_that_is_missing_says_why(browser: Browser) -> None:
    asked = {**STATUS["services"][3], "qps": 3.0}
    with status_page(0, lambda: {**STATUS, "services": [*STATUS["services"][:3], asked]}) as url:
        page, _ = visit(browser, url)
        expect(page.locator("#services section").nth(3).locator("dd").nth(2)).to_have_text("not yet")


def test_it_shows_totals_and_the_last_minutes(browser: Browser, address: str) -> None:
    page, said = visit(browser, address)
    told = page.locator("#totals div").all_inner_texts()
    assert [" ".join(text.split()) for text in told] == [
        "queries/s 1,234.6",
        "p95 ms 12.35",
        "replicas ready 5 of 7",
        "memory (PSS) MiB 8,150.0",
    ]
    expect(page.locator("#span")).to_have_text("Lines: the last 4 min, from 0 up.")
    cards = page.locator("#services section").all()
    captions = [[" ".join(text.split()) for text in card.locator("figcaption").all_inner_texts()] for card in cards]
    assert captions[0] == ["queries/s 0.0 to 1,234.6", "p95 ms 8.00 to 12.35", "replicas 1 to 2"]
    assert captions[3] == ["queries/s 0.0 to 0.0", "p95 ms none", "replicas 0 to 1"]
    drawn = [line.get_attribute("points") for line in cards[2].locator("figure").nth(1).locator("polyline").all()]
    assert drawn == ["0,0.25", "2,0"]  # where no query came there is a gap, not a 0
    assert cards[0].locator("figure").nth(2).locator("polyline").get_attribute("points") == "0,0.5 1,0.5 2,0"
    assert said == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_anywhere(browser: Browser, address: str, width: int, scheme: str) -> None:
    page, said = visit(browser, address, width, scheme)
    assert page.evaluate(WIDE) == 0 and page.evaluate(SPILLING) == []
    found = page.evaluate(CONTRASTS)
    assert len(found["words"]) > 50
    assert [pair for pair in found["words"] if pair[1] < 4.5] == []
    assert [pair for pair in found["sizes"] if pair[1] < 12] == []
    assert said == []


@pytest.fixture
def kept_port() -> Iterator[int]:
    """A port that is ours while nobody listens on it: bound all the time, the kernel gives it to nobody."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_a_fleet_that_is_gone_is_told_and_its_return_too(browser: Browser, kept_port: int) -> None:
    with status_page(kept_port, lambda: STATUS) as url:
        page, _ = visit(browser, url)
    expect(page.locator("#summary")).to_have_text("the fleet does not answer", timeout=30_000)
    expect(page.locator("#summary")).to_have_class("lost")
    with status_page(kept_port, lambda: STATUS):
        expect(page.locator("#summary")).to_contain_text("up", timeout=30_000)
