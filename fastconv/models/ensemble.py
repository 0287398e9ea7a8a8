"""Ensemble: several models trained apart, whose predictions are summed; the largest sum is the answer.

Hansen and Salamon, "Neural network ensembles", IEEE Transactions on Pattern Analysis and Machine Intelligence
12(10), 1990, where the members vote; the sum of logits is the lecture notes'.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastconv import _algorithms, checkpoints, losses, threads
from fastconv import _arguments as arguments
from fastconv.training import Classifier, History, Optimizer


class Executor(Protocol):
    """What computes side by side: concurrent.futures' executors, loky's, a dask.distributed.Client."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Any: ...


class Ensemble:
    """M Classifiers that answer together, with the methods that all models have.

        Ensemble([SimpleCNN(seed=0), DeepCNN(seed=1)])    these two
        Ensemble(DeepCNN, 5)                              DeepCNN(seed=0), ... DeepCNN(seed=4)
        Ensemble(partial(DeepCNN, learning_rate=0.002), 5, seed=100)

    models: Classifiers of the same classes and the same number of inputs, each an object of its own; or what
    makes one, called `size` times with seed=seed, seed=seed + 1, ... (seed 0 by default).

    x is [N, *input_shape] of every member, or flattened; y is [N] integers or [N, K] rows, as a Classifier's.
    What does not fit is a ValueError or TypeError that names the argument, before any member is changed. The
    members stand in `models`, and each goes on being a model that can be used on its own.
    """

    def __init__(
        self,
        models: Sequence[Classifier] | Callable[..., Classifier],
        size: int | None = None,
        seed: int | None = None,
    ) -> None:
        if callable(models):
            count = arguments.whole("size", size, 1)
            first = 0 if seed is None else arguments.whole("seed", seed, 0)
            models = [models(seed=first + i) for i in range(count)]
        elif size is not None or seed is not None:
            raise ValueError(f"size and seed belong to a factory of models, not to {arguments.show(models)}")
        self.models = _checked_models(models)
        self.classes = self.models[0].classes

    def train(self, x: Any, y: Any, keep_prob: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """One step of each member on one batch: (costs [M], accuracies [M]) before the step, with dropout on.

        keep_prob None is the default of each member's own `train`.
        """
        self._check_examples(x, y)
        options = {} if keep_prob is None else {"keep_prob": keep_prob}
        costs, accuracies = zip(*(model.train(x, y, **options) for model in self.models), strict=True)
        return np.array(costs), np.array(accuracies)

    def fit(
        self,
        x: Any,
        y: Any,
        epochs: int = 15,
        batch_size: int = 100,
        validation_data: tuple[Any, Any] | None = None,
        verbose: int = 1,
        keep_prob: float | None = None,
        executor: Executor | None = None,
        workers: int | None = None,
    ) -> list[History]:
        """Train each member on all examples, as its own `fit` would; return the members' histories.

        verbose: 0 prints nothing, 1 and 2 one line an epoch with the members' costs and, if there are
        validation_data, accuracies on them. The other arguments up to keep_prob are those of Classifier.fit.

        executor: None trains the members in turns, an epoch each, on all threads. With an executor each
        member is one job, and the lines are printed when all have finished. A job trains a copy, and the
        member takes over its weights, optimizer and generator: where it was trained changes not a bit, then
        or later, if the processors have the same instruction set. Processes get model and examples pickled,
        the examples anew with every job (172 MB for MNIST in float32); Dask's workers get them once. A forked
        process computes on one thread: give ProcessPoolExecutor multiprocessing.get_context("spawn").

        workers: how many members the executor trains at once; None: all. Each takes so much of
        `fastconv.get_num_threads()`, but at least one thread, and no more than its process would take without
        being told (one in Dask's worker processes, unless FASTCONV_NUM_THREADS is set for them).

        A member that fails is a RuntimeError that says which and why, after the others have finished. It is
        as its last whole step left it, on an executor as it was before. So are all members after an
        interrupt (Ctrl-C), but for those that an executor had trained to the end. What already runs in other
        processes then goes on in vain; threads stop after a step.
        """
        for model in self.models:
            x, y, validation = model._fit_arguments(
                x, y, epochs, batch_size, validation_data, verbose, keep_prob
            )
        share = self._share(executor, workers)
        options = {
            "batch_size": batch_size,
            "validation_data": validation,
            "verbose": 0,
            "keep_prob": keep_prob,
        }
        if executor is None:
            return self._fit_in_turns(x, y, epochs, verbose, options)
        histories = self._fit_side_by_side(executor, (share, _algorithms.current(), x, y, epochs, options))
        if verbose:
            for epoch in range(1, epochs + 1):
                print(_epoch_line(epoch, histories), flush=True)
        return histories

    def predict(self, x: Any, keep_prob: float = 1.0) -> np.ndarray:
        """The sum of the members' logits [N, K]. keep_prob: as for a Classifier."""
        for model in self.models:
            model._inputs(x)
        total = self.models[0].predict(x, keep_prob)
        for model in self.models[1:]:
            total = total + model.predict(x, keep_prob)
        return total

    def get_accuracy(self, x: Any, y: Any, keep_prob: float = 1.0) -> float:
        """Share of the examples whose largest sum of logits is their label's, 0..1."""
        y = self._check_examples(x, y)
        return float(np.mean(self.predict(x, keep_prob).argmax(axis=1) == losses.class_ids(y)))

    def member_accuracies(self, x: Any, y: Any) -> list[float]:
        """The accuracy of each member alone."""
        self._check_examples(x, y)
        return [model.get_accuracy(x, y) for model in self.models]

    def evaluate(self, x: Any, y: Any) -> tuple[float, float]:
        """(loss, accuracy), means over all examples; the loss is that of the mean of the members' logits.

        softmax of the mean is the members' geometric mean; that of the sum would be M times too sure.
        """
        y = self._check_examples(x, y)
        mean = self.predict(x) / len(self.models)
        loss, _ = losses.softmax_cross_entropy(y, mean)
        return loss, float(np.mean(mean.argmax(axis=1) == losses.class_ids(y)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights of all members to exactly this path; a kill leaves the old file or the new."""
        checkpoints.save(path, self._weights(), type(self).__name__)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote and reset the optimizers; ValueError, and no change, if it does not fit."""
        checkpoints.load(path, self._weights())
        for model in self.models:
            model.optimizer.reset()

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the members and their numbers of parameters; each has a summary of its own."""
        names = [f"{i}: {model.name} ({type(model).__name__})" for i, model in enumerate(self.models)]
        counts = [f"{model.count_params():,}" for model in self.models]
        width = max(map(len, names))
        rows = [f"{name:<{width}}  {count:>13}" for name, count in zip(names, counts, strict=True)]
        title = f"Ensemble of {len(self.models)}"
        print_fn("\n".join([title, *rows, f"Total parameters: {self.count_params():,}"]))

    def count_params(self) -> int:
        """How many numbers training changes, in all members together."""
        return sum(model.count_params() for model in self.models)

    def _share(self, executor: Executor | None, workers: int | None) -> int:
        """How many threads each member takes beside the others on the executor."""
        if executor is None:
            if workers is not None:
                raise ValueError(f"workers belongs to an executor, and there is none: {workers!r}")
            return threads.get_num_threads()
        if not callable(getattr(executor, "submit", None)):
            raise TypeError(f"executor must have a method submit, not {arguments.show(executor)}")
        at_once = len(self.models) if workers is None else arguments.whole("workers", workers, 1)
        return max(1, threads.get_num_threads() // at_once)

    def _fit_in_turns(
        self, x: np.ndarray, y: np.ndarray, epochs: int, verbose: int, options: dict[str, Any]
    ) -> list[History]:
        histories = [History() for _ in self.models]
        failures: dict[int, Exception] = {}
        for epoch in range(1, epochs + 1):
            for i, model in enumerate(self.models):
                if i in failures:
                    continue
                try:
                    part = model.fit(x, y, epochs=1, **options)
                except Exception as error:  # whatever it is, the others are trained first
                    failures[i] = error
                else:
                    _extend(histories[i], part)
            if verbose and len(failures) < len(self.models):
                print(_epoch_line(epoch, histories), flush=True)
        self._raise(failures)
        return histories

    def _fit_side_by_side(self, executor: Any, job: tuple[Any, ...]) -> list[History]:
        copies: dict[int, Classifier] = {}
        histories = [History() for _ in self.models]
        failures: dict[int, Exception] = {}
        futures: list[Any] = []
        for i, model in enumerate(self.models):
            try:
                copies[i] = copy.deepcopy(model)
            except Exception as error:  # its optimizer holds an open file, say
                failures[i] = error
        try:
            members, job = _placed(executor, list(copies.values()), job)
            for member in members:
                futures.append(_submit(executor, _fit_copy, member, *job))
            for i, future in zip(copies, futures, strict=True):
                try:
                    trained = future.result()
                except Exception as error:
                    failures[i] = error
                else:
                    trained.hand_over(self.models[i])
                    histories[i] = trained.history
        except BaseException:  # an interrupt: nobody will ask for the rest
            for future in futures:
                future.cancel()
            for member in copies.values():
                member.optimizer = _Stop()
            raise
        self._raise(failures)
        return histories

    def _raise(self, failures: dict[int, Exception]) -> None:
        if not failures:
            return
        lines = [
            f"member {i} ({self.models[i].name}): {type(error).__name__}: {error}"
            for i, error in sorted(failures.items())
        ]
        title = f"{len(failures)} of {len(self.models)} members failed:"
        raise RuntimeError("\n".join([title, *lines])) from next(iter(failures.values()))

    def _weights(self) -> dict[str, np.ndarray]:
        return {
            f"{i}/{name}": array
            for i, model in enumerate(self.models)
            for name, array in model.net.weights.items()
        }

    def _check_examples(self, x: Any, y: Any) -> np.ndarray:
        """The labels as an array; an error if x and y do not fit every member."""
        for model in self.models:
            _, labels = model._examples(x, y)
        return labels


class _Trained(NamedTuple):
    """What training changes of a model; less than the model, whose gradients nobody needs any more."""

    weights: list[np.ndarray]
    generator: dict[str, Any]
    optimizer: Optimizer
    history: History

    def hand_over(self, model: Classifier) -> None:
        model.net.set_weights(self.weights)
        model.rng.bit_generator.state = self.generator
        model.optimizer = self.optimizer


class _Stop:
    """The optimizer of a copy that nobody waits for any more: its next step ends the training."""

    def step(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        raise CancelledError("the training was interrupted")

    def reset(self) -> None:
        pass


def _fit_copy(
    model: Classifier,
    share: int,
    algorithm: str,
    x: np.ndarray,
    y: np.ndarray,
    epochs: int,
    options: dict[str, Any],
) -> _Trained:
    """The job of an executor: train the model on a share of the threads, by the caller's algorithm."""
    with threads.num_threads(min(share, threads.get_num_threads())), _algorithms.algorithm(algorithm):
        history = model.fit(x, y, epochs=epochs, **options)
    return _Trained(model.net.get_weights(), model.rng.bit_generator.state, model.optimizer, history)


def _placed(
    executor: Any, members: list[Classifier], job: tuple[Any, ...]
) -> tuple[Sequence[Any], Sequence[Any]]:
    """The members and what all jobs get: for Dask's client as futures, already where its workers are.

    Dask takes jobs with equal arguments for one job. What is scattered without a hash equals nothing else.
    """
    if not members or not callable(getattr(executor, "scatter", None)):
        return members, job
    return executor.scatter(members, hash=False), executor.scatter(list(job), broadcast=True, hash=False)


def _submit(executor: Any, *call: Any) -> Any:
    """The job's future; one that has failed if the executor does not take the job."""
    try:
        return executor.submit(*call)
    except Exception as error:
        refused: Future[Any] = Future()
        refused.set_exception(error)
        return refused


def _checked_models(models: Any) -> list[Classifier]:
    """The models as a list, if they can answer together."""
    if not isinstance(models, Sequence) or isinstance(models, str):
        raise TypeError(f"models must be a list of Classifiers, or a factory, not {arguments.show(models)}")
    for i, model in enumerate(models):
        if not isinstance(model, Classifier):
            raise TypeError(f"models[{i}] must be a Classifier, not {arguments.show(model)}")
    if not models:
        raise ValueError("models must hold at least one model, not []")
    for part in ("net", "optimizer"):
        owners: dict[int, int] = {}
        for i, model in enumerate(models):
            other = owners.setdefault(id(getattr(model, part)), i)
            if other != i:
                raise ValueError(f"models must not share anything, but {other} and {i} have the same {part}")
    sizes = [(math.prod(model.net.input_shape), model.classes) for model in models]
    if len(set(sizes)) > 1:
        raise ValueError(f"models must agree in (inputs, classes), not be {sizes}")
    return list(models)


def _extend(history: History, part: History) -> None:
    for name, numbers in vars(part).items():
        getattr(history, name).extend(numbers)


def _epoch_line(epoch: int, histories: list[History]) -> str:
    """The document's line; nan stands for a member that has failed."""

    def of_all(key: str) -> list[float]:
        lists = [getattr(history, key) for history in histories]
        return [numbers[epoch - 1] if len(numbers) >= epoch else math.nan for numbers in lists]

    line = f"Epoch: {epoch:04d} cost = [{' '.join(f'{cost:.9f}' for cost in of_all('loss'))}]"
    if any(history.val_accuracy for history in histories):
        line += f" accuracy = [{' '.join(f'{accuracy:.4f}' for accuracy in of_all('val_accuracy'))}]"
    return line
