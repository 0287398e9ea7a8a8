"""Which algorithm computes a convolution: decided from its shape alone, so that equal shapes give equal bits.

    filter, stride, dilation   channels, filters   tiles        products      algorithm
    3x3 or 5x5, 1, 1           8 or more           32 or more   1.5 times     winograd
                                                   (64 for the  fewer or
                                                   filters'     better
                                                   gradient)
    3x3 or 5x5, 1, 1           any other                                      direct
    anything else                                                             direct

Few channels leave lanes empty, few tiles do not repay transforming the filters, and small images leave most
of a tile outside.

The first of these that is given decides otherwise:

1. the argument `algorithm=` of the call,
2. the innermost `with fastconv.algorithm(name):` around it (in this Python thread),
3. the environment variable FASTCONV_ALGORITHM.

"winograd" as an argument is an error where it does not apply; from the other two it is a wish.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator
from contextvars import ContextVar

from fastconv import _arguments as arguments
from fastconv.geometry import Axis

ALGORITHMS = ("auto", "direct", "winograd")
LEAST_CHANNELS = 8
# The sums of the filters' gradient at the 36 points are four times its size and pass through memory twice.
LEAST_TILES = {"forward": 32, "input_gradient": 32, "filter_gradient": 64}
# The transforms take about as long as a third of the products.
LEAST_GAIN = 1.5

_context: ContextVar[str | None] = ContextVar("fastconv_algorithm", default=None)


@contextlib.contextmanager
def algorithm(name: str) -> Iterator[None]:
    """Use "direct" or "winograd" inside a `with` block, in this Python thread (or asyncio task) only.

    "winograd" is taken wherever it applies (3x3 and 5x5 filters, stride 1, no dilation), even where it is
    slower; "auto" chooses.
    """
    token = _context.set(arguments.choice("name", name, ALGORITHMS))
    try:
        yield
    finally:
        _context.reset(token)


def current() -> str:
    """What calls without an `algorithm` argument take, here and now."""
    return _context.get() or _environment()


def winograd(
    algorithm: str | None,
    images: int,
    vertical: Axis,
    horizontal: Axis,
    channels: int,
    filters: int,
    computes: str = "forward",
) -> bool:
    """Whether to use Winograd's algorithm, given the call's `algorithm` argument (or None).

    computes: "forward", "input_gradient" or "filter_gradient".
    """
    wanted = current() if algorithm is None else arguments.choice("algorithm", algorithm, ALGORITHMS)
    fits = vertical.kernel == horizontal.kernel and vertical.kernel in (3, 5)
    fits = fits and all(axis.stride == axis.dilation == 1 for axis in (vertical, horizontal))
    if algorithm == "winograd" and not fits:
        raise ValueError(
            'algorithm "winograd" needs a 3x3 or 5x5 filter, stride 1 and no dilation, not '
            f"{vertical.kernel}x{horizontal.kernel}, strides {vertical.stride, horizontal.stride}, "
            f"dilations {vertical.dilation, horizontal.dilation}"
        )
    if wanted != "auto" or not fits:
        return fits and wanted == "winograd"
    axes = (vertical, horizontal)
    side = 7 - vertical.kernel  # of a tile
    tiled = [axis.size if computes == "input_gradient" else axis.out for axis in axes]
    tiles = math.prod(-(-pixels // side) for pixels in tiled)
    gain = math.prod(axis.out * axis.kernel for axis in axes) / (36 * tiles)
    return (
        min(channels, filters) >= LEAST_CHANNELS
        and images * tiles >= LEAST_TILES[computes]
        and gain >= LEAST_GAIN
    )


@functools.lru_cache(maxsize=1)
def _environment() -> str:
    name = os.environ.get("FASTCONV_ALGORITHM") or "auto"
    return arguments.choice("FASTCONV_ALGORITHM", name, ALGORITHMS)
