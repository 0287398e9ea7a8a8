"""Train an ensemble of DeepCNNs on MNIST: `python examples/ensemble_mnist.py --help` lists the options.

Each training image is learned five times an epoch, as it is and four times distorted at random, and Adam's
learning rate falls from 0.001 to 0 along half a cosine; otherwise the document's settings.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np

import fastconv
from fastconv import _train
from fastconv._options import Parser, Refused, add_data_options, execute, target_problem, whole
from fastconv.datasets import mnist
from fastconv.models import DeepCNN, Ensemble
from fastconv.optimizers import CosineDecay

BATCH_SIZE = 100
LEARNING_RATE = 0.001
EPOCHS = 4  # of 55,000 images and their distortions
DISTORTIONS = 4  # of each
SIDE = 28
BORDER = 8  # of black pixels, more than a distortion moves anything
AT_ONCE = 1000  # images distorted, for the memory's sake


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    return execute(parser, lambda: run(options))


def run(options: argparse.Namespace) -> None:
    if options.save is not None and (problem := target_problem(options.save)):
        raise Refused(f"argument --save: {problem}")
    workers = min(options.models, fastconv.get_num_threads())
    with _executor(options.executor, workers) as executor:
        data, epochs = _data(options)
        ensemble = _ensemble(options, data.train, epochs)
        side_by_side = {} if executor is None else {"executor": executor, "workers": workers}
        seconds = _fit(ensemble, data, epochs, side_by_side)
    if options.save is not None:  # first of all, whatever may go wrong with the rest
        ensemble.save(options.save)
    for i, accuracy in enumerate(ensemble.member_accuracies(data.test.images, data.test.labels)):
        print(f"{i} Accuracy: {accuracy:.4f}")
    print(f"Ensemble accuracy: {ensemble.get_accuracy(data.test.images, data.test.labels):.4f}")
    print(f"Seconds of learning: {seconds:.0f}")


def _fit(ensemble: Ensemble, data: mnist.DataSets, epochs: int, side_by_side: dict[str, Any]) -> float:
    """Train all members; return the seconds."""
    name, watched = _train.held_out(data)
    print(
        f"{len(ensemble.models)} x DeepCNN, {ensemble.count_params():,} parameters. "
        f"Training images: {data.train.num_examples:,}, epochs: {epochs}, "
        f"accuracy on {watched.num_examples:,} {name} images"
    )
    print("Learning Started!", flush=True)
    start = time.perf_counter()
    try:
        ensemble.fit(
            data.train.images,
            data.train.labels,
            epochs,
            BATCH_SIZE,
            validation_data=(watched.images, watched.labels),
            **side_by_side,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was saved") from None
    print("Learning Finished!")
    return time.perf_counter() - start


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="Train several DeepCNNs on MNIST and let them answer together.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--models", type=whole(1), default=5, metavar="N", help="how many (default: 5)")
    epochs = f"default: {EPOCHS}, on the sample {_train.SAMPLE_EPOCHS}"
    add(
        "--epochs",
        type=whole(1),
        metavar="N",
        help=f"times through all images, distorted ones too ({epochs})",
    )
    add_data_options(parser)
    add("--seed", type=whole(0), default=0, metavar="N", help="of the first; the next has N + 1 (default: 0)")
    add(
        "--executor",
        choices=("none", "threads", "processes", "dask"),
        default="none",
        help="train the models in turns (none), or as many at once as there are processors "
        '(dask needs pip install "fastconv[dask]")',
    )
    add("--save", metavar="PATH", help="write the trained parameters of all models to this file")
    return parser


def _data(options: argparse.Namespace) -> tuple[mnist.DataSets, int]:
    """The data sets, distorted images added to train, and how many epochs."""
    data, is_sample = _train.load_data(options)
    if is_sample:  # it comes with shifted images
        return data, options.epochs or _train.SAMPLE_EPOCHS
    return data._replace(train=_with_distortions(data.train)), options.epochs or EPOCHS


def _with_distortions(data: mnist.DataSet) -> mnist.DataSet:
    """Each image as it is, and DISTORTIONS more; the same ones for all members."""
    rng = np.random.default_rng(0)
    images = np.empty((1 + DISTORTIONS, *data.images.shape), np.float32)
    images[0] = data.images
    for distorted in images[1:]:
        for at in range(0, len(distorted), AT_ONCE):
            distorted[at : at + AT_ONCE] = _distorted(data.images[at : at + AT_ONCE], rng)
    return mnist.DataSet(images.reshape(-1, SIDE * SIDE), np.tile(data.labels, (1 + DISTORTIONS, 1)))


def _distorted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[N, 784], each image turned by up to 10 degrees, stretched by up to a tenth each way, slanted by up to
    0.15 and moved by up to two pixels: an affine map from pixels to where their values lie, between four."""
    n = len(images)
    angle = rng.uniform(-10, 10, n) * math.pi / 180
    stretch = np.exp(rng.uniform(-0.1, 0.1, (2, n)))
    slant = rng.uniform(-0.15, 0.15, n)
    move = rng.uniform(-2, 2, (n, 1, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shape = np.array([[stretch[0], np.zeros(n)], [slant, stretch[1]]])
    pixels = np.indices((SIDE, SIDE), float).reshape(2, -1).T  # [784, 2]: row, column
    middle = (SIDE - 1) / 2
    source = (pixels - middle) @ np.einsum("ijn,jkn->nki", turn, shape) + middle + move  # [N, 784, 2]

    width = SIDE + 2 * BORDER
    padded = np.pad(images.reshape(n, SIDE, SIDE), ((0, 0), (BORDER, BORDER), (BORDER, BORDER)))
    padded = padded.reshape(n, -1)
    source = np.clip(source + BORDER, 0, width - 1.01)
    corner = source.astype(int)  # the upper left of the four
    at = corner[..., 0] * width + corner[..., 1]
    values = [np.take_along_axis(padded, at + to, 1) for to in (0, 1, width, width + 1)]
    down, right = np.moveaxis((source - corner).astype(np.float32), -1, 0)
    upper, lower = ((1 - right) * values[i] + right * values[i + 1] for i in (0, 2))
    return (1 - down) * upper + down * lower


def _ensemble(options: argparse.Namespace, train: mnist.DataSet, epochs: int) -> Ensemble:
    steps = epochs * math.ceil(train.num_examples / BATCH_SIZE)
    factory = functools.partial(DeepCNN, learning_rate=CosineDecay(LEARNING_RATE, steps))
    return Ensemble(factory, options.models, options.seed)


@contextlib.contextmanager
def _executor(kind: str, workers: int) -> Iterator[Any]:
    if kind == "none":
        yield None
    elif kind == "threads":
        with ThreadPoolExecutor(workers) as pool:
            yield pool
    elif kind == "processes":  # spawned: a forked child of a process that has computed has one thread
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            yield pool
    else:
        with _dask_cluster(workers) as cluster, cluster.get_client() as client:
            yield client


def _dask_cluster(workers: int) -> Any:
    """A cluster on this machine. Dask allows its workers one thread each, fastconv's own variable more."""
    try:
        from distributed import LocalCluster
    except ImportError:
        raise Refused('argument --executor: dask needs pip install "fastconv[dask]"') from None
    share = max(1, fastconv.get_num_threads() // workers)
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address=":0",  # any free port
        env={"FASTCONV_NUM_THREADS": str(share)},
    )


if __name__ == "__main__":
    sys.exit(main())
