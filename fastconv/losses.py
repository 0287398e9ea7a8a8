"""What training minimizes: the mean cross entropy between softmax(logits) and the labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import _arguments as arguments
from fastconv import nn

# Rows of probabilities in float32 sum to 1 within about K * 2**-24; labels of a wrong kind miss by far more.
_SUM_TOLERANCE = 1e-3


def softmax_cross_entropy(labels: Any, logits: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean loss over the batch, and its gradient with respect to the logits.

    labels: integers [N] in 0..K-1, or one row per example [N, K] that sums to 1 (one-hot or probabilities).
    logits: [N, K], N >= 1. The gradient has their shape and dtype: (softmax(logits) - labels) / N.
    ValueError or TypeError if the labels do not fit the logits.
    """
    logits = arguments.as_array("logits", logits)
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits must be [N, K] with N and K at least 1, not shape {logits.shape}")
    examples, classes = logits.shape
    targets = one_hot(check_labels(labels, examples, classes, "labels"), classes, logits.dtype)
    losses = nn.softmax_cross_entropy_with_logits(targets, logits)
    gradient = nn.softmax(logits)
    gradient -= targets
    gradient /= examples
    return float(losses.mean(dtype=np.float64)), gradient


def check_labels(labels: Any, examples: int, classes: int, argument: str = "y") -> np.ndarray:
    """The labels as an array, [N] integers or [N, K] rows; an error if they do not fit the sizes."""
    labels = arguments.as_array(argument, labels)
    if labels.dtype.kind not in "biuf":
        raise TypeError(f"{argument} must hold numbers, not dtype {labels.dtype}")
    if labels.ndim not in (1, 2) or labels.shape[1:] not in ((), (classes,)):
        raise ValueError(
            f"{argument} must be [N] integers or [N, {classes}] one-hot, not shape {labels.shape}"
        )
    if len(labels) != examples:
        raise ValueError(
            f"{argument} must have one label an example, not {len(labels)} for {examples} examples"
        )
    if labels.ndim == 1:
        _check_integers(labels, classes, argument)
    elif labels.size:
        _check_rows(labels, argument)
    return labels


def one_hot(labels: np.ndarray, classes: int, dtype: Any) -> np.ndarray:
    """[N] integers -> [N, K] of `dtype`; [N, K] rows are only converted."""
    if labels.ndim == 2:
        return labels.astype(dtype)
    rows = np.zeros((len(labels), classes), dtype)
    rows[np.arange(len(labels)), labels] = 1
    return rows


def class_ids(labels: np.ndarray) -> np.ndarray:
    """[N] integers of labels in either form."""
    return labels if labels.ndim == 1 else labels.argmax(axis=1)


def _check_integers(labels: np.ndarray, classes: int, argument: str) -> None:
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{argument} of shape [N] must hold integers, not dtype {labels.dtype}")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise ValueError(f"{argument} must lie in 0..{classes - 1}, not {wrong[0]}")


def _check_rows(labels: np.ndarray, argument: str) -> None:
    sums = labels.sum(axis=1, dtype=np.float64)
    wrong = (np.abs(sums - 1) > _SUM_TOLERANCE) | (labels < 0).any(axis=1) | np.isnan(sums)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{argument} must have rows >= 0 that sum to 1, not {labels[row]} in row {row}")
