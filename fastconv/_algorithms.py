"""Which algorithm computes a convolution: decided from its shape alone, so that equal shapes give equal bits.

    filter, stride, dilation   channels, filters   tiles, times channels     products      algorithm
    3x3 or 5x5, 1, 1           8 or more*          8 or more, 400 or more*   1.5 times     winograd
    1x3, 3x1, 1x5, 5x1; 1, 1   48 or more          8 or more, 1024 or more*  fewer or
                                                                             better
    n x n, s > 1, 1; forward   the products saved repay the transforms (_repays_strides)   winograd
    these                      any other                                                   direct
    anything else                                                                          direct

* The filters' gradient: 16 channels or more, and tiles times channels squared 65536 or more.

Channels are here the fewer of channels and filters. Few of them leave lanes empty, and in one dimension do
not repay the transforms; few tiles do not repay those of the filters; and small images leave most of a tile
outside.

A filter of stride s is s x s filters of stride 1 side by side, its phases, each of every s-th tap and pixel:
with up to ceil(n / s) taps each way, 2 to 5. Only the convolution itself is there.

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
from fastconv._kernels import winograd as _winograd
from fastconv.geometry import Axis

ALGORITHMS = ("auto", "direct", "winograd")
# The filters of stride 1 that Winograd's algorithm is there for.
KERNELS = {(3, 3), (5, 5), (1, 3), (3, 1), (1, 5), (5, 1)}
# Taps that a strided filter's phases have one way.
TAPS_OF_PHASES = range(2, 6)
LEAST_CHANNELS = {"forward": 8, "input_gradient": 8, "filter_gradient": 16}
LEAST_CHANNELS_OF_LINES = 48
LEAST_TILES = 8
# Tiles times channels. Break-even with AVX2, 3x3, on one thread: 50 tiles of 8 channels, 16 of 20, 8 of fewer
# than 64. (The products of the filters' gradient run along the tiles: times channels twice. Its break-even:
# 128 tiles of 16 channels, 50 of 32, 12 of 64, fewer than 8 of 128.)
LEAST_PRODUCT = {"forward": 400, "input_gradient": 400, "filter_gradient": 1 << 16}
LEAST_PRODUCT_OF_LINES = 1 << 10  # 12 tiles of 48 channels, 8 of 64: 1.04 to 1.09 times as long as directly
# How many times as long as the transforms the products take, about.
TRANSFORMS = 3
# How many times fewer products there must be to repay the transforms.
LEAST_GAIN = 1.5
# Of strided filters: the products that the transform of a channel of a tile costs, and that of a channel of a
# filter. Fitted to some forty layers (AVX2, Zen 4, two threads): those taken are 1.04 to 2.6 times as fast
# as directly, the others would be 0.2 to 1.2 times, one 1.4.
TRANSFORM, TRANSFORM_OF_FILTER = 20, 6
# Channels of all phases times filters: the transforms of more do not stay in the cache.
MOST_OF_PHASES = 1 << 16

_context: ContextVar[str | None] = ContextVar("fastconv_algorithm", default=None)


@contextlib.contextmanager
def algorithm(name: str) -> Iterator[None]:
    """Use "direct" or "winograd" inside a `with` block, in this Python thread (or asyncio task) only.

    "winograd" is taken wherever it applies (see nn.conv2d), even where it is slower; "auto" chooses.
    """
    token = _context.set(arguments.choice("name", name, ALGORITHMS))
    try:
        yield
    finally:
        _context.reset(token)


def current() -> str:
    """What calls without an `algorithm` argument take, here and now."""
    return _context.get() or _environment()


def chosen(algorithm: str | None) -> str:
    """What a call with this `algorithm` argument (or None) takes, here and now."""
    return current() if algorithm is None else arguments.choice("algorithm", algorithm, ALGORITHMS)


def winograd_applies(vertical: Axis, horizontal: Axis, computes: str = "forward") -> bool:
    """Whether Winograd's algorithm is there for such a convolution."""
    kernel, stride = (vertical.kernel, horizontal.kernel), vertical.stride
    if (vertical.dilation, horizontal.dilation) != (1, 1) or stride != horizontal.stride:
        return False
    if stride == 1:
        return kernel in KERNELS
    return computes == "forward" and kernel[0] == kernel[1] and -(-kernel[0] // stride) in TAPS_OF_PHASES


def check_winograd(vertical: Axis, horizontal: Axis, computes: str) -> None:
    """ValueError where it is not, although the call asks for it."""
    if not winograd_applies(vertical, horizontal, computes):
        raise ValueError(
            'algorithm "winograd" needs a filter of 3x3, 5x5, 1x3, 3x1, 1x5 or 5x1 and stride 1, or in '
            "conv2d a square filter of 2 to 5 times its stride, rounded up, and no dilation, not "
            f"{vertical.kernel}x{horizontal.kernel}, "
            f"strides {vertical.stride, horizontal.stride}, "
            f"dilations {vertical.dilation, horizontal.dilation}"
        )


def cut(vertical: Axis, horizontal: Axis, computes: str) -> tuple[int, int]:
    """How Winograd's algorithm takes an image: its tiles, and the products for each channel and filter."""
    axes = (vertical, horizontal)
    tiled = [axis.size if computes == "input_gradient" else axis.out for axis in axes]
    cuts = [_winograd.cut(pixels, axis.kernel, axis.stride) for pixels, axis in zip(tiled, axes, strict=True)]
    return math.prod(tiles for tiles, _ in cuts), math.prod(products for _, products in cuts)


def winograd(
    algorithm: str,
    images: int,
    vertical: Axis,
    horizontal: Axis,
    channels: int,
    filters: int,
    computes: str = "forward",
) -> bool:
    """Whether to use Winograd's algorithm, given one of ALGORITHMS.

    computes: "forward", "input_gradient" or "filter_gradient".
    """
    applies = winograd_applies(vertical, horizontal, computes)
    if algorithm == "direct" or not applies or 0 in (channels, filters):
        return False
    if algorithm == "winograd":
        return True
    cut_tiles, products = cut(vertical, horizontal, computes)
    gain = math.prod(axis.out * axis.kernel for axis in (vertical, horizontal)) / products
    tiles = images * cut_tiles
    if vertical.stride > 1:
        return _repays_strides(gain, tiles, channels * vertical.stride**2, filters)
    fewer = min(channels, filters)
    of_lines = 1 in (vertical.kernel, horizontal.kernel)
    least_channels = LEAST_CHANNELS_OF_LINES if of_lines else LEAST_CHANNELS[computes]
    product = tiles * fewer * (fewer if computes == "filter_gradient" else 1)
    least_product = max(LEAST_PRODUCT[computes], LEAST_PRODUCT_OF_LINES if of_lines else 0)
    enough = fewer >= least_channels and tiles >= LEAST_TILES and product >= least_product
    return enough and gain >= LEAST_GAIN


def _repays_strides(gain: float, tiles: int, channels: int, filters: int) -> bool:
    """Whether gain times fewer products repay the transforms; channels: of all phases."""
    costs = TRANSFORM / channels + TRANSFORM / filters + TRANSFORM_OF_FILTER / max(tiles, 1)
    return channels * filters <= MOST_OF_PHASES and gain - 1 > costs


@functools.lru_cache(maxsize=1)
def _environment() -> str:
    name = os.environ.get("FASTCONV_ALGORITHM") or "auto"
    return arguments.choice("FASTCONV_ALGORITHM", name, ALGORITHMS)
