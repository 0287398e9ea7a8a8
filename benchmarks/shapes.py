"""The layers that the benchmarks run on: those of the document's networks, as tables.

The MNIST rows are the document's own networks (SimpleCNN, DeepCNN) at its own batch of 100 images; the
headline figures are theirs alone. The other networks contribute their typical layers, at a small batch for
NumPy's sake and at a larger one (PEER_IMAGES) against other frameworks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from fastconv import _algorithms, geometry

DOCUMENT = "MNIST"  # the network whose figures are the headline
LENET = "LeNet-5"

# The passes of a convolution, by the functions that compute them.
COMPUTES = {
    "conv2d": "forward",
    "conv2d_backprop_input": "input_gradient",
    "conv2d_backprop_filter": "filter_gradient",
}

# What the table of the frameworks takes geometric means over.
FEW_CHANNELS = 16
KIND_3X3 = f"3x3, stride 1, C >= {FEW_CHANNELS}"
KIND_5X5 = f"5x5, stride 1, C >= {FEW_CHANNELS}"
KIND_OTHER = f"first layers, 1x1, strided, {LENET}"
KIND_POOL = "pools"
KIND_STEP = "whole networks"


class Conv(NamedTuple):
    """A convolution: `images` square images of side `size`, `filters` filters of taps x taps pixels."""

    network: str
    images: int
    size: int
    channels: int
    filters: int
    taps: int
    stride: int = 1
    padding: str = "SAME"
    groups: int = 1

    @property
    def axis(self) -> geometry.Axis:
        return geometry.axis(self.size, self.taps, self.stride, 1, self.padding)

    @property
    def x(self) -> tuple[int, ...]:
        return self.images, self.size, self.size, self.channels

    @property
    def w(self) -> tuple[int, ...]:
        return self.taps, self.taps, self.channels // self.groups, self.filters

    @property
    def y(self) -> tuple[int, ...]:
        return self.images, self.axis.out, self.axis.out, self.filters

    @property
    def gflop(self) -> float:
        """Multiplications and additions, in 1e9, of the plain sum; the same for both gradients."""
        inputs = self.channels // self.groups
        return 2e-9 * self.images * self.axis.out**2 * self.taps**2 * inputs * self.filters

    def winograd(self, op: str) -> bool:
        """Whether fastconv, left to itself, computes it with Winograd's algorithm."""
        channels = (self.channels // self.groups, self.filters // self.groups)
        sizes = (self.images, self.axis, self.axis, *channels)
        return _algorithms.winograd(_algorithms.current(), *sizes, COMPUTES[op])

    def executed_gflop(self, op: str) -> float:
        """What fastconv computes of it, in 1e9: the products of Winograd's tiles, or the plain sum."""
        if not self.winograd(op):
            return self.gflop
        _, products = _algorithms.cut(self.axis, self.axis, COMPUTES[op])
        return 2e-9 * self.images * products * (self.channels // self.groups) * self.filters

    @property
    def kind(self) -> str:
        if self.network == LENET or self.stride > 1 or self.channels < FEW_CHANNELS:
            return KIND_OTHER
        return {3: KIND_3X3, 5: KIND_5X5}.get(self.taps, KIND_OTHER)

    def __str__(self) -> str:
        stride = f"/{self.stride}" if self.stride > 1 else ""
        maps = f"{self.size}x{self.size}x{self.channels}->{self.filters}"
        groups = f" groups {self.groups}" if self.groups > 1 else ""
        return f"{self.network} {maps} {self.taps}x{self.taps}{stride}{groups}"


class Pool(NamedTuple):
    """A maximum pooling with windows of taps x taps pixels."""

    network: str
    images: int
    size: int
    channels: int
    taps: int
    stride: int
    padding: str = "SAME"

    @property
    def kind(self) -> str:
        return KIND_POOL

    @property
    def axis(self) -> geometry.Axis:
        return geometry.axis(self.size, self.taps, self.stride, 1, self.padding)

    @property
    def x(self) -> tuple[int, ...]:
        return self.images, self.size, self.size, self.channels

    @property
    def y(self) -> tuple[int, ...]:
        return self.images, self.axis.out, self.axis.out, self.channels

    def __str__(self) -> str:
        return f"{self.network} {self.size}x{self.size}x{self.channels} {self.taps}x{self.taps}/{self.stride}"


class Dense(NamedTuple):
    """A fully connected layer: [images, inputs] @ [inputs, units]."""

    network: str
    images: int
    inputs: int
    units: int

    @property
    def gflop(self) -> float:
        return 2e-9 * self.images * self.inputs * self.units

    def __str__(self) -> str:
        return f"{self.network} {self.inputs}->{self.units}"


class Values(NamedTuple):
    """An array between two layers, [images, ..., channels]."""

    network: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.network} {'x'.join(map(str, self.shape))}"


class Net(NamedTuple):
    """One of fastconv.models, with these arguments, on a batch of images."""

    network: str
    images: int
    arguments: tuple[Any, ...] = ()

    @property
    def kind(self) -> str:
        return KIND_STEP

    def __str__(self) -> str:
        return f"{'-'.join(map(str, (self.network, *self.arguments)))} batch {self.images}"


CONVOLUTIONS = [
    # network, images, size, channels, filters, taps, stride, padding
    Conv("MNIST", 100, 28, 1, 32, 3),
    Conv("MNIST", 100, 14, 32, 64, 3),
    Conv("MNIST", 100, 7, 64, 128, 3),
    Conv("LeNet-5", 100, 32, 1, 6, 5, 1, "VALID"),
    Conv("LeNet-5", 100, 14, 6, 16, 5, 1, "VALID"),
    Conv("LeNet-5", 100, 5, 16, 120, 5, 1, "VALID"),
    Conv("AlexNet", 4, 227, 3, 96, 11, 4, "VALID"),
    Conv("AlexNet", 4, 27, 96, 256, 5),
    Conv("AlexNet", 4, 13, 256, 384, 3),
    Conv("AlexNet", 4, 13, 384, 384, 3),
    Conv("AlexNet", 4, 13, 384, 256, 3),
    Conv("GoogLeNet", 4, 224, 3, 64, 7, 2),  # ResNet's first layer, too
    Conv("GoogLeNet", 4, 28, 192, 64, 1),  # the four branches of module 3a
    Conv("GoogLeNet", 4, 28, 96, 128, 3),
    Conv("GoogLeNet", 4, 28, 16, 32, 5),
    Conv("GoogLeNet", 4, 7, 832, 384, 1),  # module 5b
    Conv("ResNet", 4, 56, 64, 64, 3),
    Conv("ResNet", 4, 28, 128, 128, 3),
    Conv("ResNet", 4, 14, 256, 256, 3),
    Conv("ResNet", 4, 7, 512, 512, 3),
    Conv("ResNet", 4, 56, 128, 128, 3, 2),  # the first block of each stage
    Conv("ResNet", 4, 14, 256, 1024, 1),
]

# Of grouped and depthwise convolutions; the other frameworks are not asked for these.
GROUPED = [
    # network, images, size, channels, filters, taps, stride, padding, groups
    Conv("AlexNet", 4, 27, 96, 256, 5, 1, "SAME", 2),  # the paper's towers
    Conv("AlexNet", 4, 13, 384, 384, 3, 1, "SAME", 2),
    Conv("AlexNet", 4, 13, 384, 256, 3, 1, "SAME", 2),
    Conv("ResNeXt", 4, 56, 128, 128, 3, 1, "SAME", 32),  # 32 paths of four channels
    Conv("MobileNet", 4, 112, 32, 32, 3, 1, "SAME", 32),
    Conv("MobileNet", 4, 56, 128, 128, 3, 1, "SAME", 128),
    Conv("MobileNet", 4, 56, 128, 128, 3, 2, "SAME", 128),
    Conv("MobileNet", 4, 14, 512, 512, 3, 1, "SAME", 512),
]

POOLS = [
    # network, images, size, channels, taps, stride, padding
    Pool("MNIST", 100, 28, 32, 2, 2),
    Pool("MNIST", 100, 14, 64, 2, 2),
    Pool("MNIST", 100, 7, 128, 2, 2),
    Pool("AlexNet", 4, 55, 96, 3, 2, "VALID"),
    Pool("GoogLeNet", 4, 28, 192, 3, 1),
    Pool("ResNet", 4, 112, 64, 3, 2),
]

Layer = TypeVar("Layer", Conv, Pool)

# Images of a batch against other frameworks; the networks that are not here keep the tables' own.
PEER_IMAGES = {"AlexNet": 16, "GoogLeNet": 16, "ResNet": 8}


def at_peer_batch(table: Sequence[Layer]) -> list[Layer]:
    return [layer._replace(images=PEER_IMAGES.get(layer.network, layer.images)) for layer in table]


# Whole networks, in training and in inference: the document's at its batch and of a single image.
TRAINED = [
    Net("SimpleCNN", 100),
    Net("DeepCNN", 100),
    Net("AlexNet", 16),
    Net("GoogLeNet", 8),
    Net("ResNet", 8, (50,)),
    Net("SimpleCNN", 1),
    Net("DeepCNN", 1),
]
PREDICTED = [*TRAINED, Net("ResNet", 1, (50,))]

DENSE = [
    # network, images, inputs, units
    Dense("MNIST", 100, 3136, 10),
    Dense("MNIST", 100, 2048, 625),
    Dense("MNIST", 100, 625, 10),
    Dense("LeNet-5", 100, 120, 84),
    Dense("AlexNet", 4, 4096, 4096),
    Dense("ResNet", 4, 2048, 1000),
]

# What relu and bias_add see: the results of convolutions and dense layers.
ACTIVATIONS = [
    Values("MNIST", (100, 28, 28, 32)),
    Values("MNIST", (100, 14, 14, 64)),
    Values("MNIST", (100, 7, 7, 128)),
    Values("MNIST", (100, 625)),
    Values("AlexNet", (4, 55, 55, 96)),
    Values("ResNet", (4, 56, 56, 256)),
]

# What batch normalization sees: the results of convolutions.
NORMALIZED = [
    Values("ResNet", (8, 112, 112, 64)),
    Values("ResNet", (8, 56, 56, 256)),
    Values("ResNet", (8, 14, 14, 1024)),
    Values("ResNet", (8, 7, 7, 512)),
]

# What local response normalization sees, in AlexNet and GoogLeNet.
RESPONSES = [
    Values("AlexNet", (4, 55, 55, 96)),
    Values("AlexNet", (4, 27, 27, 256)),
    Values("GoogLeNet", (4, 56, 56, 64)),
]

# What dropout sees: the results of pools, and of a dense layer.
DROPOUTS = [
    Values("MNIST", (100, 14, 14, 32)),
    Values("MNIST", (100, 7, 7, 64)),
    Values("MNIST", (100, 4, 4, 128)),
    Values("MNIST", (100, 625)),
    Values("AlexNet", (4, 4096)),
]

LOGITS = [
    Values("MNIST", (100, 10)),
    Values("AlexNet", (100, 1000)),
]
