"""The networks of fastconv.models in plain PyTorch, for comparison: the same layers in the same order.

Modules are named as people name them in PyTorch; ResNet's have torchvision's names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class SamePad(nn.Module):
    """The border of TensorFlow's SAME: the odd pixel below and right."""

    def __init__(self, size: int, stride: int, value: float = 0.0) -> None:
        super().__init__()
        self.size, self.stride, self.value = size, stride, value

    def forward(self, x: Tensor) -> Tensor:
        border: list[int] = []
        for pixels in (x.shape[3], x.shape[2]):
            total = max((-(-pixels // self.stride) - 1) * self.stride + self.size - pixels, 0)
            border += [total // 2, total - total // 2]
        return functional.pad(x, border, value=self.value)


def same_max_pool(size: int, stride: int) -> nn.Module:
    return nn.Sequential(SamePad(size, stride, -torch.inf), nn.MaxPool2d(size, stride))


def lrn() -> nn.Module:
    """TensorFlow's depth_radius 2, bias 2, alpha 1e-4, beta 0.75: PyTorch divides alpha by the size."""
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


class LeNet5(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.conv3 = nn.Conv2d(16, 120, 5)
        self.fc1 = nn.Linear(120, 84)
        self.fc2 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        x = functional.avg_pool2d(torch.tanh(self.conv2(x)), 2)
        x = torch.tanh(self.conv3(x)).flatten(1)
        return self.fc2(torch.tanh(self.fc1(x)))


def alexnet(
    classes: int = 1000,
    channels: int = 3,
    filters: Sequence[int] = (96, 256, 384, 384, 256),
    units: int = 4096,
    pixels: Sequence[int] = (6, 6),
) -> nn.Module:
    """pixels: height and width behind the last pool."""
    one, two, three, four, five = filters
    return nn.Sequential(
        *(nn.Conv2d(channels, one, 11, 4), nn.ReLU(), nn.MaxPool2d(3, 2), lrn()),
        *(nn.Conv2d(one, two, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2), lrn()),
        *(nn.Conv2d(two, three, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(three, four, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(four, five, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(five * pixels[0] * pixels[1], units), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(units, units), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(units, classes),
    )


class Inception(nn.Module):
    def __init__(self, channels: int, one: int, r3: int, three: int, r5: int, five: int, pool: int) -> None:
        super().__init__()
        self.branch1 = nn.Sequential(nn.Conv2d(channels, one, 1), nn.ReLU())
        self.branch2 = nn.Sequential(
            nn.Conv2d(channels, r3, 1), nn.ReLU(), nn.Conv2d(r3, three, 3, padding=1), nn.ReLU()
        )
        self.branch3 = nn.Sequential(
            nn.Conv2d(channels, r5, 1), nn.ReLU(), nn.Conv2d(r5, five, 5, padding=2), nn.ReLU()
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), nn.Conv2d(channels, pool, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


def googlenet(classes: int = 1000) -> nn.Module:
    """Table 1 of the paper."""
    return nn.Sequential(
        *(SamePad(7, 2), nn.Conv2d(3, 64, 7, 2), nn.ReLU(), same_max_pool(3, 2), lrn()),
        *(nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 192, 3, padding=1), nn.ReLU(), lrn()),
        same_max_pool(3, 2),
        Inception(192, 64, 96, 128, 16, 32, 32),
        Inception(256, 128, 128, 192, 32, 96, 64),
        same_max_pool(3, 2),
        Inception(480, 192, 96, 208, 16, 48, 64),
        Inception(512, 160, 112, 224, 24, 64, 64),
        Inception(512, 128, 128, 256, 24, 64, 64),
        Inception(512, 112, 144, 288, 32, 64, 64),
        Inception(528, 256, 160, 320, 32, 128, 128),
        same_max_pool(3, 2),
        Inception(832, 256, 160, 320, 32, 128, 128),
        Inception(832, 384, 192, 384, 48, 128, 128),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(1024, classes)),
    )


class Block(nn.Module):
    """Convolutions of (filters, size, stride) and a shortcut; padded on all sides alike, or as SAME."""

    def __init__(self, channels: int, convs: Sequence[tuple[int, int, int]], same: bool = False) -> None:
        super().__init__()
        self.count, filters, stride = len(convs), channels, 1
        self.pads = nn.ModuleList()
        for i, (filters_i, size, stride_i) in enumerate(convs, 1):
            self.pads.append(SamePad(size, stride_i) if same else nn.Identity())
            border = 0 if same else size // 2
            conv = nn.Conv2d(filters, filters_i, size, stride_i, border, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(filters_i))
            filters, stride = filters_i, stride * stride_i
        self.downsample = None
        if stride > 1 or filters != channels:
            projection = nn.Conv2d(channels, filters, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(filters))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i, pad in enumerate(self.pads, 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(pad(y)))
            y = torch.relu(y) if i < self.count else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """torchvision's by its names; with same=True padded as SAME, with first=True strides as in the paper."""

    def __init__(
        self,
        counts: Sequence[int],
        bottleneck: bool,
        classes: int = 1000,
        same: bool = False,
        first: bool = False,
    ) -> None:
        super().__init__()
        self.pad1 = SamePad(7, 2) if same else nn.Identity()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 0 if same else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = same_max_pool(3, 2) if same else nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, count in enumerate(counts, 1):
            filters, blocks = 32 << stage, []
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                convs = [(filters, 3, stride), (filters, 3, 1)]
                if bottleneck:
                    strides = (stride, 1) if first else (1, stride)
                    convs = [(filters, 1, strides[0]), (filters, 3, strides[1]), (4 * filters, 1, 1)]
                blocks.append(Block(channels, convs, same))
                channels = convs[-1][0]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.stages = len(counts)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(self.pad1(x)))))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))
