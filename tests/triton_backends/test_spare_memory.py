"""Memory that a process with one of our backends in it needs no more goes back to the machine."""

import ctypes
import errno
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from repo_builder.serving.install import onnxruntime_library
from tests.triton_backends.fake_triton import Backend, Model
from tests.triton_backends.test_native_onnxruntime import rows, write

MIB = 2**20
PIECE_BYTES, PIECES = 64 * 1024, 2048  # each of the heap, none mapped by itself


@pytest.fixture(scope="module")
def backend(fake: ctypes.CDLL) -> Backend:
    ctypes.CDLL(str(onnxruntime_library()))
    return Backend(fake, "onnxruntime")


class Pieces:
    """128 MiB of glibc's heap, in use."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL("libc.so.6", use_errno=True)  # its own functions, whatever stands before them
        self.libc.malloc.restype = ctypes.c_void_p
        self.all = [ctypes.c_void_p(self.libc.malloc(ctypes.c_size_t(PIECE_BYTES))) for _ in range(PIECES)]
        self.kept = self.all
        for piece in self.all:
            ctypes.memset(piece, 1, PIECE_BYTES)

    def resident_bytes(self) -> int:
        """Of their pages, freed or not: what else the process takes and gives back meanwhile says nothing."""
        return mmap.PAGESIZE * sum(map(self.resident_pages, self.all))

    def resident_pages(self, piece: ctypes.c_void_p) -> int:
        """Of the pages that lie in a piece whole; of none where the kernel knows the addresses no more."""
        assert piece.value
        begin = -(-piece.value // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = (piece.value + PIECE_BYTES - begin) // mmap.PAGESIZE
        resident = (ctypes.c_ubyte * pages)()
        if self.libc.mincore(ctypes.c_void_p(begin), ctypes.c_size_t(pages * mmap.PAGESIZE), resident) == 0:
            return sum(each & 1 for each in resident)
        assert ctypes.get_errno() == errno.ENOMEM
        return 0

    def free_most(self) -> None:
        """All but a few, which lie among and behind the others: glibc keeps what they leave."""
        kept = [*self.kept[:: PIECES // 16], self.kept[-1]]
        for piece in {each.value for each in self.kept} - {each.value for each in kept}:
            self.libc.free(ctypes.c_void_p(piece))
        self.kept = kept

    def close(self) -> None:
        """Free the rest, which must be as it was."""
        for piece in self.kept:
            assert ctypes.string_at(piece, PIECE_BYTES) == bytes([1]) * PIECE_BYTES
            self.libc.free(piece)


@pytest.fixture
def pieces() -> Iterator[Pieces]:
    with closing(Pieces()) as made:
        yield made


def code_of(library: Path) -> list[Any]:
    """The mappings of a library's code."""
    maps = psutil.Process().memory_maps(grouped=False)
    return [each for each in maps if each.path == str(library) and each.perms.startswith("r-x")]


def resident_code(library: Path) -> int:
    """Bytes of it that this process has mapped now."""
    return sum(each.rss for each in code_of(library))


def touch_code(library: Path) -> None:
    """Map all of it."""
    for each in code_of(library):
        begin, end = (int(address, 16) for address in each.addr.split("-"))
        ctypes.string_at(begin, end - begin)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.1)


def test_freed_memory_and_unused_code_are_let_go(backend: Backend, tmp_path: Path, pieces: Pieces) -> None:
    """Both are there until a model has been open for some seconds; it answers afterwards as before."""
    library = onnxruntime_library().resolve()
    touch_code(library)
    code = resident_code(library)
    pieces.free_most()
    assert pieces.resident_bytes() > 100 * MIB and code > 20 * MIB
    with Model(backend, write(tmp_path)) as model:
        wait_for(lambda: pieces.resident_bytes() < 20 * MIB)
        wait_for(lambda: resident_code(library) < code / 2)
        np.testing.assert_array_equal(model.infer({"a": rows(2, 1), "b": rows(2, 2)})["y"], rows(2, 3))


@pytest.mark.slow
def test_what_was_in_use_the_first_time_is_let_go_later(backend: Backend, tmp_path: Path, pieces: Pieces) -> None:
    """As of a burst that is under way then: what its queries leave does not make the process larger any more."""
    burst = Pieces()
    pieces.free_most()
    with closing(burst), Model(backend, write(tmp_path)):
        wait_for(lambda: pieces.resident_bytes() < 20 * MIB)
        burst.free_most()
        assert burst.resident_bytes() > 100 * MIB
        wait_for(lambda: burst.resident_bytes() < 20 * MIB)
