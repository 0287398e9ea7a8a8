"""Whole networks in three languages: a description of one of fastconv.models, and that built in PyTorch and
in TensorFlow.

A description is a list of steps, each a dictionary that goes through JSON: its "kind" and what that needs.
The parameters stand apart, in the order of the steps, each layer's own in the order of fastconv's `weights`.

    conv       size, strides, ends ([[top, bottom], [left, right]] pixels of padding), bias, relu
    max_pool   size, strides, ends
    average    over all pixels: [N, H, W, C] -> [N, C]
    lrn        depth_radius, bias, alpha, beta
    norm       epsilon, momentum
    relu
    dropout    rate
    flatten    shape (of its input, [H, W, C])
    dense      relu
    concat     branches: descriptions of what sees the same input
    residual   branches: those whose results are added to each other, an empty one for the identity

Only `describe` imports fastconv; the two builders are given their framework.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Step = dict[str, Any]
Shape = tuple[int, ...]
Sizes = list[tuple[str, Shape]]  # the key ("kernel", "gamma", ...) and shape of each parameter

LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-4, 0.9, 0.999, 1e-8  # of Adam, everywhere


def describe(layer: Any, shape: Shape) -> list[Step]:
    """The steps of a layer of fastconv on an input of this shape, [H, W, C] or [C]."""
    from fastconv import layers

    match layer:
        case layers.Sequential():
            shapes = [shape, *layer.output_shapes]
            return [step for part in zip(layer.layers, shapes, strict=False) for step in describe(*part)]
        case layers.Conv2D():
            bias, relu = layer.use_bias, _has_relu(layer)
            return [{"kind": "conv", **_windows(layer, layer.kernel_size, shape), "bias": bias, "relu": relu}]
        case layers.MaxPooling2D():
            return [{"kind": "max_pool", **_windows(layer, layer.pool_size, shape)}]
        case layers.GlobalAveragePooling2D():
            return [{"kind": "average"}]
        case layers.LocalResponseNormalization():
            keys = "depth_radius", "bias", "alpha", "beta"
            return [{"kind": "lrn", **{key: getattr(layer, key) for key in keys}}]
        case layers.BatchNormalization():
            return [{"kind": "norm", "epsilon": layer.epsilon, "momentum": layer.momentum}]
        case layers.ReLU():
            return [{"kind": "relu"}]
        case layers.Dropout():
            return [{"kind": "dropout", "rate": layer.rate}]
        case layers.Flatten():
            return [{"kind": "flatten", "shape": shape}]
        case layers.Dense():
            return [{"kind": "dense", "relu": _has_relu(layer)}]
        case layers.Concatenate():
            return [{"kind": "concat", "branches": [describe(branch, shape) for branch in layer.layers]}]
        case layers.Residual():
            branches = [describe(branch, shape) for branch in layer.layers]
            return [{"kind": "residual", "branches": [*branches, []][:2]}]
    raise TypeError(f"no description of {layer!r}")


def _has_relu(layer: Any) -> bool:
    if layer.activation not in (None, "relu"):
        raise TypeError(f"no description of the activation {layer.activation!r}")
    return layer.activation == "relu"


def _windows(layer: Any, size: tuple[int, int], shape: Shape) -> Step:
    from fastconv import _windows

    axes = _windows.pooling((1, *shape), size, layer.strides, layer.padding, "x")
    return {"size": size, "strides": layer.strides, "ends": [(axis.before, axis.after) for axis in axes]}


def draw(sizes: Sizes, dtype: Any) -> list[NDArray]:
    """Parameters: kernels by He's rule, scales and variances near 1, all else near 0; the same everywhere."""
    generator, dtype = np.random.default_rng(1), np.dtype(dtype)

    def one(key: str, shape: Shape) -> NDArray:
        values = generator.standard_normal(shape, dtype)
        if len(shape) > 1:
            return values * dtype.type(math.sqrt(2 / math.prod(shape[:-1])))
        values *= dtype.type(0.1)
        return 1 + abs(values) if key in ("gamma", "moving_variance") else values

    return [one(key, tuple(shape)) for key, shape in sizes]


# --------------------------------------------------------------------------------------------- PyTorch


def torch_network(torch: Any, description: list[Step], weights: list[NDArray]) -> Any:
    """A torch.nn.Module on NCHW input."""
    nn = torch.nn
    arrays = iter(weights)

    class Together(nn.Module):
        """Modules on the same input, and what makes one result of theirs."""

        def __init__(self, modules: list[Any], join: Callable[[list[Any]], Any]) -> None:
            super().__init__()
            self.parts, self.join = nn.ModuleList(modules), join

        def forward(self, x: Any) -> Any:
            return self.join([part(x) for part in self.parts])

    def join_channels(results: list[Any]) -> Any:
        return torch.cat(results, 1)

    def add(results: list[Any]) -> Any:
        return results[0].add_(results[1])  # the branch's own result: batch normalization comes last there

    def pad(ends: list[list[int]]) -> tuple[list[Any], list[int]]:
        """A module, if the two ends of an axis differ, and the padding that a window has itself."""
        if all(before == after for before, after in ends):
            return [], [before for before, _ in ends]
        return [nn.ZeroPad2d([*ends[1], *ends[0]])], [0, 0]

    def fill(tensor: Any, array: NDArray) -> None:
        tensor.copy_(torch.from_numpy(array))

    def modules(step: Step, before: Step | None) -> Iterator[Any]:
        match step["kind"]:
            case "conv":
                kernel = next(arrays)
                padding, ends = pad(step["ends"])
                yield from padding
                *_, channels, filters = kernel.shape
                conv = nn.Conv2d(channels, filters, step["size"], step["strides"], ends, bias=step["bias"])
                fill(conv.weight, kernel.transpose(3, 2, 0, 1))
                if step["bias"]:
                    fill(conv.bias, next(arrays))
                yield conv
            case "max_pool":
                # ceil_mode has the odd pixel of SAME below and right.
                first = [before for before, _ in step["ends"]]
                yield nn.MaxPool2d(
                    step["size"], step["strides"], first, ceil_mode=any(map(any, step["ends"]))
                )
            case "average":
                yield from (nn.AdaptiveAvgPool2d(1), nn.Flatten())
            case "lrn":
                size = 2 * step["depth_radius"] + 1
                yield nn.LocalResponseNorm(size, step["alpha"] * size, step["beta"], step["bias"])
            case "norm":
                gamma, beta, mean, variance = (next(arrays) for _ in range(4))
                norm = nn.BatchNorm2d(len(gamma), step["epsilon"], 1 - step["momentum"])
                fill(norm.weight, gamma)
                fill(norm.bias, beta)
                fill(norm.running_mean, mean)
                fill(norm.running_var, variance)
                yield norm
            case "dropout":
                yield nn.Dropout(step["rate"])
            case "flatten":
                yield nn.Flatten()
            case "dense":
                kernel = next(arrays)
                if before and before["kind"] == "flatten":  # of NCHW, not of NHWC
                    kernel = kernel.reshape(*before["shape"], -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
                linear = nn.Linear(*kernel.shape)
                fill(linear.weight, kernel.T)
                fill(linear.bias, next(arrays))
                yield linear
            case "concat":
                yield Together([build(branch) for branch in step["branches"]], join_channels)
            case "residual":
                yield Together([build(branch) for branch in step["branches"]], add)
        if step["kind"] == "relu" or step.get("relu"):
            yield nn.ReLU(inplace=True)

    def build(steps: list[Step]) -> Any:
        pairs = itertools.pairwise([None, *steps])
        return nn.Sequential(*(module for before, step in pairs for module in modules(step, before)))

    return build(description)


# ------------------------------------------------------------------------------------------ TensorFlow


def tensorflow_network(
    tf: Any, description: list[Step], weights: list[NDArray]
) -> tuple[list[Any], Callable[..., Any]]:
    """The variables, and the logits as a function of (x, drop): drop(x, rate) in training, else None.

    Of tf.nn's operations, which Keras' layers call.
    """
    nn, variables = tf.nn, [tf.Variable(w) for w in weights]

    def normalize(step: Step, x: Any, arrays: Iterator[Any], training: bool) -> Any:
        gamma, beta, mean, variance = (next(arrays) for _ in range(4))
        how = {"epsilon": step["epsilon"], "is_training": training}
        if training:
            how["exponential_avg_factor"] = 1 - step["momentum"]
        y, new_mean, new_variance = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, mean, variance, **how)
        if training:
            mean.assign(new_mean)
            variance.assign(new_variance)
        return y

    def follow(steps: list[Step], x: Any, arrays: Iterator[Any], drop: Any) -> Any:
        for step in steps:
            x = compute(step, x, arrays, drop)
            x = nn.relu(x) if step["kind"] == "relu" or step.get("relu") else x
        return x

    def compute(step: Step, x: Any, arrays: Iterator[Any], drop: Any) -> Any:
        padding = "SAME" if any(map(any, step.get("ends", ()))) else "VALID"  # the same where there is none
        match step["kind"]:
            case "conv":
                y = nn.conv2d(x, next(arrays), step["strides"], padding)
                return nn.bias_add(y, next(arrays)) if step["bias"] else y
            case "max_pool":
                return nn.max_pool2d(x, step["size"], step["strides"], padding)
            case "average":
                return tf.reduce_mean(x, [1, 2])
            case "lrn":
                how = (step[key] for key in ("depth_radius", "bias", "alpha", "beta"))
                return nn.local_response_normalization(x, *how)
            case "norm":
                return normalize(step, x, arrays, drop is not None)
            case "dropout":
                return x if drop is None else drop(x, step["rate"])
            case "flatten":
                return tf.reshape(x, [x.shape[0], -1])
            case "dense":
                return nn.bias_add(x @ next(arrays), next(arrays))
            case "concat":
                return tf.concat([follow(branch, x, arrays, drop) for branch in step["branches"]], -1)
            case "residual":
                return tf.add_n([follow(branch, x, arrays, drop) for branch in step["branches"]])
        return x  # relu alone

    return variables, lambda x, drop: follow(description, x, iter(variables), drop)
