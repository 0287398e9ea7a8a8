"""The NumPy twins against the document's numbers, plain loops, finite differences and published test vectors.

Everything else in the suite leans on fastconv.reference, so nothing here leans on fastconv.geometry or on the
kernels: padding and windows are worked out by brute force.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tolerances
from differences import slope
from tolerances import assert_close

from fastconv import reference as ref

EXPLICIT = [[0, 0], [1, 2], [2, 0], [0, 0]]
# Input NHWC and filter HWIO: general, C = 1, H = 1 with K = 1, W = 1, pointwise.
CONVOLUTIONS = [
    ((2, 5, 6, 3), (3, 2, 3, 4)),
    ((1, 7, 4, 1), (3, 3, 1, 2)),
    ((1, 1, 6, 2), (1, 3, 2, 1)),
    ((2, 6, 1, 2), (2, 1, 2, 3)),
    ((1, 5, 4, 2), (1, 1, 2, 3)),
]


# ---- brute force ----


def padding_of(size, kernel, stride, dilation, padding, axis):
    """(before, after): SAME is the least with room for ceil(size / stride) windows, the odd pixel after."""
    if padding == "VALID":
        return 0, 0
    if padding != "SAME":
        return tuple(padding[axis])
    total = 0
    while positions(size + total, kernel, stride, dilation) < -(-size // stride):
        total += 1
    return total // 2, total - total // 2


def positions(size, kernel, stride, dilation):
    """How many windows fit, by trying each start."""
    return sum(start + dilation * (kernel - 1) < size for start in range(0, size, stride))


def windows(x_shape, ksize, strides, dilations, padding):
    """For rows and for columns: at each position the pixel that each tap sees, None in the padding."""
    for axis, size in enumerate(x_shape[1:3]):
        kernel, stride, dilation = ksize[axis], strides[axis], dilations[axis]
        before, after = padding_of(size, kernel, stride, dilation, padding, 1 + axis)
        count = positions(before + size + after, kernel, stride, dilation)
        seen = [[i * stride - before + tap * dilation for tap in range(kernel)] for i in range(count)]
        yield [[pixel if 0 <= pixel < size else None for pixel in taps] for taps in seen]


def seven_loops(x, w, strides, padding, dilations):
    """conv2d, one multiplication at a time."""
    rows, cols = windows(x.shape, w.shape, strides, dilations, padding)
    y = np.zeros((x.shape[0], len(rows), len(cols), w.shape[3]))
    for n, oh, ow, k in np.ndindex(*y.shape):
        for i, j, c in np.ndindex(*w.shape[:3]):
            h, v = rows[oh][i], cols[ow][j]
            if h is not None and v is not None:
                y[n, oh, ow, k] += x[n, h, v, c] * w[i, j, c, k]
    return y


def first_maxima(x, ksize, strides, padding):
    """max_pool_with_argmax, one comparison at a time."""
    n_images, _, w, channels = x.shape
    rows, cols = windows(x.shape, ksize, strides, (1, 1), padding)
    y = np.empty((n_images, len(rows), len(cols), channels), x.dtype)
    index = np.empty(y.shape, np.int64)
    for n, oh, ow, c in np.ndindex(*y.shape):
        best, where = None, None
        for ih, iw in itertools.product(rows[oh], cols[ow]):
            if ih is None or iw is None:
                continue
            value = x[n, ih, iw, c]
            if best is None or (not np.isnan(best) and (np.isnan(value) or value > best)):
                best, where = value, (ih * w + iw) * channels + c
        y[n, oh, ow, c], index[n, oh, ow, c] = best, where
    return y, index


# ---- the document ----

IMAGE = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
POOLED = np.array([4, 3, 2, 1], np.float32).reshape(1, 2, 2, 1)
SAME_MAP = np.array([[12, 16, 9], [24, 28, 15], [15, 17, 9]])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "out"),
    [
        (7, 3, 1, "VALID", 5),
        (7, 3, 1, "SAME", 7),
        (7, 3, 1, [[0, 0], [1, 1], [1, 1], [0, 0]], 7),
        (7, 3, 2, "VALID", 3),
        (32, 5, 1, "VALID", 28),
        (227, 11, 4, "VALID", 55),
        (28, 3, 2, "SAME", 14),
    ],
)
def test_size_arithmetic(size, kernel, stride, padding, out):
    x, w = np.zeros((1, size, size, 1)), np.zeros((kernel, kernel, 1, 1))
    assert ref.conv2d(x, w, stride, padding).shape == (1, out, out, 1)


def test_document_convolutions():
    ones = np.ones((2, 2, 1, 1), np.float32)
    valid = ref.conv2d(IMAGE, ones, strides=[1, 1, 1, 1], padding="VALID")
    np.testing.assert_array_equal(valid[0, :, :, 0], [[12, 16], [24, 28]])
    same = ref.conv2d(IMAGE, ones, strides=[1, 1, 1, 1], padding="SAME")
    np.testing.assert_array_equal(same[0, :, :, 0], SAME_MAP)


def test_document_three_filters():
    filters = np.tile(np.float32([1, 10, -1]), (2, 2, 1, 1))
    maps = ref.conv2d(IMAGE, filters, strides=[1, 1, 1, 1], padding="SAME")
    assert maps.shape == (1, 3, 3, 3)
    for k, factor in enumerate([1, 10, -1]):
        np.testing.assert_array_equal(maps[0, :, :, k], factor * SAME_MAP)


@pytest.mark.parametrize("pool", [ref.max_pool, ref.max_pool2d])
def test_document_pools(pool):
    valid = pool(POOLED, ksize=[1, 2, 2, 1], strides=[1, 1, 1, 1], padding="VALID")
    np.testing.assert_array_equal(valid, [[[[4]]]])
    same = pool(POOLED, ksize=[1, 2, 2, 1], strides=[1, 1, 1, 1], padding="SAME")
    np.testing.assert_array_equal(same, POOLED)
    # The document draws the padding as zeros; TensorFlow's -inf keeps negative images right.
    negative = pool(POOLED - 5, ksize=[1, 2, 2, 1], strides=[1, 1, 1, 1], padding="SAME")
    np.testing.assert_array_equal(negative, POOLED - 5)


def test_document_mnist_shapes():
    digit = np.random.default_rng(0).random((1, 28, 28, 1), np.float32)
    filters = np.random.default_rng(1).normal(0, 0.01, (3, 3, 1, 5)).astype(np.float32)
    maps = ref.conv2d(digit, filters, strides=[1, 2, 2, 1], padding="SAME")
    assert maps.shape == (1, 14, 14, 5)
    assert ref.max_pool(maps, [1, 2, 2, 1], [1, 2, 2, 1], "SAME").shape == (1, 7, 7, 5)


# ---- convolution ----


def convolutions_that_fit():
    strides, dilations = [(1, 1), (2, 2), (3, 3), (1, 2)], [(1, 1), (2, 2), (2, 1)]
    return [
        (x, w, stride, dilation, padding)
        for (x, w), stride, dilation, padding in itertools.product(
            CONVOLUTIONS, strides, dilations, ["SAME", "VALID", EXPLICIT]
        )
        if all(windows(x, w, stride, dilation, padding))
    ]


@pytest.mark.parametrize(("x_shape", "w_shape", "strides", "dilations", "padding"), convolutions_that_fit())
def test_convolution_and_its_gradients(x_shape, w_shape, strides, dilations, padding):
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=x_shape), rng.normal(size=w_shape)
    expected = seven_loops(x, w, strides, padding, dilations)
    y = ref.conv2d(x, w, strides, padding, dilations)
    assert y.shape == expected.shape
    assert_close(y, expected, tolerances.SAME_SUM)

    # The convolution is linear in x and in w: a difference over any step is its exact slope.
    dy = rng.normal(size=y.shape)
    dx = ref.conv2d_backprop_input(x.shape, w, dy, strides, padding, dilations)
    expected = slope(lambda x: np.vdot(ref.conv2d(x, w, strides, padding, dilations), dy), x, step=1)
    assert_close(dx, expected, tolerances.SAME_SUM)
    dw = ref.conv2d_backprop_filter(x, w.shape, dy, strides, padding, dilations)
    expected = slope(lambda w: np.vdot(ref.conv2d(x, w, strides, padding, dilations), dy), w, step=1)
    assert_close(dw, expected, tolerances.SAME_SUM)


def test_forms_of_the_arguments():
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(1, 7, 8, 2)), rng.normal(size=(3, 3, 2, 2))
    one = ref.conv2d(x, w, 2, "SAME", 2)
    for strides, padding, dilations in [
        ((2, 2), "same", [2, 2]),
        ([1, 2, 2, 1], "Same", (1, 2, 2, 1)),
        (np.int64(2), "SAME", np.array([2, 2])),
    ]:
        np.testing.assert_array_equal(ref.conv2d(x, w, strides, padding, dilations), one)
    pooled = ref.max_pool(x, 3, 2, "SAME")
    np.testing.assert_array_equal(ref.max_pool(x, (3, 3), [1, 2, 2, 1], "same"), pooled)
    zeros = [[0, 0], [0, 0], [0, 0], [0, 0]]
    np.testing.assert_array_equal(ref.max_pool(x, 3, 2, zeros), ref.max_pool(x, 3, 2, "VALID"))


def test_bias_and_activation():
    rng = np.random.default_rng(3)
    x, w, b = rng.normal(size=(2, 5, 5, 3)), rng.normal(size=(3, 3, 3, 4)), rng.normal(size=4)
    plain = ref.conv2d(x, w, 1, "SAME")
    np.testing.assert_array_equal(ref.conv2d(x, w, 1, "SAME", bias=b), plain + b)
    fused = ref.conv2d(x, w, 1, "SAME", bias=b, activation="relu")
    np.testing.assert_array_equal(fused, np.where(plain + b > 0, plain + b, 0))


# ---- max pooling ----

POOLS = [
    ((2, 5, 6, 3), (2, 2), (2, 2)),
    ((1, 7, 5, 1), (3, 3), (2, 2)),
    ((1, 4, 6, 2), (3, 2), (1, 3)),
    ((2, 1, 5, 2), (1, 2), (1, 1)),
    ((1, 6, 1, 4), (2, 1), (3, 1)),
    ((1, 6, 6, 2), (1, 1), (2, 2)),
]
# Any of these in a window of any of the others: ties, zeros of both signs, NaN and both infinities.
VALUES = {
    "distinct": None,
    "ties": [0, 1, 2],
    "signed zeros": [0.0, -0.0],
    "NaN": [np.nan, 0, 1, np.inf],
    "-inf": [-np.inf, -1],
    "all -inf": [-np.inf],
    "all NaN": [np.nan],
}


@pytest.mark.parametrize(("shape", "ksize", "strides"), POOLS)
@pytest.mark.parametrize("padding", ["SAME", "VALID", "explicit"])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pools_against_loops(shape, ksize, strides, padding, values, dtype):
    if padding == "explicit":  # as far as every window still sees a pixel
        padding = [[0, 0], [ksize[0] - 1, 0], [0, ksize[1] - 1], [0, 0]]
    rng = np.random.default_rng(4)
    distinct = rng.permutation(np.prod(shape)) - 10
    x = distinct if values == "distinct" else rng.choice(VALUES[values], np.prod(shape))
    x = x.reshape(shape).astype(dtype)
    expected, expected_index = first_maxima(x, ksize, strides, padding)

    y, index = ref.max_pool_with_argmax(x, ksize, strides, padding)
    np.testing.assert_array_equal(y, expected, strict=True)
    np.testing.assert_array_equal(index, expected_index, strict=True)
    np.testing.assert_array_equal(ref.max_pool(x, ksize, strides, padding), expected)
    _, index = ref.max_pool_with_argmax(x, ksize, strides, padding, include_batch_in_index=True)
    images = np.arange(shape[0]).reshape(-1, 1, 1, 1) * np.prod(shape[1:])
    np.testing.assert_array_equal(index, expected_index + images)

    dy = rng.integers(1, 9, y.shape).astype(dtype)
    expected = np.zeros(x.size, dtype)
    np.add.at(expected, index, dy)
    dx = ref.max_pool_grad(x, y, dy, ksize, strides, padding)
    np.testing.assert_array_equal(dx, expected.reshape(shape), strict=True)


@pytest.mark.parametrize(("shape", "ksize", "strides"), POOLS)
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_pool_gradient_is_the_slope(shape, ksize, strides, padding):
    rng = np.random.default_rng(5)
    x = rng.permutation(np.prod(shape)).reshape(shape).astype(np.float64)
    y = ref.max_pool(x, ksize, strides, padding)
    dy = rng.normal(size=y.shape)
    expected = slope(lambda x: np.vdot(ref.max_pool(x, ksize, strides, padding), dy), x, step=0.25)
    dx = ref.max_pool_grad(x, y, dy, ksize, strides, padding)
    assert_close(dx, expected, tolerances.SAME_SUM)


def test_a_tie_gives_everything_to_the_first():
    x = np.ones((1, 2, 2, 1))
    dx = ref.max_pool_grad(x, ref.max_pool(x, 2, 2, "VALID"), [[[[7.0]]]], 2, 2, "VALID")
    np.testing.assert_array_equal(dx[0, :, :, 0], [[7, 0], [0, 0]])
    x[0, 1, 1, 0] = np.nan
    dx = ref.max_pool_grad(x, ref.max_pool(x, 2, 2, "VALID"), [[[[7.0]]]], 2, 2, "VALID")
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 0], [0, 7]])


# ---- average pooling ----


def means(x, ksize, strides, padding):
    """avg_pool2d, one addition at a time."""
    rows, cols = windows(x.shape, ksize, strides, (1, 1), padding)
    y = np.zeros((len(x), len(rows), len(cols), x.shape[3]))
    for n, oh, ow, c in np.ndindex(*y.shape):
        seen = [x[n, ih, iw, c] for ih in rows[oh] for iw in cols[ow] if ih is not None and iw is not None]
        y[n, oh, ow, c] = sum(seen) / len(seen)
    return y


@pytest.mark.parametrize(("shape", "ksize", "strides"), POOLS)
@pytest.mark.parametrize("padding", ["SAME", "VALID", "explicit"])
def test_average_pools_against_loops_and_their_gradient_against_slopes(shape, ksize, strides, padding):
    if padding == "explicit":
        padding = [[0, 0], [ksize[0] - 1, 0], [0, ksize[1] - 1], [0, 0]]
    rng = np.random.default_rng(11)
    x = rng.normal(size=shape)
    y = ref.avg_pool2d(x, ksize, strides, padding)
    assert_close(y, means(x, ksize, strides, padding), tolerances.SAME_SUM)
    dy = rng.normal(size=y.shape)
    expected = slope(lambda x: np.vdot(ref.avg_pool(x, ksize, strides, padding), dy), x, step=1)
    dx = ref.avg_pool_grad(shape, dy, ksize, strides, padding)
    assert_close(dx, expected, tolerances.SAME_SUM)


def test_average_pools_do_not_count_padding():
    ones = np.ones((1, 5, 4, 2), np.float32)
    for padding in ("SAME", [[0, 0], [2, 1], [0, 2], [0, 0]]):
        y = ref.avg_pool2d(ones, 3, 2, padding)
        np.testing.assert_array_equal(y, np.ones_like(y))


# ---- activations, bias, dense ----


def test_relu():
    x = np.array([[-1, 0, 2], [np.nan, np.inf, -np.inf]])
    y = ref.relu(x)
    np.testing.assert_array_equal(y, [[0, 0, 2], [np.nan, np.inf, 0]])
    dy = np.arange(1.0, 7).reshape(2, 3)
    np.testing.assert_array_equal(ref.relu_grad(dy, x), [[0, 0, 3], [0, 5, 0]])
    np.testing.assert_array_equal(ref.relu_grad(dy, y), ref.relu_grad(dy, x))


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_sigmoid_and_tanh_and_their_gradients(name):
    f, grad = getattr(ref, name), getattr(ref, f"{name}_grad")
    x = np.linspace(-6, 6, 25)
    plain = {"sigmoid": 1 / (1 + np.exp(-x)), "tanh": (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1)}
    assert_close(f(x), plain[name], tolerances.SAME_SUM)
    dy = np.random.default_rng(15).normal(size=x.shape)
    assert_close(grad(f(x), dy), slope(lambda x: np.vdot(f(x), dy), x, step=1e-4), tolerances.DIFFERENCES)
    low = 0 if name == "sigmoid" else -1
    np.testing.assert_array_equal(f([-np.inf, -1e4, 1e4, np.inf, np.nan]), [low, low, 1, 1, np.nan])


def test_bias():
    x, b = np.arange(24.0).reshape(2, 3, 4), np.array([1.0, 2, 3, 4])
    np.testing.assert_array_equal(ref.bias_add(x, b)[1, 2], [21, 23, 25, 27])
    np.testing.assert_array_equal(ref.bias_add_grad(x), [60, 66, 72, 78])


def test_dense_and_its_gradients():
    rng = np.random.default_rng(6)
    x, w, b = rng.normal(size=(3, 5)), rng.normal(size=(5, 4)), rng.normal(size=4)
    expected = [[sum(x[n, i] * w[i, o] for i in range(5)) for o in range(4)] for n in range(3)]
    assert_close(ref.dense(x, w), expected, tolerances.SAME_SUM)
    assert_close(ref.dense(x, w, b, "relu"), np.maximum(expected + b, 0), tolerances.SAME_SUM)
    dy = rng.normal(size=(3, 4))
    expected = slope(lambda x: np.vdot(ref.dense(x, w), dy), x, step=1)
    assert_close(ref.dense_backprop_input(w, dy), expected, tolerances.SAME_SUM)
    expected = slope(lambda w: np.vdot(ref.dense(x, w), dy), w, step=1)
    assert_close(ref.dense_backprop_kernel(x, dy), expected, tolerances.SAME_SUM)


# ---- batch normalization ----


def test_moments():
    mean, variance = ref.moments([[[1.0, 10], [3, 10]], [[5, 10], [7, 10]]])
    np.testing.assert_array_equal(mean, [4, 10])
    np.testing.assert_array_equal(variance, [5, 0])


def test_batch_normalization():
    rng = np.random.default_rng(12)
    x, scale, offset = rng.normal(3, 2, (4, 3, 5)), rng.normal(size=5), rng.normal(size=5)
    mean, variance = ref.moments(x)
    y = ref.batch_normalization(x, mean, variance, None, None, 0)
    assert_close(y.mean(axis=(0, 1)), np.zeros(5), tolerances.SAME_SUM, scale=1)
    assert_close(y.std(axis=(0, 1)), np.ones(5), tolerances.SAME_SUM)
    z = ref.batch_normalization(x, mean, variance, offset, scale, 0)
    assert_close(z, y * scale + offset, tolerances.SAME_SUM)
    y = ref.batch_normalization([[5.0]], [1.0], [7.0], [10.0], [3.0], 9)
    np.testing.assert_array_equal(y, [[13]])


@pytest.mark.parametrize("is_training", [True, False])
def test_batch_normalization_gradients_are_its_slopes(is_training):
    rng = np.random.default_rng(13)
    x, scale, offset = rng.normal(3, 2, (4, 3, 2)), rng.normal(size=2), rng.normal(size=2)
    dy, fixed = rng.normal(size=x.shape), ref.moments(x)

    def loss(x, scale, offset):
        mean, variance = ref.moments(x) if is_training else fixed
        return np.vdot(ref.batch_normalization(x, mean, variance, offset, scale, 0.1), dy)

    dx, dscale, doffset = ref.batch_normalization_grad(dy, x, *fixed, scale, 0.1, is_training)
    for gradient, expected in [
        (dx, slope(lambda x: loss(x, scale, offset), x, step=1e-4)),
        (dscale, slope(lambda scale: loss(x, scale, offset), scale, step=1e-4)),
        (doffset, slope(lambda offset: loss(x, scale, offset), offset, step=1e-4)),
    ]:
        assert_close(gradient, expected, tolerances.DIFFERENCES)


# ---- local response normalization ----


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("radius", [0, 1, 2, 5, 100])
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.3])
def test_local_response_normalization_and_its_gradient(channels, radius, beta):
    rng = np.random.default_rng(14)
    x, dy = rng.normal(size=(2, 3, 2, channels)), rng.normal(size=(2, 3, 2, channels))
    how = radius, 1.5, 0.3, beta
    y = ref.local_response_normalization(x, *how)
    for n, h, w, c in np.ndindex(*x.shape):
        around = [x[n, h, w, i] ** 2 for i in range(channels) if abs(i - c) <= radius]
        assert np.isclose(y[n, h, w, c], x[n, h, w, c] / (1.5 + 0.3 * sum(around)) ** beta, rtol=1e-12)
    expected = slope(lambda x: np.vdot(ref.lrn(x, *how), dy), x, step=1e-4)
    assert_close(ref.lrn_grad(dy, x, y, *how), expected, tolerances.DIFFERENCES)


# ---- dropout ----


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # kat_vectors of Random123, https://github.com/DEShawResearch/random123
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter, key, words):
    result = ref._philox4x32([np.array([word], np.uint64) for word in counter], key)
    assert " ".join(f"{word[0]:08x}" for word in result) == words


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 0x0123456789ABCDEF, 2**64 - 1])
def test_dropout_is_laid_out_as_promised(seed):
    rate = 0.3
    counters = [[np.array([word], np.uint64) for word in (block, 0, 0, 0)] for block in range(3)]
    words = [ref._philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)) for counter in counters]
    kept = np.array(words).ravel()[:10] >= np.floor(rate * 2.0**32)
    x = np.arange(1, 11, dtype=np.float32).reshape(2, 5)
    expected = np.where(kept, x.ravel() * np.float32(1 / (1 - rate)), 0).reshape(2, 5)
    np.testing.assert_array_equal(ref.dropout(x, rate, seed=seed), expected)


def test_dropout_threshold():
    word = 0x6627E8D5  # of element 0 under seed 0, see above
    assert ref.dropout(np.ones(1), word / 2**32, seed=0) > 0
    assert ref.dropout(np.ones(1), (word + 1) / 2**32, seed=0) == 0


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_dropout_statistics(rate):
    n = 200_000
    masks = [ref.dropout(np.ones(n), rate, seed=seed) for seed in (1, 2, 2**32 + 1)]
    scale = 1 / (1 - rate)
    sigma = np.sqrt(rate * (1 - rate) / n)
    for mask in masks:
        assert set(np.unique(mask)) == {0, scale}
        assert abs((mask > 0).mean() - (1 - rate)) < 4 * sigma
        # A neighbour tells nothing: the chance that both are kept is the product.
        assert abs((mask[1:] * mask[:-1] > 0).mean() - (1 - rate) ** 2) < 8 * sigma
    for one, other in itertools.combinations(masks, 2):
        assert abs((one * other > 0).mean() - (1 - rate) ** 2) < 8 * sigma


def test_dropout_depends_on_seed_and_index_only():
    x = np.random.default_rng(7).normal(size=(5, 7))
    y = ref.dropout(x, 0.5, seed=9)
    np.testing.assert_array_equal(ref.dropout(x, 0.5, seed=9), y)
    np.testing.assert_array_equal(ref.dropout(x.ravel(), 0.5, seed=9), y.ravel())
    np.testing.assert_array_equal(ref.dropout(x[:2], 0.5, seed=9), y[:2])
    np.testing.assert_array_equal(ref.dropout(np.asfortranarray(x), 0.5, seed=9), y)
    np.testing.assert_array_equal(ref.dropout(x, 0.0, seed=9), x)
    more = ref.dropout(x, 0.6, seed=9)
    assert not np.any((more != 0) & (y == 0)), "a higher rate drops the same elements and more"


# ---- softmax ----


def test_softmax():
    z = np.log([[1.0, 2, 1], [6, 3, 1]])
    assert_close(ref.softmax(z), [[0.25, 0.5, 0.25], [0.6, 0.3, 0.1]], tolerances.SAME_SUM)
    assert_close(ref.softmax(z + 1e4), ref.softmax(z), tolerances.SAME_SUM)
    np.testing.assert_array_equal(ref.softmax([[1e4, -1e4, 0.0]]), [[1, 0, 0]])


def test_softmax_cross_entropy_and_its_gradient():
    rng = np.random.default_rng(8)
    z, labels = rng.normal(size=(4, 5)), rng.dirichlet(np.ones(5), 4)
    expected = -(labels * np.log(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))).sum(axis=1)
    assert_close(ref.softmax_cross_entropy_with_logits(labels, z), expected, tolerances.SAME_SUM)
    expected = slope(lambda z: ref.softmax_cross_entropy_with_logits(labels, z).sum(), z, step=1e-5)
    np.testing.assert_allclose(ref.softmax(z) - labels, expected, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_cross_entropy_of_extremes(dtype):
    z = np.array([[1e4, 0, -1e4], [1e4, 0, -1e4], [-1e4, -1e4, -1e4], [0, -np.inf, 0]], dtype)
    labels = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype)
    loss = ref.softmax_cross_entropy_with_logits(labels, z)
    np.testing.assert_allclose(loss, [0, 2e4, np.log(3), np.log(2)], rtol=1e-6)


# ---- dtypes and memory ----

X, W, B, C = (2, 5, 5, 3), (3, 3, 3, 4), (4,), (3,)
Y, P = (2, 5, 5, 4), (2, 3, 3, 3)
OPS = {
    "conv2d": ([X, W, B], lambda x, w, b: ref.conv2d(x, w, 1, "SAME", bias=b, activation="relu")),
    "conv2d 1x1": ([X, (1, 1, 3, 4)], lambda x, w: ref.conv2d(x, w, 1, "VALID")),
    "conv2d_backprop_input": ([W, Y], lambda w, dy: ref.conv2d_backprop_input(X, w, dy, 1, "SAME")),
    "conv2d_backprop_filter": ([X, Y], lambda x, dy: ref.conv2d_backprop_filter(x, W, dy, 1, "SAME")),
    "max_pool2d": ([X], lambda x: ref.max_pool2d(x, 2, 2, "SAME")),
    "max_pool2d 1x1": ([X], lambda x: ref.max_pool2d(x, 1, 1, "SAME")),
    "max_pool_grad": ([X, P, P], lambda x, y, dy: ref.max_pool_grad(x, y, dy, 2, 2, "SAME")),
    "max_pool_with_argmax": ([X], lambda x: ref.max_pool_with_argmax(x, 2, 2, "SAME")[0]),
    "avg_pool2d": ([X], lambda x: ref.avg_pool2d(x, 2, 2, "SAME")),
    "avg_pool2d 1x1": ([X], lambda x: ref.avg_pool2d(x, 1, 1, "SAME")),
    "avg_pool_grad": ([P], lambda dy: ref.avg_pool_grad(X, dy, 2, 2, "SAME")),
    "relu": ([X], ref.relu),
    "relu_grad": ([X, X], ref.relu_grad),
    "sigmoid": ([X], ref.sigmoid),
    "sigmoid_grad": ([X, X], ref.sigmoid_grad),
    "tanh": ([X], ref.tanh),
    "tanh_grad": ([X, X], ref.tanh_grad),
    "bias_add": ([Y, B], ref.bias_add),
    "bias_add_grad": ([Y], ref.bias_add_grad),
    "dense": ([(5, 3), (3, 4), B], lambda x, w, b: ref.dense(x, w, b, "relu")),
    "dense_backprop_input": ([(3, 4), (5, 4)], ref.dense_backprop_input),
    "dense_backprop_kernel": ([(5, 3), (5, 4)], ref.dense_backprop_kernel),
    "moments": ([X], lambda x: ref.moments(x)[1]),
    "batch_normalization": (  # an epsilon that keeps negative variances positive
        [X, C, C, C, C],
        lambda x, mean, variance, *rest: ref.batch_normalization(x, mean, variance, *rest, 9),
    ),
    "batch_normalization_grad": (
        [X, X, C, C, C],
        lambda dy, x, mean, variance, scale: ref.batch_normalization_grad(dy, x, mean, variance, scale, 9)[0],
    ),
    "local_response_normalization": ([X], lambda x: ref.lrn(x, 1, 1, 0.5, 0.75)),
    "lrn_grad": ([X, X, X], lambda dy, x, y: ref.lrn_grad(dy, x, y, 1, 1, 0.5, 0.75)),
    "dropout": ([X], lambda x: ref.dropout(x, 0.5, seed=1)),
    "dropout of nothing": ([X], lambda x: ref.dropout(x, 0, seed=1)),
    "softmax": ([(5, 4)], ref.softmax),
    "softmax_cross_entropy_with_logits": ([(5, 4), (5, 4)], ref.softmax_cross_entropy_with_logits),
}


def integers(shapes):
    rng = np.random.default_rng(10)
    return [rng.integers(-4, 5, shape) for shape in shapes]


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(
    ("dtype", "out"),
    [
        ("f4", "f4"),
        ("f8", "f8"),
        ("i1", "f4"),
        ("i8", "f4"),
        ("f2", "f4"),
        (">f4", "f4"),
        (">f8", "f8"),
    ],
)
def test_dtypes_and_layouts(name, dtype, out):
    shapes, op = OPS[name]
    native = [a.astype(out) for a in integers(shapes)]
    expected = op(*native)
    assert expected.dtype == out
    assert expected.flags.c_contiguous
    assert not any(np.shares_memory(expected, a) for a in native)
    for form in (np.ascontiguousarray, np.asfortranarray, lambda a: np.flip(np.flip(a).copy())):
        arrays = [form(a.astype(dtype)) for a in integers(shapes)]
        for a in arrays:
            a.flags.writeable = False
        result = op(*arrays)
        np.testing.assert_array_equal(result, expected, strict=True)
        assert result.flags.c_contiguous


@pytest.mark.parametrize("name", OPS)
def test_lists(name):
    shapes, op = OPS[name]
    numbers = integers(shapes)
    result = op(*(a.tolist() for a in numbers))
    np.testing.assert_array_equal(result, op(*numbers), strict=True)
    result = op(*(a.astype(float).tolist() for a in numbers))
    np.testing.assert_array_equal(result, op(*(a.astype(float) for a in numbers)), strict=True)


@pytest.mark.parametrize("name", [name for name, (shapes, _) in OPS.items() if len(shapes) > 1])
def test_mixed_dtypes_promote(name):
    shapes, op = OPS[name]
    arrays = integers(shapes)
    for one, other, out in [("f4", "f8", "f8"), ("f8", "i4", "f8"), ("f4", "i8", "f4"), ("i1", "f2", "f4")]:
        dtypes = [one] + [other] * (len(arrays) - 1)
        result = op(*(a.astype(dtype) for a, dtype in zip(arrays, dtypes, strict=True)))
        np.testing.assert_array_equal(result, op(*(a.astype(out) for a in arrays)), strict=True)


def test_empty_batches():
    x, w = np.zeros((0, 5, 5, 3), np.float32), np.zeros((3, 3, 3, 4), np.float32)
    y = ref.conv2d(x, w, 2, "SAME")
    assert y.shape == (0, 3, 3, 4)
    assert ref.conv2d_backprop_input(x.shape, w, y, 2, "SAME").shape == x.shape
    np.testing.assert_array_equal(ref.conv2d_backprop_filter(x, w.shape, y, 2, "SAME"), np.zeros_like(w))
    pooled, index = ref.max_pool_with_argmax(x, 2, 2, "SAME", include_batch_in_index=True)
    assert pooled.shape == index.shape == (0, 3, 3, 3)
    assert ref.max_pool_grad(x, pooled, pooled, 2, 2, "SAME").shape == x.shape
    assert ref.avg_pool2d(x, 2, 2, "SAME").shape == pooled.shape
    assert ref.avg_pool_grad(x.shape, pooled, 2, 2, "SAME").shape == x.shape
    np.testing.assert_array_equal(ref.bias_add_grad(x), np.zeros(3))
    assert ref.sigmoid(x).shape == ref.tanh(x).shape == x.shape
    assert ref.sigmoid_grad(x, x).shape == ref.tanh_grad(x, x).shape == x.shape
    mean, variance = ref.moments(x)
    assert np.isnan(mean).all() and np.isnan(variance).all()
    three = np.ones(3, np.float32)
    assert ref.batch_normalization(x, three, three, three, three, 1).shape == x.shape
    dx, dscale, doffset = ref.batch_normalization_grad(x, x, three, three, three, 1)
    assert dx.shape == x.shape and dscale.tolist() == doffset.tolist() == [0, 0, 0]
    assert ref.lrn(x).shape == ref.lrn_grad(x, x, x).shape == x.shape
    rows = np.zeros((0, 4), np.float32)
    assert ref.relu(x).shape == ref.relu_grad(x, x).shape == ref.dropout(x, 0.5, seed=1).shape == x.shape
    assert ref.dense(rows, np.zeros((4, 2))).shape == (0, 2)
    assert ref.dense_backprop_input(np.zeros((4, 2)), np.zeros((0, 2))).shape == (0, 4)
    np.testing.assert_array_equal(ref.dense_backprop_kernel(rows, np.zeros((0, 2))), np.zeros((4, 2)))
    assert ref.softmax(rows).shape == (0, 4)
    assert ref.softmax_cross_entropy_with_logits(rows, rows).shape == (0,)
