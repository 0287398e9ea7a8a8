"""Weights of other libraries, brought into the layouts and the order of a net's own.

    PyTorch                                    fastconv
    convolution's weight [O, I, kh, kw]        kernel [kh, kw, I, O]
    linear weight [O, I]                       kernel [I, O]
    batch norm's weight, bias                  gamma, beta
    running_mean, running_var                  moving_mean, moving_variance
    num_batches_tracked                        -

PyTorch flattens images as C, H, W and fastconv as H, W, C: what stands behind a Flatten takes its rows in the
other order. Keras' arrays have fastconv's layouts already.

What belongs to what is a matter of order: the i-th module with weights is the i-th layer with weights, as
`net.members()` counts them. Names count only where a model knows those of its peer. Everything is checked
before anything is changed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastconv import _arguments as arguments
from fastconv.layers import (
    AuxiliaryClassifier,
    BatchNormalization,
    DepthwiseConv2D,
    Residual,
    Sequential,
)
from fastconv.layers.base import Layer
from fastconv.layers.containers import Container
from fastconv.layers.pointwise import Reshape

TORCH_KEYS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
IGNORED = "num_batches_tracked"

Modules = dict[str, dict[str, Any]]  # the arrays of each PyTorch module by their keys
Permutations = dict[int, np.ndarray]  # where PyTorch has each row of a layer, by the layer's id


@dataclass
class _Match:
    """What was found for a net, and all that was not as it should be."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # by fastconv's paths, in fastconv's layouts
    problems: list[str] = field(default_factory=list)


def load_torch_state_dict(net: Sequential, state: Mapping[str, Any], names: Sequence[str] = ()) -> None:
    """Copy a PyTorch state_dict into the net; ValueError, and no change, unless all of it fits."""
    arrays = from_torch(net, state, names)
    net.set_weights([arrays[path] for path in net.weights])


def load_keras_weights(net: Sequential, weights: Sequence[Any]) -> None:
    """Copy what Keras' get_weights() returned into the net; ValueError, and no change, unless all fits."""
    arrays = from_keras(net, weights)
    net.set_weights([arrays[path] for path in net.weights])


def from_torch(net: Sequential, state: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of a state_dict by the paths of `net.weights`, in their layouts; often views of the state's.

    state: {"module.weight": an array or a tensor, ...}, in the order of the net's layers.
    names: of the modules in that order, for a state that may come in any order. A state that fits better as
        it stands is taken so.

    TypeError if the state is no such dictionary; ValueError that lists all that is missing, left over or of
    another shape.
    """
    modules = _modules(state)
    orders = [list(names)] if names else []
    if _is_in_order(state, modules):
        orders.append(list(modules))
    if not orders:
        raise ValueError(
            "state must be in the order of the layers, a module's weight before its bias, not sorted; "
            "as {name: state[name] for name in torch_model.state_dict()} is"
        )
    permutations = _permutations(net)
    matches = [_match(net, modules, order, permutations) for order in orders]
    best = min(matches, key=lambda match: len(match.problems))
    _refuse("state does not fit this model:", best.problems)
    return best.arrays


def from_keras(net: Sequential, weights: Sequence[Any]) -> dict[str, np.ndarray]:
    """The arrays of Keras' get_weights() by the paths of `net.weights`; TypeError and ValueError as above."""
    if not isinstance(weights, (list, tuple)):
        raise TypeError(f"weights must be a list of arrays, as Keras' get_weights(), not {_kind(weights)}")
    arrays, problems = {}, []
    for i, (value, (path, view)) in enumerate(zip(weights, net.weights.items(), strict=False)):
        arrays[path], wrong = _checked(f"weights[{i}]", value, path, view.shape)
        problems += wrong
    problems += [f"nothing is left for {path}" for path in list(net.weights)[len(weights) :]]
    problems += [f"weights[{i}] is left over" for i in range(len(net.weights), len(weights))]
    _refuse("weights do not fit this model:", problems)
    return arrays


def _modules(state: Mapping[str, Any]) -> Modules:
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise TypeError(f"state must be a dictionary of arrays by name, as state_dict(), not {_kind(state)}")
    modules: Modules = {}
    for name, value in state.items():
        module, _, key = name.rpartition(".")
        if key != IGNORED:
            modules.setdefault(module, {})[key] = value
    return modules


def _is_in_order(state: Mapping[str, Any], modules: Modules) -> bool:
    """Whether this may be the order of the layers: a module's arrays together, its weight before its bias.

    Files of safetensors are sorted by name, which could exchange layers of the same shape unnoticed.
    """
    parts = (name.rpartition(".") for name in state)
    runs = [module for module, _ in itertools.groupby(module for module, _, key in parts if key != IGNORED)]
    return len(runs) == len(modules) and not any(
        "weight" in entries and "bias" in itertools.takewhile("weight".__ne__, entries)
        for entries in modules.values()
    )


def _match(net: Sequential, modules: Modules, names: Sequence[str], permutations: Permutations) -> _Match:
    """The i-th of the named modules for the i-th layer, and whatever does not fit."""
    layers = list({id(layer): (path, layer) for path, layer in net.members() if layer.weights}.values())
    match = _Match()
    for name, (path, layer) in zip(names, layers, strict=False):
        entries = dict(modules.get(name, {}))
        _match_layer(match, path, layer, name, entries, permutations.get(id(layer)))
        match.problems += [f"{_join(name, key)} is left over" for key in entries]
    match.problems += [f"nothing is left for {path}" for path, _ in layers[len(names) :]]
    taken = set(names[: len(layers)])
    others = {name: entries for name, entries in modules.items() if name not in taken}
    match.problems += [f"{_join(name, key)} is left over" for name in others for key in others[name]]
    return match


def _match_layer(
    match: _Match, path: str, layer: Layer, name: str, entries: dict[str, Any], permutation: np.ndarray | None
) -> None:
    """Take the layer's arrays out of the module's entries and into the match."""
    for key, view in layer.weights.items():
        if key not in TORCH_KEYS:
            match.problems.append(f"{path}/{key} has no name in PyTorch")
            continue
        source, target = _join(name, TORCH_KEYS[key]), f"{path}/{key}"
        if TORCH_KEYS[key] not in entries:
            match.problems.append(f"{source} is missing, for {target}")
            continue
        value = entries.pop(TORCH_KEYS[key])
        depthwise = isinstance(layer, DepthwiseConv2D)
        array, problems = _checked(source, value, target, _torch_shape(view.shape, depthwise))
        match.problems += problems
        if not problems:
            array = _from_torch(array, view.shape, depthwise)
            match.arrays[target] = array if permutation is None or key == "bias" else array[permutation]


def _torch_shape(shape: tuple[int, ...], depthwise: bool) -> tuple[int, ...]:
    """PyTorch's shape of an array of ours."""
    if len(shape) != 4:
        return shape[::-1]
    return (shape[2] * shape[3], 1, *shape[:2]) if depthwise else (*shape[:1:-1], *shape[:2])


def _from_torch(array: np.ndarray, shape: tuple[int, ...], depthwise: bool) -> np.ndarray:
    if array.ndim != 4:
        return array.T
    if depthwise:  # the filters of a channel stand together
        return array.reshape(*shape[2:], *shape[:2]).transpose(2, 3, 0, 1)
    return array.transpose(2, 3, 1, 0)


def _permutations(net: Sequential) -> Permutations:
    found: Permutations = {}
    _follow(net, net.input_shape, None, found)
    return found


def _follow(
    layer: Layer, shape: tuple[int, ...], permutation: np.ndarray | None, found: Permutations
) -> np.ndarray | None:
    """Where PyTorch has each number of the layer's result, given where it has those of its input.

    None: in the same place, but for channels first. `found` gets those of the layers that have weights.
    """
    if isinstance(layer, Sequential):
        for inner, output_shape in zip(layer.layers, layer.output_shapes, strict=True):
            permutation = _follow(inner, shape, permutation, found)
            shape = output_shape
        return permutation
    if isinstance(layer, AuxiliaryClassifier):
        _follow(layer.layers[0], shape, permutation, found)
        return permutation
    if isinstance(layer, Container):
        ends = [_follow(branch, shape, permutation, found) for branch in layer.layers]
        if isinstance(layer, Residual) and len(ends) == 1:
            ends.append(permutation)
        if any(end is not None for end in ends):
            raise ValueError(f"net: {layer.name} joins flattened images, whose order differs in PyTorch")
        return None
    if isinstance(layer, Reshape):
        return _reshaped(layer, shape, permutation)
    if permutation is not None and layer.weights:
        found[id(layer)] = permutation
        return permutation if isinstance(layer, BatchNormalization) else None
    return permutation


def _reshaped(layer: Reshape, shape: tuple[int, ...], permutation: np.ndarray | None) -> np.ndarray | None:
    output_shape = layer.build(shape)
    before = _channels_first(shape) if permutation is None else permutation
    if np.array_equal(before, _channels_first(output_shape)):
        return None
    if len(output_shape) > 1:
        raise ValueError(f"net: {layer.name}, {shape} to {output_shape}, mixes channels otherwise in PyTorch")
    return before


def _channels_first(shape: tuple[int, ...]) -> np.ndarray:
    """Where PyTorch, with channels first, has each number of a flattened [..., C]."""
    positions = np.arange(math.prod(shape)).reshape(*shape[-1:], *shape[:-1])
    return np.moveaxis(positions, 0, -1).reshape(-1)


def _checked(name: str, value: Any, path: str, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """The value as an array, and what is wrong with it."""
    try:
        # A tensor of PyTorch refuses to become an array while it has a gradient or lies on another device.
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        return np.empty(0), [f"{name} is no array: {error}"]
    if array.shape != shape:
        return array, [f"{name} has shape {array.shape}, {path} takes {shape}"]
    if array.dtype.kind != "f":
        return array, [f"{name} has dtype {array.dtype}, not a float"]
    return array, []


def _refuse(title: str, problems: Sequence[str]) -> None:
    if problems:
        raise ValueError("\n- ".join([title, *problems]))


def _join(module: str, key: str) -> str:
    return f"{module}.{key}" if module else key


def _kind(value: object) -> str:
    """A value of the wrong type, without its numbers."""
    return arguments.show(value) if isinstance(value, (str, np.ndarray)) else type(value).__name__
