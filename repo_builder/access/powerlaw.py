"""A power law of accesses: the row at rank i = 1 ... rows of the hotness order is accessed as often as i**-alpha.

`alpha` is not given but solved for, so that the hottest 10% of the rows take the share `locality` of the accesses.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import AccessedTable

_ALPHA_MAX = 64.0  # the first row alone then takes all but 2**-64, which a float64 share cannot tell from all
_BLOCK_ROWS = 1 << 16  # powers and their sums are computed in pieces that stay in the cache
_DIRECT_TERMS = 100  # summed one by one before the Euler-Maclaurin tail, whose error is then below 1e-16


def hottest_rows(rows: int) -> int:
    """How many rows are "the hottest 10%": a tenth, rounded up."""
    return -(-rows // 10)


def generalized_harmonic(n: int, alpha: float) -> float:
    """Sum of i**-alpha for i = 1 ... n, to about 1e-14 of itself, in constant time.

    The first terms are summed directly; the rest, from m on, by Euler-Maclaurin: the integral of f(x) = x**-alpha,
    plus (f(m) + f(n)) / 2, plus (f'(n) - f'(m)) / 12, minus (f'''(n) - f'''(m)) / 720.
    """
    if n <= _DIRECT_TERMS:
        return math.fsum(math.pow(i, -alpha) for i in range(1, n + 1))
    m = float(_DIRECT_TERMS)
    direct = math.fsum(math.pow(i, -alpha) for i in range(1, _DIRECT_TERMS))
    s = 1.0 - alpha
    log_ratio = math.log(n / m)
    integral = math.pow(m, s) * (math.expm1(s * log_ratio) / s if s else log_ratio)
    ends = (math.pow(m, -alpha) + math.pow(n, -alpha)) / 2
    first = -alpha * (math.pow(n, -alpha - 1) - math.pow(m, -alpha - 1))
    third = -alpha * (alpha + 1) * (alpha + 2) * (math.pow(n, -alpha - 3) - math.pow(m, -alpha - 3))
    return direct + integral + ends + first / 12 - third / 720


def solve_alpha(rows: int, locality: float) -> float:
    """The exponent with which the hottest 10% of `rows` rows take the share `locality` of the accesses.

    0, a uniform table, where `locality` is no more than what those rows take anyway: a table of fewer than 10 rows
    has one row there, with at least 1 / rows of the accesses.
    """
    hot = hottest_rows(rows)
    if locality <= hot / rows:
        return 0.0
    low, high = 0.0, _ALPHA_MAX
    while low < (middle := (low + high) / 2) < high:  # the share grows with alpha: bisect down to neighbouring floats
        if generalized_harmonic(hot, middle) < locality * generalized_harmonic(rows, middle):
            low = middle
        else:
            high = middle
    return high


def powerlaw_cdf(rows: int, alpha: float) -> NDArray[np.float64]:
    """The share of the accesses that the j hottest rows take, j = 0 ... rows: (rows + 1,) float64, ending in 1.0."""
    cdf = np.zeros(rows + 1)
    for begin in range(0, rows, _BLOCK_ROWS):
        end = min(rows, begin + _BLOCK_ROWS)
        powers = np.power(np.arange(begin + 1, end + 1, dtype=np.float64), -alpha)
        sums = cdf[begin + 1 : end + 1]
        np.cumsum(powers, out=sums)
        sums += cdf[begin]
    cdf /= cdf[-1]
    return cdf


@dataclass(frozen=True, slots=True)
class PowerLawHotness:
    """Hotness without any measured access: a power law per table, its hot ids scattered by `seed` and the table's name.

    Tables of equal rows share one CDF, read-only and kept: 8 bytes per row for each distinct number of rows. An order
    is made anew at each call, 4 bytes per row: keep it while it is needed.
    """

    locality: float
    seed: int
    _cdfs: dict[int, NDArray[np.float64]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def cdf(self, table: AccessedTable) -> NDArray[np.float64]:
        """See Hotness.cdf; the same array for every table of that many rows."""
        if table.rows not in self._cdfs:
            cdf = powerlaw_cdf(table.rows, solve_alpha(table.rows, self.locality))
            cdf.setflags(write=False)
            self._cdfs[table.rows] = cdf
        return self._cdfs[table.rows]

    def order(self, table: AccessedTable) -> NDArray[np.uint32]:
        """See Hotness.order; a random permutation, or the ids as they are where all rows are equally hot."""
        ids = np.arange(table.rows, dtype=np.uint32)
        if solve_alpha(table.rows, self.locality) == 0.0:
            return ids  # ties go to the smaller id
        return _generator(self.seed, table.name).permutation(ids)


def _generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the name alone, not on the platform, the process or other tables."""
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, digest])))
