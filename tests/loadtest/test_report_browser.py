"""The page in real Chromium: it draws without an error or a request, shows the runs' numbers, and can be read."""

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from loadtest.report.page import page as report_page
from tests.browser import CONTRASTS, WIDE, chromium
from tests.loadtest.runs import EVIL, MIB, runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_page(runs()), encoding="utf-8")
    return path.as_uri()


class Visit:
    """A page and all that it said or asked for."""

    def __init__(self, browser: Browser, address: str, width: int = 1280, scheme: Any = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page: Page = context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector(f"html[data-drawn={scheme}]", state="attached")
        self.page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")

    def change_theme(self, scheme: Any) -> None:
        self.page.emulate_media(color_scheme=scheme)
        self.page.wait_for_selector(f"html[data-drawn={scheme}]", state="attached")

    def table(self, name: str) -> list[list[str]]:
        rows = f"[...document.querySelectorAll('#{name} tbody tr')]"
        found: list[list[str]] = self.page.evaluate(
            f"{rows}.map((row) => [...row.children].map((cell) => cell.textContent))"
        )
        return found

    def drawn(self, name: str) -> list[dict[str, Any]]:
        read = "(name) => document.getElementById(name).data.map(({ name, x, y, yaxis }) => ({ name, x, y, yaxis }))"
        found: list[dict[str, Any]] = self.page.evaluate(read, name)
        return found


@pytest.fixture(scope="module")
def desktop(browser: Browser, report: str) -> Visit:
    return Visit(browser, report)


def test_it_shows_the_very_numbers_of_the_runs(desktop: Visit) -> None:
    visit = desktop
    given = runs()
    for i, run in enumerate(given[:2]):
        best = max((p for p in run.points if p.p95_ms <= 50 and not p.errors), key=lambda p: p.throughput_qps)
        row = visit.table("summary")[i]
        assert row[0] == run.title and float(row[1].split(" ")[0]) == round(best.throughput_qps, 1)
        assert row[2:5] == [f"{value:,.2f}" for value in (best.p50_ms, best.p95_ms, best.p99_ms)]
        assert row[6].split(" ")[0] == f"{sum(run.memory_bytes.values()) / MIB:,.1f}" and row[7] == "13"
        points = visit.table(f"points-{i}")
        assert [float(cells[1].replace(",", "")) for cells in points] == [
            round(p.throughput_qps, 1) for p in run.points
        ]
        assert [cells[8] for cells in points] == [str(p.errors) for p in run.points]
        for percentile in (50, 95, 99):
            drawn = visit.drawn(f"sweep-p{percentile}")[i]
            assert drawn["x"] == [p.throughput_qps for p in run.points]
            assert drawn["y"] == [asdict(p)[f"p{percentile}_ms"] for p in run.points]
        queue, compute = visit.drawn(f"services-{i}")[:2]
        assert dict(zip(queue["y"], queue["x"], strict=True)) == {n: t.queue_ms for n, t in best.services.items()}
        assert compute["x"] == [times.compute_ms for times in best.services.values()]
        assert visit.drawn(f"services-{i}")[2]["x"] == [best.network_ms]
    lines = {(line["yaxis"], line["name"]): line["y"] for line in visit.drawn("time-2")}
    day = given[2]
    assert lines["y", "p99"] == [sample.p99_ms for sample in day.timeline]
    assert lines["y2", "offered"] == [sample.offered_qps for sample in day.timeline]
    assert lines["y2", "answered"] == [sample.answered_qps for sample in day.timeline]
    assert lines["y3", "errors"] == [sample.errors for sample in day.timeline]
    assert lines["y4", "rm1_tier0"] == [sample.replicas["rm1_tier0"] for sample in day.timeline]
    assert visit.table("summary")[2][0] == EVIL and visit.table("summary")[2][8] == "not complete"
    assert "the server ended with signal 9 <i>" in visit.page.inner_text("main")


def test_a_command_is_copied(desktop: Visit) -> None:
    button = desktop.page.locator("button[data-copies=command-0]")
    button.click()
    expect(button).to_have_text(re.compile("Copied|Selected"))
    copied = desktop.page.evaluate("async () => String(getSelection()) || await navigator.clipboard.readText()")
    assert copied == "elasticrec loadtest perf 'a folder/rm1'"


@pytest.mark.parametrize(("width", "schemes"), [(1280, ("light", "dark")), (390, ("dark", "light"))])
def test_it_can_be_read_anywhere(browser: Browser, report: str, width: int, schemes: tuple[str, str]) -> None:
    """At a desk and on a phone, in both themes, and when the theme changes while it is open."""
    visit = Visit(browser, report, width, schemes[0])
    for scheme in schemes:
        visit.change_theme(scheme)
        assert visit.page.evaluate(WIDE) == 0
        found = visit.page.evaluate(CONTRASTS)
        assert len(found["words"]) > 200 and len(found["lines"]) > 10
        assert [pair for pair in found["words"] if pair[1] < 4.5] == []
        assert [pair for pair in found["lines"] if pair[1] < 3] == []
        assert [pair for pair in found["sizes"] if pair[1] < 12] == []
    assert visit.said == []
    assert visit.requests == [report]


def test_a_foreign_script_does_not_run(browser: Browser, report: str, tmp_path: Path) -> None:
    """The policy holds even where escaping would have failed."""
    text = report_page(runs()[:1]).replace("<main>", "<main><script>document.title = 'foreign'</script>")
    (tmp_path / "changed.html").write_text(text, encoding="utf-8")
    visit = Visit(browser, (tmp_path / "changed.html").as_uri())
    assert visit.page.title() == "Load test: whole model"
    assert any("Content Security Policy" in line for line in visit.said)
