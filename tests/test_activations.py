"""What any layer of a net gives: by name, inside containers, and where a chain computes several as one."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances
from tolerances import assert_close

from fastconv import _chains as chains
from fastconv import models, nn, training
from fastconv.layers import (
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    MaxPooling2D,
    ReLU,
    Residual,
    Sequential,
)
from fastconv.training import Classifier


def images(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def branching():
    layers = [
        Concatenate([Conv2D(2, 3, padding="same"), [MaxPooling2D(3, 1, "same"), Conv2D(1, 1)]], name="mixed"),
        Residual([Conv2D(3, 3, padding="same"), BatchNormalization(), ReLU()], [Conv2D(3, 1)]),
        Flatten(),
        Dense(4),
    ]
    return Sequential(layers, (5, 6, 2), seed=1)


def test_the_maps_of_a_chain_s_layers():
    net = models.DeepCNN(seed=2).net
    assert any(isinstance(step, chains.ConvPool) for step in chains.link(net.layers))
    x = images(3, 28, 28, 1)
    expected = x
    for i, suffix in enumerate(("", "_1", "_2")):
        expected = nn.relu(nn.conv2d(expected, net.weights[f"conv2d{suffix}/kernel"], 1, "SAME"))
        np.testing.assert_array_equal(net.activations(x, f"conv2d{suffix}"), expected, f"conv2d{suffix}")
        expected = nn.max_pool2d(expected, 2, 2, "SAME")
        for name in (f"max_pooling2d{suffix}", f"dropout{suffix}"):
            np.testing.assert_array_equal(net.activations(x, name), expected, name)
        chained, _ = Sequential(net.layers[: 3 * (i + 1)])(x)
        np.testing.assert_array_equal(chained, expected)
    np.testing.assert_array_equal(net.activations(x, "dense_1"), net(x)[0])


def test_layers_inside_containers():
    net = branching()
    x, w = images(2, 5, 6, 2), net.weights

    def conv(x, path):
        return nn.conv2d(x, w[f"{path}/kernel"], 1, "SAME", bias=w[f"{path}/bias"])

    pooled = nn.max_pool2d(x, 3, 1, "SAME")
    mixed = np.concatenate([conv(x, "mixed/conv2d"), conv(pooled, "mixed/sequential/conv2d")], axis=-1)
    branch = conv(mixed, "residual/branch/conv2d")
    shortcut = conv(mixed, "residual/shortcut/conv2d")
    relu, _ = ReLU()(net.get_layer("residual/branch/batch_normalization")(branch)[0])
    expected = {
        "mixed/conv2d": mixed[..., :2],
        "mixed/sequential/max_pooling2d": pooled,
        "mixed/sequential": mixed[..., 2:],
        "mixed": mixed,
        "residual/branch/conv2d": branch,
        "residual/branch/relu": relu,
        "residual/shortcut": shortcut,
        "residual": relu + shortcut,
        "dense": net(x)[0],
    }
    for name, activations in expected.items():
        np.testing.assert_array_equal(net.activations(x, name), activations, name)


def test_every_path_of_the_models():
    for model in (models.GoogLeNet(3, (16, 16, 1)), models.ResNetCIFAR(8, 3, (8, 8, 1), width=2)):
        x = images(1, *model.net.input_shape)
        for path, layer in model.net.members():
            assert model.net.get_layer(path) is layer
            assert model.activations(x, path).shape[0] == 1
        for layer, shape in zip(model.net.layers, model.net.output_shapes, strict=True):
            assert model.activations(x, layer.name).shape == (1, *shape)


def test_forms_and_batches_of_the_input(monkeypatch):
    model = models.SimpleCNN()
    x = images(7, 28, 28, 1)
    whole = model.activations(x, "conv2d_1")
    assert (whole.shape, whole.dtype) == ((7, 14, 14, 64), np.float32)
    np.testing.assert_array_equal(model.activations(x.reshape(7, 784).tolist(), "conv2d_1"), whole)
    assert model.activations(x[:0], "conv2d_1").shape == (0, 14, 14, 64)
    monkeypatch.setattr(training, "EVALUATION_BATCH", 3)
    assert_close(
        model.activations(x, "conv2d_1"), whole, tolerances.NETWORK
    )  # the batch decides the sums' order


def test_the_result_is_the_caller_s():
    model = Classifier(Sequential([Dropout(0.5), Flatten(), Dense(2)], (2, 2, 1)), None, "t")
    x = images(3, 2, 2, 1)
    kept = x.copy()
    model.activations(x, "dropout")[:] = 0  # inference passes x itself on
    np.testing.assert_array_equal(x, kept)


def test_of_a_layer_that_stands_twice_the_first_call():
    twice = Dense(3, "relu")
    net = Sequential([twice, twice], (3,), seed=4)
    x = images(2, 3)
    np.testing.assert_array_equal(net.activations(x, "dense"), twice(x)[0])
    assert not np.array_equal(net(x)[0], twice(x)[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "conv9",
            "layer_name: the net holds 'mixed', 'residual', 'flatten', 'dense', not 'conv9' of 'conv9'",
        ),
        ("mixed/x", "layer_name: 'mixed' holds 'conv2d', 'sequential', not 'x' of 'mixed/x'"),
        ("residual/branch/", "'branch' holds 'conv2d', 'batch_normalization', 'relu', not ''"),
        ("dense/kernel", "'dense' holds no layers, not 'kernel' of 'dense/kernel'"),
        ("", "not '' of ''"),
    ],
)
def test_unknown_names(name, message):
    net = branching()
    for call in (lambda: net.get_layer(name), lambda: net.activations(images(1, 5, 6, 2), name)):
        with pytest.raises(ValueError, match=message):
            call()


def test_wrong_arguments():
    model = models.SimpleCNN()
    with pytest.raises(TypeError, match="layer_name must be a string, not 3"):
        model.activations(np.zeros((1, 784)), 3)
    with pytest.raises(ValueError, match=r"x must be \[N, 28, 28, 1\] or \[N, 784\], not shape \(28, 28\)"):
        model.activations(np.zeros((28, 28)), "conv2d")
    with pytest.raises(ValueError, match=r"x must be \[N, 5, 6, 2\], not shape \(1, 5, 6, 3\)"):
        branching().activations(np.zeros((1, 5, 6, 3)), "mixed")
