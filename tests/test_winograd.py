"""Winograd against the float64 twin: every corner of the tiling, the error that is promised, the chooser."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import PRODUCT_SUM

import fastconv
from fastconv import _algorithms, geometry, nn, reference
from fastconv._kernels import winograd

# (N, H, W, C, K, taps, padding): whole and cut tiles, one tile, fewer channels than lanes, several panels;
# and filters of one row or column
CORNERS = [
    (1, 1, 1, 1, 1, 3, "SAME"),
    (1, 3, 2, 2, 3, 5, "SAME"),
    (2, 4, 4, 8, 16, 3, "SAME"),
    (2, 7, 7, 5, 70, 3, "SAME"),
    (3, 9, 13, 17, 33, 3, "VALID"),
    (2, 6, 11, 33, 9, 5, "VALID"),
    (1, 8, 5, 16, 130, 5, "SAME"),
    (2, 10, 7, 12, 20, 3, [[0, 0], [2, 0], [0, 3], [0, 0]]),
    (40, 7, 7, 16, 40, 3, "SAME"),
    (2, 5, 6, 16, 24, 3, "SAME"),
    (1, 1, 9, 3, 5, (1, 3), "SAME"),
    (2, 9, 1, 8, 16, (3, 1), "SAME"),
    (2, 7, 10, 17, 70, (1, 3), "VALID"),
    (3, 13, 5, 33, 20, (3, 1), "SAME"),
    (30, 6, 7, 16, 40, (1, 5), "SAME"),
    (2, 11, 6, 20, 9, (5, 1), [[0, 0], [3, 0], [0, 2], [0, 0]]),
    # a last tile of 3 to 6 points each way: each has a function of its own
    *((2, h, w, 9, 10, 3, "SAME") for h in range(5, 9) for w in range(5, 9)),
]

# The document's networks from their second layer on, at a small batch.
LAYERS = {
    "MNIST 2": (8, 14, 14, 32, 64, 3),
    "MNIST 3": (16, 7, 7, 64, 128, 3),
    "AlexNet 2": (1, 27, 27, 96, 256, 5),
    "AlexNet 4": (4, 13, 13, 384, 384, 3),
    "GoogLeNet 3a 5x5": (2, 28, 28, 16, 32, 5),
    "ResNet 56": (1, 56, 56, 64, 64, 3),
    "1x3": (4, 17, 17, 128, 192, (1, 3)),
    "5x1": (4, 17, 17, 128, 192, (5, 1)),
}


def relative_error(result: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(result - exact).max() / np.abs(exact).max())


def arrays(n, h, w, c, k, taps, dtype, padding="SAME"):
    """ReLU'd input, He-scaled filters, output gradient."""
    rng = np.random.default_rng(n * h + c * k)
    x = np.maximum(rng.standard_normal((n, h, w, c)), 0).astype(dtype)
    height, width = taps if isinstance(taps, tuple) else (taps, taps)
    filters = rng.standard_normal((height, width, c, k)) * np.sqrt(2 / (height * width * c))
    filters = filters.astype(dtype)
    shape = nn.conv2d(x[:0], filters, 1, padding).shape[1:]
    return x, filters, rng.standard_normal((n, *shape)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("corner", CORNERS, ids=str)
def test_corners_equal_the_twin(corner, dtype):
    *shape, padding = corner
    x, filters, dy = arrays(*shape, dtype, padding)
    limit = getattr(PRODUCT_SUM, np.dtype(dtype).name)
    bias = np.linspace(-1, 1, filters.shape[3]).astype(dtype)
    x64, filters64, dy64 = (a.astype(np.float64) for a in (x, filters, dy))
    forward = nn.conv2d(x, filters, 1, padding, bias=bias, algorithm="winograd")
    assert relative_error(forward, reference.conv2d(x64, filters64, 1, padding, bias=bias)) < limit
    fused = nn.conv2d(x, filters, 1, padding, bias=bias, activation="relu", algorithm="winograd")
    np.testing.assert_array_equal(fused, np.maximum(forward, 0))
    dx = nn.conv2d_backprop_input(x.shape, filters, dy, 1, padding, algorithm="winograd")
    assert relative_error(dx, reference.conv2d_backprop_input(x.shape, filters64, dy64, 1, padding)) < limit
    dw = nn.conv2d_backprop_filter(x, filters.shape, dy, 1, padding, algorithm="winograd")
    assert relative_error(dw, reference.conv2d_backprop_filter(x64, filters.shape, dy64, 1, padding)) < limit


# (N, H, W, C, K, taps, stride, padding): pixels side by side and phase by phase, phases that lack the last
# tap and such that do not, every number of points of the last tile, filters transformed where they are needed
STRIDED = [
    (1, 2, 3, 1, 1, 3, 2, "SAME"),
    (2, 13, 15, 3, 5, 3, 2, "SAME"),
    (2, 23, 19, 9, 33, 5, 2, "VALID"),
    (1, 23, 19, 7, 9, 4, 2, "SAME"),
    (2, 30, 31, 4, 17, 7, 2, [[0, 0], [3, 2], [4, 3], [0, 0]]),
    (1, 23, 19, 7, 9, 5, 3, "SAME"),
    (1, 25, 20, 17, 20, 9, 2, "SAME"),
    (2, 40, 61, 3, 20, 11, 4, "SAME"),
    (1, 14, 14, 150, 40, 3, 2, "SAME"),
    (30, 9, 9, 40, 40, 3, 2, "VALID"),
    (2, 36, 33, 3, 40, 16, 4, "VALID"),
    (1, 2, 1, 5, 9, 7, 3, [[0, 0], [9, 8], [12, 7], [0, 0]]),
    (2, 1, 9, 16, 9, 4, 3, [[0, 0], [5, 0], [0, 0], [0, 0]]),  # all windows lie before the image
    (2, 9, 1, 16, 9, 4, 3, [[0, 0], [0, 0], [5, 0], [0, 0]]),
    *((2, h, w, 9, 10, 3, 2, "SAME") for h in range(11, 20, 2) for w in range(11, 20, 2)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("corner", STRIDED, ids=str)
def test_strided_corners_equal_the_twin(corner, dtype):
    *shape, taps, stride, padding = corner
    x, filters, _ = arrays(*shape, taps, dtype)
    bias = np.linspace(-1, 1, filters.shape[3]).astype(dtype)
    y = nn.conv2d(x, filters, stride, padding, bias=bias, algorithm="winograd")
    exact = reference.conv2d(x.astype(np.float64), filters.astype(np.float64), stride, padding, bias=bias)
    assert relative_error(y, exact) < getattr(PRODUCT_SUM, np.dtype(dtype).name)


@pytest.mark.parametrize(
    ("size", "channels", "taps", "stride"),
    [(6, 1, 3, 2), (8, 9, 3, 2), (5, 2, 4, 2), (20, 3, 7, 4), (34, 20, 9, 8)],
)
def test_a_pixel_that_no_window_holds_changes_nothing(size, channels, taps, stride):
    """VALID leaves the last rows and columns over, which the last tile's points see."""
    x, filters, _ = arrays(2, size, size, channels, 9, taps, np.float32)
    expected = nn.conv2d(x, filters, stride, "VALID", algorithm="winograd")
    seen = (expected.shape[1] - 1) * stride + taps
    assert seen < size
    x[:, seen:] = np.nan
    x[:, :, seen:] = 1e30
    assert nn.conv2d(x, filters, stride, "VALID", algorithm="winograd").tobytes() == expected.tobytes()


def test_a_nan_reaches_no_result_of_another_tile():
    x, filters, _ = arrays(2, 40, 40, 3, 9, 5, np.float32)
    expected = nn.conv2d(x, filters, 2, "SAME", algorithm="winograd")
    x[0, 20, 20, 1] = np.nan
    y = nn.conv2d(x, filters, 2, "SAME", algorithm="winograd")
    rows, columns = (np.unique(places) for places in np.isnan(y[0]).any(axis=-1).nonzero())
    assert rows.tolist() == columns.tolist() == [8, 9, 10, 11]
    y[0, 8:12, 8:12] = expected[0, 8:12, 8:12]
    np.testing.assert_array_equal(y, expected)


def test_strided_groups():
    x, filters, _ = arrays(2, 23, 20, 6, 40, 5, np.float32)
    y = nn.conv2d(x, filters[:, :, :3], 2, "SAME", groups=2, algorithm="winograd")
    alone = [
        nn.conv2d(
            x[..., 3 * g : 3 * g + 3], filters[:, :, :3, 20 * g : 20 * g + 20], 2, "SAME", algorithm="direct"
        )
        for g in (0, 1)
    ]
    assert relative_error(y, np.concatenate(alone, axis=-1)) < PRODUCT_SUM.float32


@pytest.mark.parametrize(
    "layer",
    [
        (1, 227, 227, 3, 96, 11, 4, "VALID"),
        (1, 224, 224, 3, 64, 7, 2, "SAME"),
        (2, 56, 56, 128, 128, 3, 2, [[0, 0], [1, 1], [1, 1], [0, 0]]),
    ],
    ids=str,
)
def test_float32_error_on_the_networks_strided_layers(layer):
    *shape, taps, stride, padding = layer
    x, filters, _ = arrays(*shape, taps, np.float32)
    y = nn.conv2d(x, filters, stride, padding)
    assert y.tobytes() == nn.conv2d(x, filters, stride, padding, algorithm="winograd").tobytes()
    exact = nn.conv2d(x.astype(np.float64), filters.astype(np.float64), stride, padding, algorithm="direct")
    assert relative_error(y, exact) < PRODUCT_SUM.float32


@pytest.mark.parametrize("algorithm", ["auto", "direct"])
@pytest.mark.parametrize("name", LAYERS)
def test_float32_error_on_the_networks_layers(name, algorithm):
    x, filters, dy = arrays(*LAYERS[name], np.float32)
    x64, filters64, dy64 = (a.astype(np.float64) for a in (x, filters, dy))
    y = nn.conv2d(x, filters, 1, "SAME", algorithm=algorithm)
    assert relative_error(y, nn.conv2d(x64, filters64, 1, "SAME", algorithm="direct")) < PRODUCT_SUM.float32
    dx = nn.conv2d_backprop_input(x.shape, filters, dy, 1, "SAME", algorithm=algorithm)
    exact = nn.conv2d_backprop_input(x.shape, filters64, dy64, 1, "SAME", algorithm="direct")
    assert relative_error(dx, exact) < PRODUCT_SUM.float32
    dw = nn.conv2d_backprop_filter(x, filters.shape, dy, 1, "SAME", algorithm=algorithm)
    exact = nn.conv2d_backprop_filter(x64, filters.shape, dy64, 1, "SAME", algorithm="direct")
    assert relative_error(dw, exact) < PRODUCT_SUM.float32


@pytest.mark.parametrize(
    "layer",
    [
        LAYERS["MNIST 3"],
        (2, 7, 7, 130, 200, 3),
        (1, 29, 27, 1500, 40, 3),
        (1, 61, 66, 300, 200, 3),
        (5, 13, 13, 16, 40, 3),
        (1, 4, 4, 3, 70, 3),
    ],
    ids=str,
)
def test_same_bits_for_any_number_of_threads(layer, eager_threads):
    """How tiles and panels are cut into tasks depends on their number; the second layer's tasks transform
    filters of their own, and those of the third and fourth if there are panels enough for the threads: the
    fourth's then for two blocks of tiles, one after the other."""
    x, filters, dy = arrays(*layer, np.float32)

    def bits(threads):
        return [
            a.tobytes()
            for a in (
                nn.conv2d(x, filters, 1, "SAME", algorithm="winograd", num_threads=threads),
                nn.conv2d_backprop_input(
                    x.shape, filters, dy, 1, "SAME", algorithm="winograd", num_threads=threads
                ),
                nn.conv2d_backprop_filter(
                    x, filters.shape, dy, 1, "SAME", algorithm="winograd", num_threads=threads
                ),
            )
        ]

    alone = bits(1)
    assert all(bits(threads) == alone for threads in (2, 3, 4, 7))


@pytest.mark.parametrize(
    "layer",
    [
        (3, 40, 37, 3, 70, 11, 4),
        (2, 23, 20, 33, 40, 3, 2),
        (1, 9, 9, 150, 40, 3, 2),
        (8, 28, 28, 96, 64, 3, 2),
    ],
    ids=str,
)
def test_same_bits_of_strided_filters_for_any_number_of_threads(layer, eager_threads):
    *shape, taps, stride = layer
    x, filters, _ = arrays(*shape, taps, np.float32)
    how = {"strides": stride, "padding": "SAME", "algorithm": "winograd"}
    alone = nn.conv2d(x, filters, num_threads=1, **how).tobytes()
    assert all(nn.conv2d(x, filters, num_threads=n, **how).tobytes() == alone for n in (2, 3, 4, 7))


@pytest.mark.parametrize(
    ("images", "size", "taps", "stride", "channels", "filters", "expected"),
    [
        (100, 14, 3, 1, 32, 64, True),
        (100, 14, 5, 1, 32, 64, True),
        (100, 14, 3, 2, 32, 64, True),
        (100, 14, 3, 2, 16, 32, False),
        (100, 32, 3, 2, 3, 64, False),
        (1, 28, 3, 2, 64, 64, False),
        (1, 56, 3, 2, 64, 128, True),
        (16, 56, 3, 2, 128, 256, False),
        (1, 227, 11, 4, 3, 96, True),
        (8, 224, 7, 2, 3, 64, True),
        (100, 28, 11, 2, 32, 32, False),
        (100, 28, 2, 2, 32, 32, False),
        (100, 28, (5, 3), 2, 32, 32, False),
        (100, 14, 1, 1, 32, 64, False),
        (100, 28, 3, 1, 1, 32, False),
        (100, 14, 3, 1, 32, 7, False),
        (1, 14, 3, 1, 256, 256, True),
        (1, 7, 3, 1, 512, 512, False),
        (2, 7, 3, 1, 49, 64, False),
        (2, 7, 3, 1, 50, 64, True),
        (1, 14, 3, 1, 32, 64, True),
        (8, 17, (1, 3), 1, 48, 48, True),
        (1, 9, (1, 3), 1, 48, 48, True),
        (1, 7, (1, 3), 1, 50, 50, False),
        (8, 17, (5, 1), 1, 48, 48, True),
        (8, 17, (1, 3), 1, 47, 48, False),
        (8, 17, (1, 7), 1, 64, 64, False),
        (8, 17, (3, 5), 1, 64, 64, False),
    ],
)
def test_auto(images, size, taps, stride, channels, filters, expected):
    both = taps if isinstance(taps, tuple) else (taps, taps)
    axes = [geometry.axis(size, kernel, stride, 1, "SAME") for kernel in both]
    assert _algorithms.winograd("auto", images, *axes, channels, filters) is expected
    assert not _algorithms.winograd("direct", images, *axes, channels, filters)


@pytest.mark.parametrize(
    ("size", "taps", "padding", "forward", "input_gradient"),
    [
        (7, 3, "SAME", True, True),
        (6, 3, "VALID", True, False),  # 4x4 results are one tile, 6x6 are four
        (5, 5, "VALID", False, False),  # one result takes its 25 products; its 25 sources nine tiles
        (2, 3, "SAME", True, True),  # four results take 16 products, not 36
        (1, 3, "SAME", False, False),
        (6, 5, "VALID", True, False),
    ],
)
def test_auto_counts_the_products(size, taps, padding, forward, input_gradient):
    axis = geometry.axis(size, taps, 1, 1, padding)
    how = ("auto", 1000, axis, axis, 16, 16)
    assert _algorithms.winograd(*how) is _algorithms.winograd(*how, "filter_gradient") is forward
    assert _algorithms.winograd(*how, "input_gradient") is input_gradient


def test_the_last_tile_takes_fewer_products():
    """A tile of n points gives n - taps + 1 results."""
    assert [winograd.cut(count, 3) for count in (1, 2, 3, 4, 5)] == [(1, 3), (1, 4), (1, 5), (1, 6), (2, 9)]
    assert [winograd.cut(count, 5) for count in (1, 2, 3)] == [(1, 5), (1, 6), (2, 11)]
    assert winograd.cut(7, 1) == (7, 7)
    # 3 taps, stride 2: phases of two taps and of one, which has no point infinity
    assert [winograd.cut(count, 3, 2) for count in (1, 4, 5, 6)] == [(1, 6), (1, 10), (1, 11), (2, 17)]
    assert winograd.cut(5, 4, 2) == (1, 12)
    assert winograd.cut(4, 11, 4) == (1, 23)


@pytest.mark.parametrize(
    ("taps", "strides", "dilations"),
    [(3, (1, 2), 1), (3, 1, 2), (3, 2, 2), (1, 1, 1), (7, 1, 1), (2, 2, 1), (9, 1, 1)],
)
def test_winograd_where_it_does_not_apply_is_an_error(taps, strides, dilations):
    x, filters = np.ones((1, 9, 9, 2)), np.ones((taps, taps, 2, 3))
    with pytest.raises(ValueError, match="algorithm"):
        nn.conv2d(x, filters, strides, "SAME", dilations, algorithm="winograd")


def test_winograd_for_the_gradients_of_strided_filters_is_an_error():
    x, filters, dy = np.ones((1, 9, 9, 2)), np.ones((3, 3, 2, 3)), np.ones((1, 5, 5, 3))
    with pytest.raises(ValueError, match="algorithm"):
        nn.conv2d_backprop_input(x.shape, filters, dy, 2, "SAME", algorithm="winograd")
    with pytest.raises(ValueError, match="algorithm"):
        nn.conv2d_backprop_filter(x, filters.shape, dy, 2, "SAME", algorithm="winograd")
    with pytest.raises(ValueError, match="algorithm"):
        nn.conv2d_transpose(dy, filters, x.shape, 2, "SAME", algorithm="winograd")


def test_few_tiles_and_the_filter_gradient():
    """With 32 tiles of 32 channels only the filters' gradient is direct."""
    x, filters, dy = arrays(8, 7, 7, 32, 32, 3, np.float32)
    results = {
        algorithm: (
            nn.conv2d(x, filters, 1, "SAME", algorithm=algorithm).tobytes(),
            nn.conv2d_backprop_input(x.shape, filters, dy, 1, "SAME", algorithm=algorithm).tobytes(),
            nn.conv2d_backprop_filter(x, filters.shape, dy, 1, "SAME", algorithm=algorithm).tobytes(),
        )
        for algorithm in ("auto", "direct", "winograd")
    }
    assert results["auto"] == (*results["winograd"][:2], results["direct"][2])
    assert len({bits for three in results.values() for bits in three}) == 6


@pytest.mark.parametrize(("channels", "expected"), [(64, False), (128, True)])
def test_the_filter_gradient_of_eight_tiles(channels, expected):
    axis = geometry.axis(7, 3, 1, 1, "SAME")
    how = ("auto", 2, axis, axis, channels, channels, "filter_gradient")
    assert _algorithms.winograd(*how) is expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "layer",
    [
        (3, 7, 6, 200, 170, 3),
        (1, 5, 9, 130, 95, 5),
        (2, 4, 3, 257, 64, 3),
        (1, 29, 27, 300, 301, 3),
        (1, 61, 66, 300, 200, 3),
        (1, 29, 27, 1500, 40, 3),
    ],
    ids=str,
)
def test_large_filters(layer, dtype):
    """The drivers share the sources' transform, and keep a part of one panel of the filters'. The last layer
    but one has more tiles than they take at once, the last one's panels are too few for several threads."""
    x, filters, dy = arrays(*layer, dtype)
    x64, filters64, dy64 = (a.astype(np.float64) for a in (x, filters, dy))
    most = getattr(PRODUCT_SUM, np.dtype(dtype).name)
    y = nn.conv2d(x, filters, 1, "SAME", algorithm="winograd")
    assert relative_error(y, reference.conv2d(x64, filters64, 1, "SAME")) < most
    dx = nn.conv2d_backprop_input(x.shape, filters, dy, 1, "SAME", algorithm="winograd")
    exact = reference.conv2d_backprop_input(x.shape, filters64, dy64, 1, "SAME")
    assert relative_error(dx, exact) < most


def test_the_context_and_the_environment_choose(python):
    x, filters, _ = arrays(8, 8, 8, 32, 32, 3, np.float32)
    direct = nn.conv2d(x, filters, 1, "SAME", algorithm="direct").tobytes()
    wino = nn.conv2d(x, filters, 1, "SAME", algorithm="winograd").tobytes()
    assert direct != wino
    with fastconv.algorithm("direct"):
        assert nn.conv2d(x, filters, 1, "SAME").tobytes() == direct
        assert nn.conv2d(x, filters, 1, "SAME", algorithm="winograd").tobytes() == wino
        with fastconv.algorithm("winograd"):
            assert nn.conv2d(x, filters, 1, "SAME").tobytes() == wino
            wished = nn.conv2d(x, filters, 1, "SAME", 2)  # it does not apply to dilations
            with pytest.raises(ValueError, match="winograd"):
                nn.conv2d(x, filters, 1, "SAME", 2, algorithm="winograd")
            np.testing.assert_array_equal(nn.conv2d(x, filters, 1, "SAME", 2, algorithm="direct"), wished)
        assert nn.conv2d(x, filters, 1, "SAME").tobytes() == direct
    assert nn.conv2d(x, filters, 1, "SAME").tobytes() == wino
    with pytest.raises(ValueError, match="name must be one of"), fastconv.algorithm("fft"):
        pass
    code = (
        "import numpy as np, zlib\nfrom fastconv import nn\n"
        "x = np.random.default_rng(0).standard_normal((8, 8, 8, 32), np.float32)\n"
        "f = np.random.default_rng(1).standard_normal((3, 3, 32, 32), np.float32)\n"
        "default = zlib.crc32(nn.conv2d(x, f, 1, 'SAME'))\n"
        "for a in ('direct', 'winograd'):\n"
        "    print(default == zlib.crc32(nn.conv2d(x, f, 1, 'SAME', algorithm=a)))"
    )
    assert python(code, FASTCONV_ALGORITHM="direct").split() == ["True", "False"]
    assert python(code, FASTCONV_ALGORITHM="winograd").split() == ["False", "True"]
    call = "from fastconv import nn\ntry: nn.conv2d([[[[1]]]], [[[[1]]]], 1, 'SAME')\n"
    wrong = call + "except ValueError as error: print(error)"
    assert "FASTCONV_ALGORITHM must be one of" in python(wrong, FASTCONV_ALGORITHM="fft")


def test_unknown_algorithm():
    with pytest.raises(ValueError, match=r"algorithm must be one of .* not 'fft'"):
        nn.conv2d(np.ones((1, 3, 3, 1)), np.ones((3, 3, 1, 1)), 1, "SAME", algorithm="fft")
