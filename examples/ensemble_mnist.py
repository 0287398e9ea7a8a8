"""Train an ensemble of DeepCNNs on MNIST: `python examples/ensemble_mnist.py --help` lists the options.

Each training image is learned five times an epoch, as it is and moved by one pixel to the four sides, and the
learning rate of Adam falls from 0.001 to 0 along half a cosine; otherwise the document's settings.
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

import fastconv
from fastconv import _train
from fastconv._options import Parser, Refused, add_data_options, execute, target_problem, whole
from fastconv.datasets import mnist
from fastconv.models import DeepCNN, Ensemble
from fastconv.optimizers import CosineDecay

BATCH_SIZE = 100
LEARNING_RATE = 0.001
EPOCHS = 3  # of 55,000 images and their shifts


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
    add("--epochs", type=whole(1), metavar="N", help=f"times through the images and their shifts ({epochs})")
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
    """The data sets, shifted images added to train, and how many epochs."""
    data, is_sample = _train.load_data(options)
    if is_sample:  # it comes with its shifts
        return data, options.epochs or _train.SAMPLE_EPOCHS
    return data._replace(train=_train.with_shifts(data.train)), options.epochs or EPOCHS


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
