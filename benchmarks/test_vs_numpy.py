"""Every operation of fastconv.nn against its NumPy twin, on the document's layers, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import shapes
from numpy.typing import NDArray

from fastconv import nn

RATE = 0.3


def layers(table: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrize a test with the rows of one of the tables of `shapes`."""
    marks = {shapes.DOCUMENT: [pytest.mark.document]}
    rows = [pytest.param(row, id=str(row), marks=marks.get(row.network, [])) for row in table]
    return pytest.mark.parametrize("layer", rows)


def normal(*sizes: Sequence[int]) -> list[NDArray]:
    """float32 arrays of these shapes, the same ones in every run."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal(size, np.float32) for size in sizes]


@layers(shapes.CONVOLUTIONS + shapes.GROUPED)
def test_conv2d(layer: shapes.Conv, compare: Callable[..., None]) -> None:
    x, w = normal(layer.x, layer.w)
    how = (layer.stride, layer.padding)
    compare("conv2d", layer, x, w, *how, groups=layer.groups, gflop=layer.gflop)


@layers(shapes.CONVOLUTIONS + shapes.GROUPED)
def test_conv2d_backprop_input(layer: shapes.Conv, compare: Callable[..., None]) -> None:
    w, dy = normal(layer.w, layer.y)
    how = (layer.stride, layer.padding)
    compare("conv2d_backprop_input", layer, layer.x, w, dy, *how, groups=layer.groups, gflop=layer.gflop)


@layers(shapes.CONVOLUTIONS + shapes.GROUPED)
def test_conv2d_backprop_filter(layer: shapes.Conv, compare: Callable[..., None]) -> None:
    x, dy = normal(layer.x, layer.y)
    how = (layer.stride, layer.padding)
    compare("conv2d_backprop_filter", layer, x, layer.w, dy, *how, groups=layer.groups, gflop=layer.gflop)


@layers(shapes.DENSE)
def test_dense(layer: shapes.Dense, compare: Callable[..., None]) -> None:
    x, w, b = normal((layer.images, layer.inputs), (layer.inputs, layer.units), (layer.units,))
    compare("dense", layer, x, w, b, "relu", gflop=layer.gflop)


@layers(shapes.DENSE)
def test_dense_backprop_input(layer: shapes.Dense, compare: Callable[..., None]) -> None:
    w, dy = normal((layer.inputs, layer.units), (layer.images, layer.units))
    compare("dense_backprop_input", layer, w, dy, gflop=layer.gflop)


@layers(shapes.DENSE)
def test_dense_backprop_kernel(layer: shapes.Dense, compare: Callable[..., None]) -> None:
    x, dy = normal((layer.images, layer.inputs), (layer.images, layer.units))
    compare("dense_backprop_kernel", layer, x, dy, gflop=layer.gflop)


@layers(shapes.POOLS)
@pytest.mark.parametrize("op", ["max_pool2d", "max_pool_with_argmax"])
def test_max_pool(op: str, layer: shapes.Pool, compare: Callable[..., None]) -> None:
    (x,) = normal(layer.x)
    compare(op, layer, x, layer.taps, layer.stride, layer.padding)


@layers(shapes.POOLS)
def test_max_pool_grad(layer: shapes.Pool, compare: Callable[..., None]) -> None:
    x, dy = normal(layer.x, layer.y)
    y = nn.max_pool2d(x, layer.taps, layer.stride, layer.padding)
    compare("max_pool_grad", layer, x, y, dy, layer.taps, layer.stride, layer.padding)


@layers(shapes.POOLS)
def test_avg_pool(layer: shapes.Pool, compare: Callable[..., None]) -> None:
    compare("avg_pool2d", layer, *normal(layer.x), layer.taps, layer.stride, layer.padding)


@layers(shapes.POOLS)
def test_avg_pool_grad(layer: shapes.Pool, compare: Callable[..., None]) -> None:
    (dy,) = normal(layer.y)
    compare("avg_pool_grad", layer, layer.x, dy, layer.taps, layer.stride, layer.padding)


@layers(shapes.ACTIVATIONS)
def test_relu(layer: shapes.Values, compare: Callable[..., None]) -> None:
    compare("relu", layer, *normal(layer.shape))


@layers(shapes.ACTIVATIONS)
def test_relu_grad(layer: shapes.Values, compare: Callable[..., None]) -> None:
    compare("relu_grad", layer, *normal(layer.shape, layer.shape))


@layers(shapes.ACTIVATIONS)
@pytest.mark.parametrize("op", ["sigmoid", "tanh"])
def test_sigmoid_and_tanh(op: str, layer: shapes.Values, compare: Callable[..., None]) -> None:
    compare(op, layer, *normal(layer.shape))


@layers(shapes.ACTIVATIONS)
@pytest.mark.parametrize("op", ["sigmoid_grad", "tanh_grad"])
def test_sigmoid_and_tanh_grad(op: str, layer: shapes.Values, compare: Callable[..., None]) -> None:
    compare(op, layer, *normal(layer.shape, layer.shape))


@layers(shapes.ACTIVATIONS)
def test_bias_add(layer: shapes.Values, compare: Callable[..., None]) -> None:
    compare("bias_add", layer, *normal(layer.shape, layer.shape[-1:]))


@layers(shapes.ACTIVATIONS)
def test_bias_add_grad(layer: shapes.Values, compare: Callable[..., None]) -> None:
    compare("bias_add_grad", layer, *normal(layer.shape))


@layers(shapes.NORMALIZED)
def test_moments(layer: shapes.Values, compare: Callable[..., None]) -> None:
    compare("moments", layer, *normal(layer.shape))


@layers(shapes.NORMALIZED)
@pytest.mark.parametrize("op", ["batch_normalization", "batch_normalization_grad"])
def test_batch_normalization(op: str, layer: shapes.Values, compare: Callable[..., None]) -> None:
    dy, x, offset, scale = normal(layer.shape, layer.shape, layer.shape[-1:], layer.shape[-1:])
    mean, variance = nn.moments(x)
    if op == "batch_normalization":
        compare(op, layer, x, mean, variance, offset, scale, 0.001)
    else:
        compare(op, layer, dy, x, mean, variance, scale, 0.001)


@layers(shapes.RESPONSES)
@pytest.mark.parametrize("op", ["local_response_normalization", "lrn_grad"])
def test_local_response_normalization(op: str, layer: shapes.Values, compare: Callable[..., None]) -> None:
    dy, x = normal(layer.shape, layer.shape)
    how = 2, 2.0, 1e-4, 0.75  # AlexNet's
    y = nn.lrn(x, *how)
    compare(op, layer, *((dy, x, y) if op == "lrn_grad" else (x,)), *how)


@layers(shapes.DROPOUTS)
def test_dropout(layer: shapes.Values, compare: Callable[..., None]) -> None:
    compare("dropout", layer, *normal(layer.shape), RATE, seed=1)


@layers(shapes.LOGITS)
def test_softmax(layer: shapes.Values, compare: Callable[..., None]) -> None:
    compare("softmax", layer, *normal(layer.shape))


@layers(shapes.LOGITS)
def test_softmax_cross_entropy_with_logits(layer: shapes.Values, compare: Callable[..., None]) -> None:
    images, classes = layer.shape
    labels = np.eye(classes, dtype=np.float32)[np.arange(images) % classes]
    compare("softmax_cross_entropy_with_logits", layer, labels, *normal(layer.shape))
