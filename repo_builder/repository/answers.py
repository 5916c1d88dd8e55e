"""What services answer to a routed query by their written files, and what the dense graph is given of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repo_builder.model.source import Partial, divisors_name
from repo_builder.model.types import Model
from repo_builder.repository.design import Design
from repo_builder.repository.wiring import ROWS, SUMS, at_shard, divisors_width, on_wire, pieces
from repo_builder.repository.written_answer import written_answer
from triton_backends.router.idmap import Integers
from triton_backends.router.router import Routed


class Answers:
    """What the services answer to a routed query, as their files have it, and what is made of that."""

    def __init__(self, design: Design, folder: Path, routed: Routed) -> None:
        self.routed = routed
        self._design = design
        self._numbers: dict[tuple[int, str, int], NDArray[np.float32]] = {}
        for k, held in enumerate(design.wiring):
            asked = [(kind, share.group) for share in held.shares for kind in share.asks]
            inputs = {at_shard(kind, group): routed.tensors[on_wire(held.name, kind, group)] for kind, group in asked}
            answer = written_answer(folder / design.folder(held.service), held, inputs)
            for share in held.shares:
                for kind in share.answers:
                    self._numbers[k, kind, share.group] = answer[at_shard(kind, share.group)]
        self._rows = list(self._rows_of_units())

    def vectors(self, index: int) -> NDArray[np.float32]:
        """A look-up's vectors (rows of its group, count * dim), of what all services answer."""
        model = self._design.model
        lookup, dim = model.lookups[index], model.tables[model.lookups[index].table].format.dim
        if index in self.routed.positions:
            return self._put_together(self.routed.positions[index], dim)
        parts = [
            self._numbers[k, SUMS, share.group][:, share.columns[index] :][:, : model.width(lookup)]
            for k, held in enumerate(self._design.wiring)
            for share in held.shares
            if index in share.columns
        ]
        total = np.sum(parts, axis=0, dtype=np.float32)
        if lookup.mode == "mean":
            before = sum(model.lookups[i].count for i in model.in_group(lookup.group) if i < index)
            divisors = self.routed.tensors[divisors_name(lookup.group)][:, before : before + lookup.count]
            total = total / np.repeat(divisors, dim, axis=1)
        return np.asarray(total, np.float32)

    def partials(self) -> dict[str, NDArray[np.float32]]:
        """The dense graph's inputs, made of the answers as the ensemble or a fleet's router does."""
        design, found = self._design, dict[str, NDArray[np.float32]]()
        if design.arrangement.router == "router":
            numbers = self._numbers.items()
            return {on_wire(design.wiring[k].name, kind, group): each for (k, kind, group), each in numbers}
        for k, held in enumerate(design.wiring):
            for share in (each for each in held.shares if each.bags):
                own, whole = self._numbers[k, SUMS, share.group], design.sums[share.group]
                joined = found.setdefault(whole.name, np.zeros((len(own), whole.width), np.float32))
                for begin, end, columns in pieces(design.model, share, whole):
                    joined[:, end : end + columns] += own[:, begin : begin + columns]
        for index in self.routed.positions:
            own, whole = self.vectors(index), design.sums[design.model.lookups[index].group]
            joined = found.setdefault(whole.name, np.zeros((len(own), whole.width), np.float32))
            joined[:, whole.columns[index] :][:, : own.shape[1]] = own
        return found

    def _put_together(self, positions: Integers, dim: int) -> NDArray[np.float32]:
        """Rows as they are, where positions (rows, count, 2) have them; zeros for padding."""
        found = np.zeros((*positions.shape[:2], dim), np.float32)
        for unit, rows in enumerate(self._rows):
            mine = positions[:, :, 0] == unit
            if mine.any():
                found[mine] = rows[positions[mine][:, 1]]
        return found.reshape(len(positions), -1)

    def _rows_of_units(self) -> Iterator[NDArray[np.float32]]:
        """The rows (n, dim) that each unit answers as they are, in the order of `router.json`; n is 0 where it sums."""
        for k, held in enumerate(self._design.wiring):
            for share in held.shares:
                lengths = self.routed.tensors[on_wire(held.name, "lengths", share.group)][0]
                numbers = self._numbers.get((k, ROWS, share.group), np.empty((1, 0), np.float32))[0]
                query_rows = (lengths.size - len(share.unpooled)) // (share.bags or 1)
                for unit in share.units:
                    mine, lengths = np.split(lengths, [query_rows * unit.bags if unit.bags else 1])
                    dim = held.matrices[unit.matrix].format.dim
                    rows, numbers = np.split(numbers, [0 if unit.bags else int(mine[0]) * dim])
                    yield rows.reshape(-1, dim)


def dense_inputs(
    model: Model, partials: Sequence[Partial], vectors: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What the dense graph is given for looked-up vectors that come from elsewhere: as if one service had them all.

    partials: its inputs for them. vectors: of each look-up, (rows of its group, count * dim), averaged where it is a
    mean: divisors are 1.
    """
    found, placed = dict[str, NDArray[np.float32]](), set[int]()
    rows = [len(vectors[model.in_group(group)[0]]) for group in range(len(model.groups))]
    for partial in partials:
        found[partial.name] = sums = np.zeros((rows[partial.group], partial.width), np.float32)
        for index, column in partial.columns.items():
            if index not in placed:
                placed.add(index)
                sums[:, column : column + vectors[index].shape[1]] = vectors[index]
    for group in range(len(model.groups)):
        if model.has_means(group):
            found[divisors_name(group)] = np.ones((rows[group], divisors_width(model, group)), np.float32)
    return found
