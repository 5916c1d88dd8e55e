"""Requests that break the contract get one clear error, and the next good one is answered."""

from collections.abc import Callable

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.integration.conftest import Served
from tests.integration.models import pytorch_scores, random_query, score

pytestmark = pytest.mark.server

Arrays = dict[str, np.ndarray]


def infer(sdk: object, address: str, arrays: Arrays, model: str = "small", output: str = "score") -> np.ndarray:
    inputs = []
    for name, array in arrays.items():
        inputs.append(sdk.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    client = sdk.InferenceServerClient(address)
    try:
        return client.infer(model, inputs).as_numpy(output)
    finally:
        client.close()


def with_id(row: int, column: int, value: int) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays["indices"][row, column] = value

    return change


def replaced(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = value(arrays[name])

    return change


def nan(arrays: Arrays) -> None:
    arrays["dense"][3, 2] = np.nan


BAD = {
    "id = rows": (with_id(1, 0, 3000), "table users: id 3000 in row 1, column 0"),
    "id of the second of two alike": (with_id(0, 13, 517), "table items_1: id 517 in row 0, column 13"),
    "id < -1": (with_id(2, 4, -2), "table items_0: id -2 in row 2, column 4"),
    "id far out": (with_id(2, 22, 2**31 - 1), "table flag: id 2147483647 in row 2, column 22"),
    "NaN": (nan, "dense: expected finite numbers, got nan in row 3, column 2"),
    "infinity": (replaced("dense", lambda dense: dense / 0), "dense: expected finite numbers"),
    "dense too narrow": (replaced("dense", lambda dense: dense[:, :4]), "unexpected shape for input 'dense'"),
    "indices too wide": (
        replaced("indices", lambda ids: np.hstack([ids, ids])),
        "unexpected shape for input 'indices'",
    ),
    "rows differ": (
        replaced("dense", lambda dense: dense[:2]),
        "dense, indices: expected the same number of rows in each, got 2 and 4",
    ),
    "float ids": (replaced("indices", lambda ids: ids.astype(np.float32)), "data-type"),
    "double dense": (replaced("dense", lambda dense: dense.astype(np.float64)), "data-type"),
    "one dimension": (replaced("dense", lambda dense: dense[0]), "unexpected shape for input 'dense'"),
    "no dense": (lambda arrays: arrays.pop("dense"), "expected 2 inputs but got 1"),
    "unknown input": (lambda arrays: arrays.update(bogus=arrays["dense"]), "expected 2 inputs but got 3"),
    "too many rows": (
        lambda arrays: arrays.update({name: np.repeat(array, 1025, 0) for name, array in arrays.items()}),
        "dense, indices: expected 1 to 4096 rows, got 4100",
    ),
    "no rows": (
        lambda arrays: arrays.update(dense=arrays["dense"][:0], indices=arrays["indices"][:0]),
        "dense, indices: expected 1 to 4096 rows, got 0",
    ),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")  # the test makes infinities on purpose
@pytest.mark.parametrize("sdk", [grpcclient, httpclient], ids=["grpc", "http"])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_gets_a_clear_error(served: Served, sdk: object, case: str) -> None:
    change, message = BAD[case]
    dense, indices = random_query(served.spec, 4, seed=9)
    arrays = {"dense": dense.copy(), "indices": indices.copy()}
    change(arrays)
    address = served.server.grpc if sdk is grpcclient else served.server.http
    with pytest.raises(InferenceServerException) as caught:
        infer(sdk, address, arrays)
    assert message in str(caught.value)
    expected = pytorch_scores(served.spec, dense, indices)
    np.testing.assert_allclose(score("grpc", served.server.grpc, "small", dense, indices), expected, atol=1e-5)


def test_a_shard_called_directly_never_reads_out_of_bounds(served: Served) -> None:
    """The embedding services check for themselves what the router checked before."""
    service = next(service for service in served.plan.services if service.kind == "embedding")
    rows = sum(shard.rows for shard in service.shards)
    tables = len(service.shards)
    for bad in (rows, -1):
        arrays = {"ids": np.array([[bad]], np.int32), "lengths": np.eye(1, tables, dtype=np.int32)}
        with pytest.raises(InferenceServerException, match=rf"ids: expected rows in \[0, {rows}\), got {bad}"):
            infer(grpcclient, served.server.grpc, arrays, f"small_{service.name}", "sums")


@pytest.mark.parametrize("sdk", [grpcclient, httpclient], ids=["grpc", "http"])
def test_a_shard_called_directly_never_makes_more_room_than_for_a_batch(served: Served, sdk: object) -> None:
    """Some megabytes of zeros ask for sums of hundreds."""
    service = next(service for service in served.plan.services if service.kind == "embedding")
    address = served.server.grpc if sdk is grpcclient else served.server.http
    tables, model = len(service.shards), f"small_{service.name}"
    for batch, told in (
        (4096, None),
        (1_000_000, rf"expected at most {4096 * tables} \(4096 rows of {tables} bags\)"),
    ):
        arrays = {"ids": np.zeros((1, 1), np.int32), "lengths": np.eye(1, batch * tables, dtype=np.int32)}
        if told is None:
            assert infer(sdk, address, arrays, model, "sums").shape[0] == batch
            continue
        with pytest.raises(InferenceServerException, match=rf"lengths: {told}, got {batch * tables}"):
            infer(sdk, address, arrays, model, "sums")
