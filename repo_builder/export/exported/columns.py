"""Whether a tensor is some columns of another one, seen as a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.fx import Node

from repo_builder.export.exported.graph import Size, shape_of
from repo_builder.export.exported.probe import Probe
from repo_builder.model.types import Columns


def columns_of(probes: Sequence[Probe], source: Node, taken: Node, rows: Size, bags: int, bag: int) -> Columns | None:
    """The columns of a source, as a matrix of so many rows, that a tensor is: of each row `bags` bags, in order.

    None where the tensor is not that.
    """
    found = {_columns_at(probe, source, taken, probe.size(rows), bags * bag) for probe in probes}
    (begin, width), *others = found
    return None if others or not width else Columns(begin, bag, width)


def _columns_at(probe: Probe, source: Node, taken: Node, rows: int, columns: int) -> tuple[int, int]:
    """First column and width of the source, at one size; a width of 0 where the tensor is none of its columns."""
    width, rest = divmod(math.prod(probe.size(size) for size in shape_of(source)), max(rows, 1))
    (numbers,) = probe.numbered(source, [taken])
    if rest or not columns or numbers.numel() != rows * columns:
        return 0, 0
    begin = int(numbers.reshape(-1)[0])
    expected = torch.arange(rows)[:, None] * width + begin + torch.arange(columns)
    inside = begin + columns <= width
    return (begin, width) if inside and torch.equal(numbers.reshape(rows, columns).long(), expected) else (0, 0)


def is_same(probes: Sequence[Probe], source: Node, taken: Node) -> bool:
    """Whether a tensor has all of a source's elements in their order, in whatever shape."""
    for probe in probes:
        (numbers,) = probe.numbered(source, [taken])
        total = math.prod(probe.size(size) for size in shape_of(source))
        if not torch.equal(numbers.reshape(-1).long(), torch.arange(total)):
            return False
    return True
