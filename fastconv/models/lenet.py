"""LeNet-5: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11), 1998; figure 2 and section II.B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastconv import _arguments as arguments
from fastconv.layers import AveragePooling2D, Conv2D, Dense, Flatten, MaxPooling2D
from fastconv.models._network import Network

POOLING = {"average": AveragePooling2D, "max": MaxPooling2D}


class LeNet5(Network):
    """CONV-POOL-CONV-POOL-CONV-FC: 5x5 filters at stride 1, 2x2 subsampling at stride 2.

        [32, 32, 1]  C1 conv 5x5x6   -> [28, 28, 6]   S2 pool -> [14, 14, 6]
                     C3 conv 5x5x16  -> [10, 10, 16]  S4 pool -> [5, 5, 16]
                     C5 conv 5x5x120 -> [1, 1, 120]   F6 84   -> num_classes

    Images of 28x28, as MNIST's ([N, 784] or [N, 28, 28, 1]), get a border of two zeros, which makes them
    32x32; for images of 32x32 say `input_shape=(32, 32, 1)`.

    activation: "tanh" or "relu". pooling: "average" or "max".

    In 1998 it was not quite this: the tanh was 1.7159 tanh(2 x / 3), also behind the subsampling, which had a
    trained factor and offset per channel; C3 saw only some channels of S2; the output was ten distances to
    drawn digits (radial basis functions) where here is a dense layer under softmax cross entropy; the pixels
    were scaled to mean 0 and variance 1, and the training was a stochastic Levenberg-Marquardt method.

    The other options are Network's.
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_shape: Sequence[int] = (28, 28, 1),
        *,
        activation: str = "tanh",
        pooling: str = "average",
        **options: Any,
    ) -> None:
        pool = POOLING[arguments.choice("pooling", pooling, tuple(POOLING))]
        # 5x5 with padding "same" is the border of two pixels, without a copy of the image.
        border = "same" if tuple(input_shape[:2]) == (28, 28) else "valid"
        layers = [
            Conv2D(6, 5, padding=border, activation=activation, name="C1"),
            pool(2, name="S2"),
            Conv2D(16, 5, activation=activation, name="C3"),
            pool(2, name="S4"),
            Conv2D(120, 5, activation=activation, name="C5"),
            Flatten(),
            Dense(84, activation, name="F6"),
            Dense(arguments.whole("num_classes", num_classes, 1), name="output"),
        ]
        super().__init__(layers, input_shape, **options)
