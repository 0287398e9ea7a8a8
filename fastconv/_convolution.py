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
        if y.size:
            sweeps = geometry.forward_sweep(self.vertical), geometry.forward_sweep(self.horizontal)
            pooling: dict[str, Any] = {"pools": pools, "where": where}
            self._driver("forward").correlate(y, x, filters, bias, relu, *sweeps, False, n, **pooling)

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
        driver = self._driver("input_gradient")
        for v in geometry.input_gradient_sweeps(self.vertical):
            for u in geometry.input_gradient_sweeps(self.horizontal):
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
        sweeps = geometry.forward_sweep(self.vertical), geometry.forward_sweep(self.horizontal)
        driver = self._driver("filter_gradient")
        driver.filter_gradient(dw, x, dy, *sweeps, n, unpool=self._pooled(unpool))

    def _driver(self, computes: str) -> ModuleType:
        return _winograd if _algorithms.winograd(*self._choice, computes) else _direct

    def _pooled(self, unpool: tuple[NDArray, float] | None) -> tuple[Any, ...] | None:
        return None if unpool is None else (*unpool, self.vertical.out, self.horizontal.out)
