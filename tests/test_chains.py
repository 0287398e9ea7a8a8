"""Layers that are computed as one step: the same bits as the layers one after another."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tolerances
from tolerances import assert_close

import fastconv
from fastconv import _arguments as arguments
from fastconv import _chains as chains
from fastconv import nn
from fastconv._convolution import Convolution, plan, window
from fastconv.layers import (
    Activation,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dropout,
    Flatten,
    Layer,
    MaxPooling2D,
    ReLU,
    Residual,
    Sequential,
)


def pair(shape, conv, padding="same", rate=None, dtype=np.float32):
    """The chained net, and the same with an empty layer that keeps the chain from forming."""
    nets = []
    for between in ([], [Sequential([ReLU()])]):
        behind = [] if rate is None else [Dropout(rate)]
        layers = [Conv2D(**conv, activation="relu"), *between, MaxPooling2D(2, padding=padding), *behind]
        nets.append(Sequential(layers, input_shape=shape, seed=3, dtype=dtype))
    chained, plain = nets
    assert isinstance(chains.link(chained.layers)[0], chains.ConvPool)
    assert not any(isinstance(step, chains.ConvPool) for step in chains.link(plain.layers))
    return chained, plain


def images(n, shape, dtype=np.float32):
    return np.random.default_rng([n, *shape]).standard_normal((n, *shape)).astype(dtype)


def check(chained, plain, x):
    predicted, none = chained(x)
    assert none is None
    np.testing.assert_array_equal(predicted, plain(x)[0])
    results = []
    for net in (chained, plain):
        y, backward = net(x, training=True)
        dy = np.random.default_rng(5).standard_normal(y.shape).astype(y.dtype)
        net.gradients.fill(0)
        dx = backward(dy)
        results.append((y, dx, net))
    (y, dx, net), (plain_y, plain_dx, plain_net) = results
    np.testing.assert_array_equal(y, plain_y)
    np.testing.assert_array_equal(dx, plain_dx)
    np.testing.assert_array_equal(net.grads["conv2d/kernel"], plain_net.grads["conv2d/kernel"])
    if "conv2d/bias" in net.grads:
        expected = plain_net.grads["conv2d/bias"].astype(np.float64)
        assert_close(net.grads["conv2d/bias"], expected, tolerances.PRODUCT_SUM, scale=np.abs(dy).sum())
    assert net.gradients.any() == plain_net.gradients.any()


# images, input, convolution: each makes the drivers cut the work in another way
CASES = {
    "the first layer": (5, (28, 28, 1), {"filters": 32, "kernel_size": 3, "padding": "same"}),
    "a later layer": (9, (14, 14, 32), {"filters": 64, "kernel_size": 3, "padding": "same"}),
    "odd size": (9, (7, 7, 17), {"filters": 33, "kernel_size": 3, "padding": "same"}),
    "odd size, 5x5": (9, (13, 11, 9), {"filters": 10, "kernel_size": 5, "padding": "same"}),
    "valid": (3, (13, 12, 5), {"filters": 70, "kernel_size": 3}),
    "dilated": (2, (15, 18, 4), {"filters": 6, "kernel_size": 3, "dilation_rate": 2, "padding": "same"}),
    "large filter": (7, (8, 9, 5), {"filters": 20, "kernel_size": 7, "padding": "same"}),
    "1x1": (3, (9, 10, 20), {"filters": 130, "kernel_size": 1}),
    "one filter": (3, (9, 10, 20), {"filters": 1, "kernel_size": 3}),
    "one row, one column": (3, (1, 1, 3), {"filters": 4, "kernel_size": 3, "padding": "same"}),
    "few pixels": (1, (2, 2, 128), {"filters": 70, "kernel_size": 3, "padding": "same"}),
    "one row of windows": (1, (2, 700, 3), {"filters": 4, "kernel_size": 3, "padding": "same"}),
    "many small images": (300, (3, 3, 4), {"filters": 5, "kernel_size": 2, "padding": "same"}),
    "large filters": (1, (8, 9, 700), {"filters": 130, "kernel_size": 3, "padding": "same"}),
    "wide and deep": (1, (6, 90, 260), {"filters": 8, "kernel_size": 3, "padding": "same"}),
    "no bias": (4, (8, 8, 8), {"filters": 8, "kernel_size": 3, "use_bias": False}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_as_layer_by_layer(case, dtype):
    n, shape, conv = CASES[case]
    for padding, algorithm in (("same", "direct"), ("same", "winograd"), ("valid", "auto")):
        if padding == "valid" and min(shape[:2]) < 5:
            continue
        with fastconv.algorithm(algorithm):
            check(*pair(shape, conv, padding, dtype=dtype), images(n, shape, dtype))


@pytest.mark.parametrize("rate", [0, 0.3, 0.9])
def test_dropout_is_part_of_the_chain(rate):
    for n, shape, conv in (CASES["a later layer"], CASES["odd size"], CASES["one filter"]):
        chained, plain = pair(shape, conv, rate=rate)
        assert len(chains.link(chained.layers)) == 1
        check(chained, plain, images(n, shape))


def test_nan_and_dead_windows():
    n, shape, conv = CASES["odd size"]
    x = images(n, shape)
    x[1, 3, 4, 2], x[2, 0, 0, 0], x[3, 2, 2, 1] = np.nan, np.inf, -np.inf
    with fastconv.algorithm("direct"):
        check(*pair(shape, conv), x)
    check(*pair(shape, conv), np.zeros((n, *shape), np.float32))


def test_the_bits_do_not_depend_on_the_number_of_threads():
    n, shape, conv = CASES["a later layer"]
    for algorithm in ("direct", "winograd"):
        bits = set()
        for threads in (1, 2, 3, 7):
            net, _ = pair(shape, conv, rate=0.5)
            with fastconv.algorithm(algorithm), fastconv.num_threads(threads):
                y, backward = net(images(n, shape), training=True)
                dx = backward(y)
            bits.add(y.tobytes() + dx.tobytes() + net.gradients.tobytes())
        assert len(bits) == 1


def test_an_empty_batch():
    net, _ = pair((8, 8, 3), {"filters": 4, "kernel_size": 3}, rate=0.5)
    y, backward = net(np.zeros((0, 8, 8, 3)), training=True)
    net.gradients.fill(1)
    assert y.shape == (0, 3, 3, 4) and backward(y).shape == (0, 8, 8, 3)
    assert np.all(net.gradients == 1)  # a sum over nothing was added


def test_what_is_not_a_chain_stays_apart():
    def steps(*layers):
        net = Sequential([*layers, Flatten()], input_shape=(8, 8, 3))
        return [type(step).__name__ for step in chains.link(net.layers)]

    plain = Conv2D(4, 3)
    assert steps(plain, MaxPooling2D(2)) == ["Conv2D", "MaxPooling2D", "Flatten"]
    assert steps(Conv2D(4, 3, activation="relu"), MaxPooling2D(3)) == ["Conv2D", "MaxPooling2D", "Flatten"]
    assert steps(Conv2D(4, 3, activation="relu"), MaxPooling2D(2, 1)) == ["Conv2D", "MaxPooling2D", "Flatten"]
    assert steps(Conv2D(4, (1, 3), activation="relu"), MaxPooling2D(2))[0] == "Conv2D"
    assert steps(Conv2D(4, 3, 2, activation="relu"), MaxPooling2D(2))[0] == "Conv2D"
    explicit = [[0, 0], [1, 0], [1, 0], [0, 0]]
    assert steps(Conv2D(4, 3, activation="relu"), MaxPooling2D(2, padding=explicit))[0] == "Conv2D"

    class Mine(Conv2D):
        pass

    assert steps(Mine(4, 3, activation="relu"), MaxPooling2D(2))[0] == "Mine"
    assert steps(Conv2D(4, 3, activation="relu"), MaxPooling2D(2), Dropout(0.5)) == ["ConvPool", "Flatten"]


def test_a_gradient_of_another_shape_is_refused():
    net, _ = pair((8, 8, 3), {"filters": 4, "kernel_size": 3})
    _, backward = net(np.zeros((2, 8, 8, 3)), training=True)
    with pytest.raises(ValueError, match="dy must have shape"):
        backward(np.zeros((2, 6, 6, 4), np.float32))


# ---- batch normalization, the sum of a residual block, relu ----


class Apart(ReLU):
    """A relu that no chain takes for one, for it might do something else."""


def normalized(relu):
    return [Activation("tanh"), BatchNormalization(0.5), relu(), Conv2D(5, 1)]


def block(relu, projection):
    branch = [
        Conv2D(6, 3, padding="same"),
        BatchNormalization(0.5),
        relu(),
        Dropout(0.3),
        Conv2D(9, 1),
    ]
    shortcut = [Conv2D(9, 1), BatchNormalization(), Dropout(0.1)] if projection else None
    first = Conv2D(9, 1, use_bias=False)
    return [first, Residual([*branch, BatchNormalization(0.5)], shortcut), relu(), Conv2D(4, 1)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("layers", "links"),
    [
        (normalized, {"NormRelu"}),
        (lambda relu: block(relu, projection=True), {"ResidualRelu"}),
        (lambda relu: block(relu, projection=False), {"ResidualRelu"}),
    ],
    ids=["normalization", "projection", "identity"],
)
def test_normalization_has_the_same_bits_as_layer_by_layer(layers, links, dtype):
    shape, n = (7, 6, 3), 9
    nets = [Sequential(layers(relu), input_shape=shape, seed=2, dtype=dtype) for relu in (ReLU, Apart)]
    assert links <= {type(step).__name__ for step in chains.link(nets[0].layers)}
    assert not links & {type(step).__name__ for step in chains.link(nets[1].layers)}
    rng = np.random.default_rng(0)
    for net in nets:
        for path, view in net.weights.items():
            if path.endswith(("gamma", "beta")):  # of both signs, so that relu has something to do
                view[...] = np.random.default_rng(len(path)).standard_normal(view.shape)
    for step in range(3):
        x = rng.standard_normal((n, *shape)).astype(dtype)
        if step == 2:
            x[3, 2, 2, 1] = np.nan
        (y, backward), (plain_y, plain_backward) = (net(x, training=True) for net in nets)
        np.testing.assert_array_equal(y, plain_y)
        dy = rng.standard_normal(y.shape).astype(dtype)
        for net in nets:
            net.forget_gradients()
        np.testing.assert_array_equal(backward(dy), plain_backward(dy))
        np.testing.assert_array_equal(nets[0].gradients, nets[1].gradients)
        np.testing.assert_array_equal(nets[0].statistics, nets[1].statistics)
        if links == {"NormRelu"}:
            np.testing.assert_array_equal(nets[0](x)[0], nets[1](x)[0])
        assert nets[0].gradients.any()


CONV_NORM = {
    "1x1": (3, (9, 10, 20), {"filters": 37, "kernel_size": 1, "use_bias": False}),
    "no relu": (3, (9, 10, 20), {"filters": 130, "kernel_size": 3, "padding": "same"}),
    "one filter": CASES["one filter"],
    "strided": (3, (15, 18, 4), {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same"}),
    "strided, more channels": (3, (25, 18, 20), {"filters": 37, "kernel_size": 5, "strides": 2}),
    "dilated": CASES["dilated"],
    "many channels": (2, (5, 5, 700), {"filters": 20, "kernel_size": 3}),
    "few pixels": (1, (1, 1, 64), {"filters": 128, "kernel_size": 1}),
    "few pixels, no whole panel": (1, (2, 2, 64), {"filters": 131, "kernel_size": 1}),
    "dense": (5, (3, 3, 8), {"filters": 10, "kernel_size": 3}),
    "5x5": CASES["odd size, 5x5"],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CONV_NORM)
def test_convolution_and_normalization_in_one_pass(case, dtype):
    n, shape, conv = CONV_NORM[case]
    relu = [] if case == "no relu" else [ReLU]
    options = {"input_shape": shape, "seed": 1, "dtype": dtype}
    chained = Sequential([Conv2D(**conv), BatchNormalization(), *(make() for make in relu)], **options)
    behind = Sequential([BatchNormalization(), *(make() for make in relu)])
    plain = Sequential([Conv2D(**conv), behind], **options)
    assert [type(step).__name__ for step in chains.link(chained.layers)] == ["ConvNorm"]
    rng = np.random.default_rng(0)
    for view in chained.weights.values():
        if view.ndim == 1:
            view[...] = rng.standard_normal(view.shape)
    chained.weights["batch_normalization/moving_variance"][...] = rng.random(conv["filters"]) + 0.1
    plain.set_weights(chained.get_weights())
    x = images(n, shape, dtype)
    for algorithm in ("direct", "winograd"):
        with fastconv.algorithm(algorithm):
            assert_close(chained(x)[0], plain(x)[0].astype(np.float64), tolerances.PRODUCT_SUM)
            (y, backward), (plain_y, plain_backward) = chained(x, training=True), plain(x, training=True)
            np.testing.assert_array_equal(y, plain_y)
            for net in (chained, plain):
                net.forget_gradients()
            np.testing.assert_array_equal(backward(y), plain_backward(plain_y))
            np.testing.assert_array_equal(chained.gradients, plain.gradients)
    x[0, 0, 0, 0] = np.nan
    with fastconv.algorithm("direct"):
        np.testing.assert_array_equal(np.isnan(chained(x)[0]), np.isnan(plain(x)[0]))
    assert chained(x[:0])[0].shape == plain(x[:0])[0].shape


def test_a_part_of_a_model_takes_another_dtype():
    block = Sequential([Conv2D(8, 3, use_bias=True), BatchNormalization(), ReLU()], name="block")
    net = Sequential([block], input_shape=(6, 6, 4))
    x = images(2, (6, 6, 4), np.float64)
    y = net.get_layer("block")(x)[0]
    assert y.dtype == np.float64
    assert_close(net(x)[0], y, tolerances.PRODUCT_SUM)


# The last convolution of a residual block: each algorithm, and each way to cut its work.
SIDE = {
    **CONV_NORM,
    "a later layer": CASES["a later layer"],
    "odd size": CASES["odd size"],
    "wide and deep": CASES["wide and deep"],
    "few filters": (3, (9, 10, 20), {"filters": 3, "kernel_size": 1}),
    "identity": (4, (7, 9, 37), {"filters": 37, "kernel_size": 3, "padding": "same"}),
    "identity, 1x1": (4, (7, 9, 65), {"filters": 65, "kernel_size": 1, "use_bias": False}),
    "a row": (3, (9, 10, 20), {"filters": 21, "kernel_size": (1, 3), "padding": "same"}),
    "a column": (3, (9, 10, 20), {"filters": 21, "kernel_size": (5, 1)}),
}


def randomized(net, seed=0):
    """Biases and normalizations of both signs."""
    rng = np.random.default_rng(seed)
    for path, view in net.weights.items():
        if view.ndim == 1:
            view[...] = (
                rng.random(view.shape) + 0.1 if "variance" in path else rng.standard_normal(view.shape)
            )
    return net


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", SIDE)
def test_a_convolution_adds_the_shortcut(case, dtype):
    n, shape, conv = SIDE[case]

    def net(branch):
        shortcut = None if case.startswith("identity") else Conv2D(**conv)
        layers = [Residual([ReLU(), *branch], shortcut), ReLU()]
        return randomized(Sequential(layers, input_shape=shape, seed=1, dtype=dtype))

    chained = net([Conv2D(**conv), BatchNormalization()])
    plain = net([Conv2D(**conv), Sequential([BatchNormalization()])])
    assert [type(step).__name__ for step in chains.link(chained.layers)] == ["ResidualRelu"]
    assert [type(step).__name__ for step in chains.link(plain.layers)] == ["Residual", "ReLU"]
    x = images(n, shape, dtype)
    before = x.copy()
    for algorithm in ("direct", "winograd"):
        with fastconv.algorithm(algorithm):
            y = chained(x)[0]
            assert_close(y, plain(x)[0].astype(np.float64), tolerances.PRODUCT_SUM)
        assert y.min() == 0
    np.testing.assert_array_equal(x, before)
    x[0, 0, 0, 0] = np.nan
    with fastconv.algorithm("direct"):
        np.testing.assert_array_equal(np.isnan(chained(x)[0]), np.isnan(plain(x)[0]))
    assert chained(x[:0])[0].shape == plain(x[:0])[0].shape


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("filters", [3, 64, 99])
def test_a_side_input_comes_behind_gain_and_bias_and_before_relu(filters, kernel, groups, dtype):
    rng = np.random.default_rng(filters)
    channels = 30 if kernel == 3 else 630  # more than one block of the product's
    filters = filters // groups * groups
    x = rng.standard_normal((3, 7, 6, channels)).astype(dtype)
    w = rng.standard_normal((kernel, kernel, channels // groups, filters)).astype(dtype)
    gain, bias = rng.standard_normal((2, filters)).astype(dtype)
    for algorithm in ("direct", "winograd") if kernel == 3 else ("direct",):
        convolution = plan(x.shape, w.shape, window(1, "SAME", 1, algorithm), groups)
        side = 9 * rng.standard_normal(convolution.output_shape).astype(dtype)
        side[1, 2, 3, 1] = np.nan
        for how in ((bias, gain), (bias, None), (None, None)):
            y, apart = np.empty_like(side), np.empty_like(side)
            convolution.forward(apart, x, w, how[0], False, gain=how[1])
            apart += side
            for relu in (False, True):
                convolution.forward(y, x, w, how[0], relu, gain=how[1], side=side)
                expected = np.maximum(apart, 0) if relu else apart
                np.testing.assert_array_equal(np.isnan(y), np.isnan(side))
                assert_close(np.nan_to_num(y), np.nan_to_num(expected), tolerances.PRODUCT_SUM)
                replaced = side.copy()
                convolution.forward(replaced, x, w, how[0], relu, gain=how[1], side=replaced)
                np.testing.assert_array_equal(replaced, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "kernel", "filters"),
    [
        ((1, 1, 1, 900), 1, 70),  # the sums of a few pixels, added up in y
        ((3, 1, 1, 2500), 1, 2048),
        ((1, 5, 6, 700), 3, 70),  # products block by block
        ((2, 7, 6, 2200), 1, 99),
        ((1, 7, 7, 1100), 1, 1000),  # filters packed by each task
        ((1, 3, 3, 500), 1, 1030),  # and read where they lie
        ((2, 3, 4, 20), 1, 1),  # lanes along the window
    ],
)
def test_a_side_input_may_be_the_result(shape, kernel, filters, dtype):
    rng = np.random.default_rng(filters)
    x = rng.standard_normal(shape).astype(dtype)
    w = rng.standard_normal((kernel, kernel, shape[3], filters)).astype(dtype)
    convolution = plan(x.shape, w.shape, window(1, "SAME", 1, "direct"))
    side = rng.standard_normal(convolution.output_shape).astype(dtype)
    y, replaced = np.empty_like(side), side.copy()
    convolution.forward(y, x, w, None, True, side=side)
    convolution.forward(replaced, x, w, None, True, side=replaced)
    np.testing.assert_array_equal(replaced, y)


def narrow():
    """A branch of 6 channels."""
    first = [Conv2D(6, 3, padding="same"), BatchNormalization(), ReLU()]
    return [*first, Conv2D(6, 1), BatchNormalization()]


class Keeping(ReLU):
    """A layer that somebody derived to see what passes."""

    def __call__(self, x, training=False):
        self.seen, self.as_it_came = x, x.copy()
        return x, None


class Watched(Sequential):
    """A net that somebody derived for the same."""

    def __call__(self, x, training=False):
        self.seen, self.as_it_came = x, x.copy()
        return super().__call__(x, training)


# What stands before a residual's relu; how many sums are written where its shortcut lay.
OVERWRITING = {
    "after a chain": ([*narrow(), Residual(narrow()), ReLU(), Residual(narrow())], 2),
    "inside another net": (
        [Sequential(narrow()), Sequential([Residual(narrow()), ReLU()]), Residual(narrow())],
        2,
    ),
    "inside a net that may keep it": (
        [*narrow(), Watched([Residual(narrow()), ReLU()]), Residual(narrow())],
        0,
    ),
    "behind a net that may keep it": ([Sequential([*narrow(), Keeping()]), Residual(narrow())], 0),
    "a projection": ([Residual(narrow(), [Conv2D(6, 1), BatchNormalization()])], 1),
    "a projection that may keep it": ([Residual(narrow(), Conv2D(6, 1))], 0),
    "the caller's": ([Residual(narrow())], 0),
    "the caller's, passed on": ([Dropout(0.5), Residual(narrow())], 0),
    "a layer's that may keep it": ([Conv2D(6, 1), BatchNormalization(), Keeping(), Residual(narrow())], 0),
    "read by the last convolution": (
        [Conv2D(6, 1), BatchNormalization(), Residual([Conv2D(6, 3, padding="same"), BatchNormalization()])],
        0,
    ),
    "kept by the branch": ([*narrow(), Residual([Keeping(), *narrow()])], 0),
    "kept by a branch inside": (
        [*narrow(), Residual([Residual([Keeping(), *narrow()]), ReLU(), *narrow()])],
        0,
    ),
    "passed on to the last convolution": (
        [Conv2D(6, 1), BatchNormalization(), Residual([Dropout(0.5), Conv2D(6, 1), BatchNormalization()])],
        0,
    ),
}


@pytest.mark.parametrize("case", OVERWRITING)
def test_a_sum_overwrites_a_shortcut_that_nobody_else_holds(case, monkeypatch):
    layers, count = OVERWRITING[case]
    net = randomized(Sequential([*copy.deepcopy(layers), ReLU()], input_shape=(5, 4, 6)))
    plain = net.activations(images(3, (5, 4, 6)), net.layers[-1].name)
    overwritten = []
    forward = Convolution.forward

    def watched(self, y, *arguments, side=None, **how):
        overwritten.append(y is side)
        forward(self, y, *arguments, **({} if side is None else {"side": side}), **how)

    monkeypatch.setattr(Convolution, "forward", watched)
    x = images(3, (5, 4, 6))
    assert_close(net(x)[0], plain.astype(np.float64), tolerances.PRODUCT_SUM)
    assert sum(overwritten) == count
    np.testing.assert_array_equal(x, images(3, (5, 4, 6)))
    for layer in (*net.layers, *dict(net.members()).values()):
        if isinstance(layer, (Keeping, Watched)):
            np.testing.assert_array_equal(layer.seen, layer.as_it_came)


def test_sums_do_not_depend_on_the_number_of_threads(eager_threads):
    n, shape, conv = SIDE["identity"]
    block = Residual([Conv2D(**conv), BatchNormalization()])
    net = randomized(Sequential([block, ReLU()], input_shape=shape))
    for algorithm in ("direct", "winograd"):
        bits = set()
        for threads in (1, 2, 3, 7):
            with fastconv.algorithm(algorithm), fastconv.num_threads(threads):
                bits.add(net(images(n, shape))[0].tobytes())
        assert len(bits) == 1


def test_a_side_input_of_another_shape_is_refused():
    conv = Conv2D(4, 1)
    net = Sequential([conv, BatchNormalization()], input_shape=(3, 3, 2))
    step = chains.link(net.layers)[0]
    with pytest.raises(ValueError, match="side_input must have shape"):
        step.prepare_sum(None)(images(2, (3, 3, 2)), images(2, (3, 1, 4)))


def test_a_frozen_normalization_in_a_chain_is_a_constant():
    nets = [Sequential(normalized(relu), input_shape=(5, 5, 2), seed=1) for relu in (ReLU, Apart)]
    x = images(4, (5, 5, 2))
    results = []
    for net in nets:
        net.layers[1].frozen = True
        net.layers[1].weights["moving_mean"][...] = 0.3
        y, backward = net(x, training=True)
        results.append((y, backward(y), net.gradients))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "branch", [[BatchNormalization()], [Conv2D(2, 1)], Conv2D(2, 1), [BatchNormalization(), ReLU()]]
)
def test_other_residuals_stay_apart(branch):
    net = Sequential([Residual(branch), ReLU()], input_shape=(4, 4, 2))
    assert [type(step).__name__ for step in chains.link(net.layers)] == ["Residual", "ReLU"]
    y, backward = net(images(3, (4, 4, 2)), training=True)
    assert backward(y).shape == y.shape


@pytest.mark.parametrize("conv", [{"groups": 2}, {"groups": 4}, {"activation": "tanh"}, {"use_bias": False}])
def test_a_convolution_is_the_same_with_and_without_training(conv):
    net = Sequential([Conv2D(8, 3, **conv), Conv2D(2, 1, activation="relu")], input_shape=(6, 5, 4), seed=1)
    x = images(3, (6, 5, 4))
    np.testing.assert_array_equal(net(x)[0], net(x, training=True)[0])


@pytest.mark.parametrize("kind", [Conv2D, Sequential, Residual, Concatenate])
def test_a_derived_class_with_another_call_is_computed_by_that(kind):
    class Doubled(kind):
        def __call__(self, x, training=False):
            y, backward = super().__call__(x, training)
            return 2 * y, backward

    class Renamed(kind):
        pass

    def net(kind):
        arguments = (4, 1) if issubclass(kind, Conv2D) else ([Conv2D(4, 1)],)
        return Sequential([kind(*arguments), ReLU()], input_shape=(3, 3, 4), seed=1)

    x = images(2, (3, 3, 4))
    np.testing.assert_array_equal(net(Doubled)(x)[0], 2 * net(kind)(x)[0])
    np.testing.assert_array_equal(net(Renamed)(x)[0], net(kind)(x)[0])


def test_custom_layers_get_training_and_keep_their_methods():
    class Scaled(Layer):
        def prepare(self):
            self.factor = 2

        def __call__(self, x, training=None):
            self.prepare()
            return (self.factor if training is False else 3) * x, None

    net = Sequential([Conv2D(4, 1), Scaled()], input_shape=(3, 3, 4), seed=1)
    x = images(2, (3, 3, 4))
    np.testing.assert_array_equal(net(x)[0], 2 * net.layers[0](x)[0])


@pytest.mark.parametrize("around", [Concatenate, Residual, Sequential])
def test_a_model_inside_a_container_stays_a_model(around):
    model = Sequential([Conv2D(4, 3, padding="same")], input_shape=(5, 5, 4), seed=1)
    container = around(model) if around is Residual else around([model])
    x = images(2, (5, 5, 4), np.float64)
    np.testing.assert_array_equal(container(x)[0], model(x)[0] + (x if around is Residual else 0))
    with pytest.raises(ValueError, match=r"x must be \[N, 5, 5, 4\]"):
        container(x[:, :4])


def test_weights_that_were_replaced_are_checked():
    net = Sequential([Conv2D(4, 3), ReLU()], input_shape=(5, 5, 2), seed=1)
    x, conv = images(2, (5, 5, 2)), net.layers[0]
    y = net(x)[0]
    conv.weights["kernel"] = np.asfortranarray(conv.weights["kernel"])
    np.testing.assert_array_equal(net(x)[0], y)
    conv.weights["bias"] = np.zeros(4)
    assert net(x)[0].dtype == np.float64
    conv.weights["bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"bias must have shape \(4,\)"):
        net(x)


@pytest.mark.parametrize("training", [False, True])
def test_weights_of_a_pooled_convolution_that_were_replaced_are_checked(training):
    conv = {"filters": 4, "kernel_size": 3}
    for key, replaced in (
        ("bias", np.arange(4.0)),
        ("bias", np.arange(8, dtype=np.float32)[::2]),
        ("kernel", np.random.default_rng(1).standard_normal((3, 3, 2, 4))),
    ):
        results = []
        for net in pair((6, 6, 2), conv):
            net.layers[0].weights[key] = replaced
            y, backward = net(images(2, (6, 6, 2)), training=training)
            results.append((y, backward(np.ones(y.shape)) if training else y))
        for chained, plain in zip(*results, strict=True):
            assert chained.dtype == plain.dtype
            np.testing.assert_array_equal(chained, plain)
    net, _ = pair((6, 6, 2), conv)
    net.layers[0].weights["bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"bias must have shape \(4,\)"):
        net(images(2, (6, 6, 2)), training=training)


def test_chains_follow_their_layers():
    x = images(2, (8, 8, 2))
    conv, pool = Conv2D(4, 3, activation="relu"), MaxPooling2D(2)
    net = Sequential([conv, pool], input_shape=(8, 8, 2), seed=1)
    for change in ({"activation": "tanh"}, {"activation": "relu"}, {"activation": None}):
        vars(conv).update(change)
        np.testing.assert_array_equal(net(x)[0], pool(conv(x)[0])[0])
    conv.activation, pool.strides = "relu", (1, 1)
    np.testing.assert_array_equal(net(x)[0], pool(conv(x)[0])[0])


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_a_chain_ends_where_its_convolution_takes_strides(algorithm):
    x = images(2, (20, 20, 9))
    conv, pool = Conv2D(4, 3, padding="same", activation="relu"), MaxPooling2D(2)
    net = Sequential([conv, pool], input_shape=(20, 20, 9), seed=1)
    with fastconv.algorithm(algorithm):
        net(x)
        conv.strides = (2, 2)
        np.testing.assert_array_equal(net(x)[0], pool(conv(x)[0])[0])


def test_residuals_follow_their_branch():
    x = images(2, (8, 8, 4))
    branch = [Conv2D(4, 3, padding="same"), BatchNormalization(), ReLU(), Conv2D(4, 1), BatchNormalization()]
    residual, relu = Residual(branch), ReLU()
    net = Sequential([residual, relu], input_shape=(8, 8, 4), seed=1)
    before = net(x)[0]
    del residual.layers[0].layers[2]
    y = net(x)[0]
    assert (y != before).any()
    np.testing.assert_array_equal(y, relu(residual(x)[0])[0])


@pytest.mark.parametrize("key", ["moving_mean", "moving_variance", "beta"])
def test_normalizations_that_were_replaced_are_checked(key):
    net = Sequential([Conv2D(4, 3), BatchNormalization()], input_shape=(5, 5, 2), seed=1)
    net.layers[1].weights[key] = np.ones(1, np.float32)
    with pytest.raises(ValueError, match=f"{key} must have shape"):
        net(images(2, (5, 5, 2)))


def test_normalizations_that_were_replaced_by_another_dtype_are_promoted():
    net = Sequential([Conv2D(4, 3), BatchNormalization()], input_shape=(5, 5, 2), seed=1)
    norm, x = net.layers[1], images(2, (5, 5, 2))
    net(x, training=True)  # a mean that is not zero
    line = (norm.weights[key] for key in ("moving_mean", "moving_variance", "beta", "gamma"))
    z = net.layers[0](x)[0].astype(np.float64)
    expected = nn.batch_normalization(z, *line, norm.epsilon)
    norm.weights["moving_mean"] = norm.weights["moving_mean"].astype(np.float64)
    y = net(x)[0]
    assert y.dtype == np.float64
    assert_close(y.astype(np.float32), expected, tolerances.PRODUCT_SUM)
    norm.weights["beta"] = np.full(4, "a")
    with pytest.raises(TypeError, match="beta must be real numbers"):
        net(x)


def test_an_unpickled_model_is_computed_without_conversions(monkeypatch):
    net = Sequential(
        [Conv2D(4, 3), BatchNormalization(), ReLU(), Conv2D(2, 1)], input_shape=(5, 5, 2), seed=1
    )
    x = images(2, (5, 5, 2))
    y, again = net(x)[0], pickle.loads(pickle.dumps(net))
    monkeypatch.delattr(arguments, "as_array")  # which converts, one array at a time
    np.testing.assert_array_equal(again(x)[0], y)


def test_python_threads_may_predict_batches_of_any_size_at_once():
    layers = [Conv2D(8, 3), BatchNormalization(), ReLU(), Conv2D(8, 3, activation="relu"), MaxPooling2D(2)]
    net = Sequential(layers, input_shape=(9, 9, 3))
    batches = [images(n % 7 + 1, (9, 9, 3)) for n in range(200)]
    expected = [net(x)[0] for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for y, right in zip(pool.map(lambda x: net(x)[0], batches), expected, strict=True):
            np.testing.assert_array_equal(y, right)


# ---- memory that is used again ----


def test_results_outlive_the_next_step():
    net, _ = pair((8, 8, 3), {"filters": 4, "kernel_size": 3})
    x = images(3, (8, 8, 3))
    first, backward = net(x, training=True)
    kept = first.copy()
    view = first[1:, ::2]
    del first
    for _ in range(3):
        second, other_backward = net(-x, training=True)
        other_backward(np.ones_like(second))
    np.testing.assert_array_equal(view, kept[1:, ::2])
    again, _ = net(x, training=True)
    np.testing.assert_array_equal(again, kept)
    assert backward(kept).shape == x.shape


def test_a_steady_step_asks_for_no_new_memory():
    net = Sequential(
        [Conv2D(16, 3, padding="same", activation="relu"), MaxPooling2D(2), Dropout(0.5), Flatten()],
        input_shape=(32, 32, 3),
    )
    x = images(20, (32, 32, 3))
    addresses = []
    for _ in range(6):
        net.forget_gradients()
        y, backward = net(x, training=True)
        dx = backward(y)
        addresses.append((y.ctypes.data, dx.ctypes.data))
        del y, dx, backward
    assert len(set(addresses[2:])) <= 2  # results take turns in the same places


def test_forgotten_gradients_are_replaced_and_others_added():
    net, _ = pair((8, 8, 3), {"filters": 4, "kernel_size": 3})
    x = images(3, (8, 8, 3))
    y, backward = net(x, training=True)
    net.forget_gradients()
    backward(y)
    once = net.gradients.copy()
    backward(y)
    np.testing.assert_array_equal(net.gradients, 2 * once)
    net.forget_gradients()
    backward(y)
    np.testing.assert_array_equal(net.gradients, once)
