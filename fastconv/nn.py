"""The operations, with TensorFlow's names and argument order: check, geometry, allocate, call.

Arrays are NHWC (batch, height, width, channels), filters HWIO (height, width, input channels, output
channels).  Anything that NumPy takes for an array of real numbers is taken; it is never modified.  float32
and float64 are computed as they are, integers and float16 as float32, and mixed ones as NumPy promotes them.
Results are new C-contiguous arrays.

Every operation takes `num_threads=`, the number of threads for this call (see fastconv.threads); results have
the same bits for any number.  Wrong arguments raise ValueError or TypeError, naming the argument and its
value, before anything is computed.  `fastconv.reference` holds the slow twin of every function here, with the
same signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastconv import _arguments as arguments
from fastconv import _convolution, geometry, threads
from fastconv import _windows as windows
from fastconv._arguments import IntOrInts, Padding
from fastconv._kernels import conv2d as _conv2d
from fastconv._kernels import elementwise as _elementwise
from fastconv._kernels import memory
from fastconv._kernels import norm as _norm
from fastconv._kernels import pool as _pool

# What passes cost per element, in multiply-adds of the convolution kernels (see threads.GRAIN).
PASS = threads.PASS
RANDOM_PASS = 64
LRN_PASS = 64
EXP_PASS = 256
# Fewer elements than this NumPy joins as fast, and in one call for all parts.
SMALL_JOIN = 1 << 17

# A dense layer is a 1x1 convolution of 1x1 images.
_POINT = geometry.forward_sweep(geometry.axis(1, 1, 1, 1, "VALID")).table()
_POINTS = [(_POINT, _POINT)]


# ---------------------------------------------------------------------------------------------- convolution


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
    """2-D convolution (cross-correlation, as in all of deep learning) of a batch of images.

        y[n, i, j, k] = sum over p, q, c of
            input[n, i * stride + p * dilation - top, j * stride + q * dilation - left, c] * filters[p, q, c,
            k]

    Args:
        input: [N, H, W, C].
        filters: [filter height, filter width, C / groups, K]. One that is not finite may make NaN, or not,
            of results whose windows reach over the border.
        strides: int, (h, w) or (1, h, w, 1).
        padding: "SAME" (output ceil(H / stride), zeros around, the odd one below and right), "VALID" (none),
        in any case; or
            explicit [[0, 0], [top, bottom], [left, right], [0, 0]] in pixels.
        dilations: distance of the filter's taps in pixels; the forms of strides.
        data_format: "NHWC".
        bias: [K], added to every pixel.
        activation: None or "relu", applied last.
        groups: of the input channels and of the filters, in order; each filter sees the channels of its own
            group alone (Krizhevsky et al., NIPS 2012, section 3.5). As many groups as input channels make it
            a depthwise convolution.
        algorithm: "auto", "direct", "winograd" (without dilation: filters of 3x3, 5x5, 1x3, 3x1, 1x5 and 5x1,
            stride 1; here also square filters of 2 to 5 times a larger stride, rounded up), or None: what
            `with fastconv.algorithm(...)` or FASTCONV_ALGORITHM says, else "auto". "auto" takes Winograd's
            where it is faster; its results differ from the exact ones by at most some millionths of the
            largest, and a NaN or an infinity in the input can reach results up to five places away from
            those whose windows hold it.
        num_threads: for this call.

    Returns:
        [N, OH, OW, K].

    Raises:
        ValueError, TypeError: naming the argument; also when the filter is larger than the padded input.
    """
    arguments.nhwc(data_format)
    arguments.choice("activation", activation, (None, "relu"))
    optional_bias = arguments.optional(bias, 1)
    x, w, b = arguments.arrays(input=(input, 4), filters=(filters, 4), bias=optional_bias)
    groups = arguments.whole("groups", groups, 1)
    window = _convolution.window(strides, padding, dilations, algorithm)
    convolution = _convolution.plan(x.shape, w.shape, window, groups)
    arguments.same_shape("bias", b, (w.shape[3],), "one number per filter")
    y = memory.empty(convolution.output_shape, x.dtype)
    convolution.forward(y, x, w, b, activation == "relu", num_threads)
    return y


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
    """Gradient of conv2d with respect to its input.

    Args:
        input_sizes: the four sizes of the input, [N, H, W, C].
        filters: [filter height, filter width, C / groups, K].
        out_backprop: gradient of conv2d's result, [N, OH, OW, K].
        strides, padding, dilations, data_format, groups, algorithm, num_threads: as for conv2d.
        side_input: [N, H, W, C], added to the result: what else the input's gradient is the sum of.

    Returns:
        [N, H, W, C].
    """
    arguments.nhwc(data_format)
    shape = arguments.sizes("input_sizes", input_sizes)
    side = arguments.optional(side_input, 4)
    w, dy, side = arguments.arrays(filters=(filters, 4), out_backprop=(out_backprop, 4), side_input=side)
    names, groups = ("input_sizes", "filters"), arguments.whole("groups", groups, 1)
    window = _convolution.window(strides, padding, dilations, algorithm)
    convolution = _convolution.plan(shape, w.shape, window, groups, names, "input_gradient")
    _check_gradient("out_backprop", dy, convolution.output_shape)
    arguments.same_shape("side_input", side, shape, "that of the input")
    dx, is_fused = memory.empty(shape, dy.dtype), groups == 1
    convolution.input_gradient(dx, w, dy, num_threads, side=side if is_fused else None)
    return dx if side is None or is_fused else add(dx, side, num_threads=num_threads)


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
    """Gradient of conv2d with respect to its filters.

    Args:
        input: [N, H, W, C].
        filter_sizes: the four sizes of the filters, [filter height, filter width, C / groups, K].
        out_backprop: gradient of conv2d's result, [N, OH, OW, K].
        strides, padding, dilations, data_format, groups, algorithm, num_threads: as for conv2d.
        out: where to write the result: a C-contiguous array of its shape and dtype that shares no memory with
            the others.

    Returns:
        [filter height, filter width, C / groups, K]; zeros for an empty batch.
    """
    arguments.nhwc(data_format)
    shape = arguments.sizes("filter_sizes", filter_sizes)
    x, dy = arguments.arrays(input=(input, 4), out_backprop=(out_backprop, 4))
    names, groups = ("input", "filter_sizes"), arguments.whole("groups", groups, 1)
    window = _convolution.window(strides, padding, dilations, algorithm)
    convolution = _convolution.plan(x.shape, shape, window, groups, names, "filter_gradient")
    _check_gradient("out_backprop", dy, convolution.output_shape)
    dw = _result(out, shape, dy.dtype)
    convolution.filter_gradient(dw, x, dy, num_threads)
    return dw


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
    """Convolution of each channel by itself, with one or more filters of its own.

        y[n, i, j, c * M + m] = sum over p, q of
            input[n, i * stride + p * dilation - top, j * stride + q * dilation - left, c]
            * filter[p, q, c, m]

    It is conv2d with as many groups as channels; only the filters' shape is another.  (Howard et al.,
    "MobileNets", arXiv:1704.04861, section 3.1.)

    Args:
        input: [N, H, W, C].
        filter: [filter height, filter width, C, M], M filters for each channel.
        strides, padding, dilations, data_format, activation, num_threads: as for conv2d.
        bias: [C * M], added to every pixel.

    Returns:
        [N, OH, OW, C * M].
    """
    arguments.nhwc(data_format)
    arguments.choice("activation", activation, (None, "relu"))
    optional_bias = arguments.optional(bias, 1)
    x, w, b = arguments.arrays(input=(input, 4), filter=(filter, 4), bias=optional_bias)
    convolution = _depthwise(x.shape, w.shape, strides, padding, dilations, ("input", "filter"))
    arguments.same_shape("bias", b, convolution.output_shape[3:], "one number per filter")
    y = memory.empty(convolution.output_shape, x.dtype)
    convolution.forward(y, x, w.reshape(convolution.filter_shape), b, activation == "relu", num_threads)
    return y


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
    """Gradient of depthwise_conv2d with respect to its input.

    Args:
        input_sizes: the four sizes of the input, [N, H, W, C].
        filter: [filter height, filter width, C, M].
        out_backprop: gradient of depthwise_conv2d's result, [N, OH, OW, C * M].
        strides, padding, dilations, data_format, num_threads: as for conv2d.

    Returns:
        [N, H, W, C].
    """
    arguments.nhwc(data_format)
    shape = arguments.sizes("input_sizes", input_sizes)
    w, dy = arguments.arrays(filter=(filter, 4), out_backprop=(out_backprop, 4))
    convolution = _depthwise(shape, w.shape, strides, padding, dilations, ("input_sizes", "filter"))
    _check_gradient("out_backprop", dy, convolution.output_shape)
    dx = memory.empty(shape, dy.dtype)
    convolution.input_gradient(dx, w.reshape(convolution.filter_shape), dy, num_threads)
    return dx


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
    """Gradient of depthwise_conv2d with respect to its filters.

    Args:
        input: [N, H, W, C].
        filter_sizes: the four sizes of the filters, [filter height, filter width, C, M].
        out_backprop: gradient of depthwise_conv2d's result, [N, OH, OW, C * M].
        strides, padding, dilations, data_format, num_threads: as for conv2d.
        out: as for conv2d_backprop_filter.

    Returns:
        [filter height, filter width, C, M]; zeros for an empty batch.
    """
    arguments.nhwc(data_format)
    shape = arguments.sizes("filter_sizes", filter_sizes)
    x, dy = arguments.arrays(input=(input, 4), out_backprop=(out_backprop, 4))
    convolution = _depthwise(x.shape, shape, strides, padding, dilations, ("input", "filter_sizes"))
    _check_gradient("out_backprop", dy, convolution.output_shape)
    dw = _result(out, shape, dy.dtype)
    convolution.filter_gradient(dw.reshape(convolution.filter_shape), x, dy, num_threads)
    return dw


def _depthwise(
    shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    strides: IntOrInts,
    padding: Padding,
    dilations: IntOrInts,
    names: tuple[str, str],
) -> _convolution.Convolution:
    """The grouped convolution that a depthwise one is; in memory its filters lie alike."""
    height, width, channels, multiplier = filter_shape
    if shape[3] != channels:
        raise ValueError(
            f"{names[1]} must have as many channels (axis 2) as {names[0]} has (axis 3): "
            f"{tuple(filter_shape)} against {tuple(shape)}"
        )
    grouped = (height, width, min(channels, 1), channels * multiplier)
    groups = max(channels, 1)
    window = _convolution.window(strides, padding, dilations, "direct")
    return _convolution.plan(shape, grouped, window, groups, names)


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
    """Transposed convolution: conv2d's input gradient as an operation of its own (Zeiler et al.,
    "Deconvolutional networks", CVPR 2010), which makes images larger where its strides are above 1.

    Each input pixel adds its multiple of a filter to the result, `strides` apart.  The gradients are
    convolutions, with the roles exchanged:

        dx = conv2d(dy, filters, strides, padding, dilations)
        dfilters = conv2d_backprop_filter(dy, filters.shape, x, strides, padding, dilations)

    Args:
        input: [N, H, W, C].
        filters: [filter height, filter width, K, C], the filters of a convolution of K channels into C.
        output_shape: the four sizes of the result, [N, OH, OW, K]; with strides several OH have one H.
        strides, padding, dilations: those of the convolution from OH x OW to H x W pixels; as for conv2d.
        data_format: "NHWC".
        bias: [K], added to every pixel.
        activation: None or "relu", applied last.
        algorithm, num_threads: as for conv2d.

    Returns:
        [N, OH, OW, K].
    """
    arguments.nhwc(data_format)
    arguments.choice("activation", activation, (None, "relu"))
    shape = arguments.sizes("output_shape", output_shape)
    optional_bias = arguments.optional(bias, 1)
    x, w, b = arguments.arrays(input=(input, 4), filters=(filters, 4), bias=optional_bias)
    names = ("output_shape", "filters")
    window = _convolution.window(strides, padding, dilations, algorithm)
    convolution = _convolution.plan(shape, w.shape, window, 1, names, "input_gradient")
    if x.shape != convolution.output_shape:
        raise ValueError(
            f"input must have shape {convolution.output_shape}, that of the convolution of an "
            f"output_shape {shape} with filters {w.shape}, not {x.shape}"
        )
    arguments.same_shape("bias", b, (w.shape[2],), "one number per output channel")
    y = memory.empty(shape, x.dtype)
    convolution.input_gradient(y, w, x, num_threads, bias=b, relu=activation == "relu")
    return y


def _result(out: NDArray | None, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    """The caller's array if there is one and it fits, else a new one."""
    return memory.empty(shape, dtype) if out is None else arguments.destination("out", out, shape, dtype)


def _check_gradient(name: str, dy: NDArray, shape: tuple[int, ...]) -> None:
    arguments.same_shape(name, dy, shape, "that of the result whose gradient it is")


# ---------------------------------------------------------------------------------------------- pooling


def max_pool2d(
    input: ArrayLike,
    ksize: IntOrInts,
    strides: IntOrInts,
    padding: Padding,
    data_format: str = "NHWC",
    *,
    num_threads: int | None = None,
) -> NDArray:
    """Maximum of each window of each channel.

    Padding never wins (it is minus infinity, as in TensorFlow, not zero).  A NaN in the window comes out.

    Args:
        input: [N, H, W, C].
        ksize: the window, int, (h, w) or (1, h, w, 1).
        strides: the forms of ksize.
        padding: as for conv2d; every window must hold at least one pixel of the image.
        data_format: "NHWC".
        num_threads: for this call.

    Returns:
        [N, OH, OW, C].
    """
    return _max_pool(input, ksize, strides, padding, data_format, num_threads, with_argmax=False)[0]


max_pool = max_pool2d


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
    """max_pool2d, and where each maximum lies.

    Returns:
        The maxima [N, OH, OW, C], and int64 [N, OH, OW, C]: (h * W + w) * C + c of the first maximum in
        row-major order (the first NaN if there is one); with include_batch_in_index ((n * H + h) * W + w) * C
        + c.
    """
    y, argmax, shape = _max_pool(input, ksize, strides, padding, data_format, num_threads, with_argmax=True)
    if include_batch_in_index:
        argmax += (np.arange(shape[0], dtype=np.int64) * int(np.prod(shape[1:])))[:, None, None, None]
    return y, argmax


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
    """Gradient of max_pool2d with respect to its input: all of `grad` goes to the first maximum of each
    window.

    Args:
        orig_input: what max_pool2d was given, [N, H, W, C].
        orig_output: what it returned, [N, OH, OW, C]; of it only the shape is looked at.
        grad: gradient of its result, [N, OH, OW, C].
        ksize, strides, padding, data_format, num_threads: as given to max_pool2d.

    Returns:
        [N, H, W, C].
    """
    arguments.nhwc(data_format)
    x, y, dy = arguments.arrays(orig_input=(orig_input, 4), orig_output=(orig_output, 4), grad=(grad, 4))
    vertical, horizontal = windows.pooling(x.shape, ksize, strides, padding, "orig_input")
    shape = (x.shape[0], vertical.out, horizontal.out, x.shape[3])
    arguments.same_shape("orig_output", y, shape, "that of the pooled orig_input")
    _check_gradient("grad", dy, shape)
    if vertical.kernel * horizontal.kernel > _pool.MOST_TAPS:
        return _scatter_to_maxima(x, dy, (ksize, strides, padding), num_threads)
    dx = memory.empty(x.shape, x.dtype)
    n = threads.resolve(num_threads, x.size * PASS)
    if dx.size:
        _pool.max_pool_grad(dx, x, dy, vertical, horizontal, n)
    return dx


def _scatter_to_maxima(x: NDArray, dy: NDArray, how: tuple[Any, ...], num_threads: int | None) -> NDArray:
    """The gradient of a max pool whose windows have more pixels than a byte counts: mostly few windows."""
    _, places = max_pool_with_argmax(x, *how, include_batch_in_index=True, num_threads=num_threads)
    dx = np.zeros(x.shape, x.dtype)
    np.add.at(dx.reshape(-1), places.reshape(-1), dy.reshape(-1))
    return dx


def _max_pool(
    input: ArrayLike,
    ksize: IntOrInts,
    strides: IntOrInts,
    padding: Padding,
    data_format: str,
    num_threads: int | None,
    with_argmax: bool,
) -> tuple[NDArray, NDArray | None, tuple[int, ...]]:
    arguments.nhwc(data_format)
    (x,) = arguments.arrays(input=(input, 4))
    vertical, horizontal = windows.pooling(x.shape, ksize, strides, padding, "input")
    y = memory.empty((x.shape[0], vertical.out, horizontal.out, x.shape[3]), x.dtype)
    argmax = memory.empty(y.shape, np.int64) if with_argmax else None
    n = threads.resolve(num_threads, x.size * PASS)
    if y.size:
        _pool.max_pool(y, argmax, None, x, vertical, horizontal, n)
    return y, argmax, x.shape


def avg_pool2d(
    input: ArrayLike,
    ksize: IntOrInts,
    strides: IntOrInts,
    padding: Padding,
    data_format: str = "NHWC",
    *,
    num_threads: int | None = None,
) -> NDArray:
    """Mean of each window of each channel: the sum of the pixels in it divided by their number.

    Padding is not counted, as in TensorFlow, whether it is SAME's or explicit.

    Args:
        input, ksize, strides, padding, data_format, num_threads: as for max_pool2d.

    Returns:
        [N, OH, OW, C].
    """
    arguments.nhwc(data_format)
    (x,) = arguments.arrays(input=(input, 4))
    vertical, horizontal = windows.pooling(x.shape, ksize, strides, padding, "input")
    y = memory.empty((x.shape[0], vertical.out, horizontal.out, x.shape[3]), x.dtype)
    n = threads.resolve(num_threads, x.size * PASS)
    if y.size:
        _pool.avg_pool(y, x, vertical, horizontal, n)
    return y


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
    """Gradient of avg_pool2d with respect to its input: `grad` is shared out evenly among the pixels of each
    window.

    Args:
        orig_input_shape: the four sizes of what avg_pool2d was given, [N, H, W, C].
        grad: gradient of its result, [N, OH, OW, C].
        ksize, strides, padding, data_format, num_threads: as given to avg_pool2d.

    Returns:
        [N, H, W, C].
    """
    arguments.nhwc(data_format)
    shape = arguments.sizes("orig_input_shape", orig_input_shape)
    (dy,) = arguments.arrays(grad=(grad, 4))
    vertical, horizontal = windows.pooling(shape, ksize, strides, padding, "orig_input_shape")
    _check_gradient("grad", dy, (shape[0], vertical.out, horizontal.out, shape[3]))
    dx = memory.empty(shape, dy.dtype)
    n = threads.resolve(num_threads, dx.size * PASS)
    if dx.size:
        _pool.avg_pool_grad(dx, dy, vertical, horizontal, n)
    return dx


# ---------------------------------------------------------------------------------------------- elementwise


def relu(features: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """max(features, 0), elementwise; a NaN stays a NaN."""
    x = arguments.array("features", features)
    y = memory.empty(x.shape, x.dtype)
    n = threads.resolve(num_threads, x.size * PASS)
    if x.size:
        _elementwise.relu(y.reshape(-1), x.reshape(-1), n)
    return y


def relu_grad(gradients: ArrayLike, features: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """Gradient of relu: `gradients` where features > 0, else 0.

    Args:
        gradients: gradient of relu's result, any shape.
        features: relu's input or its result (they are positive at the same places), the same shape.
    """
    x = arguments.array("features", features)
    dy, x = arguments.arrays(gradients=(gradients, x.ndim), features=(x, x.ndim))
    arguments.same_shape("gradients", dy, x.shape, "that of features")
    dx = memory.empty(x.shape, x.dtype)
    if x.size:
        _elementwise.relu_grad(
            dx.reshape(-1), dy.reshape(-1), x.reshape(-1), threads.resolve(num_threads, x.size * PASS)
        )
    return dx


def add(x: ArrayLike, y: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """x + y, both of the same shape: any, as for relu."""
    a = arguments.array("x", x)
    a, b = arguments.arrays(x=(a, a.ndim), y=(y, a.ndim))
    arguments.same_shape("y", b, a.shape, "that of x")
    result = memory.empty(a.shape, a.dtype)
    if a.size:
        n = threads.resolve(num_threads, a.size * PASS)
        _elementwise.add(result.reshape(-1), a.reshape(-1), b.reshape(-1), n)
    return result


def concat(values: Sequence[ArrayLike], axis: int = -1, *, num_threads: int | None = None) -> NDArray:
    """Arrays that agree in all axes but the last, joined along that: [..., C1], [..., C2] -> [..., C1 + C2].

    axis: the last one's number, which is the only one that there is. The gradient is `split`.
    """
    given = arguments.listed("values", values)
    if not given:
        raise ValueError(f"values must hold at least one array, not {arguments.show(values)}")
    ndim = max(arguments.as_array("values[0]", given[0]).ndim, 1)
    parts = arguments.arrays(**{f"values[{i}]": (value, ndim) for i, value in enumerate(given)})
    arguments.choice("axis", axis, (-1, ndim - 1))
    for i, part in enumerate(parts):
        rest = parts[0].shape[:-1]
        arguments.same_shape(
            f"values[{i}]", part, (*rest, part.shape[-1]), "that of values[0] but for the last axis"
        )
    sizes = [part.shape[-1] for part in parts]
    y = memory.empty((*parts[0].shape[:-1], sum(sizes)), parts[0].dtype)
    if threads.resolve(num_threads, y.size * PASS) == 1 and y.size < SMALL_JOIN:
        return np.concatenate(parts, axis=-1, out=y)
    _for_each_part(_elementwise.join, y, parts, num_threads)
    return y


def split(
    value: ArrayLike,
    num_or_size_splits: int | Sequence[int],
    axis: int = -1,
    *,
    num_threads: int | None = None,
) -> list[NDArray]:
    """Its last axis cut into pieces: [..., C1 + C2] -> [..., C1], [..., C2], as arrays of their own.

    num_or_size_splits: the sizes [C1, C2, ...], or the number of equal ones. axis: as for `concat`.
    """
    x = arguments.array("value", value)
    if not x.ndim:
        raise ValueError("value must have at least 1 axis, not 0")
    arguments.choice("axis", axis, (-1, x.ndim - 1))
    sizes = _split_sizes(num_or_size_splits, x.shape[-1])
    parts = [memory.empty((*x.shape[:-1], size), x.dtype) for size in sizes]
    _for_each_part(_elementwise.split, x, parts, num_threads)
    return parts


def _split_sizes(wanted: Any, channels: int) -> list[int]:
    sizes = arguments.listed("num_or_size_splits", wanted, or_none=True)
    if sizes is None:
        number = arguments.whole("num_or_size_splits", wanted, 1)
        if channels % number:
            raise ValueError(
                f"num_or_size_splits must divide the {channels} channels of value, unlike {number}"
            )
        return [channels // number] * number
    sizes = [arguments.whole("num_or_size_splits", size, 0) for size in sizes]
    if sum(sizes) != channels:
        raise ValueError(
            f"num_or_size_splits must add up to the {channels} channels of value, unlike {sizes}"
        )
    return sizes


def _for_each_part(
    copy: Callable[..., None], whole: NDArray, parts: Sequence[NDArray], num_threads: int | None
) -> None:
    """copy(whole, part, the part's first channel in the whole, threads)"""
    first = 0
    for part in parts:
        if part.size:
            copy(_rows(whole), _rows(part), first, threads.resolve(num_threads, part.size * PASS))
        first += part.shape[-1]


def sigmoid(x: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """1 / (1 + exp(-x)), elementwise, without overflow; a NaN stays a NaN."""
    threads.resolve(num_threads, 0)
    a = arguments.array("x", x)
    y = memory.empty(a.shape, a.dtype)
    np.exp(np.negative(np.abs(a, out=y), out=y), out=y)  # at most 1
    numerator = np.maximum(y, a >= 0)  # 1 where x >= 0; np.where is much slower on random signs
    y += 1
    return np.divide(numerator, y, out=y)


def sigmoid_grad(y: ArrayLike, dy: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """Gradient of sigmoid: dy * y * (1 - y).

    Args:
        y: sigmoid's result, any shape.
        dy: gradient of that result, the same shape.
    """
    return _grad_of_result(_elementwise.sigmoid_grad, y, dy, num_threads)


def tanh(x: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """Hyperbolic tangent, elementwise; a NaN stays a NaN."""
    threads.resolve(num_threads, 0)
    a = arguments.array("x", x)
    return np.tanh(a, out=memory.empty(a.shape, a.dtype))


def tanh_grad(y: ArrayLike, dy: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """Gradient of tanh: dy * (1 - y ** 2).

    Args:
        y: tanh's result, any shape.
        dy: gradient of that result, the same shape.
    """
    return _grad_of_result(_elementwise.tanh_grad, y, dy, num_threads)


def _grad_of_result(
    driver: Callable[..., None], y: ArrayLike, dy: ArrayLike, num_threads: int | None
) -> NDArray:
    """The gradient of an elementwise function that is known from its result."""
    result = arguments.array("y", y)
    result, gradient = arguments.arrays(y=(result, result.ndim), dy=(dy, result.ndim))
    _check_gradient("dy", gradient, result.shape)
    dx = memory.empty(result.shape, result.dtype)
    n = threads.resolve(num_threads, result.size * PASS)
    if result.size:
        driver(dx.reshape(-1), result.reshape(-1), gradient.reshape(-1), n)
    return dx


def bias_add(value: ArrayLike, bias: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """value + bias, the bias [C] along the last axis of value [..., C]."""
    x = arguments.as_array("value", value)
    x, b = arguments.arrays(value=(x, max(x.ndim, 1)), bias=(bias, 1))
    arguments.same_shape("bias", b, x.shape[-1:], "one number per channel of value")
    y = memory.empty(x.shape, x.dtype)
    if x.size:
        c = x.shape[-1]
        n = threads.resolve(num_threads, x.size * PASS)
        _elementwise.bias_add(y.reshape(-1, c), x.reshape(-1, c), b, n)
    return y


def bias_add_grad(
    out_backprop: ArrayLike, *, out: NDArray | None = None, num_threads: int | None = None
) -> NDArray:
    """Gradient of bias_add with respect to the bias: the sum of out_backprop [..., C] over all axes but the
    last, [C].  `out`: as for conv2d_backprop_filter."""
    dy = arguments.as_array("out_backprop", out_backprop)
    (dy,) = arguments.arrays(out_backprop=(dy, max(dy.ndim, 1)))
    c = dy.shape[-1]
    n = threads.resolve(num_threads, dy.size * PASS)
    db = _result(out, (c,), dy.dtype)
    if not dy.size:
        db.fill(0)
    else:
        _elementwise.column_sum(db, dy.reshape(-1, c), n)
    return db


def dropout(x: ArrayLike, rate: float, *, seed: int, num_threads: int | None = None) -> NDArray:
    """Inverted dropout: each element is 0 with probability `rate`, else divided by 1 - rate.

    Which elements are dropped depends on the seed and the element's position alone, so the gradient is the
    same call with the same seed on the gradient of the result, and no mask is stored.  Philox4x32-10: key =
    seed, counter = position // 4, word = position % 4 in C order; dropped where the word is below rate *
    2**32 (Salmon et al., SC 2011; Srivastava et al., Dropout, JMLR 2014).

    Args:
        x: any shape.
        rate: in [0, 1).
        seed: in [0, 2**64); use another one for each call.
    """
    a = arguments.array("x", x)
    rate = arguments.rate("rate", rate)
    seed = arguments.whole("seed", seed, 0)
    if seed >= 1 << 64:
        raise ValueError(f"seed must be below 2**64, not {seed}")
    y = memory.empty(a.shape, a.dtype)
    if a.size:
        n = threads.resolve(num_threads, a.size * RANDOM_PASS)
        _elementwise.dropout(y.reshape(-1), a.reshape(-1), seed, int(rate * (1 << 32)), 1 / (1 - rate), n)
    return y


# ---------------------------------------------------------------------------------------------- normalization


def moments(x: ArrayLike, *, num_threads: int | None = None) -> tuple[NDArray, NDArray]:
    """Mean and variance of each channel of x [..., C], over all axes but the last.

    The variance is the biased one, the mean of (x - mean) ** 2; its sums are taken around means, in
    float64, so that it stays right where the mean is large.  Both are NaN where there is nothing to average.

    Returns:
        mean [C], variance [C].
    """
    a = arguments.as_array("x", x)
    (a,) = arguments.arrays(x=(a, max(a.ndim, 1)))
    c = a.shape[-1]
    mean, variance = memory.empty((c,), a.dtype), memory.empty((c,), a.dtype)
    n = threads.resolve(num_threads, a.size * PASS)
    if a.size:
        _norm.moments(mean, variance, a.reshape(-1, c), n)
    else:
        mean.fill(np.nan)
        variance.fill(np.nan)
    return mean, variance


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
    """Batch normalization of each channel (Ioffe and Szegedy, ICML 2015).

        y[..., c] = (x[..., c] - mean[c]) / sqrt(variance[c] + variance_epsilon) * scale[c] + offset[c]

    Args:
        x: [..., C].
        mean, variance: [C]; of x, as `moments` gives them, to train; running averages to predict.
        offset: [C] or None for zeros; beta in the paper and in Keras.
        scale: [C] or None for ones; gamma.
        variance_epsilon: at least 0.
        side_input: [..., C], added to the result, as a residual block does.
        activation: None or "relu", applied last.
        num_threads: for this call.

    Returns:
        [..., C].
    """
    relu = arguments.choice("activation", activation, (None, "relu")) == "relu"
    ndim = max(arguments.as_array("x", x).ndim, 1)
    channels = _channels(mean, variance, offset, scale)
    optional_side = arguments.optional(side_input, ndim)
    a, side, *line = arguments.arrays(x=(x, ndim), side_input=optional_side, **channels)
    _check_channels(channels, line, a)
    arguments.same_shape("side_input", side, a.shape, "that of x")
    epsilon = arguments.number("variance_epsilon", variance_epsilon, 0)
    y = memory.empty(a.shape, a.dtype)
    n = threads.resolve(num_threads, a.size * PASS)
    if a.size:
        side = None if side is None else side.reshape(-1)
        _norm.normalize(y.reshape(-1), a.reshape(-1), *line, epsilon, side, relu, n)
    return y


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
    """Gradients of batch_normalization with respect to x, scale and offset.

        r = 1 / sqrt(variance + variance_epsilon);  normal = (x - mean) * r
        doffset = sum of dy;  dscale = sum of dy * normal        (over all axes but the last)
        dx = scale * r * (dy - doffset / M - normal * dscale / M)     M elements in a channel
        dx = scale * r * dy                                           if not is_training

    Args:
        dy: gradient of the result, [..., C].
        x, mean, variance, scale, variance_epsilon: as given to batch_normalization.
        is_training: whether mean and variance are those of x, which then change with it, and not constants.
        offset, activation: as given to batch_normalization; without an activation offset changes nothing.
            (With a side_input the gradient is this one without activation, of relu_grad's result.)
        num_threads: for this call.

    Returns:
        dx [..., C], dscale [C], doffset [C]; the sums are zeros for an empty batch.
    """
    relu = activation is not None and arguments.choice("activation", activation, (None, "relu")) == "relu"
    if type(is_training) is not bool:
        arguments.choice("is_training", is_training, (True, False))
    ndim = max(arguments.as_array("x", x).ndim, 1)
    channels = _channels(mean, variance, offset, scale)
    a, gradient, *line = arguments.arrays(x=(x, ndim), dy=(dy, ndim), **channels)
    _check_channels(channels, line, a)
    _check_gradient("dy", gradient, a.shape)
    epsilon = arguments.number("variance_epsilon", variance_epsilon, 0)
    dx = memory.empty(a.shape, a.dtype)
    of_channels = a.shape[-1:]
    dscale, doffset = np.empty(of_channels, a.dtype), np.empty(of_channels, a.dtype)
    n = threads.resolve(num_threads, 2 * a.size * PASS)
    if a.size:
        flat_dy, flat_x = gradient.reshape(-1), a.reshape(-1)
        _norm.normalize_grad(
            dx.reshape(-1), dscale, doffset, flat_dy, flat_x, *line, epsilon, is_training, relu, n
        )
    else:
        dscale.fill(0)
        doffset.fill(0)
    return dx, dscale, doffset


def local_response_normalization(
    input: ArrayLike,
    depth_radius: int = 5,
    bias: float = 1.0,
    alpha: float = 1.0,
    beta: float = 0.5,
    *,
    num_threads: int | None = None,
) -> NDArray:
    """Local response normalization across channels (Krizhevsky et al., NIPS 2012, section 3.3).

        scale[..., c] = bias + alpha * sum of input[..., c - depth_radius : c + depth_radius + 1] ** 2
        y = input / scale ** beta

    The sum is not divided by the size of its window, and has fewer channels at the ends.  A beta of 0.5 or
    0.75 is fast, any other takes a call of pow for each element.

    Args:
        input: [N, H, W, C].
        depth_radius: channels to each side, at least 0.
        bias, alpha, beta: finite numbers; NaN results where they leave scale negative.
        num_threads: for this call.

    Returns:
        [N, H, W, C].
    """
    (x,) = arguments.arrays(input=(input, 4))
    how = _response(depth_radius, bias, alpha, beta, x.shape[3])
    y = memory.empty(x.shape, x.dtype)
    n = threads.resolve(num_threads, x.size * LRN_PASS)
    if x.size:
        _norm.lrn(_rows(y), _rows(x), *how, n)
    return y


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
    """Gradient of local_response_normalization with respect to its input.

        dx[..., c] = dy[..., c] / scale[..., c] ** beta - 2 * alpha * beta * x[..., c]
            * sum of (dy * y / scale)[..., c - depth_radius : c + depth_radius + 1]

    Args:
        input_grads: dy, the gradient of the result, [N, H, W, C].
        input_image: x, what local_response_normalization was given, [N, H, W, C].
        output_image: y, what it returned, [N, H, W, C].
        depth_radius, bias, alpha, beta, num_threads: as given to local_response_normalization.

    Returns:
        [N, H, W, C].
    """
    named = {"input_grads": input_grads, "input_image": input_image, "output_image": output_image}
    dy, x, y = arguments.arrays(**{name: (value, 4) for name, value in named.items()})
    _check_gradient("input_grads", dy, x.shape)
    arguments.same_shape("output_image", y, x.shape, "that of input_image")
    how = _response(depth_radius, bias, alpha, beta, x.shape[3])
    dx = memory.empty(x.shape, x.dtype)
    n = threads.resolve(num_threads, x.size * LRN_PASS)
    if x.size:
        _norm.lrn_grad(_rows(dx), _rows(dy), _rows(x), _rows(y), *how, n)
    return dx


def _response(
    depth_radius: int, bias: float, alpha: float, beta: float, channels: int
) -> tuple[int, float, float, float]:
    """The checked arguments of a local response normalization; the radius no larger than it can reach."""
    radius = min(arguments.whole("depth_radius", depth_radius, 0), max(channels - 1, 0))
    numbers = (("bias", bias), ("alpha", alpha), ("beta", beta))
    return radius, *(arguments.number(name, value) for name, value in numbers)


def _channels(
    mean: ArrayLike, variance: ArrayLike, offset: ArrayLike | None, scale: ArrayLike | None
) -> dict[str, tuple[ArrayLike, int] | None]:
    """A batch normalization's arrays [C] as `arguments.arrays` takes them, in the order of the drivers."""
    return {
        "mean": (mean, 1),
        "variance": (variance, 1),
        "offset": arguments.optional(offset, 1),
        "scale": arguments.optional(scale, 1),
    }


def _check_channels(names: Iterable[str], arrays: Iterable[NDArray | None], x: NDArray) -> None:
    shape = x.shape[-1:]
    for name, a in zip(names, arrays, strict=True):
        if a is not None and a.shape != shape:  # (same_shape asks again: four calls take half a microsecond)
            arguments.same_shape(name, a, shape, "one number per channel of x")


def _rows(a: NDArray) -> NDArray:
    """[..., C] as rows of channels."""
    return a.reshape(-1, a.shape[-1])


# ---------------------------------------------------------------------------------------------- dense layers


def dense(
    inputs: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    activation: str | None = None,
    *,
    num_threads: int | None = None,
) -> NDArray:
    """inputs @ kernel, + bias, then the activation, in one pass.

    Args:
        inputs: [N, I].
        kernel: [I, O].
        bias: [O] or None.
        activation: None or "relu".

    Returns:
        [N, O].
    """
    arguments.choice("activation", activation, (None, "relu"))
    optional_bias = arguments.optional(bias, 1)
    x, w, b = arguments.arrays(inputs=(inputs, 2), kernel=(kernel, 2), bias=optional_bias)
    if x.shape[1] != w.shape[0]:
        raise ValueError(f"kernel must have as many rows as inputs has columns: {w.shape} against {x.shape}")
    arguments.same_shape("bias", b, (w.shape[1],), "one number per unit")
    y = memory.empty((x.shape[0], w.shape[1]), x.dtype)
    n = threads.resolve(num_threads, (x.shape[0] + PASS) * w.size)
    if y.size:
        _conv2d.correlate(_points(y), _points(x), w[None, None], b, activation == "relu", _POINTS, False, n)
    return y


def dense_backprop_input(
    kernel: ArrayLike, out_backprop: ArrayLike, *, num_threads: int | None = None
) -> NDArray:
    """Gradient of dense with respect to its inputs: out_backprop [N, O] @ kernel [I, O] transposed, [N,
    I]."""
    w, dy = arguments.arrays(kernel=(kernel, 2), out_backprop=(out_backprop, 2))
    if dy.shape[1] != w.shape[1]:
        raise ValueError(f"out_backprop must have as many columns as kernel: {dy.shape} against {w.shape}")
    dx = memory.empty((dy.shape[0], w.shape[0]), dy.dtype)
    n = threads.resolve(num_threads, (dy.shape[0] + PASS) * w.size)
    if dx.size:
        _conv2d.correlate(_points(dx), _points(dy), w[None, None], None, False, _POINTS, True, n)
    return dx


def dense_backprop_kernel(
    inputs: ArrayLike,
    out_backprop: ArrayLike,
    *,
    out: NDArray | None = None,
    num_threads: int | None = None,
) -> NDArray:
    """Gradient of dense with respect to its kernel: inputs [N, I] transposed @ out_backprop [N, O], [I, O].

    `out`: as for conv2d_backprop_filter.
    """
    x, dy = arguments.arrays(inputs=(inputs, 2), out_backprop=(out_backprop, 2))
    if x.shape[0] != dy.shape[0]:
        raise ValueError(f"out_backprop must have as many rows as inputs: {dy.shape} against {x.shape}")
    shape = (x.shape[1], dy.shape[1])
    n = threads.resolve(num_threads, (x.shape[0] + PASS) * shape[0] * shape[1])
    dw = _result(out, shape, dy.dtype)
    if not (x.size and dy.size):
        dw.fill(0)
    else:
        _conv2d.filter_gradient(dw[None, None], _points(x), _points(dy), _POINT, _POINT, n)
    return dw


def _points(a: NDArray) -> NDArray:
    """[N, C] as 1x1 images [N, 1, 1, C]."""
    return a[:, None, None, :]


# ---------------------------------------------------------------------------------------------- softmax


def softmax(logits: ArrayLike, *, num_threads: int | None = None) -> NDArray:
    """exp(logits) / sum of exp(logits) along the last axis; logits of any size do not overflow."""
    threads.resolve(num_threads, 0)
    x = arguments.array("logits", logits)
    e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_cross_entropy_with_logits(
    labels: ArrayLike, logits: ArrayLike, *, num_threads: int | None = None
) -> NDArray:
    """-sum of labels * log(softmax(logits)) along the last axis, without over- or underflow.

    Args:
        labels: probabilities of the classes, [..., K] (one-hot for a hard label).
        logits: [..., K].

    Returns:
        [...], one number per example.
    """
    ndim = max(arguments.as_array("logits", logits).ndim, 1)
    x, p = arguments.arrays(logits=(logits, ndim), labels=(labels, ndim))
    arguments.same_shape("labels", p, x.shape, "that of logits")
    loss = memory.empty(x.shape[:-1], x.dtype)
    n = threads.resolve(num_threads, x.size * EXP_PASS)
    if x.size:
        _norm.cross_entropy(loss.reshape(-1), _rows(p), _rows(x), n)
    else:
        loss.fill(0)
    return loss[()]  # of a single example a number, as NumPy's own sums
