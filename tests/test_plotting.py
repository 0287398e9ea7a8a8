"""Pictures of images, filters and activation maps, and the examples that draw; without comparing pixels."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import numpy as np
import pytest

from fastconv import models, nn, plotting
from fastconv.datasets import mnist

pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PNG = b"\x89PNG\r\n\x1a\n"


def noise(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def pictures(figure):
    """The arrays that the figure shows, in order; without the bar of the scale."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def scale(figure):
    """(least, largest) that the colours stand for, the same in all pictures."""
    limits = {axes.images[0].get_clim() for axes in figure.axes if axes.images}
    assert len(limits) == 1
    return limits.pop()


def is_drawn(figure, tmp_path):
    figure.savefig(tmp_path / "x.png")
    return (tmp_path / "x.png").read_bytes().startswith(PNG)


# ---- an image ----


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (784,)])
def test_a_grey_image(shape, tmp_path):
    image = noise(28, 28)
    figure = plotting.image_figure(image.reshape(shape).tolist(), title="digit")
    (picture,) = pictures(figure)
    np.testing.assert_array_equal(picture, image.astype(np.float64))
    assert scale(figure) == (image.min(), image.max())
    assert figure.get_suptitle() == "digit: 28x28 pixels"
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("column (pixels)", "row (pixels)")
    assert bar.get_ylabel() == "value"
    assert is_drawn(figure, tmp_path)


def test_an_image_in_colour(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (3, 40, 3), np.uint8)
    figure = plotting.image_figure(image)
    np.testing.assert_array_equal(pictures(figure)[0], image)
    assert figure.get_suptitle() == "3x40 pixels"
    assert len(figure.axes) == 1
    assert is_drawn(figure, tmp_path)


@pytest.mark.parametrize("shape", [(), (10,), (2, 3, 2), (1, 28, 28, 1), (0, 5)])
def test_no_image(shape):
    with pytest.raises(
        ValueError, match=r"image must be \[H, W\].* not of shape \(" + ", ".join(map(str, shape))
    ):
        plotting.image_figure(np.zeros(shape))


def test_no_numbers():
    with pytest.raises(TypeError, match="image must hold numbers, not dtype <U1"):
        plotting.image_figure([["a", "b"]])


# ---- filters ----


def test_filters_of_one_channel(tmp_path):
    w = noise(3, 3, 1, 5)
    figure = plotting.filters_figure(w, title="N(0, 1)")
    assert figure.get_suptitle() == "N(0, 1): 5 filters 3x3x1"
    assert titles(figure) == [f"filter {k}" for k in range(5)]
    for k, picture in enumerate(pictures(figure)):
        np.testing.assert_array_equal(picture, w[:, :, 0, k])
    assert scale(figure) == (-np.abs(w).max(), np.abs(w).max())  # zero is the middle of the colours
    assert figure.axes[-1].get_ylabel() == "weight"
    assert is_drawn(figure, tmp_path)


def test_filters_that_see_colours(tmp_path):
    w = np.zeros((2, 2, 3, 70), np.float32)
    w[0, 0, :, 1], w[1, 1, 2, 2] = (4, -4, 0), 2
    figure = plotting.filters_figure(w)
    assert figure.get_suptitle() == "70 filters 2x2x3 (the first 64 filters)"
    shown = pictures(figure)
    assert len(shown) == len(figure.axes) == plotting.MAPS
    assert shown[0].tolist() == np.full((2, 2, 3), 0.5).tolist()
    assert shown[1][0, 0].tolist() == [1, 0, 0.5]
    assert shown[2][1, 1].tolist() == [0.5, 0.5, 0.75]
    assert is_drawn(figure, tmp_path)


def test_filters_of_many_channels():
    w = noise(3, 5, 32, 64)
    figure = plotting.filters_figure(w)
    assert figure.get_suptitle() == "64 filters 3x5x32 (the first 8 filters and 8 channels)"
    shown = pictures(figure)
    assert len(shown) == 64
    np.testing.assert_array_equal(shown[8 * 2 + 3], w[:, :, 2, 3])
    assert titles(figure) == [f"filter {k}" for k in range(8)]
    rows = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel().startswith("channel")]
    assert rows == [f"channel {c}" for c in range(8)]


def test_few_filters_of_two_channels():
    figure = plotting.filters_figure(noise(1, 1, 2, 1))
    assert figure.get_suptitle() == "1 filter 1x1x2"
    assert len(pictures(figure)) == 2


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (np.zeros((3, 3, 1)), "filters must have 4 axes, not 3"),
        (np.zeros((3, 3, 1, 0)), r"filters must not be empty, .* \(3, 3, 1, 0\)"),
    ],
)
def test_no_filters(filters, message):
    with pytest.raises(ValueError, match=message):
        plotting.filters_figure(filters)


# ---- activation maps ----


def test_the_documents_five_maps(tmp_path):
    image = mnist.load_sample().train.images[0].reshape(1, 28, 28, 1)
    maps = nn.conv2d(image, 0.01 * noise(3, 3, 1, 5), 2, "SAME")
    for values, side in ((maps[0], 14), (nn.max_pool2d(maps, 2, 2, "SAME")[0], 7)):
        figure = plotting.activation_maps_figure(values, title="five")
        assert figure.get_suptitle() == f"five: 5 maps {side}x{side}"
        assert titles(figure) == [f"map {c}" for c in range(5)]
        shown = pictures(figure)
        np.testing.assert_array_equal(np.stack(shown, axis=-1), values)
        assert scale(figure) == (-np.abs(values).max(), np.abs(values).max())
        assert is_drawn(figure, tmp_path)


def test_the_maps_of_a_models_layer():
    model = models.DeepCNN(seed=1)
    maps = model.activations(np.abs(noise(2, 784)), "conv2d_2")
    figure = plotting.activation_maps_figure(maps[1], title="conv2d_2")
    assert figure.get_suptitle() == "conv2d_2: 128 maps 7x7 (the first 64 maps)"
    shown = pictures(figure)
    np.testing.assert_array_equal(np.stack(shown, axis=-1), maps[1, :, :, :64])
    assert scale(figure) == (0, maps[1, :, :, :64].max())  # behind a relu: from black to white
    assert figure.axes[-1].get_ylabel() == "activation"


def test_the_bars_of_a_dense_layer(tmp_path):
    figure = plotting.activation_maps_figure([1.0, -2.0, 0.5], title="dense")
    (axes,) = figure.axes
    assert figure.get_suptitle() == "dense: 3 units"
    assert [bar.get_height() for bar in axes.patches] == [1, -2, 0.5]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("unit", "activation")
    assert is_drawn(figure, tmp_path)


@pytest.mark.parametrize("fill", [0, np.nan, -np.inf])
def test_maps_without_a_scale(fill, tmp_path):
    figure = plotting.activation_maps_figure(np.full((4, 3, 2), fill))
    assert scale(figure)[1] == 1
    assert is_drawn(figure, tmp_path)


@pytest.mark.parametrize("shape", [(), (4, 4), (1, 4, 4, 2), (0, 4, 2)])
def test_no_maps(shape):
    with pytest.raises(ValueError, match=r"maps must be \[H, W, C\] or \[C\].* not of shape \("):
        plotting.activation_maps_figure(np.zeros(shape))


# ---- the examples ----


@pytest.fixture
def example(monkeypatch, tmp_path):
    """example(name): its module, in an empty working folder, with a sample of 60 digits."""
    train, _, test = mnist.load_sample()
    few = [
        mnist.DataSet(data.images[:n], data.labels[:n]) for data, n in ((train, 60), (train, 0), (test, 20))
    ]
    monkeypatch.setattr(mnist, "load_sample", lambda: mnist.DataSets(*few))
    monkeypatch.chdir(tmp_path)

    def load(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_feature_maps(example, capsys):
    model = models.DeepCNN(seed=5)
    model.save("model.npz")
    module = example("feature_maps")
    assert module.main(["--sample", "--load", "model.npz", "--output", "a/b", "--image", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Convolution: (1, 28, 28, 1) -> (1, 14, 14, 5), max pool: (1, 14, 14, 5) -> (1, 7, 7, 5)" in lines
    test = mnist.load_sample().test
    assert f"Accuracy: {model.get_accuracy(test.images, test.labels):.4f}" in lines
    first = ["image", "filters", "convolution", "max_pool", "deep_cnn_filters"]
    names = [*first, *(f"deep_cnn_{layer}" for layer in module.LAYERS)]
    assert lines[-len(names) :] == [f"Figure: {os.path.join('a/b', name)}.png" for name in names]
    assert all(Path("a/b", f"{name}.png").read_bytes().startswith(PNG) for name in names)


def test_feature_maps_of_a_network_trained_now(example, capsys):
    module = example("feature_maps")
    module.LAYERS = ("conv2d",)  # drawing is what takes the time
    assert module.main(["--sample", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert "Training DeepCNN on 300 images" in out and "Epoch: 0001 cost = " in out
    assert Path("feature_maps", "deep_cnn_conv2d.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "300"], "argument --image: must be below 300, the training images, not 300"),
        (["--load", "nowhere.npz"], "argument --load: .*nowhere.npz"),
        (["--epochs", "0"], "argument --epochs: must be a whole number, at least 1, not '0'"),
    ],
)
def test_feature_maps_refuses(example, capsys, options, message):
    with pytest.raises(SystemExit) as exit_:
        example("feature_maps").main(["--sample", *options])
    assert exit_.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_residuals(example, capsys):
    module = example("residuals")
    options = ["--sample", "--width", "1", "--images", "20", "--epochs", "2", "--batch-size", "10"]
    assert module.main([*options, "--figure", "curves.svg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["plain-20", "plain-56", "ResNet-20", "ResNet-56"]
    starts = [line.split(",")[0] for line in lines if line.endswith("parameters, 20 images")]
    assert starts == names
    assert [line.split(":")[0] for line in lines[-5:-1]] == names
    assert lines[-1] == "Figure: curves.svg" and Path("curves.svg").exists()


def test_the_figure_of_residuals(example):
    errors = {
        (False, 20): [5.0, 3.0],
        (False, 56): [9.0, 8.0],
        (True, 20): [4.0, 2.0],
        (True, 56): [4.0, 1.0],
    }
    figure = example("residuals").figure(errors, "settings")
    assert figure.get_suptitle() == "settings"
    assert titles(figure) == ["plain networks", "residual networks"]
    drawn = [line.get_ydata().tolist() for axes in figure.axes for line in axes.lines]
    assert drawn == list(errors.values())
    labels = [text.get_text() for axes in figure.axes for text in axes.get_legend().texts]
    assert labels == [
        f"{name}: {value:.2f}% at the end"
        for name, value in (("plain-20", 3.0), ("plain-56", 8.0), ("ResNet-20", 2.0), ("ResNet-56", 1.0))
    ]


def test_images_of_half_the_size(example):
    image = np.zeros((1, 28, 28), np.float32)
    image[0, 4:6, 7] = 1
    halved = example("residuals").halved(image.reshape(1, 784))
    assert halved.shape == (1, 14, 14, 1)
    assert np.argwhere(halved).tolist() == [[0, 2, 3, 0]] and halved.max() == 0.5
