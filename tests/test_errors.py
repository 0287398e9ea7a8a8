"""Wrong arguments are named with their value; right ones come in any guise and stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv import nn

X = np.arange(2 * 6 * 5 * 3, dtype=np.float32).reshape(2, 6, 5, 3) % 7
W = np.arange(3 * 3 * 3 * 4, dtype=np.float32).reshape(3, 3, 3, 4) % 5
B = np.ones(4, np.float32)
DY = np.ones((2, 3, 3, 4), np.float32)  # of conv2d(X, W, 2, "SAME")
WD = np.arange(3 * 3 * 3 * 2, dtype=np.float32).reshape(3, 3, 3, 2) % 5
DYD = np.ones((2, 3, 3, 6), np.float32)  # of depthwise_conv2d(X, WD, 2, "SAME")
POOLED = np.ones((2, 3, 3, 3), np.float32)  # of max_pool2d(X, 2, 2, "SAME")
C = np.arange(1, 4, dtype=np.float32)  # a number for each channel of X
A, K, DA = np.ones((4, 6), np.float32), np.ones((6, 5), np.float32), np.ones((4, 5), np.float32)

# A right call of each operation, every argument by name.
WINDOW = {"strides": 2, "padding": "SAME"}
POOL = {"ksize": 2, **WINDOW}
RESPONSE = {"depth_radius": 1, "bias": 2.0, "alpha": 0.5, "beta": 0.75}
NORM = {"mean": C, "variance": C, "variance_epsilon": 0.001}
RIGHT = {
    "conv2d": {
        "input": X,
        "filters": W,
        **WINDOW,
        "dilations": 1,
        "bias": B,
        "activation": "relu",
        "groups": 1,
    },
    "conv2d_backprop_input": {
        "input_sizes": X.shape,
        "filters": W,
        "out_backprop": DY,
        **WINDOW,
        "dilations": 1,
        "groups": 1,
        "side_input": X,
    },
    "conv2d_backprop_filter": {
        "input": X,
        "filter_sizes": W.shape,
        "out_backprop": DY,
        **WINDOW,
        "dilations": 1,
        "groups": 1,
    },
    "depthwise_conv2d": {
        "input": X,
        "filter": WD,
        **WINDOW,
        "dilations": 1,
        "bias": np.ones(6, np.float32),
        "activation": "relu",
    },
    "depthwise_conv2d_backprop_input": {
        "input_sizes": X.shape,
        "filter": WD,
        "out_backprop": DYD,
        **WINDOW,
        "dilations": 1,
    },
    "depthwise_conv2d_backprop_filter": {
        "input": X,
        "filter_sizes": WD.shape,
        "out_backprop": DYD,
        **WINDOW,
        "dilations": 1,
    },
    "conv2d_transpose": {
        "input": DY,
        "filters": W,
        "output_shape": X.shape,
        **WINDOW,
        "dilations": 1,
        "bias": C,
        "activation": "relu",
    },
    "max_pool2d": {"input": X, **POOL},
    "max_pool_with_argmax": {"input": X, **POOL},
    "max_pool_grad": {"orig_input": X, "orig_output": POOLED, "grad": POOLED, **POOL},
    "avg_pool2d": {"input": X, **POOL},
    "avg_pool_grad": {"orig_input_shape": X.shape, "grad": POOLED, **POOL},
    "relu": {"features": X},
    "relu_grad": {"gradients": X, "features": X},
    "add": {"x": X, "y": X},
    "concat": {"values": [X, X + 1], "axis": 3},
    "split": {"value": X, "num_or_size_splits": (1, 2), "axis": -1},
    "sigmoid": {"x": X},
    "sigmoid_grad": {"y": X, "dy": X},
    "tanh": {"x": X},
    "tanh_grad": {"y": X, "dy": X},
    "bias_add": {"value": DY, "bias": B},
    "bias_add_grad": {"out_backprop": DY},
    "dense": {"inputs": A, "kernel": K, "bias": np.ones(5, np.float32), "activation": "relu"},
    "dense_backprop_input": {"kernel": K, "out_backprop": DA},
    "dense_backprop_kernel": {"inputs": A, "out_backprop": DA},
    "moments": {"x": X},
    "batch_normalization": {"x": X, **NORM, "offset": C, "scale": C, "side_input": X, "activation": "relu"},
    "batch_normalization_grad": {
        "dy": X,
        "x": X,
        **NORM,
        "scale": C,
        "is_training": True,
        "offset": C,
        "activation": "relu",
    },
    "local_response_normalization": {"input": X, **RESPONSE},
    "lrn_grad": {"input_grads": X, "input_image": X, "output_image": X, **RESPONSE},
    "dropout": {"x": X, "rate": 0.5, "seed": 3},
    "softmax": {"logits": A},
    "softmax_cross_entropy_with_logits": {"labels": A, "logits": A},
}
WITH_AXES = {  # arguments of a fixed number of axes
    **dict.fromkeys(["input", "orig_input", "orig_output", "grad", "filters", "filter"], 4),
    **dict.fromkeys(["input_grads", "input_image", "output_image"], 4),
    **dict.fromkeys(["inputs", "kernel"], 2),
    **dict.fromkeys(["bias", "mean", "variance", "offset", "scale"], 1),
}

# What is wrong, by argument: (value, how the message must show it).
NO_NUMBERS = [("abc", "abc|<U3"), (object(), "object"), ([[1], [1, 2]], "[[1], [1, 2]]")]
STEPS = [
    (0, "0"),
    (-1, "-1"),
    (1.5, "1.5"),
    ("2", "'2'"),
    (None, "None"),
    ((1, 2, 3), "(1, 2, 3)"),
    ((), "()"),
    ((2, 0), "(2, 0)"),
    ((2, 1, 1, 1), "(2, 1, 1, 1)"),
    ((1, 2, 2, 3), "(1, 2, 2, 3)"),
    (np.ones((1, 2), int), "(1, 2)"),
]
SIZES = [
    (5, "5"),
    ((1, 2, 3), "(1, 2, 3)"),
    ((1, 2, 3, -4), "-4"),
    ((1, 2, 3, 4.5), "4.5"),
    (None, "None"),
    ("abcd", "'abcd'"),
]
NO_FINITE_NUMBER = [
    (float("nan"), "nan"),
    (float("inf"), "inf"),
    ("1", "'1'"),
    (None, "None"),
    ([1, 2], "[1, 2]"),
]
WRONG = {
    "strides": STEPS,
    "dilations": STEPS,
    "ksize": STEPS,
    "padding": [
        ("FULL", "'FULL'"),
        ("", "''"),
        (None, "None"),
        (1, "1"),
        ([1, 1], "[1, 1]"),
        ([[0, 0], [1, 1], [1, 1]], "[[0, 0], [1, 1], [1, 1]]"),
        ([[1, 0], [1, 1], [1, 1], [0, 0]], "[[1, 0], [1, 1], [1, 1], [0, 0]]"),
        ([[0, 0], [1, -1], [1, 1], [0, 0]], "[[0, 0], [1, -1], [1, 1], [0, 0]]"),
        ([[0, 0], [1.5, 1], [1, 1], [0, 0]], "1.5"),
        ([[0, 0], [1, 1, 1], [1, 1], [0, 0]], "[1, 1, 1]"),
    ],
    "data_format": [("NCHW", "'NCHW'"), ("nhwc", "'nhwc'"), (None, "None"), (0, "0")],
    "activation": [("tanh", "'tanh'"), ("", "''"), (1, "1")],
    "num_threads": [(0, "0"), (-2, "-2"), (1.5, "1.5"), ("2", "'2'")],
    "input_sizes": SIZES,
    "filter_sizes": SIZES,
    "output_shape": SIZES,
    "groups": [(0, "0"), (-1, "-1"), (1.5, "1.5"), ("1", "'1'"), (None, "None"), (2, "2")],
    "orig_input_shape": SIZES,
    "rate": [(1, "1"), (-0.1, "-0.1"), (float("nan"), "nan"), (2, "2"), ("0.5", "'0.5'"), (None, "None")],
    "variance_epsilon": [(-0.001, "-0.001"), *NO_FINITE_NUMBER],
    "depth_radius": [(-1, "-1"), (1.5, "1.5"), ("2", "'2'"), (None, "None")],
    "alpha": NO_FINITE_NUMBER,
    "beta": NO_FINITE_NUMBER,
    "is_training": [("yes", "'yes'"), (2, "2"), (None, "None")],
    "seed": [(-1, "-1"), (1 << 64, str(1 << 64)), (0.5, "0.5"), (None, "None"), ("1", "'1'")],
}
# Arrays that do not fit the others, by operation and argument.
MISFITS = [
    ("conv2d", "filters", W[:, :, :2], "(3, 3, 2, 4)"),
    ("conv2d", "filters", W[:0], "(0, 3, 3, 4)"),
    ("conv2d", "bias", B[:3], "(3,)"),
    ("conv2d_backprop_input", "filters", W[:, :, :2], "(3, 3, 2, 4)"),
    ("conv2d_backprop_input", "out_backprop", DY[:1], "(1, 3, 3, 4)"),
    ("conv2d_backprop_input", "out_backprop", DY[..., :3], "(2, 3, 3, 3)"),
    ("conv2d_backprop_input", "input_sizes", (2, 6, 5, 4), "(2, 6, 5, 4)"),
    ("conv2d_backprop_input", "side_input", X[:1], "(1, 6, 5, 3)"),
    ("conv2d_backprop_input", "side_input", X[0], "(6, 5, 3)"),
    ("conv2d_backprop_filter", "filter_sizes", (3, 3, 2, 4), "(3, 3, 2, 4)"),
    ("conv2d_backprop_filter", "filter_sizes", (3, 0, 3, 4), "(3, 0, 3, 4)"),
    ("conv2d_backprop_filter", "out_backprop", DY[:, :2], "(2, 2, 3, 4)"),
    ("conv2d_backprop_filter", "out_backprop", DY[:1], "(1, 3, 3, 4)"),
    ("depthwise_conv2d", "filter", WD[:, :, :2], "(3, 3, 2, 2)"),
    ("depthwise_conv2d", "bias", B, "(4,)"),
    ("depthwise_conv2d_backprop_input", "filter", WD[:, :, :2], "(3, 3, 2, 2)"),
    ("depthwise_conv2d_backprop_input", "out_backprop", DYD[:1], "(1, 3, 3, 6)"),
    ("depthwise_conv2d_backprop_filter", "filter_sizes", (3, 3, 2, 2), "(3, 3, 2, 2)"),
    ("depthwise_conv2d_backprop_filter", "out_backprop", DYD[..., :4], "(2, 3, 3, 4)"),
    ("conv2d_transpose", "filters", W[:, :, :2], "(3, 3, 2, 4)"),
    ("conv2d_transpose", "input", DY[:, :2], "(2, 2, 3, 4)"),
    ("conv2d_transpose", "output_shape", (2, 8, 5, 3), "(2, 8, 5, 3)"),
    ("conv2d_transpose", "bias", B, "(4,)"),
    ("max_pool_grad", "orig_output", POOLED[:, :2], "(2, 2, 3, 3)"),
    ("max_pool_grad", "grad", POOLED[..., :2], "(2, 3, 3, 2)"),
    ("avg_pool_grad", "grad", POOLED[:, :2], "(2, 2, 3, 3)"),
    ("avg_pool_grad", "orig_input_shape", (2, 0, 5, 3), "only 0"),
    ("relu_grad", "gradients", X[:1], "(1, 6, 5, 3)"),
    ("add", "y", X[:1], "(1, 6, 5, 3)"),
    ("concat", "values", [X, X[:1]], "values[1]|(1, 6, 5, 3)"),
    ("concat", "values", [X, X[0]], "values[1]|(6, 5, 3)"),
    ("concat", "values", [X, X.astype(complex)], "complex128"),
    ("concat", "values", [], "[]"),
    ("concat", "values", 3, "3"),
    ("concat", "axis", 2, "2"),
    ("split", "value", np.float32(1), "0"),
    ("split", "axis", 0, "0"),
    ("split", "num_or_size_splits", 2, "2"),
    ("split", "num_or_size_splits", 0, "0"),
    ("split", "num_or_size_splits", None, "None"),
    ("split", "num_or_size_splits", (1, 1), "[1, 1]"),
    ("split", "num_or_size_splits", (4, -1), "-1"),
    ("split", "num_or_size_splits", (1.5, 1.5), "1.5"),
    ("sigmoid_grad", "dy", X[:1], "(1, 6, 5, 3)"),
    ("tanh_grad", "dy", X[:1], "(1, 6, 5, 3)"),
    ("bias_add", "bias", B[:3], "(3,)"),
    ("bias_add", "value", np.float32(1), "0"),
    ("bias_add_grad", "out_backprop", np.float32(1), "0"),
    ("moments", "x", np.float32(1), "0"),
    ("batch_normalization", "x", np.float32(1), "0"),
    ("batch_normalization", "mean", C[:2], "(2,)"),
    ("batch_normalization", "variance", B, "(4,)"),
    ("batch_normalization", "variance", None, "None"),
    ("batch_normalization", "offset", C[:1], "(1,)"),
    ("batch_normalization", "scale", B, "(4,)"),
    ("batch_normalization", "side_input", X[:1], "(1, 6, 5, 3)"),
    ("batch_normalization", "activation", "tanh", "'tanh'"),
    ("batch_normalization_grad", "activation", "tanh", "'tanh'"),
    ("batch_normalization_grad", "offset", B, "(4,)"),
    ("batch_normalization_grad", "dy", X[:1], "(1, 6, 5, 3)"),
    ("batch_normalization_grad", "mean", B, "(4,)"),
    ("batch_normalization_grad", "scale", B, "(4,)"),
    *(("local_response_normalization", "bias", value, shown) for value, shown in NO_FINITE_NUMBER),
    ("lrn_grad", "input_grads", X[:1], "(1, 6, 5, 3)"),
    ("lrn_grad", "output_image", X[:, :5], "(2, 5, 5, 3)"),
    ("dense", "kernel", K[:5], "(5, 5)"),
    ("dense", "bias", B, "(4,)"),
    ("dense_backprop_input", "out_backprop", DA[:, :4], "(4, 4)"),
    ("dense_backprop_kernel", "out_backprop", DA[:3], "(3, 5)"),
    ("softmax_cross_entropy_with_logits", "labels", A[:2], "(2, 6)"),
]


def wrong_calls():
    """(operation, argument, value, how the message shows it) for every argument of every operation."""
    for operation, right in RIGHT.items():
        extra = {"num_threads"} | ({"data_format"} if "strides" in right else set())
        for argument in [*right, *sorted(extra)]:
            for value, shown in WRONG.get(argument, []):
                yield operation, argument, value, shown
            if isinstance(right.get(argument), np.ndarray):
                yield operation, argument, right[argument].astype(complex), "complex128"
                for value, shown in NO_NUMBERS:
                    yield operation, argument, value, shown
            axes = WITH_AXES.get(argument)
            if axes and isinstance(right.get(argument), np.ndarray):  # lrn's bias is a number
                for value in (np.ones((1,) * (axes - 1), np.float32), np.ones((2,) * (axes + 1), np.float32)):
                    yield operation, argument, value, str(value.ndim)
    yield from MISFITS


def name_of(call):
    operation, argument, value, _ = call
    shown = f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)[:40]
    return f"{operation}-{argument}-{shown.split(' at ')[0]}"


@pytest.mark.parametrize("call", list(wrong_calls()), ids=name_of)
def test_a_wrong_argument_is_named_with_its_value(call):
    operation, argument, value, shown = call
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(nn, operation)(**{**RIGHT[operation], argument: value})
    message = str(caught.value)
    assert argument in message, message
    # An array of the wrong kind may be shown as it came or as NumPy understood it.
    assert any(form in message for form in shown.split("|")), message


@pytest.mark.parametrize("operation", RIGHT)
def test_the_right_calls_are_right(operation):
    getattr(nn, operation)(**RIGHT[operation])


@pytest.mark.parametrize(
    ("shape", "kernel", "padding", "dilations", "numbers"),
    [
        ((1, 4, 9, 1), (5, 2), "VALID", 1, ("5 pixels", "height", "only 4")),
        ((1, 9, 4, 1), (2, 5), "VALID", 1, ("5 pixels", "width", "only 4")),
        ((1, 5, 5, 1), (3, 3), "VALID", 3, ("7 pixels", "height", "only 5")),
        ((1, 4, 9, 1), (7, 1), [[0, 0], [1, 1], [0, 0], [0, 0]], 1, ("7 pixels", "only 4", "1 + 1")),
        ((1, 0, 5, 1), (3, 3), "SAME", 1, ("height", "only 0")),
    ],
)
def test_a_window_larger_than_the_padded_image_is_an_error_with_the_sizes(
    shape, kernel, padding, dilations, numbers
):
    x, w = np.zeros(shape), np.zeros((*kernel, 1, 1))
    calls = [
        lambda: nn.conv2d(x, w, 1, padding, dilations),
        lambda: nn.conv2d_backprop_input(shape, w, x, 1, padding, dilations),
        lambda: nn.conv2d_backprop_filter(x, w.shape, x, 1, padding, dilations),
    ]
    if dilations == 1:
        calls.append(lambda: nn.max_pool2d(x, kernel, 1, padding))
        calls.append(lambda: nn.avg_pool2d(x, kernel, 1, padding))
        calls.append(lambda: nn.avg_pool_grad(shape, x, kernel, 1, padding))
    for call in calls:
        with pytest.raises(ValueError) as caught:
            call()
        assert all(number in str(caught.value) for number in numbers), caught.value


def test_a_pool_window_of_padding_alone_is_an_error():
    for padding in ([[0, 0], [2, 0], [0, 0], [0, 0]], [[0, 0], [0, 0], [0, 2], [0, 0]]):
        for pool in (nn.max_pool2d, nn.avg_pool2d):
            with pytest.raises(ValueError, match="padding") as caught:
                pool(X, 2, 1, padding)
            assert str(padding) in str(caught.value)


# ------------------------------------------------------------ right, in any guise


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def reversed_view(a):
    return a[tuple(slice(None, None, -1) for _ in a.shape)].copy()[
        tuple(slice(None, None, -1) for _ in a.shape)
    ]


def gapped(a):
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan, a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def misaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    raw[:] = np.frombuffer(a.tobytes(), np.uint8)
    return raw.view(a.dtype).reshape(a.shape)


GUISES = {
    "plain": np.copy,
    "read-only": read_only,
    "negative strides": reversed_view,
    "gaps": gapped,
    "broadcast": lambda a: np.broadcast_to(a.copy(), a.shape),
    "Fortran order": np.asfortranarray,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "misaligned": misaligned,
    "list": np.ndarray.tolist,
    "tuple of arrays": tuple,
    "int64": lambda a: a.astype(np.int64),
    "uint8": lambda a: a.astype(np.uint8),
    "float16": lambda a: a.astype(np.float16),
    "subclass": lambda a: a.view(np.recarray),
    "float64": lambda a: a.astype(np.float64),
}


@pytest.mark.parametrize("guise", GUISES)
@pytest.mark.parametrize("operation", RIGHT)
def test_arrays_in_any_guise_give_the_same_and_stay_as_they_were(operation, guise):
    right = RIGHT[operation]
    expected = getattr(nn, operation)(**right)
    disguised = {name: GUISES[guise](v) for name, v in right.items() if isinstance(v, np.ndarray)}
    disguised = {**right, **disguised} if disguised else right
    before = {name: np.array(v).tobytes() for name, v in disguised.items() if name in right}
    results = getattr(nn, operation)(**disguised)
    for result, reference in zip(
        results if isinstance(results, (tuple, list)) else (results,),
        expected if isinstance(expected, (tuple, list)) else (expected,),
        strict=True,
    ):
        double = guise in ("float64", "list") and disguised is not right
        np.testing.assert_allclose(result, reference, rtol=1e-6, atol=1e-6)
        assert type(result) is np.ndarray and result.flags.c_contiguous and result.flags.writeable
        assert result.dtype == (np.float64 if double and reference.dtype == np.float32 else reference.dtype)
        for value in disguised.values():
            assert not (isinstance(value, np.ndarray) and np.shares_memory(result, value))
    for name, bits in before.items():
        assert np.array(disguised[name]).tobytes() == bits, name


def test_memory_mapped_arrays_are_read_where_they_are(tmp_path):
    for name, a in (("x", X), ("w", W)):
        np.save(tmp_path / f"{name}.npy", a)
    x, w = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xw")
    y = nn.conv2d(x, w, 2, "SAME")
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, nn.conv2d(X, W, 2, "SAME"))


@pytest.mark.parametrize("value", [2, 2.5, np.float32(-1), np.array(3)])
def test_zero_axes_stay_zero_axes(value):
    for result in (
        nn.relu(value),
        nn.relu_grad(value, value),
        nn.sigmoid(value),
        nn.sigmoid_grad(value, value),
        nn.tanh(value),
        nn.tanh_grad(value, value),
        nn.dropout(value, 0, seed=1),
    ):
        assert result.shape == ()
    assert nn.relu(value) == max(value, 0)


@pytest.mark.parametrize(
    "forms",
    [
        (
            2,
            np.int64(2),
            np.array(2),
            [2],
            (2, 2),
            [2, 2],
            np.array([2, 2]),
            (1, 2, 2, 1),
            np.array([1, 2, 2, 1]),
        ),
        ((1, 2), [1, 2], (1, 1, 2, 1), np.array([1, 2], np.uint8)),
    ],
    ids=str,
)
def test_forms_of_strides(forms):
    first = nn.conv2d(X, W, forms[0], "SAME")
    for form in forms[1:]:
        np.testing.assert_array_equal(nn.conv2d(X, W, form, "SAME"), first)
        np.testing.assert_array_equal(
            nn.max_pool2d(X, form, form, "SAME"), nn.max_pool2d(X, forms[0], forms[0], "SAME")
        )


def test_forms_of_padding_and_sizes():
    explicit = [[0, 0], [0, 1], [1, 1], [0, 0]]  # what SAME is here
    y = nn.conv2d(X, W, 2, "SAME")
    for form in ("same", explicit, np.array(explicit), tuple(map(tuple, explicit))):
        np.testing.assert_array_equal(nn.conv2d(X, W, 2, form), y)
    for sizes in (list(X.shape), np.array(X.shape)):
        assert nn.conv2d_backprop_input(sizes, W, y, 2, "SAME").shape == X.shape


LARGE_STEPS = """
import numpy as np
from fastconv import nn

x, w = np.ones((1, 5, 5, 1), np.float32), np.ones((3, 3, 1, 1), np.float32)

def right_or_refused(name, large, check):
    try:
        assert check(large), (name, large)
    except ValueError as error:
        assert name in str(error) and str(large) in str(error), error

grads = nn.conv2d_backprop_input, nn.conv2d_backprop_filter
one = w[:1, :1]

for large in (10**5, 10**9, 2**31, 2**32, 2**60, 2**63, 2**64):
    right_or_refused("strides", large, lambda s: nn.conv2d(x, w, s, "VALID").tolist() == [[[[9]]]])
    right_or_refused("strides", large, lambda s: nn.max_pool2d(x, 3, s, "SAME").tolist() == [[[[1]]]])
    right_or_refused("strides", large, lambda s: nn.avg_pool2d(x, 3, s, "SAME").tolist() == [[[[1]]]])
    right_or_refused("strides", large, lambda s: nn.avg_pool_grad(x.shape, one, 3, s, "SAME").sum() == 1)
    right_or_refused("strides", large, lambda s: grads[0](x.shape, w, one, s, "VALID").sum() == 9)
    right_or_refused("strides", large, lambda s: grads[1](x, w.shape, one, s, "VALID").sum() == 9)
    right_or_refused("dilations", large, lambda d: (nn.conv2d(x, w, 1, "SAME", d) == x).all())
    right_or_refused("dilations", large, lambda d: (grads[0](x.shape, w, x, 1, "SAME", d) == x).all())
    right_or_refused("dilations", large, lambda d: grads[1](x, w.shape, x, 1, "SAME", d).sum() == 25)
"""


def test_steps_far_larger_than_the_image_are_right_or_refused(python):
    """Never a crash (hence the process of its own), a hang or a demand for all memory."""
    python(LARGE_STEPS)


# ---- out= ----


def gradients_with_out():
    x, dy = np.ones((2, 5, 5, 3), np.float32), np.ones((2, 5, 5, 4), np.float32)
    return [
        (lambda out: nn.conv2d_backprop_filter(x, (3, 3, 3, 4), dy, 1, "SAME", out=out), (3, 3, 3, 4)),
        (
            lambda out: nn.conv2d_backprop_filter(x[..., :2], (3, 3, 1, 4), dy, 1, "SAME", groups=2, out=out),
            (3, 3, 1, 4),
        ),
        (
            lambda out: nn.depthwise_conv2d_backprop_filter(x, (3, 3, 3, 1), x, 1, "SAME", out=out),
            (3, 3, 3, 1),
        ),
        (lambda out: nn.dense_backprop_kernel(x.reshape(2, -1), dy.reshape(2, -1), out=out), (75, 100)),
        (lambda out: nn.bias_add_grad(dy, out=out), (4,)),
    ]


@pytest.mark.parametrize("case", range(5))
def test_out_is_written_and_returned(case):
    gradient, shape = gradients_with_out()[case]
    out = np.full(shape, np.nan, np.float32)
    assert gradient(out) is out
    np.testing.assert_array_equal(out, gradient(None))


@pytest.mark.parametrize("case", range(5))
def test_an_out_that_does_not_fit_is_refused(case):
    gradient, shape = gradients_with_out()[case]
    read_only = np.zeros(shape, np.float32)
    read_only.flags.writeable = False
    strided = np.zeros((*shape[:-1], 2 * shape[-1]), np.float32)[..., ::2]
    for out, error in [
        (np.zeros(shape), TypeError),
        ([1.0], TypeError),
        (np.zeros((*shape, 1), np.float32), ValueError),
        (read_only, ValueError),
        (strided, ValueError),
    ]:
        with pytest.raises(error, match="out must"):
            gradient(out)
