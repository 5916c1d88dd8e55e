"""A real Prometheus as the fleet runs it."""

import json
from pathlib import Path

import pytest

from repo_builder.errors import ServerError
from repo_builder.local_fleet.prometheus import Prometheus, ask_prometheus, find_prometheus
from repo_builder.local_fleet.run_folder import Events, RunFolder, claimed
from repo_builder.serving.server import free_ports
from tests.integration.fleets import eventually
from tests.k8s.prometheus import needs_prometheus


def answers(url: str, query: str) -> list[float]:
    try:
        return list(ask_prometheus(url, query))
    except ServerError:
        return []


@needs_prometheus
def test_it_scrapes_what_the_targets_file_names_and_ends_with_the_block(tmp_path: Path) -> None:
    run, port = RunFolder.of(tmp_path / "fleet"), free_ports().http
    binary = find_prometheus()
    assert binary
    with claimed(run):
        with Prometheus(binary, port, run, Events(run.events)) as server:
            own = {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "elasticrec"}}
            run.targets.write_text(json.dumps([own]))
            eventually(lambda: answers(server.url, 'up{namespace="elasticrec"}') == [1.0], 20)
            assert ask_prometheus(server.url, "vector(0) > 1") == []
            with pytest.raises(ServerError, match=r"prometheus refused a query: .*parse error.*; the query: sum"):
                ask_prometheus(server.url, "sum(")
            second = Prometheus(binary, port, run, Events(run.events))
            with pytest.raises(ServerError, match="choose another with --prometheus-port"), second:
                pass
        with pytest.raises(ServerError, match=r"prometheus does not answer: .*refused"):
            ask_prometheus(server.url, "up")
