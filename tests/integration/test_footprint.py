"""What a server takes, against what the kernel says of its processes."""

import psutil
import pytest

from repo_builder.serving.processes import memory_alone, memory_by_model
from repo_builder.serving.server import stubs
from tests.integration.conftest import Served

pytestmark = pytest.mark.server


def test_memory_alone_counts_shared_pages_once(served: Served) -> None:
    """At least each process's own pages and its share of the others; less than what all map, where several map it.

    A server that was just asked may give memory back meanwhile: what it should be is read before and after.
    """
    pid, slack_bytes = served.server.process.pid, 2**20
    processes = [psutil.Process(pid), *stubs(served.server)]

    def read() -> tuple[int, int, list[int]]:
        memory = [process.memory_full_info() for process in processes]
        return sum(memory_by_model(pid).values()), sum(each.uss for each in memory), [each.rss for each in memory]

    before, alone_bytes, after = read(), memory_alone(pid), read()
    (shared, own, mapped), (shared_after, own_after, mapped_after) = before, after
    assert alone_bytes >= min(shared, shared_after) - slack_bytes
    assert alone_bytes >= min(own, own_after) - slack_bytes
    assert alone_bytes >= min(max(mapped), max(mapped_after)) - slack_bytes
    if len(processes) > 1:
        assert alone_bytes < max(sum(mapped), sum(mapped_after)) - slack_bytes
    else:
        assert alone_bytes <= max(mapped[0], mapped_after[0]) + slack_bytes
