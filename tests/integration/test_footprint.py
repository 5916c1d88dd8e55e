"""What a server takes, against what the kernel says of its processes."""

import psutil
import pytest

from repo_builder.serving.processes import memory_alone, memory_by_model
from repo_builder.serving.server import stubs
from tests.integration.conftest import Served

pytestmark = pytest.mark.server


def test_memory_alone_counts_shared_pages_once(served: Served) -> None:
    """At least each process's own pages and its share of the others; less than what all map, where several map it."""
    processes = [psutil.Process(served.server.process.pid), *stubs(served.server)]
    memory = [process.memory_full_info() for process in processes]
    alone_bytes = memory_alone(served.server.process.pid)
    slack_bytes = 2**20
    assert alone_bytes >= sum(memory_by_model(served.server.process.pid).values()) - slack_bytes
    assert alone_bytes >= sum(each.uss for each in memory) - slack_bytes
    assert alone_bytes >= max(each.rss for each in memory) - slack_bytes
    if len(memory) > 1:
        assert alone_bytes < sum(each.rss for each in memory) - slack_bytes
    else:
        assert alone_bytes == pytest.approx(memory[0].rss, abs=slack_bytes)
