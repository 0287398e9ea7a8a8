"""The slow twin of fastconv.nn in plain NumPy: what every op means, the tests' oracle, the benchmarks' numpy.

Convolutions are im2col and one matrix product, as in Chellapilla et al., "High performance convolutional
neural networks for document processing", 2006. Everything is computed in the dtype of the result, so that a
call with float64 arrays is the oracle of one with float32. Arguments are those of fastconv.nn; nn checks that
they fit each other, and `data_format` ("NHWC") and `num_threads` are accepted and ignored.

    x, dx  [N, H, W, C]     images of H x W pixels and C channels
    w, dw  [KH, KW, C, K]   K filters; a "tap" (i, j) is one of a window's KH*KW places
    y, dy  [N, OH, OW, K]   a number for each position of the window; for pools [N, OH, OW, C]
    xp, dxp                 x and dx with their padding
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from fastconv import _arguments as arguments
from fastconv import geometry
from fastconv._arguments import IntOrInts, Padding

# ---- convolution ----


def conv2d(
    input: ArrayLike,
    filters: ArrayLike,
    strides: IntOrInts,
    padding: Padding,
    dilations: IntOrInts = 1,
    data_format: str = "NHWC",
    *,
    bias: ArrayLike | None = None,
    activation: str | None = None,
    groups: int = 1,
    algorithm: str | None = None,
    num_threads: int | None = None,
) -> NDArray:
    """x [N,H,W,C], w [KH,KW,C,K], bias [K] -> y [N,OH,OW,K].

    y[n,oh,ow,k] = activation(bias[k] + sum over i,j,c of xp[n, oh*sh + i*dh, ow*sw + j*dw, c] * w[i,j,c,k])

    With groups, w is [KH,KW,C/groups,K]: equal parts of x's channels and of w's filters in order, each pair a
    convolution of its own.
    """
    x, w, b = _as_floats(input, filters, bias)
    rows, cols = _axes(x.shape, w.shape[:2], strides, padding, dilations)
    if groups > 1:
        how = (strides, padding, dilations)
        parts = zip(_split(x, groups), _split(w, groups), strict=True)
        y = np.concatenate([conv2d(x_g, w_g, *how) for x_g, w_g in parts], axis=3)
        return _epilogue(y, b, activation)
    y = _im2col(x, rows, cols) @ _as_matrix(w)
    return _epilogue(y.reshape(len(x), rows.out, cols.out, w.shape[3]), b, activation)


def conv2d_backprop_input(
    input_sizes: ArrayLike,
    filters: ArrayLike,
    out_backprop: ArrayLike,
    strides: IntOrInts,
    padding: Padding,
    dilations: IntOrInts = 1,
    data_format: str = "NHWC",
    *,
    groups: int = 1,
    side_input: ArrayLike | None = None,
    algorithm: str | None = None,
    num_threads: int | None = None,
) -> NDArray:
    """w [KH,KW,C,K], dy [N,OH,OW,K] -> dx [N,H,W,C]: every tap gives its share back to its pixel."""
    w, dy, side = _as_floats(filters, out_backprop, side_input)
    sizes = arguments.sizes("input_sizes", input_sizes)
    if side is not None:
        how = {"groups": groups, "algorithm": algorithm}
        return side + conv2d_backprop_input(sizes, w, dy, strides, padding, dilations, **how)
    if groups > 1:
        how, part = (strides, padding, dilations), (*sizes[:3], sizes[3] // groups)
        parts = zip(_split(w, groups), _split(dy, groups), strict=True)
        return np.concatenate([conv2d_backprop_input(part, w_g, dy_g, *how) for w_g, dy_g in parts], axis=3)
    rows, cols = _axes(sizes, w.shape[:2], strides, padding, dilations)
    columns = (_as_matrix(dy) @ _as_matrix(w).T).reshape(dy.shape[:3] + w.shape[:3])
    dxp = _pad(np.zeros(sizes, dy.dtype), rows, cols)
    for i, j in _taps(rows, cols):
        _seen(dxp, rows, cols, i, j)[...] += columns[:, :, :, i, j]
    return _unpad(dxp, rows, cols)


def conv2d_backprop_filter(
    input: ArrayLike,
    filter_sizes: ArrayLike,
    out_backprop: ArrayLike,
    strides: IntOrInts,
    padding: Padding,
    dilations: IntOrInts = 1,
    data_format: str = "NHWC",
    *,
    groups: int = 1,
    algorithm: str | None = None,
    out: NDArray | None = None,
    num_threads: int | None = None,
) -> NDArray:
    """x [N,H,W,C], dy [N,OH,OW,K] -> dw [KH,KW,C,K]: what each tap saw, times what came of it, summed."""
    x, dy = _as_floats(input, out_backprop)
    sizes = arguments.sizes("filter_sizes", filter_sizes)
    if groups > 1:
        how, part = (strides, padding, dilations), (*sizes[:3], sizes[3] // groups)
        parts = zip(_split(x, groups), _split(dy, groups), strict=True)
        grads = [conv2d_backprop_filter(x_g, part, dy_g, *how) for x_g, dy_g in parts]
        return np.concatenate(grads, axis=3, out=out)
    rows, cols = _axes(x.shape, sizes[:2], strides, padding, dilations)
    dw = None if out is None else _as_matrix(out)
    return np.matmul(_im2col(x, rows, cols).T, _as_matrix(dy), out=dw).reshape(sizes)


def depthwise_conv2d(
    input: ArrayLike,
    filter: ArrayLike,
    strides: IntOrInts,
    padding: Padding,
    dilations: IntOrInts = 1,
    data_format: str = "NHWC",
    *,
    bias: ArrayLike | None = None,
    activation: str | None = None,
    num_threads: int | None = None,
) -> NDArray:
    """x [N,H,W,C], w [KH,KW,C,M], bias [C*M] -> y [N,OH,OW,C*M], M results of each channel side by side.

    y[n,oh,ow,c*M+m] = activation(bias[c*M+m] + sum over i,j of xp[n, oh*sh + i*dh, ow*sw + j*dw, c] *
    w[i,j,c,m])
    """
    x, w, b = _as_floats(input, filter, bias)
    rows, cols = _axes(x.shape, w.shape[:2], strides, padding, dilations)
    xp = _pad(x, rows, cols)
    y = np.zeros((len(x), rows.out, cols.out, *w.shape[2:]), x.dtype)
    for i, j in _taps(rows, cols):
        y += _seen(xp, rows, cols, i, j)[..., None] * w[i, j]
    return _epilogue(y.reshape(*y.shape[:3], w.shape[2] * w.shape[3]), b, activation)


def depthwise_conv2d_backprop_input(
    input_sizes: ArrayLike,
    filter: ArrayLike,
    out_backprop: ArrayLike,
    strides: IntOrInts,
    padding: Padding,
    dilations: IntOrInts = 1,
    data_format: str = "NHWC",
    *,
    num_threads: int | None = None,
) -> NDArray:
    """w [KH,KW,C,M], dy [N,OH,OW,C*M] -> dx [N,H,W,C]."""
    w, dy = _as_floats(filter, out_backprop)
    sizes = arguments.sizes("input_sizes", input_sizes)
    rows, cols = _axes(sizes, w.shape[:2], strides, padding, dilations)
    dy = dy.reshape(*dy.shape[:3], *w.shape[2:])
    dxp = _pad(np.zeros(sizes, dy.dtype), rows, cols)
    for i, j in _taps(rows, cols):
        _seen(dxp, rows, cols, i, j)[...] += (dy * w[i, j]).sum(axis=-1)
    return _unpad(dxp, rows, cols)


def depthwise_conv2d_backprop_filter(
    input: ArrayLike,
    filter_sizes: ArrayLike,
    out_backprop: ArrayLike,
    strides: IntOrInts,
    padding: Padding,
    dilations: IntOrInts = 1,
    data_format: str = "NHWC",
    *,
    out: NDArray | None = None,
    num_threads: int | None = None,
) -> NDArray:
    """x [N,H,W,C], dy [N,OH,OW,C*M] -> dw [KH,KW,C,M]."""
    x, dy = _as_floats(input, out_backprop)
    sizes = arguments.sizes("filter_sizes", filter_sizes)
    rows, cols = _axes(x.shape, sizes[:2], strides, padding, dilations)
    xp = _pad(x, rows, cols)
    dy = dy.reshape(*dy.shape[:3], *sizes[2:])
    dw = np.empty(sizes, dy.dtype) if out is None else out
    for i, j in _taps(rows, cols):
        dw[i, j] = (_seen(xp, rows, cols, i, j)[..., None] * dy).sum(axis=(0, 1, 2))
    return dw


def conv2d_transpose(
    input: ArrayLike,
    filters: ArrayLike,
    output_shape: ArrayLike,
    strides: IntOrInts,
    padding: Padding = "SAME",
    dilations: IntOrInts = 1,
    data_format: str = "NHWC",
    *,
    bias: ArrayLike | None = None,
    activation: str | None = None,
    algorithm: str | None = None,
    num_threads: int | None = None,
) -> NDArray:
    """x [N,H,W,C], w [KH,KW,K,C], bias [K] -> y [N,OH,OW,K]: what conv2d of y, with w, gives back to y."""
    x, w, b = _as_floats(input, filters, bias)
    return _epilogue(conv2d_backprop_input(output_shape, w, x, strides, padding, dilations), b, activation)


def _split(a, groups):
    """The groups of the last axis."""
    return np.split(a, groups, axis=-1)


# ---- max pooling ----


def max_pool2d(
    input: ArrayLike,
    ksize: IntOrInts,
    strides: IntOrInts,
    padding: Padding,
    data_format: str = "NHWC",
    *,
    num_threads: int | None = None,
) -> NDArray:
    """x [N,H,W,C] -> y [N,OH,OW,C], the largest pixel that each window sees, or NaN if it sees one.

    Padding is -inf as in TensorFlow, not 0: it never wins against a pixel.
    """
    (x,) = _as_floats(input)
    rows, cols = _axes(x.shape, ksize, strides, padding)
    xp = _pad(x, rows, cols, -np.inf)
    y = np.full((len(x), rows.out, cols.out, x.shape[3]), -np.inf, x.dtype)
    for i, j in _taps(rows, cols):
        np.maximum(y, _seen(xp, rows, cols, i, j), out=y)
    return y


max_pool = max_pool2d


def max_pool_grad(
    orig_input: ArrayLike,
    orig_output: ArrayLike,
    grad: ArrayLike,
    ksize: IntOrInts,
    strides: IntOrInts,
    padding: Padding,
    data_format: str = "NHWC",
    *,
    num_threads: int | None = None,
) -> NDArray:
    """x [N,H,W,C], its max_pool2d y and dy [N,OH,OW,C] -> dx [N,H,W,C]: each window's dy goes whole to its
    winner."""
    x, y, dy = _as_floats(orig_input, orig_output, grad)
    rows, cols = _axes(x.shape, ksize, strides, padding)
    dxp = _pad(np.zeros_like(x), rows, cols)
    for i, j, wins in _winners(x, y, rows, cols):
        _seen(dxp, rows, cols, i, j)[...] += np.where(wins, dy, dy.dtype.type(0))
    return _unpad(dxp, rows, cols)


def max_pool_with_argmax(
    input: ArrayLike,
    ksize: IntOrInts,
    strides: IntOrInts,
    padding: Padding,
    data_format: str = "NHWC",
    *,
    include_batch_in_index: bool = False,
    num_threads: int | None = None,
) -> tuple[NDArray, NDArray]:
    """x [N,H,W,C] -> y [N,OH,OW,C], and int64 of that shape: where in x its maximum stands.

    The index is (h*W + w)*C + c as in TensorFlow, or ((n*H + h)*W + w)*C + c with the batch.
    """
    (x,) = _as_floats(input)
    n, h, w, c = x.shape
    rows, cols = _axes(x.shape, ksize, strides, padding)
    y = max_pool2d(x, ksize, strides, padding)
    places = _pad(np.arange(h * w * c, dtype=np.int64).reshape(1, h, w, c), rows, cols)
    index = np.zeros(y.shape, np.int64)
    for i, j, wins in _winners(x, y, rows, cols):
        np.copyto(index, _seen(places, rows, cols, i, j), where=wins)
    if include_batch_in_index:
        index += np.arange(n).reshape(n, 1, 1, 1) * (h * w * c)
    return y, index


def _winners(x, y, rows, cols):
    """For each tap (i, j): which windows take their maximum y from it, as booleans [N,OH,OW,C].

    Among equals, and among NaNs, the first tap in row-major order wins; padding never does, though y be -inf.
    """
    xp = _pad(x, rows, cols, -np.inf)
    is_pixel = _pad(np.ones((1, *x.shape[1:3], 1), bool), rows, cols)
    undecided = np.ones(y.shape, bool)
    for i, j in _taps(rows, cols):
        value = _seen(xp, rows, cols, i, j)
        wins = ((value == y) | np.isnan(value)) & _seen(is_pixel, rows, cols, i, j) & undecided
        undecided &= ~wins
        yield i, j, wins


# ---- average pooling ----


def avg_pool2d(
    input: ArrayLike,
    ksize: IntOrInts,
    strides: IntOrInts,
    padding: Padding,
    data_format: str = "NHWC",
    *,
    num_threads: int | None = None,
) -> NDArray:
    """x [N,H,W,C] -> y [N,OH,OW,C], the mean of the pixels that each window sees; padding is not counted."""
    (x,) = _as_floats(input)
    rows, cols = _axes(x.shape, ksize, strides, padding)
    xp = _pad(x, rows, cols)
    y = np.zeros((len(x), rows.out, cols.out, x.shape[3]), x.dtype)
    for i, j in _taps(rows, cols):
        y += _seen(xp, rows, cols, i, j)
    return y / _pixels_seen(rows, cols).astype(x.dtype)


avg_pool = avg_pool2d


def avg_pool_grad(
    orig_input_shape: ArrayLike,
    grad: ArrayLike,
    ksize: IntOrInts,
    strides: IntOrInts,
    padding: Padding,
    data_format: str = "NHWC",
    *,
    num_threads: int | None = None,
) -> NDArray:
    """dy [N,OH,OW,C] -> dx [N,H,W,C]: each pixel that a window sees gets an even share of its dy."""
    (dy,) = _as_floats(grad)
    sizes = arguments.sizes("orig_input_shape", orig_input_shape)
    rows, cols = _axes(sizes, ksize, strides, padding)
    share = dy / _pixels_seen(rows, cols).astype(dy.dtype)
    dxp = _pad(np.zeros(sizes, dy.dtype), rows, cols)
    for i, j in _taps(rows, cols):
        _seen(dxp, rows, cols, i, j)[...] += share
    return _unpad(dxp, rows, cols)


def _pixels_seen(rows, cols):
    """[1,OH,OW,1]: how many pixels of the image, not of its padding, lie in each window."""
    is_pixel = _pad(np.ones((1, rows.size, cols.size, 1), int), rows, cols)
    return sum(_seen(is_pixel, rows, cols, i, j) for i, j in _taps(rows, cols))


# ---- activations, bias, dense ----


def relu(features: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """x of any shape -> max(x, 0); NaN stays NaN."""
    (x,) = _as_floats(features)
    return np.maximum(x, 0)


def relu_grad(gradients: ArrayLike, features: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """dy and x of one shape -> dx: dy where x > 0, else 0; relu's output serves as well as its input x."""
    dy, x = _as_floats(gradients, features)
    return np.where(x > 0, dy, dy.dtype.type(0))


def add(x: ArrayLike, y: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """x and y of one shape -> x + y."""
    x, y = _as_floats(x, y)
    return x + y


def concat(values: Sequence[ArrayLike], axis: int = -1, *, num_threads: int | None = None) -> NDArray:
    """[..., C1], [..., C2], ... -> [..., C1 + C2 + ...]."""
    return np.concatenate(_as_floats(*values), axis)


def split(
    value: ArrayLike,
    num_or_size_splits: int | Sequence[int],
    axis: int = -1,
    *,
    num_threads: int | None = None,
) -> list[NDArray]:
    """[..., C1 + C2 + ...] -> [..., C1], [..., C2], ...; sizes, or the number of equal ones."""
    (x,) = _as_floats(value)
    if np.ndim(num_or_size_splits):
        return np.split(x, np.cumsum(num_or_size_splits)[:-1], axis)
    return np.split(x, num_or_size_splits, axis)


def sigmoid(x: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """x of any shape -> 1 / (1 + exp(-x)), from exponentials of at most 1."""
    (x,) = _as_floats(x)
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e / (1 + e), 1 / (1 + e))


def sigmoid_grad(y: ArrayLike, dy: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """y (sigmoid's result) and dy of one shape -> dx = dy * y * (1 - y)."""
    y, dy = _as_floats(y, dy)
    return dy * (y * (1 - y))


def tanh(x: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """x of any shape -> tanh(x)."""
    (x,) = _as_floats(x)
    return np.tanh(x)


def tanh_grad(y: ArrayLike, dy: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """y (tanh's result) and dy of one shape -> dx = dy * (1 - y**2)."""
    y, dy = _as_floats(y, dy)
    return dy * ((1 - y) * (1 + y))


def bias_add(value: ArrayLike, bias: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """x [..., C], bias [C] -> x + bias."""
    x, b = _as_floats(value, bias)
    return x + b


def bias_add_grad(
    out_backprop: ArrayLike, *, out: NDArray | None = None, num_threads: int | None = None
) -> NDArray:
    """dy [..., C] -> db [C], the sum over all axes but the last."""
    (dy,) = _as_floats(out_backprop)
    return dy.sum(axis=tuple(range(dy.ndim - 1)), out=out)


def dense(
    inputs: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    activation: str | None = None,
    *,
    num_threads: int | None = None,
) -> NDArray:
    """x [N,I], w [I,O], bias [O] -> activation(x @ w + bias) [N,O]."""
    x, w, b = _as_floats(inputs, kernel, bias)
    return _epilogue(x @ w, b, activation)


def dense_backprop_input(
    kernel: ArrayLike, out_backprop: ArrayLike, *, num_threads: int | None = None
) -> NDArray:
    """w [I,O], dy [N,O] -> dx [N,I]."""
    w, dy = _as_floats(kernel, out_backprop)
    return dy @ w.T


def dense_backprop_kernel(
    inputs: ArrayLike, out_backprop: ArrayLike, *, out: NDArray | None = None, num_threads: int | None = None
) -> NDArray:
    """x [N,I], dy [N,O] -> dw [I,O]."""
    x, dy = _as_floats(inputs, out_backprop)
    return np.matmul(x.T, dy, out=out)


def _epilogue(y, bias, activation):
    """Bias [K] and activation, in place, on a fresh y [..., K]."""
    if bias is not None:
        y += bias
    if activation == "relu":
        np.maximum(y, 0, out=y)
    return y


# ---- batch normalization ----


def moments(x: ArrayLike, *, num_threads: int | None = None) -> tuple[NDArray, NDArray]:
    """x [..., C] -> mean [C] and variance [C] over all axes but the last; NaN for an empty batch."""
    (x,) = _as_floats(x)
    x_mc = _as_matrix(x)
    with np.errstate(invalid="ignore"):
        mean = x_mc.sum(axis=0) / len(x_mc)
        return mean, ((x_mc - mean) ** 2).sum(axis=0) / len(x_mc)


def batch_normalization(
    x: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    offset: ArrayLike | None,
    scale: ArrayLike | None,
    variance_epsilon: float,
    *,
    side_input: ArrayLike | None = None,
    activation: str | None = None,
    num_threads: int | None = None,
) -> NDArray:
    """y = (x - mean) / sqrt(variance + epsilon) * scale + offset; x and side_input [..., C], the others [C].

    Source: Ioffe and Szegedy, "Batch normalization", ICML 2015, algorithm 1.
    """
    x, mean, variance, offset, scale, side_input = _as_floats(x, mean, variance, offset, scale, side_input)
    y = (x - mean) / np.sqrt(variance + float(variance_epsilon))
    if scale is not None:
        y *= scale
    if offset is not None:
        y += offset
    if side_input is not None:
        y += side_input
    return relu(y) if activation == "relu" else y


def batch_normalization_grad(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    scale: ArrayLike | None,
    variance_epsilon: float,
    is_training: bool = True,
    *,
    offset: ArrayLike | None = None,
    activation: str | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray, NDArray, NDArray]:
    """dy and x [..., C] -> dx [..., C], dscale [C], doffset [C].

    In training each element of x also moves its channel's mean and variance: what that does to all the
    others is taken off dy.
    """
    dy, x, mean, variance, scale, offset = _as_floats(dy, x, mean, variance, scale, offset)
    if activation == "relu":
        dy = relu_grad(dy, batch_normalization(x, mean, variance, offset, scale, variance_epsilon))
    r = 1 / np.sqrt(variance + float(variance_epsilon))
    normal = (x - mean) * r
    doffset, dscale = _as_matrix(dy).sum(axis=0), _as_matrix(dy * normal).sum(axis=0)
    if is_training:
        m = max(len(_as_matrix(x)), 1)
        dy = dy - doffset / m - normal * (dscale / m)
    return dy * (r if scale is None else r * scale), dscale, doffset


# ---- local response normalization ----


def local_response_normalization(
    input: ArrayLike,
    depth_radius: int = 5,
    bias: float = 1.0,
    alpha: float = 1.0,
    beta: float = 0.5,
    *,
    num_threads: int | None = None,
) -> NDArray:
    """x [N,H,W,C] -> y = x / scale**beta, scale = bias + alpha * sum of the squares of the channels around.

    Source: Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural
    networks", NIPS 2012, section 3.3; the radius and the undivided sum are TensorFlow's.
    """
    (x,) = _as_floats(input)
    scale = float(bias) + float(alpha) * _sum_around(x * x, depth_radius)
    return x * scale ** -float(beta)


lrn = local_response_normalization


def lrn_grad(
    input_grads: ArrayLike,
    input_image: ArrayLike,
    output_image: ArrayLike,
    depth_radius: int = 5,
    bias: float = 1.0,
    alpha: float = 1.0,
    beta: float = 0.5,
    *,
    num_threads: int | None = None,
) -> NDArray:
    """dy, x and y [N,H,W,C] -> dx: a channel counts in its own result and in the scales of those around."""
    dy, x, y = _as_floats(input_grads, input_image, output_image)
    scale = float(bias) + float(alpha) * _sum_around(x * x, depth_radius)
    others = _sum_around(dy * y / scale, depth_radius)
    return dy * scale ** -float(beta) - 2 * float(alpha) * float(beta) * x * others


def _sum_around(a, radius):
    """[..., C] -> [..., C]: each channel's sum with the `radius` channels to each side, or what there is."""
    radius = min(radius, a.shape[-1])
    around = [(0, 0)] * (a.ndim - 1) + [(radius, radius)]
    return sliding_window_view(np.pad(a, around), 2 * radius + 1, axis=-1).sum(axis=-1)


# ---- dropout ----

_LOW_32 = 0xFFFFFFFF
# Philox4x32's multipliers, and the Weyl constants by which its key steps from round to round.
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def dropout(x: ArrayLike, rate: float, *, seed: int, num_threads: int | None = None) -> NDArray:
    """x of any shape -> x / (1 - rate), with a fraction `rate` (in [0,1)) of the elements set to 0.

    Which ones depends on the seed (in [0, 2**64)) and on the element's index in C order alone, so the
    gradient is dropout(dy, rate, seed=seed). Elements 4b .. 4b+3 have the four words of Philox block b, whose
    counter is (b, b >> 32, 0, 0) and whose key is the seed, low words first; an element is dropped if its
    word is below rate * 2**32.
    """
    (values,) = _as_floats(x)
    block = np.arange((values.size + 3) // 4, dtype=np.uint64)
    zero = np.zeros_like(block)
    words = _philox4x32((block & _LOW_32, block >> 32, zero, zero), (seed & _LOW_32, seed >> 32))
    words = np.stack(words, axis=-1).reshape(-1)[: values.size].reshape(values.shape)
    scale = values.dtype.type(1 / (1 - rate))
    return np.where(words >= int(rate * 2**32), values * scale, values.dtype.type(0))


def _philox4x32(counter, key):
    """Ten rounds of Philox on four 32-bit words of counter and two of key -> four random 32-bit words.

    The words are uint64 arrays of one shape (the key's are ints), so that products keep all 64 bits.
    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (product1 >> 32) ^ c1 ^ k0, product1 & _LOW_32
        c2, c3 = (product0 >> 32) ^ c3 ^ k1, product0 & _LOW_32
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW_32, (k1 + _KEY_STEPS[1]) & _LOW_32
    return c0, c1, c2, c3


# ---- softmax ----


def softmax(logits: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """z [..., K] -> exp(z) / sum(exp(z)) over the last axis; z may be large."""
    (z,) = _as_floats(logits)
    e = np.exp(z - z.max(axis=-1, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_cross_entropy_with_logits(
    labels: ArrayLike, logits: ArrayLike, *, num_threads: int | None = None
) -> NDArray:
    """p (the labels) and z [N,K] -> loss [N] = -sum over k of p * log(softmax(z)).

    The logarithm is taken of a sum of at least 1. A class whose label is 0 adds 0 even if its log is -inf.
    """
    p, z = _as_floats(labels, logits)
    z = z - z.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(divide="ignore"):  # of no classes the sum is 0
        minus_log = np.log(np.exp(z).sum(axis=-1, keepdims=True)) - z
    return (p * np.where(p != 0, minus_log, 0)).sum(axis=-1)


# ---- shared ----


def _as_floats(*arrays):
    """The arrays (or None) in C order and one dtype: float64 if one of them is, otherwise float32."""
    arrays = [a if a is None else np.asarray(a) for a in arrays]
    has_float64 = any(a is not None and a.dtype.kind == "f" and a.itemsize >= 8 for a in arrays)
    dtype = np.float64 if has_float64 else np.float32
    return [a if a is None else np.asarray(a, dtype, order="C") for a in arrays]


def _axes(image_shape, ksize, strides, padding, dilations=1):
    """How a window moves over the rows and over the columns of images [N,H,W,C]: two geometry.Axis."""
    kernel, stride = arguments.pair("ksize", ksize), arguments.pair("strides", strides)
    dilation, ends = arguments.pair("dilations", dilations), arguments.padding(padding)
    return [geometry.axis(image_shape[1 + a], kernel[a], stride[a], dilation[a], ends[a]) for a in (0, 1)]


def _as_matrix(a):
    """[..., K] -> [M, K], a view."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])  # (-1 may be anything where K is 0)


def _pad(x, rows, cols, value=0):
    """x [N,H,W,C] -> xp, with `value` around each image."""
    around = ((0, 0), (rows.before, rows.after), (cols.before, cols.after), (0, 0))
    return np.pad(x, around, constant_values=value)


def _unpad(xp, rows, cols):
    """xp -> x [N,H,W,C], C-contiguous; what fell into the padding is dropped."""
    inner_h, inner_w = (slice(a.before, a.before + a.size) for a in (rows, cols))
    return np.ascontiguousarray(xp[:, inner_h, inner_w])


def _taps(rows, cols):
    """The places (i, j) of the window in row-major order."""
    return np.ndindex(rows.kernel, cols.kernel)


def _seen(xp, rows, cols, i, j):
    """What tap (i, j) sees from every position: a view [N,OH,OW,C] of xp."""
    top, left = i * rows.dilation, j * cols.dilation
    bottom, right = top + (rows.out - 1) * rows.stride + 1, left + (cols.out - 1) * cols.stride + 1
    return xp[:, top : bottom : rows.stride, left : right : cols.stride]


def _im2col(x, rows, cols):
    """x [N,H,W,C] -> [N*OH*OW, KH*KW*C]: one row for each position, with all that its window sees."""
    reach = [(a.kernel - 1) * a.dilation + 1 for a in (rows, cols)]
    windows = sliding_window_view(_pad(x, rows, cols), reach, axis=(1, 2))
    windows = windows[:, :: rows.stride, :: cols.stride, :, :: rows.dilation, :: cols.dilation]
    windows = windows.transpose(0, 1, 2, 4, 5, 3)  # [N,OH,OW,KH,KW,C]
    return windows.reshape(math.prod(windows.shape[:3]), math.prod(windows.shape[3:]))
