"""The page's text, without a browser: one file, nothing fetched, nobody's words taken for markup."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest

from loadtest.report.page import page
from loadtest.run import Run
from tests.loadtest.runs import EVIL, day, runs


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def test_what_users_wrote_is_never_markup() -> None:
    evil = day()
    run = replace(
        runs()[0], title=EVIL, why=EVIL, complete=False, command=(EVIL,), model=EVIL, layout=EVIL, machine={EVIL: EVIL},
        memory_bytes={EVIL: 1}, points=tuple(replace(p, services={EVIL: p.services["rm1"]}) for p in runs()[0].points),
    )  # fmt: skip
    elements = Elements(page([run, evil]))
    assert len(elements.scripts) == 3 and not any("alert" in text for text in elements.scripts[1:])
    assert not [tag for tag, _ in elements.found if tag in {"img", "b"}]
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]


def test_only_our_scripts_may_run_and_nothing_is_fetched() -> None:
    elements = Elements(page(runs()))
    policy = next(attrs["content"] for tag, attrs in elements.found if attrs.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in re.sub("style-src 'unsafe-inline'", "", policy)
    assert {attrs["href"] for _, attrs in elements.found if "href" in attrs} == {"data:,"}
    assert not [attrs for _, attrs in elements.found if "src" in attrs]


@pytest.mark.parametrize("count", [1, 3])
def test_every_figure_is_valid_plotly(count: int) -> None:
    text = Elements(page(runs()[:count])).scripts[0]
    figures = json.loads(re.sub(r'"--[a-z0-9]+"', '"#123456"', text))
    assert {"sweep-p50", "sweep-p95", "sweep-p99", "services-0", "memory-0"} <= set(figures)
    for figure in figures.values():
        go.Figure(figure)  # raises on what Plotly does not know


def test_parts_that_were_not_measured_are_left_out() -> None:
    bare = tuple(replace(point, services={}, network_ms=None) for point in runs()[0].points)
    run: Run = replace(runs()[0], points=bare, memory_bytes={}, sla_ms=None, found_qps=None, machine={})
    figures = json.loads(Elements(page([run])).scripts[0])
    assert set(figures) == {"sweep-p50", "sweep-p95", "sweep-p99"}
    assert set(json.loads(Elements(page([day()])).scripts[0])) == {"time-0", "memory-0"}
