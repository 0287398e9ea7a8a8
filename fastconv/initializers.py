"""How parameters start: an initializer is a function `draw(rng, shape) -> float64 array`.

Kernels are [..., inputs, outputs], HWIO for a convolution. fan_in, how many numbers meet in one output, is
the product of all axes but the last; fan_out, how many outputs one number reaches, of all axes but the last
but one. Everything is drawn in float64 and rounded afterwards: a float32 and a float64 model of one seed
start alike.

Names and details as in Keras. Sources: Glorot and Bengio, "Understanding the difficulty of training deep
feedforward neural networks", AISTATS 2010 (Xavier is Glorot's first name); He et al., "Delving deep into
rectifiers", ICCV 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastconv import _arguments as arguments

Initializer = Callable[[np.random.Generator, "tuple[int, ...]"], np.ndarray]

# Standard deviation of a standard normal that is cut off at -2 and 2.
_TRUNCATED_STDDEV = 0.87962566103423978


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All zeros; draws nothing."""
    return np.zeros(shape)


def ones(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All ones; draws nothing."""
    return np.ones(shape)


@dataclass(frozen=True)
class random_normal:  # a class, so that it can be pickled, under the name of a function
    """N(0, stddev**2), as TensorFlow's `tf.random_normal(shape, stddev=...)`."""

    stddev: float

    def __post_init__(self) -> None:
        arguments.number("stddev", self.stddev, 0)

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.normal(0.0, self.stddev, shape)


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """U(-a, a), a = sqrt(6 / (fan_in + fan_out)): TensorFlow's `xavier_initializer()`."""
    return _uniform(rng, shape, 6 / sum(_fans(shape)))


def glorot_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A normal with variance 2 / (fan_in + fan_out), cut off at two standard deviations as in Keras."""
    return _truncated_normal(rng, shape, 2 / sum(_fans(shape)))


def he_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """U(-a, a), a = sqrt(6 / fan_in)."""
    return _uniform(rng, shape, 6 / _fans(shape)[0])


def he_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A normal with variance 2 / fan_in, cut off at two standard deviations as in Keras."""
    return _truncated_normal(rng, shape, 2 / _fans(shape)[0])


_BY_NAME: dict[str, Initializer] = {
    "ones": ones,
    "zeros": zeros,
    "glorot_uniform": glorot_uniform,
    "glorot_normal": glorot_normal,
    "he_uniform": he_uniform,
    "he_normal": he_normal,
    "xavier": glorot_uniform,
}


def get(initializer: str | Initializer, argument: str = "initializer") -> Initializer:
    """The initializer of that name, or the function itself; `argument` is what errors call it."""
    if callable(initializer):
        return initializer
    if isinstance(initializer, str) and initializer in _BY_NAME:
        return _BY_NAME[initializer]
    raise ValueError(f"{argument} must be one of {sorted(_BY_NAME)} or a function, not {initializer!r}")


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out); a bias counts as [1, n] with both n, as in Keras."""
    if len(shape) == 1:
        return shape[0], shape[0]
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], bound_squared: float) -> np.ndarray:
    bound = math.sqrt(bound_squared)
    return rng.uniform(-bound, bound, shape)


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...], variance: float) -> np.ndarray:
    values = rng.standard_normal(shape)
    while (outside := (values > 2) | (values < -2)).any():
        values[outside] = rng.standard_normal(np.count_nonzero(outside))
    values *= math.sqrt(variance) / _TRUNCATED_STDDEV  # in place: a large layer's is hundreds of megabytes
    return values
