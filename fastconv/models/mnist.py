"""The document's networks for MNIST: images of 28x28 grey pixels in 0..1, ten digits.

All are Classifiers (train, predict, get_accuracy, fit, evaluate, save, load) of [N, 784] or [N, 28, 28, 1].
The first three start as the document's variables do: convolutions without a bias and with N(0, 0.01**2)
filters, fully connected layers with Xavier's kernel and an N(0, 1) bias. LayersModel starts as tf.layers
does: Xavier's kernels everywhere, and biases of zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastconv.initializers import random_normal
from fastconv.layers import Conv2D, Dense, Dropout, Flatten, Layer, MaxPooling2D
from fastconv.models._network import Network
from fastconv.optimizers import Adam, LearningRate
from fastconv.training import Optimizer


class _MnistClassifier(Network):
    """What the four have in common; the options are Network's."""

    def __init__(
        self,
        name: str | None = None,
        learning_rate: LearningRate = 0.001,
        seed: int = 0,
        *,
        optimizer: Callable[[LearningRate], Optimizer] = Adam,
    ) -> None:
        options = {"name": name, "learning_rate": learning_rate, "seed": seed, "optimizer": optimizer}
        super().__init__(self._layers(), (28, 28, 1), **options)

    def train(self, x: Any, y: Any, keep_prob: float | None = 0.7) -> tuple[float, float]:
        """One step on one batch: (cost, accuracy) of the batch before the step, with dropout on."""
        return super().train(x, y, keep_prob)

    def _layers(self) -> list[Layer]:
        raise NotImplementedError


class SimpleCNN(_MnistClassifier):
    """Two convolutions with pooling, one fully connected layer (98% in the document).

        [28, 28, 1]  conv 3x3x32 relu pool -> [14, 14, 32]  conv 3x3x64 relu pool -> [7, 7, 64] = 3136 -> 10

    It has no dropout: keep_prob changes nothing.
    """

    def _layers(self) -> list[Layer]:
        return [*_block(32), *_block(64), Flatten(), _fully_connected(10)]


class DeepCNN(_MnistClassifier):
    """Three convolutions with pooling and dropout, two fully connected layers (99% in the document).

    [28, 28, 1]  conv 3x3x32 relu pool dropout -> [14, 14, 32]  conv 3x3x64 ... -> [7, 7, 64]
    conv 3x3x128 ... -> [4, 4, 128] = 2048 -> 625 relu dropout -> 10
    """

    def _layers(self) -> list[Layer]:
        blocks = [layer for filters in (32, 64, 128) for layer in (*_block(filters), Dropout(0.3))]
        return [
            *blocks,
            Flatten(),
            _fully_connected(625, activation="relu"),
            Dropout(0.3),
            _fully_connected(10),
        ]


class Model(DeepCNN):
    """The document's `class Model(sess, name)`, without the session: a DeepCNN of that name."""


class LayersModel(_MnistClassifier):
    """The same network in tf.layers' terms: dropout 0.3 after the pools, 0.5 after the dense layer.

    keep_prob goes to the three dropouts of 0.3; the dense layer's stays 0.5 in training.
    """

    def __init__(
        self,
        name: str | None = None,
        learning_rate: LearningRate = 0.001,
        seed: int = 0,
        *,
        optimizer: Callable[[LearningRate], Optimizer] = Adam,
    ) -> None:
        super().__init__(name, learning_rate, seed, optimizer=optimizer)
        self.dropouts.pop()

    def _layers(self) -> list[Layer]:
        layers: list[Layer] = []
        for filters in (32, 64, 128):
            layers += [
                Conv2D(filters, [3, 3], padding="same", activation="relu"),
                MaxPooling2D([2, 2], strides=2, padding="same"),
                Dropout(0.3),
            ]
        return [*layers, Flatten(), Dense(625, activation="relu"), Dropout(0.5), Dense(10)]


def _block(filters: int) -> list[Layer]:
    """[H, W, C] -> [H/2, W/2, filters], rounded up."""
    return [
        Conv2D(
            filters,
            3,
            padding="same",
            activation="relu",
            use_bias=False,
            kernel_initializer=random_normal(stddev=0.01),
        ),
        MaxPooling2D(2, padding="same"),
    ]


def _fully_connected(units: int, activation: str | None = None) -> Dense:
    return Dense(units, activation, kernel_initializer="xavier", bias_initializer=random_normal(stddev=1.0))
