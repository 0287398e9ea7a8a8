"""Adam and SGD: `step(parameters, gradients)` moves a flat array of parameters in one fused pass.

A learning rate is a number or, as in Keras, a schedule: called with the number of a step, from 0 on, it gives
the rate of that step. CosineDecay and ExponentialDecay are two; a function of your own will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fastconv import _arguments as arguments
from fastconv import nn, threads
from fastconv._kernels import elementwise

LearningRate = float | Callable[[int], float]


class CosineDecay:
    """From initial_learning_rate to alpha times as much, half a cosine in decay_steps steps; then constant.

        initial_learning_rate (alpha + (1 - alpha) (1 + cos(pi min(step / decay_steps, 1))) / 2)

    Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, without restarts.
    """

    def __init__(self, initial_learning_rate: float, decay_steps: int, alpha: float = 0.0) -> None:
        self.initial_learning_rate = arguments.number("initial_learning_rate", initial_learning_rate, 0)
        self.decay_steps = arguments.whole("decay_steps", decay_steps, 1)
        self.alpha = arguments.number("alpha", alpha, 0)

    def __call__(self, step: int) -> float:
        wave = (1 + math.cos(math.pi * min(step / self.decay_steps, 1))) / 2
        return self.initial_learning_rate * (self.alpha + (1 - self.alpha) * wave)


class ExponentialDecay:
    """initial_learning_rate decay_rate**(step / decay_steps); staircase: with that exponent rounded down."""

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, decay_rate: float, staircase: bool = False
    ) -> None:
        self.initial_learning_rate = arguments.number("initial_learning_rate", initial_learning_rate, 0)
        self.decay_steps = arguments.whole("decay_steps", decay_steps, 1)
        self.decay_rate = arguments.number("decay_rate", decay_rate, 0)
        self.staircase = staircase

    def __call__(self, step: int) -> float:
        exponent = step // self.decay_steps if self.staircase else step / self.decay_steps
        return self.initial_learning_rate * self.decay_rate**exponent


class Adam:
    """Adam as TensorFlow writes it: the form at the end of section 2 of Kingma and Ba, "Adam", ICLR 2015.

        m = beta_1 m + (1 - beta_1) g,   v = beta_2 v + (1 - beta_2) g**2
        p -= learning_rate sqrt(1 - beta_2**t) / (1 - beta_1**t)  m / (sqrt(v) + epsilon)

    t counts the steps from 1; `iterations` are the steps taken. `learning_rate` may be changed between steps.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        self.learning_rate = _checked_rate(learning_rate)
        self.beta_1 = arguments.rate("beta_1", beta_1)
        self.beta_2 = arguments.rate("beta_2", beta_2)
        self.epsilon = arguments.number("epsilon", epsilon, 0)
        self.reset()

    def reset(self) -> None:
        """Forget all steps taken."""
        self.iterations = 0
        self._m: np.ndarray | None = None
        self._v: np.ndarray | None = None

    def step(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """One step, in place. Both arrays: [P], contiguous, of one float dtype, the same P at every step."""
        _check_flat(parameters, gradients, self._m)
        learning_rate = _rate(self.learning_rate, self.iterations)
        if self._m is None:
            self._m, self._v = np.zeros_like(parameters), np.zeros_like(parameters)
        t = self.iterations + 1
        rate = learning_rate * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        n = threads.resolve(None, parameters.size * nn.PASS)
        self.iterations = t  # an interrupt during the step is raised behind it
        elementwise.adam(
            parameters, gradients, self._m, self._v, rate, self.beta_1, self.beta_2, self.epsilon, n
        )


class SGD:
    """Gradient descent with momentum in Keras' form: v = momentum v - learning_rate g,  p += v.

    `iterations` are the steps taken. `learning_rate` may be changed between steps.
    """

    def __init__(self, learning_rate: LearningRate = 0.01, momentum: float = 0.0) -> None:
        self.learning_rate = _checked_rate(learning_rate)
        self.momentum = arguments.rate("momentum", momentum)
        self.reset()

    def reset(self) -> None:
        """Forget all steps taken."""
        self.iterations = 0
        self._velocity: np.ndarray | None = None

    def step(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """One step, in place. Both arrays: [P], contiguous, of one float dtype, the same P at every step."""
        _check_flat(parameters, gradients, self._velocity)
        learning_rate = _rate(self.learning_rate, self.iterations)
        if self._velocity is None:
            self._velocity = np.zeros_like(parameters)
        n = threads.resolve(None, parameters.size * nn.PASS)
        self.iterations += 1  # as above
        elementwise.sgd(parameters, gradients, self._velocity, learning_rate, self.momentum, n)


def _checked_rate(learning_rate: LearningRate) -> LearningRate:
    return learning_rate if callable(learning_rate) else arguments.number("learning_rate", learning_rate, 0)


def _rate(learning_rate: LearningRate, step: int) -> float:
    """The rate of this step, counted from 0."""
    if callable(learning_rate):
        return arguments.number(f"learning_rate({step})", learning_rate(step), 0)
    return arguments.number("learning_rate", learning_rate, 0)  # it may have been changed


def _check_flat(parameters: np.ndarray, gradients: np.ndarray, state: np.ndarray | None) -> None:
    """The kernels write through plain pointers: everything about the arrays is checked here."""
    for name, array in (("parameters", parameters), ("gradients", gradients)):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} must be an array, not {arguments.show(array)}")
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
