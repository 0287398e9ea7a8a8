"""How far a result may be from the float64 twin, and why; the one table of it.

Relative to the largest expected magnitude of the array, not to each element: a sum that cancels to nearly
nothing keeps the rounding of its large terms.  What copies or chooses (pools, relu) is compared exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Tolerance(NamedTuple):
    """One number per dtype in which a result is computed."""

    float32: float
    float64: float


# What the package promises of float32 sums of up to some ten thousand products, convolutions by any algorithm
# included; their error grows with the square root of the number.  In float64 as many units in the last place
# and some more.
PRODUCT_SUM = Tolerance(4e-6, 2e-14)
# exp, log and a sum of up to some hundred terms: some units in the last place of each.
EXPONENTIAL = Tolerance(2e-6, 4e-15)
# Central differences in float64: the step (1e-4) divides the rounding of a sum, and the
# curvature's share is its square.
DIFFERENCES = Tolerance(0, 1e-7)
# Another order of the same few float64 operations.
SAME_SUM = Tolerance(0, 1e-12)
# Twenty optimizer steps on parameters near 1, of about ten roundings each.
OPTIMIZER_STEPS = Tolerance(4e-6, 2e-14)
# What passed through a whole net: the rounding of each layer is magnified by the next ones.
NETWORK = Tolerance(1e-5, 1e-13)


def assert_close(
    actual: NDArray, expected: ArrayLike, tolerance: Tolerance, what: str = "", scale: float | None = None
) -> None:
    """Same shape, and |actual - expected| at most the tolerance of actual's dtype times max |expected|.

    scale: in the place of max |expected|.
    """
    expected = np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if not expected.size:
        return
    scale = np.abs(expected).max() if scale is None else scale
    error = np.abs(actual.astype(np.float64) - expected).max()
    allowed = getattr(tolerance, actual.dtype.name) * scale
    assert error <= allowed, f"{what}: off by {error:.3g}, allowed {allowed:.3g}"
