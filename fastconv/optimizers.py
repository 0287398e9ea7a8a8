"""Adam and SGD: `step(parameters, gradients)` moves a flat array of parameters in one fused pass."""

from __future__ import annotations

import math

import numpy as np

from fastconv import nn, threads
from fastconv._kernels import elementwise


class Adam:
    """Adam as TensorFlow writes it: the form at the end of section 2 of Kingma and Ba, "Adam", ICLR 2015.

        m = beta_1 m + (1 - beta_1) g,   v = beta_2 v + (1 - beta_2) g**2
        p -= learning_rate sqrt(1 - beta_2**t) / (1 - beta_1**t)  m / (sqrt(v) + epsilon)

    t (`iterations`) counts the steps from 1. `learning_rate` may be changed between steps.
    """

    def __init__(
        self, learning_rate: float = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        self.learning_rate = _in_range("learning_rate", learning_rate, 0, math.inf)
        self.beta_1 = _in_range("beta_1", beta_1, 0, 1)
        self.beta_2 = _in_range("beta_2", beta_2, 0, 1)
        self.epsilon = _in_range("epsilon", epsilon, 0, math.inf)
        self.reset()

    def reset(self) -> None:
        """Forget all steps taken."""
        self.iterations = 0
        self._m: np.ndarray | None = None
        self._v: np.ndarray | None = None

    def step(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """One step, in place. Both arrays: [P], contiguous, of one float dtype, the same P at every step."""
        _check_flat(parameters, gradients, self._m)
        if self._m is None:
            self._m, self._v = np.zeros_like(parameters), np.zeros_like(parameters)
        t = self.iterations + 1
        rate = self.learning_rate * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        elementwise.adam(
            parameters,
            gradients,
            self._m,
            self._v,
            rate,
            self.beta_1,
            self.beta_2,
            self.epsilon,
            threads.resolve(None, parameters.size * nn.PASS),
        )
        self.iterations = t


class SGD:
    """Gradient descent with momentum in Keras' form: v = momentum v - learning_rate g,  p += v."""

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.0) -> None:
        self.learning_rate = _in_range("learning_rate", learning_rate, 0, math.inf)
        self.momentum = _in_range("momentum", momentum, 0, 1)
        self.reset()

    def reset(self) -> None:
        """Forget all steps taken."""
        self._velocity: np.ndarray | None = None

    def step(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """One step, in place. Both arrays: [P], contiguous, of one float dtype, the same P at every step."""
        _check_flat(parameters, gradients, self._velocity)
        if self._velocity is None:
            self._velocity = np.zeros_like(parameters)
        elementwise.sgd(
            parameters,
            gradients,
            self._velocity,
            self.learning_rate,
            self.momentum,
            threads.resolve(None, parameters.size * nn.PASS),
        )


def _in_range(name: str, value: float, low: float, high: float) -> float:
    if not low <= value < high:
        raise ValueError(f"{name} must lie in [{low}, {high}), not {value!r}")
    return float(value)


def _check_flat(parameters: np.ndarray, gradients: np.ndarray, state: np.ndarray | None) -> None:
    """The kernels write through plain pointers: everything about the arrays is checked here."""
    for name, array in (("parameters", parameters), ("gradients", gradients)):
        if array.ndim != 1 or not array.flags.c_contiguous or array.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"{name} must be a contiguous [P] array of float32 or float64, "
                f"not {array.dtype} of shape {array.shape}"
            )
    if not parameters.flags.writeable:
        raise ValueError("parameters must be writeable, not read-only")
    expected = parameters if state is None else state
    for name, array in (("parameters", parameters), ("gradients", gradients)):
        if (array.shape, array.dtype) != (expected.shape, expected.dtype):
            raise ValueError(
                f"{name} must be {expected.dtype} of shape {expected.shape} "
                f"like the rest, not {array.dtype} of shape {array.shape}"
            )
