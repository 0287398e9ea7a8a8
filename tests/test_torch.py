"""The same network with the same weights in PyTorch: logits, losses and every gradient.

Needs PyTorch; CI runs this file in an environment of its own.
"""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
from tolerances import NETWORK, assert_close

from fastconv import interchange, models
from fastconv.layers import (
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    LocalResponseNormalization,
    MaxPooling2D,
    Sequential,
)
from fastconv.models import _network, resnet
from fastconv.optimizers import SGD
from fastconv.training import Classifier

torch = pytest.importorskip("torch", reason="needs PyTorch")
import torch_nets  # noqa: E402  (which imports torch)
from torch import nn  # noqa: E402


@pytest.fixture(params=["float32", "float64"])
def dtype(request, monkeypatch):
    """In which the models of fastconv.models are made too."""
    monkeypatch.setattr(_network, "Sequential", functools.partial(Sequential, dtype=request.param))
    return request.param


def drawn(net, dtype="float32"):
    """The net with weights that let every layer matter, and statistics that are not those of the start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, array in [*net.named_parameters(), *net.named_buffers()]:
            if array.ndim > 1:
                deviation = (2 / array[0].numel()) ** 0.5
                array.normal_(0, deviation, generator=generator)
            elif name.endswith("running_var"):
                array.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("weight"):  # of batch normalization; below 1, for a sum of branches grows
                array.uniform_(0.25, 0.75, generator=generator)
            elif array.ndim == 1:
                array.normal_(0, 0.1, generator=generator)
    return net.to(getattr(torch, dtype))


def images(shape, count, dtype="float32", scale=1.0):
    """Noise over patches of colour, so that images differ in the mean: [N, H, W, C], and so for PyTorch."""
    rng, (height, width, channels) = np.random.default_rng(1), shape
    patches = rng.standard_normal((count, 3, 3, channels))
    patches = patches[:, np.arange(height) * 3 // height][:, :, np.arange(width) * 3 // width]
    x = (scale * (patches + 0.5 * rng.standard_normal(patches.shape))).astype(dtype)
    return x, torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def peer_logits(net, x):
    """In float64, so that only fastconv rounds: PyTorch's own float32 was once off by 2e-5 of a logit."""
    with torch.no_grad():
        return copy.deepcopy(net).double().eval()(x.double()).numpy()


# Pixels like those of photographs (scale 50) where local response normalization has to matter.
INFERENCE = {
    "LeNet5": (models.LeNet5, torch_nets.LeNet5, (28, 28, 1), 1),
    "AlexNet": (models.AlexNet, torch_nets.alexnet, (227, 227, 3), 50),
    "GoogLeNet": (models.GoogLeNet, torch_nets.googlenet, (224, 224, 3), 50),
}


@pytest.mark.parametrize("name", INFERENCE)
def test_inference(name):
    make, make_peer, shape, scale = INFERENCE[name]
    peer, model = drawn(make_peer()), make(seed=3)
    model.load_torch_state_dict(peer.state_dict())
    x, peer_x = images(shape, 2, scale=scale)
    check_logits(model.predict(x), peer_logits(peer, peer_x))


def check_logits(logits, expected):
    apart = np.abs(expected[0] - expected[1]).max()
    # The image matters, not only the biases: a thousand times what may be wrong.
    assert apart > 1000 * NETWORK.float32 * np.abs(expected).max()
    assert_close(logits, expected, NETWORK)


@pytest.mark.parametrize(
    ("depth", "shape", "torchvision"),
    [
        (18, (224, 224, 3), True),
        (34, (65, 64, 3), True),
        (50, (224, 224, 3), True),
        (101, (64, 65, 3), True),
        (152, (64, 64, 3), True),
        (18, (65, 64, 3), False),
        (50, (224, 224, 3), False),
    ],
)
def test_inference_of_resnets(depth, shape, torchvision):
    peer = drawn(torch_nets.ResNet(*resnet.BLOCKS[depth], same=not torchvision, first=not torchvision))
    options = {"padding": "symmetric", "stride_on": "3x3"} if torchvision else {}
    model = models.ResNet(depth, 1000, shape, **options)
    state = peer.state_dict()
    model.load_torch_state_dict({name: state[name] for name in sorted(state)})  # as files of safetensors are
    x, peer_x = images(shape, 2)
    check_logits(model.predict(x), peer_logits(peer, peer_x))


def lenet(dtype):
    return models.LeNet5(optimizer=SGD), torch_nets.LeNet5(), 1


def two_blocks(bottleneck, torchvision, dtype):
    """One block whose shortcut is the identity (a projection for bottlenecks) and one with a projection."""
    counts = (1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.BLOCKS, 18, (counts, bottleneck))
        options = {"padding": "symmetric", "stride_on": "3x3"} if torchvision else {}
        model = models.ResNet(18, 5, (32, 30, 3), optimizer=SGD, **options)
    peer = torch_nets.ResNet(counts, bottleneck, 5, same=not torchvision, first=not torchvision)
    return model, peer, 1


def inception(dtype):
    filters = (8, 6, 12, 4, 8, 7)
    layers = [models.InceptionModule(*filters), GlobalAveragePooling2D(), Dense(5)]
    peer = [torch_nets.Inception(6, *filters), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(35, 5)]
    return classifier(layers, (9, 8, 6), dtype), nn.Sequential(*peer), 1


def narrow_alexnet(dtype):
    layers = []
    for filters, size, strides in ((6, 11, 4), (8, 5, 1)):
        padding = "same" if strides == 1 else "valid"
        layers += [
            Conv2D(filters, size, strides, padding, activation="relu"),
            MaxPooling2D(3, 2),
            LocalResponseNormalization(2, 2.0, 1e-4, 0.75),
        ]
    layers += [Conv2D(filters, 3, padding="same", activation="relu") for filters in (10, 12, 8)]
    layers += [MaxPooling2D(3, 2), Flatten()]
    for _ in range(2):
        layers += [Dense(20, "relu"), Dropout(0.5)]
    peer = torch_nets.alexnet(5, filters=(6, 8, 10, 12, 8), units=20, pixels=(3, 2))
    return classifier([*layers, Dense(5)], (131, 99, 3), dtype), peer, 50


def groups(dtype):
    """Grouped, depthwise and transposed convolutions, with a bias each."""
    layers = [
        Conv2D(8, 3, 2, groups=2, activation="relu"),
        DepthwiseConv2D(3, padding=[[0, 0], [1, 1], [1, 1], [0, 0]], depth_multiplier=2, activation="relu"),
        Conv2DTranspose(5, 3, 2, "valid", activation="relu"),
        *(GlobalAveragePooling2D(), Dense(5)),
    ]
    peer = [
        *(nn.Conv2d(4, 8, 3, 2, groups=2), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.ReLU()),
        *(nn.ConvTranspose2d(16, 5, 3, 2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 5)),
    ]
    return classifier(layers, (9, 11, 4), dtype), nn.Sequential(*peer), 1


def classifier(layers, shape, dtype):
    return Classifier(Sequential(layers, shape, dtype=dtype), SGD(0.001), "narrow")


TRAINING = {
    "LeNet5": lenet,
    "two blocks as in torchvision": functools.partial(two_blocks, False, True),
    "two bottlenecks as in torchvision": functools.partial(two_blocks, True, True),
    "two blocks as in the paper": functools.partial(two_blocks, False, False),
    "two bottlenecks as in the paper": functools.partial(two_blocks, True, False),
    "Inception module": inception,
    "narrow AlexNet": narrow_alexnet,
    "groups": groups,
}


@pytest.mark.parametrize("name", TRAINING)
def test_training(name, dtype):
    """Loss, every gradient, and where batch normalization's moving means are after the step."""
    model, peer, scale = TRAINING[name](dtype)
    peer = drawn(peer, dtype).train()
    for module in peer.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.load_torch_state_dict(peer.state_dict())
    x, peer_x = images(model.net.input_shape, 6, dtype, scale)
    labels = [0, 4, 2, 2, 1, 3]

    loss, _ = model.train(x, labels, keep_prob=1.0)
    peer_loss = nn.functional.cross_entropy(peer(peer_x), torch.tensor(labels))
    peer_loss.backward()

    assert_close(np.array(loss, dtype), peer_loss.item(), NETWORK, "loss")
    state = peer.state_dict()
    gradients = {name: array.grad for name, array in peer.named_parameters()}
    expected = interchange.from_torch(model.net, {**state, **gradients})
    assert model.net.grads.keys() <= expected.keys()
    for path, gradient in model.net.grads.items():
        assert gradient.any()
        assert_close(gradient, expected[path], NETWORK, path)
    for path in (path for path in model.net.weights if path.endswith("moving_mean")):
        assert_close(model.net.weights[path], expected[path], NETWORK, path)


def test_tensors_of_all_kinds():
    """Trained ones, views, float64 ones: what a dictionary of PyTorch may hold."""
    peer = torch_nets.LeNet5()
    model, twin = models.LeNet5(seed=1), models.LeNet5(seed=2)
    model.load_torch_state_dict(peer.state_dict())
    state = {name: array.double() for name, array in peer.named_parameters()}
    assert all(array.requires_grad for array in state.values())
    twin.load_torch_state_dict(state)
    assert np.array_equal(model.net.parameters, twin.net.parameters)
    state["conv1.bias"] = state["conv1.bias"].to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"conv1.bias is no array: .*BFloat16"):
        twin.load_torch_state_dict(state)
