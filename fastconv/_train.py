"""`python -m fastconv train`: from the options to a trained, tested, saved and drawn network."""

from __future__ import annotations

import argparse
import contextlib
import os

import numpy as np

import fastconv
from fastconv import models, plotting
from fastconv.datasets import mnist
from fastconv.losses import class_ids
from fastconv.training import Classifier, History

MODELS = {"simple": models.SimpleCNN, "deep": models.DeepCNN, "layers": models.LayersModel}
EPOCHS = 15  # the document's, for 55,000 images
SAMPLE_EPOCHS = 30
FIGURE = "train_mnist.png"


class Refused(Exception):
    """What was asked for cannot be done. Raised before anything is trained."""


def run(options: argparse.Namespace) -> None:
    """Do what the options of `__main__` say, with the document's lines on standard output.

    Raises Refused, and KeyboardInterrupt with what became of the training.
    """
    figure = _figure_path(options)
    if options.save is not None:
        _check_target("--save", options.save)
    data, is_sample = _load(options)
    threads = fastconv.num_threads(options.threads) if options.threads else contextlib.nullcontext()
    with threads:
        model = MODELS[options.model](seed=options.seed)
        history = _fit(model, data, options, is_sample)
        if options.save is not None:
            model.save(options.save)
            print(f"Saved: {options.save}")
        logits = _test(model, data.test, options.seed)
    ...
