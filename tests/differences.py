"""Gradients the slow way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def slope(f: Callable[[NDArray], float], x: NDArray, step: float = 1e-4) -> NDArray:
    """Central differences of the scalar f at every element of x."""
    result = np.empty_like(x)
    for at in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        result[at] = (f(up) - f(down)) / (2 * step)
    return result
