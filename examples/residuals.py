"""Why residuals: deep plain networks train worse than shallow ones, deep residual networks do not.

    python examples/residuals.py --data DIR

Trains four networks on the same images with the same settings, plain-20 and plain-56, ResNet-20 and ResNet-56
(`models.ResNetCIFAR`), and draws their training errors, as figures 1 and 6 of He et al., "Deep residual
learning for image recognition", CVPR 2016. DIR holds MNIST, or Fashion-MNIST, which is harder.

To finish in minutes on a small CPU the networks are narrow and the images few; --width 16 is the paper's.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastconv import models
from fastconv._options import (
    Parser,
    add_data_options,
    add_figure_options,
    add_run_options,
    execute,
    figure_path,
    threads,
    whole,
)
from fastconv._train import load_data
from fastconv.optimizers import SGD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEPTHS = (20, 56)
FIGURE = "residuals.png"
RATE, MOMENTUM = 0.05, 0.9  # the paper's rate is 0.1, for batches of 128
DECAY_AFTER = 0.75  # of the epochs; then a tenth of the rate


def main(argv: Sequence[str] | None = None) -> int:
    """Train and draw, with the options of sys.argv by default; return the exit code."""
    parser = Parser(
        prog="residuals.py",
        description="Plain against residual networks, 20 and 56 layers.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--width", type=whole(1), default=8, metavar="N", help="filters of the first stage (default: 8)")
    add(
        "--images",
        type=whole(1),
        default=2000,
        metavar="N",
        help="to train on, of those there (default: 2000)",
    )
    add("--epochs", type=whole(1), default=60, metavar="N", help="times through the images (default: 60)")
    add("--batch-size", type=whole(1), default=32, metavar="N", help="images in a step (default: 32)")
    add_data_options(parser)
    add_run_options(parser)
    add_figure_options(parser, FIGURE)
    options = parser.parse_args(argv)
    return execute(parser, lambda: compare(options))


def compare(options: argparse.Namespace) -> None:
    """Train the four networks, print their errors, draw the curves."""
    path = figure_path(options, FIGURE)
    data, _ = load_data(options)
    x = halved(data.train.images[: options.images])
    y = data.train.labels[: options.images]
    errors = {}
    with threads(options):
        for residual in (False, True):
            for depth in DEPTHS:
                errors[residual, depth] = training_errors(depth, residual, x, y, options)
    for (residual, depth), curve in errors.items():
        print(f"{name(residual, depth)}: {curve[-1]:.2f}% training error in the last epoch")
    if path is not None:
        figure(errors, settings(len(x), options)).savefig(path)
        print(f"Figure: {path}")


def settings(images: int, options: argparse.Namespace) -> str:
    """What was run, for the figure."""
    source = os.path.basename(os.path.abspath(options.data)) if options.data else "MNIST"
    return (
        f"{source}: {images:,} images of 14x14, width {options.width}, {options.epochs} epochs, batches of "
        f"{options.batch_size}, seed {options.seed}\nSGD with momentum {MOMENTUM}, rate {RATE}, in the last "
        f"{options.epochs - decay_epoch(options.epochs)} epochs {RATE / 10:g}"
    )


def decay_epoch(epochs: int) -> int:
    """How many epochs have the full rate."""
    return round(DECAY_AFTER * epochs)


def name(residual: bool, depth: int) -> str:
    return f"{'ResNet' if residual else 'plain'}-{depth}"


def halved(images: np.ndarray) -> np.ndarray:
    """[N, 784] -> [N, 14, 14, 1], means of 2x2 pixels: a quarter of the time."""
    return images.reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4))


def training_errors(
    depth: int, residual: bool, x: np.ndarray, y: np.ndarray, options: argparse.Namespace
) -> list[float]:
    """Percent of the images that the network took wrongly while it trained on them, epoch by epoch."""
    model = models.ResNetCIFAR(
        depth,
        y.shape[1],
        x.shape[1:],
        width=options.width,
        residual=residual,
        name=name(residual, depth),
        learning_rate=RATE,
        seed=options.seed,
        optimizer=functools.partial(SGD, momentum=MOMENTUM),
    )
    print(f"{model.name}, {model.count_params():,} parameters, {len(x):,} images", flush=True)
    start, errors = time.perf_counter(), []
    for epoch in range(options.epochs):
        if epoch == decay_epoch(options.epochs):
            model.optimizer.learning_rate = RATE / 10
        history = model.fit(x, y, 1, options.batch_size, verbose=0)
        errors.append(100 * (1 - history.accuracy[0]))
        print(f"Epoch: {epoch + 1:04d} cost = {history.loss[0]:.9f} error = {errors[-1]:.2f}%", flush=True)
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return errors


def figure(errors: dict[tuple[bool, int], list[float]], title: str) -> Figure:
    """Two panels, the plain and the residual networks, on one scale."""
    from matplotlib.figure import Figure

    result = Figure(figsize=(10, 4.4), layout="constrained")
    result.suptitle(title, fontsize=11)
    for axes, residual in zip(result.subplots(1, 2, sharey=True), (False, True), strict=True):
        draw_curves(axes, {depth: errors[residual, depth] for depth in DEPTHS}, residual)
    result.axes[0].set_ylabel("training error (%)")
    return result


def draw_curves(axes: Axes, curves: dict[int, list[float]], residual: bool) -> None:
    """Training error by epoch; the deeper network's line is the thicker one, as in the paper."""
    for (depth, curve), color, width in zip(curves.items(), ("#1f4e9c", "#c0392b"), (1.2, 2.4), strict=True):
        label = f"{name(residual, depth)}: {curve[-1]:.2f}% at the end"
        axes.plot(np.arange(1, len(curve) + 1), curve, color=color, linewidth=width, label=label)
    axes.set_title("residual networks" if residual else "plain networks")
    axes.set_xlabel("epoch")
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


if __name__ == "__main__":
    sys.exit(main())
