"""The document's models: sizes, training to a known end, seeds, printed lines, checked arguments."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import pickle
import re
import sys
import threading
import tracemalloc
import types

import numpy as np
import pytest
import tolerances
from tolerances import assert_close

import fastconv
from fastconv import models, training
from fastconv.datasets import mnist
from fastconv.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D, Sequential
from fastconv.optimizers import SGD, Adam
from fastconv.training import Classifier

ALL = [models.SimpleCNN, models.DeepCNN, models.Model, models.LayersModel]


@functools.lru_cache(maxsize=1)
def sample():
    return mnist.load_sample(one_hot=False).train


def digits(count):
    """Real digits, [count, 784] in 0..1, and which they are."""
    return sample().images[:count], sample().labels[:count]


def tiny(seed=0, optimizer=Adam, rate=0.3):
    """A classifier of 6x6 images in three classes that trains in milliseconds."""
    layers = [
        Conv2D(4, 3, padding="same", activation="relu"),
        MaxPooling2D(),
        Dropout(rate),
        Flatten(),
        Dense(3),
    ]
    return Classifier(Sequential(layers, input_shape=(6, 6, 1), seed=seed), optimizer(0.01), "tiny")


def tiny_data(count=40, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.random((count, 6, 6, 1), np.float32) * 0.3
    x[np.arange(count), 2 * y] += 0.7  # the class is a bright row
    return x, y


# ---- the nets are the document's ----


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (models.SimpleCNN, 3 * 3 * 1 * 32 + 3 * 3 * 32 * 64 + 3136 * 10 + 10),
        (models.DeepCNN, 9 * 1 * 32 + 9 * 32 * 64 + 9 * 64 * 128 + 2048 * 625 + 625 + 625 * 10 + 10),
        (models.Model, 1_379_333),
        (models.LayersModel, 1_379_333 + 32 + 64 + 128),
    ],
)
def test_count_params(model, count):
    assert model().count_params() == count


def test_summary(capsys):
    models.DeepCNN(name="m1").summary()
    assert capsys.readouterr().out.splitlines() == [
        'Model: "m1"',
        "______________________________________________________________",
        "Layer (type)                    Output shape        Parameters",
        "==============================================================",
        "conv2d (Conv2D)                 (None, 28, 28, 32)         288",
        "max_pooling2d (MaxPooling2D)    (None, 14, 14, 32)           0",
        "dropout (Dropout)               (None, 14, 14, 32)           0",
        "conv2d_1 (Conv2D)               (None, 14, 14, 64)      18,432",
        "max_pooling2d_1 (MaxPooling2D)  (None, 7, 7, 64)             0",
        "dropout_1 (Dropout)             (None, 7, 7, 64)             0",
        "conv2d_2 (Conv2D)               (None, 7, 7, 128)       73,728",
        "max_pooling2d_2 (MaxPooling2D)  (None, 4, 4, 128)            0",
        "dropout_2 (Dropout)             (None, 4, 4, 128)            0",
        "flatten (Flatten)               (None, 2048)                 0",
        "dense (Dense)                   (None, 625)          1,280,625",
        "dropout_3 (Dropout)             (None, 625)                  0",
        "dense_1 (Dense)                 (None, 10)               6,260",
        "==============================================================",
        "Total parameters: 1,379,333",
        "______________________________________________________________",
    ]


@pytest.mark.parametrize("model", ALL[:3])
def test_start_as_in_the_document(model):
    weights = model(seed=1).net.weights
    filters = np.concatenate([w.reshape(-1) for path, w in weights.items() if path.startswith("conv")])
    # 18,720 numbers or more: their standard deviation is known to 0.5%
    assert filters.std() == pytest.approx(0.01, rel=0.03)
    kernel, bias = weights["dense/kernel"], weights["dense/bias"]
    bound = (6 / sum(kernel.shape)) ** 0.5
    assert 0.98 * bound < np.abs(kernel).max() <= bound
    assert 0.3 < bias.std() < 2  # N(0, 1), ten numbers or 625


def test_layers_model_starts_as_tf_layers():
    weights = models.LayersModel(seed=1).net.weights
    assert not any(w.any() for path, w in weights.items() if path.endswith("bias"))
    assert np.abs(weights["conv2d/kernel"]).max() <= (6 / (9 + 9 * 32)) ** 0.5


def test_dropout_rates():
    def rates(model):
        return [layer.rate for layer in model.net.layers if isinstance(layer, Dropout)]

    assert rates(models.SimpleCNN()) == []
    assert rates(models.DeepCNN()) == [0.3] * 4
    assert rates(models.LayersModel()) == [0.3, 0.3, 0.3, 0.5]


@pytest.mark.parametrize("model", ALL)
def test_methods_have_the_document_s_arguments(model):
    def arguments(method):
        return [
            (p.name, p.default) if p.default is not p.empty else p.name
            for p in inspect.signature(getattr(model, method)).parameters.values()
        ][1:]

    assert arguments("train") == ["x", "y", ("keep_prob", 0.7)]
    assert arguments("predict") == ["x", ("keep_prob", 1.0)]
    assert arguments("get_accuracy") == ["x", "y", ("keep_prob", 1.0)]
    assert arguments("__init__")[:3] == [("name", None), ("learning_rate", 0.001), ("seed", 0)]


def test_names_and_optimizers():
    m1 = models.Model("m1", learning_rate=0.01, seed=3)
    assert m1.name == "m1"
    assert m1.optimizer.learning_rate == 0.01
    assert models.SimpleCNN().name == "SimpleCNN"
    sgd = models.SimpleCNN(learning_rate=0.1, optimizer=functools.partial(SGD, momentum=0.9)).optimizer
    assert (type(sgd), sgd.learning_rate, sgd.momentum) == (SGD, 0.1, 0.9)


# ---- training ----


@pytest.mark.parametrize("model", [models.SimpleCNN, models.DeepCNN, models.LayersModel])
def test_learns_64_digits_by_heart(model):
    x, y = digits(64)
    net = model(seed=1)
    history = net.fit(x, y, epochs=50, batch_size=16, verbose=0)
    after = []
    for _ in range(10):
        net.fit(x, y, epochs=1, batch_size=16, verbose=0)
        after.append(net.evaluate(x, y))
    # With dropout single epochs end at up to 0.05; the medians of twelve runs lay between 0.0006 and 0.0072.
    assert np.median([loss for loss, _ in after]) < 0.01
    assert after[-1][1] == net.get_accuracy(x, y) == 1.0
    assert history.loss[0] > 2 > 0.2 > history.loss[-1]


def test_train_step_is_gradient_descent():
    x, y = tiny_data()
    model = tiny(optimizer=SGD, rate=0)
    before = model.net.parameters.copy()
    cost, accuracy = model.train(x, y)
    loss_before = Classifier(copy.deepcopy(model.net), SGD(), "t")
    loss_before.net.parameters[:] = before
    loss, share = loss_before.evaluate(x, y)
    assert cost == pytest.approx(loss, rel=tolerances.NETWORK.float32)
    assert accuracy == share
    assert_close(model.net.parameters, before - 0.01 * model.net.gradients, tolerances.OPTIMIZER_STEPS)
    assert model.evaluate(x, y)[0] < cost


def test_forms_of_images_and_labels_are_the_same():
    x, y = digits(20)
    results = []
    for images in (x, x.reshape(-1, 28, 28, 1), x.astype(np.float64), x.tolist()):
        for labels in (y, np.eye(10)[y], y.astype(np.uint8), y.tolist()):
            model = models.SimpleCNN(seed=2)
            cost = model.train(images, labels)
            results.append((cost, model.net.parameters.tobytes()))
            assert model.get_accuracy(images, labels) == model.evaluate(images, labels)[1]
    assert all(result == results[0] for result in results)


def test_predict_in_batches(monkeypatch):
    x, y = digits(23)
    model = models.SimpleCNN()
    whole = model.predict(x)
    assert whole.shape == (23, 10)
    assert whole.dtype == np.float32
    evaluated = model.evaluate(x, y)
    sizes = []
    monkeypatch.setattr(training, "EVALUATION_BATCH", 5)
    monkeypatch.setattr(model, "net", _spy(model.net, sizes))
    assert_close(model.predict(x), whole, tolerances.NETWORK)
    assert model.evaluate(x, y) == pytest.approx(evaluated, rel=tolerances.NETWORK.float32)
    assert sizes == [5, 5, 5, 5, 3] * 2


class _spy:
    """A net that notes the size of each batch."""

    def __init__(self, net, sizes):
        self._net, self._sizes = net, sizes

    def __getattr__(self, name):
        return getattr(self._net, name)

    def __call__(self, x, training=False):
        self._sizes.append(len(x))
        return self._net(x, training)


def test_memory_does_not_grow_with_the_number_of_examples():
    model = models.SimpleCNN()

    def peak(examples):
        x, y = np.zeros((examples, 784), np.float32), np.zeros(examples, int)
        tracemalloc.start()
        try:
            model.evaluate(x, y)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(1000) < peak(training.EVALUATION_BATCH) + 100_000  # an example's first activation is 100 kB


def test_no_examples():
    model = tiny()
    assert model.predict(np.empty((0, 36))).shape == (0, 3)
    for method in (model.train, model.evaluate, model.get_accuracy, model.fit):
        with pytest.raises(ValueError, match=r"x must hold at least one example, not shape \(0, 36\)"):
            method(np.empty((0, 36)), np.empty(0, int))


def test_keep_prob():
    x, y = digits(20)
    model = models.DeepCNN(seed=4)
    certain = model.predict(x)
    assert np.array_equal(certain, model.predict(x, keep_prob=1.0))
    dropped = model.predict(x, keep_prob=0.5)
    assert not np.array_equal(dropped, certain)
    assert not np.array_equal(dropped, model.predict(x, 0.5))  # new masks
    assert 0 <= model.get_accuracy(x, y, keep_prob=0.5) <= 1
    assert [layer.rate for layer in model.dropouts] == [0.3] * 4
    # with everything kept the cost is that of a prediction
    loss, accuracy = model.evaluate(x, y)
    cost, share = model.train(x, y, keep_prob=1.0)
    assert cost == pytest.approx(loss, rel=tolerances.NETWORK.float32)
    assert share == accuracy


def test_layers_model_keeps_its_dense_dropout():
    model = models.LayersModel()
    assert [layer.rate for layer in model.dropouts] == [0.3] * 3
    dense_dropout = [layer for layer in model.net.layers if isinstance(layer, Dropout)][-1]
    seen = []
    original = Dropout.draw

    def spying(layer):
        seen.append((layer is dense_dropout, layer.rate))
        return original(layer)

    x, y = digits(10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dropout, "draw", spying)
        model.train(x, y, keep_prob=0.9)
        model.predict(x)
    rates = [(dense, round(rate, 12)) for dense, rate in seen]
    assert rates == [(False, 0.1)] * 3 + [(True, 0.5)]  # and none in predict


# ---- seeds ----


def run(seed, epochs=2):
    x, y = tiny_data()
    model = tiny(seed)
    history = model.fit(x, y, epochs=epochs, batch_size=16, verbose=0)
    return model.net.parameters.tobytes(), history.loss


def test_the_same_seed_gives_the_same_bits():
    assert run(1) == run(1)
    assert run(1) != run(2)


def test_the_same_bits_for_any_number_of_threads():
    x, y = digits(48)
    ends = []
    for threads in (1, 2, 3):
        with fastconv.num_threads(threads):
            model = models.DeepCNN(seed=7)
            model.fit(x, y, epochs=1, batch_size=20, verbose=0)
            ends.append((model.net.parameters.tobytes(), model.predict(x).tobytes()))
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_continue_alike_and_apart(duplicate):
    x, y = tiny_data()
    model = tiny()
    model.train(x, y)
    twin = duplicate(model)
    assert model.train(x, y, 0.5) == twin.train(x, y, 0.5)
    assert np.array_equal(model.net.parameters, twin.net.parameters)
    twin.train(x, y)
    assert not np.array_equal(model.net.parameters, twin.net.parameters)


def test_threads_may_predict_at_once():
    x, _ = digits(60)
    model = models.DeepCNN()
    expected, results = model.predict(x), [None] * 4

    def work(i):
        results[i] = model.predict(x)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(np.array_equal(result, expected) for result in results)
    assert [layer.rate for layer in model.dropouts] == [0.3] * 4


# ---- fit ----


def test_fit_uses_every_example_once_an_epoch(monkeypatch):
    x, y = tiny_data(23)
    model, batches = tiny(), []
    step = model._step
    monkeypatch.setattr(model, "_step", lambda x, y: batches.append((x, y)) or step(x, y))
    model.fit(x, y, epochs=2, batch_size=10, verbose=0)
    assert [len(labels) for _, labels in batches] == [10, 10, 3] * 2
    orders = []
    for epoch in (batches[:3], batches[3:]):
        images = np.concatenate([images for images, _ in epoch])
        order = [int(np.flatnonzero((x == image).all(axis=(1, 2, 3)))[0]) for image in images]
        assert sorted(order) == list(range(23))
        assert np.array_equal(np.concatenate([labels for _, labels in epoch]), y[order])
        orders.append(order)
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


def test_history():
    x, y = tiny_data()
    history = tiny().fit(x, y, epochs=3, batch_size=16, validation_data=(x, y), verbose=0)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "seconds", "images_per_second"):
        values = getattr(history, name)
        assert len(values) == 3
        assert all(isinstance(value, float) and value >= 0 for value in values)
    assert history.images_per_second[0] == pytest.approx(40 / history.seconds[0])
    assert tiny().fit(x, y, epochs=1, verbose=0).val_loss == []


def test_history_holds_means_over_examples(monkeypatch):
    x, y = tiny_data(5)
    model = tiny()
    costs = iter([(1.0, 0.5), (4.0, 1.0)])  # batches of 4 and 1
    monkeypatch.setattr(model, "_step", lambda x, y: next(costs))
    history = model.fit(x, y, epochs=1, batch_size=4, verbose=0)
    assert history.loss == [(4 * 1.0 + 1 * 4.0) / 5]
    assert history.accuracy == [(4 * 0.5 + 1 * 1.0) / 5]


@pytest.mark.parametrize("verbose", [1, 2])
def test_fit_prints_the_document_s_line(capsys, verbose):
    x, y = tiny_data()
    history = tiny().fit(x, y, epochs=2, batch_size=16, verbose=verbose)
    out, err = capsys.readouterr()
    assert out == "".join(f"Epoch: {i:04d} cost = {history.loss[i - 1]:.9f}\n" for i in (1, 2))
    assert re.match(r"Epoch: 0001 cost = \d\.\d{9}\n", out)
    assert err == ""  # no terminal, no bar


def test_fit_prints_the_validation_s_accuracy(capsys):
    x, y = tiny_data()
    tiny().fit(x, y, epochs=1, validation_data=(x, y), verbose=2)
    assert re.fullmatch(r"Epoch: 0001 cost = \d\.\d{9} accuracy = [01]\.\d{4}\n", capsys.readouterr().out)


def test_fit_is_silent(capsys):
    x, y = tiny_data()
    tiny().fit(x, y, epochs=1, validation_data=(x, y), verbose=0)
    assert capsys.readouterr() == ("", "")


class _Terminal(io.StringIO):
    def isatty(self):
        return True


class _Bar:
    """tqdm's part that fit uses."""

    def __init__(self, batches, **options):
        self.batches, self.options, self.closed = batches, options, False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed = True

    def __iter__(self):
        return iter(self.batches)


@pytest.fixture
def bars(monkeypatch):
    """The bars that fit makes."""
    made = []

    def tqdm(batches, **options):
        made.append(_Bar(batches, **options))
        return made[-1]

    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=tqdm))
    return made


def test_progress_bar_in_a_terminal(monkeypatch, capsys, bars):
    monkeypatch.setattr(sys, "stderr", _Terminal())
    x, y = tiny_data()
    tiny().fit(x, y, epochs=2, batch_size=16, verbose=1)
    assert [bar.options["desc"] for bar in bars] == ["Epoch 1/2", "Epoch 2/2"]
    assert all(bar.closed and len(bar.batches) == 3 for bar in bars)
    assert capsys.readouterr().out.count("Epoch: 000") == 2
    tiny().fit(x, y, epochs=1, verbose=2)
    assert len(bars) == 2


def test_no_bar_without_a_terminal(monkeypatch, bars):
    x, y = tiny_data()
    for stderr in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stderr)
        tiny().fit(x, y, epochs=1, verbose=1)
    assert bars == []


def test_no_bar_without_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr(sys, "stderr", _Terminal())
    x, y = tiny_data()
    tiny().fit(x, y, epochs=1, verbose=1)
    assert capsys.readouterr().out.startswith("Epoch: 0001 cost = ")


def test_interrupt_leaves_the_model_whole():
    x, y = tiny_data()

    class Interrupted(Adam):
        def step(self, parameters, gradients):
            if self.iterations == 4:
                raise KeyboardInterrupt
            super().step(parameters, gradients)

    model, whole = tiny(optimizer=Interrupted), tiny()
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=5, batch_size=10, verbose=0, keep_prob=0.9)
    whole.fit(x, y, epochs=1, batch_size=10, verbose=0, keep_prob=0.9)
    assert np.array_equal(model.net.parameters, whole.net.parameters)  # four batches: one epoch
    assert [layer.rate for layer in model.dropouts] == [0.3]
    model.optimizer.reset()
    model.fit(x, y, epochs=1, batch_size=20, verbose=0)


# ---- checked arguments ----


X, Y = tiny_data(4)
ERRORS = [
    (
        lambda m: m.train(X[:, :5], Y),
        ValueError,
        r"x must be \[N, 6, 6, 1\] or \[N, 36\], not shape \(4, 5, 6, 1\)",
    ),
    (lambda m: m.predict(X[0]), ValueError, r"x must be .* not shape \(6, 6, 1\)"),
    (lambda m: m.predict(3.0), ValueError, r"x must be .* not shape \(\)"),
    (lambda m: m.predict([["a"] * 36]), TypeError, "x must hold numbers, not dtype <U1"),
    (lambda m: m.predict([[1, 2], [3]]), ValueError, r"x is no array: \[\[1, 2\], \[3\]\]"),
    (lambda m: m.train(X, [[1], [2, 3]]), ValueError, r"y is no array: \[\[1\], \[2, 3\]\]"),
    (lambda m: m.predict(X + 1j), TypeError, "x must hold numbers, not dtype complex64"),
    (lambda m: m.train(X, Y[:3]), ValueError, "y must have one label an example, not 3 for 4 examples"),
    (lambda m: m.train(X, Y + 1), ValueError, r"y must lie in 0\.\.2, not 3"),
    (lambda m: m.train(X, Y - 1), ValueError, r"y must lie in 0\.\.2, not -1"),
    (lambda m: m.train(X, Y.astype(float)), TypeError, "y of shape .* must hold integers, not dtype float64"),
    (lambda m: m.train(X, np.eye(4)[Y]), ValueError, r"y must be .* \[N, 3\] one-hot, not shape \(4, 4\)"),
    (lambda m: m.train(X, np.ones((4, 3))), ValueError, "y must have rows .* sum to 1, .* in row 0"),
    (lambda m: m.evaluate(X, [None] * 4), TypeError, "y must hold numbers, not dtype object"),
    (lambda m: m.get_accuracy(X, Y[:, None]), ValueError, r"y must be .* not shape \(4, 1\)"),
    (lambda m: m.train(X, Y, keep_prob=0), ValueError, r"keep_prob must lie in \(0, 1\], not 0"),
    (lambda m: m.train(X, Y, keep_prob=1.5), ValueError, "keep_prob must lie in .* not 1.5"),
    (lambda m: m.train(X, Y, keep_prob="a"), TypeError, "keep_prob must be a number, not 'a'"),
    (lambda m: m.predict(X, -1), ValueError, "keep_prob must lie in .* not -1"),
    (lambda m: m.predict(X, 1e-30), ValueError, "keep_prob must lie in .* not 1e-30"),
    (lambda m: m.get_accuracy(X, Y, np.nan), ValueError, "keep_prob must lie in .* not nan"),
    (lambda m: m.fit(X, Y, epochs=0), ValueError, "epochs must be at least 1, not 0"),
    (lambda m: m.fit(X, Y, epochs=1.5), TypeError, "epochs must be a whole number, not 1.5"),
    (lambda m: m.fit(X, Y, batch_size=0), ValueError, "batch_size must be at least 1, not 0"),
    (lambda m: m.fit(X, Y, verbose=3), ValueError, "verbose must be one of 0, 1, 2, not 3"),
    (lambda m: m.fit(X, Y, keep_prob=0), ValueError, "keep_prob must lie in .* not 0"),
    (lambda m: m.fit(X, Y, validation_data=X), ValueError, r"validation_data must be \(x, y\), not ndarray"),
    (lambda m: m.fit(X, Y, validation_data=(X[:, 1:], Y)), ValueError, "validation_data x must be"),
    (lambda m: m.fit(X, Y, validation_data=(X, Y[1:])), ValueError, "validation_data y must have one label"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS)
def test_errors_come_first_and_change_nothing(call, kind, message, capsys):
    model = tiny()
    before = model.net.parameters.copy(), copy.deepcopy(model.rng.bit_generator.state)
    with pytest.raises(kind, match=message):
        call(model)
    assert np.array_equal(model.net.parameters, before[0])
    assert model.rng.bit_generator.state == before[1]
    assert model.dropouts[0].rate == 0.3
    assert capsys.readouterr().out == ""


def test_a_net_must_end_in_logits():
    net = Sequential([Conv2D(10, 3)], input_shape=(5, 5, 1))
    with pytest.raises(ValueError, match=r"net must end in logits \[K\], not \(3, 3, 10\)"):
        Classifier(net, SGD(), "maps")


def test_construction_errors():
    with pytest.raises(ValueError, match="name must be a string without '/' and NUL, not 'a/b'"):
        models.Model("a/b")
    with pytest.raises(ValueError, match="seed must be at least 0, not -1"):
        models.Model("m1", seed=-1)
    with pytest.raises(ValueError, match=r"learning_rate must lie in .* not -0\.001"):
        models.Model("m1", learning_rate=-0.001)
    with pytest.raises(ValueError, match="net must be a Sequential with input_shape"):
        Classifier(Sequential([Flatten()]), Adam(), "part")


# ---- files ----


def test_save_and_load(tmp_path):
    x, y = digits(20)
    m1, m2 = models.Model("m1", seed=1), models.DeepCNN(seed=2)
    m1.train(x, y)
    m1.save(tmp_path / "m1.npz")
    m2.load(tmp_path / "m1.npz")
    assert np.array_equal(m1.predict(x), m2.predict(x))
    with pytest.raises(ValueError, match="saved by Model") as error:
        models.LayersModel().load(tmp_path / "m1.npz")
    assert str(error.value).splitlines()[1:] == [
        "- conv2d/bias is missing",
        "- conv2d_1/bias is missing",
        "- conv2d_2/bias is missing",
    ]
