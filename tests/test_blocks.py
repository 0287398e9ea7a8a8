"""Layers made of layers, and batch normalization with its moving statistics: values, names, copies, files."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import tolerances
from differences import slope
from tolerances import assert_close

from fastconv import nn
from fastconv.layers import (
    AuxiliaryClassifier,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    LocalResponseNormalization,
    MaxPooling2D,
    ReLU,
    Residual,
    Sequential,
)
from fastconv.optimizers import SGD, Adam
from fastconv.training import Classifier


def images(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def small_classifier(seed=0, dtype=np.float32):
    """A branch, a sum, dropout, and two batch normalizations, one of them in a nested net."""
    layers = [
        Concatenate([Conv2D(2, 1), [Conv2D(1, 3, padding="same"), BatchNormalization(0.9)]], name="mixed"),
        Residual([Conv2D(3, 3, padding="same", use_bias=False), BatchNormalization(0.5), ReLU()]),
        GlobalAveragePooling2D(),
        Dropout(0.3),
        Dense(3),
    ]
    return Classifier(Sequential(layers, (4, 4, 2), seed, dtype), Adam(0.01), "small")


WEIGHTS = {
    "mixed/conv2d/kernel": (1, 1, 2, 2),
    "mixed/conv2d/bias": (2,),
    "mixed/sequential/conv2d/kernel": (3, 3, 2, 1),
    "mixed/sequential/conv2d/bias": (1,),
    "mixed/sequential/batch_normalization/gamma": (1,),
    "mixed/sequential/batch_normalization/beta": (1,),
    "mixed/sequential/batch_normalization/moving_mean": (1,),
    "mixed/sequential/batch_normalization/moving_variance": (1,),
    "residual/branch/conv2d/kernel": (3, 3, 3, 3),
    "residual/branch/batch_normalization/gamma": (3,),
    "residual/branch/batch_normalization/beta": (3,),
    "residual/branch/batch_normalization/moving_mean": (3,),
    "residual/branch/batch_normalization/moving_variance": (3,),
    "dense/kernel": (3, 3),
    "dense/bias": (3,),
}
PARAMETERS = 4 + 2 + 18 + 1 + 2 + 81 + 6 + 9 + 3


def test_paths_and_counts():
    net = small_classifier().net
    assert {path: view.shape for path, view in net.weights.items()} == WEIGHTS
    assert list(net.weights) == list(WEIGHTS)
    assert list(net.grads) == [path for path in WEIGHTS if "moving" not in path]
    assert net.count_params() == net.parameters.size == net.gradients.size == PARAMETERS
    assert net.statistics.tolist() == [0, 1, 0, 0, 0, 1, 1, 1]
    assert [layer.count_params() for layer in net.layers] == [27, 87, 0, 0, 12]


def test_summary():
    lines = []
    small_classifier().net.summary(lines.append)
    assert "\n".join(lines).splitlines() == [
        'Model: "sequential"',
        "______________________________________________________________________________",
        "Layer (type)                                       Output shape     Parameters",
        "==============================================================================",
        "mixed (Concatenate)                                (None, 4, 4, 3)          27",
        "residual (Residual)                                (None, 4, 4, 3)          87",
        "global_average_pooling2d (GlobalAveragePooling2D)  (None, 3)                 0",
        "dropout (Dropout)                                  (None, 3)                 0",
        "dense (Dense)                                      (None, 3)                12",
        "==============================================================================",
        "Total parameters: 126",
        "Statistics, not trained: 8",
        "______________________________________________________________________________",
    ]


# ---- concatenate, residual ----


def test_concatenate_literal():
    net = Sequential([Concatenate([ReLU(), [MaxPooling2D(2, 1, "same")]])], (2, 2, 1), dtype=np.float64)
    x = np.array([[-1.0, 2.0], [3.0, -4.0]]).reshape(1, 2, 2, 1)
    y, backward = net(x, training=True)
    assert y.tolist() == [[[[0, 3], [2, 2]], [[3, 3], [0, -4]]]]
    dx = backward(np.arange(1.0, 9.0).reshape(1, 2, 2, 2))
    # relu's gradients are 1 3 5 7, the pool's 2 4 6 8: its windows' maxima are 3, 2, 3, -4
    assert dx.reshape(-1).tolist() == [0, 3 + 4, 5 + 2 + 6, 8]


def test_residual_literal():
    net = Sequential([Residual(ReLU()), Residual(ReLU(), Residual(ReLU()))], (3,), dtype=np.float64)
    y, backward = net([[-1.0, 0.0, 2.0]], training=True)
    assert y.tolist() == [[-1, 0, 4 + 8]]
    assert backward(np.ones((1, 3))).tolist() == [[1, 1, 2 * 3]]


class Apart(Sequential):
    """A net that somebody derived: its gradient is added by whoever holds it."""

    def __call__(self, x, training=False):
        y, backward = super().__call__(x, training)
        return y, lambda dy, input_gradient=True: backward(dy, input_gradient)


@pytest.mark.parametrize("container", [Concatenate, lambda branches: Residual(*branches)])
def test_branches_that_begin_with_convolutions_add_up_the_same_bits(container):
    def branches(kind):
        first = [Conv2D(4, 1, activation="relu"), Conv2D(6, 3, padding="same")]
        return [
            kind(first),
            kind([Conv2D(6, 3, padding="same", use_bias=False), BatchNormalization(), ReLU()]),
        ]

    x, dy = images(2, 5, 6, 6), images(2, 5, 6, 12 if container is Concatenate else 6)
    fused, apart = (
        Sequential([container(branches(kind)), ReLU()], (5, 6, 6), dtype=np.float64)
        for kind in (Sequential, Apart)
    )
    results = []
    for net in (fused, apart):
        y, backward = net(x, training=True)
        results.append((y, backward(dy), net.gradients))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_shortcut_of_an_identity_is_not_written_to():
    x = images(2, 3)
    net = Sequential([Residual([Flatten(), Dropout(0.0)])], (3,), dtype=np.float64)
    kept = x.copy()
    y, _ = net(x)
    assert np.array_equal(x, kept)
    assert np.array_equal(y, 2 * x)
    assert not np.shares_memory(y, x)


def test_a_plain_list_is_a_sequential():
    def layers():
        return [Conv2D(2, 1, activation="relu"), Conv2D(2, 3, padding="same")]

    x = images(2, 4, 4, 2)
    for container in (Residual, lambda branch: Concatenate([branch])):
        listed = Sequential([container(layers())], (4, 4, 2), dtype=np.float64)
        made = Sequential([container(Sequential(layers()))], (4, 4, 2), dtype=np.float64)
        assert np.array_equal(listed(x)[0], made(x)[0])


def test_a_layer_in_both_branches_has_its_parameters_once():
    dense = Dense(3)
    net = Sequential([Residual(dense, dense), Concatenate([dense, [dense, ReLU()]])], (3,), dtype=np.float64)
    assert net.count_params() == 12
    x = images(4, 3)
    once = dense(x)[0]
    again = dense(2 * once)[0]
    assert np.array_equal(net(x)[0], np.concatenate([again, np.maximum(again, 0)], axis=1))


def test_the_first_layer_of_each_branch_needs_no_input_gradient():
    def net():
        block = [
            Residual([Conv2D(2, 1), ReLU()], Conv2D(2, 1)),
            Concatenate([Conv2D(1, 3), [MaxPooling2D(3, 1), Conv2D(1, 1)]]),
        ]
        return Sequential([*block, GlobalAveragePooling2D()], (5, 5, 2), dtype=np.float64)

    x = images(2, 5, 5, 2)
    whole, part = net(), net()
    y, backward = whole(x, training=True)
    backward(y)
    _, backward = part(x, training=True)
    assert backward(y, input_gradient=False) is None
    assert np.array_equal(whole.gradients, part.gradients)


def test_gradients_are_replaced_after_forget_gradients():
    net = small_classifier(dtype=np.float64).net
    x = images(3, 4, 4, 2)
    _, backward = net(x, training=True)
    dy = np.ones((3, 3))
    net.gradients.fill(np.nan)
    net.forget_gradients()
    backward(dy)
    once = net.gradients.copy()
    assert np.isfinite(once).all()
    backward(dy)
    assert_close(net.gradients, 2 * once, tolerances.SAME_SUM)


def test_a_steady_step_gives_back_its_memory():
    """The arena hands memory out again only when nobody holds it: results stay what they were."""
    net = small_classifier().net
    x = images(2, 4, 4, 2)
    y, backward = net(x, training=True)
    kept, dx = y.copy(), backward(y)
    kept_dx = dx.copy()
    for seed in range(3):
        net(images(2, 4, 4, 2, seed=seed), training=True)[1](y)
    assert np.array_equal(y, kept)
    assert np.array_equal(dx, kept_dx)


# ---- local response normalization ----


def test_local_response_literal():
    net = Sequential([LocalResponseNormalization(1, 2.0, 0.5, 1.0)], (1, 1, 3), dtype=np.float64)
    y, _ = net(np.array([1.0, 2.0, 4.0]).reshape(1, 1, 1, 3))
    assert y.reshape(-1).tolist() == pytest.approx([1 / 4.5, 2 / 12.5, 4 / 12])


# ---- batch normalization ----


def normalizing_net(momentum=0.9, epsilon=0.25, dtype=np.float64):
    return Sequential([BatchNormalization(momentum, epsilon)], (2,), dtype=dtype)


def test_batch_normalization_literal():
    net = normalizing_net()
    net.set_weights([[2.0, 1.0], [1.0, 0.0], [5.0, 0.0], [3.75, 0.75]])
    x = np.array([[1.0, 3.0], [2.0, 3.0], [3.0, 3.0], [2.0, 3.0]])
    y, _ = net(x)  # the moving statistics: (x - 5) / 2 and x / 1
    assert y.tolist() == [[-3, 3], [-2, 3], [-1, 3], [-2, 3]]
    y, _ = net(x, training=True)  # the batch's: mean 2 and 3, variance 0.5 and 0
    root = 0.75**0.5
    assert_close(y, [[1 - 2 / root, 0], [1, 0], [1 + 2 / root, 0], [1, 0]], tolerances.SAME_SUM)
    moved = [5 * 0.9 + 2 * 0.1, 3 * 0.1, 3.75 * 0.9 + 0.5 * 0.1, 0.75 * 0.9]
    assert_close(net.statistics, moved, tolerances.SAME_SUM)


def test_the_moving_statistics_become_the_data_s():
    net = normalizing_net(momentum=0.5)
    x = images(50, 2) * [3, 0.1] + [1, -7]
    for _ in range(60):
        y, _ = net(x, training=True)
    assert_close(net.weights["batch_normalization/moving_mean"], x.mean(axis=0), tolerances.SAME_SUM)
    assert_close(net.weights["batch_normalization/moving_variance"], x.var(axis=0), tolerances.SAME_SUM)
    assert_close(net(x)[0], y, tolerances.SAME_SUM)


def test_inference_and_empty_batches_move_nothing():
    net = normalizing_net()
    before = net.statistics.copy()
    net(images(5, 2))
    net(np.empty((0, 2)), training=True)
    assert np.array_equal(net.statistics, before)


@pytest.mark.parametrize("momentum", [0, 1])
def test_the_ends_of_momentum(momentum):
    net = normalizing_net(momentum)
    x = images(6, 2)
    net(x, training=True)
    expected = [0, 0, 1, 1] if momentum else [*x.mean(axis=0), *x.var(axis=0)]
    assert_close(net.statistics, expected, tolerances.SAME_SUM)


def test_frozen_computes_as_in_inference_and_learns():
    net = normalizing_net()
    net.set_weights([[2.0, 1.0], [1.0, 0.0], [0.5, 0.0], [3.75, 0.75]])
    net.layers[0].frozen = True
    x, dy = images(6, 2), images(6, 2, seed=1)
    before = net.statistics.copy()
    y, backward = net(x, training=True)
    assert np.array_equal(y, net(x)[0])
    assert np.array_equal(net.statistics, before)
    dx = backward(dy)
    assert_close(dx, dy * [2 / 2, 1 / 1], tolerances.SAME_SUM)
    normal = (x - [0.5, 0]) / [2, 1]
    expected = [*(dy * normal).sum(axis=0), *dy.sum(axis=0)]
    assert_close(net.gradients, expected, tolerances.SAME_SUM)


def test_the_optimizer_leaves_the_statistics_alone():
    model = small_classifier()
    x, y = images(6, 4, 4, 2), [0, 1, 2, 0, 1, 2]
    model.train(x, y)
    statistics = model.net.statistics.copy()
    assert not np.array_equal(statistics, small_classifier().net.statistics)
    model.net.gradients.fill(1)
    model.optimizer.step(model.net.parameters, model.net.gradients)
    assert np.array_equal(model.net.statistics, statistics)


def test_a_prediction_with_dropout_moves_nothing_and_uses_the_moving_statistics():
    model = small_classifier()
    x, y = images(6, 4, 4, 2), [0, 1, 2, 0, 1, 2]
    model.train(x, y)
    statistics = model.net.statistics.copy()
    dropped = model.predict(x, keep_prob=0.5)
    assert np.array_equal(model.net.statistics, statistics)
    certain = model.predict(x)
    assert not np.array_equal(dropped, certain)
    # Each image alone: a batch of one has other statistics than a batch of six.
    assert_close(model.predict(x[:1], keep_prob=1 - 1e-9), certain[:1].astype(np.float64), tolerances.NETWORK)
    assert not any(getattr(layer, "frozen", False) for _, layer in model.net.members())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_their_own_statistics(duplicate):
    x, y = images(6, 4, 4, 2), [0, 1, 2, 0, 1, 2]
    model = small_classifier()
    model.train(x, y)
    twin = duplicate(model)
    assert np.array_equal(model.net.statistics, twin.net.statistics)
    assert model.train(x, y) == twin.train(x, y)
    assert np.array_equal(model.predict(x), twin.predict(x))
    statistics = model.net.statistics.copy()
    twin.train(x, y)
    assert np.array_equal(model.net.statistics, statistics)
    assert not np.array_equal(twin.net.statistics, statistics)
    assert np.shares_memory(twin.net.statistics, twin.net.weights[list(WEIGHTS)[6]])


def test_files_hold_the_statistics(tmp_path):
    x, y = images(6, 4, 4, 2), [0, 1, 2, 0, 1, 2]
    source, target = small_classifier(seed=1), small_classifier(seed=2, dtype=np.float64)
    for _ in range(3):
        source.train(x, y)
    source.save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        assert file.files[1:] == list(WEIGHTS)
    target.load(tmp_path / "model.npz")
    assert np.array_equal(target.net.statistics, source.net.statistics)
    assert_close(source.predict(x), target.predict(x), tolerances.NETWORK)
    loaded = small_classifier()
    loaded.load(tmp_path / "model.npz")
    assert np.array_equal(loaded.predict(x), source.predict(x))


def test_weights_in_and_out():
    source, target = small_classifier(seed=1).net, small_classifier(seed=2).net
    source(images(3, 4, 4, 2), training=True)
    target.set_weights(source.get_weights())
    assert np.array_equal(source.parameters, target.parameters)
    assert np.array_equal(source.statistics, target.statistics)


def test_it_learns():
    """A brighter class, in any contrast: what remains after training is right in inference as well."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = rng.standard_normal((60, 4, 4, 2)) * 0.5
    x[y == 1, :2] += 2
    x[y == 2, :, :2] -= 2
    model = small_classifier()
    history = model.fit(x, y, epochs=40, batch_size=20, verbose=0, keep_prob=1.0)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert model.get_accuracy(x, y) > 0.9


# ---- auxiliary classifiers ----


def with_auxiliary(weight=0.3):
    side = [Conv2D(4, 1, activation="tanh"), GlobalAveragePooling2D(), Dense(3)]
    layers = [
        Conv2D(5, 3, activation="tanh"),
        AuxiliaryClassifier(side, weight),
        Conv2D(4, 2, activation="tanh"),
        GlobalAveragePooling2D(),
        Dense(3),
    ]
    net = Sequential(layers, input_shape=(6, 6, 2), seed=4, dtype=np.float64)
    return Classifier(net, SGD(1e-300), "with auxiliary")  # a rate that leaves every parameter as it is


def test_an_auxiliary_classifier_adds_its_loss_and_its_gradient():
    model = with_auxiliary()
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 6, 6, 2)), [0, 1, 2, 2, 1]
    cost, _ = model.train(x, y)
    gradients = model.net.gradients.copy()

    def cost_of(parameters):
        model.net.parameters[...] = parameters
        return model.train(x, y)[0]

    slopes = slope(cost_of, model.net.parameters.copy())
    assert_close(gradients, slopes, tolerances.DIFFERENCES)
    assert all(gradient.any() for gradient in model.net.grads.values())
    main_cost = with_auxiliary(0).train(x, y)[0]
    logits, _ = model.net.layers[1].layers[0](model.net.layers[0](x)[0])
    side_cost = -np.log(nn.softmax(logits)[np.arange(5), y]).mean()
    assert_close(np.array(cost), np.array(main_cost + 0.3 * side_cost), tolerances.SAME_SUM)


def test_an_auxiliary_classifier_rests_in_inference():
    model = with_auxiliary()
    x = np.random.default_rng(0).standard_normal((5, 6, 6, 2))
    logits = model.predict(x)
    model.net.weights["auxiliary_classifier/classifier/dense/kernel"][...] = np.nan
    np.testing.assert_array_equal(model.predict(x), logits)
    assert model.evaluate(x, [0, 1, 2, 2, 1])[0] > 0


def test_a_forgotten_gradient_of_an_auxiliary_classifier_is_an_error():
    net = with_auxiliary().net
    y, backward = net(np.zeros((2, 6, 6, 2)), training=True)
    with pytest.raises(RuntimeError, match=r"auxiliary_classifier.dlogits must be set"):
        backward(y)


@pytest.mark.parametrize("weight", [-0.1, np.nan, np.inf])
def test_the_weight_of_an_auxiliary_classifier(weight):
    with pytest.raises(ValueError, match=rf"weight must lie in \[0, inf\), not {weight}"):
        AuxiliaryClassifier([Flatten(), Dense(3)], weight)


def test_an_auxiliary_classifier_ends_in_logits():
    with pytest.raises(ValueError, match="layers must end in logits"):
        Sequential([AuxiliaryClassifier(Conv2D(3, 1))], input_shape=(4, 4, 1))


def test_an_auxiliary_classifier_stands_only_once():
    side = AuxiliaryClassifier([Flatten(), Dense(2)], name="side")
    net = Sequential([side, ReLU(), side, Flatten(), Dense(2)], input_shape=(2, 2, 1))
    with pytest.raises(ValueError, match="net must hold an auxiliary classifier only once, not 'side' twice"):
        Classifier(net, SGD(), "twice")


# ---- steps that fail ----


class Failing(ReLU):
    """A layer that gives up, when it is told, on the way there or back."""

    fails: str | None = None

    def __call__(self, x, training=False):
        if self.fails == "forward":
            raise RuntimeError("forward")
        y, backward = super().__call__(x, training)
        return y, self._failing if self.fails == "backward" else backward

    def _failing(self, dy, input_gradient=True):
        raise KeyboardInterrupt


@pytest.mark.parametrize(("where", "error"), [("forward", RuntimeError), ("backward", KeyboardInterrupt)])
def test_a_step_that_fails_leaves_the_model_as_it_was(where, error):
    def classifier():
        layers = [BatchNormalization(0.5), Failing(name="failing"), Flatten(), Dropout(0.3), Dense(3)]
        if where == "forward":  # behind all that a step changes
            layers = [layers[0], *layers[2:4], layers[1], layers[4]]
        return Classifier(Sequential(layers, (4, 4, 2)), Adam(0.01), "small")

    x, y = images(6, 4, 4, 2), np.arange(6) % 3
    whole, failed = classifier(), classifier()
    whole.train(x, y)
    failed.train(x, y)
    failing = failed.net.get_layer("failing")
    failing.fails = where
    with pytest.raises(error):
        failed.train(x + 1, y)
    failing.fails = None
    np.testing.assert_array_equal(failed.net.statistics, whole.net.statistics)
    assert failed.train(x, y) == whole.train(x, y)
    np.testing.assert_array_equal(failed.net.parameters, whole.net.parameters)
