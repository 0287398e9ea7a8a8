"""Max pooling in training: the layer's byte per result, and the gradient that reads nothing else.

The oracles are nn.max_pool2d and nn.max_pool_grad, whose bits the layer has, and fastconv.reference.
"""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import _windows as windows
from fastconv import nn
from fastconv import reference as ref
from fastconv._kernels import memory, pool
from fastconv.layers import MaxPooling2D

DTYPES = [np.float32, np.float64]
EXPLICIT = [[0, 0], [1, 0], [0, 1], [0, 0]]
SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 1.0]


def normal(shape, dtype, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def special(shape, dtype, seed=0):
    """Few values, so that every window has ties; zeros of both signs, infinities and NaN."""
    return np.random.default_rng([seed, *shape]).choice(np.array(SPECIAL, dtype), shape)


def signed_zeros(shape, dtype, seed=0):
    """No NaN: which one of two a sum of them is depends on the order of the operands."""
    return np.random.default_rng([seed, *shape]).choice(np.array([0.0, -0.0, 1.5], dtype), shape)


def assert_same_bits(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert a.tobytes() == b.tobytes()


def check_layer(x, dy_of, how):
    """Forward and gradient have the bits of nn's functions, which know x and y."""
    y, backward = MaxPooling2D(*how)(x, training=True)
    assert_same_bits(y, nn.max_pool2d(x, *how))
    dy = dy_of(y.shape, x.dtype)
    assert_same_bits(backward(dy), nn.max_pool_grad(x, y, dy, *how))


def taps(x, how):
    """The byte of each result, from the kernel and from the reference's argmax."""
    vertical, horizontal = windows.pooling(x.shape, *how, "x")
    y = np.empty((len(x), vertical.out, horizontal.out, x.shape[3]), x.dtype)
    where = np.full(y.shape, 99, np.uint8)
    pool.max_pool(y, None, where, x, vertical, horizontal, 1)
    _, argmax = ref.max_pool_with_argmax(x, *how)
    pixel = argmax // x.shape[3]
    starts = [
        np.arange(axis.out).reshape(shape) * axis.stride - axis.before
        for axis, shape in ((vertical, (1, -1, 1, 1)), (horizontal, (1, 1, -1, 1)))
    ]
    row, column = pixel // x.shape[2] - starts[0], pixel % x.shape[2] - starts[1]
    return where, row * horizontal.kernel + column


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 8, 17, 32, 70])
def test_the_layer_has_the_bits_of_the_functions(channels, dtype):
    shapes = [(2, 6, 6), (1, 7, 9), (3, 5, 4), (1, 13, 12)]
    sizes = [(2, 2), (3, 2), (3, 1), (2, 1), (1, 1), (2, 3), ((1, 3), 1), ((4, 3), (1, 2)), (5, 2), (4, 4)]
    for shape, (ksize, strides), padding in itertools.product(shapes, sizes, ("SAME", "VALID", EXPLICIT)):
        if padding != "SAME" and (min(shape[1:]) < np.max(ksize) or np.min(ksize) == 1):
            continue  # windows that do not fit, or see padding alone
        for values, dy_of in itertools.product((normal, special), (normal, signed_zeros)):
            x = values((*shape, channels), dtype)
            check_layer(x, dy_of, (ksize, strides, padding))


@settings(max_examples=150)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 14), st.integers(1, 14), st.integers(1, 70)),
    ksize=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    dtype=st.sampled_from(DTYPES),
    values=st.sampled_from([normal, special]),
)
def test_any_layer_has_the_bits_of_the_functions(shape, ksize, strides, dtype, values):
    check_layer(values(shape, dtype), signed_zeros, (ksize, strides, "SAME"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", [(2, 2, "SAME"), (3, 2, "SAME"), (3, 1, EXPLICIT), ((3, 4), (2, 1), "SAME")])
def test_a_byte_is_the_tap_of_the_first_maximum(how, dtype):
    for channels, values in itertools.product((1, 5, 16, 19, 40), (normal, special)):
        where, expected = taps(values((2, 7, 9, channels), dtype), how)
        np.testing.assert_array_equal(where, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_against_the_twin(dtype):
    for channels, (ksize, strides) in itertools.product((3, 16, 33), ((2, 2), (3, 2), (3, 1), (4, 3))):
        x = special((2, 9, 8, channels), dtype)
        y, backward = MaxPooling2D(ksize, strides, "same")(x, training=True)
        dy = np.round(8 * normal(y.shape, dtype))  # sums of whole numbers are exact
        expected = ref.max_pool_grad(x, y, dy, ksize, strides, "SAME")
        np.testing.assert_array_equal(backward(dy), expected)


@pytest.mark.parametrize("window", [(15, 17), (17, 15), (16, 16), (20, 13)])
def test_windows_of_255_pixels_and_more(window):
    """A byte tells 255 taps apart; the gradients of larger windows are added by argmax."""
    for strides in (1, 3):
        x = special((2, 22, 21, 3), np.float32)
        check_layer(x, normal, (window, strides, "SAME"))
    x = np.zeros((1, 22, 21, 3), np.float32)
    x[0, -1, -1] = 1  # the last tap of the last window
    check_layer(x, normal, (window, 1, "VALID"))


@pytest.mark.parametrize("how", [(2, 2, "SAME"), (3, 2, "SAME"), (3, 1, "SAME"), ((4, 5), (3, 2), "SAME")])
def test_the_same_bits_for_any_number_of_threads(how, eager_threads):
    x = special((3, 11, 13, 20), np.float32)
    bits = set()
    for threads in (1, 2, 3, 4, 7):
        with fastconv.num_threads(threads):
            y, backward = MaxPooling2D(*how)(x, training=True)
            dy = normal(y.shape, np.float32)
            bits.add(y.tobytes() + backward(dy).tobytes() + nn.max_pool_grad(x, y, dy, *how).tobytes())
    assert len(bits) == 1


@pytest.mark.parametrize("channels", [48, 50])
@pytest.mark.parametrize(("ksize", "strides"), [(2, 2), (3, 2), (3, 1)])
def test_a_gradient_larger_than_the_caches(ksize, strides, channels):
    """It is written past them where it is aligned, as an arena's memory is."""
    x = normal((2, 300, 160, channels), np.float32)
    assert x.nbytes > 16 << 20
    with memory.reusing(memory.Arena()):
        check_layer(x, normal, (ksize, strides, "SAME"))


def test_pixels_that_no_window_sees_have_no_gradient():
    x = normal((2, 9, 10, 5), np.float32)
    y, backward = MaxPooling2D(2, 4)(x, training=True)
    dx = backward(np.ones_like(y))
    assert dx.sum() == y.size and not dx[:, 2:4].any() and not dx[:, :, 6:8].any() and not dx[:, 8:].any()


def test_neither_input_nor_result_is_kept():
    x = normal((2, 6, 6, 3), np.float32)
    y, backward = MaxPooling2D(2)(x, training=True)
    shape, gone = y.shape, [weakref.ref(x), weakref.ref(y)]
    del x, y
    assert [ref() for ref in gone] == [None, None]
    assert backward(np.ones(shape, np.float32)).sum() == np.prod(shape)


def test_the_gradients_dtype_is_that_of_the_functions():
    for x_dtype, dy_dtype in itertools.product((np.float32, np.float64, np.int32), (np.float32, np.float64)):
        x = np.round(9 * normal((1, 4, 4, 2), np.float64)).astype(x_dtype)
        y, backward = MaxPooling2D(2)(x, training=True)
        dy = normal(y.shape, dy_dtype)
        assert_same_bits(backward(dy), nn.max_pool_grad(x, y, dy, 2, 2, "VALID"))


def test_an_empty_batch_and_a_wrong_gradient():
    y, backward = MaxPooling2D(2)(np.ones((0, 4, 4, 2), np.float32), training=True)
    assert y.shape == (0, 2, 2, 2) and backward(y).shape == (0, 4, 4, 2)
    y, backward = MaxPooling2D(2)(np.ones((1, 4, 4, 2), np.float32), training=True)
    with pytest.raises(ValueError, match=r"grad must have shape \(1, 2, 2, 2\).* not \(1, 2, 1, 2\)"):
        backward(y[:, :, :1])
