"""Layers made of layers: one after the other (Sequential), side by side (Concatenate), added (Residual), on
the side (AuxiliaryClassifier)."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fastconv import _arguments as arguments
from fastconv import _chains as chains
from fastconv import nn
from fastconv._kernels import memory
from fastconv.layers.base import Layer, Result, count_numbers

Branch = Layer | Sequence[Layer]  # a list stands for a Sequential of it


class Container(Layer):
    """What they share: layers inside, with names of their own and paths through the container's."""

    def __init__(self, layers: Sequence[Layer], name: str | None, argument: str) -> None:
        super().__init__(name)
        self.layers = list(layers)
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"{argument}[{i}] must be a layer, not {layer!r}")
        if not self.layers:
            raise ValueError(f"{argument} must hold at least one layer, not []")
        self._name_layers()

    def members(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """(path, layer) of all layers inside, in order; a layer that stands twice comes twice."""
        for layer in self.layers:
            yield from layer.members(f"{path}/{layer.name}" if path else str(layer.name))

    def get_layer(self, layer_name: str) -> Layer:
        """The layer of this name; of one inside a container its path, as in "inception_3a/3x3/conv2d".

        ValueError for an unknown name, with the names that there are.
        """
        if not isinstance(layer_name, str):
            raise TypeError(f"layer_name must be a string, not {layer_name!r}")
        layer: Layer = self
        for name in layer_name.split("/"):
            inside = {inner.name: inner for inner in getattr(layer, "layers", ())}
            if name not in inside:
                holder = "the net" if layer is self else repr(layer.name)
                names = ", ".join(map(repr, inside)) or "no layers"
                raise ValueError(f"layer_name: {holder} holds {names}, not {name!r} of {layer_name!r}")
            layer = inside[name]
        return layer

    def activations(self, x: np.ndarray, layer_name: str) -> np.ndarray:
        """What this layer gives in inference when the container gets x [N, ...]; layer_name as for get_layer.

        Each layer is computed for itself, so also what a chain never writes to memory is there, with the
        chain's bits but for the rounding of a normalization that it folds. Of a layer that stands twice in a
        Sequential it is the first call.
        """
        self.get_layer(layer_name)  # an unknown one is refused before anything is computed
        name, _, rest = layer_name.partition("/")
        layer = self.get_layer(name)
        x = self._arriving_at(layer, x)
        return layer.activations(x, rest) if isinstance(layer, Container) and rest else layer(x)[0]

    def _arriving_at(self, layer: Layer, x: np.ndarray) -> np.ndarray:
        """The input of one of `layers`, given the container's: where they are side by side, the same."""
        return x

    def _name_layers(self) -> None:
        """conv2d, conv2d_1, ... Names must be unique: a checkpoint finds parameters by them."""
        unique = list({id(layer): layer for layer in self.layers}.values())
        taken = [layer.name for layer in unique if layer.name is not None]
        for name in taken:
            if taken.count(name) > 1:
                raise ValueError(
                    f"name must be unique among the layers of a {type(self).__name__}, not {name!r} twice"
                )
        for layer in unique:
            if layer.name is None:
                layer.name = _free_name(type(layer).__name__, taken)
                taken.append(layer.name)


class Concatenate(Container):
    """Branches on the same input x [N, ...], joined along the channels -> [N, ..., C1 + C2 + ...].

    branches: layers, or lists of layers that stand for a Sequential. The results agree in all but channels.
    """

    def __init__(self, branches: Sequence[Branch], *, name: str | None = None) -> None:
        super().__init__([_as_layer(branch) for branch in branches], name, "branches")

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Build each branch on the same input."""
        shapes = [layer.build(input_shape) for layer in self.layers]
        if len({shape[:-1] for shape in shapes}) > 1 or not shapes[0]:
            raise ValueError(f"branches must have results that differ in channels alone, not {shapes}")
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        if not training:
            return Concatenate.prepare_inference(self)(x), None  # a derived class' may call this
        results, backwards = zip(*(layer(x, training) for layer in self.layers), strict=True)
        y = nn.concat(results)
        sizes = [part.shape[-1] for part in results]

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            dx = None
            parts = nn.split(dy, sizes)
            for layer, branch_backward, part in zip(self.layers, backwards, parts, strict=True):
                dx = chains.sum_gradients(layer, branch_backward, part, input_gradient, dx)
            return dx

        return y, backward

    def prepare_inference(self) -> Callable[[np.ndarray], np.ndarray]:
        """Prepares the layers inside."""
        branches = [layer.prepare_inference() for layer in self.layers]
        return lambda x: nn.concat([compute(x) for compute in branches])


class Residual(Container):
    """The sum of a branch and a shortcut past it, x [N, ...] -> branch(x) + shortcut(x).

    branch: a layer, or a list of layers that stands for a Sequential. shortcut: the same, where the branch
    changes the shape (a projection); None is the identity. A relu behind the sum is a layer of its own.

    He et al., "Deep residual learning for image recognition", CVPR 2016.
    """

    chained_by = ("chained_branch",)

    def __init__(self, branch: Branch, shortcut: Branch | None = None, *, name: str | None = None) -> None:
        layers = [_as_layer(branch, "branch")]
        if shortcut is not None:
            layers.append(_as_layer(shortcut, "shortcut"))
        super().__init__(layers, name, "branch, shortcut")

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Build both on the same input."""
        output_shape, *rest = [layer.build(input_shape) for layer in self.layers]
        shortcut_shape = rest[0] if rest else tuple(input_shape)
        if output_shape != shortcut_shape:
            raise ValueError(
                f"branch and shortcut must have the same shape, not {output_shape} and {shortcut_shape}"
            )
        return output_shape

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        if not training:
            return Residual.prepare_inference(self)(x), None  # a derived class' may call this
        y, backward_branch = self.layers[0](x, training)
        past, backward_past = self.past(x)

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            past_dx = backward_past(dy, input_gradient=input_gradient)
            return chains.sum_gradients(self.layers[0], backward_branch, dy, input_gradient, past_dx)

        return nn.add(y, past), backward

    @property
    def chained_branch(self) -> list[Any] | None:
        """What chains depend on inside the branch."""
        branch = self.layers[0]
        return chains.asked(branch.layers) if type(branch) is Sequential else None

    def past(self, x: np.ndarray) -> Result:
        """The shortcut alone, in training."""
        if len(self.layers) > 1:
            return self.layers[1](x, training=True)
        return x, lambda dy, input_gradient=True: dy

    def prepare_inference(self) -> Callable[[np.ndarray], np.ndarray]:
        """Prepares the layers inside."""
        branch, past = self.layers[0].prepare_inference(), self.prepare_past()
        return lambda x: nn.add(branch(x), past(x))

    def prepare_past(self) -> Callable[[np.ndarray], np.ndarray]:
        """The shortcut alone, without training."""
        return self.layers[1].prepare_inference() if len(self.layers) > 1 else lambda x: x

    def past_is_new(self, x_is_new: bool) -> bool:
        """Whether nobody else holds the shortcut's result, once it is prepared, given that of x."""
        return chains.is_new(self.layers[1]) if len(self.layers) > 1 else x_is_new


class AuxiliaryClassifier(Container):
    """A classifier on the side, x [N, ...] -> x: in training its loss is part of the net's, else it rests.

    layers: x -> logits [N, K], a layer, or a list of layers that stands for a Sequential. weight: of its
    loss. A Classifier (all of fastconv.models) sees to the loss of those among its net's own layers. Who
    trains a net himself finds `logits` after a forward pass in training, and sets `dlogits` to their gradient
    before the backward pass.

    Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 5.
    """

    def __init__(self, layers: Branch, weight: float = 0.3, *, name: str | None = None) -> None:
        super().__init__([_as_layer(layers, "classifier")], name, "layers")
        self.weight = arguments.number("weight", weight, 0)
        self.logits: np.ndarray | None = None
        self.dlogits: np.ndarray | None = None

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Build the classifier; x stays as it is."""
        shape = self.layers[0].build(input_shape)
        if len(shape) != 1:
            raise ValueError(f"layers must end in logits [K], not {shape}")
        return input_shape

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        if not training:
            return x, None
        self.logits, backward_classifier = self.layers[0](x, training)
        self.dlogits = None

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            if self.dlogits is None:
                raise RuntimeError(f"{self.name}.dlogits must be set before the backward pass")
            dx = backward_classifier(self.dlogits, input_gradient=input_gradient)
            self.logits = self.dlogits = None
            return nn.add(dy, dx) if input_gradient else None

        return x, backward


class Sequential(Container):
    """Layers one after the other. With input_shape it is a model, without one a part of another net.

    input_shape: of one example, without the batch axis, e.g. (28, 28, 1).
    seed: of the model's generator `rng`, which draws the parameters in layer order, then Dropout's seeds.
    dtype: float32 or float64, of the parameters and of all that is computed.

    A model has `parameters` and `gradients`, [count_params()] each, and `statistics`, what layers keep and
    nobody trains; all views of them are in `weights` and `grads`, by path ("conv2d/kernel"). Layers without
    a name get their class' and a number, as in Keras.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        input_shape: Sequence[int] | None = None,
        seed: int = 0,
        dtype: Any = np.float32,
        name: str | None = None,
    ) -> None:
        super().__init__(layers, name, "layers")
        self.output_shapes: list[tuple[int, ...]] = []
        self.arena: memory.Arena | None = None
        self._linked: tuple[list[Any], list[Any]] = ([], [])
        if input_shape is not None:
            self._become_model(input_shape, seed, np.dtype(dtype))

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        """A model accepts anything array-like, [N, *input_shape], and casts it to its dtype; so does its
        backward."""
        if not training:
            return Sequential.prepare_inference(self)(x), None  # a derived class' may call this
        if self.rng is not None:
            x = self._input(x)
        steps = self._steps()
        backwards: list[Any] = []
        with self._memory():
            for step in steps:
                x, step_backward = step(x, training)
                backwards.append(step_backward)

        def backward(dy: Any, input_gradient: bool = True, **sums: np.ndarray) -> np.ndarray | None:
            if self.rng is not None:
                dy = self._cast("dy", dy)
            # Without dx, nothing before the first step with parameters has anything to compute.
            parameters = (i for i, step in enumerate(steps) if step.count_params())
            first = 0 if input_gradient else next(parameters, len(steps))
            with self._memory():
                for i in reversed(range(first, len(steps))):
                    more = {} if i else sums  # side_input, from chains.sum_gradients
                    dy = backwards[i](dy, input_gradient=input_gradient or i > first, **more)
            return dy if input_gradient else None

        return x, backward

    def prepare_inference(self, overwrites: bool = False) -> Callable[[np.ndarray], np.ndarray]:
        """Prepares the layers inside; overwrites: as for chains.in_turn."""
        run = chains.in_turn(self._steps(), overwrites)

        def run_model(x: np.ndarray) -> np.ndarray:
            with self._memory():
                return run(self._input(x))

        return run if self.rng is None else run_model

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

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the model's layers, their output shapes and their numbers of parameters."""
        if len(self.output_shapes) != len(self.layers):
            raise RuntimeError("summary needs the layers' shapes: a Sequential with input_shape finds them")
        rows = [("Layer (type)", "Output shape", "Parameters")]
        for i, (layer, shape) in enumerate(zip(self.layers, self.output_shapes, strict=True)):
            again = any(layer is earlier for earlier in self.layers[:i])
            count = "shared" if again else f"{layer.count_params():,}"
            rows.append((f"{layer.name} ({type(layer).__name__})", str((None, *shape)), count))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        thin, thick = "_" * len(lines[0]), "=" * len(lines[0])
        title = f'Model: "{self.name or "sequential"}"'
        totals = [f"Total parameters: {self.count_params():,}"]
        if self.statistics.size:
            totals.append(f"Statistics, not trained: {self.statistics.size:,}")
        print_fn("\n".join([title, thin, lines[0], thick, *lines[1:], thick, *totals, thin]))

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all parameters and statistics in layer order, each layer's in the order of `weights`."""
        return [view.copy() for view in self.weights.values()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """The reverse of get_weights; ValueError or TypeError, and nothing set, unless all fit."""
        shapes = [np.shape(array) for array in weights]
        expected = [view.shape for view in self.weights.values()]
        if shapes != expected:
            raise ValueError(f"weights must have the shapes {expected}, not {shapes}")
        arrays = [self._cast(f"weights[{i}]", array) for i, array in enumerate(weights)]
        own = self.parameters, self.statistics
        if any(np.may_share_memory(array, flat) for array in arrays for flat in own):
            arrays = [array.copy() for array in arrays]
        for view, array in zip(self.weights.values(), arrays, strict=True):
            view[...] = array

    def forget_gradients(self) -> None:
        """The next gradient of each parameter replaces what `gradients` holds, instead of adding to it."""
        for _, layer in self.members():
            layer.stale = set(layer.grads)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rng": self.rng, "arena": None, "_linked": ([], [])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.rng is not None:
            for _, layer in self.members():
                layer.rng = self.rng
            self.arena = memory.Arena()
            self._bind()

    def _arriving_at(self, layer: Layer, x: np.ndarray) -> np.ndarray:
        if self.rng is not None:
            x = self._input(x)
        with self._memory():
            for earlier in self.layers[: self.layers.index(layer)]:
                x, _ = earlier(x)
        return x

    @property
    def linked(self) -> list[Any]:
        """The layers as they were computed last, or prepared."""
        return self._linked[1]

    def _steps(self) -> list[Any]:
        """The layers as they are computed; linked again when anything has changed that decides on chains."""
        asked = chains.asked(self.layers)
        if self._linked[0] != asked:
            self._linked = asked, chains.link(self.layers)
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
            layer.specs, layer.statistic_specs = {}, {}  # of an attempt that failed
        self.output_shape = self.build(self.input_shape)
        self.parameters = np.zeros(self.count_params(), dtype)
        # (zeros_like would write them: memory that a net which only predicts need not have)
        self.gradients = np.zeros(self.parameters.shape, dtype)
        unique = self._unique_members()
        self.statistics = np.zeros(sum(count_numbers(layer.statistic_specs) for _, layer in unique), dtype)
        self._bind()
        for _, layer in unique:
            for key, (shape, initializer) in (*layer.specs.items(), *layer.statistic_specs.items()):
                values = np.asarray(initializer(rng, shape))
                if values.shape != shape:
                    raise ValueError(f"{key}_initializer must return shape {shape}, not {values.shape}")
                layer.weights[key][...] = values
        for _, layer in unique:  # only now: until nothing can fail, the layers are free for another model
            layer.rng = rng
        self.rng, self.arena = rng, memory.Arena()

    def _bind(self) -> None:
        """Give each layer views of its part of the flat arrays."""
        trained = kept = 0
        for path, layer in self._unique_members():
            for key, (shape, _) in layer.specs.items():
                part = slice(trained, trained + math.prod(shape))
                layer.weights[key] = self.weights[f"{path}/{key}"] = self.parameters[part].reshape(shape)
                layer.grads[key] = self.grads[f"{path}/{key}"] = self.gradients[part].reshape(shape)
                trained = part.stop
            for key, (shape, _) in layer.statistic_specs.items():
                part = slice(kept, kept + math.prod(shape))
                layer.weights[key] = self.weights[f"{path}/{key}"] = self.statistics[part].reshape(shape)
                kept = part.stop

    def _unique_members(self) -> list[tuple[str, Layer]]:
        unique: dict[int, tuple[str, Layer]] = {}
        for path, layer in self.members():
            unique.setdefault(id(layer), (path, layer))
        return list(unique.values())

    def _input(self, x: Any) -> np.ndarray:
        x = self._cast("x", x)
        if x.shape[1:] != self.input_shape or x.ndim == 0:
            raise ValueError(f"x must be [N, {', '.join(map(str, self.input_shape))}], not shape {x.shape}")
        return x

    def _cast(self, name: str, array: Any) -> np.ndarray:
        array = np.asarray(array)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must hold numbers, not dtype {array.dtype}")
        return array.astype(self.parameters.dtype, copy=False)


def _as_layer(branch: Branch, name: str | None = None) -> Layer:
    """The layer itself; a Sequential of this name for a list of layers."""
    return Sequential(branch, name=name) if isinstance(branch, (list, tuple)) else branch


def _free_name(class_name: str, taken: Sequence[str]) -> str:
    """The class' name in lower case with _ between words, as Keras makes it, and the first free number."""
    base = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", class_name).lower()
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name
