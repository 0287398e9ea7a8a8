"""`python -m fastconv train`: from the options to a trained, tested, saved and drawn network.

examples/ensemble_mnist.py uses the parts without an underscore.
"""

from __future__ import annotations

import argparse
import functools

import numpy as np

import fastconv
from fastconv import models, plotting
from fastconv._options import Refused, figure_path, target_problem, threads
from fastconv.datasets import mnist
from fastconv.losses import class_ids
from fastconv.training import Classifier, History

MODELS = {
    "simple": models.SimpleCNN,
    "deep": models.DeepCNN,
    "layers": models.LayersModel,
    # After nine epochs 98.9% of MNIST's validation images, with tanh and averages 98.7% and more slowly.
    "lenet": functools.partial(models.LeNet5, activation="relu", pooling="max"),
}
EPOCHS = 15  # the document's, for 55,000 images
SAMPLE_EPOCHS = 10  # of 4,000 images and their shifts
FIGURE = "train_mnist.png"


def run(options: argparse.Namespace) -> None:
    """Do what the options of `__main__` say, with the document's lines on standard output.

    Raises Refused, OSError from writing the results, and KeyboardInterrupt that says what was not saved.
    """
    if options.save is not None and (problem := target_problem(options.save)):
        raise Refused(f"argument --save: {problem}")
    figure = figure_path(options, FIGURE)
    data, is_sample = load_data(options)
    if options.shifts and not is_sample:  # the sample has them already
        data = data._replace(train=with_shifts(data.train))
    epochs = options.epochs or (SAMPLE_EPOCHS if is_sample else EPOCHS)
    model = MODELS[options.model](seed=options.seed)
    with threads(options):
        history = _fit(model, data, epochs, options.batch_size)
        if options.save is not None:  # first of all, whatever may go wrong with the rest
            model.save(options.save)
        predictions = _test(model, data.test, options.seed)
    images, seconds = data.train.num_examples * epochs, sum(history.seconds)
    print(f"Speed: {images / seconds:,.0f} images/s ({images:,} images in {seconds:.1f} s)")
    if options.save is not None:
        print(f"Parameters: {options.save}")
    if figure is not None:
        _draw(figure, model.name, history, data, predictions)


def load_data(options: argparse.Namespace) -> tuple[mnist.DataSets, bool]:
    """The data sets, and whether they are the shipped sample."""
    if options.sample:
        return _load_sample(), True
    if options.data is None:  # a silent network may take its time
        print("Looking for MNIST in FASTCONV_DATA, the cache and, 11 MB, the network", flush=True)
    try:
        data = mnist.read_data_sets(options.data)
    except mnist.DataNotFound as error:
        reason = str(error).splitlines()[0].partition(". ")[0].rstrip(":")  # its first sentence
        if options.data is not None:
            raise Refused(f"argument --data: {reason}") from error
        print(
            f"Training on the sample of MNIST that fastconv ships: {reason}. "
            'For the whole: --data DIR, FASTCONV_DATA=DIR, or pip install "fastconv[examples]" and a network.'
        )
        return _load_sample(), True
    except (OSError, ValueError) as error:  # a file that cannot be read, or is damaged
        raise Refused(str(error)) from error
    pixels, classes = data.train.images.shape[1], data.train.labels.shape[1]
    if (pixels, classes) != (784, 10):
        raise Refused(f"the networks need 784 pixels and 10 classes, the data have {pixels} and {classes}")
    return data, False


def _load_sample() -> mnist.DataSets:
    """The sample, with its few training images multiplied: a third fewer mistakes in the same time."""
    sample = mnist.load_sample()
    print(
        f"Sample: {sample.train.num_examples:,} training images, each also moved by a pixel to the four sides"
    )
    return sample._replace(train=with_shifts(sample.train))


def with_shifts(data: mnist.DataSet) -> mnist.DataSet:
    """Each image five times: as it is, and moved by one pixel to each of the four sides."""
    padded = np.pad(data.images.reshape(-1, 28, 28), ((0, 0), (1, 1), (1, 1)))
    corners = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
    images = np.concatenate([padded[:, y : y + 28, x : x + 28] for y, x in corners])
    return mnist.DataSet(images.reshape(-1, 784), np.tile(data.labels, (len(corners), 1)))


def held_out(data: mnist.DataSets) -> tuple[str, mnist.DataSet]:
    """What is watched while training: the sample has no validation images, nor is anything chosen by them."""
    return ("validation", data.validation) if data.validation.num_examples else ("test", data.test)


def _fit(model: Classifier, data: mnist.DataSets, epochs: int, batch_size: int) -> History:
    name, watched = held_out(data)
    print(
        f"{model.name}, {model.count_params():,} parameters. Training images: {data.train.num_examples:,}, "
        f"epochs: {epochs}, threads: {fastconv.get_num_threads()}, "
        f"accuracy on {watched.num_examples:,} {name} images"
    )
    print("Learning started. It takes sometime.", flush=True)
    try:
        history = model.fit(
            data.train.images,
            data.train.labels,
            epochs,
            batch_size,
            validation_data=(watched.images, watched.labels),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was saved") from None
    print("Learning Finished!")
    return history


def _test(model: Classifier, test: mnist.DataSet, seed: int) -> np.ndarray:
    """Print the accuracy and one random image's label and prediction; return all predictions, [N]."""
    predictions = model.predict(test.images).argmax(axis=1)
    labels = class_ids(test.labels)
    print(f"Accuracy: {np.mean(predictions == labels):.4f}")
    r = np.random.default_rng(seed).integers(test.num_examples)
    print("Label: ", labels[r : r + 1])
    print("Prediction: ", predictions[r : r + 1])
    return predictions


def _draw(path: str, title: str, history: History, data: mnist.DataSets, predictions: np.ndarray) -> None:
    figure = plotting.training_figure(
        history, data.test.images, data.test.labels, predictions, title=title, held_out=held_out(data)[0]
    )
    figure.savefig(path)
    print(f"Figure: {path}")
