"""Layers that make one number of each window of each channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv import _arguments as arguments
from fastconv import nn
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

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        y = nn.max_pool2d(x, self.pool_size, self.strides, self.padding)

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            if not input_gradient:
                return None
            return nn.max_pool_grad(x, y, dy, self.pool_size, self.strides, self.padding)

        return y, backward if training else None


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
