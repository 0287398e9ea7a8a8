"""Draw what a convolution and a max pool make of a digit, and what the layers of a trained network do.

    python examples/feature_maps.py

First the lecture notes' example: one image of MNIST, five random 3x3 filters, stride 2, then a 2x2 max pool,
without a network. Then DeepCNN, trained for a moment or loaded (--load): its first filters, and what some of
its layers give. The figures go into a folder, `feature_maps` unless --output says otherwise.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastconv import models, nn, plotting
from fastconv._options import Parser, Refused, add_data_options, add_run_options, execute, threads, whole
from fastconv._train import load_data
from fastconv.datasets import mnist
from fastconv.initializers import random_normal
from fastconv.losses import class_ids

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYERS = ("conv2d", "max_pooling2d", "conv2d_1", "conv2d_2", "dense_1")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, with the options of sys.argv by default; return the exit code."""
    parser = Parser(
        prog="feature_maps.py", description="Draw filters and activation maps.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--image", type=whole(0), default=0, metavar="N", help="which training image (default: 0)")
    add("--epochs", type=whole(1), default=2, metavar="N", help="of training DeepCNN (default: 2)")
    add(
        "--load", metavar="PATH", help="parameters of a DeepCNN, saved by train_mnist.py, instead of training"
    )
    add(
        "--output",
        default="feature_maps",
        metavar="DIR",
        help="folder of the figures (default: feature_maps)",
    )
    add_data_options(parser)
    add_run_options(parser)
    options = parser.parse_args(argv)
    return execute(parser, lambda: draw(options))


def draw(options: argparse.Namespace) -> None:
    """All figures; Refused, before anything is trained, if they cannot be drawn."""
    try:
        plotting.formats()
    except ImportError:
        raise Refused('the figures need matplotlib: pip install "fastconv[examples]"') from None
    data, _ = load_data(options)
    count = data.train.num_examples
    if options.image >= count:
        raise Refused(f"argument --image: must be below {count}, the training images, not {options.image}")
    image = data.train.images[options.image].reshape(1, 28, 28, 1)
    label = class_ids(data.train.labels)[options.image]
    figures = {"image": plotting.image_figure(image[0], title=f"training image {options.image}, a {label}")}
    os.makedirs(options.output, exist_ok=True)
    with threads(options):
        figures |= convolution_and_pool(image, options.seed)
        figures |= deep_cnn(trained(options, data), image)
    for name, figure in figures.items():
        path = os.path.join(options.output, f"{name}.png")
        figure.savefig(path)
        print(f"Figure: {path}")


def convolution_and_pool(image: np.ndarray, seed: int) -> dict[str, Figure]:
    """The lecture notes' maps of an image [1, 28, 28, 1]: [1, 14, 14, 5], pooled [1, 7, 7, 5]."""
    filters = random_normal(0.01)(np.random.default_rng(seed), (3, 3, 1, 5)).astype(np.float32)
    maps = nn.conv2d(image, filters, strides=2, padding="SAME")
    pooled = nn.max_pool2d(maps, 2, 2, "SAME")
    print(f"Convolution: {image.shape} -> {maps.shape}, max pool: {maps.shape} -> {pooled.shape}")
    return {
        "filters": plotting.filters_figure(filters, title="N(0, 0.01)"),
        "convolution": plotting.activation_maps_figure(maps[0], title="convolution, stride 2"),
        "max_pool": plotting.activation_maps_figure(pooled[0], title="2x2 max pool of them"),
    }


def trained(options: argparse.Namespace, data: mnist.DataSets) -> models.DeepCNN:
    """DeepCNN with the parameters of --load, or after some epochs."""
    model = models.DeepCNN(seed=options.seed)
    if options.load is None:
        print(f"Training {model.name} on {data.train.num_examples:,} images", flush=True)
        model.fit(data.train.images, data.train.labels, options.epochs)
    else:
        try:
            model.load(options.load)
        except (OSError, ValueError) as error:
            raise Refused(f"argument --load: {error}") from error
    print(f"Accuracy: {model.get_accuracy(data.test.images, data.test.labels):.4f}")
    return model


def deep_cnn(model: models.DeepCNN, image: np.ndarray) -> dict[str, Figure]:
    """The first layer's filters and what the layers make of the image."""
    figures = {
        "deep_cnn_filters": plotting.filters_figure(
            model.net.weights["conv2d/kernel"], title="conv2d of DeepCNN"
        )
    }
    for name in LAYERS:
        activations = model.activations(image, name)[0]
        figures[f"deep_cnn_{name}"] = plotting.activation_maps_figure(activations, title=f"{name} of DeepCNN")
    return figures


if __name__ == "__main__":
    sys.exit(main())
