"""The same network with the same weights in Keras: logits.

Needs Keras and one of its backends (TensorFlow, or KERAS_BACKEND=torch); CI runs this file in an environment
of its own.
"""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import NETWORK, assert_close

from fastconv import models
from fastconv.layers import BatchNormalization, Conv2D, Dense, Flatten, MaxPooling2D, ReLU, Sequential
from fastconv.optimizers import SGD
from fastconv.training import Classifier

keras = pytest.importorskip("keras", reason="needs Keras and a backend", exc_type=ImportError)

# Keras' own, with PyTorch behind it and NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def drawn(shapes):
    """Arrays of these shapes for kernels, biases, factors and statistics, all above 0 but the kernels."""
    rng = np.random.default_rng(0)
    arrays = []
    for shape in shapes:
        if len(shape) > 1:
            arrays.append(rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape))
        else:
            arrays.append(rng.uniform(0.5, 1.5, shape))
    return [array.astype(np.float32) for array in arrays]


def check(peer, model):
    peer.set_weights(drawn([array.shape for array in peer.get_weights()]))
    model.load_keras_weights(peer.get_weights())
    x = np.random.default_rng(1).standard_normal((3, *model.net.input_shape)).astype(np.float32)
    assert_close(model.predict(x), peer.predict(x, verbose=0), NETWORK)


def test_lenet():
    layers = keras.layers
    peer = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 5, activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Conv2D(120, 5, activation="tanh"),
            layers.Flatten(),
            layers.Dense(84, activation="tanh"),
            layers.Dense(10),
        ]
    )
    check(peer, models.LeNet5(seed=1))


def test_batch_normalization_and_a_flattened_image():
    layers = keras.layers
    peer = keras.Sequential(
        [
            keras.Input((9, 8, 3)),
            layers.Conv2D(5, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    ours = [
        Conv2D(5, 3, strides=2, padding="same", use_bias=False),
        BatchNormalization(),
        ReLU(),
        MaxPooling2D(2),
        Flatten(),
        Dense(4),
    ]
    check(peer, Classifier(Sequential(ours, (9, 8, 3)), SGD(), "small"))
