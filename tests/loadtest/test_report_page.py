"""The page's text, without a browser: one file, nothing fetched, nobody's words taken for markup."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

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


def fleet() -> Run:
    """A run over time on a fleet, whose replicas are as many most of the time; services by their own names."""
    names = ("tier1", "frontend", "tier0")
    timeline = tuple(
        replace(sample, replicas=dict.fromkeys(names, 1), memory_bytes={"frontend": 2, "tier0": 1})
        for sample in day().timeline
    )
    return replace(day(), title="fleet", model="rm1", timeline=timeline, memory_bytes={"tier0": 1, "frontend": 2})


def charts(elements: Elements) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(elements.scripts[0])
    return found


def test_a_service_has_one_colour_on_the_whole_page() -> None:
    """In bars and lines, of Triton's models and of a fleet's services."""
    colours: dict[str, set[str]] = {}
    found = charts(Elements(page([*runs()[:2], fleet()])))
    for name, figure in found.items():
        for trace in figure["data"]:
            if name.startswith(("services", "memory")):
                pairs = list(zip(trace["y"], trace["marker"]["color"], strict=True))
            else:
                pairs = [(trace["name"], trace["line"]["color"])] if name.startswith("time") else []
            for told, shade in pairs:
                colours.setdefault(told.split(" x ")[0].removeprefix("rm1_"), set()).add(shade)
    assert {"tier0", "frontend", "dense", "router", "embeddings"} <= set(colours)
    services = {name: shades for name, shades in colours.items() if name in {"tier0", "tier1", "frontend", "dense"}}
    assert all(len(shades) == 1 for shades in services.values()), colours
    assert len(set.union(*services.values())) == len(services)


def test_replicas_that_are_as_many_are_all_seen() -> None:
    """Equal lines lie on each other: each is wider than those drawn after it."""
    data = charts(Elements(page([fleet()])))["time-0"]["data"]
    widths = [trace["line"]["width"] for trace in data if trace["name"] in {"tier1", "frontend", "tier0"}][:3]
    assert widths[0] >= widths[1] + 1 >= widths[2] + 2


def test_a_dash_has_its_reason() -> None:
    missed = replace(runs()[0], points=tuple(replace(point, errors=1) for point in runs()[0].points), memory_bytes={})
    text = page([missed, fleet()])
    assert "whole model: no best point: no load met the SLA without an error" in text
    assert "whole model: no memory: its servers could not be seen" in text
    assert "fleet: no best point: it was measured over time" in text
    assert "no best point" not in page(runs()[:2])
