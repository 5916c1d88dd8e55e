"""Random ids that follow a table's accesses, for sample queries and load tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.spec import Table


class IdSampler:
    """Draws ids of one table; holds its CDF and its hotness order (12 bytes a row), so that drawing again is cheap."""

    def __init__(self, hotness: Hotness, table: Table) -> None:
        self._cdf = hotness.cdf(table)
        self._order = hotness.order(table)

    def draw(self, shape: int | tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
        """Independent ids, each row as likely as its share of the accesses: `shape` int64.

        Place j of the order is drawn where CDF(j) <= u < CDF(j + 1) for a uniform u. The uniform numbers are looked
        up in ascending order, which walks through the CDF instead of jumping about in it, and shuffled afterwards.
        """
        uniform = rng.random(int(np.prod(shape)))
        uniform.sort()
        places = np.searchsorted(self._cdf, uniform, side="right") - 1
        rng.shuffle(places)
        ids: NDArray[np.int64] = self._order[places].astype(np.int64)
        return ids.reshape(shape)


def draw_ids(
    hotness: Hotness, table: Table, shape: int | tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Ids of a table that follow its accesses, `shape` int64; to draw more than once, keep an IdSampler."""
    return IdSampler(hotness, table).draw(shape, rng)
