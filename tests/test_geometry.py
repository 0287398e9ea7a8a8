"""Padding and window arithmetic against brute force, the document's sizes, TensorFlow's formula."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastconv import geometry

SMALL = list(itertools.product(range(1, 8), repeat=4))  # size, kernel, stride, dilation


def positions(size, kernel, stride, dilation):
    """How many windows fit into `size` pixels, by trying each start."""
    return sum(start + dilation * (kernel - 1) < size for start in range(0, size, stride))


def pairs(a):
    """Every (output pixel, tap, input pixel) of the convolution, from the module's own formula."""
    for out, tap in itertools.product(range(a.out), range(a.kernel)):
        pixel = out * a.stride - a.before + tap * a.dilation
        if 0 <= pixel < a.size:
            yield out, tap, pixel


def swept(sweep, source_size):
    """Every (result pixel, tap, source pixel) of a Sweep, from the docstring of Sweep."""
    for i, (tap, offset) in itertools.product(range(sweep.count), sweep.taps):
        source = sweep.origin + i * sweep.step + offset
        if 0 <= source < source_size:
            yield sweep.place + i * sweep.place_step, tap, source


def test_same_pads_the_least_that_gives_every_stride_step_a_window():
    for size, kernel, stride, dilation in SMALL:
        a = geometry.axis(size, kernel, stride, dilation, "SAME")
        out, total = -(-size // stride), 0
        while positions(size + total, kernel, stride, dilation) < out:
            total += 1
        assert a == (size, kernel, stride, dilation, total // 2, total - total // 2, out)


def test_valid_and_explicit_count_the_windows_that_fit():
    for size, kernel, stride, dilation in SMALL:
        for before, after in ((0, 0), (1, 0), (0, 2), (3, 1)):
            a = geometry.axis(size, kernel, stride, dilation, (before, after))
            assert max(a.out, 0) == positions(before + size + after, kernel, stride, dilation)
        assert geometry.axis(size, kernel, stride, dilation, "VALID") == geometry.axis(
            size, kernel, stride, dilation, (0, 0)
        )


@pytest.mark.parametrize(("size", "kernel", "stride", "ends"), [(224, 7, 2, (2, 3)), (6, 3, 2, (0, 1))])
def test_the_odd_pixel_of_same_comes_after(size, kernel, stride, ends):
    a = geometry.axis(size, kernel, stride, 1, "SAME")
    assert (a.before, a.after) == ends


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "out"),
    [
        (7, 3, 1, "VALID", 5),
        (7, 3, 2, "VALID", 3),
        (7, 3, 1, (1, 1), 7),
        (9, 3, 1, "VALID", 7),
        (7, 3, 1, "SAME", 7),
        (32, 5, 1, "VALID", 28),
        (28, 3, 2, "SAME", 14),
        (227, 11, 4, "VALID", 55),
        (55, 3, 2, "VALID", 27),
    ],
)
def test_the_documents_sizes(size, kernel, stride, padding, out):
    assert geometry.axis(size, kernel, stride, 1, padding).out == out


def check_sweeps(a):
    """Both directions meet exactly the convolution's pairs; the gradient reaches each pixel once."""
    expected = Counter(pairs(a))
    forward = geometry.forward_sweep(a)
    assert Counter(swept(forward, a.size)) == expected
    backward = geometry.input_gradient_sweeps(a)
    reached = Counter((out, tap, pixel) for s in backward for pixel, tap, out in swept(s, a.out))
    assert reached == expected
    written = sorted(s.place + i * s.place_step for s in backward for i in range(s.count))
    assert written == list(range(a.size))
    for sweep in [forward, *backward]:
        offsets = [offset for _, offset in sweep.taps]
        assert min(offsets, default=0) >= 0 and sweep.extent == max(offsets, default=0) + 1


@pytest.mark.parametrize("padding", ["SAME", "VALID", (0, 1), (2, 0), (3, 4)], ids=str)
def test_sweeps_on_all_small_axes(padding):
    for size, kernel, stride, dilation in SMALL:
        if max(size, kernel, stride, dilation) <= 5:
            a = geometry.axis(size, kernel, stride, dilation, padding)
            if a.out >= 1:
                check_sweeps(a)


@given(
    size=st.integers(1, 60),
    kernel=st.integers(1, 12),
    stride=st.integers(1, 15),
    dilation=st.integers(1, 9),
    padding=st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(st.integers(0, 20), st.integers(0, 20))),
)
def test_sweeps_on_any_axis(size, kernel, stride, dilation, padding):
    a = geometry.axis(size, kernel, stride, dilation, padding)
    if a.out >= 1:
        check_sweeps(a)


@given(
    size=st.integers(1, 10**12),
    kernel=st.integers(1, 10**6),
    stride=st.integers(1, 10**6),
    dilation=st.integers(1, 10**6),
)
def test_same_is_tensorflows_formula_at_any_size(size, kernel, stride, dilation):
    a = geometry.axis(size, kernel, stride, dilation, "SAME")
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    assert (a.out, a.before, a.before + a.after) == (-(-size // stride), total // 2, total)
    assert 0 <= a.after - a.before <= 1
