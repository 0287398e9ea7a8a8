"""Network: a Classifier made of its layers, with the options that all models have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastconv.layers import Layer, Sequential
from fastconv.optimizers import Adam, LearningRate
from fastconv.training import Classifier, Optimizer


class Network(Classifier):
    """layers on [N, *input_shape], trained with `optimizer(learning_rate)`.

    name: of this network, None for the class'. seed: of everything random: start, order, dropout.
    learning_rate: a number, or a schedule such as `fastconv.optimizers.CosineDecay`.
    optimizer: called once with the learning rate: `Adam`, `SGD`, `functools.partial(SGD, momentum=0.9)`, ...
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        input_shape: Sequence[int],
        *,
        name: str | None = None,
        learning_rate: LearningRate = 0.001,
        seed: int = 0,
        optimizer: Callable[[LearningRate], Optimizer] = Adam,
    ) -> None:
        name = type(self).__name__ if name is None else name
        net = Sequential(layers, input_shape=input_shape, seed=seed, name=name)
        super().__init__(net, optimizer(learning_rate), name)
