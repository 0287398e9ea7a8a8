"""AlexNet: Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural
networks", NIPS 2012."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastconv import _arguments as arguments
from fastconv.layers import Conv2D, Dense, Dropout, Flatten, Layer, LocalResponseNormalization, MaxPooling2D
from fastconv.models._network import Network


class AlexNet(Network):
    """The simplified network of the lecture notes, 62,378,344 parameters for 1000 classes.

        [227, 227, 3]   CONV1 96 11x11/4 -> [55, 55, 96]    POOL1 3x3/2 -> [27, 27, 96]   NORM1
                        CONV2 256 5x5    -> [27, 27, 256]   POOL2 3x3/2 -> [13, 13, 256]  NORM2
                        CONV3, CONV4 384 3x3 -> [13, 13, 384]
                        CONV5 256 3x3    -> [13, 13, 256]   POOL3 3x3/2 -> [6, 6, 256]
                        FC6 4096  FC7 4096  FC8 num_classes

    lrn: NORM1 and NORM2, local response normalization; False leaves them out, as has been usual since.
    groups: 2 for the paper's two towers, whose convolutions 2, 4 and 5 saw half of the channels each (on two
    GPUs), 60,965,224 parameters for 1000 classes.
    Dropout of 0.5 stands behind FC6 and FC7, as in the paper.

    The paper's normalization stood before the pooling, and it started from N(0, 0.01**2) with some biases of
    1; this starts from He's initialization with biases of 0.

    input_shape: at least [67, 67, C]. The other options are Network's.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        input_shape: Sequence[int] = (227, 227, 3),
        *,
        lrn: bool = True,
        groups: int = 1,
        **options: Any,
    ) -> None:
        relu = {"activation": "relu", "kernel_initializer": "he_normal"}
        layers = [
            Conv2D(96, 11, 4, name="conv1", **relu),
            MaxPooling2D(3, 2, name="pool1"),
            *_norm("norm1", lrn),
            Conv2D(256, 5, padding="same", groups=groups, name="conv2", **relu),
            MaxPooling2D(3, 2, name="pool2"),
            *_norm("norm2", lrn),
            Conv2D(384, 3, padding="same", name="conv3", **relu),
            Conv2D(384, 3, padding="same", groups=groups, name="conv4", **relu),
            Conv2D(256, 3, padding="same", groups=groups, name="conv5", **relu),
            MaxPooling2D(3, 2, name="pool3"),
            Flatten(),
            Dense(4096, name="fc6", **relu),
            Dropout(0.5),
            Dense(4096, name="fc7", **relu),
            Dropout(0.5),
            Dense(arguments.whole("num_classes", num_classes, 1), name="fc8"),
        ]
        super().__init__(layers, input_shape, **options)


def _norm(name: str, lrn: bool) -> list[Layer]:
    """Section 3.3, with its n = 5, k = 2, alpha = 1e-4, beta = 0.75."""
    return [LocalResponseNormalization(2, 2.0, 1e-4, 0.75, name=name)] if lrn else []
