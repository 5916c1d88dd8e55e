"""Served scores against PyTorch's forward, over both protocols."""

import threading
import time

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from tests.integration.conftest import Served
from tests.integration.models import pytorch_scores, random_query, score

pytestmark = pytest.mark.server


def test_the_plan_under_test_has_several_services(served: Served) -> None:
    """What the other tests rest on: ids really are spread over shards."""
    assert sum(service.kind == "embedding" for service in served.plan.services) >= 3


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("batch", [1, 2, 33, 1024])
def test_scores_equal_pytorch(served: Served, protocol: str, batch: int) -> None:
    dense, indices = random_query(served.spec, batch, seed=batch)
    scores = score(protocol, getattr(served.server, protocol), "small", dense, indices)
    assert scores.shape == (batch, 1) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, pytorch_scores(served.spec, dense, indices), atol=1e-5)


def test_the_comparison_can_tell_one_wrong_id(served: Served) -> None:
    """A single other id moves a score by far more than the tolerance."""
    dense, indices = random_query(served.spec, 64, seed=5)
    other = indices.copy()
    other[:, 2] = (other[:, 2] + 1) % 3000
    changed = np.abs(pytorch_scores(served.spec, dense, indices) - pytorch_scores(served.spec, dense, other))
    assert np.median(changed) > 1e-3


def test_rows_of_padding_alone(served: Served) -> None:
    """No id at all, in some rows and in the whole query: empty bags are zeros."""
    dense, indices = random_query(served.spec, 6, seed=1)
    indices[2:4] = -1
    for rows in (slice(0, 6), slice(2, 4)):
        scores = score("grpc", served.server.grpc, "small", dense[rows], indices[rows])
        np.testing.assert_allclose(scores, pytorch_scores(served.spec, dense[rows], indices[rows]), atol=1e-5)


def test_the_same_id_in_every_slot(served: Served) -> None:
    """Among others, and a query of nothing else: their bags are zeros."""
    dense, indices = random_query(served.spec, 6, seed=2)
    indices[2:5] = -1
    for rows in (slice(0, 6), slice(2, 5)):
        scores = score("grpc", served.server.grpc, "small", dense[rows], indices[rows])
        np.testing.assert_allclose(scores, pytorch_scores(served.spec, dense[rows], indices[rows]), atol=1e-5)


@pytest.mark.slow
def test_concurrent_clients_never_get_a_wrong_score(served: Served) -> None:
    """Eight clients for five seconds, each with its own queries of changing sizes."""
    queries = [random_query(served.spec, 1 + 7 * k % 40, seed=100 + k) for k in range(32)]
    expected = [pytorch_scores(served.spec, *query) for query in queries]
    stop_at = time.monotonic() + 5
    answers, wrong = [0] * 8, []

    def client(number: int) -> None:
        sdk = grpcclient.InferenceServerClient(served.server.grpc)
        rng = np.random.default_rng(number)
        while time.monotonic() < stop_at:
            k = int(rng.integers(len(queries)))
            inputs = []
            for name, array, kind in zip(
                ("dense", "indices"), queries[k], ("FP32", served.spec.dlrm.index_dtype.upper()), strict=True
            ):
                inputs.append(grpcclient.InferInput(name, array.shape, kind))
                inputs[-1].set_data_from_numpy(array)
            difference = np.abs(sdk.infer("small", inputs).as_numpy("score") - expected[k]).max()
            if not difference <= 1e-5:
                wrong.append((k, difference))
            answers[number] += 1
        sdk.close()

    threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert min(answers) > 20
