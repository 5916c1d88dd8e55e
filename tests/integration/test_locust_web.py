"""Locust's web page in real Chromium, on a real server: start a test, see its queries, stop it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from playwright.sync_api import expect

from repo_builder.serving.server import free_ports
from tests.browser import chromium
from tests.integration.conftest import Served

LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
SETTLED_MS = 3000
# the first row of the page's table of requests, a value by its column's heading
ROW = """(() => {
  const cells = (row) => [...row.children].map((cell) => cell.textContent);
  const [heads, ...rows] = [...document.querySelectorAll("table tr")].map(cells);
  return rows.length ? Object.fromEntries(heads.map((head, i) => [head, rows[0][i]])) : undefined;
})()"""
pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def address(own_server: Served, tmp_path: Path) -> Iterator[str]:
    """Locust's page for a served repository; the process is ended after the test."""
    port = free_ports().http
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--repository", str(own_server.repository)]
    command += ["--grpc-url", own_server.server.grpc, "--http-url", own_server.server.http]
    command += ["--web-host", "127.0.0.1", "--web-port", str(port), "GrpcUser"]
    with (tmp_path / "locust.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _wait(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None
        try:
            urlopen(address, timeout=1).close()  # noqa: S310 - our own process's page
            return
        except (URLError, TimeoutError):
            time.sleep(0.1)
    raise TimeoutError(address)


def test_a_load_test_runs_from_the_page(address: str) -> None:
    """Five users of ten queries per second: every answer right, the rate as asked for, nothing after the stop."""
    with chromium() as browser:
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.fill("input[name=userCount]", "5")
        page.fill("input[name=spawnRate]", "5")
        page.get_by_role("button", name="Start", exact=True).click()
        page.wait_for_function(f"() => Number(({ROW})?.['# Requests']) > 150", timeout=30_000)
        row = page.evaluate(ROW)
        assert (row["Type"], row["Name"], row["# Fails"]) == ("grpc", "small", "0")
        assert (
            float(row["Min (ms)"]) <= float(row["Median (ms)"]) <= float(row["95%ile (ms)"]) <= float(row["Max (ms)"])
        )
        rate = f"Number(({ROW})['Current RPS'])"  # a mean of ten seconds
        page.wait_for_function(f"() => {rate} > 40 && {rate} < 60", timeout=30_000)
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(page.get_by_role("button", name="New", exact=True)).to_be_visible(timeout=20_000)
        page.wait_for_timeout(SETTLED_MS)  # the page asks for figures every 2 s
        stopped = page.evaluate(ROW)["# Requests"]
        page.wait_for_timeout(SETTLED_MS)
        assert page.evaluate(ROW)["# Requests"] == stopped
        assert errors == []
