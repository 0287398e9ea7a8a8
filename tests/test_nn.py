"""The operations: the document's numbers, their NumPy twins on grids, finite differences, special values.

The oracle is fastconv.reference computing in float64; tolerances.py says how near is near enough.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools

import numpy as np
import pytest
import tolerances
from differences import slope
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tolerances import assert_close

import fastconv
from fastconv import _convolution, nn
from fastconv import reference as ref
from fastconv._kernels import dispatch

DTYPES = [np.float32, np.float64]
EXPLICIT = [[0, 0], [1, 2], [3, 0], [0, 0]]
EXPLICIT_POOL = [[0, 0], [1, 0], [0, 1], [0, 0]]
IMAGE = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
FOUR = np.array([4, 3, 2, 1], np.float32).reshape(1, 2, 2, 1)
SAME_MAP = np.array([[12, 16, 9], [24, 28, 15], [15, 17, 9]], np.float32)


def normal(shape, dtype, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


# ------------------------------------------------------------ the document


def test_valid_convolution_of_the_document():
    y = nn.conv2d(IMAGE, np.ones((2, 2, 1, 1), np.float32), (1, 1, 1, 1), "VALID")
    np.testing.assert_array_equal(y[0, :, :, 0], [[12, 16], [24, 28]])


@pytest.mark.parametrize("padding", ["SAME", "same", [[0, 0], [0, 1], [0, 1], [0, 0]]])
def test_same_convolution_of_the_document(padding):
    y = nn.conv2d(IMAGE, np.ones((2, 2, 1, 1), np.float32), 1, padding)
    np.testing.assert_array_equal(y[0, :, :, 0], SAME_MAP)


def test_three_filters_of_the_document():
    filters = np.ones((2, 2, 1, 1), np.float32) * np.array([1, 10, -1], np.float32)
    y = nn.conv2d(IMAGE, filters, 1, "SAME")
    for k, factor in enumerate((1, 10, -1)):
        np.testing.assert_array_equal(y[0, :, :, k], factor * SAME_MAP)


def test_max_pools_of_the_document():
    assert nn.max_pool2d(FOUR, (1, 2, 2, 1), (1, 1, 1, 1), "VALID").tolist() == [[[[4]]]]
    np.testing.assert_array_equal(nn.max_pool(FOUR, 2, 1, "SAME"), FOUR)
    # The document draws SAME as zeros around; with those, negative images would not come through.
    np.testing.assert_array_equal(
        nn.max_pool2d(-FOUR, 2, 1, "SAME")[0, :, :, 0], np.array([[-1, -1], [-1, -1]])
    )


def test_shapes_of_the_documents_mnist_image():
    image = normal((1, 28, 28, 1), np.float32)
    y = nn.conv2d(image, normal((3, 3, 1, 5), np.float32), 2, "SAME")
    assert y.shape == (1, 14, 14, 5)
    assert nn.max_pool2d(y, 2, 2, "SAME").shape == (1, 7, 7, 5)


# ------------------------------------------------------------ convolution


def algorithms(w_shape, strides, dilations):
    """The algorithms that can be asked for; "auto" where there is but one."""
    fits = w_shape[0] == w_shape[1] and w_shape[0] in (3, 5) and strides == dilations == 1
    if not fits:
        return ("auto",)
    # Past some hundred channels Winograd's error leaves the promise, and "auto" has to avoid it.
    return "direct", ("winograd" if w_shape[2] < 400 else "auto")


def check_convolution(x_shape, w_shape, dtype, strides=1, padding="SAME", dilations=1):
    """All three passes by every algorithm, the first with bias and relu too, against the twin."""
    x, w = normal(x_shape, dtype, 1), normal(w_shape, dtype, 2)
    x64, w64 = x.astype(np.float64), w.astype(np.float64)
    bias = normal(w_shape[3:], dtype, 3)
    how = (strides, padding, dilations)
    y64 = ref.conv2d(x64, w64, *how)
    dy = normal(y64.shape, dtype, 4)
    dy64 = dy.astype(np.float64)
    dx64 = ref.conv2d_backprop_input(x_shape, w64, dy64, *how)
    dw64 = ref.conv2d_backprop_filter(x64, w_shape, dy64, *how)
    for algorithm in algorithms(w_shape, strides, dilations):
        results = {
            "forward": (nn.conv2d(x, w, *how, algorithm=algorithm), y64),
            "biased": (nn.conv2d(x, w, *how, bias=bias, algorithm=algorithm), y64 + bias),
            "fused": (
                nn.conv2d(x, w, *how, bias=bias, activation="relu", algorithm=algorithm),
                np.maximum(y64 + bias, 0),
            ),
            "input gradient": (
                nn.conv2d_backprop_input(x_shape, w, dy, *how, algorithm=algorithm),
                dx64,
            ),
            "filter gradient": (
                nn.conv2d_backprop_filter(x, w_shape, dy, *how, algorithm=algorithm),
                dw64,
            ),
        }
        for name, (result, expected) in results.items():
            what = f"{name}, {algorithm}, x {x_shape}, w {w_shape}, {how}"
            assert result.dtype == dtype and result.flags.c_contiguous, what
            # Where all of a bias and a result are negative, relu leaves nothing to compare with.
            scale = max(np.abs(expected).max(), np.abs(y64).max())
            assert_close(result, expected, tolerances.PRODUCT_SUM, what, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "groups"),
    [
        ((2, 7, 9, 40), (3, 3, 40, 70), 1),  # Winograd's, with stride 1
        ((2, 7, 9, 40), (1, 1, 40, 70), 1),  # with stride 2 most pixels get nothing but the side input
        ((1, 5, 6, 20), (5, 4, 20, 3), 1),
        ((3, 6, 7, 2), (3, 3, 2, 30), 1),  # few channels: lanes along the window
        ((4, 5, 5, 6), (5, 5, 6, 9), 1),  # with VALID padding a dense layer
        ((1, 1, 1, 900), (1, 1, 900, 70), 1),
        ((2, 6, 7, 12), (3, 3, 4, 15), 3),
        ((2, 6, 7, 5), (3, 3, 1, 5), 5),  # depthwise
    ],
)
def test_a_side_input_is_added_to_the_input_gradient(x_shape, w_shape, groups, strides, dtype):
    w, side = normal(w_shape, dtype, 2), normal(x_shape, dtype, 3)
    for padding in ("SAME", "VALID"):
        how, more = (strides, padding), {"groups": groups}
        dy = normal(nn.conv2d(side, w, *how, **more).shape, dtype, 4)
        apart = nn.add(nn.conv2d_backprop_input(x_shape, w, dy, *how, **more), side)
        kept = side.copy()
        dx = nn.conv2d_backprop_input(x_shape, w, dy, *how, **more, side_input=side)
        np.testing.assert_array_equal(dx, apart)
        np.testing.assert_array_equal(side, kept)
        twin = ref.conv2d_backprop_input(x_shape, w, dy, *how, **more, side_input=side)
        assert_close(dx, twin, tolerances.PRODUCT_SUM)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", ["SAME", "VALID", EXPLICIT], ids=["SAME", "VALID", "explicit"])
def test_windows_against_the_twin(padding, dtype):
    kernels, strides, dilations = [(1, 1), (2, 3), (3, 3), (5, 4)], [1, 2, (3, 1), (2, 5)], [1, 2, (1, 3)]
    for kernel, stride, dilation in itertools.product(kernels, strides, dilations):
        check_convolution((2, 9, 11, 3), (*kernel, 3, 5), dtype, stride, padding, dilation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 16, 17, 33])
def test_channels_against_the_twin(channels, dtype):
    for filters in (1, 5, 16, 64, 70, 130):
        check_convolution((2, 7, 9, channels), (3, 3, channels, filters), dtype)
        check_convolution((3, 5, 5, channels), (1, 1, channels, filters), dtype, padding="VALID")


# Input, filters, strides, padding, dilations; each line makes the drivers cut the work in another way.
SHAPES = {
    # A filter gradient's source is copied a line further apart, with and without a border.
    "rows a kilobyte apart": ((4, 23, 23, 256), (1, 1, 256, 70), 1, "VALID", 1),
    "rows a kilobyte apart, padded": (
        (4, 22, 23, 256),
        (1, 1, 256, 70),
        1,
        [[0, 0], [1, 1], [1, 0], [0, 0]],
        1,
    ),
    # Each of its tasks copies a part of the channels.
    "channels in parts": ((2, 5, 5, 611), (1, 1, 611, 200), 1, "VALID", 1),
    "channels in parts, padded": (
        (2, 4, 5, 611),
        (1, 1, 611, 200),
        1,
        [[0, 0], [1, 0], [1, 1], [0, 0]],
        1,
    ),
    # It leaves out what a single tap steps over; a part of the channels may be as far apart as the image is.
    "steps of a single tap": ((3, 9, 8, 260), (1, 1, 260, 150), 2, "VALID", 1),
    "steps of a single tap, padded": (
        (3, 8, 9, 260),
        (1, 1, 260, 150),
        2,
        [[0, 0], [1, 0], [0, 1], [0, 0]],
        1,
    ),
    "steps of a single tap, few channels": ((4, 8, 128, 32), (1, 1, 32, 56), (1, 8), "VALID", 1),
    "steps of a single tap, fewer channels": ((4, 8, 128, 16), (1, 1, 16, 28), (1, 8), "VALID", 1),
    "steps of square filters": ((3, 9, 7, 256), (3, 3, 256, 70), 2, "SAME", 1),
    "a gradient of two megabytes": ((9, 11, 5, 270), (3, 3, 270, 230), 2, "SAME", 1),
    "one row": ((2, 1, 50, 3), (1, 3, 3, 4), 1, "SAME", 1),
    "one column": ((2, 50, 1, 3), (3, 1, 3, 4), 2, "SAME", 1),
    "one row under a square filter": ((1, 1, 21, 2), (3, 3, 2, 5), 1, "SAME", 1),
    "one pixel": ((1, 1, 1, 4), (1, 1, 4, 3), 1, "VALID", 1),
    "one pixel under a large filter": ((3, 1, 1, 2), (7, 7, 2, 3), 1, "SAME", 1),
    "filter larger than the image": ((2, 3, 4, 2), (7, 9, 2, 3), 2, "SAME", 1),
    "taps that see only padding": ((1, 4, 5, 2), (3, 3, 2, 3), 1, "SAME", 9),
    "taps that see only padding, strided": ((1, 7, 5, 2), (3, 3, 2, 3), 2, "SAME", (20, 1)),
    "much padding": ((1, 4, 3, 2), (2, 2, 2, 3), (1, 3), [[0, 0], [7, 9], [0, 30], [0, 0]], 1),
    "input that no window sees": ((2, 11, 8, 3), (2, 1, 3, 4), 5, "VALID", 1),
    "pixels between the windows": ((2, 11, 8, 3), (1, 1, 3, 4), 3, "SAME", 1),
    "stride larger than the image": ((2, 4, 4, 2), (3, 3, 2, 3), 9, "SAME", 1),
    "wide": ((1, 3, 1100, 2), (3, 3, 2, 3), 1, "SAME", 1),
    "wide, strided": ((1, 4, 1300, 2), (3, 3, 2, 3), (1, 2), "SAME", 1),
    "wide, not copied": ((1, 4, 1031, 2), (2, 3, 2, 3), 1, "VALID", 1),
    "wide, dilated": ((1, 5, 600, 1), (2, 3, 1, 2), 1, "SAME", (2, 40)),
    "tall": ((1, 700, 5, 2), (3, 3, 2, 3), 1, "SAME", 1),
    "rows that do not come out even": ((2, 31, 29, 3), (3, 3, 3, 8), 1, "SAME", 1),
    "many images": ((300, 3, 3, 4), (2, 2, 4, 5), 1, "SAME", 1),
    "many images, not copied": ((301, 3, 3, 4), (2, 2, 4, 5), 1, "VALID", 1),
    "many images, strided": ((67, 5, 4, 3), (3, 3, 3, 5), 2, "SAME", 1),
    "deep windows": ((1, 4, 5, 700), (3, 3, 700, 130), 1, "SAME", 1),
    "deep windows, not copied": ((2, 4, 5, 700), (3, 3, 700, 10), 1, "VALID", 1),
    "deep 1x1": ((1, 3, 3, 2100), (1, 1, 2100, 40), 1, "SAME", 1),
    "wide and deep": ((1, 2, 70, 700), (3, 3, 700, 8), 1, "SAME", 1),
    "few pixels, many filters": ((1, 2, 2, 9), (3, 3, 9, 700), 1, "SAME", 1),
    "few filters": ((2, 9, 11, 21), (3, 3, 21, 3), 1, "SAME", 1),
    "one filter, dilated": ((2, 9, 11, 40), (3, 2, 40, 1), 1, "SAME", 2),
    "one filter, strided": ((3, 9, 11, 35), (3, 5, 35, 1), (2, 3), "SAME", 1),
    "few channels under many filters": ((1, 22, 23, 3), (7, 7, 3, 64), 2, "SAME", 1),
    "a filter as large as the image": ((5, 4, 6, 3), (4, 6, 3, 20), 1, "VALID", 1),
    "one as large as the image, strided": ((70, 3, 3, 9), (3, 3, 9, 8), 2, "VALID", 1),
    "single taps of few pixels": ((1, 4, 4, 20), (2, 2, 20, 33), 2, "SAME", 1),
    "few pixels and a 1x1 filter": ((2, 2, 2, 70), (1, 1, 70, 130), 1, "SAME", 1),
    "one pixel, many channels": ((1, 1, 1, 1099), (1, 1, 1099, 37), 1, "SAME", 1),
    "two pixels": ((1, 2, 1, 131), (3, 3, 131, 70), 1, "SAME", 1),
    "three pixels, dilated": ((1, 1, 3, 23), (1, 3, 23, 33), 1, "SAME", (1, 2)),
    "four pixels, not copied": ((2, 4, 3, 90), (3, 3, 90, 130), 1, "VALID", 1),
    "large filter gradient": ((2, 6, 6, 700), (3, 3, 700, 260), 1, "SAME", 1),
    "many tiles of a 3x3": ((4, 28, 28, 16), (3, 3, 16, 33), 1, "SAME", 1),
    "many tiles of a 5x5": ((4, 17, 19, 17), (5, 5, 17, 16), 1, "SAME", 1),
    "many tiles, not padded": ((3, 22, 23, 24), (3, 3, 24, 20), 1, "VALID", 1),
    "many tiles, odd padding": ((3, 22, 23, 9), (3, 3, 9, 20), 1, EXPLICIT, 1),
    "many tiles and channels": ((16, 7, 7, 512), (3, 3, 512, 40), 1, "SAME", 1),
    "first layer of AlexNet": ((1, 59, 63, 3), (11, 11, 3, 24), 4, "VALID", 1),
    # As many filters as make tasks of a few hundred pixels taken together; with 1x1 these lie end to end.
    "one image, many filters": ((1, 13, 15, 20), (1, 1, 20, 270), 1, "SAME", 1),
    "one image, many filters, strided": ((1, 27, 25, 6), (3, 3, 6, 260), 2, "SAME", 1),
    "one image, large filters": ((1, 13, 15, 1300), (1, 1, 1300, 410), 1, "VALID", 1),
    # Rows of taps that see border alone are left out: some of most rows', or all behind much padding.
    "border of an input gradient": ((23, 14, 14, 6), (5, 5, 6, 16), 1, "VALID", 1),
    "border of a dilated filter": ((3, 9, 11, 20), (3, 3, 20, 37), 1, "SAME", (3, 1)),
    "border of a large filter": ((7, 10, 13, 5), (7, 7, 5, 20), (2, 1), "SAME", 1),
    "rows that see border alone": ((2, 4, 9, 2), (2, 2, 2, 9), 1, [[0, 0], [7, 9], [3, 3], [0, 0]], 1),
    "pixels end to end": ((3, 17, 19, 70), (1, 1, 70, 40), 1, "VALID", 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pixels", [1, 2, 4, 5])
def test_all_that_may_follow_the_sums_of_few_pixels(pixels, dtype):
    rng = np.random.default_rng(pixels)
    x, w = rng.standard_normal((1, 1, pixels, 131)), rng.standard_normal((1, 3, 131, 70))
    gain, bias = rng.standard_normal((2, 70))
    side = rng.standard_normal((1, 1, pixels, 70))
    x, w, gain, bias, side = (a.astype(dtype) for a in (x, w, gain, bias, side))
    y = np.empty_like(side)
    _convolution.plan(x.shape, w.shape, _convolution.window(1, "SAME", 1)).forward(
        y, x, w, bias, True, gain=gain, side=side
    )
    exact = ref.conv2d(x.astype(np.float64), w.astype(np.float64), 1, "SAME")
    assert_close(y, np.maximum(exact * gain + bias + side, 0), tolerances.PRODUCT_SUM)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_against_the_twin(shape, dtype):
    x_shape, w_shape, *how = SHAPES[shape]
    check_convolution(x_shape, w_shape, dtype, *how)


@st.composite
def convolutions(draw):
    small = st.integers(1, 4)
    kernel, steps, gaps = (draw(st.tuples(small, small)) for _ in range(3))
    n, h, w = draw(st.tuples(st.integers(1, 20), st.integers(1, 24), st.integers(1, 24)))
    c, k = draw(st.tuples(st.integers(1, 20), st.integers(1, 40)))
    end = st.integers(0, 5)
    explicit = st.tuples(end, end, end, end).map(lambda e: [[0, 0], [e[0], e[1]], [e[2], e[3]], [0, 0]])
    padding = draw(st.one_of(st.sampled_from(["SAME", "VALID"]), explicit))
    ends = [0, 0, 0, 0] if isinstance(padding, str) else [*padding[1], *padding[2]]
    for size, taps, gap, pads in ((h, kernel[0], gaps[0], ends[:2]), (w, kernel[1], gaps[1], ends[2:])):
        assume(padding == "SAME" or size + sum(pads) >= gap * (taps - 1) + 1)
    return (n, h, w, c), (*kernel, c, k), draw(st.sampled_from(DTYPES)), steps, padding, gaps


@settings(max_examples=150)
@given(convolutions())
def test_any_convolution_against_the_twin(case):
    check_convolution(*case)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_the_adjoints_of_the_convolution(dtype):
    """<y, dy> = <x, dx> = <w, dw>: no twin and no geometry but nn's own."""
    for h, w, k, s, d in [
        (9, 11, 3, 1, 1),
        (9, 11, 3, 2, 1),
        (12, 7, 2, 3, 2),
        (1, 13, 1, 2, 1),
        (8, 1, 3, 1, 3),
    ]:
        for c, filters in ((1, 1), (5, 18)):
            x, kernel = normal((2, h, w, c), dtype), normal((k, k, c, filters), dtype)
            y = nn.conv2d(x, kernel, s, "SAME", d)
            dy = normal(y.shape, dtype, 1)
            dx = nn.conv2d_backprop_input(x.shape, kernel, dy, s, "SAME", d)
            dw = nn.conv2d_backprop_filter(x, kernel.shape, dy, s, "SAME", d)
            inner = [
                float(np.vdot(a.astype(np.float64), b.astype(np.float64)))
                for a, b in ((y, dy), (x, dx), (kernel, dw))
            ]
            # By Cauchy and Schwarz none is larger than this, and so are their roundings.
            scale = np.linalg.norm(y) * np.linalg.norm(dy)
            allowed = getattr(tolerances.PRODUCT_SUM, np.dtype(dtype).name) * scale
            assert max(inner) - min(inner) <= allowed, (h, w, k, s, d, c, filters)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "how"),
    [
        ((2, 5, 4, 2), (3, 2, 2, 3), (2, "SAME", 1)),
        ((1, 6, 5, 1), (2, 3, 1, 2), (1, EXPLICIT, 2)),
        ((1, 1, 7, 2), (1, 3, 2, 1), (3, "SAME", 2)),
        ((1, 7, 1, 2), (3, 1, 2, 1), (2, "VALID", (2, 1))),
        ((1, 5, 5, 1), (1, 1, 1, 1), (2, "VALID", 1)),
    ],
)
def test_convolution_gradients_are_its_slopes(x_shape, w_shape, how):
    x, w = normal(x_shape, np.float64, 1), normal(w_shape, np.float64, 2)
    weights = normal(nn.conv2d(x, w, *how).shape, np.float64, 3)
    dx = nn.conv2d_backprop_input(x_shape, w, weights, *how)
    dw = nn.conv2d_backprop_filter(x, w_shape, weights, *how)
    assert_close(dx, slope(lambda x: np.vdot(nn.conv2d(x, w, *how), weights), x), tolerances.DIFFERENCES)
    assert_close(dw, slope(lambda w: np.vdot(nn.conv2d(x, w, *how), weights), w), tolerances.DIFFERENCES)


def test_pool_dense_and_loss_gradients_are_their_slopes():
    x = normal((2, 5, 6, 3), np.float64)  # no two alike, so a small step changes no maximum
    y = nn.max_pool2d(x, (3, 2), 2, "SAME")
    weights = normal(y.shape, np.float64, 1)
    assert_close(
        nn.max_pool_grad(x, y, weights, (3, 2), 2, "SAME"),
        slope(lambda x: np.vdot(nn.max_pool2d(x, (3, 2), 2, "SAME"), weights), x),
        tolerances.DIFFERENCES,
    )
    a, kernel, bias = (normal(s, np.float64) for s in ((4, 5), (5, 3), (3,)))
    weights = normal((4, 3), np.float64, 1)
    hidden = nn.dense(a, kernel, bias, "relu")
    dh = nn.relu_grad(weights, hidden)
    loss = lambda a, kernel, bias: np.vdot(nn.dense(a, kernel, bias, "relu"), weights)  # noqa: E731
    pairs = [
        (nn.dense_backprop_input(kernel, dh), slope(lambda a: loss(a, kernel, bias), a)),
        (nn.dense_backprop_kernel(a, dh), slope(lambda kernel: loss(a, kernel, bias), kernel)),
        (nn.bias_add_grad(dh), slope(lambda bias: loss(a, kernel, bias), bias)),
    ]
    for gradient, expected in pairs:
        assert_close(gradient, expected, tolerances.DIFFERENCES)
    labels = nn.softmax(normal((4, 6), np.float64, 2))
    logits = normal((4, 6), np.float64, 3)
    assert_close(
        nn.softmax(logits) - labels,
        slope(lambda z: nn.softmax_cross_entropy_with_logits(labels, z).sum(), logits),
        tolerances.DIFFERENCES,
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_an_empty_batch_goes_forward_and_backward(padding):
    x, w = np.zeros((0, 6, 5, 3), np.float32), normal((3, 3, 3, 4), np.float32)
    y = nn.conv2d(x, w, 2, padding, bias=np.ones(4, np.float32), activation="relu")
    assert y.shape == ref.conv2d(np.zeros((1, 6, 5, 3)), w, 2, padding)[:0].shape
    assert nn.conv2d_backprop_input(x.shape, w, y, 2, padding).shape == x.shape
    dw = nn.conv2d_backprop_filter(x, w.shape, y, 2, padding)
    assert dw.shape == w.shape and not dw.any()
    pooled, argmax = nn.max_pool_with_argmax(x, 2, 2, padding, include_batch_in_index=True)
    assert pooled.shape == argmax.shape == (0, 3, 3 if padding == "SAME" else 2, 3)
    assert nn.max_pool_grad(x, pooled, pooled, 2, 2, padding).shape == x.shape
    assert nn.avg_pool2d(x, 2, 2, padding).shape == pooled.shape
    assert nn.avg_pool_grad(x.shape, pooled, 2, 2, padding).shape == x.shape
    a, kernel = np.zeros((0, 4), np.float32), np.ones((4, 2), np.float32)
    assert nn.dense(a, kernel, np.ones(2, np.float32), "relu").shape == (0, 2)
    assert nn.dense_backprop_input(kernel, np.zeros((0, 2), np.float32)).shape == (0, 4)
    assert not nn.dense_backprop_kernel(a, np.zeros((0, 2), np.float32)).any()
    for result in (nn.relu(x), nn.relu_grad(x, x), nn.dropout(x, 0.5, seed=1), nn.softmax(x)):
        assert result.shape == x.shape
    for result in (nn.sigmoid(x), nn.sigmoid_grad(x, x), nn.tanh(x), nn.tanh_grad(x, x)):
        assert result.shape == x.shape
    assert nn.bias_add(x, np.ones(3, np.float32)).shape == x.shape
    assert nn.bias_add_grad(x).tolist() == [0, 0, 0]
    assert nn.softmax_cross_entropy_with_logits(a, a).shape == (0,)
    assert nn.lrn(x).shape == nn.lrn_grad(x, x, x).shape == x.shape
    mean, variance = nn.moments(x)
    assert np.isnan(mean).all() and np.isnan(variance).all() and mean.shape == variance.shape == (3,)
    assert nn.batch_normalization(x, mean, variance, None, None, 0.1).shape == x.shape
    for is_training in (True, False):
        sums = np.ones(3, np.float32), np.ones(3, np.float32)
        dx, dscale, doffset = nn.batch_normalization_grad(x, x, *sums, None, 0.1, is_training)
        assert dx.shape == x.shape and dscale.tolist() == doffset.tolist() == [0, 0, 0]


@pytest.mark.parametrize("algorithm", ["auto", "winograd"])
def test_no_channels_or_no_filters_leave_zeros_or_nothing(algorithm):
    x, w = normal((2, 9, 9, 8), np.float32), normal((3, 3, 8, 8), np.float32)
    nn.conv2d(x, w, 1, "SAME", algorithm="winograd")  # leaves its scratch memory behind
    with fastconv.algorithm(algorithm):
        check_no_channels_or_no_filters(nn)


def test_no_channels_or_no_filters_of_the_twins():
    check_no_channels_or_no_filters(ref)
    assert ref.softmax(np.ones((2, 0))).shape == (2, 0)
    assert ref.softmax_cross_entropy_with_logits(np.ones((2, 0)), np.ones((2, 0))).tolist() == [0, 0]


def check_no_channels_or_no_filters(ops):
    whole = (2, 3, 3, 3)  # an image of the filter's size
    nothing = np.zeros((2, 1, 1, 0), np.float32)
    assert not ops.conv2d_backprop_input(whole, np.ones((3, 3, 3, 0), np.float32), nothing, 1, "VALID").any()
    assert not ops.conv2d(np.ones((2, 3, 3, 0)), np.ones((3, 3, 0, 4)), 1, "VALID").any()
    x, w = normal((1, 5, 5, 3), np.float32), normal((3, 3, 3, 4), np.float32)
    bias = np.array([1, -2, 3, 0], np.float32)
    y = ops.conv2d(x[..., :0], w[:, :, :0], 1, "SAME", bias=bias, activation="relu")
    np.testing.assert_array_equal(y, np.broadcast_to([1, 0, 3, 0], (1, 5, 5, 4)))
    assert ops.conv2d(x, w[..., :0], 1, "SAME").shape == (1, 5, 5, 0)
    nothing = np.zeros((1, 5, 5, 0), np.float32)
    assert not ops.conv2d_backprop_input(x.shape, w[..., :0], nothing, 1, "SAME").any()
    assert ops.conv2d_backprop_filter(x, (3, 3, 3, 0), nothing, 1, "SAME").shape == (3, 3, 3, 0)
    np.testing.assert_array_equal(ops.dense(np.ones((2, 0)), np.ones((0, 3)), [1, 2, 3]), [[1, 2, 3]] * 2)


def test_the_three_passes_share_a_plan_and_an_error_names_its_own_arguments():
    x, w = normal((3, 11, 13, 5), np.float32), normal((3, 2, 5, 7), np.float32)
    y = nn.conv2d(x, w, (2, 1), "SAME")
    found = _convolution._found.cache_info()
    nn.conv2d(x, w, [2, 1], "same")
    nn.conv2d_backprop_input(list(x.shape), w, y, (1, 2, 1, 1), "SAME")
    nn.conv2d_backprop_filter(x, w.shape, y, (2, 1), "SAME")
    assert _convolution._found.cache_info().hits == found.hits + 3
    assert _convolution._found.cache_info().misses == found.misses
    with pytest.raises(ValueError, match=r"filters must have as many input channels .* as input_sizes"):
        nn.conv2d_backprop_input((3, 11, 13, 4), w, y, (2, 1), "SAME")
    with pytest.raises(ValueError, match=r"filter_sizes must have as many input channels .* as input "):
        nn.conv2d_backprop_filter(x, (3, 2, 4, 7), y, (2, 1), "SAME")
    with pytest.raises(TypeError, match="strides"):  # equal to 2 and 1, which are known
        nn.conv2d(x, w, (2.0, 1.0), "SAME")


# ------------------------------------------------------------ pooling


def check_pool(x, ksize, strides, padding):
    """Forward, argmax and gradient, which copy and choose: exactly the twin's."""
    y, argmax = nn.max_pool_with_argmax(x, ksize, strides, padding)
    y64, argmax64 = ref.max_pool_with_argmax(x, ksize, strides, padding)
    assert y.dtype == x.dtype and argmax.dtype == np.int64
    np.testing.assert_array_equal(y, y64)
    np.testing.assert_array_equal(argmax, argmax64)
    np.testing.assert_array_equal(nn.max_pool2d(x, ksize, strides, padding), y64)
    _, with_batch = nn.max_pool_with_argmax(x, ksize, strides, padding, include_batch_in_index=True)
    if not np.isnan(y).any():
        np.testing.assert_array_equal(x.reshape(-1)[with_batch], y)
    dy = np.round(8 * normal(y.shape, x.dtype, 1))  # sums of whole numbers are exact
    dx = nn.max_pool_grad(x, y, dy, ksize, strides, padding)
    np.testing.assert_array_equal(dx, ref.max_pool_grad(x, y, dy, ksize, strides, padding))
    check_avg_pool(x, dy, ksize, strides, padding)


def check_avg_pool(x, dy, ksize, strides, padding):
    """The sums run in the twin's order, so the means have its bits; the gradient's order is another one."""
    y = nn.avg_pool2d(x, ksize, strides, padding)
    assert y.dtype == x.dtype
    with np.errstate(invalid="ignore"):  # infinities of both signs
        np.testing.assert_array_equal(y, ref.avg_pool2d(x, ksize, strides, padding))
    dx = nn.avg_pool_grad(x.shape, dy, ksize, strides, padding)
    assert dx.dtype == x.dtype
    expected = ref.avg_pool_grad(x.shape, dy.astype(np.float64), ksize, strides, padding)
    assert_close(dx, expected, tolerances.PRODUCT_SUM)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 8, 17, 70, 130])
def test_pools_against_the_twin(channels, dtype):
    for (h, w), ksize, strides in [
        ((6, 6), 2, 2),
        ((5, 4), 2, 2),  # side by side, and VALID leaves rows below
        ((7, 9), 3, 2),
        ((7, 9), (1, 3), 1),
        ((5, 4), (4, 3), 1),
        ((1, 9), (1, 2), 2),
        ((9, 1), 2, 3),
        ((8, 8), 1, 3),
    ]:
        for padding in ("SAME", "VALID", [[0, 0], [0, 1], [0, 0], [0, 0]]):
            tall = h + (1 if isinstance(padding, list) else 0)
            if padding != "SAME" and (tall, w) < (np.atleast_1d(ksize)[0], np.atleast_1d(ksize)[-1]):
                continue
            if padding != "SAME" and w < np.atleast_1d(ksize)[-1]:
                continue
            if isinstance(padding, list) and np.atleast_1d(ksize)[0] == 1:
                continue  # the last window would see only padding
            check_pool(normal((2, h, w, channels), dtype), ksize, strides, padding)
            # Few different values: ties in every window.
            check_pool(np.round(normal((20, h, w, channels), dtype)), ksize, strides, padding)


@settings(max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 18), st.integers(1, 12), st.integers(1, 12), st.integers(1, 70)),
    ksize=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dtype=st.sampled_from(DTYPES),
    special=st.sampled_from([0, np.nan, np.inf, -np.inf]),
)
def test_any_pool_against_the_twin(shape, ksize, strides, dtype, special):
    x = np.round(2 * normal(shape, dtype))
    x[np.random.default_rng(0).random(shape) < 0.3] = special
    check_pool(x, ksize, strides, "SAME")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_in_the_window_always_comes_out(dtype):
    for channels, position in itertools.product(range(1, 34), range(9)):
        for poisoned in {0, channels // 2, channels - 1}:
            x = normal((1, 3, 3, channels), dtype)
            x[0, position // 3, position % 3, poisoned] = np.nan
            others = np.arange(channels) != poisoned
            y, argmax = nn.max_pool_with_argmax(x, 3, 1, "VALID")
            for result in (y, nn.max_pool2d(x, 3, 1, "VALID")):
                assert np.isnan(result[0, 0, 0, poisoned])
                np.testing.assert_array_equal(result[0, 0, 0, others], x.max(axis=(0, 1, 2))[others])
            assert argmax[0, 0, 0, poisoned] == position * channels + poisoned
            dx = nn.max_pool_grad(x, y, np.ones_like(y), 3, 1, "VALID")
            assert dx[0, position // 3, position % 3, poisoned] == 1 and dx.sum() == channels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf, 0, -7])
@pytest.mark.parametrize("channels", [1, 5, 16, 19])
def test_windows_of_one_value_choose_their_first_pixel(value, channels, dtype):
    x = np.full((2, 5, 4, channels), value, dtype)
    y, argmax = nn.max_pool_with_argmax(x, 2, 2, "SAME")
    np.testing.assert_array_equal(y, np.full((2, 3, 2, channels), value, dtype))
    first = (np.arange(0, 5, 2)[:, None] * 4 + np.arange(0, 4, 2)) * channels
    np.testing.assert_array_equal(argmax[1], first[:, :, None] + np.arange(channels))
    dx = nn.max_pool_grad(x, y, np.ones_like(y), 2, 2, "SAME")
    expected = np.zeros((5, 4))
    expected[::2, ::2] = 1
    np.testing.assert_array_equal(dx, np.broadcast_to(expected[None, :, :, None], dx.shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_average_pools_do_not_count_padding(dtype):
    """TensorFlow's rule: an image of ones stays one, and each window gives out its dy whole."""
    for channels, padding in itertools.product((1, 17), ("SAME", [[0, 0], [2, 1], [0, 2], [0, 0]])):
        ones = np.ones((2, 5, 4, channels), dtype)
        y = nn.avg_pool(ones, 3, 2, padding)
        np.testing.assert_array_equal(y, np.ones_like(y))
        dx = nn.avg_pool_grad(ones.shape, y, 3, 2, padding)
        assert_close(dx.sum(), y.sum(), tolerances.PRODUCT_SUM)
    y = nn.avg_pool2d(IMAGE, 2, 1, "SAME")
    np.testing.assert_array_equal(y[0, :, :, 0], [[3, 4, 4.5], [6, 7, 7.5], [7.5, 8.5, 9]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_reaches_the_average_of_its_windows_alone(dtype):
    for channels in (1, 5, 16, 19):
        x = normal((2, 5, 6, channels), dtype)
        x[1, 2, 3, channels // 2] = np.nan
        y = nn.avg_pool2d(x, 2, 2, "SAME")
        assert np.isnan(y[1, 1, 1, channels // 2]) and np.isnan(y).sum() == 1
        dx = nn.avg_pool_grad(x.shape, y, 2, 2, "SAME")
        assert np.isnan(dx[1, 2:4, 2:4, channels // 2]).all() and np.isnan(dx).sum() == 4


@pytest.mark.parametrize("how", [((3, 2), 2, "SAME"), (2, 1, EXPLICIT_POOL), (2, 3, "VALID")], ids=str)
def test_the_average_pools_gradient_is_its_slope(how):
    x = normal((2, 5, 6, 3), np.float64)
    weights = normal(nn.avg_pool2d(x, *how).shape, np.float64, 1)
    dx = nn.avg_pool_grad(x.shape, weights, *how)
    assert_close(dx, slope(lambda x: np.vdot(nn.avg_pool2d(x, *how), weights), x), tolerances.DIFFERENCES)


# ------------------------------------------------------------ elementwise

SIZES = [(1,), (7,), (3, 5), (2, 3, 4, 5), (8191,), (8192,), (8193,), (5, 4099)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_relu_and_its_gradient_are_the_twins(shape, dtype):
    x, dy = normal(shape, dtype, 1), normal(shape, dtype, 2)
    x.reshape(-1)[::5] = 0
    np.testing.assert_array_equal(nn.relu(x), ref.relu(x))
    np.testing.assert_array_equal(nn.relu_grad(dy, x), ref.relu_grad(dy, x))
    np.testing.assert_array_equal(nn.relu_grad(dy, nn.relu(x)), ref.relu_grad(dy, x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_a_sum_is_the_twins(shape, dtype):
    x, y = normal(shape, dtype, 1), normal(shape, dtype, 2)
    x.reshape(-1)[0], y.reshape(-1)[-1] = np.inf, np.nan
    np.testing.assert_array_equal(nn.add(x, y), ref.add(x, y))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(3,), (1, 2), (16, 0, 5), (64, 33, 7, 1)], ids=str)
def test_channels_are_joined_and_cut_as_the_twins_do(sizes, dtype):
    for rest in [(), (7,), (2, 3, 5), (300, 40), (0, 3)]:
        parts = [normal((*rest, size), dtype, size) for size in sizes]
        whole = nn.concat(parts)
        assert whole.dtype == dtype
        np.testing.assert_array_equal(whole, ref.concat(parts))
        pieces = nn.split(whole, sizes, axis=len(rest))
        for splits in (sizes, np.array(sizes)):
            assert len(pieces) == len(ref.split(whole, splits)) == len(parts)
        for piece, expected in zip(pieces, parts, strict=True):
            assert piece.flags.c_contiguous
            np.testing.assert_array_equal(piece, expected)
            assert not np.shares_memory(piece, whole)
    halves = nn.split(np.arange(12).reshape(2, 6), 3)
    for half, expected in zip(halves, ref.split(np.arange(12).reshape(2, 6), 3), strict=True):
        np.testing.assert_array_equal(half, expected)


def test_relu_keeps_nan_and_its_gradient_drops_it():
    x = np.array([np.nan, -np.inf, np.inf, -0.0, 2], np.float32)
    np.testing.assert_array_equal(nn.relu(x), [np.nan, 0, np.inf, 0, 2])
    np.testing.assert_array_equal(nn.relu_grad(np.full(5, 3, np.float32), x), [0, 0, 3, 0, 3])
    fused = nn.conv2d(x.reshape(1, 1, 5, 1), np.ones((1, 1, 1, 1), np.float32), 1, "SAME", activation="relu")
    np.testing.assert_array_equal(fused.reshape(-1), nn.relu(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_sigmoid_and_tanh_and_their_gradients_against_the_twin(name, shape, dtype):
    x, dy = 5 * normal(shape, dtype, 1), normal(shape, dtype, 2)
    y = getattr(nn, name)(x)
    assert y.dtype == dtype
    assert_close(y, getattr(ref, name)(x.astype(np.float64)), tolerances.EXPONENTIAL)
    # Products alone, in the twin's order: the same bits.
    dx = getattr(nn, f"{name}_grad")(y, dy)
    np.testing.assert_array_equal(dx, getattr(ref, f"{name}_grad")(y, dy), strict=True)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_the_gradients_of_sigmoid_and_tanh_are_their_slopes(name):
    f = getattr(nn, name)
    x, dy = 2 * normal((3, 7), np.float64, 1), normal((3, 7), np.float64, 2)
    dx = getattr(nn, f"{name}_grad")(f(x), dy)
    assert_close(dx, slope(lambda x: np.vdot(f(x), dy), x), tolerances.DIFFERENCES)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_and_tanh_of_extremes(dtype):
    x = np.array([-np.inf, -1e4, -0.0, 1e4, np.inf, np.nan], dtype)
    np.testing.assert_array_equal(nn.sigmoid(x), [0, 0, 0.5, 1, 1, np.nan])
    np.testing.assert_array_equal(nn.tanh(x), [-1, -1, 0, 1, 1, np.nan])
    for name in ("sigmoid", "tanh"):
        dx = getattr(nn, f"{name}_grad")(getattr(nn, name)(x), np.ones_like(x))
        assert dx[[0, 1, 3, 4]].tolist() == [0, 0, 0, 0] and dx[2] > 0 and np.isnan(dx[5])
    # The small probabilities keep their digits, which 0.5 + 0.5 * tanh(x / 2) would lose.
    np.testing.assert_allclose(nn.sigmoid(np.array([-40, -80], dtype)), np.exp([-40, -80]), rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1,), (17,), (5, 1), (9, 33), (700, 3), (3, 5, 7, 16), (2, 20000)], ids=str
)
def test_bias_and_its_gradient_against_the_twin(shape, dtype):
    x, b = normal(shape, dtype, 1), normal(shape[-1:], dtype, 2)
    np.testing.assert_array_equal(nn.bias_add(x, b), ref.bias_add(x, b))
    expected = ref.bias_add_grad(x.astype(np.float64))
    assert_close(nn.bias_add_grad(x), expected, tolerances.PRODUCT_SUM)


@pytest.mark.parametrize("channels", [1, 3, 33])
def test_a_long_sum_of_equal_gradients_does_not_round_the_same_way_each_time(channels):
    rows = 300_001
    dy = np.full((rows, channels), np.float32(0.1))
    expected = np.full(channels, rows * np.float64(np.float32(0.1)))
    assert_close(nn.bias_add_grad(dy), expected, tolerances.PRODUCT_SUM)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "inputs", "outputs"),
    [(1, 1, 1), (1, 300, 10), (7, 5, 33), (130, 64, 70), (100, 2048, 625), (101, 1500, 10), (300, 3, 2)],
)
def test_dense_and_its_gradients_against_the_twin(n, inputs, outputs, dtype):
    x, w, b = normal((n, inputs), dtype), normal((inputs, outputs), dtype), normal((outputs,), dtype)
    dy = normal((n, outputs), dtype, 1)
    x64, w64, b64, dy64 = (a.astype(np.float64) for a in (x, w, b, dy))
    for bias, bias64 in ((None, None), (b, b64)):
        for activation in (None, "relu"):
            y = nn.dense(x, w, bias, activation)
            assert_close(y, ref.dense(x64, w64, bias64, activation), tolerances.PRODUCT_SUM)
    assert_close(nn.dense_backprop_input(w, dy), dy64 @ w64.T, tolerances.PRODUCT_SUM)
    assert_close(nn.dense_backprop_kernel(x, dy), x64.T @ dy64, tolerances.PRODUCT_SUM)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SIZES, (255,), (256,), (257,)], ids=str)
def test_dropout_is_its_twin_bit_for_bit(shape, dtype):
    x = normal(shape, dtype)
    for rate, seed in [(0, 0), (0.3, 1), (0.5, 2**32), (0.9, 2**63 + 5), (1 - 1e-10, 2**64 - 1)]:
        y = nn.dropout(x, rate, seed=seed)
        assert y.dtype == dtype and y.tobytes() == ref.dropout(x, rate, seed=seed).tobytes()


def test_dropout_keeps_the_mean_and_its_gradient_keeps_the_mask():
    x = np.ones((100, 1000), np.float32)
    y = nn.dropout(x, 0.3, seed=7)
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.3 * 0.7 / x.size)  # five standard deviations
    np.testing.assert_array_equal(y[kept], np.float32(1 / 0.7))
    np.testing.assert_array_equal(nn.dropout(x, 0.3, seed=7), y)
    assert (nn.dropout(x, 0.3, seed=8) != y).any()
    dy = normal(x.shape, np.float32)
    np.testing.assert_array_equal(nn.dropout(dy, 0.3, seed=7), dy * y)


# ------------------------------------------------------------ batch normalization

BATCHES = [(1, 5), (7, 1), (9, 33), (64, 3), (65, 70), (3, 5, 7, 16), (17, 8, 9, 130), (2, 20000), (5000, 2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", BATCHES, ids=str)
def test_batch_normalization_and_its_gradients_against_the_twin(shape, dtype):
    x, dy = 3 * normal(shape, dtype, 1) + 2, normal(shape, dtype, 2)
    scale, offset = normal(shape[-1:], dtype, 3), normal(shape[-1:], dtype, 4)
    mean, variance = nn.moments(x)
    assert mean.dtype == variance.dtype == dtype
    mean64, variance64 = ref.moments(x.astype(np.float64))
    assert_close(mean, mean64, tolerances.PRODUCT_SUM)
    # A single row has no deviations; then neither result has.
    assert_close(variance, variance64, tolerances.PRODUCT_SUM)
    x64, dy64, mean64, variance64, scale64, offset64 = (
        a.astype(np.float64) for a in (x, dy, mean, variance, scale, offset)
    )
    for o, s, o64, s64 in [
        (None, None, None, None),
        (offset, None, offset64, None),
        (None, scale, None, scale64),
        (offset, scale, offset64, scale64),
    ]:
        y = nn.batch_normalization(x, mean, variance, o, s, 0.001)
        expected = ref.batch_normalization(x64, mean64, variance64, o64, s64, 0.001)
        assert y.dtype == dtype
        assert_close(y, expected, tolerances.PRODUCT_SUM)
    for s, s64, is_training in [(scale, scale64, True), (None, None, True), (scale, scale64, False)]:
        results = nn.batch_normalization_grad(dy, x, mean, variance, s, 0.001, is_training)
        how = (x64, mean64, variance64, s64, 0.001)
        expected = ref.batch_normalization_grad(dy64, *how, is_training)
        plain = ref.batch_normalization_grad(dy64, *how, False)[0]  # of which training takes most of one row
        normalized = ref.batch_normalization(x64, mean64, variance64, None, None, 0.001)
        terms = [plain, _sum_of_sizes(dy64 * normalized), _sum_of_sizes(dy64)]
        for result, right, term, what in zip(results, expected, terms, ["x", "scale", "offset"], strict=True):
            assert result.dtype == dtype
            assert_close(result, right, tolerances.PRODUCT_SUM, what, np.abs(term).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", BATCHES, ids=str)
def test_fused_normalization_has_the_bits_of_its_parts(shape, dtype):
    x, dy, side = 3 * normal(shape, dtype, 1) + 2, normal(shape, dtype, 2), normal(shape, dtype, 3)
    scale, offset = normal(shape[-1:], dtype, 4), normal(shape[-1:], dtype, 5)
    x.reshape(-1)[::7], dy.reshape(-1)[::11] = np.nan, -np.inf
    mean, variance = ref.moments(np.nan_to_num(x))
    how = mean.astype(dtype), variance.astype(dtype)
    for o, s in [(offset, scale), (None, None)]:
        y = nn.batch_normalization(x, *how, o, s, 0.1)
        np.testing.assert_array_equal(
            nn.batch_normalization(x, *how, o, s, 0.1, side_input=side), nn.add(y, side)
        )
        np.testing.assert_array_equal(
            nn.batch_normalization(x, *how, o, s, 0.1, side_input=side, activation="relu"),
            nn.relu(nn.add(y, side)),
        )
        fused = nn.batch_normalization(x, *how, o, s, 0.1, activation="relu")
        np.testing.assert_array_equal(fused, nn.relu(y))
        for is_training in (True, False):
            behind = {"offset": o, "activation": "relu"}
            results = nn.batch_normalization_grad(dy, x, *how, s, 0.1, is_training, **behind)
            apart = nn.batch_normalization_grad(nn.relu_grad(dy, y), x, *how, s, 0.1, is_training)
            for result, expected in zip(results, apart, strict=True):
                np.testing.assert_array_equal(result, expected)


def test_the_twins_of_fused_normalization_are_made_of_their_parts():
    x, dy, side = (normal((4, 3, 5), np.float64, seed) for seed in (1, 2, 3))
    scale, offset = normal((5,), np.float64, 4), normal((5,), np.float64, 5)
    how = *ref.moments(x), offset, scale, 0.1
    y = ref.batch_normalization(x, *how)
    fused = ref.batch_normalization(x, *how, side_input=side, activation="relu")
    np.testing.assert_array_equal(fused, np.maximum(y + side, 0))
    how = *ref.moments(x), scale, 0.1
    fused = ref.batch_normalization_grad(dy, x, *how, offset=offset, activation="relu")
    for result, expected in zip(fused, ref.batch_normalization_grad(dy * (y > 0), x, *how), strict=True):
        np.testing.assert_array_equal(result, expected)


def _sum_of_sizes(a):
    """[..., C] -> [C]: what a sum that cancels has been rounded in proportion to."""
    return np.abs(a).reshape(-1, a.shape[-1]).sum(axis=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_variance_survives_a_large_mean(dtype):
    """Where the mean of the squares less the square of the mean would leave nothing in float32."""
    for rows, far in itertools.product((3, 64, 1000, 30001), (1e4, -1e6)):
        x = (normal((rows, 5), np.float64) + far).astype(dtype)
        mean, variance = nn.moments(x)
        mean64, variance64 = ref.moments(x.astype(np.float64))
        assert_close(mean, mean64, tolerances.PRODUCT_SUM)
        # In float64 the running mean has no more digits than the values, fewer than their deviations need.
        scale = None if dtype is np.float32 else 1e6
        assert_close(variance, variance64, tolerances.PRODUCT_SUM, "", scale)
    # First rows that are far from the others, which a shift by the first row would not survive.
    x = np.concatenate([np.zeros((100, 3)), normal((900, 3), np.float64) + 1e4]).astype(dtype)
    assert_close(nn.moments(x)[1], ref.moments(x.astype(np.float64))[1], tolerances.PRODUCT_SUM)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_does_not_vary_has_no_variance(dtype):
    for rows in (1, 7, 64, 1000, 4097):
        mean, variance = nn.moments(np.full((rows, 21), 0.1, dtype))
        np.testing.assert_array_equal(mean, np.full(21, 0.1, dtype))
        np.testing.assert_array_equal(variance, np.zeros(21, dtype))


@pytest.mark.parametrize("is_training", [True, False])
def test_batch_normalization_gradients_are_its_slopes(is_training):
    x, dy = normal((3, 2, 4, 2), np.float64, 1), normal((3, 2, 4, 2), np.float64, 2)
    scale, offset = normal((2,), np.float64, 3), normal((2,), np.float64, 4)
    fixed = nn.moments(x)

    def loss(x, scale, offset):
        mean, variance = nn.moments(x) if is_training else fixed
        return np.vdot(nn.batch_normalization(x, mean, variance, offset, scale, 0.1), dy)

    dx, dscale, doffset = nn.batch_normalization_grad(dy, x, *fixed, scale, 0.1, is_training)
    assert_close(dx, slope(lambda x: loss(x, scale, offset), x), tolerances.DIFFERENCES)
    assert_close(dscale, slope(lambda scale: loss(x, scale, offset), scale), tolerances.DIFFERENCES)
    assert_close(doffset, slope(lambda offset: loss(x, scale, offset), offset), tolerances.DIFFERENCES)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_stays_in_its_channel(dtype):
    for channels in (1, 5, 16, 70):
        x = normal((3, 5, 4, channels), dtype)
        x[1, 2, 3, channels // 2] = np.nan
        poisoned = np.arange(channels) == channels // 2
        mean, variance = nn.moments(x)
        y = nn.batch_normalization(x, mean, variance, None, None, 0.1)
        results = mean, variance, y, *nn.batch_normalization_grad(x, x, mean, variance, None, 0.1)
        for result in results:
            np.testing.assert_array_equal(np.isnan(result), np.broadcast_to(poisoned, result.shape))


# ------------------------------------------------------------ local response normalization


def check_response(shape, dtype, radius, bias, alpha, beta):
    x, dy = normal(shape, dtype, 1), normal(shape, dtype, 2)
    how = radius, bias, alpha, beta
    y = nn.local_response_normalization(x, *how)
    x64, dy64, y64 = (a.astype(np.float64) for a in (x, dy, y))
    assert y.dtype == dtype
    assert_close(y, ref.local_response_normalization(x64, *how), tolerances.EXPONENTIAL)
    dx = nn.lrn_grad(dy, x, y, *how)
    assert dx.dtype == dtype
    assert_close(dx, ref.lrn_grad(dy64, x64, y64, *how), tolerances.PRODUCT_SUM)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 5, 16, 33, 96, 130])
def test_local_response_normalization_against_the_twin(channels, dtype):
    for shape, radius, beta in itertools.product(
        [(2, 3, 5, channels), (1, 20, 31, channels)], [0, 1, 2, 5, 17, 2**70], [0.5, 0.75, 1, 0.3]
    ):
        check_response(shape, dtype, radius, 1.5, 0.4, beta)
    check_response((2, 5, 5, channels), dtype, 2, 2, 1e-4, 0.75)  # AlexNet's numbers
    y = nn.lrn(normal((1, 2, 3, channels), dtype))
    assert_close(y, ref.lrn(normal((1, 2, 3, channels), dtype).astype(float)), tolerances.EXPONENTIAL)


@pytest.mark.parametrize("beta", [0.5, 0.75, 1.2])
@pytest.mark.parametrize("radius", [0, 2, 9])
def test_the_gradient_of_local_response_normalization_is_its_slope(radius, beta):
    x, dy = normal((2, 2, 3, 7), np.float64, 1), normal((2, 2, 3, 7), np.float64, 2)
    how = radius, 1.5, 0.4, beta
    dx = nn.lrn_grad(dy, x, nn.lrn(x, *how), *how)
    assert_close(dx, slope(lambda x: np.vdot(nn.lrn(x, *how), dy), x), tolerances.DIFFERENCES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.2])
def test_a_nan_reaches_the_channels_around_it(beta, dtype):
    for channels in (1, 5, 16, 40):
        x = normal((2, 3, 4, channels), dtype)
        x[1, 2, 3, channels // 2] = np.nan
        y = nn.lrn(x, 2, 1, 1, beta)
        expected = np.zeros(x.shape, bool)
        expected[1, 2, 3, max(channels // 2 - 2, 0) : channels // 2 + 3] = True
        np.testing.assert_array_equal(np.isnan(y), expected)
        assert np.isnan(nn.lrn_grad(x, x, y, 2, 1, 1, beta)[1, 2, 3]).sum() >= min(channels, 5)


# ------------------------------------------------------------ softmax


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 10), (2, 3, 4), (50, 1000)], ids=str)
def test_softmax_and_cross_entropy_against_the_twin(shape, dtype):
    z = 5 * normal(shape, dtype)
    p = nn.softmax(normal(shape, dtype, 1))
    z64, p64 = z.astype(np.float64), p.astype(np.float64)
    assert_close(nn.softmax(z), ref.softmax(z64), tolerances.EXPONENTIAL)
    loss = nn.softmax_cross_entropy_with_logits(p, z)
    assert_close(loss, ref.softmax_cross_entropy_with_logits(p64, z64), tolerances.EXPONENTIAL)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_and_cross_entropy_are_stable(dtype):
    z = np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4], [0, -np.inf, 0]], dtype)
    third = np.full(3, 1 / 3)
    expected = [[1, 0, 0], third, [0.5, 0, 0.5]]
    assert_close(nn.softmax(z), expected, tolerances.EXPONENTIAL)
    labels = np.array([[0, 0, 1], [1, 0, 0], [1, 0, 0]], dtype)
    loss = nn.softmax_cross_entropy_with_logits(labels, z)
    assert_close(loss, np.array([2e4, np.log(3), np.log(2)]), tolerances.EXPONENTIAL)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_what_is_not_finite(dtype):
    """NaN where the loss has no value, but for classes of probability 0; without a warning."""
    nan, inf = np.nan, np.inf
    z = np.array([[nan, 0, 1], [-inf, -inf, -inf], [inf, 0, 0], [0, -inf, 0], [0, 1, 2], [nan, 0, 0]], dtype)
    labels = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [nan, 0, 1], [0, 0, 0]], dtype)
    loss = nn.softmax_cross_entropy_with_logits(labels, z)
    np.testing.assert_array_equal(loss, np.array([nan, nan, nan, inf, nan, 0], dtype))
    single = nn.softmax_cross_entropy_with_logits(labels[3], z[3])
    assert single.shape == () and single == inf
    assert nn.softmax_cross_entropy_with_logits(labels[:0], z[:0]).shape == (0,)


# ------------------------------------------------------------ all of them

PUBLIC = [name for name, f in vars(nn).items() if inspect.isfunction(f) and not name.startswith("_")]


def test_the_public_operations_are_those_of_the_issue():
    assert set(PUBLIC) >= {
        *("conv2d", "conv2d_backprop_input", "conv2d_backprop_filter"),
        *("depthwise_conv2d", "depthwise_conv2d_backprop_input", "depthwise_conv2d_backprop_filter"),
        "conv2d_transpose",
        *("max_pool2d", "max_pool", "max_pool_grad", "max_pool_with_argmax"),
        *("avg_pool2d", "avg_pool", "avg_pool_grad"),
        *("relu", "relu_grad", "bias_add", "bias_add_grad", "dropout", "add", "concat", "split"),
        *("sigmoid", "sigmoid_grad", "tanh", "tanh_grad"),
        *("moments", "batch_normalization", "batch_normalization_grad"),
        *("local_response_normalization", "lrn", "lrn_grad"),
        *("dense", "dense_backprop_input", "dense_backprop_kernel"),
        *("softmax", "softmax_cross_entropy_with_logits"),
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_the_twin_has_the_same_signature(name):
    assert inspect.signature(getattr(nn, name)) == inspect.signature(getattr(ref, name))


@pytest.mark.parametrize(
    ("x_dtype", "w_dtype", "result"),
    [
        ("f4", "f4", "f4"),
        ("f8", "f8", "f8"),
        ("f4", "f8", "f8"),
        ("f2", "f2", "f4"),
        ("f2", "f8", "f8"),
        ("i1", "u8", "f4"),
        ("i8", "f4", "f4"),
        ("?", "i4", "f4"),
        (">f4", "<f4", "f4"),
        (">f8", ">f4", "f8"),
        (">i2", "f2", "f4"),
    ],
)
def test_dtypes_of_results(x_dtype, w_dtype, result):
    x = np.arange(2 * 5 * 6 * 3).reshape(2, 5, 6, 3) % 2
    w = np.arange(3 * 3 * 3 * 4).reshape(3, 3, 3, 4) % 5
    expected = ref.conv2d(x.astype(float), w.astype(float), 1, "SAME")
    y = nn.conv2d(x.astype(x_dtype), w.astype(w_dtype), 1, "SAME")
    assert y.dtype == np.dtype(result)
    np.testing.assert_array_equal(y, expected)
    dw = nn.conv2d_backprop_filter(x.astype(x_dtype), w.shape, y, 1, "SAME")
    np.testing.assert_array_equal(dw, ref.conv2d_backprop_filter(x, w.shape, expected, 1, "SAME"))
    flat = nn.dense(x.reshape(10, 18).astype(x_dtype), w.reshape(18, 6).astype(w_dtype))
    assert flat.dtype == np.dtype(result)
    np.testing.assert_array_equal(flat, x.reshape(10, 18) @ w.reshape(18, 6))
    alone = np.dtype(np.float64 if x_dtype.endswith("f8") else np.float32)
    pools = [pool(x.astype(x_dtype), 2, 2, "SAME") for pool in (nn.max_pool2d, nn.avg_pool2d)]
    for y in (nn.relu(x.astype(x_dtype)), *pools):
        assert y.dtype == alone and y.dtype.isnative


# ------------------------------------------------------------ every ISA


def compact_grid() -> str:
    """Checks against the twin that reach every micro-kernel.

    Returns a digest of what has the same bits everywhere: copies, choices, sums of whole numbers.
    """
    exact = hashlib.sha256()
    for dtype in DTYPES:
        for name in (
            "filter larger than the image",
            "wide",
            "many images, not copied",
            "deep windows",
            "many tiles of a 3x3",
        ):
            x_shape, w_shape, *how = SHAPES[name]
            check_convolution(x_shape, w_shape, dtype, *how)
        for filters in range(1, 75, 3):  # each width of a panel, each number of rows of a tile
            check_convolution((1, 1, filters, 5), (1, 2, 5, filters), dtype)
            x, w = np.round(normal((1, 3, filters, 5), dtype)), np.round(normal((2, 2, 5, filters), dtype))
            exact.update(nn.conv2d(x, w, 1, "SAME", activation="relu").tobytes())
        for channels in (1, 7, 16, 21):
            x = np.round(normal((2, 9, 8, channels), dtype))
            check_pool(x, 3, 2, "SAME")
            exact.update(nn.max_pool2d(x, 3, 2, "SAME").tobytes())
            exact.update(nn.avg_pool2d(x, 3, 2, "SAME").tobytes())
        for beta in (0.5, 0.75, 0.6):
            check_response((1, 5, 9, 37), dtype, 2, 1, 0.2, beta)
        x = np.round(4 * normal((65, 37), dtype))
        total = nn.batch_normalization_grad(x, x, np.zeros(37, dtype), np.ones(37, dtype), None, 0)[1:]
        exact.update(np.concatenate(total).tobytes())  # sums of whole numbers
        exact.update(nn.dropout(normal((3, 333), dtype), 0.4, seed=3).tobytes())
    return exact.hexdigest()


def test_every_instruction_set_of_this_machine(python):
    code = "import test_nn, fastconv._kernels.dispatch as d; print(d.selected(), test_nn.compact_grid())"
    printed = [python(code, FASTCONV_ISA=isa).split() for isa in dispatch.supported()]
    assert [isa for isa, _ in printed] == dispatch.supported()
    assert len({digest for _, digest in printed}) == 1


def test_an_instruction_set_that_is_not_there_is_refused(python):
    message = python("try:\n import fastconv\nexcept ImportError as e: print(e)", FASTCONV_ISA="mmx")
    assert "FASTCONV_ISA=mmx" in message and "generic" in message
