"""Which algorithm computes a convolution: decided from its shape alone, so that equal shapes give equal bits.

winograd    3x3 or 5x5 filters, stride 1, no dilation, at least 8 channels and filters and 64 tiles:
            4 or 2.8 times fewer multiplications
direct      everything else: few channels leave lanes empty, few tiles do not repay transforming the filters
"""

from __future__ import annotations

from fastconv import _arguments as arguments
from fastconv.geometry import Axis

LEAST_CHANNELS = 8
LEAST_TILES = 64


def winograd(
    algorithm: str, images: int, vertical: Axis, horizontal: Axis, channels: int, filters: int
) -> bool:
    """Whether to use Winograd's algorithm, given what the user asks for: "auto", "direct" or "winograd"."""
    arguments.choice("algorithm", algorithm, ("auto", "direct", "winograd"))
    if algorithm == "direct":
        return False
    fits = vertical.kernel == horizontal.kernel and vertical.kernel in (3, 5)
    fits = fits and all(axis.stride == axis.dilation == 1 for axis in (vertical, horizontal))
    if algorithm == "winograd":
        if not fits:
            raise ValueError(
                'algorithm "winograd" needs a 3x3 or 5x5 filter, stride 1 and no dilation, not '
                f"{vertical.kernel}x{horizontal.kernel}, strides {vertical.stride, horizontal.stride}, "
                f"dilations {vertical.dilation, horizontal.dilation}"
            )
        return True
    if not fits or min(channels, filters) < LEAST_CHANNELS:
        return False
    side = 7 - vertical.kernel  # of a tile of results
    return images * -(-vertical.out // side) * -(-horizontal.out // side) >= LEAST_TILES
