"""ResNet: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016; table 1,
figure 5 and section 4.2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fastconv import _arguments as arguments
from fastconv.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    GlobalAveragePooling2D,
    Layer,
    MaxPooling2D,
    ReLU,
    Residual,
    Sequential,
)
from fastconv.models._network import Network

# Table 1: blocks in conv2_x .. conv5_x, and whether they are bottlenecks (1x1, 3x3, 1x1) or pairs of 3x3.
BLOCKS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}

Convs = Sequence[tuple[int, int, int]]  # filters, size, strides of a block's convolutions


class ResNet(Network):
    """ResNet-18, -34, -50, -101 or -152 for images like ImageNet's.

        [224, 224, 3]  conv 7x7/2 64 -> [112, 112, 64]  pool 3x3/2 -> [56, 56, 64]
        conv2_x .. conv5_x: blocks of 64, 128, 256, 512 filters on 56, 28, 14, 7 pixels; a bottleneck's last
        convolution has four times as many  ->  average  ->  num_classes

    Each convolution is without a bias and has a batch normalization behind it; a block is relu(branch +
    shortcut). The shortcut is the identity, or where the shape changes a 1x1 convolution (option B); there
    the first convolution of the block has stride 2, from conv3_x on.

    residual: False gives the plain net of the paper's comparison, the same without shortcuts.
    padding: "same", where a stride of 2 puts the odd zeros below and right, or "symmetric", as many zeros on
        all sides.
    stride_on: "first", the first convolution of a block, as in the paper, or "3x3", which makes a difference
        in bottlenecks (Goyal et al., "Accurate, large minibatch SGD", 2017, section 5.1).

    torchvision's are ResNet(depth, padding="symmetric", stride_on="3x3"): load_torch_state_dict knows them.

    Training in the paper: momentum 0.9, learning rate 0.1, weight decay (not in fastconv's optimizers).
    The other options are Network's.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 1000,
        input_shape: Sequence[int] = (224, 224, 3),
        *,
        residual: bool = True,
        padding: str = "same",
        stride_on: str = "first",
        **options: Any,
    ) -> None:
        counts, bottleneck = BLOCKS[arguments.choice("depth", depth, tuple(BLOCKS))]
        arguments.choice("padding", padding, ("same", "symmetric"))
        arguments.choice("stride_on", stride_on, ("first", "3x3"))
        layers: list[Layer] = [
            _conv(64, 7, 2, padding, name="conv1"),
            _norm(),
            ReLU(),
            MaxPooling2D(3, 2, _border(padding, 3), name="pool1"),
        ]
        channels = 64
        for stage, count in enumerate(counts):
            filters = 64 << stage
            for i in range(count):
                strides = 2 if stage > 0 and i == 0 else 1
                convs = _convs(filters, strides, bottleneck, stride_on)
                layers.append(_block(channels, convs, padding, residual, name=f"conv{stage + 2}_{i + 1}"))
                channels = convs[-1][0]
        if residual:
            self.torch_names = _torchvision_names(counts, bottleneck)
        options.setdefault("name", f"ResNet{depth}")
        super().__init__([*layers, *_head(num_classes)], input_shape, **options)


class ResNetCIFAR(Network):
    """The small ResNet of depth 6n + 2 (20, 32, 44, 56, 110 in the paper) for images like CIFAR's.

        [32, 32, 3]  conv 3x3 16, then n blocks each of 16, 32, 64 filters (3x3 pairs) on 32, 16, 8 pixels
        ->  average  ->  num_classes

    The shortcuts where the shape changes are 1x1 convolutions, as in ResNet; the paper pads with zeros there
    (option A), which has no parameters.

    width: filters of the first stage, 16 in the paper; the other stages have twice and four times as many.
    `residual` and the other options as for ResNet.
    """

    def __init__(
        self,
        depth: int = 20,
        num_classes: int = 10,
        input_shape: Sequence[int] = (32, 32, 3),
        *,
        width: int = 16,
        residual: bool = True,
        **options: Any,
    ) -> None:
        if arguments.whole("depth", depth, 8) % 6 != 2:
            raise ValueError(f"depth must be 6n + 2 with a whole n, not {depth}")
        channels = arguments.whole("width", width, 1)
        layers: list[Layer] = [_conv(width, 3, name="conv1"), _norm(), ReLU()]
        for stage, filters in enumerate((width, 2 * width, 4 * width)):
            for i in range(depth // 6):
                strides = 2 if stage > 0 and i == 0 else 1
                convs = _convs(filters, strides)
                layers.append(_block(channels, convs, "same", residual, name=f"conv{stage + 2}_{i + 1}"))
                channels = filters
        options.setdefault("name", f"ResNetCIFAR{depth}")
        super().__init__([*layers, *_head(num_classes)], input_shape, **options)


def _convs(filters: int, strides: int, bottleneck: bool = False, stride_on: str = "first") -> Convs:
    if not bottleneck:
        return [(filters, 3, strides), (filters, 3, 1)]
    first, second = (strides, 1) if stride_on == "first" else (1, strides)
    return [(filters, 1, first), (filters, 3, second), (4 * filters, 1, 1)]


def _block(channels: int, convs: Convs, padding: str, residual: bool, name: str) -> Sequential:
    """The convolutions, on an input of `channels`."""
    branch: list[Layer] = []
    for conv in convs:
        branch += [_conv(*conv, padding), _norm(), ReLU()]
    last_relu = branch.pop()  # behind the sum
    if not residual:
        return Sequential([*branch, last_relu], name=name)
    filters, strides = convs[-1][0], math.prod(strides for _, _, strides in convs)
    projection = None if (strides, channels) == (1, filters) else [_conv(filters, 1, strides), _norm()]
    return Sequential([Residual(branch, projection), last_relu], name=name)


def _conv(
    filters: int, size: int, strides: int = 1, padding: str = "same", name: str | None = None
) -> Conv2D:
    border = _border(padding, size)
    return Conv2D(filters, size, strides, border, use_bias=False, kernel_initializer="he_normal", name=name)


def _border(padding: str, size: int) -> Any:
    """Conv2D's padding for filters of an odd size."""
    if padding == "same":
        return padding
    pixels = [size // 2, size // 2]
    return [[0, 0], pixels, pixels, [0, 0]]


def _norm() -> BatchNormalization:
    """Statistics that follow in some ten steps, where Keras' default takes hundreds."""
    return BatchNormalization(momentum=0.9, epsilon=1e-5)


def _head(num_classes: int) -> list[Layer]:
    units = arguments.whole("num_classes", num_classes, 1)
    return [
        GlobalAveragePooling2D(name="average"),
        Dense(units, kernel_initializer="he_normal", name="classifier"),
    ]


def _torchvision_names(counts: Sequence[int], bottleneck: bool) -> list[str]:
    """What torchvision calls the modules, in the order of the layers here."""
    names = ["conv1", "bn1"]
    for stage, count in enumerate(counts, 1):
        for i in range(count):
            block = [f"{kind}{j}" for j in range(1, 4 if bottleneck else 3) for kind in ("conv", "bn")]
            if i == 0 and (stage > 1 or bottleneck):
                block += ["downsample.0", "downsample.1"]
            names += [f"layer{stage}.{i}.{module}" for module in block]
    return [*names, "fc"]
