"""GoogLeNet: Szegedy et al., "Going deeper with convolutions", CVPR 2015; table 1 and figures 2 and 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastconv import _arguments as arguments
from fastconv.layers import (
    AuxiliaryClassifier,
    AveragePooling2D,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Layer,
    LocalResponseNormalization,
    MaxPooling2D,
    Sequential,
)
from fastconv.models._network import Network

# Table 1: filters of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection; "pool" is 3x3 at stride 2.
MODULES: dict[str, tuple[int, int, int, int, int, int] | None] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "pool3": None,
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "pool4": None,
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class InceptionModule(Concatenate):
    """Filters of 1x1, 3x3 and 5x5 and a pool side by side, joined along the channels (figure 2b).

        x [N, H, W, C] -+- 1x1 conv -----------------------+- [N, H, W, one + three + five + pool]
                        +- 1x1 conv (reduce) -- 3x3 conv --+
                        +- 1x1 conv (reduce) -- 5x5 conv --+
                        +- 3x3 max pool ------- 1x1 conv --+

    The numbers are those of filters, in the order of the columns of table 1. Every convolution has a relu.
    """

    def __init__(
        self,
        one: int,
        reduce_three: int,
        three: int,
        reduce_five: int,
        five: int,
        pool: int,
        *,
        name: str | None = None,
    ) -> None:
        branches = [
            _conv(one, 1, name="1x1"),
            Sequential([_conv(reduce_three, 1), _conv(three, 3)], name="3x3"),
            Sequential([_conv(reduce_five, 1), _conv(five, 5)], name="5x5"),
            Sequential([MaxPooling2D(3, 1, "same"), _conv(pool, 1)], name="pool"),
        ]
        super().__init__(branches, name=name)


class GoogLeNet(Network):
    """22 layers with parameters, nine Inception modules; 6,998,552 parameters for 1000 classes.

        [224, 224, 3]  conv 7x7/2 64  pool 3x3/2 -> [56, 56, 64]
                       conv 1x1 64  conv 3x3 192  pool 3x3/2 -> [28, 28, 192]
                       3a 3b -> [28, 28, 480]  pool -> [14, 14, 480]
                       4a 4b 4c 4d 4e -> [14, 14, 832]  pool -> [7, 7, 832]
                       5a 5b -> [7, 7, 1024]  average -> 1024  dropout 0.4  num_classes

    lrn: local response normalization behind the first pool and before the second, as in figure 3.
    auxiliary: the two classifiers on the side (section 5), behind 4a and 4d, whose losses count 0.3 in
    training: 13,378,280 parameters. They need at least 65x65 pixels; without them every window pads, and
    input may have any size from 1x1 on. The paper's is 224x224. The other options are Network's.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        input_shape: Sequence[int] = (224, 224, 3),
        *,
        lrn: bool = True,
        auxiliary: bool = False,
        **options: Any,
    ) -> None:
        classes = arguments.whole("num_classes", num_classes, 1)
        layers: list[Layer] = [
            _conv(64, 7, 2, name="conv1"),
            MaxPooling2D(3, 2, "same", name="pool1"),
            *_norm("norm1", lrn),
            _conv(64, 1, name="conv2_reduce"),
            _conv(192, 3, name="conv2"),
            *_norm("norm2", lrn),
            MaxPooling2D(3, 2, "same", name="pool2"),
        ]
        for name, filters in MODULES.items():
            if filters is None:
                layers.append(MaxPooling2D(3, 2, "same", name=name))
            else:
                layers.append(InceptionModule(*filters, name=f"inception_{name}"))
            if auxiliary and name in ("4a", "4d"):
                layers.append(AuxiliaryClassifier(_side(classes), 0.3, name=f"auxiliary_{name}"))
        layers += [
            GlobalAveragePooling2D(name="average"),
            Dropout(0.4),
            Dense(classes, name="classifier"),
        ]
        super().__init__(layers, input_shape, **options)


def _conv(filters: int, size: int, strides: int = 1, name: str | None = None) -> Conv2D:
    return Conv2D(
        filters, size, strides, "same", activation="relu", kernel_initializer="he_normal", name=name
    )


def _side(classes: int) -> list[Layer]:
    """[14, 14, C] -> average 5x5/3 [4, 4, C] -> 1x1 conv 128 -> 1024 -> dropout 0.7 -> classes"""
    return [
        AveragePooling2D(5, 3),
        _conv(128, 1),
        Flatten(),
        Dense(1024, activation="relu", kernel_initializer="he_normal"),
        Dropout(0.7),
        Dense(classes),
    ]


def _norm(name: str, lrn: bool) -> list[Layer]:
    """AlexNet's: the paper says no more than LocalRespNorm."""
    return [LocalResponseNormalization(2, 2.0, 1e-4, 0.75, name=name)] if lrn else []
