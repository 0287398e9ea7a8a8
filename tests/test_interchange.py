"""Weights of other libraries, without them: layouts as literals, what is refused, files."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv import initializers, interchange, models
from fastconv.layers import (
    AuxiliaryClassifier,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Layer,
    MaxPooling2D,
    ReLU,
    Reshape,
    Residual,
    Sequential,
)
from fastconv.optimizers import Adam
from fastconv.training import Classifier


def classifier(layers=None, input_shape=(4, 3, 2), dtype=np.float32):
    layers = layers or [Conv2D(3, 2, name="c"), BatchNormalization(name="n"), Flatten(), Dense(5, name="d")]
    return Classifier(Sequential(layers, input_shape, seed=1, dtype=dtype), Adam(), "small")


def count_up(*shape):
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


def torch_state():
    """For classifier(): a convolution of 2x2 from 2 to 3 channels, [3, 2, 3] behind it."""
    return {
        "features.0.weight": count_up(3, 2, 2, 2),
        "features.0.bias": np.array([1.0, 2, 3]),
        "features.1.weight": np.array([4.0, 5, 6]),
        "features.1.bias": np.array([7.0, 8, 9]),
        "features.1.running_mean": np.array([10.0, 11, 12]),
        "features.1.running_var": np.array([13.0, 14, 15]),
        "features.1.num_batches_tracked": np.array(77),
        "fc.weight": count_up(5, 18),
        "fc.bias": np.arange(5.0),
    }


def keras_weights():
    return list(classifier().net.get_weights())


def test_torch_layouts():
    model = classifier()
    model.load_torch_state_dict(torch_state())
    weights = model.net.weights
    assert weights["c/kernel"][:, :, 0, 0].tolist() == [[0, 1], [2, 3]]
    assert weights["c/kernel"][0, 0].tolist() == [[0, 8, 16], [4, 12, 20]]  # inputs by outputs
    assert weights["c/bias"].tolist() == [1, 2, 3]
    assert [weights[f"n/{key}"].tolist() for key in ("gamma", "beta", "moving_mean", "moving_variance")] == [
        [4, 5, 6],
        [7, 8, 9],
        [10, 11, 12],
        [13, 14, 15],
    ]
    # [3, 2, 3] in H, W, C: the channels of a pixel lie 3 * 2 apart in PyTorch
    assert weights["d/kernel"][:, 0].tolist() == [p + 6 * c for p in range(6) for c in range(3)]
    assert weights["d/kernel"][0].tolist() == [0, 18, 36, 54, 72]
    assert weights["d/bias"].tolist() == [0, 1, 2, 3, 4]


def flattened(layers, state, input_shape=(1, 2, 2)):
    """Arrays by path for a net that flattens [1, 2, 2], which PyTorch has in the order 0, 2, 1, 3."""
    return interchange.from_torch(classifier(layers, input_shape).net, state)


def test_the_order_of_flattened_images_goes_on_to_the_next_dense_layer():
    norm = {f"n.{key}": count_up(4) for key in ("weight", "bias", "running_mean", "running_var")}
    dense = {"d.weight": count_up(3, 4), "d.bias": count_up(3), "e.weight": count_up(2, 3)}
    layers = [
        Flatten(),
        Dropout(0.5),
        BatchNormalization(name="n"),
        ReLU(),
        Dense(3, name="d"),
        Dense(2, use_bias=False, name="e"),
    ]
    arrays = flattened(layers, {**norm, **dense})
    for key in ("gamma", "beta", "moving_mean", "moving_variance"):
        assert arrays[f"n/{key}"].tolist() == [0, 2, 1, 3]
    assert arrays["d/kernel"][:, 0].tolist() == [0, 2, 1, 3]
    assert arrays["d/bias"].tolist() == [0, 1, 2]
    assert arrays["e/kernel"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_flattened_images_in_layers_of_layers():
    nested = [Sequential([MaxPooling2D(1), Flatten()]), Sequential([Dense(3, use_bias=False)])]
    (kernel,) = flattened(nested, {"d.weight": count_up(3, 4)}).values()
    assert kernel[:, 0].tolist() == [0, 2, 1, 3]
    branches = [Flatten(), Concatenate([Dense(1, use_bias=False), Dense(2, use_bias=False)])]
    kernels = flattened(branches, {"a.weight": count_up(1, 4), "b.weight": count_up(2, 4)}).values()
    assert [kernel[:, 0].tolist() for kernel in kernels] == [[0, 2, 1, 3]] * 2
    for joined in (Residual(Dense(4)), Concatenate([ReLU(), Dense(1)])):
        with pytest.raises(ValueError, match="joins flattened images, whose order differs in PyTorch"):
            flattened([Flatten(), joined], {"d.weight": count_up(4, 4), "d.bias": count_up(4)})


def test_reshapes():
    state = {"d.weight": count_up(2, 4), "d.bias": count_up(2)}
    other_channels = [Flatten(), Reshape((1, 2, 2)), Reshape((2, 2, 1)), Flatten(), Dense(2, name="d")]
    with pytest.raises(ValueError, match=r"reshape_1, \(1, 2, 2\) to \(2, 2, 1\), mixes channels otherwise"):
        flattened(other_channels, state)
    there_and_back = [Flatten(), Reshape((1, 2, 2)), Flatten(), Dense(2, name="d")]
    assert flattened(there_and_back, state)["d/kernel"][:, 0].tolist() == [0, 2, 1, 3]
    grey = [Reshape((2, 2, 1)), Flatten(), Dense(2, name="d")]
    assert flattened(grey, state, (4,))["d/kernel"][:, 0].tolist() == [0, 1, 2, 3]


def test_a_layer_that_stands_twice_is_one_module():
    shared = Conv2D(2, 1, use_bias=False, name="c")
    model = classifier([shared, ReLU(), shared, Flatten(), Dense(2, name="d")], (1, 2, 2))
    state = {"c.weight": count_up(2, 2, 1, 1), "d.weight": count_up(2, 4), "d.bias": count_up(2)}
    model.load_torch_state_dict(state)
    assert model.net.weights["c/kernel"].tolist() == [[[[0, 2], [1, 3]]]]


def test_depthwise_grouped_and_transposed_layouts():
    def net():
        layers = [
            DepthwiseConv2D((1, 2), padding="same", depth_multiplier=3, use_bias=False, name="a"),
            Conv2D(2, 1, groups=2, use_bias=False, name="b"),
            Conv2DTranspose(5, (1, 2), use_bias=False, name="c"),
            GlobalAveragePooling2D(),
        ]
        return classifier(layers, (1, 3, 2)).net

    shapes = {"a": (6, 1, 1, 2), "b": (2, 3, 1, 1), "c": (2, 5, 1, 2)}
    state = {f"{name}.weight": count_up(*shape) for name, shape in shapes.items()}
    arrays = interchange.from_torch(net(), state)
    # Of two input channels three filters each, a filter's two taps side by side in PyTorch.
    assert arrays["a/kernel"].shape == (1, 2, 2, 3)
    assert arrays["a/kernel"][0, 0].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert arrays["b/kernel"][0, 0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert arrays["c/kernel"][0, 1].tolist() == [[1, 11], [3, 13], [5, 15], [7, 17], [9, 19]]
    state["a.weight"] = count_up(6, 2, 1, 2)
    with pytest.raises(ValueError, match=r"a.weight has shape \(6, 2, 1, 2\), a/kernel takes \(6, 1, 1, 2\)"):
        interchange.from_torch(net(), state)


def test_an_auxiliary_classifier_leaves_the_order_as_it_is():
    side = AuxiliaryClassifier([Flatten(), Dense(2, use_bias=False, name="s")], name="aux")
    state = {"s.weight": count_up(2, 4), "d.weight": count_up(3, 4)}
    arrays = flattened([side, Flatten(), Dense(3, use_bias=False, name="d")], state)
    for path in ("aux/classifier/s/kernel", "d/kernel"):
        assert arrays[path][:, 0].tolist() == [0, 2, 1, 3]
    behind = AuxiliaryClassifier(Dense(2, use_bias=False, name="s"), name="aux")
    arrays = flattened([Flatten(), behind, Dense(3, use_bias=False, name="d")], state)
    for path in ("aux/s/kernel", "d/kernel"):
        assert arrays[path][:, 0].tolist() == [0, 2, 1, 3]


def test_branches_before_the_shortcut():
    branch = [Conv2D(2, 1, use_bias=False, name="b")]
    model = classifier([Residual(branch, [Conv2D(2, 1, use_bias=False)]), Flatten(), Dense(2)], (1, 1, 2))
    names = ("conv1", "downsample.0", "fc")
    shapes = ((2, 2, 1, 1), (2, 2, 1, 1), (2, 2))
    arrays = [np.full(shape, i, np.float32) for i, shape in enumerate(shapes)]
    state = {f"{name}.weight": array for name, array in zip(names, arrays, strict=True)}
    model.load_torch_state_dict({**state, "fc.bias": np.ones(2)})
    assert [(path, view.flat[0]) for path, view in model.net.weights.items()] == [
        ("residual/branch/b/kernel", 0),
        ("residual/shortcut/conv2d/kernel", 1),
        ("dense/kernel", 2),
        ("dense/bias", 1),
    ]


def test_keras_order_and_layouts_are_fastconv_s():
    source, target = classifier(), classifier(dtype=np.float64)
    source.net.parameters[...] = np.arange(source.count_params())
    source.net.statistics[...] = [-1, -2, -3, -4, -5, -6]
    weights = source.net.get_weights()
    assert [array.shape for array in weights] == [(2, 2, 2, 3), (3,), (3,), (3,), (3,), (3,), (18, 5), (5,)]
    target.load_keras_weights(weights)
    assert np.array_equal(target.net.parameters, source.net.parameters)
    assert target.net.statistics.tolist() == [-1, -2, -3, -4, -5, -6]


@pytest.mark.parametrize("method", ["load_torch_state_dict", "load_keras_weights"])
def test_the_optimizer_starts_anew(method):
    weights = {"load_torch_state_dict": torch_state, "load_keras_weights": keras_weights}[method]()
    trained, fresh = classifier(), classifier()
    x, y = np.random.default_rng(0).random((6, 4, 3, 2), np.float32), [0, 1, 2, 3, 4, 0]
    trained.fit(x, y, epochs=2, verbose=0)
    for model in (trained, fresh):
        getattr(model, method)(weights)
        model.train(x, y)
    assert np.array_equal(trained.net.parameters, fresh.net.parameters)


def test_torchvision_names_in_any_order():
    """A dictionary in the order of the layers, sorted as in a file, and with a prefix to every name."""
    shapes = {}
    for name in models.ResNet(18, 3, (32, 32, 3)).torch_names:
        shapes[name] = name.startswith("bn") or ".bn" in name or name.endswith("downsample.1")
    assert list(shapes)[:2] == ["conv1", "bn1"]
    assert list(shapes)[10:16] == [
        *("layer2.0.conv1", "layer2.0.bn1", "layer2.0.conv2", "layer2.0.bn2"),
        *("layer2.0.downsample.0", "layer2.0.downsample.1"),
    ]
    assert len(shapes) == 41  # 20 convolutions, as many normalizations, one dense layer
    assert sum(shapes.values()) == 20
    model = models.ResNet(18, 3, (32, 32, 3), seed=1)
    state = state_of_resnet(model)
    for other in (
        state,
        {name: state[name] for name in sorted(state)},
        {f"module.{name}": array for name, array in state.items()},
    ):
        twin = models.ResNet(18, 3, (32, 32, 3), seed=2)
        twin.load_torch_state_dict(other)
        assert np.array_equal(twin.net.parameters, model.net.parameters)


def state_of_resnet(model):
    """A model's weights as torchvision's state_dict."""
    layers = [layer for _, layer in model.net.members() if layer.weights]
    state = {}
    for name, layer in zip(model.torch_names, layers, strict=True):
        for key, view in layer.weights.items():
            array = view.transpose(3, 2, 0, 1) if view.ndim == 4 else view.T
            state[f"{name}.{interchange.TORCH_KEYS[key]}"] = array
    return state


# ---- what is refused, and that nothing has changed then ----


def check_refused(call, error, message):
    model = classifier()
    before = model.net.get_weights()
    with pytest.raises(error) as caught:
        call(model)
    assert str(caught.value) == message
    assert all(map(np.array_equal, model.net.get_weights(), before))


def test_an_array_that_pytorch_does_not_know():
    class Scale(Layer):
        def build(self, input_shape):
            self.specs = {"scale": (input_shape[-1:], initializers.ones)}
            return input_shape

    model = classifier([Scale(), Flatten(), Dense(5)])
    with pytest.raises(ValueError, match="scale/scale has no name in PyTorch"):
        model.load_torch_state_dict({"scale.weight": np.ones(2)})


def test_all_that_is_wrong_with_a_state_is_listed():
    state = torch_state()
    del state["features.0.bias"], state["features.1.running_var"]
    state["features.1.bias"] = np.ones(4)
    state["fc.weight"] = np.ones((5, 17))
    state["fc.bias"] = np.arange(5)
    state["fc.scale"] = np.ones(1)
    state["head.weight"] = np.ones(1)
    check_refused(
        lambda model: model.load_torch_state_dict(state),
        ValueError,
        "state does not fit this model:"
        "\n- features.0.bias is missing, for c/bias"
        "\n- features.1.bias has shape (4,), n/beta takes (3,)"
        "\n- features.1.running_var is missing, for n/moving_variance"
        "\n- fc.weight has shape (5, 17), d/kernel takes (5, 18)"
        "\n- fc.bias has dtype int64, not a float"
        "\n- fc.scale is left over"
        "\n- head.weight is left over",
    )


def test_modules_that_are_missing():
    state = {name: array for name, array in torch_state().items() if not name.startswith("fc")}
    check_refused(
        lambda model: model.load_torch_state_dict(state),
        ValueError,
        "state does not fit this model:\n- nothing is left for d",
    )


def test_torchvision_names_name_what_is_missing():
    model = models.ResNet(18, 3, (32, 32, 3))
    state = state_of_resnet(model)
    del state["layer3.0.conv2.weight"]
    state["layer9.0.conv1.weight"] = np.ones(1)
    with pytest.raises(ValueError) as caught:
        model.load_torch_state_dict(state)
    assert str(caught.value).splitlines()[1:] == [
        "- layer3.0.conv2.weight is missing, for conv4_1/residual/branch/conv2d_1/kernel",
        "- layer9.0.conv1.weight is left over",
    ]
    with pytest.raises(ValueError, match=r"conv1.weight has shape \(64, 3, 7, 7\), C1/kernel takes"):
        models.LeNet5().load_torch_state_dict(state_of_resnet(model))


@pytest.mark.parametrize("mixed", [False, True])
def test_an_order_that_cannot_be_that_of_the_layers(mixed):
    """Sorted by name, or the arrays of a module apart."""
    state = torch_state()
    names = [*list(state)[1:], "features.0.weight"] if mixed else sorted(state)
    check_refused(
        lambda model: model.load_torch_state_dict({name: state[name] for name in names}),
        ValueError,
        "state must be in the order of the layers, a module's weight before its bias, not sorted; "
        "as {name: state[name] for name in torch_model.state_dict()} is",
    )


def test_all_that_is_wrong_with_keras_weights_is_listed():
    wrong = keras_weights()
    wrong[0], wrong[2], wrong[3] = wrong[0][:1], [1, 2, 3], "abc"
    check_refused(
        lambda model: model.load_keras_weights([*wrong, np.ones(1)]),
        ValueError,
        "weights do not fit this model:"
        "\n- weights[0] has shape (1, 2, 2, 3), c/kernel takes (2, 2, 2, 3)"
        "\n- weights[2] has dtype int64, not a float"
        "\n- weights[3] has shape (), n/beta takes (3,)"
        "\n- weights[8] is left over",
    )
    check_refused(
        lambda model: model.load_keras_weights(keras_weights()[:6]),
        ValueError,
        "weights do not fit this model:\n- nothing is left for d/kernel\n- nothing is left for d/bias",
    )


def test_weights_may_be_the_models_own():
    """Each other's views: all are read before the first is written."""
    model = classifier([Dense(3, use_bias=False), Dense(3, use_bias=False)], (3,))
    first, second = (weights.copy() for weights in model.net.get_weights())
    model.load_keras_weights(list(model.net.weights.values())[::-1])
    np.testing.assert_array_equal(model.net.get_weights(), [second, first])
    model.load_torch_state_dict(
        {f"{i}.weight": w.T for i, w in enumerate([*model.net.weights.values()][::-1])}
    )
    np.testing.assert_array_equal(model.net.get_weights(), [first, second])


@pytest.mark.parametrize("source", ["keras", "file"])
def test_a_cast_that_raises_changes_nothing(source, tmp_path):
    model, other = classifier(), classifier(dtype=np.float64)
    other.net.weights["d/bias"][-1] = 1e39  # the last but the statistics
    before = model.net.parameters.copy()
    other.save(tmp_path / "large.npz")
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        if source == "keras":
            model.load_keras_weights(other.net.get_weights())
        else:
            model.load(tmp_path / "large.npz")
    np.testing.assert_array_equal(model.net.parameters, before)


def test_other_types():
    for state, kind in ((keras_weights(), "list"), ({1: np.ones(1)}, "dict"), ("x.pt", "'x.pt'")):
        check_refused(
            lambda model, state=state: model.load_torch_state_dict(state),
            TypeError,
            f"state must be a dictionary of arrays by name, as state_dict(), not {kind}",
        )
    array = "an array of float64 with shape (3,)"
    for weights, kind in ((torch_state(), "dict"), (np.ones(3), array)):
        check_refused(
            lambda model, weights=weights: model.load_keras_weights(weights),
            TypeError,
            f"weights must be a list of arrays, as Keras' get_weights(), not {kind}",
        )


def test_ragged_lists_are_no_arrays():
    state = {**torch_state(), "fc.bias": [[1.0], [1.0, 2.0]]}
    with pytest.raises(ValueError, match=r"fc\.bias is no array: "):
        classifier().load_torch_state_dict(state)


def test_nothing_is_imported_for_it(python):
    code = "import sys, fastconv.models; print({'torch', 'keras', 'safetensors'} & set(sys.modules))"
    assert python(code) == "set()"
