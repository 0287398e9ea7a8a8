"""Layers and Sequential: gradients against finite differences, ownership of parameters, names, errors."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest
import tolerances
from tolerances import assert_close

from fastconv import initializers, nn
from fastconv.layers import (
    Activation,
    AuxiliaryClassifier,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    LocalResponseNormalization,
    MaxPooling2D,
    ReLU,
    Reshape,
    Residual,
    Sequential,
)

STEP = 1e-6  # of central differences in float64: their error is about eps / STEP + STEP**2, that is 1e-9


def model(layers, input_shape, seed=0, dtype=np.float64):
    return Sequential(layers, input_shape=input_shape, seed=seed, dtype=dtype)


def numeric_gradient(function, array):
    """d function() / d array, by changing the array in place."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + STEP
        above = function()
        array[index] = value - STEP
        below = function()
        array[index] = value
        gradient[index] = (above - below) / (2 * STEP)
    return gradient


def shared_layer_net():
    conv = Conv2D(2, 3, padding="same", activation="relu", bias_initializer=initializers.random_normal(0.5))
    return [conv, MaxPooling2D(2, 1, "same"), conv]


def inception_net():
    return Concatenate(
        [
            Conv2D(2, 1, activation="relu"),
            [Conv2D(2, 1, activation="relu"), Conv2D(3, 3, padding="same", activation="tanh")],
            [MaxPooling2D(3, 1, "same"), Conv2D(1, 1)],
            AveragePooling2D(3, 1, "same"),
        ]
    )


def residual_net(shortcut=None, strides=1, filters=2):
    convs = [
        Conv2D(filters, 3, strides, "same", use_bias=False),
        BatchNormalization(),
        ReLU(),
        Conv2D(filters, 3, 1, "same"),
    ]
    return Residual([*convs, BatchNormalization()], shortcut)


def everything_net():
    return [
        Conv2D(4, 3, padding="same", activation="tanh"),
        LocalResponseNormalization(1, 2.0, 0.3, 0.75),
        inception_net(),
        residual_net([Conv2D(3, 1, 2), BatchNormalization()], 2, 3),
        ReLU(),
        Sequential([Residual(Sequential([Residual(Conv2D(3, 1)), Activation("sigmoid")])), Dropout(0.2)]),
        GlobalAveragePooling2D(),
        Dense(3, "sigmoid"),
    ]


NETS = {
    "conv": ((5, 4, 2), lambda: [Conv2D(3, 3)]),
    "conv relu bias": (
        (5, 4, 2),
        lambda: [
            Conv2D(3, (2, 3), activation="relu", bias_initializer=initializers.random_normal(stddev=0.5))
        ],
    ),
    "conv same stride": ((6, 5, 1), lambda: [Conv2D(2, 3, 2, "same", use_bias=False)]),
    "conv dilated": ((7, 6, 2), lambda: [Conv2D(2, (2, 3), padding="valid", dilation_rate=(3, 2))]),
    "conv explicit": ((4, 4, 1), lambda: [Conv2D(1, 3, 2, [[0, 0], [1, 0], [2, 1], [0, 0]])]),
    "conv groups": (
        (5, 4, 4),
        lambda: [
            Conv2D(6, 3, groups=2, padding="same", activation="relu"),
            MaxPooling2D(2),
            Conv2D(6, 2, groups=6),
        ],
    ),
    "depthwise": ((6, 5, 2), lambda: [DepthwiseConv2D(3, 2, "same", 2, activation="tanh"), Conv2D(2, 1)]),
    "depthwise dilated": (
        (6, 5, 3),
        lambda: [
            DepthwiseConv2D((3, 2), dilation_rate=(2, 1), use_bias=False),
            DepthwiseConv2D(2, activation="relu"),
        ],
    ),
    "transpose": (
        (3, 4, 2),
        lambda: [
            Conv2DTranspose(3, 3, 2, activation="relu"),
            Conv2DTranspose(2, (2, 3), 2, "same", use_bias=False),
        ],
    ),
    "transpose dilated": ((4, 3, 2), lambda: [Conv2DTranspose(2, 3, dilation_rate=2, activation="sigmoid")]),
    "pool": ((5, 5, 2), lambda: [MaxPooling2D(2, padding="same")]),
    "pool overlapping": ((5, 6, 1), lambda: [MaxPooling2D((3, 2), (2, 1))]),
    "dense": ((4,), lambda: [Dense(3, "relu", bias_initializer="glorot_normal"), Dense(2, use_bias=False)]),
    "relu reshape": ((2, 6), lambda: [ReLU(), Reshape((-1, 3)), Flatten(), Dense(2), ReLU()]),
    "dropout": ((30,), lambda: [Dense(8), Dropout(0.4), Dense(3)]),
    "layer twice": ((4, 5, 2), shared_layer_net),
    "nested": (
        (6, 6, 1),
        lambda: [
            Sequential([Conv2D(2, 3, activation="relu"), Sequential([ReLU(), MaxPooling2D()])]),
            Sequential([Flatten(), Dense(3)]),
        ],
    ),
    "average pool": ((5, 6, 2), lambda: [AveragePooling2D(2, padding="same")]),
    "average pool overlapping": ((5, 6, 1), lambda: [AveragePooling2D((3, 2), (2, 1))]),
    "global average pool": ((4, 3, 2), lambda: [Conv2D(3, 2), GlobalAveragePooling2D(), Dense(2)]),
    "activations": ((5,), lambda: [Activation("sigmoid"), Dense(4), Activation("tanh"), Activation("relu")]),
    "conv tanh": ((4, 4, 2), lambda: [Conv2D(2, 3, activation="tanh"), Conv2D(1, 1, activation="sigmoid")]),
    "dense sigmoid": ((4,), lambda: [Dense(3, "sigmoid", use_bias=False), Dense(2, "tanh")]),
    "local response": ((3, 2, 7), lambda: [LocalResponseNormalization(2, 1.5, 0.5, 0.75)]),
    "local response defaults": ((2, 2, 3), lambda: [LocalResponseNormalization()]),
    "batch normalization": ((4, 3, 2), lambda: [BatchNormalization(), Conv2D(2, 2), BatchNormalization()]),
    "batch normalization of vectors": ((5,), lambda: [Dense(4), BatchNormalization(epsilon=0.1), Dense(2)]),
    "concatenate": ((5, 4, 2), lambda: [inception_net()]),
    "concatenate vectors": ((3,), lambda: [Concatenate([Dense(2), ReLU(), Flatten()])]),
    "residual": ((4, 4, 2), lambda: [residual_net()]),
    "residual projection": ((5, 4, 2), lambda: [residual_net(Conv2D(3, 1, 2), 2, 3), ReLU()]),
    "everything": ((6, 5, 2), everything_net),
    "document": (
        (6, 6, 1),
        lambda: [
            Conv2D(2, 3, padding="same", activation="relu", use_bias=False),
            MaxPooling2D(2, padding="same"),
            Dropout(0.3),
            Flatten(),
            Dense(5, "relu"),
            Dropout(0.5),
            Dense(3),
        ],
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_finite_differences(name):
    input_shape, layers = NETS[name]
    net = model(layers(), input_shape)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, *input_shape))
    dy = rng.standard_normal((2, *net.output_shape))
    state = net.rng.bit_generator.state

    def loss():
        net.rng.bit_generator.state = state  # the same dropout at every evaluation
        return float((net(x, training=True)[0] * dy).sum())

    loss()
    net.rng.bit_generator.state = state
    _, backward = net(x, training=True)
    dx = backward(dy)
    for exact, numeric in (
        (dx, numeric_gradient(loss, x)),
        (net.gradients, numeric_gradient(loss, net.parameters)),
    ):
        assert exact.shape == numeric.shape
        assert_close(exact, numeric, tolerances.DIFFERENCES, scale=max(1, np.abs(numeric).max(initial=0)))


def test_backward_adds():
    net = model([Conv2D(2, 2), Flatten(), Dense(3)], (4, 4, 1))
    _, backward = net(np.ones((2, 4, 4, 1)), training=True)
    dy = np.arange(6.0).reshape(2, 3)
    dx = backward(dy)
    once = net.gradients.copy()
    assert once.any()
    assert np.array_equal(backward(dy), dx)
    assert np.array_equal(net.gradients, 2 * once)


def test_first_layer_has_no_input_gradient(monkeypatch):
    def layers():
        return [
            ReLU(),
            Conv2D(2, 2, activation="relu"),
            MaxPooling2D(),
            Conv2D(3, 2, padding="same"),
            Flatten(),
            Dense(2),
        ]

    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((3, 5, 5, 1)), rng.standard_normal((3, 2))
    whole = model(layers(), (5, 5, 1))
    whole(x, training=True)[1](dy)

    calls = []
    original = nn.conv2d_backprop_input
    monkeypatch.setattr(nn, "conv2d_backprop_input", lambda *a, **k: calls.append(a) or original(*a, **k))
    monkeypatch.setattr(nn, "relu_grad", _count(nn.relu_grad, relus := []))
    net = model(layers(), (5, 5, 1))
    assert net(x, training=True)[1](dy, input_gradient=False) is None
    assert len(calls) == 1  # the second convolution's
    assert len(relus) == 1  # fused into the first convolution; not the ReLU before it
    assert np.array_equal(net.gradients, whole.gradients)


def _count(function, calls):
    def counted(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    return counted


def test_no_input_gradient_without_parameters():
    net = model([ReLU(), Flatten()], (2, 2))
    _, backward = net(np.ones((1, 2, 2)), training=True)
    assert backward(np.ones((1, 4)), input_gradient=False) is None
    assert net.count_params() == 0


def test_nothing_is_kept_on_layers():
    net = model(NETS["document"][1](), (6, 6, 1))
    before = [dict(vars(layer)) for layer in net.layers]
    x = np.random.default_rng(0).standard_normal((4, 6, 6, 1))
    y, backward = net(x)
    assert backward is None
    net(x, training=True)
    for layer, attributes in zip(net.layers, before, strict=True):
        assert layer(np.ones((1, *_input_shape(net, layer))), training=False)[1] is None
        assert vars(layer) == attributes
    assert np.array_equal(net(x)[0], y)


def _input_shape(net, layer):
    return [net.input_shape, *net.output_shapes][net.layers.index(layer)]


def test_inputs_are_not_modified():
    for input_shape, layers in NETS.values():
        net = model(layers(), input_shape)
        x = np.random.default_rng(0).standard_normal((2, *input_shape))
        x.flags.writeable = False
        y, backward = net(x, training=True)
        dy = np.ones_like(y)
        dy.flags.writeable = False
        parameters = net.parameters.copy()
        backward(dy)
        assert np.array_equal(net.parameters, parameters)


@pytest.mark.parametrize("name", NETS)
def test_empty_batch(name):
    input_shape, layers = NETS[name]
    net = model(layers(), input_shape)
    y, backward = net(np.empty((0, *input_shape)), training=True)
    assert y.shape == (0, *net.output_shape)
    assert backward(y).shape == (0, *input_shape)
    assert not net.gradients.any()


def test_output_shapes():
    net = model(
        [Conv2D(4, 3, 2, "SAME"), MaxPooling2D(3, 1), Flatten(), Dense(7), Reshape([7, 1])], (9, 8, 3)
    )
    assert net.output_shapes == [(5, 4, 4), (3, 2, 4), (24,), (7,), (7, 1)]
    assert net.output_shape == (7, 1)


def test_forward_literal():
    net = model([Conv2D(1, 2, bias_initializer="zeros"), ReLU(), MaxPooling2D((2, 1), 1)], (3, 3, 1))
    net.set_weights([np.ones((2, 2, 1, 1)), np.array([-14.0])])
    y, _ = net(np.arange(1, 10).reshape(1, 3, 3, 1))
    assert y.reshape(-1).tolist() == [24 - 14, 28 - 14]


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("layer", [lambda **how: Conv2D(3, 3, **how), lambda **how: Dense(3, **how)])
def test_an_activation_inside_is_a_layer_behind(layer, name):
    shape = (4, 4, 2) if isinstance(layer(), Conv2D) else (4,)
    x = np.random.default_rng(0).standard_normal((2, *shape))
    apart = model([layer(), Activation(name)], shape)
    for activation in (name, getattr(nn, name)):
        _check_same(model([layer(activation=activation)], shape), apart, x)
    if name == "relu":
        _check_same(model([layer(), ReLU()], shape), apart, x)


def _check_same(fused, apart, x):
    fused.forget_gradients(), apart.forget_gradients()
    y, backward = fused(x, training=True)
    z, backward_apart = apart(x, training=True)
    assert np.array_equal(y, z)
    assert np.array_equal(backward(y), backward_apart(z))
    assert np.array_equal(fused.gradients, apart.gradients)


# ---- dropout ----


def test_dropout_is_off_without_training():
    net = model([Dropout(0.5)], (4,))
    x = np.arange(8.0).reshape(2, 4)
    state = copy.deepcopy(net.rng.bit_generator.state)
    assert np.array_equal(net(x)[0], x)
    assert net.rng.bit_generator.state == state


def test_dropout_in_training():
    net = model([Dropout(0.25)], (1000,))
    x = np.ones((20, 1000))
    y, backward = net(x, training=True)
    assert set(np.unique(y)) == {0, 1 / 0.75}
    # 20,000 elements: the share of zeros has a standard deviation of 0.003
    assert abs((y == 0).mean() - 0.25) < 0.015
    assert np.array_equal(backward(x), y)
    again, _ = net(x, training=True)
    assert not np.array_equal(y, again)
    assert np.array_equal(backward(x), y)  # the first call's mask still


def test_dropout_repeats_with_the_seed():
    x = np.ones((3, 50))
    first, same, other = (model([Dropout(0.5), Dropout(0.1)], (50,), seed) for seed in (5, 5, 6))
    for _ in range(3):
        y = first(x, training=True)[0]
        assert np.array_equal(y, same(x, training=True)[0])
        assert not np.array_equal(y, other(x, training=True)[0])


# ---- parameters ----


def test_parameters_are_views_of_flat_arrays():
    net = model([Conv2D(2, 3, use_bias=False), Flatten(), Dense(3)], (5, 5, 1), dtype=np.float32)
    assert net.parameters.shape == net.gradients.shape == (net.count_params(),) == (3 * 3 * 2 + 18 * 3 + 3,)
    assert list(net.weights) == list(net.grads) == ["conv2d/kernel", "dense/kernel", "dense/bias"]
    conv, _, dense = net.layers
    assert conv.weights["kernel"] is net.weights["conv2d/kernel"]
    assert conv.weights["kernel"].shape == (3, 3, 1, 2)
    net.parameters[:] = np.arange(net.parameters.size)
    net.gradients[-1] = 7
    assert conv.weights["kernel"].reshape(-1).tolist() == list(range(18))
    assert dense.weights["bias"].tolist() == [72, 73, 74]
    assert dense.grads["bias"].tolist() == [0, 0, 7]
    assert all(array.dtype == np.float32 for array in net.weights.values())


def test_a_layer_that_stands_twice_has_its_parameters_once():
    conv = Conv2D(1, 3, padding="same")
    net = model([conv, ReLU(), conv, Sequential([conv])], (4, 4, 1))
    assert net.count_params() == 10
    assert list(net.weights) == ["conv2d/kernel", "conv2d/bias"]


def test_nested_names():
    block = [Sequential([Conv2D(1, 1, use_bias=False), ReLU()]) for _ in range(2)]
    net = model([*block, Sequential([Flatten(), Dense(2, name="head")], name="top")], (2, 2, 1))
    assert list(net.weights) == [
        "sequential/conv2d/kernel",
        "sequential_1/conv2d/kernel",
        "top/head/kernel",
        "top/head/bias",
    ]


def test_automatic_names():
    layers = [Conv2D(1, 1), Conv2D(1, 1, name="conv2d_1"), Conv2D(1, 1), MaxPooling2D(1), ReLU(), Flatten()]
    names = [layer.name for layer in model(layers, (1, 1, 1)).layers]
    assert names == ["conv2d", "conv2d_1", "conv2d_2", "max_pooling2d", "relu", "flatten"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_have_views_of_their_own(duplicate):
    net = model(
        [Dense(3, kernel_initializer=initializers.random_normal(0.1)), Sequential([Dropout(0.5), Dense(2)])],
        (4,),
    )
    twin = duplicate(net)
    x = np.ones((2, 4))
    assert np.array_equal(net(x, training=True)[0], twin(x, training=True)[0])  # dropout continues alike
    before = net.get_weights()
    twin.parameters[:] = 0
    assert not twin(x)[0].any()
    twin(x, training=True)[1](np.ones((2, 2)))
    assert twin.gradients.any()
    assert not net.gradients.any()
    assert all(np.array_equal(a, b) for a, b in zip(net.get_weights(), before, strict=True))


def test_get_and_set_weights():
    net = model([Dense(2)], (3,))
    weights = net.get_weights()
    weights[0][:] = 1
    assert not np.array_equal(net.get_weights()[0], weights[0])
    net.set_weights([weights[0], [5, 6]])
    assert net(np.ones((1, 3)))[0].tolist() == [[8, 9]]
    for wrong in ([weights[0]], [weights[0], np.zeros(3)], [np.zeros((3, 2)), np.zeros(2), np.zeros(1)]):
        with pytest.raises(ValueError, match=r"weights must have the shapes"):
            net.set_weights(wrong)
    with pytest.raises(TypeError, match=r"weights\[1\] must hold numbers"):
        net.set_weights([np.zeros((3, 2)), ["a", "b"]])
    assert net(np.ones((1, 3)))[0].tolist() == [[8, 9]]


def test_weights_may_be_set_to_each_others_views():
    net = model([Dense(3, use_bias=False), Dense(3, use_bias=False)], (3,))
    first, second = net.get_weights()
    views = list(net.weights.values())
    net.set_weights(views[::-1])
    for now, before in zip(net.get_weights(), (second, first), strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layers: pickle.loads(pickle.dumps(layers))])
def test_copies_of_layers_are_free_for_another_model(duplicate):
    net = model([Conv2D(2, 1), BatchNormalization(), Flatten(), Dropout(0.5), Dense(3)], (2, 2, 1))
    twin = Sequential(duplicate(net.layers), input_shape=(3, 3, 1), seed=5)
    assert twin.output_shape == (3,) and twin.count_params() != net.count_params()
    assert twin(np.ones((2, 3, 3, 1)), training=True)[0].shape == (2, 3)
    assert net(np.ones((2, 2, 2, 1)), training=True)[0].shape == (2, 3)


@pytest.mark.parametrize("behind", [MaxPooling2D(2), AveragePooling2D(2), BatchNormalization(), ReLU()])
@pytest.mark.parametrize("forgets", [False, True])
def test_a_models_gradient_may_be_anything_array_like(behind, forgets):
    layers = [Conv2D(2, 1, activation="relu"), copy.deepcopy(behind)]
    net = Sequential(layers, input_shape=(2, 2, 1), seed=2)
    x = np.arange(8.0).reshape(2, 2, 2, 1) + 1
    y, backward = net(x, training=True)
    expected, gradients = backward(np.ones(y.shape, np.float32)), net.gradients.copy()
    for dy in (np.ones(y.shape), np.ones(y.shape, int).tolist()):
        net.gradients.fill(0)
        if forgets:
            net.forget_gradients()
        dx = net(x, training=True)[1](dy)
        assert dx.dtype == np.float32
        np.testing.assert_array_equal(dx, expected)
        np.testing.assert_array_equal(net.gradients, gradients)
    with pytest.raises(TypeError, match="dy must hold numbers"):
        net(x, training=True)[1](np.full(y.shape, "a"))


def test_same_seed_same_start():
    def start(seed, dtype):
        layers = [
            Conv2D(2, 3, kernel_initializer="he_normal"),
            Flatten(),
            Dense(2, bias_initializer="he_uniform"),
        ]
        return model(layers, (4, 4, 1), seed, dtype).parameters

    assert np.array_equal(start(3, np.float64), start(3, np.float64))
    assert not np.array_equal(start(3, np.float64), start(4, np.float64))
    assert np.array_equal(start(3, np.float64).astype(np.float32), start(3, np.float32))


def test_input_is_cast():
    net = model([Dense(1, kernel_initializer=lambda rng, shape: np.ones(shape))], (2,), dtype=np.float32)
    for x in ([[1, 2]], np.array([[1, 2]], np.uint8), np.array([[1, 2]], ">f8"), np.array([[2, 1]])[:, ::-1]):
        y, _ = net(x)
        assert y.dtype == np.float32
        assert y.tolist() == [[3]]


def test_summary():
    conv = Conv2D(4, 3, padding="same")
    net = Sequential(
        [conv, ReLU(), conv, Flatten(), Dropout(0.5), Dense(1000, name="logits")], (8, 8, 4), name="tiny"
    )
    lines = []
    net.summary(print_fn=lines.append)
    assert "\n".join(lines).splitlines() == [
        'Model: "tiny"',
        "______________________________________________",
        "Layer (type)       Output shape     Parameters",
        "==============================================",
        "conv2d (Conv2D)    (None, 8, 8, 4)         148",
        "relu (ReLU)        (None, 8, 8, 4)           0",
        "conv2d (Conv2D)    (None, 8, 8, 4)      shared",
        "flatten (Flatten)  (None, 256)               0",
        "dropout (Dropout)  (None, 256)               0",
        "logits (Dense)     (None, 1000)        257,000",
        "==============================================",
        "Total parameters: 257,148",
        "______________________________________________",
    ]


def test_summary_prints(capsys):
    Sequential([Flatten()], (2, 2)).summary()
    assert capsys.readouterr().out.startswith('Model: "sequential"\n')


# ---- names and errors ----


def test_keras_argument_order():
    def positional(layer):
        parameters = inspect.signature(layer).parameters.values()
        return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert positional(Conv2D) == ["filters", "kernel_size", "strides", "padding"]
    assert positional(MaxPooling2D) == ["pool_size", "strides", "padding"]
    assert positional(Dense) == [
        "units",
        "activation",
        "use_bias",
        "kernel_initializer",
        "bias_initializer",
    ]
    assert positional(AveragePooling2D) == ["pool_size", "strides", "padding"]
    assert positional(BatchNormalization) == ["momentum", "epsilon"]
    assert positional(LocalResponseNormalization) == ["depth_radius", "bias", "alpha", "beta"]
    assert MaxPooling2D((2, 3)).strides == (2, 3)


def two_models():
    layer = Dense(1)
    model([layer], (2,))
    return model([layer], (2,))


ERRORS = [
    (lambda: Conv2D(0, 3), ValueError, "filters must be at least 1, not 0"),
    (lambda: Conv2D(2.5, 3), TypeError, "filters must be a whole number, not 2.5"),
    (lambda: Conv2D(1, (3, 0)), ValueError, r"kernel_size must be at least 1, not \(3, 0\)"),
    (lambda: Conv2D(1, (3, 3, 3)), ValueError, r"kernel_size must be one number, .* not \(3, 3, 3\)"),
    (lambda: Conv2D(1, 3, strides=0), ValueError, "strides must be at least 1, not 0"),
    (lambda: Conv2D(1, 3, padding="full"), ValueError, "padding must be .* not 'full'"),
    (lambda: Conv2D(1, 3, dilation_rate=-1), ValueError, "dilation_rate must be at least 1, not -1"),
    (
        lambda: Conv2D(1, 3, activation="softmax"),
        ValueError,
        "activation must be one of 'relu', 'sigmoid', 'tanh', not 'softmax'",
    ),
    (lambda: Activation(None), ValueError, "activation must be one of .* not None"),
    (lambda: Activation(np.tanh), ValueError, "activation must be one of .* not <ufunc 'tanh'>"),
    (lambda: AveragePooling2D((0, 2)), ValueError, r"pool_size must be at least 1, not \(0, 2\)"),
    (
        lambda: model([GlobalAveragePooling2D()], (4,)),
        ValueError,
        r"global_average_pooling2d on .* needs input \[H, W, C\], not \(4,\)",
    ),
    (
        lambda: LocalResponseNormalization(-1),
        ValueError,
        "depth_radius must be at least 0, not -1",
    ),
    (lambda: LocalResponseNormalization(beta=np.nan), ValueError, "beta must be finite, not nan"),
    (lambda: BatchNormalization(1.5), ValueError, r"momentum must lie in \[0, 1\], not 1.5"),
    (lambda: BatchNormalization(epsilon=0), ValueError, r"epsilon must lie in \(0, inf\), not 0"),
    (lambda: BatchNormalization()(np.ones((1, 1))), RuntimeError, "BatchNormalization needs a Sequential"),
    (
        lambda: model([n := BatchNormalization(), Dense(3), n], (2,)),
        ValueError,
        "batch_normalization on .* the layer has 2 channels, where it stood before",
    ),
    (lambda: Concatenate([]), ValueError, "branches must hold at least one layer"),
    (lambda: Concatenate([ReLU(), "relu"]), TypeError, r"branches\[1\] must be a layer, not 'relu'"),
    (
        lambda: Concatenate([ReLU(name="a"), Flatten(name="a")]),
        ValueError,
        "name must be unique among the layers of a Concatenate, not 'a' twice",
    ),
    (
        lambda: model([Concatenate([Conv2D(1, 2), Conv2D(1, 1)])], (4, 4, 1)),
        ValueError,
        r"concatenate on .* in channels alone, not \[\(3, 3, 1\), \(4, 4, 1\)\]",
    ),
    (
        lambda: model([Residual(Conv2D(3, 1))], (4, 4, 1)),
        ValueError,
        r"residual on .* same shape, not \(4, 4, 3\) and \(4, 4, 1\)",
    ),
    (
        lambda: model([Residual([Conv2D(1, 3)], [Conv2D(1, 2)])], (4, 4, 1)),
        ValueError,
        r"not \(2, 2, 1\) and \(3, 3, 1\)",
    ),
    (
        lambda: model([Residual([Dense(2)], model([Dense(2)], (2,)))], (2,)),
        ValueError,
        "layers: residual/sequential/dense belongs to another model already",
    ),
    (
        lambda: Conv2D(1, 3, kernel_initializer="twos"),
        ValueError,
        "kernel_initializer must be one of .* not 'twos'",
    ),
    (lambda: Dense(2, bias_initializer=3), ValueError, "bias_initializer must be one of .* not 3"),
    (lambda: Dense(-1), ValueError, "units must be at least 1, not -1"),
    (lambda: MaxPooling2D(0), ValueError, "pool_size must be at least 1, not 0"),
    (lambda: MaxPooling2D(2, (1, 0)), ValueError, r"strides must be at least 1, not \(1, 0\)"),
    (lambda: Dropout(1), ValueError, r"rate must lie in \[0, 1\), not 1"),
    (lambda: Dropout(-0.1), ValueError, "rate must lie in .* not -0.1"),
    (lambda: Dropout(np.nan), ValueError, "rate must lie in .* not nan"),
    (lambda: Reshape((2, 0)), ValueError, r"target_shape must .* not \(2, 0\)"),
    (lambda: Reshape((-1, -1)), ValueError, r"target_shape must .* not \(-1, -1\)"),
    (lambda: Dense(1, name="a/b"), ValueError, "name must be a string without '/' and NUL, not 'a/b'"),
    (lambda: Dense(1, name="a\0b"), ValueError, "name must be a string without '/' and NUL"),
    (lambda: Dropout("a"), TypeError, "rate must be a number, not 'a'"),
    (lambda: BatchNormalization("a"), TypeError, "momentum must be a number, not 'a'"),
    (lambda: LocalResponseNormalization(bias=None), TypeError, "bias must be a number, not None"),
    (lambda: AuxiliaryClassifier([Flatten()], [1, 2]), TypeError, r"weight must be a number, not \[1, 2\]"),
    (lambda: Sequential([Dense(3)]).summary(), RuntimeError, "summary needs the layers' shapes"),
    (lambda: initializers.random_normal(-1.0), ValueError, r"stddev must lie in \[0, inf\), not -1.0"),
    (lambda: model([], (2,)), ValueError, "layers must hold at least one layer"),
    (lambda: model([Dense(1), "relu"], (2,)), TypeError, r"layers\[1\] must be a layer, not 'relu'"),
    (
        lambda: model([Dense(1, name="a"), Dense(1, name="a")], (2,)),
        ValueError,
        "name must be unique .* not 'a' twice",
    ),
    (lambda: model([Dense(1)], (0,)), ValueError, "input_shape must be at least 1, not 0"),
    (lambda: model([Dense(1)], (2,), seed=-1), ValueError, "seed must be at least 0, not -1"),
    (
        lambda: model([Dense(1)], (2,), dtype=np.int32),
        ValueError,
        "dtype must be float32 or float64, not int32",
    ),
    (lambda: model([Dense(1)], (2, 2)), ValueError, r"dense on .* flat input \[I\], not \(2, 2\)"),
    (
        lambda: model([Flatten(), Conv2D(1, 3)], (4, 4, 1)),
        ValueError,
        r"conv2d on .*\(16,\): Conv2D needs input",
    ),
    (lambda: model([Conv2D(1, 5)], (4, 4, 1)), ValueError, r"conv2d on an input of shape \(4, 4, 1\): "),
    (
        lambda: model([MaxPooling2D(5)], (4, 4, 1)),
        ValueError,
        r"max_pooling2d on an input of shape \(4, 4, 1\): ",
    ),
    (
        lambda: model([Reshape((3, -1))], (4,)),
        ValueError,
        r"target_shape \(3, -1\) cannot hold the 4 numbers of \(4,\)",
    ),
    (
        lambda: model([Flatten(), d := Dense(4), Dense(3), d], (4,)),
        ValueError,
        r"dense .* kernel is \(4, 4\) already",
    ),
    (two_models, ValueError, "layers: dense belongs to another model already"),
    (
        lambda: model([Dense(2, kernel_initializer=lambda rng, shape: np.zeros(2))], (2,)),
        ValueError,
        r"kernel_initializer must return shape \(2, 2\), not \(2,\)",
    ),
    (lambda: Dense(1)(np.ones((1, 1))), RuntimeError, "Dense needs a Sequential with input_shape"),
    (lambda: Dropout(0.5)(np.ones((1, 1)), training=True), RuntimeError, "Dropout needs a Sequential"),
    (
        lambda: model([Flatten()], (2, 3))(np.ones((1, 3, 2))),
        ValueError,
        r"x must be \[N, 2, 3\], not shape \(1, 3, 2\)",
    ),
    (lambda: model([Flatten()], (2,))(1.0), ValueError, r"x must be \[N, 2\], not shape \(\)"),
    (lambda: model([Flatten()], (1,))([["a"]]), TypeError, "x must hold numbers, not dtype <U1"),
    (lambda: model([Flatten()], (1,))([[1j]]), TypeError, "x must hold numbers, not dtype complex128"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS)
def test_errors_name_argument_and_value(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_layers_are_free_again_after_an_error():
    layers = [Conv2D(2, 3), Flatten(), Dense(2)]
    with pytest.raises(ValueError, match="conv2d"):
        model(layers, (2, 2, 1))
    assert model(layers, (5, 5, 3)).count_params() == 3 * 3 * 3 * 2 + 2 + 18 * 2 + 2


# ---- initializers ----


@pytest.mark.parametrize(
    ("name", "stddev", "largest"),
    [
        # kernel [3, 3, 20, 40]: fan_in 180, fan_out 360
        ("glorot_uniform", (2 / 540) ** 0.5, (6 / 540) ** 0.5),
        ("xavier", (2 / 540) ** 0.5, (6 / 540) ** 0.5),
        ("he_uniform", (2 / 180) ** 0.5, (6 / 180) ** 0.5),
        ("glorot_normal", (2 / 540) ** 0.5, 2 * (2 / 540) ** 0.5 / 0.8796),
        ("he_normal", (2 / 180) ** 0.5, 2 * (2 / 180) ** 0.5 / 0.8796),
        (initializers.random_normal(stddev=0.01), 0.01, 0.06),
        ("zeros", 0, 0),
    ],
)
def test_initializers(name, stddev, largest):
    values = initializers.get(name)(np.random.default_rng(0), (3, 3, 20, 40))
    assert values.shape == (3, 3, 20, 40)
    assert values.dtype == np.float64
    # 7,200 numbers: their standard deviation is known to about 1%, their mean to stddev / 85
    assert values.std() == pytest.approx(stddev, rel=0.04)
    assert abs(values.mean()) <= stddev / 20
    assert np.abs(values).max() <= largest


def test_ones():
    assert np.array_equal(initializers.get("ones")(np.random.default_rng(0), (2, 3)), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("layer", "input_shape", "kernel", "bias", "output_shape"),
    [
        (Conv2D(8, 3, groups=4), (5, 6, 12), (3, 3, 3, 8), (8,), (3, 4, 8)),
        (DepthwiseConv2D(3, 2, "same", 5), (5, 6, 2), (3, 3, 2, 5), (10,), (3, 3, 10)),
        (Conv2DTranspose(7, 3, 2), (5, 6, 2), (3, 3, 7, 2), (7,), (11, 13, 7)),
        (Conv2DTranspose(7, 2, (2, 3), "same"), (5, 6, 2), (2, 2, 7, 2), (7,), (10, 18, 7)),
    ],
)
def test_kernels_and_outputs_as_in_keras(layer, input_shape, kernel, bias, output_shape):
    net = model([layer], input_shape)
    assert layer.weights["kernel"].shape == kernel and layer.weights["bias"].shape == bias
    assert net.output_shape == output_shape


def test_groups_computed_apart():
    """The two towers are two nets side by side, though these are computed as chains with their pools."""
    x = np.random.default_rng(2).standard_normal((3, 6, 6, 4))
    towers = model([Conv2D(6, 3, groups=2, activation="relu"), MaxPooling2D(2)], (6, 6, 4))
    kernel, bias = np.split(towers.get_weights()[0], 2, axis=3), np.split(np.arange(-3.0, 3), 2)
    towers.set_weights([towers.get_weights()[0], np.arange(-3.0, 3)])
    for tower in (0, 1):
        alone = model([Conv2D(3, 3, activation="relu"), MaxPooling2D(2)], (6, 6, 2))
        alone.set_weights([kernel[tower], bias[tower]])
        part = alone(x[..., 2 * tower : 2 * tower + 2])[0]
        assert_close(towers(x)[0][..., 3 * tower : 3 * tower + 3], part, tolerances.SAME_SUM)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv2D(6, 3, groups=0), "groups must be at least 1, not 0"),
        (lambda: Conv2D(6, 3, groups=4), "groups must divide filters 6, unlike 4"),
        (lambda: model([Conv2D(6, 3, groups=3)], (5, 5, 4)), "groups must divide the 4 channels .* unlike 3"),
        (lambda: DepthwiseConv2D(3, depth_multiplier=0), "depth_multiplier must be at least 1, not 0"),
        (
            lambda: model([DepthwiseConv2D(3)], (5, 5)),
            r"DepthwiseConv2D needs input \[H, W, C\], not \(5, 5\)",
        ),
        (lambda: Conv2DTranspose(0, 3), "filters must be at least 1, not 0"),
        (lambda: Conv2DTranspose(2, 3, padding=[[0, 0]] * 4), 'padding must be "valid" or "same", not'),
    ],
)
def test_errors_of_grouped_and_transposed_layers(make, message):
    with pytest.raises(ValueError, match=message):
        make()
