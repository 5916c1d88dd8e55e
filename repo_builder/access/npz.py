"""Reading `.npz` and `.npy` files in pieces: never more of an array in memory than asked for, and nothing unpickled."""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from repo_builder.errors import AccessError

# What zipfile, its decompressors and numpy's header parser raise over a broken file
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
    EOFError,
    OSError,
    RuntimeError,  # encrypted members; NotImplementedError: unknown compression
    SyntaxError,
    ValueError,
)
_READ_MAGIC: Callable[[IO[bytes]], tuple[int, int]] = npy.read_magic
_READ_HEADER: Mapping[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


@dataclass(frozen=True, slots=True)
class Header:
    """What an array's header says of it; `fortran` means that the first axis changes fastest in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def size(self) -> int:
        """Number of items."""
        return math.prod(self.shape)

    def position(self, item: int) -> str:
        """The index of the `item`-th item of the file, as `[row, column]`."""
        index = np.unravel_index(item, self.shape, order="F" if self.fortran else "C")
        return f"[{', '.join(str(int(i)) for i in index)}]"


class NpzReader:
    """An open `.npz`, or a `.npy` as one with a single array; `opened` opens an array's bytes by its name.

    The methods raise AccessError, naming the file and the array, where the file is broken.
    """

    def __init__(self, path: Path, names: Sequence[str], opened: Callable[[str], IO[bytes]]) -> None:
        self._path = path
        self._opened = opened
        self.names = names

    def header(self, name: str) -> Header:
        """An array's shape and dtype, without its items."""
        with self._member(name) as member:
            return _read_header(member)

    def chunks(self, name: str, chunk_items: int) -> Iterator[NDArray[Any]]:
        """The items in the order of the file, (<= chunk_items,) at a time, in the array's own dtype, read-only."""
        with self._member(name) as member:
            header = _read_header(member)
            for begin in range(0, header.size, chunk_items):
                wanted_bytes = min(chunk_items, header.size - begin) * header.dtype.itemsize
                data = member.read(wanted_bytes)
                if len(data) != wanted_bytes:
                    raise EOFError(
                        f"its data ends in item {begin + len(data) // header.dtype.itemsize} of {header.size}"
                    )
                yield np.frombuffer(data, header.dtype)
            if member.read(1):  # reading to the end also checks the member's checksum
                raise ValueError(f"there is data after its {header.size} items")

    @contextmanager
    def _member(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with self._opened(name) as member:
                yield member
        except _BROKEN as exc:
            raise AccessError(f"{self._path}: {name}: expected a whole numpy array, but {_one_line(exc)}") from exc


@contextmanager
def open_npz(path: Path) -> Iterator[NpzReader]:
    """Open a `.npz` for reading; AccessError where there is no such file or it is not a whole zip archive."""
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as exc:
        raise AccessError(f"{path}: expected a .npz file, found none; check access.path in the spec") from exc
    except _BROKEN as exc:
        what = "a whole .npz file (numpy.savez), but it is truncated or not one"
        raise AccessError(f"{path}: expected {what}: {_one_line(exc)}") from exc
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    with archive:
        yield NpzReader(path, names, lambda name: archive.open(f"{name}.npy"))


def holds_arrays(path: Path, names: Set[str]) -> bool:
    """Whether this is a `.npz` with an array for each of the names; raises AccessError where it is a broken one."""
    if path.suffix != ".npz" or path.is_dir():
        return False
    with open_npz(path) as reader:
        return names <= set(reader.names)


NPY_ARRAY = "the array"
"""What a `.npy`'s array is called: the file gives it no name."""


@contextmanager
def open_npy(path: Path) -> Iterator[NpzReader]:
    """Open a `.npy` for reading; AccessError where there is no such file."""
    if not path.is_file():
        raise AccessError(f"{path}: expected a .npy file, found none; check access.path in the spec")
    yield NpzReader(path, [NPY_ARRAY], lambda _: path.open("rb"))


def missing_problems(path: Path, kind: str, names: Sequence[str], expected: Sequence[str]) -> list[str]:
    """What is missing or there twice of the names that a file must give its `kind`s, one line each."""
    times = Counter(names)
    missing = [f"{path}: {name}: expected this {kind}, got none" for name in expected if name not in times]
    return missing + [
        f"{path}: {name}: expected this {kind} once, got it {times[name]} times" for name in expected if times[name] > 1
    ]


def name_problems(path: Path, kind: str, names: Sequence[str], expected: Sequence[str]) -> list[str]:
    """`missing_problems`, and the names that are unknown."""
    wanted = set(expected)
    return missing_problems(path, kind, names, expected) + [
        f"{path}: {name}: unknown {kind}; expected one {kind} per table, under the tables' expanded names"
        for name in dict.fromkeys(names)
        if name not in wanted
    ]


def _read_header(member: IO[bytes]) -> Header:
    version = _READ_MAGIC(member)
    if version not in _READ_HEADER:
        raise ValueError(f"it has version {version} of numpy's format, for structured arrays")
    shape, fortran, dtype = _READ_HEADER[version](member)
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never loaded")
    if dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"its header says shape {shape} and dtype {dtype}")
    return Header(shape, dtype, fortran)


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__
