"""Layers with Keras' names over fastconv.nn, and Sequential, which owns their parameters.

    y, backward = layer(x, training=True)     x [N, ...] -> y [N, ...]
    dx = backward(dy)                         dy like y  -> dx like x; adds to the layer's gradients

What the gradient needs lives in `backward`, not on the layer: a layer may stand twice in a net, and without
training backward is None and nothing is kept. `backward(dy, input_gradient=False)` skips dx and returns None,
for the first layer of a net.

A Sequential with an input_shape lays all parameters into one flat array and all gradients into another; each
layer inside holds views of its part (`layer.weights["kernel"]`, `layer.grads["kernel"]`).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fastconv import _arguments as arguments
from fastconv import _chains as chains
from fastconv import initializers, nn
from fastconv._kernels import memory
from fastconv.initializers import Initializer

Result = tuple[np.ndarray, Any]  # y, and backward or None


class Layer:
    """What all layers share: a name, declared parameters and, once a model owns the layer, views of them."""

    def __init__(self, name: str | None = None) -> None:
        if name is not None and (not isinstance(name, str) or not name or "/" in name):
            raise ValueError(f"name must be a string without '/', not {name!r}")
        self.name = name
        self.specs: dict[str, tuple[tuple[int, ...], Initializer]] = {}  # declared by build
        self.weights: dict[str, np.ndarray] = {}
        self.grads: dict[str, np.ndarray] = {}
        self.rng: np.random.Generator | None = None  # the owning model's; None while no model owns the layer
        self.stale: set[str] = set()  # gradients to be replaced, not added to

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Declare the parameters for this input shape; return the output's. Neither has the batch axis."""
        y, _ = self(np.empty((0, *input_shape), np.float32))  # nn knows the geometry: an empty batch asks it
        return y.shape[1:]

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        raise NotImplementedError

    def accumulate(self, key: str, gradient: Callable[[np.ndarray | None], np.ndarray]) -> None:
        """Add a gradient: `gradient(out)` writes it into `out`, or a new array for None, and returns it."""
        if key in self.stale:
            gradient(self.grads[key])
            self.stale.discard(key)
        else:
            self.grads[key] += gradient(None)

    def members(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """(path, layer) of this layer; of the layers inside if it is a container."""
        yield path, self

    def count_params(self) -> int:
        """How many numbers training changes."""
        unique = {id(layer): layer for _, layer in self.members()}
        return sum(math.prod(shape) for layer in unique.values() for shape, _ in layer.specs.values())

    def __getstate__(self) -> dict[str, Any]:
        # A copied or pickled view would be an array of its own: the copied model makes new ones.
        return {**self.__dict__, "weights": {}, "grads": {}}


class _Affine(Layer):
    """What Conv2D and Dense share: kernel, bias or none, relu or nothing, in one call of nn."""

    def __init__(
        self,
        activation: Any,
        use_bias: bool,
        kernel_initializer: str | Initializer,
        bias_initializer: str | Initializer,
        name: str | None,
    ) -> None:
        super().__init__(name)
        activation = "relu" if activation is nn.relu else activation
        self.activation = arguments.choice("activation", activation, (None, "relu"))
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer, "kernel_initializer")
        self.bias_initializer = initializers.get(bias_initializer, "bias_initializer")

    def _declare(self, kernel_shape: tuple[int, ...]) -> None:
        if self.specs and self.specs["kernel"][0] != kernel_shape:
            raise ValueError(
                f"the layer's kernel is {self.specs['kernel'][0]} already, where it stood before"
            )
        self.specs = {"kernel": (kernel_shape, self.kernel_initializer)}
        if self.use_bias:
            self.specs["bias"] = (kernel_shape[-1:], self.bias_initializer)

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        weights = self.owned_weights()
        y = self._forward(x, weights["kernel"], weights.get("bias"))
        if not training:
            return y, None

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            if self.activation == "relu":
                dy = nn.relu_grad(dy, y)
            self.accumulate("kernel", lambda out: self._kernel_gradient(x, dy, out))
            if self.use_bias:
                self.accumulate("bias", lambda out: nn.bias_add_grad(dy, out=out))
            return self._input_gradient(x, dy) if input_gradient else None

        return y, backward

    def owned_weights(self) -> dict[str, np.ndarray]:
        """The parameters; RuntimeError while no model owns the layer."""
        if not self.weights:
            raise RuntimeError(
                f"{type(self).__name__} needs a Sequential with input_shape to own its parameters"
            )
        return self.weights

    def _forward(self, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        raise NotImplementedError

    def _kernel_gradient(self, x: np.ndarray, dy: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        raise NotImplementedError

    def _input_gradient(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class Conv2D(_Affine):
    """x [N, H, W, C] convolved with kernel [kh, kw, C, filters] (+ bias) (relu) -> [N, OH, OW, filters].

    kernel_size, strides, dilation_rate: int or (height, width). padding: "valid", "same", or explicit as in
    nn.conv2d. activation: None or "relu". Initializers: a name or function of fastconv.initializers.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Any = "valid",
        *,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        name: str | None = None,
    ) -> None:
        super().__init__(activation, use_bias, kernel_initializer, bias_initializer, name)
        self.filters = arguments.whole("filters", filters, 1)
        self.kernel_size = arguments.pair("kernel_size", kernel_size)
        self.strides = arguments.pair("strides", strides)
        self.padding = _checked_padding(padding)
        self.dilation_rate = arguments.pair("dilation_rate", dilation_rate)

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """[H, W, C] -> [OH, OW, filters]"""
        if len(input_shape) != 3:
            raise ValueError(f"Conv2D needs input [H, W, C], not {input_shape}")
        kernel_shape = (*self.kernel_size, input_shape[-1], self.filters)
        self._declare(kernel_shape)
        empty = np.empty((0, *input_shape), np.float32)
        return self._forward(empty, np.zeros(kernel_shape, np.float32), None).shape[1:]

    def _forward(self, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        return nn.conv2d(
            x, kernel, self.strides, self.padding, self.dilation_rate, bias=bias, activation=self.activation
        )

    def _kernel_gradient(self, x: np.ndarray, dy: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        shape, how = self.weights["kernel"].shape, (self.strides, self.padding, self.dilation_rate)
        return nn.conv2d_backprop_filter(x, shape, dy, *how, out=out)

    def _input_gradient(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        kernel = self.weights["kernel"]
        return nn.conv2d_backprop_input(x.shape, kernel, dy, self.strides, self.padding, self.dilation_rate)


class Dense(_Affine):
    """x [N, I] @ kernel [I, units] (+ bias) (relu) -> [N, units]; arguments as for Conv2D."""

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
        self._declare((*input_shape, self.units))
        return (self.units,)

    def _forward(self, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        return nn.dense(x, kernel, bias, self.activation)

    def _kernel_gradient(self, x: np.ndarray, dy: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        return nn.dense_backprop_kernel(x, dy, out=out)

    def _input_gradient(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        return nn.dense_backprop_input(self.weights["kernel"], dy)


class MaxPooling2D(Layer):
    """The largest of each window, x [N, H, W, C] -> [N, OH, OW, C].

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
        self.padding = _checked_padding(padding)

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        y = nn.max_pool2d(x, self.pool_size, self.strides, self.padding)

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            if not input_gradient:
                return None
            return nn.max_pool_grad(x, y, dy, self.pool_size, self.strides, self.padding)

        return y, backward if training else None


class ReLU(Layer):
    """max(x, 0), of any shape."""

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        y = nn.relu(x)

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            return nn.relu_grad(dy, y) if input_gradient else None

        return y, backward if training else None


class Dropout(Layer):
    """In training, each element is zeroed with probability `rate` and the rest are scaled by 1 / (1 - rate).

    Each call in training takes a seed from the model's generator; the gradient computes the same mask again.
    """

    def __init__(self, rate: float, *, name: str | None = None) -> None:
        super().__init__(name)
        if not 0 <= rate < 1:
            raise ValueError(f"rate must lie in [0, 1), not {rate!r}")
        self.rate = float(rate)

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
        return self.rate, int(self.rng.integers(2**64, dtype=np.uint64))


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


class Sequential(Layer):
    """Layers one after the other. With input_shape it is a model, without one a part of another net.

    input_shape: of one example, without the batch axis, e.g. (28, 28, 1).
    seed: of the model's generator `rng`, which draws the parameters in layer order, then Dropout's seeds.
    dtype: float32 or float64, of the parameters and of all that is computed.

    A model has `parameters` and `gradients`, [count_params()] each, and all views of them in `weights` and
    `grads`, by path ("conv2d/kernel"). Layers without a name get their class' and a number, as in Keras.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        input_shape: Sequence[int] | None = None,
        seed: int = 0,
        dtype: Any = np.float32,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.layers = list(layers)
        self.output_shapes: list[tuple[int, ...]] = []
        self.arena: memory.Arena | None = None
        self._linked: tuple[list[Layer], list[Any]] = ([], [])
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{i}] must be a layer, not {layer!r}")
        if not self.layers:
            raise ValueError("layers must hold at least one layer, not []")
        self._name_layers()
        if input_shape is not None:
            self._become_model(input_shape, seed, np.dtype(dtype))

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        """A model accepts anything array-like, [N, *input_shape], and casts it to its dtype."""
        if self.rng is not None:
            x = self._input(x)
        steps = self._steps()
        backwards: list[Any] = []
        with self._memory():
            for step in steps:
                x, step_backward = step(x, training)
                backwards.append(step_backward)
        if not training:
            return x, None

        def backward(dy: Any, input_gradient: bool = True) -> np.ndarray | None:
            # Without dx, nothing before the first step with parameters has anything to compute.
            parameters = (i for i, step in enumerate(steps) if step.count_params())
            first = 0 if input_gradient else next(parameters, len(steps))
            with self._memory():
                for i in reversed(range(first, len(steps))):
                    dy = backwards[i](dy, input_gradient=input_gradient or i > first)
            return dy if input_gradient else None

        return x, backward

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Build the layers in order."""
        self.output_shapes = []
        shape = tuple(input_shape)
        for layer in self.layers:
            try:
                output_shape = layer.build(shape)
            except ValueError as error:
                raise ValueError(f"{layer.name} on an input of shape {shape}: {error}") from error
            self.output_shapes.append(output_shape)
            shape = output_shape
        return shape

    def members(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """(path, layer) of all layers inside, in order; a layer that stands twice comes twice."""
        for layer in self.layers:
            yield from layer.members(f"{path}/{layer.name}" if path else str(layer.name))

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the model's layers, their output shapes and their numbers of parameters."""
        rows = [("Layer (type)", "Output shape", "Parameters")]
        for i, (layer, shape) in enumerate(zip(self.layers, self.output_shapes, strict=True)):
            again = any(layer is earlier for earlier in self.layers[:i])
            count = "shared" if again else f"{layer.count_params():,}"
            rows.append((f"{layer.name} ({type(layer).__name__})", str((None, *shape)), count))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        thin, thick = "_" * len(lines[0]), "=" * len(lines[0])
        title, total = f'Model: "{self.name or "sequential"}"', f"Total parameters: {self.count_params():,}"
        print_fn("\n".join([title, thin, lines[0], thick, *lines[1:], thick, total, thin]))

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all parameters in layer order, kernel before bias."""
        return [view.copy() for view in self.weights.values()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """The reverse of get_weights; ValueError, and nothing set, unless all shapes agree."""
        shapes = [np.shape(array) for array in weights]
        expected = [view.shape for view in self.weights.values()]
        if shapes != expected:
            raise ValueError(f"weights must have the shapes {expected}, not {shapes}")
        for view, array in zip(self.weights.values(), weights, strict=True):
            view[...] = array

    def forget_gradients(self) -> None:
        """The next gradient of each parameter replaces what `gradients` holds, instead of adding to it."""
        for _, layer in self.members():
            layer.stale = set(layer.grads)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "arena": None, "_linked": ([], [])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.rng is not None:
            self.arena = memory.Arena()
            self._bind()

    def _steps(self) -> list[Any]:
        """The layers as they are computed; linked again when `layers` has changed."""
        if self._linked[0] != self.layers:
            self._linked = list(self.layers), chains.link(self.layers)
        return self._linked[1]

    def _memory(self) -> contextlib.AbstractContextManager[None]:
        """A model's activations and gradients lie in memory that is used again from step to step."""
        return contextlib.nullcontext() if self.arena is None else memory.reusing(self.arena)

    def _become_model(self, input_shape: Sequence[int], seed: int, dtype: np.dtype) -> None:
        if dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64, not {dtype}")
        rng = np.random.default_rng(arguments.whole("seed", seed, 0))
        self.input_shape = tuple(arguments.whole("input_shape", size, 1) for size in input_shape)
        for path, layer in self.members():
            if layer.rng is not None:
                raise ValueError(f"layers: {path} belongs to another model already")
            layer.specs = {}  # of an attempt that failed
        self.output_shape = self.build(self.input_shape)
        self.parameters = np.zeros(self.count_params(), dtype)
        self.gradients = np.zeros_like(self.parameters)
        self._bind()
        for _, layer in self._unique_members():
            for key, (shape, initializer) in layer.specs.items():
                values = np.asarray(initializer(rng, shape))
                if values.shape != shape:
                    raise ValueError(f"{key}_initializer must return shape {shape}, not {values.shape}")
                layer.weights[key][...] = values
        for (
            _,
            layer,
        ) in self.members():  # only now: until nothing can fail, the layers are free for another model
            layer.rng = rng
        self.rng, self.arena = rng, memory.Arena()

    def _bind(self) -> None:
        """Give each layer views of its part of the flat arrays."""
        start = 0
        for path, layer in self._unique_members():
            for key, (shape, _) in layer.specs.items():
                part = slice(start, start + math.prod(shape))
                layer.weights[key] = self.weights[f"{path}/{key}"] = self.parameters[part].reshape(shape)
                layer.grads[key] = self.grads[f"{path}/{key}"] = self.gradients[part].reshape(shape)
                start = part.stop

    def _unique_members(self) -> list[tuple[str, Layer]]:
        unique: dict[int, tuple[str, Layer]] = {}
        for path, layer in self.members():
            unique.setdefault(id(layer), (path, layer))
        return list(unique.values())

    def _name_layers(self) -> None:
        """conv2d, conv2d_1, ... Names must be unique: a checkpoint finds parameters by them."""
        unique = list({id(layer): layer for layer in self.layers}.values())
        taken = [layer.name for layer in unique if layer.name is not None]
        for name in taken:
            if taken.count(name) > 1:
                raise ValueError(f"name must be unique among the layers of a Sequential, not {name!r} twice")
        for layer in unique:
            if layer.name is None:
                layer.name = _free_name(type(layer).__name__, taken)
                taken.append(layer.name)

    def _input(self, x: Any) -> np.ndarray:
        x = np.asarray(x)
        if x.dtype.kind not in "biuf":
            raise TypeError(f"x must hold numbers, not dtype {x.dtype}")
        if x.shape[1:] != self.input_shape or x.ndim == 0:
            raise ValueError(f"x must be [N, {', '.join(map(str, self.input_shape))}], not shape {x.shape}")
        return x.astype(self.parameters.dtype, copy=False)


def _free_name(class_name: str, taken: Sequence[str]) -> str:
    """The class' name in lower case with _ between words, as Keras makes it, and the first free number."""
    base = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", class_name).lower()
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name


def _checked_padding(padding: Any) -> Any:
    arguments.padding(padding)
    return padding
