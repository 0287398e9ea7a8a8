"""Grouped, depthwise and transposed convolution: TensorFlow's numbers, their twins on grids, slopes, special
values, errors, and the same bits for any number of threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tolerances
from differences import slope
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close

import fastconv
from fastconv import geometry, nn
from fastconv import reference as ref
from fastconv._kernels import dispatch

DTYPES = [np.float32, np.float64]
EXPLICIT = [[0, 0], [1, 2], [3, 0], [0, 0]]


def normal(shape, dtype, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def whole(*shape):
    """Small whole numbers, whose sums are exact: what the literals were computed from."""
    return (np.arange(np.prod(shape)) * 7 % 11 - 5).reshape(shape).astype(np.float32)


# ------------------------------------------------------------ what TensorFlow 2.21 computes

GROUPED_SAME = [
    [[-7, -2, -19, -41, -22, 30], [-24, -13, -2, 12, 70, -59]],
    [[12, -24, 39, -24, 42, -13], [-41, 39, -24, -7, 32, -17]],
]
GROUPED_VALID = [
    [[24, -8, -7, 97, -68, -13]],
    [[11, -27, 12, 11, 49, -56]],
    [[97, -24, -24, 24, -21, 33]],
]
GROUPED_DX = [
    [[29, -11, 29, -8], [15, -4, -31, 11], [-13, 8, -4, 20]],
    [[49, -30, -43, 16], [16, -20, 4, 13], [-31, 12, -6, 10]],
    [[24, -15, 20, -5], [9, -8, 10, -34], [-14, 8, 2, -17]],
]
GROUPED_DW = [
    [[[12, -1, 15, -35], [3, -1, -31, 16]], [[9, -1, -37, 15], [0, -1, -6, 22]]],
    [[[3, -1, -31, 16], [-6, -1, 0, 23]], [[0, -1, -6, 22], [-31, 21, 3, -37]]],
]
DEPTHWISE = [[[-21, 29, -12, -19], [6, -3, -7, 48]], [[-9, 6, -4, 9], [-7, -7, 9, -4]]]
DEPTHWISE_DX = [
    [[-11, -8], [15, -31], [10, 16]],
    [[23, -20], [-9, 40], [-15, 0]],
    [[-13, -4], [11, 21], [8, 20]],
    [[24, 20], [-7, 21], [-14, -4]],
]
DEPTHWISE_DW = [
    [[[8, -4], [25, 1]], [[12, -1], [6, 24]], [[-10, 11], [-11, 20]]],
    [[[2, 6], [7, -1]], [[-31, 21], [-6, 22]], [[8, 1], [-5, 20]]],
]
TRANSPOSED_ODD = [
    [[26, -5], [-14, -23], [23, -23], [-14, -5], [-13, 14]],
    [[3, -16], [-13, 45], [52, 3], [-24, 4], [-20, -11]],
    [[-16, -4], [8, 20], [25, -11], [-14, -17], [-11, 26]],
]
TRANSPOSED_SAME = [
    [[29, 20], [-11, -20], [20, 29], [-17, -8], [-11, -17], [10, 4]],
    [[26, -5], [-14, -23], [23, -23], [-14, -5], [-13, 14], [8, 2]],
    [[3, -16], [-13, 45], [52, 3], [-24, 4], [-20, -11], [20, -15]],
    [[-16, -4], [8, 20], [25, -11], [-14, -17], [-11, 26], [8, -10]],
]
TRANSPOSED_VALID = [
    *([*row, [0, 0]] for row in TRANSPOSED_SAME),
    [[-12, 0], [12, -20], [24, -12], [-15, 26], [-17, 20], [2, -5], [0, 0]],
    [[0, 0]] * 7,
]


@pytest.mark.parametrize("module", [nn, ref])
def test_grouped_convolution_of_tensorflow(module):
    x, w = whole(1, 4, 3, 4), whole(2, 3, 2, 6)
    assert module.conv2d(x, w, 2, "SAME", groups=2)[0].tolist() == GROUPED_SAME
    assert module.conv2d(x, w, 1, "VALID", groups=2)[0].tolist() == GROUPED_VALID
    x, w, dy = whole(1, 3, 3, 4), whole(2, 2, 2, 4), whole(1, 2, 2, 4)
    assert module.conv2d_backprop_input(x.shape, w, dy, 1, "VALID", groups=2)[0].tolist() == GROUPED_DX
    assert module.conv2d_backprop_filter(x, w.shape, dy, 1, "VALID", groups=2).tolist() == GROUPED_DW


@pytest.mark.parametrize("module", [nn, ref])
def test_depthwise_convolution_of_tensorflow(module):
    x, w, dy = whole(1, 4, 3, 2), whole(2, 3, 2, 2), whole(1, 2, 2, 4)
    how = (2, "SAME")
    assert module.depthwise_conv2d(x, w, *how)[0].tolist() == DEPTHWISE
    assert module.depthwise_conv2d_backprop_input(x.shape, w, dy, *how)[0].tolist() == DEPTHWISE_DX
    assert module.depthwise_conv2d_backprop_filter(x, w.shape, dy, *how).tolist() == DEPTHWISE_DW


@pytest.mark.parametrize("module", [nn, ref])
def test_transposed_convolution_of_tensorflow(module):
    x, w = whole(1, 2, 3, 2), whole(3, 2, 2, 2)
    assert module.conv2d_transpose(x, w, (1, 4, 6, 2), 2)[0].tolist() == TRANSPOSED_SAME
    assert module.conv2d_transpose(x, w, (1, 3, 5, 2), 2, "SAME")[0].tolist() == TRANSPOSED_ODD
    assert module.conv2d_transpose(x, w, (1, 6, 7, 2), 2, "VALID")[0].tolist() == TRANSPOSED_VALID


# What Keras 3 says: (padding, size, kernel, stride, dilation) -> size of a Conv2DTranspose's result.
KERAS_SIZES = {
    ("valid", 1, 1, 4, 1): 4,
    ("valid", 4, 3, 1, 1): 6,
    ("valid", 4, 3, 1, 2): 8,
    ("valid", 4, 3, 2, 1): 9,
    ("valid", 5, 2, 3, 1): 15,
    ("valid", 5, 5, 4, 1): 21,
    ("same", 1, 5, 2, 1): 2,
    ("same", 4, 3, 1, 2): 4,
    ("same", 5, 2, 3, 1): 15,
}


@pytest.mark.parametrize("case", KERAS_SIZES, ids=str)
def test_sizes_of_keras(case):
    padding, size, kernel, stride, dilation = case
    assert geometry.transposed_size(size, kernel, stride, dilation, padding) == KERAS_SIZES[case]


@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 5), st.integers(1, 3))
def test_a_transposed_size_has_the_size_it_came_from(size, kernel, stride, dilation):
    for padding in ("SAME", "VALID"):
        larger = geometry.transposed_size(size, kernel, stride, dilation, padding)
        assert geometry.axis(larger, kernel, stride, dilation, padding).out == size


# ------------------------------------------------------------ against the twins


def check_grouped(x_shape, w_shape, groups, dtype, how=(1, "SAME", 1), algorithm="auto"):
    """All three passes, the first with bias and relu too."""
    x, w, bias = normal(x_shape, dtype, 1), normal(w_shape, dtype, 2), normal(w_shape[3:], dtype, 3)
    x64, w64 = x.astype(np.float64), w.astype(np.float64)
    y64 = ref.conv2d(x64, w64, *how, groups=groups)
    dy = normal(y64.shape, dtype, 4)
    dy64 = dy.astype(np.float64)
    ask = {"groups": groups, "algorithm": algorithm}
    results = {
        "forward": (nn.conv2d(x, w, *how, **ask), y64),
        "fused": (
            nn.conv2d(x, w, *how, bias=bias, activation="relu", **ask),
            ref.conv2d(x64, w64, *how, bias=bias, activation="relu", groups=groups),
        ),
        "input gradient": (
            nn.conv2d_backprop_input(x_shape, w, dy, *how, **ask),
            ref.conv2d_backprop_input(x_shape, w64, dy64, *how, groups=groups),
        ),
        "filter gradient": (
            nn.conv2d_backprop_filter(x, w_shape, dy, *how, **ask),
            ref.conv2d_backprop_filter(x64, w_shape, dy64, *how, groups=groups),
        ),
    }
    for name, (result, expected) in results.items():
        what = f"{name}, {algorithm}, x {x_shape}, w {w_shape}, groups {groups}, {how}"
        assert result.dtype == dtype and result.flags.c_contiguous, what
        scale = max(np.abs(expected).max(), np.abs(y64).max())
        assert_close(result, expected, tolerances.PRODUCT_SUM, what, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", ["SAME", "VALID", EXPLICIT], ids=["SAME", "VALID", "explicit"])
def test_windows_of_groups_against_the_twin(padding, dtype):
    kernels, strides, dilations = [(1, 1), (2, 3), (3, 3), (5, 4)], [1, 2, (3, 1)], [1, 2, (1, 3)]
    for kernel, stride, dilation in itertools.product(kernels, strides, dilations):
        for groups, filters in ((2, 8), (3, 6), (6, 6), (6, 18)):
            w_shape = (*kernel, 6 // groups, filters)
            check_grouped((2, 10, 13, 6), w_shape, groups, dtype, (stride, padding, dilation))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_channels_of_groups_against_the_twin(algorithm, dtype):
    for channels, filters, groups in [
        (2, 2, 2),
        (8, 4, 4),
        (34, 6, 2),
        (32, 64, 2),
        (51, 33, 3),
        (48, 160, 4),
        (17, 17, 17),
        (15, 45, 15),
    ]:
        for taps in (3, 5):
            w_shape = (taps, taps, channels // groups, filters)
            check_grouped((2, 9, 7, channels), w_shape, groups, dtype, algorithm=algorithm)


# Input, filters, groups, strides, padding, dilations; each line makes the drivers cut the work another way.
SHAPES = {
    # A window's elements are as many as an image's channels, and long enough to be copied elsewhere.
    "as many taps as groups": ((2, 5, 5, 1024), (2, 2, 256, 32), 4, 1, "VALID", 1),
    "not copied": ((2, 9, 11, 12), (3, 3, 6, 10), 2, 1, "VALID", 1),
    "few filters": ((2, 9, 11, 42), (3, 3, 21, 2), 2, 1, "SAME", 1),
    "few filters, not copied": ((2, 9, 11, 42), (3, 3, 21, 4), 2, 1, "VALID", 1),
    "few pixels": ((1, 2, 2, 18), (3, 3, 9, 256), 2, 1, "SAME", 1),
    "few pixels and a 1x1 filter": ((2, 2, 2, 64), (1, 1, 32, 128), 2, 1, "SAME", 1),
    "single taps of few pixels": ((1, 4, 4, 20), (2, 2, 10, 34), 2, 2, "SAME", 1),
    "one pixel": ((3, 1, 1, 8), (1, 1, 4, 6), 2, 1, "VALID", 1),
    "a filter as large as the image": ((5, 4, 6, 6), (4, 6, 3, 20), 2, 1, "VALID", 1),
    "deep windows": ((1, 4, 5, 1400), (3, 3, 700, 140), 2, 1, "SAME", 1),
    "many tiles": ((4, 28, 28, 32), (3, 3, 16, 66), 2, 1, "SAME", 1),
    "many tiles of a 5x5": ((4, 17, 19, 34), (5, 5, 17, 64), 2, 1, "SAME", 1),
    "AlexNet's second": ((1, 27, 27, 96), (5, 5, 48, 256), 2, 1, "SAME", 1),
    "depthwise": ((2, 13, 14, 40), (3, 3, 1, 40), 40, 1, "SAME", 1),
    "depthwise, many columns": ((1, 5, 30, 20), (1, 9, 1, 20), 20, 1, "SAME", 1),
    "depthwise, filter larger than the image": ((2, 3, 4, 5), (7, 9, 1, 10), 5, 2, "SAME", 1),
    "depthwise, taps that see only padding": ((1, 4, 5, 18), (3, 3, 1, 18), 18, 1, "SAME", 9),
    "depthwise, pixels between the windows": ((2, 11, 8, 3), (1, 1, 1, 6), 3, 3, "SAME", 1),
    "depthwise, input that no window sees": ((2, 11, 8, 3), (2, 1, 1, 3), 3, 5, "VALID", 1),
    "depthwise, much padding": ((1, 4, 3, 2), (2, 2, 1, 4), 2, (1, 3), [[0, 0], [7, 9], [0, 30], [0, 0]], 1),
    "depthwise, many filters": ((2, 9, 8, 3), (3, 3, 1, 111), 3, 2, "SAME", 1),
    "depthwise, one row": ((2, 1, 50, 33), (1, 3, 1, 66), 33, 1, "SAME", 1),
    "depthwise, one column": ((2, 50, 1, 33), (3, 1, 1, 33), 33, 2, "SAME", 1),
    "depthwise, one pixel": ((3, 1, 1, 70), (1, 1, 1, 70), 70, 1, "VALID", 1),
    "depthwise, 5x5": ((2, 12, 17, 50), (5, 5, 1, 50), 50, 1, "SAME", 1),
    "depthwise, many images": ((70, 4, 4, 20), (3, 3, 1, 20), 20, 1, "SAME", 1),
    "depthwise, large gradient": ((1, 9, 9, 9000), (7, 7, 1, 9000), 9000, 1, "SAME", 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_groups_against_the_twin(shape, dtype):
    x_shape, w_shape, groups, *how = SHAPES[shape]
    check_grouped(x_shape, w_shape, groups, dtype, how)


@settings(max_examples=100)
@given(
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 15), st.integers(1, 15)),
    groups=st.integers(1, 9),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 6)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dtype=st.sampled_from(DTYPES),
)
def test_any_groups_against_the_twin(sizes, groups, channels, kernel, strides, dilations, dtype):
    c, k = channels
    shapes = (*sizes, groups * c), (*kernel, c, groups * k)
    check_grouped(*shapes, groups, dtype, (strides, "SAME", dilations))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", ["SAME", "VALID", EXPLICIT], ids=["SAME", "VALID", "explicit"])
def test_depthwise_is_its_twin_and_a_grouped_convolution(padding, dtype):
    for channels, multiplier in ((1, 3), (5, 1), (5, 2), (16, 1), (35, 1), (20, 3)):
        for strides, dilations in itertools.product((1, 2, (2, 1)), (1, (2, 1))):
            how = (strides, padding, dilations)
            x, w = normal((2, 9, 8, channels), dtype), normal((3, 2, channels, multiplier), dtype)
            bias = normal((channels * multiplier,), dtype)
            y = nn.depthwise_conv2d(x, w, *how)
            dy = normal(y.shape, dtype)
            x64, w64, dy64 = (a.astype(np.float64) for a in (x, w, dy))
            y64 = ref.depthwise_conv2d(x64, w64, *how)
            fused = nn.depthwise_conv2d(x, w, *how, bias=bias, activation="relu")
            dx = nn.depthwise_conv2d_backprop_input(x.shape, w, dy, *how)
            dw = nn.depthwise_conv2d_backprop_filter(x, w.shape, dy, *how)
            assert_close(y, y64, tolerances.PRODUCT_SUM)
            assert_close(fused, np.maximum(y64 + bias, 0), tolerances.PRODUCT_SUM)
            dx64 = ref.depthwise_conv2d_backprop_input(x.shape, w64, dy64, *how)
            dw64 = ref.depthwise_conv2d_backprop_filter(x64, w.shape, dy64, *how)
            assert_close(dx, dx64, tolerances.PRODUCT_SUM)
            assert_close(dw, dw64, tolerances.PRODUCT_SUM)
            grouped = w.reshape(3, 2, 1, -1)
            ask = {"groups": channels, "algorithm": "direct"}
            np.testing.assert_array_equal(nn.conv2d(x, grouped, *how, **ask), y)
            np.testing.assert_array_equal(nn.conv2d_backprop_input(x.shape, grouped, dy, *how, **ask), dx)
            dw_grouped = nn.conv2d_backprop_filter(x, grouped.shape, dy, *how, **ask)
            np.testing.assert_array_equal(dw_grouped.reshape(w.shape), dw)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_transposed_convolution_against_the_twin(padding, dtype):
    for (kh, kw), strides, dilations, (c, k) in itertools.product(
        [(1, 1), (2, 3), (3, 3), (5, 5)], [1, 2, (1, 3)], [1, (2, 1)], [(3, 5), (17, 1), (20, 33)]
    ):
        steps, gaps = np.broadcast_to(strides, 2), np.broadcast_to(dilations, 2)
        size = [
            geometry.transposed_size(n, t, int(s), int(d), padding)
            for n, t, s, d in zip((6, 5), (kh, kw), steps, gaps, strict=True)
        ]
        x, w, b = normal((2, 6, 5, c), dtype, 1), normal((kh, kw, k, c), dtype, 2), normal((k,), dtype, 3)
        shape, how = (2, *size, k), (strides, padding, dilations)
        expected = ref.conv2d_transpose(x.astype(np.float64), w.astype(np.float64), shape, *how)
        for algorithm in ("direct", "winograd") if kh == kw > 1 and strides == dilations == 1 else ("auto",):
            y = nn.conv2d_transpose(x, w, shape, *how, algorithm=algorithm)
            fused = nn.conv2d_transpose(x, w, shape, *how, bias=b, activation="relu", algorithm=algorithm)
            assert y.dtype == dtype and y.flags.c_contiguous
            assert_close(y, expected, tolerances.PRODUCT_SUM)
            scale = np.abs(expected).max()
            assert_close(fused, np.maximum(expected + b, 0), tolerances.PRODUCT_SUM, scale=scale)


def test_a_transposed_convolution_into_one_window():
    """It is computed as a dense layer, whose bias has a number for each pixel too."""
    x, w, b = normal((3, 1, 1, 4), np.float64), normal((2, 3, 5, 4), np.float64), normal((5,), np.float64)
    y = nn.conv2d_transpose(x, w, (3, 2, 3, 5), 1, "VALID", bias=b, activation="relu")
    expected = np.maximum(np.einsum("nc,hwkc->nhwk", x[:, 0, 0], w) + b, 0)
    assert_close(y, expected, tolerances.PRODUCT_SUM)


# ------------------------------------------------------------ slopes


def assert_slopes(f, x, w, dx, dw, dy):
    assert_close(dx, slope(lambda x: np.vdot(f(x, w), dy), x), tolerances.DIFFERENCES)
    assert_close(dw, slope(lambda w: np.vdot(f(x, w), dy), w), tolerances.DIFFERENCES)


HOWS = [(1, "SAME", 1), (2, "SAME", (2, 1)), ((3, 1), EXPLICIT, 2), (2, "VALID", 1)]


@pytest.mark.parametrize("how", HOWS, ids=str)
@pytest.mark.parametrize(("groups", "w_shape"), [(2, (3, 2, 2, 6)), (4, (2, 3, 1, 4)), (4, (3, 3, 1, 8))])
def test_gradients_of_groups_are_their_slopes(groups, w_shape, how):
    x, w = normal((1, 6, 7, 4), np.float64, 1), normal(w_shape, np.float64, 2)

    def f(x, w):
        return nn.conv2d(x, w, *how, groups=groups)

    dy = normal(f(x, w).shape, np.float64, 3)
    dx = nn.conv2d_backprop_input(x.shape, w, dy, *how, groups=groups)
    assert_slopes(f, x, w, dx, nn.conv2d_backprop_filter(x, w.shape, dy, *how, groups=groups), dy)


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_gradients_of_a_depthwise_convolution_are_its_slopes(how):
    x, w = normal((2, 6, 6, 2), np.float64, 1), normal((2, 3, 2, 2), np.float64, 2)
    dy = normal(nn.depthwise_conv2d(x, w, *how).shape, np.float64, 3)
    dx = nn.depthwise_conv2d_backprop_input(x.shape, w, dy, *how)
    dw = nn.depthwise_conv2d_backprop_filter(x, w.shape, dy, *how)
    assert_slopes(lambda x, w: nn.depthwise_conv2d(x, w, *how), x, w, dx, dw, dy)


@pytest.mark.parametrize(("shape", "how"), [((1, 6, 8, 2), (2, "SAME", 1)), ((1, 7, 9, 2), (2, "VALID", 1))])
def test_a_transposed_convolution_s_gradients_are_convolutions(shape, how):
    x, w = normal((1, 3, 4, 3), np.float64, 1), normal((3, 3, 2, 3), np.float64, 2)
    dy = normal(shape, np.float64, 3)
    dx, dw = nn.conv2d(dy, w, *how), nn.conv2d_backprop_filter(dy, w.shape, x, *how)
    assert_slopes(lambda x, w: nn.conv2d_transpose(x, w, shape, *how), x, w, dx, dw, dy)


# ------------------------------------------------------------ special values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [4, 17, 36])
def test_a_nan_stays_in_its_group(channels, dtype):
    for groups in (1, channels // 2 if channels % 2 == 0 else 1, channels):
        size = channels // groups
        x = normal((1, 7, 8, channels), dtype)
        x[0, 3, 4, 0] = np.nan
        w = normal((3, 3, size, 2 * channels), dtype)
        y = nn.conv2d(x, w, 1, "SAME", groups=groups, activation="relu", algorithm="direct")
        expected = np.zeros(y.shape, bool)
        expected[0, 2:5, 3:6, : 2 * size] = True
        np.testing.assert_array_equal(np.isnan(y), expected)
        dw = nn.conv2d_backprop_filter(x, w.shape, np.ones_like(y), 1, "SAME", groups=groups)
        expected = np.zeros(w.shape, bool)
        expected[:, :, 0, : 2 * size] = True
        np.testing.assert_array_equal(np.isnan(dw), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_of_a_gradient_stays_in_its_group(dtype):
    w = normal((3, 3, 1, 12), dtype)
    dy = normal((1, 6, 6, 12), dtype)
    dy[0, 2, 2, 5] = np.nan
    dx = nn.conv2d_backprop_input((1, 6, 6, 6), w, dy, 1, "SAME", groups=6)
    expected = np.zeros(dx.shape, bool)
    expected[0, 1:4, 1:4, 2] = True
    np.testing.assert_array_equal(np.isnan(dx), expected)


def test_empty_batches_and_no_channels():
    for groups in (1, 2, 4):
        w = np.ones((3, 3, 4 // groups, 8), np.float32)
        x = np.empty((0, 5, 6, 4), np.float32)
        y = nn.conv2d(x, w, 2, "SAME", groups=groups)
        assert y.shape == (0, 3, 3, 8)
        assert nn.conv2d_backprop_input(x.shape, w, y, 2, "SAME", groups=groups).shape == x.shape
        assert not nn.conv2d_backprop_filter(x, w.shape, y, 2, "SAME", groups=groups).any()
        nothing = np.empty((2, 3, 3, 0), np.float32)
        dx = nn.conv2d_backprop_input((2, 5, 6, 4), w[..., :0], nothing, 2, "SAME", groups=groups)
        assert dx.shape == (2, 5, 6, 4) and not dx.any()
    w = np.ones((3, 3, 4, 2), np.float32)
    y = nn.depthwise_conv2d(x, w, 1, "VALID", bias=np.ones(8, np.float32))
    assert y.shape == (0, 3, 4, 8)
    assert nn.depthwise_conv2d_backprop_input(x.shape, w, y, 1, "VALID").shape == x.shape
    assert not nn.depthwise_conv2d_backprop_filter(x, w.shape, y, 1, "VALID").any()
    assert nn.depthwise_conv2d(np.empty((2, 5, 6, 0)), np.empty((3, 3, 0, 2)), 1, "SAME").shape == (
        2,
        5,
        6,
        0,
    )
    assert nn.depthwise_conv2d(np.ones((2, 5, 6, 4)), w[..., :0], 1, "SAME").shape == (2, 5, 6, 0)
    assert nn.conv2d_transpose(x, np.ones((3, 3, 2, 4)), (0, 10, 12, 2), 2).shape == (0, 10, 12, 2)


# ------------------------------------------------------------ errors

X = np.ones((1, 5, 5, 6), np.float32)


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.conv2d(X, ones(3, 3, 2, 6), 1, "SAME", groups=4), r"input: 4, \(1, 5, 5, 6\)"),
        (lambda: nn.conv2d(X, ones(3, 3, 3, 5), 1, "SAME", groups=2), r"filters: 2, \(3, 3, 3, 5\)"),
        (lambda: nn.conv2d(X, ones(3, 3, 6, 4), 1, "SAME", groups=2), r"of 2 groups: \(3, 3, 6, 4\)"),
        (lambda: nn.conv2d(X, ones(3, 3, 3, 4), 1, "SAME"), r"\(3, 3, 3, 4\) against \(1, 5, 5, 6\)"),
        (lambda: nn.conv2d(X, ones(2, 2, 3, 4), 1, "SAME", groups=2, algorithm="winograd"), "not 2x2"),
        (lambda: nn.depthwise_conv2d(X, ones(3, 3, 5, 1), 1, "SAME"), r"filter .*\(3, 3, 5, 1\) against"),
        (lambda: nn.depthwise_conv2d(X, ones(3, 0, 6, 1), 1, "SAME"), "filter must have at least one tap"),
        (lambda: nn.depthwise_conv2d(X, ones(7, 3, 6, 1), 1, "VALID"), "filter reaches over 7 pixels"),
        (lambda: nn.conv2d_transpose(X, ones(3, 3, 2, 6), (1, 12, 10, 2), 2), r"input .*\(1, 6, 5, 6\)"),
        (lambda: nn.conv2d_transpose(X, ones(3, 3, 2, 6), (2, 10, 10, 2), 2), r"input .*\(2, 5, 5, 6\)"),
        (lambda: nn.conv2d_transpose(X, ones(3, 3, 2, 5), (1, 10, 10, 2), 2), r"input .*\(1, 5, 5, 5\)"),
        (lambda: nn.conv2d_transpose(X, ones(3, 3, 2, 6), (1, 10, 10, 3), 2), "filters .* against"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------ threads and instruction sets


def some_of_each(dtype):
    """Results that need borders, several bands, chunks and panels."""
    for channels, filters, groups, step in [
        (6, 34, 2, 1),
        (40, 40, 40, 1),
        (40, 40, 40, 2),
        (9, 27, 9, 1),
    ]:
        x, w = normal((5, 15, 13, channels), dtype), normal((3, 3, channels // groups, filters), dtype)
        for algorithm in ("direct", "auto"):
            how, ask = (step, "SAME"), {"groups": groups, "algorithm": algorithm}
            y = nn.conv2d(x, w, *how, **ask)
            yield y
            yield nn.conv2d_backprop_input(x.shape, w, y, *how, **ask)
            yield nn.conv2d_backprop_filter(x, w.shape, y, *how, **ask)
    yield nn.conv2d_transpose(x, normal((3, 3, 20, 9), dtype), (5, 30, 26, 20), 2, bias=normal((20,), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_for_any_number_of_threads(dtype, eager_threads):
    results = set()
    for count in range(1, 8):
        with fastconv.num_threads(count):
            results.add(b"".join(result.tobytes() for result in some_of_each(dtype)))
    assert len(results) == 1


def compact_grid():
    """Checks that reach every depthwise kernel and each group's place in the others."""
    for dtype in DTYPES:
        for channels in (1, 2, 3, 8, 9, 16, 17, 31, 40):
            for kernel, strides in (((3, 3), 1), ((2, 5), 1), ((3, 3), 2), ((4, 4), 1)):
                for times in (1, 2, 19):
                    w_shape = (*kernel, 1, times * channels)
                    check_grouped(
                        (1, 6, channels + 3, channels), w_shape, channels, dtype, (strides, "SAME", 1)
                    )
        for algorithm in ("direct", "winograd"):
            check_grouped((2, 9, 9, 34), (3, 3, 17, 20), 2, dtype, algorithm=algorithm)
    return "equal"


def test_every_instruction_set_of_this_machine(python):
    for isa in dispatch.supported():
        assert python("import test_grouped; print(test_grouped.compact_grid())", FASTCONV_ISA=isa) == "equal"
