"""Layers that stand next to each other and are computed as one: convolution, relu, 2x2 max pooling, dropout.

A convolution's result is pooled while it lies in the cache and is never written to memory; one byte per
pooled value remembers which of its window's pixels the gradient goes to, or that it goes nowhere because relu
or dropout held the value back. So the convolution's gradients read the pooled gradient and these bytes, and
the dense gradient is never written either. Results and gradients have the same bits as those of the layers
one after another, but for the bias' gradient, which is summed in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import _arguments as arguments
from fastconv import _windows, nn, threads
from fastconv._convolution import Convolution
from fastconv._kernels import elementwise, memory

if TYPE_CHECKING:
    from fastconv.layers import Conv2D, Dropout, Layer, MaxPooling2D


def link(layers: Sequence[Layer]) -> list[Any]:
    """The layers as steps: those that form a chain become one ConvPool, the others stay what they are."""
    steps: list[Any] = []
    rest = list(layers)
    while rest:
        length = _chain_length(rest)
        steps.append(ConvPool(*rest[:length]) if length > 1 else rest[0])  # type: ignore[arg-type]
        del rest[:length]
    return steps


def _chain_length(layers: Sequence[Layer]) -> int:
    """How many layers from the first on are computed as one."""
    from fastconv.layers import Conv2D, Dropout, MaxPooling2D  # which imports this module

    kinds = [type(layer) for layer in layers[:3]]
    if kinds[:2] != [Conv2D, MaxPooling2D]:
        return 1
    conv, pool = layers[:2]
    in_pairs = pool.pool_size == pool.strides == (2, 2) and isinstance(pool.padding, str)  # from pixel 0 on
    # Groups of one channel have a driver of their own that does not pool; as chains are formed before the
    # channels are known, no groups do.
    if conv.activation != "relu" or conv.groups > 1 or not in_pairs:
        return 1
    return 3 if kinds[2:] == [Dropout] else 2


class ConvPool:
    """A Conv2D with relu, the MaxPooling2D of 2x2 windows behind it, and perhaps a Dropout; called like a
    layer."""

    def __init__(self, conv: Conv2D, pool: MaxPooling2D, dropout: Dropout | None = None) -> None:
        self.conv, self.pool, self.dropout = conv, pool, dropout
        self._planned: tuple[Any, ...] = (None,)

    def count_params(self) -> int:
        return self.conv.count_params()

    def __call__(self, x: np.ndarray, training: bool = False) -> tuple[np.ndarray, Any]:
        conv, weights = self.conv, self.conv.owned_weights()
        x, w = arguments.arrays(x=(x, 4), kernel=(weights["kernel"], 4))
        convolution, shape = self._plan(x.shape, w.shape)
        y = memory.empty(shape, x.dtype)
        where = memory.empty(y.shape, np.uint8) if training else None
        convolution.forward(y, x, w, weights.get("bias"), relu=True, pools=True, where=where)
        if where is None:
            return y, None
        scale = 1.0
        if self.dropout is not None:
            scale = _drop(y, where, *self.dropout.draw())

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            (dy,) = arguments.arrays(dy=(dy, 4))
            arguments.same_shape("dy", dy, y.shape, "that of the result whose gradient it is")
            unpool = where, scale

            def kernel_gradient(out: np.ndarray | None) -> np.ndarray:
                dw = memory.empty(w.shape, w.dtype) if out is None else out
                convolution.filter_gradient(dw, x, dy, unpool=unpool)
                return dw

            def bias_gradient(out: np.ndarray | None) -> np.ndarray:
                # Of the values that passed relu and dropout: those are positive.
                return np.multiply(nn.bias_add_grad(nn.relu_grad(dy, y)), scale, dtype=w.dtype, out=out)

            conv.accumulate("kernel", kernel_gradient)
            if conv.use_bias:
                conv.accumulate("bias", bias_gradient)
            if not input_gradient:
                return None
            dx = memory.empty(x.shape, x.dtype)
            convolution.input_gradient(dx, w, dy, unpool=unpool)
            return dx

        return y, backward

    def _plan(
        self, shape: tuple[int, ...], filter_shape: tuple[int, ...]
    ) -> tuple[Convolution, tuple[int, ...]]:
        """The convolution and the shape of its pool; of the last input's shape it is still there."""
        planned = self._planned
        if planned[0] != shape:
            conv = self.conv
            convolution = Convolution(shape, filter_shape, conv.strides, conv.padding, conv.dilation_rate)
            n, h, w, k = convolution.output_shape
            windows = _windows.pooling((n, h, w, k), 2, 2, self.pool.padding, "x")
            planned = self._planned = shape, convolution, (n, *(axis.out for axis in windows), k)
        return planned[1], planned[2]


def _drop(y: np.ndarray, where: np.ndarray, rate: float, seed: int) -> float:
    """nn.dropout in place, which also marks the pool's bytes; returns the scale of what is kept."""
    scale = 1 / (1 - rate)
    if y.size:
        flat, n = y.reshape(-1), threads.resolve(None, y.size * nn.RANDOM_PASS)
        elementwise.dropout(flat, flat, seed, int(rate * (1 << 32)), scale, n, where.reshape(-1))
    return scale
