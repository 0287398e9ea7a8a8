"""Layers without parameters that see one number at a time: activations, dropout, other shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastconv import _arguments as arguments
from fastconv import nn
from fastconv.layers.base import Layer, Result

# (x -> y, (y, dy) -> dx): every gradient is found from the result alone. Looked up in nn at each call.
ACTIVATIONS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
    "relu": (lambda x: nn.relu(x), lambda y, dy: nn.relu_grad(dy, y)),
    "sigmoid": (lambda x: nn.sigmoid(x), lambda y, dy: nn.sigmoid_grad(y, dy)),
    "tanh": (lambda x: nn.tanh(x), lambda y, dy: nn.tanh_grad(y, dy)),
}


def activation_name(activation: Any) -> str:
    """The name of one of ACTIVATIONS, which may be given as nn's function."""
    if callable(activation):
        activation = next((name for name in ACTIVATIONS if activation is getattr(nn, name)), activation)
    return arguments.choice("activation", activation, tuple(ACTIVATIONS))


class Activation(Layer):
    """relu, sigmoid or tanh of each number, of any shape; by its name, or nn's function of that name."""

    chained_by = ("activation",)

    def __init__(self, activation: str | Callable[..., np.ndarray], *, name: str | None = None) -> None:
        super().__init__(name)
        self.activation = activation_name(activation)

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        forward, gradient = ACTIVATIONS[self.activation]
        y = forward(x)

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            return gradient(y, dy) if input_gradient else None

        return y, backward if training else None


class ReLU(Activation):
    """max(x, 0), of any shape."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__("relu", name=name)


class Dropout(Layer):
    """In training, each element is zeroed with probability `rate` and the rest are scaled by 1 / (1 - rate).

    Each call in training takes a seed from the model's generator; the gradient computes the same mask again.
    """

    def __init__(self, rate: float, *, name: str | None = None) -> None:
        super().__init__(name)
        self.rate = arguments.rate("rate", rate)

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        if not training:
            return x, None
        rate, seed = self.draw()

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            return nn.dropout(dy, rate, seed=seed) if input_gradient else None

        return nn.dropout(x, rate, seed=seed), backward

    def draw(self) -> tuple[float, int]:
        """The rate and a new seed from the model's generator."""
        if self.rng is None:
            raise RuntimeError("Dropout needs a Sequential with input_shape to own its random generator")
        # The generator's next 64 bits, as `integers` gives them, whose checks take 20 microseconds in a step.
        return self.rate, int(self.rng.bit_generator.random_raw())


class Reshape(Layer):
    """x [N, ...] -> [N, *target_shape]; one of its numbers may be -1, for whatever is left."""

    def __init__(self, target_shape: Sequence[int], *, name: str | None = None) -> None:
        super().__init__(name)
        self.target_shape = tuple(arguments.whole("target_shape", size, -1) for size in target_shape)
        if 0 in self.target_shape or self.target_shape.count(-1) > 1:
            raise ValueError(f"target_shape must hold sizes above 0 and at most one -1, not {target_shape!r}")

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        shape = x.shape

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            return dy.reshape(shape) if input_gradient else None

        return x.reshape(shape[0], *self._resolve(shape[1:])), backward if training else None

    def _resolve(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """target_shape without its -1; NumPy cannot tell what -1 means for an empty batch."""
        size, known = math.prod(input_shape), math.prod(n for n in self.target_shape if n != -1)
        shape = tuple(size // known if n == -1 else n for n in self.target_shape)
        if math.prod(shape) != size:
            raise ValueError(
                f"target_shape {self.target_shape} cannot hold the {size} numbers of {input_shape}"
            )
        return shape


class Flatten(Reshape):
    """x [N, ...] -> [N, I], the last axis fastest."""

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__((-1,), name=name)
