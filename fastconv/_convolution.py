"""One convolution: its checked geometry, its algorithm, and its three passes over checked arrays."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastconv import _algorithms, _windows, geometry, threads
from fastconv import _arguments as arguments
from fastconv._arguments import IntOrInts, Padding
from fastconv._kernels import conv2d as _direct
from fastconv._kernels import depthwise as _depthwise
from fastconv._kernels import winograd as _winograd

_POINT = geometry.axis(1, 1, 1, 1, "VALID")

# A depthwise multiply-add waits for memory: it takes about as long as so many of a dense convolution.
_DEPTHWISE = 8

# Taps and strides of a convolution that is kept: each has an entry in a plan.
_MOST_KEPT = 16


# How filters move over images: strides, padding, dilations; the algorithm that is taken, and whether the
# caller insists on it. (A NamedTuple would cost a small operation a tenth of its time.)
Window = tuple[_windows.Pair, tuple[geometry.Padding, geometry.Padding], _windows.Pair, str, bool]


def window(
    strides: IntOrInts, padding: Padding, dilations: IntOrInts, algorithm: str | None = None
) -> Window:
    """The arguments of a convolution that have nothing to do with its arrays' shapes, checked."""
    ends, steps = arguments.padding(padding), arguments.pair("strides", strides)
    gaps, taken = arguments.pair("dilations", dilations), _algorithms.chosen(algorithm)
    return steps, ends, gaps, taken, algorithm == "winograd"


def plan(
    shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    window: Window,
    groups: int = 1,
    names: tuple[str, str] = ("input", "filters"),
    computes: str = "forward",
) -> Convolution:
    """The convolution of images `shape` [N, H, W, C] with filters `filter_shape` [h, w, C / groups, K].

    names: of these two in error messages. computes: the pass that is wanted.
    """
    strides, padding, dilations, algorithm, insists = window
    (height, width, _, _), (down, right) = filter_shape, strides
    small = height <= _MOST_KEPT >= width and down <= _MOST_KEPT >= right
    find = _found if small else _found.__wrapped__
    try:
        convolution = find(shape, filter_shape, strides, padding, dilations, groups, algorithm)
    except ValueError:
        _windows.convolution(shape, filter_shape, strides, padding, dilations, groups, names)
        raise
    if insists:
        _algorithms.check_winograd(*convolution.axes, computes)  # an error even where nothing is computed
    return convolution


@functools.lru_cache(_windows.KEPT)
def _found(
    shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    strides: _windows.Pair,
    padding: tuple[geometry.Padding, geometry.Padding],
    dilations: _windows.Pair,
    groups: int,
    algorithm: str,
) -> Convolution:
    axes = _windows.convolution(shape, filter_shape, strides, padding, dilations, groups)
    return Convolution(shape[0], *axes, filter_shape, groups, algorithm)


class _Pass(NamedTuple):
    """What the geometry says of one of a convolution's three passes."""

    calls: list[Callable[..., None]]  # of a driver; one for all groups, or one for each
    sweeps: list[tuple[bytes, bytes]]  # tables of (vertical, horizontal) ones
    work: int  # of a call, in multiply-adds
    dense: bool  # its images and filters are seen as 1x1


class Convolution:
    """Of so many images along two axes, with filters `filter_shape` [h, w, C / groups, K].

    `algorithm` is chosen for one group. Groups of one input channel have a driver of their own unless it is
    Winograd's, which takes all groups one after another.

    The passes take C-contiguous arrays of one dtype and write into their first argument. `unpool` says that
    the output's gradient is that of a 2x2 pool behind the convolution: (bytes, scale), see pool_windows and
    unpool in src_c/fastconv.h. Neither that nor `pools` is there for groups of one channel.
    """

    def __init__(
        self,
        images: int,
        vertical: geometry.Axis,
        horizontal: geometry.Axis,
        filter_shape: tuple[int, ...],
        groups: int,
        algorithm: str,
    ) -> None:
        self.axes, self.filter_shape, self.groups = (vertical, horizontal), filter_shape, groups
        self.output_shape = (images, vertical.out, horizontal.out, filter_shape[3])
        self._choice = (algorithm, images, *self.axes, filter_shape[2], filter_shape[3] // groups)
        self._passes: dict[str, _Pass] = {}

    def forward(
        self,
        y: NDArray,
        x: NDArray,
        filters: NDArray,
        bias: NDArray | None,
        relu: bool,
        num_threads: int | None = None,
        **epilogue: Any,
    ) -> None:
        """y [N, OH, OW, K]; `epilogue` are keywords of the drivers of dense groups:

        pools: y is the 2x2 pool of the result, and `where`, if it is given, that pool's bytes. gain [K]: of
        each filter, before the bias. side: of y's shape, or y itself, added behind it; with `pools` there is
        none.
        """
        this = self._passes.get("forward") or self._pass("forward")
        n = threads.resolve(num_threads, this.work)
        if not y.size:
            return
        if this.dense:
            x, filters = _as_pixels(x), _as_one_tap(filters)
        for correlate in this.calls:
            correlate(y, x, filters, bias, relu, this.sweeps, False, n, **epilogue)

    def input_gradient(
        self,
        dx: NDArray,
        filters: NDArray,
        dy: NDArray,
        num_threads: int | None = None,
        *,
        bias: NDArray | None = None,
        relu: bool = False,
        side: NDArray | None = None,
        unpool: tuple[NDArray, float] | None = None,
    ) -> None:
        """dx [N, H, W, C]; bias [C] and relu on top make it a transposed convolution; side, as for
        forward, is added."""
        this = self._passes.get("input_gradient") or self._pass("input_gradient")
        n = threads.resolve(num_threads, this.work)
        if not dx.size:
            return
        if this.dense:
            dx, filters = _as_pixels(dx), _as_one_tap(filters)
            bias = None if bias is None else np.tile(bias, dx.shape[3] // len(bias))
            side = None if side is None else _as_pixels(side)
        more = self._pooled(unpool)
        if side is not None:
            more["side"] = side
        for correlate in this.calls:
            correlate(dx, dy, filters, bias, relu, this.sweeps, True, n, **more)

    def filter_gradient(
        self,
        dw: NDArray,
        x: NDArray,
        dy: NDArray,
        num_threads: int | None = None,
        *,
        unpool: tuple[NDArray, float] | None = None,
    ) -> None:
        this = self._passes.get("filter_gradient") or self._pass("filter_gradient")
        n = threads.resolve(num_threads, this.work)
        if not (x.size and dy.size):
            dw.fill(0)
            return
        if this.dense:
            x, dw = _as_pixels(x), _as_one_tap(dw)
        more = self._pooled(unpool)
        [(vertical, horizontal)] = this.sweeps
        for filter_gradient in this.calls:
            filter_gradient(dw, x, dy, vertical, horizontal, n, **more)

    def _pass(self, computes: str) -> _Pass:
        """One pass, found and kept."""
        this = self._passes[computes] = self._find_pass(computes)
        return this

    def _find_pass(self, computes: str) -> _Pass:
        axes, filters = self.axes, math.prod(self.filter_shape)
        products = math.prod(self.output_shape[:3])  # of each number of the filters
        # A window that is the image is a dense layer, a 1x1 image of more channels: no border to skip.
        dense = all(axis.size == axis.kernel and axis.before == axis.after == 0 for axis in axes)
        if _algorithms.winograd(*self._choice, computes):
            driver, dense, filters = _winograd, False, filters // self.groups
            share = _algorithms.cut(*axes, computes)[1] / math.prod(axis.out * axis.kernel for axis in axes)
            products = int(products * share * (1 + 1 / _algorithms.TRANSFORMS))
        elif self.groups > 1 and self.filter_shape[2] == 1 and self.filter_shape[3] > 0:
            driver, dense, filters = _depthwise, False, filters * _DEPTHWISE
        else:
            driver, dense = _direct, dense and self.groups == 1
            axes = (_POINT, _POINT) if dense else axes
        if computes == "input_gradient":
            of_axes = map(geometry.input_gradient_sweeps, axes)
        else:
            of_axes = ([geometry.forward_sweep(axis)] for axis in axes)
        sweeps = list(itertools.product(*([sweep.table() for sweep in of_axis] for of_axis in of_axes)))
        call = driver.filter_gradient if computes == "filter_gradient" else driver.correlate
        calls = [call]
        if driver is _winograd and self.groups > 1:
            calls = [functools.partial(call, group=g, groups=self.groups) for g in range(self.groups)]
        elif driver is _direct and self.groups > 1:
            calls = [functools.partial(call, groups=self.groups)]
        work = (products + threads.PASS) * filters
        return _Pass(calls, sweeps, work, dense)

    def _pooled(self, unpool: tuple[NDArray, float] | None) -> dict[str, Any]:
        """The drivers' keyword for the gradient of a pool."""
        return {} if unpool is None else {"unpool": (*unpool, *self.output_shape[1:3])}


def _as_pixels(images: NDArray) -> NDArray:
    """[N, H, W, C] as [N, 1, 1, H * W * C]."""
    return images.reshape(len(images), 1, 1, math.prod(images.shape[1:]))


def _as_one_tap(filters: NDArray) -> NDArray:
    """[h, w, C, K] as [1, 1, h * w * C, K]."""
    return filters.reshape(1, 1, math.prod(filters.shape[:3]), filters.shape[3])
