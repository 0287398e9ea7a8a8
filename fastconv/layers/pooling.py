"""Layers that make one number of each window of each channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv import _arguments as arguments
from fastconv import _windows as windows
from fastconv import nn, threads
from fastconv._kernels import memory, pool
from fastconv.layers.base import Layer, Result, checked_padding


class _Pooling2D(Layer):
    """What both share: windows.

    pool_size, strides: int or (height, width); strides None means pool_size. padding as for Conv2D.
    """

    def __init__(
        self,
        pool_size: int | Sequence[int] = 2,
        strides: int | Sequence[int] | None = None,
        padding: Any = "valid",
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.pool_size = arguments.pair("pool_size", pool_size)
        self.strides = self.pool_size if strides is None else arguments.pair("strides", strides)
        self.padding = checked_padding(padding)


class MaxPooling2D(_Pooling2D):
    """The largest of each window, x [N, H, W, C] -> [N, OH, OW, C].

    pool_size, strides: int or (height, width); strides None means pool_size. padding as for Conv2D.
    """

    chained_by = ("pool_size", "strides", "padding")

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        how = (self.pool_size, self.strides, self.padding)
        if training and math.prod(self.pool_size) <= pool.MOST_TAPS:
            return self._remembering(x)
        y = nn.max_pool2d(x, *how)

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            return nn.max_pool_grad(x, y, dy, *how) if input_gradient else None

        return y, backward if training else None

    def _remembering(self, x: np.ndarray) -> Result:
        """A byte per result tells the gradient which tap of the window has won: it needs neither x nor y."""
        (x,) = arguments.arrays(input=(x, 4))
        dtype, shape = x.dtype, x.shape
        axes = windows.pooling(shape, self.pool_size, self.strides, self.padding, "input")
        y = memory.empty((shape[0], *(axis.out for axis in axes), shape[3]), dtype)
        where = memory.empty(y.shape, np.uint8)
        n = threads.resolve(None, x.size * nn.PASS)
        if y.size:
            pool.max_pool(y, None, where, x, *axes, n)

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            if not input_gradient:
                return None
            (dy,) = arguments.arrays(grad=(dy, 4))
            arguments.same_shape("grad", dy, where.shape, "that of the result whose gradient it is")
            dy = dy.astype(np.result_type(dy, dtype), copy=False)
            dx = memory.empty(shape, dy.dtype)
            if dx.size:
                pool.max_pool_gather(dx, dy, where, *axes, threads.resolve(None, dx.size * nn.PASS))
            return dx

        return y, backward


class AveragePooling2D(_Pooling2D):
    """The mean of each window, without what padding added, x [N, H, W, C] -> [N, OH, OW, C].

    Arguments as for MaxPooling2D.
    """

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        how = (self.pool_size, self.strides, self.padding)
        shape = x.shape  # all that the gradient needs

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            return nn.avg_pool_grad(shape, dy, *how) if input_gradient else None

        return nn.avg_pool2d(x, *how), backward if training else None


class GlobalAveragePooling2D(Layer):
    """The mean of each channel of each image, x [N, H, W, C] -> [N, C]."""

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        shape = x.shape
        if len(shape) != 4:
            raise ValueError(f"GlobalAveragePooling2D needs input [H, W, C], not {shape[1:]}")
        how = (shape[1:3], 1, "VALID")

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            return nn.avg_pool_grad(shape, dy[:, None, None, :], *how) if input_gradient else None

        return nn.avg_pool2d(x, *how)[:, 0, 0, :], backward if training else None
