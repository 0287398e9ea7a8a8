"""One convolution: its checked geometry, its algorithm, and its three passes over checked arrays."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from fastconv import _algorithms, _windows, geometry, threads
from fastconv._arguments import IntOrInts, Padding
from fastconv._kernels import conv2d as _direct
from fastconv._kernels import winograd as _winograd

_POINT = geometry.axis(1, 1, 1, 1, "VALID")


class Convolution:
    """Of images `shape` [N, H, W, C] with filters `filter_shape` [h, w, C, K].

    names: of these two in error messages.

    The passes take C-contiguous arrays of one dtype and write into their first argument. `unpool` says that
    the output's gradient is that of a 2x2 pool behind the convolution: (bytes, scale), see pool_windows and
    unpool in src_c/fastconv.h.
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
        names: tuple[str, str] = ("input", "filters"),
    ) -> None:
        v, u = _windows.convolution(shape, filter_shape, strides, padding, dilations, *names)
        self.vertical, self.horizontal = v, u
        self.output_shape = (shape[0], v.out, u.out, filter_shape[3])
        self.multiply_adds = math.prod(self.output_shape) * math.prod(filter_shape[:3])
        # A window that is the image is a dense layer, a 1x1 image of more channels: no border to skip.
        self._dense = all(axis.size == axis.kernel and axis.before == axis.after == 0 for axis in (v, u))
        self._choice = (algorithm, shape[0], v, u, *filter_shape[2:])
        _algorithms.winograd(*self._choice)  # what does not apply is an error even where nothing is computed

    def forward(
        self,
        y: NDArray,
        x: NDArray,
        filters: NDArray,
        bias: NDArray | None,
        relu: bool,
        num_threads: int | None = None,
        *,
        pools: bool = False,
        where: NDArray | None = None,
    ) -> None:
        """y [N, OH, OW, K], or with `pools` its 2x2 pool, and that pool's bytes `where` if wanted."""
        n = threads.resolve(num_threads, self.multiply_adds)
        if not y.size:
            return
        driver, (v, u), x, filters = self._setting("forward", x, filters)
        sweeps = geometry.forward_sweep(v), geometry.forward_sweep(u)
        driver.correlate(y, x, filters, bias, relu, *sweeps, False, n, pools=pools, where=where)

    def input_gradient(
        self,
        dx: NDArray,
        filters: NDArray,
        dy: NDArray,
        num_threads: int | None = None,
        *,
        unpool: tuple[NDArray, float] | None = None,
    ) -> None:
        n = threads.resolve(num_threads, self.multiply_adds)
        pooled = self._pooled(unpool)
        if not dx.size:
            return
        driver, axes, dx, filters = self._setting("input_gradient", dx, filters)
        for v in geometry.input_gradient_sweeps(axes[0]):
            for u in geometry.input_gradient_sweeps(axes[1]):
                driver.correlate(dx, dy, filters, None, False, v, u, True, n, unpool=pooled)

    def filter_gradient(
        self,
        dw: NDArray,
        x: NDArray,
        dy: NDArray,
        num_threads: int | None = None,
        *,
        unpool: tuple[NDArray, float] | None = None,
    ) -> None:
        n = threads.resolve(num_threads, self.multiply_adds)
        if not (x.size and dy.size):
            dw.fill(0)
            return
        driver, (v, u), x, dw = self._setting("filter_gradient", x, dw)
        sweeps = geometry.forward_sweep(v), geometry.forward_sweep(u)
        driver.filter_gradient(dw, x, dy, *sweeps, n, unpool=self._pooled(unpool))

    def _setting(
        self, computes: str, x: NDArray, filters: NDArray
    ) -> tuple[ModuleType, tuple[geometry.Axis, geometry.Axis], NDArray, NDArray]:
        """The driver of a pass, and the axes, images and filters as it shall see them."""
        if _algorithms.winograd(*self._choice, computes):
            return _winograd, (self.vertical, self.horizontal), x, filters
        if self._dense:
            window = math.prod(filters.shape[:3])
            x, filters = x.reshape(len(x), 1, 1, window), filters.reshape(1, 1, window, filters.shape[3])
            return _direct, (_POINT, _POINT), x, filters
        return _direct, (self.vertical, self.horizontal), x, filters

    def _pooled(self, unpool: tuple[NDArray, float] | None) -> tuple[Any, ...] | None:
        return None if unpool is None else (*unpool, self.vertical.out, self.horizontal.out)
