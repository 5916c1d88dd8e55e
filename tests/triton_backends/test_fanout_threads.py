"""The router under several threads of Triton's at once, while its replicas change: what `make sanitize` looks at."""

from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np

from tests.triton_backends.fake_shard import FakeShard, serving
from tests.triton_backends.fake_triton import Backend, BackendError
from tests.triton_backends.fanouts import make

THREADS, CALLS = 4, 40


def test_queries_of_several_threads_while_replicas_come_and_go(backend: Backend, tmp_path: Path) -> None:
    """Each gets its own sums; one in three has a bad id, so that errors are made at the same time, too."""
    a, other, b = (FakeShard(2) for _ in range(3))
    with serving(a, other, b):
        fanout = make(backend, tmp_path, [a], [b], deadline_us=20_000_000, max_in_flight=1000)
        with fanout.running() as model, ThreadPoolExecutor(THREADS) as pool:

            def ask(thread: int) -> None:
                for call in range(CALLS):
                    queries = [fanout.query(rows, thread) for rows in (1 + thread, 2, 3)]
                    queries[1]["indices"][1, 4] = 9
                    first, bad, last = model.submit(queries).answers(60)
                    assert isinstance(bad, BackendError) and "id 9" in str(bad)
                    for query, answer in ((queries[0], first), (queries[2], last)):
                        assert not isinstance(answer, BackendError), (call, answer)
                        np.testing.assert_array_equal(answer["sums"], fanout.sums(query))

            asking = [pool.submit(ask, thread) for thread in range(THREADS)]
            turn = 0
            while wait(asking, timeout=0.1).not_done:
                turn += 1
                replicas = [[a], [a, other], [other]][turn % 3]
                fanout.write_addresses(tier0=[each.address for each in replicas], tier1=[b.address])
            for each in asking:
                each.result()
            assert model.instance.good == 2 * THREADS * CALLS and model.instance.bad == THREADS * CALLS
