"""How far a result may be from the float64 twin, and why; the one table of it.

All but EXACT are relative to the largest expected magnitude of the array, not to each element: a sum that cancels to
nearly nothing keeps the rounding of its large terms.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Tolerance(NamedTuple):
    """One number per dtype in which a result is computed."""

    float32: float
    float64: float


# Copies and choices round nothing: pools, relu, masks.
EXACT = Tolerance(0, 0)
# One or two operations on each element: half a unit in the last place (6e-8, 1.1e-16) each.
ELEMENTWISE = Tolerance(2e-7, 4e-16)
# Sums of up to some ten thousand products, and convolutions by any algorithm: what the package promises.
PRODUCT_SUM = Tolerance(4e-6, 1e-14)
# exp, log and a sum of up to some hundred terms: some units in the last place of each.
EXPONENTIAL = Tolerance(2e-6, 4e-15)
# Central differences in float64 of functions that are linear along each axis: the step divides the rounding of a sum.
DIFFERENCES = Tolerance(0, 1e-7)


def assert_close(actual: NDArray, expected: ArrayLike, tolerance: Tolerance, what: object = "") -> None:
    """Same shape, and |actual - expected| at most the tolerance of actual's dtype times max |expected|."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape, (what, actual.shape, expected.shape)
    if not expected.size:
        return
    error = np.abs(actual.astype(np.float64) - expected).max()
    allowed = getattr(tolerance, actual.dtype.name) * np.abs(expected).max()
    assert error <= allowed, f"{what}: off by {error:.3g}, allowed {allowed:.3g}"
