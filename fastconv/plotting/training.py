"""How a training went: loss, accuracy, confusion matrix, mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.losses import class_ids
from fastconv.plotting.images import as_pixels
from fastconv.training import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MISTAKES = 24  # misclassified images that are drawn, in two rows
_TRAIN, _HELD_OUT, _WRONG = "#7f7f7f", "#1f4e9c", "#c0392b"


def training_figure(
    history: History,
    images: Any,
    labels: Any,
    predictions: Any,
    *,
    title: str = "",
    held_out: str = "validation",
) -> Figure:
    """How a training went and what came out: loss, accuracy, confusion matrix, misclassified images.

    history: what `fit` returned; its val_ lists may be empty. images: the test set, [N, H, W], [N, H, W, 1]
    or [N, H*H]. labels: [N] integers or [N, K] one-hot. predictions: [N] integers below K. held_out: what
    validation_data was, for the legend. ImportError without matplotlib; ValueError if the sizes disagree.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    images, labels, predictions = np.asarray(images), class_ids(np.asarray(labels)), np.asarray(predictions)
    if not len(images) == len(labels) == len(predictions):
        sizes = f"{len(images)}, {len(labels)} and {len(predictions)}"
        raise ValueError(f"images, labels and predictions must be equally many, not {sizes}")
    if not len(images):
        raise ValueError(f"images must hold at least one, not shape {images.shape}")
    wrong = np.flatnonzero(labels != predictions)
    figure = Figure(figsize=(12, 9.5), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))  # inches
    figure.suptitle(_headline(title, len(labels), len(wrong)), fontsize=15)
    top, bottom = figure.subfigures(2, 1, height_ratios=(3, 1.2))
    curves, matrix = top.subfigures(1, 2, width_ratios=(1, 1.1))
    loss, accuracy = curves.subplots(2, 1, sharex=True)
    _draw_loss(loss, history, held_out)
    _draw_accuracy(accuracy, history, held_out)
    _draw_confusion(matrix.subplots(), labels, predictions)
    _draw_mistakes(bottom, images, labels, predictions, wrong)
    return figure


def _headline(title: str, total: int, wrong: int) -> str:
    result = f"{total - wrong:,} of {total:,} test images right ({1 - wrong / total:.2%})"
    return f"{title}: {result}" if title else result


def _draw_loss(axes: Axes, history: History, held_out: str) -> None:
    from matplotlib.ticker import LogLocator

    _draw_curves(axes, history.loss, history.val_loss, held_out)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_ylabel("loss: cross entropy (nats)")
    axes.legend(frameon=False)


def _draw_accuracy(axes: Axes, history: History, held_out: str) -> None:
    from matplotlib.ticker import MaxNLocator

    train, validation = (np.multiply(100, curve) for curve in (history.accuracy, history.val_accuracy))
    _draw_curves(axes, train, validation, held_out)
    # The first epochs, near 10% right, would press the rest to a line: show errors up to ten times the least.
    least_error = 100 - max(validation if len(validation) else train, default=0)
    axes.set_ylim(max(0, 100 - 10 * max(least_error, 1)), 100)
    axes.set_ylabel("accuracy (%)")
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, len(train) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))


def _draw_curves(axes: Axes, train: Any, validation: Any, held_out: str) -> None:
    for curve, color, name in ((train, _TRAIN, "training"), (validation, _HELD_OUT, held_out)):
        if len(curve):
            axes.plot(np.arange(1, len(curve) + 1), curve, color=color, label=name, marker=".")
    axes.grid(alpha=0.3)


def _draw_confusion(axes: Axes, labels: np.ndarray, predictions: np.ndarray) -> None:
    classes = 1 + int(max(labels.max(), predictions.max()))
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    shades = np.log1p(counts)  # one mistake among a thousand hits is still to be seen
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1.1 * shades.max())
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shades[row, column] > 0.6 * shades.max() else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    axes.set_title("confusion matrix (images)", fontsize=11)


def _draw_mistakes(
    panel: SubFigure, images: np.ndarray, labels: np.ndarray, predictions: np.ndarray, wrong: np.ndarray
) -> None:
    if not len(wrong):
        panel.suptitle("no image is misclassified", fontsize=11)
        return
    shown = wrong[:MISTAKES]
    which = f"the first {len(shown)} of {len(wrong)}" if len(shown) < len(wrong) else f"all {len(wrong)}"
    panel.suptitle(f"misclassified ({which}): label \N{RIGHTWARDS ARROW} prediction", fontsize=11)
    grid = panel.subplots(2, MISTAKES // 2).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, i in zip(grid, shown, strict=False):
        axes.imshow(as_pixels(images[i]), cmap="gray_r")
        axes.set_title(f"{labels[i]} \N{RIGHTWARDS ARROW} {predictions[i]}", fontsize=11, color=_WRONG, pad=3)
