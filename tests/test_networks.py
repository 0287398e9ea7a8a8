"""LeNet-5, AlexNet, GoogLeNet and the ResNets: shapes and sizes of the papers, and a step of training."""

from __future__ import annotations

import functools
import tracemalloc

import numpy as np
import pytest

import fastconv
from fastconv import initializers, models
from fastconv.datasets import mnist
from fastconv.layers import (
    AveragePooling2D,
    Conv2D,
    Dropout,
    LocalResponseNormalization,
    MaxPooling2D,
    ReLU,
    Residual,
    Sequential,
)
from fastconv.losses import class_ids
from fastconv.optimizers import SGD, Adam


@pytest.fixture
def undrawn(monkeypatch):
    """Parameters of zero: who only looks at shapes need not wait for 60 million random numbers."""
    for name in ("he_normal", "glorot_uniform"):
        monkeypatch.setitem(initializers._BY_NAME, name, initializers.zeros)


def shapes(model, *kinds):
    """(name, output shape) of the layers, without those that keep the shape."""
    quiet = (ReLU, Dropout)
    return {
        layer.name: shape
        for layer, shape in zip(model.net.layers, model.net.output_shapes, strict=True)
        if not isinstance(layer, quiet) and not layer.name.startswith(kinds)
    }


# ---- tables of the papers and of the lecture notes ----

LENET = {
    "C1": (28, 28, 6),
    "S2": (14, 14, 6),
    "C3": (10, 10, 16),
    "S4": (5, 5, 16),
    "C5": (1, 1, 120),
    "flatten": (120,),
    "F6": (84,),
    "output": (10,),
}

ALEXNET = {
    "conv1": (55, 55, 96),
    "pool1": (27, 27, 96),
    "norm1": (27, 27, 96),
    "conv2": (27, 27, 256),
    "pool2": (13, 13, 256),
    "norm2": (13, 13, 256),
    "conv3": (13, 13, 384),
    "conv4": (13, 13, 384),
    "conv5": (13, 13, 256),
    "pool3": (6, 6, 256),
    "flatten": (9216,),
    "fc6": (4096,),
    "fc7": (4096,),
    "fc8": (1000,),
}

GOOGLENET = {
    "conv1": (112, 112, 64),
    "pool1": (56, 56, 64),
    "norm1": (56, 56, 64),
    "conv2_reduce": (56, 56, 64),
    "conv2": (56, 56, 192),
    "norm2": (56, 56, 192),
    "pool2": (28, 28, 192),
    "inception_3a": (28, 28, 256),
    "inception_3b": (28, 28, 480),
    "pool3": (14, 14, 480),
    "inception_4a": (14, 14, 512),
    "inception_4b": (14, 14, 512),
    "inception_4c": (14, 14, 512),
    "inception_4d": (14, 14, 528),
    "inception_4e": (14, 14, 832),
    "pool4": (7, 7, 832),
    "inception_5a": (7, 7, 832),
    "inception_5b": (7, 7, 1024),
    "average": (1024,),
    "classifier": (1000,),
}

RESNET18 = {
    "conv1": (112, 112, 64),
    "pool1": (56, 56, 64),
    "conv2_1": (56, 56, 64),
    "conv2_2": (56, 56, 64),
    "conv3_1": (28, 28, 128),
    "conv3_2": (28, 28, 128),
    "conv4_1": (14, 14, 256),
    "conv4_2": (14, 14, 256),
    "conv5_1": (7, 7, 512),
    "conv5_2": (7, 7, 512),
    "average": (512,),
    "classifier": (1000,),
}

RESNET50 = {
    "conv1": (112, 112, 64),
    "pool1": (56, 56, 64),
    **{f"conv2_{i}": (56, 56, 256) for i in range(1, 4)},
    **{f"conv3_{i}": (28, 28, 512) for i in range(1, 5)},
    **{f"conv4_{i}": (14, 14, 1024) for i in range(1, 7)},
    **{f"conv5_{i}": (7, 7, 2048) for i in range(1, 4)},
    "average": (2048,),
    "classifier": (1000,),
}

RESNET20 = {
    "conv1": (32, 32, 16),
    **{f"conv2_{i}": (32, 32, 16) for i in range(1, 4)},
    **{f"conv3_{i}": (16, 16, 32) for i in range(1, 4)},
    **{f"conv4_{i}": (8, 8, 64) for i in range(1, 4)},
    "average": (64,),
    "classifier": (10,),
}


@pytest.mark.parametrize(
    ("make", "table"),
    [
        (models.LeNet5, LENET),
        (functools.partial(models.LeNet5, input_shape=(32, 32, 1)), LENET),
        (models.AlexNet, ALEXNET),
        (functools.partial(models.AlexNet, groups=2), ALEXNET),
        (
            functools.partial(models.AlexNet, lrn=False),
            {name: shape for name, shape in ALEXNET.items() if "norm" not in name},
        ),
        (models.GoogLeNet, GOOGLENET),
        (functools.partial(models.ResNet, 18), RESNET18),
        (functools.partial(models.ResNet, 18, residual=False), RESNET18),
        (functools.partial(models.ResNet, 50), RESNET50),
        (functools.partial(models.ResNet, 50, padding="symmetric", stride_on="3x3"), RESNET50),
        (models.ResNetCIFAR, RESNET20),
        (
            functools.partial(models.ResNetCIFAR, width=4),
            {name: (*shape[:-1], shape[-1] // 4) for name, shape in RESNET20.items()} | {"classifier": (10,)},
        ),
    ],
)
def test_shapes(undrawn, make, table):
    assert shapes(make(), "batch_normalization") == table


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (models.LeNet5, 61_706),
        (models.AlexNet, 62_378_344),
        (functools.partial(models.AlexNet, 10, lrn=False), 62_378_344 - 990 * 4097),
        (functools.partial(models.AlexNet, groups=2), 60_965_224),  # the paper's two towers
        (models.GoogLeNet, 6_998_552),
        (functools.partial(models.GoogLeNet, auxiliary=True), 13_378_280),
        (functools.partial(models.GoogLeNet, lrn=False), 6_998_552),
        (functools.partial(models.ResNet, 18), 11_689_512),
        (functools.partial(models.ResNet, 34), 21_797_672),
        (functools.partial(models.ResNet, 50), 25_557_032),
        (functools.partial(models.ResNet, 101), 44_549_160),
        (functools.partial(models.ResNet, 152), 60_192_808),
        # without the projections of conv3_1, conv4_1 and conv5_1 and their gamma and beta
        (
            functools.partial(models.ResNet, 18, residual=False),
            11_689_512 - sum(c * 2 * c + 4 * c for c in (64, 128, 256)),
        ),
        # the paper's 0.27 million: 269,722 without projections
        (models.ResNetCIFAR, 269_722 + sum(c * 2 * c + 4 * c for c in (16, 32))),
        (functools.partial(models.ResNetCIFAR, residual=False), 269_722),
    ],
)
def test_count_params(undrawn, make, count):
    assert make().count_params() == count


def test_inception_module_literal():
    """3a of the paper's table 1, whose 159K parameters are 163,328 weights, in units of 1024."""
    module = models.InceptionModule(64, 96, 128, 16, 32, 32)
    net = Sequential([module], (28, 28, 192))
    assert net.output_shape == (28, 28, 256)
    weights = 192 * (64 + 96 + 16 + 32) + 9 * 96 * 128 + 25 * 16 * 32
    assert weights == 163_328
    assert net.count_params() == weights + 64 + 96 + 128 + 16 + 32 + 32
    assert [path for path in net.weights if path.endswith("kernel")] == [
        f"inception_module/{path}/kernel"
        for path in ("1x1", "3x3/conv2d", "3x3/conv2d_1", "5x5/conv2d", "5x5/conv2d_1", "pool/conv2d")
    ]


def test_bottlenecks_and_projections(undrawn):
    net = models.ResNet(50, 3, (32, 32, 3)).net
    blocks = [layer for layer in net.layers if isinstance(layer, Sequential)]
    assert len(blocks) == 16
    projected = [block.name for block in blocks if len(block.layers[0].layers) == 2]
    assert projected == ["conv2_1", "conv3_1", "conv4_1", "conv5_1"]
    kernels = [shape for path, shape in kernel_shapes(net) if path.startswith("conv3_1/")]
    assert kernels == [(1, 1, 256, 128), (3, 3, 128, 128), (1, 1, 128, 512), (1, 1, 256, 512)]
    plain = models.ResNet(50, 3, (32, 32, 3), residual=False).net
    assert not any(isinstance(inner, Residual) for layer in plain.layers for inner in (layer, *inside(layer)))
    assert len(kernel_shapes(plain)) == 1 + 16 * 3 + 1  # the 50


@pytest.mark.parametrize(
    ("depth", "options", "strides", "border"),
    [
        (50, {}, [2, 1, 1, 2], "same"),
        (50, {"stride_on": "3x3"}, [1, 2, 1, 2], "same"),
        (50, {"padding": "symmetric"}, [2, 1, 1, 2], [[0, 0], [3, 3], [3, 3], [0, 0]]),
        (18, {"stride_on": "3x3"}, [2, 1, 2], "same"),  # a pair of 3x3 has it on the first in any case
    ],
)
def test_where_the_strides_and_the_borders_of_resnet_are(undrawn, depth, options, strides, border):
    net = models.ResNet(depth, 3, (33, 32, 3), **options).net
    convs = {path: layer for path, layer in net.members() if isinstance(layer, Conv2D)}
    block = [layer.strides for path, layer in convs.items() if path.startswith("conv4_1/")]
    assert block == [(step, step) for step in strides]
    assert convs["conv1"].padding == border
    assert net.layers[3].padding == (border if border == "same" else [[0, 0], [1, 1], [1, 1], [0, 0]])


def kernel_shapes(net):
    return [(path, view.shape) for path, view in net.weights.items() if path.endswith("kernel")]


def inside(layer):
    return getattr(layer, "layers", [])


def test_he_initialization():
    weights = models.ResNetCIFAR(seed=3).net.weights
    kernel = weights["conv4_2/residual/branch/conv2d/kernel"]
    # 36,864 numbers: their standard deviation is known to 0.4%
    assert kernel.std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert np.array_equal(weights["conv4_2/residual/branch/batch_normalization/gamma"], np.ones(64))


# ---- training ----

SMALL = {
    "LeNet5": functools.partial(models.LeNet5, 5),
    "LeNet5 of 32x32": functools.partial(
        models.LeNet5, 5, (32, 32, 3), activation="relu", pooling="max", learning_rate=0.01
    ),
    "AlexNet": functools.partial(models.AlexNet, 5, (67, 67, 3)),
    "AlexNet in towers": functools.partial(models.AlexNet, 5, (67, 67, 3), groups=2, learning_rate=1e-4),
    "AlexNet without lrn": functools.partial(models.AlexNet, 5, (67, 67, 3), lrn=False, learning_rate=1e-4),
    "GoogLeNet": functools.partial(models.GoogLeNet, 5, (33, 32, 3)),
    "GoogLeNet with auxiliaries": functools.partial(models.GoogLeNet, 5, (65, 66, 3), auxiliary=True),
    "ResNet18": functools.partial(models.ResNet, 18, 5, (32, 32, 3)),
    "ResNet50": functools.partial(models.ResNet, 50, 5, (32, 32, 3)),
    "plain18": functools.partial(models.ResNet, 18, 5, (32, 32, 3), residual=False),
    "ResNetCIFAR8": functools.partial(models.ResNetCIFAR, 8, 5, (16, 16, 3)),
    "plainCIFAR14": functools.partial(models.ResNetCIFAR, 14, 5, (15, 16, 3), residual=False),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_step_lowers_the_loss(name, tmp_path):
    options = {"learning_rate": 0.001, "optimizer": SGD, **SMALL[name].keywords}
    model = SMALL[name](seed=1, **options)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, *model.net.input_shape)).astype(np.float32)
    y = np.array([0, 4, 2, 2])
    before, _ = model.train(x, y, keep_prob=1.0)
    assert np.isfinite(model.net.gradients).all()
    assert all(gradient.any() for gradient in model.net.grads.values())
    after, _ = model.train(x, y, keep_prob=1.0)
    assert after < before
    assert np.isfinite(model.predict(x)).all()
    if model.count_params() < 20_000_000:  # smaller files
        model.save(tmp_path / "model.npz")
        twin = SMALL[name](seed=2)
        twin.load(tmp_path / "model.npz")
        assert np.array_equal(twin.predict(x), model.predict(x))


def digits_in_colour(count, scale, side):
    """[count, side, side, 3]: digits of the sample, `scale` times as large, cut or padded around."""
    data = mnist.load_sample().train
    x = data.images[:count].reshape(count, 28, 28, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    border = max(0, (side - x.shape[1]) // 2)
    x = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    first = (x.shape[1] - side) // 2
    return x[:, first : first + side, first : first + side].repeat(3, axis=3), class_ids(data.labels[:count])


@pytest.mark.parametrize(("model", "scale", "side"), [(models.AlexNet, 3, 67), (models.GoogLeNet, 1, 32)])
def test_learns_64_digits_by_heart(model, scale, side):
    x, y = digits_in_colour(64, scale, side)
    net = model(10, x.shape[1:], learning_rate=3e-4, seed=0)
    for _ in range(12):
        for _ in range(5):
            net.train(x, y)
        if net.get_accuracy(x, y) == 1:  # after 20 and 35 steps
            return
    pytest.fail(f"after 60 steps {net.get_accuracy(x, y):.0%} are right")


@pytest.mark.parametrize("name", ["LeNet5", "GoogLeNet", "ResNetCIFAR8"])
def test_the_same_bits_for_any_number_of_threads(name, eager_threads):
    ends = set()
    for threads in (1, 2, 3):
        with fastconv.num_threads(threads):
            model = SMALL[name](seed=3)
            rng = np.random.default_rng(1)
            for _ in range(2):
                model.train(rng.random((5, *model.net.input_shape), np.float32), [0, 1, 2, 3, 4])
            x = rng.random((3, *model.net.input_shape), np.float32)
            ends.add(model.net.parameters.tobytes() + model.predict(x).tobytes())
    assert len(ends) == 1


def test_mnist_images_of_either_form():
    model = models.LeNet5()
    x = np.random.default_rng(0).random((3, 784), np.float32)
    logits = model.predict(x)
    assert logits.shape == (3, 10)
    assert np.array_equal(logits, model.predict(x.reshape(3, 28, 28, 1)))
    larger = models.LeNet5(input_shape=(32, 32, 1))
    larger.net.set_weights(model.net.get_weights())
    padded = np.pad(x.reshape(3, 28, 28, 1), ((0, 0), (2, 2), (2, 2), (0, 0)))
    np.testing.assert_allclose(larger.predict(padded), logits, rtol=0, atol=1e-5)


def test_options():
    model = models.LeNet5(7, name="five", learning_rate=0.5, optimizer=SGD, pooling="max", activation="relu")
    assert (model.name, model.optimizer.learning_rate, type(model.optimizer)) == ("five", 0.5, SGD)
    assert sum(isinstance(layer, MaxPooling2D) for layer in model.net.layers) == 2
    assert sum(isinstance(layer, AveragePooling2D) for layer in models.LeNet5().net.layers) == 2
    model = models.ResNetCIFAR(8)
    assert (model.name, type(model.optimizer)) == ("ResNetCIFAR8", Adam)
    assert models.LeNet5().name == "LeNet5"
    first, same, other = (models.ResNetCIFAR(8, seed=seed).net.parameters for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_lrn_is_the_paper_s(undrawn):
    for net in (models.AlexNet(2, (67, 67, 1)).net, models.GoogLeNet(2, (8, 8, 1)).net):
        norms = [layer for layer in net.layers if isinstance(layer, LocalResponseNormalization)]
        assert [(n.depth_radius, n.bias, n.alpha, n.beta) for n in norms] == [(2, 2.0, 1e-4, 0.75)] * 2


def test_dropouts(undrawn):
    assert [layer.rate for layer in models.AlexNet(2, (67, 67, 1)).dropouts] == [0.5, 0.5]
    assert [layer.rate for layer in models.GoogLeNet(2, (8, 8, 1)).dropouts] == [0.4]


def test_a_large_model_takes_the_memory_of_its_training():
    """While it is built no more than parameters, gradients and Adam's two slots take."""
    tracemalloc.start()
    try:
        model = models.AlexNet()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * model.net.parameters.nbytes


def test_large_images_are_evaluated_in_smaller_batches(undrawn):
    assert models.LeNet5()._evaluation_batch() == 100
    assert models.ResNet(18)._evaluation_batch() == 25_000_000 // (112 * 112 * 64)
    assert models.ResNetCIFAR(8, input_shape=(1, 2_000_000, 1))._evaluation_batch() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.LeNet5(0), "num_classes must be at least 1, not 0"),
        (lambda: models.LeNet5(input_shape=(8, 8, 1)), "C3 on an input of shape"),
        (lambda: models.LeNet5(pooling="min"), "pooling must be one of 'average', 'max', not 'min'"),
        (lambda: models.LeNet5(activation="elu"), "activation must be one of .* not 'elu'"),
        (lambda: models.AlexNet(input_shape=(60, 60, 3)), "pool3 on an input of shape"),
        (lambda: models.GoogLeNet(-1), "num_classes must be at least 1, not -1"),
        (lambda: models.ResNet(20), "depth must be one of 18, 34, 50, 101, 152, not 20"),
        (lambda: models.ResNet(18, padding="valid"), "padding must be one of 'same', 'symmetric', not 'v"),
        (lambda: models.ResNet(50, stride_on=3), "stride_on must be one of 'first', '3x3', not 3"),
        (lambda: models.ResNetCIFAR(21), "depth must be 6n . 2 with a whole n, not 21"),
        (lambda: models.ResNetCIFAR(2), "depth must be at least 8, not 2"),
        (lambda: models.ResNetCIFAR(8, width=0), "width must be at least 1, not 0"),
        (lambda: models.InceptionModule(1, 2, 3, 4, 0, 6), "filters must be at least 1, not 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
