"""Layers with a kernel: what they share, and dense."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import _arguments as arguments
from fastconv import initializers, nn
from fastconv.initializers import Initializer
from fastconv.layers.base import Layer, Result
from fastconv.layers.pointwise import ACTIVATIONS, activation_name


class Affine(Layer):
    """What all of them share: kernel, bias or none, activation or none."""

    def __init__(
        self,
        activation: Any,
        use_bias: bool,
        kernel_initializer: str | Initializer,
        bias_initializer: str | Initializer,
        name: str | None,
    ) -> None:
        super().__init__(name)
        self.activation = None if activation is None else activation_name(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer, "kernel_initializer")
        self.bias_initializer = initializers.get(bias_initializer, "bias_initializer")

    def _declare(self, kernel_shape: tuple[int, ...], channels: int) -> None:
        """The kernel's shape, and the output's channels, of which each may have a bias."""
        if self.specs and self.specs["kernel"][0] != kernel_shape:
            raise ValueError(
                f"the layer's kernel is {self.specs['kernel'][0]} already, where it stood before"
            )
        self.specs = {"kernel": (kernel_shape, self.kernel_initializer)}
        if self.use_bias:
            self.specs["bias"] = ((channels,), self.bias_initializer)

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        weights = self.owned_weights()
        y = self._forward(x, weights["kernel"], weights.get("bias"))
        if self.activation != self._fused:
            y = ACTIVATIONS[self.activation][0](y)
        if not training:
            return y, None

        def backward(dy: np.ndarray, input_gradient: bool = True, **sums: np.ndarray) -> np.ndarray | None:
            if self.activation is not None:
                dy = ACTIVATIONS[self.activation][1](y, dy)
            self.accumulate("kernel", lambda out: self._kernel_gradient(x, dy, out))
            if self.use_bias:
                self.accumulate("bias", lambda out: nn.bias_add_grad(dy, out=out))
            return self._input_gradient(x, dy, **sums) if input_gradient else None

        return y, backward

    @property
    def _fused(self) -> str | None:
        """The activation, if nn computes it in the same pass."""
        return self.activation if self.activation == "relu" else None

    def _forward(self, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        raise NotImplementedError

    def _kernel_gradient(self, x: np.ndarray, dy: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        raise NotImplementedError

    def _input_gradient(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class Dense(Affine):
    """x [N, I] @ kernel [I, units] (+ bias, activation) -> [N, units]; arguments as for Conv2D."""

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(activation, use_bias, kernel_initializer, bias_initializer, name)
        self.units = arguments.whole("units", units, 1)

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """[I] -> [units]"""
        if len(input_shape) != 1:
            raise ValueError(f"Dense needs flat input [I], not {input_shape}: put a Flatten before it")
        self._declare((*input_shape, self.units), self.units)
        return (self.units,)

    def _forward(self, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        return nn.dense(x, kernel, bias, self._fused)

    def _kernel_gradient(self, x: np.ndarray, dy: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        return nn.dense_backprop_kernel(x, dy, out=out)

    def _input_gradient(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        return nn.dense_backprop_input(self.weights["kernel"], dy)
