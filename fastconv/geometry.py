"""Padding and window arithmetic: the only place where SAME, VALID and explicit padding become integers.

One axis at a time.  A window of `kernel` taps, `dilation` apart, moves in steps of `stride` over an axis of
`size` pixels with `before` and `after` padding pixels around it.  Output pixel i sees input pixel

    i * stride - before + tap * dilation        for tap = 0 .. kernel - 1

and pixels outside 0 .. size - 1 are padding.  SAME follows TensorFlow: as many output pixels as stride steps
fit into the axis, the odd padding pixel after
(https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

Padding = str | tuple[int, int]


class Axis(NamedTuple):
    """A window moving over one axis.  `out` is the number of positions; it is below 1 where the window does
    not fit."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    out: int


class Sweep(NamedTuple):
    """One axis of a correlation, as the kernels walk it.

    For i = 0 .. count - 1, the result pixel  place + i * place_step  sums, over all (index, offset) in taps,
    the source pixel  origin + i * step + offset  times the filter's tap number `index`.  Source pixels
    outside the axis are zero.  Offsets start at 0 or above; `extent` is the largest plus one.
    """

    count: int
    origin: int
    step: int
    extent: int
    taps: tuple[tuple[int, int], ...]
    place: int
    place_step: int

    def table(self) -> bytes:
        """What the drivers take (read_axis in _kernels/blocks.pxd): they read it at each call without asking
        Python for the numbers one by one."""
        numbers = self.count, self.origin, self.step, self.extent, len(self.taps), self.place, self.place_step
        indices, offsets = zip(*self.taps, strict=True) if self.taps else ((), ())
        return struct.pack(f"{len(numbers) + 2 * len(self.taps)}n", *numbers, *indices, *offsets)


def axis(size: int, kernel: int, stride: int, dilation: int, padding: Padding) -> Axis:
    """Resolve padding "SAME", "VALID" or (before, after) on one axis; all sizes in pixels."""
    reach = dilation * (kernel - 1) + 1
    if padding == "SAME":
        out = -(-size // stride)
        total = max((out - 1) * stride + reach - size, 0)
        before = total // 2
        after = total - before
    else:
        before, after = (0, 0) if padding == "VALID" else padding
        out = (size + before + after - reach) // stride + 1
    return Axis(size, kernel, stride, dilation, before, after, out)


def transposed_size(size: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    """The length of a transposed convolution's result under SAME or VALID, as Keras gives it.

    Several lengths have a convolution of `size` results; of these it is the largest under SAME, and under
    VALID the least of at least size * stride.
    """
    reach = dilation * (kernel - 1) + 1
    return size * stride + (0 if padding.upper() == "SAME" else max(reach - stride, 0))


def forward_sweep(a: Axis) -> Sweep:
    """The convolution itself: results are output pixels, sources are input pixels."""
    taps = tuple((tap, tap * a.dilation) for tap in range(a.kernel))
    return Sweep(a.out, -a.before, a.stride, a.dilation * (a.kernel - 1) + 1, taps, 0, 1)


def input_gradient_sweeps(a: Axis) -> list[Sweep]:
    """The gradient of the input: results are input pixels, sources are output pixels.

    Input pixel p receives from output pixel o through a tap where  o * stride = p + before - tap * dilation.
    The pixels with equal (p + before) % stride meet the same taps; each such phase is a correlation of step
    1, so no gradient is ever spread out with zeros.
    """
    sweeps = []
    for place in range(min(a.stride, a.size)):
        count = -(-(a.size - place) // a.stride)
        first, phase = divmod(place + a.before, a.stride)
        taps = [
            (tap, -((tap * a.dilation - phase) // a.stride))
            for tap in range(a.kernel)
            if (tap * a.dilation - phase) % a.stride == 0
        ]
        lowest = min((offset for _, offset in taps), default=0)
        taps = sorted(((tap, offset - lowest) for tap, offset in taps), key=lambda t: t[1])
        extent = taps[-1][1] + 1 if taps else 1
        sweeps.append(Sweep(count, first + lowest, 1, extent, tuple(taps), place, a.stride))
    return sweeps
