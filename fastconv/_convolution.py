"""One convolution: its checked geometry, its algorithm, and its three passes over checked arrays."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv import _algorithms, _windows, geometry, threads
from fastconv._arguments import IntOrInts, Padding
from fastconv._kernels import conv2d as _direct
from fastconv._kernels import depthwise as _depthwise
from fastconv._kernels import winograd as _winograd

_POINT = geometry.axis(1, 1, 1, 1, "VALID")

# A depthwise multiply-add waits for memory: it takes about as long as so many of a dense convolution.
_DEPTHWISE = 8


class Convolution:
    """Of images `shape` [N, H, W, C] with filters `filter_shape` [h, w, C / groups, K].

    names: of these two in error messages.

    `algorithm` is chosen for one group. Groups of one input channel have a driver of their own unless it is
    Winograd's, which takes all groups one after another.

    The passes take C-contiguous arrays of one dtype and write into their first argument. `unpool` says that
    the output's gradient is that of a 2x2 pool behind the convolution: (bytes, scale), see pool_windows and
    unpool in src_c/fastconv.h. Neither that nor `pools` is there for groups of one channel.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        filter_shape: tuple[int, ...],
        strides: IntOrInts,
        padding: Padding,
        dilations: IntOrInts,
        algorithm: str | None = None,
        *,
        groups: int = 1,
        names: tuple[str, str] = ("input", "filters"),
    ) -> None:
        v, u = _windows.convolution(shape, filter_shape, strides, padding, dilations, *names, groups=groups)
        self.vertical, self.horizontal, self.groups = v, u, groups
        self.filter_shape = tuple(filter_shape)
        self.output_shape = (shape[0], v.out, u.out, filter_shape[3])
        self.multiply_adds = math.prod(self.output_shape) * math.prod(filter_shape[:3])
        # A window that is the image is a dense layer, a 1x1 image of more channels: no border to skip.
        whole = all(axis.size == axis.kernel and axis.before == axis.after == 0 for axis in (v, u))
        self._dense = whole and groups == 1
        self._choice = (algorithm, shape[0], v, u, filter_shape[2], filter_shape[3] // groups)
        # What does not apply is an error even where nothing is computed.
        winograd = _algorithms.winograd(*self._choice)
        self._depthwise = groups > 1 and filter_shape[2] == 1 and filter_shape[3] > 0 and not winograd

    def forward(
        self,
        y: NDArray,
        x: NDArray,
        filters: NDArray,
        bias: NDArray | None,
        relu: bool,
        num_threads: int | None = None,
        *,
        gain: NDArray | None = None,
        side: NDArray | None = None,
        pools: bool = False,
        where: NDArray | None = None,
    ) -> None:
        """y [N, OH, OW, K], or with `pools` its 2x2 pool, and that pool's bytes `where` if wanted.

        gain [K]: of each filter, before the bias. side: of y's shape, added behind it; with `pools` there is
        none. Neither is there for groups of one channel.
        """
        n, calls = self._calls("forward", num_threads)
        if not y.size:
            return
        driver, (v, u), x, filters = self._setting("forward", x, filters)
        how = (bias, relu, geometry.forward_sweep(v), geometry.forward_sweep(u), False, n)
        if self._depthwise:
            driver.correlate(y, x, filters, *how)
            return
        for group in calls:
            driver.correlate(y, x, filters, *how, gain=gain, side=side, pools=pools, where=where, **group)

    def input_gradient(
        self,
        dx: NDArray,
        filters: NDArray,
        dy: NDArray,
        num_threads: int | None = None,
        *,
        bias: NDArray | None = None,
        relu: bool = False,
        unpool: tuple[NDArray, float] | None = None,
    ) -> None:
        """dx [N, H, W, C]; bias [C] and relu on top make it a transposed convolution."""
        n, calls = self._calls("input_gradient", num_threads)
        pooled = self._pooled(unpool)
        if not dx.size:
            return
        driver, axes, dx, filters = self._setting("input_gradient", dx, filters)
        if bias is not None and self._dense:
            bias = np.tile(bias, dx.shape[3] // len(bias))
        for v in geometry.input_gradient_sweeps(axes[0]):
            for u in geometry.input_gradient_sweeps(axes[1]):
                if self._depthwise:
                    driver.correlate(dx, dy, filters, None, False, v, u, True, n)
                    continue
                for group in calls:
                    driver.correlate(dx, dy, filters, bias, relu, v, u, True, n, unpool=pooled, **group)

    def filter_gradient(
        self,
        dw: NDArray,
        x: NDArray,
        dy: NDArray,
        num_threads: int | None = None,
        *,
        unpool: tuple[NDArray, float] | None = None,
    ) -> None:
        n, calls = self._calls("filter_gradient", num_threads)
        if not (x.size and dy.size):
            dw.fill(0)
            return
        driver, (v, u), x, dw = self._setting("filter_gradient", x, dw)
        sweeps = geometry.forward_sweep(v), geometry.forward_sweep(u)
        if self._depthwise:
            driver.filter_gradient(dw, x, dy, *sweeps, n)
            return
        for group in calls:
            driver.filter_gradient(dw, x, dy, *sweeps, n, unpool=self._pooled(unpool), **group)

    def _calls(self, computes: str, num_threads: int | None) -> tuple[int, list[dict[str, int]]]:
        """The number of threads, and the groups' keywords of each call of the driver."""
        if self._depthwise:
            return threads.resolve(num_threads, _DEPTHWISE * self.multiply_adds), [{}]
        calls = [{"groups": self.groups}]
        if self.groups > 1 and _algorithms.winograd(*self._choice, computes):
            calls = [{"group": group, "groups": self.groups} for group in range(self.groups)]
        work = self.multiply_adds + threads.PASS * math.prod(self.filter_shape)
        return threads.resolve(num_threads, work // len(calls)), calls

    def _setting(
        self, computes: str, x: NDArray, filters: NDArray
    ) -> tuple[ModuleType, tuple[geometry.Axis, geometry.Axis], NDArray, NDArray]:
        """The driver of a pass, and the axes, images and filters as it shall see them."""
        if self._depthwise:
            return _depthwise, (self.vertical, self.horizontal), x, filters
        if _algorithms.winograd(*self._choice, computes):
            return _winograd, (self.vertical, self.horizontal), x, filters
        if self._dense:
            window = math.prod(filters.shape[:3])
            x, filters = x.reshape(len(x), 1, 1, window), filters.reshape(1, 1, window, filters.shape[3])
            return _direct, (_POINT, _POINT), x, filters
        return _direct, (self.vertical, self.horizontal), x, filters

    def _pooled(self, unpool: tuple[NDArray, float] | None) -> tuple[Any, ...] | None:
        return None if unpool is None else (*unpool, self.vertical.out, self.horizontal.out)
