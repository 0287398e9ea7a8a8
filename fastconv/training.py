"""Classifier: a net trained on labelled examples, with the methods that all of fastconv's models have."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from fastconv import _arguments as arguments
from fastconv import checkpoints, interchange, losses, nn
from fastconv.layers import AuxiliaryClassifier, BatchNormalization, Dropout, Sequential

# Examples that pass through the net at once where nothing is trained: enough work to share among cores, while
# the largest activation of the document's nets (28x28x32 floats an example) takes 10 MB.
EVALUATION_BATCH = 100
EVALUATION_FLOATS = 25_000_000  # and fewer where the largest activation of so many would be above 100 MB


class Optimizer(Protocol):
    """What fastconv.optimizers offers; anything else with these methods will do."""

    def step(self, parameters: np.ndarray, gradients: np.ndarray) -> None: ...

    def reset(self) -> None: ...


@dataclass
class History:
    """What `fit` measured, one number an epoch; the val_ lists are empty without validation data.

    loss and accuracy are means over the training batches as they were met (dropout on, parameters moving;
    the loss with that of auxiliary classifiers). seconds and images_per_second are of the training alone,
    without the validation.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    images_per_second: list[float] = field(default_factory=list)


class Classifier:
    """A net [N, *input_shape] -> logits [N, K], trained with softmax cross entropy.

    In all methods x is [N, *input_shape], or flattened [N, prod(input_shape)], of numbers; y is [N] integers
    in 0..K-1 or [N, K] rows that sum to 1 (one-hot). What does not fit is a ValueError or TypeError that
    names the argument, before anything is computed or changed.

    keep_prob, in (0, 1], is the probability with which dropout keeps an element. It goes to the layers in
    `dropouts`: all Dropout layers of the net unless a model says otherwise.

    torch_names: the modules of the PyTorch model that people share weights of, in the order of the layers.
    """

    torch_names: Sequence[str] = ()

    def __init__(self, net: Sequential, optimizer: Optimizer, name: str) -> None:
        if net.rng is None:
            raise ValueError("net must be a Sequential with input_shape, not one without")
        if len(net.output_shape) != 1:
            raise ValueError(f"net must end in logits [K], not {net.output_shape}")
        self.net = net
        self.rng = net.rng
        self.optimizer = optimizer
        self.name = name
        self.classes = net.output_shape[-1]
        self.dropouts = [layer for _, layer in net.members() if isinstance(layer, Dropout)]
        self.auxiliaries = [layer for layer in net.layers if isinstance(layer, AuxiliaryClassifier)]
        for i, side in enumerate(self.auxiliaries):
            if side in self.auxiliaries[:i]:
                raise ValueError(f"net must hold an auxiliary classifier only once, not {side.name!r} twice")

    def train(self, x: Any, y: Any, keep_prob: float | None = None) -> tuple[float, float]:
        """One step on one batch: (cost, accuracy) of the batch before the step, with dropout on.

        keep_prob None leaves each Dropout its own rate.
        """
        x, y = self._examples(x, y)
        with self._dropping(keep_prob):
            return self._step(x, y)

    def predict(self, x: Any, keep_prob: float = 1.0) -> np.ndarray:
        """Logits [N, K]. With keep_prob below 1 dropout is really applied, with new masks at each call."""
        x = self._inputs(x)
        logits = np.empty((len(x), self.classes), self.net.parameters.dtype)
        with self._testing(keep_prob) as training:
            for part in _batches(len(x), self._evaluation_batch()):
                logits[part], _ = self.net(self._images(x[part]), training)
        return logits

    def activations(self, x: Any, layer_name: str) -> np.ndarray:
        """What one layer gives for x without dropout: maps [N, H, W, C], or [N, C] of a dense layer.

        layer_name: as `summary` prints it; of a layer inside another its path, as in `net.weights`
        ("inception_3a/3x3/conv2d"). ValueError for an unknown one, with the names that there are.
        """
        x = self._inputs(x)
        parts = _batches(len(x), self._evaluation_batch()) or [slice(0, 0)]
        return np.concatenate([self.net.activations(self._images(x[part]), layer_name) for part in parts])

    def get_accuracy(self, x: Any, y: Any, keep_prob: float = 1.0) -> float:
        """Share of the examples whose largest logit is their label's, 0..1."""
        return self._evaluate(*self._examples(x, y), keep_prob)[1]

    def evaluate(self, x: Any, y: Any) -> tuple[float, float]:
        """(loss, accuracy), means over all examples, without dropout."""
        return self._evaluate(*self._examples(x, y), keep_prob=1.0)

    def fit(
        self,
        x: Any,
        y: Any,
        epochs: int = 15,
        batch_size: int = 100,
        validation_data: tuple[Any, Any] | None = None,
        verbose: int = 1,
        keep_prob: float | None = None,
    ) -> History:
        """Train on all examples, in a new random order each epoch; the last batch may be smaller.

        validation_data: (x, y), evaluated after each epoch. keep_prob: as for `train`. verbose: 0 prints
        nothing, 2 one line an epoch, 1 the line and, if tqdm is installed and standard error is a terminal, a
        progress bar within the epoch. An interrupt (Ctrl-C) leaves the parameters as the last whole step left
        them.
        """
        x, y, validation = self._fit_arguments(x, y, epochs, batch_size, validation_data, verbose, keep_prob)
        history = History()
        with self._dropping(keep_prob):
            for epoch in range(1, epochs + 1):
                title = f"Epoch {epoch}/{epochs}" if verbose == 1 else None
                self._fit_epoch(x, y, batch_size, history, title)
                line = f"Epoch: {epoch:04d} cost = {history.loss[-1]:.9f}"
                if validation is not None:
                    loss, accuracy = self._evaluate(*validation, keep_prob=1.0)
                    history.val_loss.append(loss)
                    history.val_accuracy.append(accuracy)
                    line += f" accuracy = {accuracy:.4f}"
                if verbose:
                    print(line, flush=True)
        return history

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all weights to exactly this path; a kill at any moment leaves the old file or the new.

        A name that ends in ".safetensors" makes a file of that format (extra `weights`), any other an npz.
        """
        checkpoints.save(path, self.net.weights, type(self).__name__)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote and reset the optimizer; ValueError, and no change, if it does not fit."""
        checkpoints.load(path, self.net.weights)
        self.optimizer.reset()

    def load_torch_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the weights of a PyTorch model of the same structure, and reset the optimizer.

        state: what its `state_dict()` returns, or the same with NumPy arrays: {"conv1.weight": [O, I, kh,
            kw], "conv1.bias": [O], "bn1.weight": [O], "bn1.running_mean": [O], "fc.weight": [O, I], ...} in
            the order of this model's layers (a Concatenate's branches in their order, a Residual's shortcut
            behind its branch), whatever the names. torchvision's ResNets are known by their names, in any
            order.

        Layouts are translated, the first dense layer behind a Flatten from PyTorch's order too; float arrays
        are cast. TypeError if state is no dictionary; ValueError that lists every array that is missing, left
        over or of another shape or kind, or says that state is sorted by name. Then nothing has changed.
        """
        interchange.load_torch_state_dict(self.net, state, self.torch_names)
        self.optimizer.reset()

    def load_keras_weights(self, weights: Sequence[Any]) -> None:
        """Take the weights of a Keras model of the same structure, and reset the optimizer.

        weights: what its `get_weights()` returns: kernel [kh, kw, I, O] or [I, O] and bias [O] of each layer;
            gamma, beta, moving mean and moving variance, [O] each; in the order of this model's layers.

        Errors as for load_torch_state_dict.
        """
        interchange.load_keras_weights(self.net, weights)
        self.optimizer.reset()

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the layers, their output shapes and their numbers of parameters."""
        self.net.summary(print_fn)

    def count_params(self) -> int:
        """How many numbers training changes."""
        return self.net.count_params()

    def _step(self, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        """Train on one batch. A step that ends before it has its gradients leaves the model as it was."""
        statistics, drawn = self.net.statistics.copy(), self.rng.bit_generator.state
        try:
            cost, logits = self._find_gradients(x, y)
        except BaseException:  # interrupts, too
            self.net.statistics[...] = statistics
            self.rng.bit_generator.state = drawn
            raise
        self.optimizer.step(self.net.parameters, self.net.gradients)
        return cost, _correct(y, logits) / len(x)

    def _find_gradients(self, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """The net's gradients of one batch's cost; returns that and the logits."""
        logits, backward = self.net(self._images(x), training=True)
        cost, dlogits = losses.softmax_cross_entropy(y, logits)
        for side in self.auxiliaries:
            side_cost, gradient = losses.softmax_cross_entropy(y, side.logits)
            cost += side.weight * side_cost
            side.dlogits = gradient * gradient.dtype.type(side.weight)
        self.net.forget_gradients()
        backward(dlogits, input_gradient=False)
        return cost, logits

    def _fit_arguments(
        self,
        x: Any,
        y: Any,
        epochs: int,
        batch_size: int,
        validation_data: tuple[Any, Any] | None,
        verbose: int,
        keep_prob: float | None,
    ) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
        """x, y and the validation's (x, y) as arrays; an error if any argument of `fit` is wrong."""
        x, y = self._examples(x, y)
        validation = None if validation_data is None else self._validation(validation_data)
        arguments.whole("epochs", epochs, 1)
        arguments.whole("batch_size", batch_size, 1)
        arguments.choice("verbose", verbose, (0, 1, 2))
        _check_keep_prob(keep_prob)
        return x, y, validation

    def _fit_epoch(
        self, x: np.ndarray, y: np.ndarray, batch_size: int, history: History, title: str | None
    ) -> None:
        order = self.rng.permutation(len(x))
        loss = correct = 0.0
        start = time.perf_counter()
        with _progress_bar(_batches(len(x), batch_size), title) as batches:
            for part in batches:
                rows = order[part]
                batch_cost, batch_accuracy = self._step(x[rows], y[rows])
                loss += batch_cost * len(rows)
                correct += batch_accuracy * len(rows)
        seconds = time.perf_counter() - start
        history.loss.append(loss / len(x))
        history.accuracy.append(correct / len(x))
        history.seconds.append(seconds)
        history.images_per_second.append(len(x) / seconds)

    def _evaluate(self, x: np.ndarray, y: np.ndarray, keep_prob: float) -> tuple[float, float]:
        loss = correct = 0.0
        with self._testing(keep_prob) as training:
            for part in _batches(len(x), self._evaluation_batch()):
                logits, _ = self.net(self._images(x[part]), training)
                targets = losses.one_hot(y[part], self.classes, logits.dtype)
                loss += float(nn.softmax_cross_entropy_with_logits(targets, logits).sum(dtype=np.float64))
                correct += _correct(y[part], logits)
        return loss / len(x), correct / len(x)

    @contextlib.contextmanager
    def _dropping(self, keep_prob: float | None) -> Iterator[None]:
        """Within, the dropouts keep with this probability; None leaves each its own rate."""
        _check_keep_prob(keep_prob)
        rates = [layer.rate for layer in self.dropouts]
        try:
            for layer, rate in zip(self.dropouts, rates, strict=True):
                layer.rate = rate if keep_prob is None else 1 - keep_prob
            yield
        finally:
            for layer, rate in zip(self.dropouts, rates, strict=True):
                layer.rate = rate

    @contextlib.contextmanager
    def _testing(self, keep_prob: float) -> Iterator[bool]:
        """Gives the net's `training`. With keep_prob 1 nothing is touched, so that threads may predict.

        Below 1 the net trains for the dropouts' sake; the statistics of batch normalization stay out of it.
        """
        if keep_prob == 1:
            yield False
            return
        norms = [layer for _, layer in self.net.members() if isinstance(layer, BatchNormalization)]
        frozen = [layer.frozen for layer in norms]
        with self._dropping(keep_prob):
            try:
                for layer in norms:
                    layer.frozen = True
                yield True
            finally:
                for layer, was in zip(norms, frozen, strict=True):
                    layer.frozen = was

    def _evaluation_batch(self) -> int:
        """How many examples pass through the net at once where nothing is trained."""
        largest = max(math.prod(shape) for shape in (self.net.input_shape, *self.net.output_shapes))
        return max(1, min(EVALUATION_BATCH, EVALUATION_FLOATS // largest))

    def _images(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), *self.net.input_shape)

    def _inputs(self, x: Any, argument: str = "x") -> np.ndarray:
        x = arguments.as_array(argument, x)
        shape = self.net.input_shape
        if x.dtype.kind not in "biuf":
            raise TypeError(f"{argument} must hold numbers, not dtype {x.dtype}")
        if x.ndim < 2 or x.shape[1:] not in (shape, (math.prod(shape),)):
            row = ", ".join(map(str, shape))
            raise ValueError(f"{argument} must be [N, {row}] or [N, {math.prod(shape)}], not shape {x.shape}")
        return x

    def _examples(self, x: Any, y: Any, argument: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels that fit the net and each other; at least one."""
        x = self._inputs(x, f"{argument}x")
        if len(x) == 0:
            raise ValueError(f"{argument}x must hold at least one example, not shape {x.shape}")
        return x, losses.check_labels(y, len(x), self.classes, f"{argument}y")

    def _validation(self, validation_data: Any) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
            raise ValueError(f"validation_data must be (x, y), not {type(validation_data).__name__}")
        x, y = validation_data
        return self._examples(x, y, "validation_data ")


def _check_keep_prob(keep_prob: float | None) -> None:
    if keep_prob is not None and 1 - arguments.number("keep_prob", keep_prob, 0, 1, ends="(]") == 1:
        raise ValueError(f"keep_prob must lie in (0, 1], not {keep_prob!r}, which dropout cannot tell from 0")


def _batches(examples: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, examples)) for start in range(0, examples, size)]


def _correct(y: np.ndarray, logits: np.ndarray) -> int:
    return int(np.count_nonzero(logits.argmax(axis=1) == losses.class_ids(y)))


def _progress_bar(batches: Sequence[slice], title: str | None) -> contextlib.AbstractContextManager[Any]:
    """The batches to go through, behind a bar if there is a title, a terminal and tqdm."""
    if title and sys.stderr is not None and sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from tqdm.auto import tqdm

            return tqdm(batches, desc=title, unit="batch", leave=False)
    return contextlib.nullcontext(batches)
