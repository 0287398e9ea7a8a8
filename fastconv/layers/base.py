"""Layer, what all layers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastconv import _arguments as arguments
from fastconv.initializers import Initializer

Result = tuple[np.ndarray, Any]  # y, and backward or None
Specs = dict[str, tuple[tuple[int, ...], Initializer]]  # shape and start of each array of a layer, by its key


class Layer:
    """A name, declared parameters and, once a model owns the layer, views of them.

    `specs` are trained: they have gradients, and count_params counts them. `statistic_specs` are not, but
    belong to the layer's `weights` all the same: they are saved, loaded and copied with the rest.
    """

    chained_by: tuple[str, ...] = ()  # attributes that decide which chains the layer is part of

    def __init__(self, name: str | None = None) -> None:
        if name is not None and (not isinstance(name, str) or not name or {"/", "\0"} & set(name)):
            raise ValueError(f"name must be a string without '/' and NUL, not {name!r}")
        self.name = name
        self.specs: Specs = {}  # declared by build, as the next one
        self.statistic_specs: Specs = {}
        self.weights: dict[str, np.ndarray] = {}
        self.grads: dict[str, np.ndarray] = {}
        self.rng: np.random.Generator | None = None  # the owning model's; None while no model owns the layer
        self.stale: set[str] = set()  # gradients to be replaced, not added to

    def __init_subclass__(cls, **options: Any) -> None:
        """A class with a nearer __call__ than prepare_inference is computed by that __call__."""
        super().__init_subclass__(**options)
        nearest = next(base for base in cls.__mro__ if {"__call__", "prepare_inference"} & set(vars(base)))
        if "prepare_inference" not in vars(nearest):
            cls.prepare_inference = Layer.prepare_inference

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Declare the parameters for this input shape; return the output's. Neither has the batch axis."""
        y, _ = self(np.empty((0, *input_shape), np.float32))  # nn knows the geometry: an empty batch asks it
        return y.shape[1:]

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        raise NotImplementedError

    def prepare_inference(self) -> Callable[[np.ndarray], np.ndarray]:
        """What computes the layer without training, x -> y.

        Before it is returned, whatever does not depend on x may be found: weights, windows, folded
        normalizations. A net prepares all its layers before the first one is computed, for between two
        convolutions Python runs on caches that they have emptied, ten times as slowly.
        """
        return lambda x: self(x, False)[0]

    def accumulate(self, key: str, gradient: Callable[[np.ndarray | None], np.ndarray]) -> None:
        """Add a gradient: `gradient(out)` writes it into `out`, or a new array for None, and returns it."""
        if key in self.stale:
            gradient(self.grads[key])
            self.stale.discard(key)
        else:
            self.grads[key] += gradient(None)

    def owned_weights(self) -> dict[str, np.ndarray]:
        """The parameters; RuntimeError while no model owns the layer."""
        if not self.weights:
            raise RuntimeError(
                f"{type(self).__name__} needs a Sequential with input_shape to own its parameters"
            )
        return self.weights

    def members(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """(path, layer) of this layer; of the layers inside if it is a container."""
        yield path, self

    def count_params(self) -> int:
        """How many numbers training changes."""
        unique = {id(layer): layer for _, layer in self.members()}
        return sum(count_numbers(layer.specs) for layer in unique.values())

    def __getstate__(self) -> dict[str, Any]:
        # A copied or pickled view would be an array of its own: the copied model makes new ones, and a layer
        # that is copied without its model belongs to none.
        return {**self.__dict__, "weights": {}, "grads": {}, "rng": None}


def count_numbers(specs: Specs) -> int:
    """How many numbers the arrays hold together."""
    return sum(math.prod(shape) for shape, _ in specs.values())


def checked_padding(padding: Any) -> Any:
    """The padding as it was given, if it is one."""
    arguments.padding(padding)
    return padding
