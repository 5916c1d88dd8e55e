"""The sample queries of a repository, read by its manifest."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from repo_builder.repository.manifest import (
    read_queries,
)
from tests.repository.manifests import manifest_document, problems, write

DENSE = np.arange(12, dtype=np.float32).reshape(4, 3)
INDICES = np.arange(8).reshape(4, 2) - 1


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, DENSE)
    return buffer.getvalue()


WHOLE = npz(dense=DENSE, indices=INDICES)


def zipped(content: bytes) -> bytes:
    """An archive with `content` as its `dense`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("dense.npy", content)
    return buffer.getvalue()


@pytest.fixture
def sampled(repository: Path) -> Path:
    """A repository whose queries are WHOLE."""
    document = manifest_document()
    document["inputs"] = document["inputs"][:2]
    document["lookups"] = document["lookups"][:1]
    write(repository, document)
    (repository / "queries.npz").write_bytes(WHOLE)
    return repository


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_queries_are_the_first_rows(rows: int, sampled: Path) -> None:
    found = read_queries(sampled, rows)
    assert list(found) == ["dense", "indices"]
    np.testing.assert_array_equal(found["dense"], [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(min(rows, 4))])
    np.testing.assert_array_equal(found["indices"], [[2 * i - 1, 2 * i] for i in range(min(rows, 4))])


BROKEN = {
    "empty": b"",
    "text": b"hello",
    "one array": npy(),
    "truncated": WHOLE[:-30],
    "a changed item": WHOLE.replace(DENSE.tobytes(), b"\1" + DENSE.tobytes()[1:]),
    "a pickle": npz(dense=np.array([None]), indices=INDICES),
    "a member that is no array": zipped(b"hello"),
    "an empty member": zipped(b""),
    "encrypted": WHOLE.replace(b"PK\1\2\x2d\3\x2d\0\0\0", b"PK\1\2\x2d\3\x2d\0\1\0"),
    "an unknown compression": WHOLE.replace(b"PK\1\2\x2d\3\x2d\0\0\0\0\0", b"PK\1\2\x2d\3\x2d\0\0\0\x63\0"),
}
OTHERS = {
    "no indices": (npz(dense=DENSE), "indices: expected this array, got none"),
    "no rows": (npz(dense=np.float32(1), indices=INDICES), "dense: expected shape [queries, 3], got []"),
    "an empty archive": (npz(), "dense: expected this array, got none"),
    "one more": (npz(dense=DENSE, indices=INDICES, more=DENSE), "more: expected an input of the model, ends/INPUT or"),
    "another type": (npz(dense=DENSE.astype(float), indices=INDICES), "dense: expected float32 for FP32, got float64"),
    "another width": (npz(dense=DENSE[:, 1:], indices=INDICES), "dense: expected shape [queries, 3], got [4, 2]"),
    "fewer rows": (npz(dense=DENSE[1:], indices=INDICES), "dense, indices: expected equally many rows, got 3, 4"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_queries_are_one_line(case: str, sampled: Path) -> None:
    assert BROKEN[case] != WHOLE
    (sampled / "queries.npz").write_bytes(BROKEN[case])
    [problem] = problems(lambda folder: read_queries(folder, 2), sampled)
    assert problem.startswith(f"{sampled}/queries.npz: expected sample queries in .npz, but ")
    assert problem.endswith("; build the repository again")


@pytest.mark.parametrize("case", OTHERS)
def test_queries_of_another_model_are_told_by_input(case: str, sampled: Path) -> None:
    content, told = OTHERS[case]
    (sampled / "queries.npz").write_bytes(content)
    assert problems(lambda folder: read_queries(folder, 2), sampled)[0].startswith(f"{sampled}/queries.npz: {told}")


@pytest.mark.parametrize("there", ["nothing", "a folder"])
def test_missing_queries_are_one_line(there: str, sampled: Path) -> None:
    (sampled / "queries.npz").unlink()
    if there == "a folder":
        (sampled / "queries.npz").mkdir()
    [problem] = problems(lambda folder: read_queries(folder, 2), sampled)
    assert "queries.npz: expected sample queries" in problem and os.linesep not in problem
