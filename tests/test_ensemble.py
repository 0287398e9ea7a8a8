"""Ensemble: the sum of predictions, and members that are the same wherever they are trained."""

from __future__ import annotations

import contextlib
import copy
import functools
import multiprocessing
import os
import re
import runpy
import signal
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tolerances

import fastconv
from fastconv import models
from fastconv._kernels import team
from fastconv.datasets import mnist
from fastconv.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Sequential
from fastconv.models import Ensemble
from fastconv.optimizers import SGD, Adam, CosineDecay
from fastconv.training import Classifier

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "ensemble_mnist.py"
CLASSES = 3
SPAWN = multiprocessing.get_context("spawn")


def data(n=40):
    rng = np.random.default_rng(1)
    return rng.random((n, 36), np.float32), rng.integers(0, CLASSES, n)


X, Y = data()


def tiny(seed=0, optimizer=Adam, dtype=np.float32, side=6, classes=CLASSES):
    """All that a member can carry: weights, statistics, dropout, an optimizer's state and schedule."""
    layers = [Conv2D(4, 3, activation="relu"), BatchNormalization(), Dropout(0.3), Flatten(), Dense(classes)]
    net = Sequential(layers, (side, side, 1), seed=seed, dtype=dtype)
    return Classifier(net, optimizer(CosineDecay(0.01, 30)), f"tiny{seed}")


def state(model):
    """Everything that decides how a model goes on; equal where all bits are."""
    arrays = [*model.net.weights.items(), *vars(model.optimizer).items()]
    rate = model.optimizer.learning_rate
    return {
        "generator": copy.deepcopy(model.rng.bit_generator.state),
        **{name: a.tobytes() if isinstance(a, np.ndarray) else a for name, a in arrays},
        "learning_rate": rate(0) if callable(rate) else rate,
    }


def states(ensemble):
    return [state(model) for model in ensemble.models]


def alone(seed, epochs, optimizer=Adam):
    """The state of a model that was trained without an ensemble."""
    model = tiny(seed, optimizer)
    model.fit(X, Y, epochs, 7, verbose=0)
    return state(model)


# ---- predictions ----


def test_the_sum_decides():
    ensemble = Ensemble([tiny(0), tiny(1)])
    first, second = ensemble.models
    expected = first.predict(X) + second.predict(X)
    assert expected.shape == (len(X), CLASSES)
    assert np.array_equal(ensemble.predict(X), expected)
    answers = expected.argmax(axis=1)
    assert ensemble.get_accuracy(X, answers) == 1
    assert min(ensemble.member_accuracies(X, answers)) < 1
    assert ensemble.member_accuracies(X, Y) == [first.get_accuracy(X, Y), second.get_accuracy(X, Y)]
    assert ensemble.get_accuracy(X, np.eye(CLASSES)[Y]) == np.mean(answers == Y)


def test_the_sum_literal():
    """Logits set by hand: the sums are [5, 4, 0] and [0, 3, 4], against two of the three each time."""
    ensemble = Ensemble(tiny, 3)
    votes = [[[1, 2, 0], [0, 1, 0]], [[1, 2, 0], [0, 1, 0]], [[3, 0, 0], [0, 1, 4]]]
    for model, logits in zip(ensemble.models, votes, strict=True):
        model.predict = lambda x, keep_prob, logits=logits: np.array(logits, np.float32)
    assert ensemble.predict(X[:2]).tolist() == [[5, 4, 0], [0, 3, 4]]
    assert ensemble.get_accuracy(X[:2], [0, 2]) == 1
    loss, accuracy = ensemble.evaluate(X[:2], [0, 1])
    rows = np.array([[5, 4, 0], [0, 3, 4]]) / 3
    expected = np.mean(np.log(np.exp(rows).sum(axis=1)) - rows[[0, 1], [0, 1]])
    assert loss == pytest.approx(expected, rel=tolerances.EXPONENTIAL.float32)
    assert accuracy == 0.5


def test_members_of_different_classes_and_dtypes():
    x, y = np.random.default_rng(0).random((8, 784), np.float32), np.arange(8) % 10
    ensemble = Ensemble([models.SimpleCNN(seed=1), models.LeNet5(seed=2), models.Model("m", seed=3)])
    before = [model.net.parameters.copy() for model in ensemble.models]
    costs, accuracies = ensemble.train(x, y)
    assert costs.shape == accuracies.shape == (3,)
    assert not any(np.array_equal(b, m.net.parameters) for b, m in zip(before, ensemble.models, strict=True))
    assert ensemble.predict(x).shape == (8, 10)
    assert ensemble.count_params() == sum(model.count_params() for model in ensemble.models)
    both = Ensemble([tiny(0), tiny(1, dtype=np.float64)])
    assert both.predict(X).dtype == np.float64


def test_train_is_each_members_own():
    x, y = np.random.default_rng(0).random((6, 784), np.float32), np.arange(6)
    for options in ({}, {"keep_prob": 0.5}):
        ensemble, twins = Ensemble(models.DeepCNN, 2, 4), [models.DeepCNN(seed=4), models.DeepCNN(seed=5)]
        results = ensemble.train(x, y, **options)
        expected = [twin.train(x, y, **options) for twin in twins]
        assert np.array_equal(np.transpose(results), expected)
        assert states(ensemble) == [state(twin) for twin in twins]


def test_a_factory_is_called_with_seeds_in_turn():
    seeds = []
    ensemble = Ensemble(lambda seed: seeds.append(seed) or tiny(seed), 3, 7)
    assert seeds == [7, 8, 9] and len(ensemble.models) == 3
    assert [m.name for m in Ensemble(functools.partial(tiny, side=5), 2).models] == ["tiny0", "tiny1"]


# ---- fit: the same bits everywhere ----


def in_processes(method):
    return ProcessPoolExecutor(2, multiprocessing.get_context(method))


@contextlib.contextmanager
def dask_cluster(**options):
    distributed = pytest.importorskip("distributed", reason='needs pip install "fastconv[dask]"')
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", **options}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def dask_client():
    with dask_cluster() as client:
        yield client


@pytest.fixture(params=["threads", "processes", "loky", "dask", "dask in this process"])
def executor(request):
    if request.param == "dask":
        yield request.getfixturevalue("dask_client")
    elif request.param == "dask in this process":
        with dask_cluster(processes=False) as client:
            yield client
    elif request.param == "loky":
        with pytest.importorskip("loky").ProcessPoolExecutor(2) as pool:
            yield pool
    else:
        with ThreadPoolExecutor(2) if request.param == "threads" else in_processes("spawn") as pool:
            yield pool


def test_members_are_the_same_bits_wherever_they_are_trained(executor):
    """And go on with the same bits: the second fit needs optimizer and generator as the first left them."""
    ensemble, expected = Ensemble(tiny, 3, 5), Ensemble(tiny, 3, 5)
    nets = [model.net for model in ensemble.models]
    for epochs in (2, 1):
        histories = ensemble.fit(X, Y, epochs, 7, (X[:9], Y[:9]), 0, executor=executor, workers=2)
        in_turns = expected.fit(X, Y, epochs, 7, (X[:9], Y[:9]), 0)
        assert states(ensemble) == states(expected)
        for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
            numbers = [getattr(history, key) for history in histories]
            assert numbers == [getattr(history, key) for history in in_turns]
            assert [len(n) for n in numbers] == [epochs] * 3
    assert [model.net for model in ensemble.models] == nets  # whoever holds a net holds the trained one
    assert ensemble.train(X, Y)[0].tolist() == expected.train(X, Y)[0].tolist()


@pytest.mark.parametrize(
    "pool", [ThreadPoolExecutor, functools.partial(ProcessPoolExecutor, mp_context=SPAWN)]
)
def test_members_are_trained_by_the_callers_algorithm(pool):
    ensemble, expected = Ensemble(tiny, 2), Ensemble(tiny, 2)
    with pool(2) as executor, fastconv.algorithm("winograd"):
        ensemble.fit(X, Y, 1, 7, verbose=0, executor=executor)
        expected.fit(X, Y, 1, 7, verbose=0)
    assert states(ensemble) == states(expected)
    assert states(ensemble)[0] != alone(0, 1)  # which chooses


def test_in_turns_each_member_is_trained_as_alone():
    ensemble = Ensemble([tiny(3), tiny(1, SGD)])
    histories = ensemble.fit(X, Y, 2, 7, verbose=0)
    assert states(ensemble) == [alone(3, 2), alone(1, 2, SGD)]
    model = tiny(3)
    assert model.fit(X, Y, 2, 7, verbose=0).loss == histories[0].loss


def test_equal_members_stay_apart_on_dask():
    """Dask takes equal calls for one: each member must have an optimizer of its own all the same."""
    ensemble = Ensemble([tiny(3), tiny(3)])
    with dask_cluster(processes=False) as client:
        ensemble.fit(X, Y, 1, 7, verbose=0, executor=client)
    first, second = ensemble.models
    assert state(first) == state(second) == alone(3, 1)
    assert not np.shares_memory(first.optimizer._m, second.optimizer._m)


def test_a_large_member_on_dask(dask_client):
    """Megabytes take other ways than small arrays; what comes back must be writeable."""

    def wide(seed):
        net = Sequential([Flatten(), Dense(20_000, "relu"), Dense(CLASSES)], (6, 6, 1), seed=seed)
        return Classifier(net, Adam(CosineDecay(0.01, 30)), "wide")

    ensemble, expected = Ensemble(wide, 2), Ensemble(wide, 2)
    for _ in range(2):
        ensemble.fit(X, Y, 1, 7, verbose=0, executor=dask_client)
        expected.fit(X, Y, 1, 7, verbose=0)
    assert states(ensemble) == states(expected)


def test_forked_processes(python):
    """ProcessPoolExecutor's default on Linux before Python 3.14; here in a fresh interpreter."""
    code = (
        "import warnings, numpy as np\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "import test_ensemble as t\n"
        "warnings.simplefilter('ignore', DeprecationWarning)  # of forking beside OpenMP's threads\n"
        "ensemble = t.Ensemble(t.tiny, 2)\n"
        "with t.in_processes('fork') as pool:\n"
        "    ensemble.fit(t.X, t.Y, 1, 7, verbose=0, executor=pool)\n"
        "print(t.states(ensemble) == [t.alone(0, 1), t.alone(1, 1)])"
    )
    assert python(code) == "True"


class Counting(SGD):
    """Remembers how many threads its steps may take."""

    def step(self, parameters, gradients):
        self.threads = fastconv.get_num_threads()
        super().step(parameters, gradients)


@pytest.fixture
def has_threads(monkeypatch):
    """has_threads(n): this process would take n, in a build without OpenMP too."""
    monkeypatch.setattr(team, "OPENMP_VERSION", team.OPENMP_VERSION or 1)
    return lambda n: monkeypatch.setattr("fastconv.threads._process", n)


@pytest.mark.parametrize(("workers", "share"), [(None, 3), (1, 9), (2, 4), (20, 1)])
def test_workers_share_the_threads(has_threads, workers, share):
    has_threads(9)
    ensemble = Ensemble(functools.partial(tiny, optimizer=Counting), 3)
    with ThreadPoolExecutor(2) as pool:
        ensemble.fit(X, Y, 1, 7, verbose=0, executor=pool, workers=workers)
    assert [model.optimizer.threads for model in ensemble.models] == [share] * 3


def test_a_worker_never_takes_more_than_it_would_alone(has_threads):
    has_threads(2)
    ensemble = Ensemble(functools.partial(tiny, optimizer=Counting), 1)
    with ThreadPoolExecutor(2) as pool, fastconv.num_threads(8):
        ensemble.fit(X, Y, 1, 7, verbose=0, executor=pool)
    assert ensemble.models[0].optimizer.threads == 2


def test_in_turns_all_threads_are_taken(has_threads):
    has_threads(9)
    ensemble = Ensemble(functools.partial(tiny, optimizer=Counting), 2)
    ensemble.fit(X, Y, 1, 7, verbose=0)
    assert [model.optimizer.threads for model in ensemble.models] == [9, 9]


# ---- what is printed ----


@pytest.mark.parametrize("threaded", [False, True])
def test_the_lines_of_fit(capsys, threaded):
    ensemble = Ensemble(tiny, 2)
    with ThreadPoolExecutor(2) as pool:
        options = {"executor": pool if threaded else None}
        histories = ensemble.fit(X, Y, 2, 7, (X, Y), **options)
        ensemble.fit(X, Y, 1, 7, verbose=0, **options)
        ensemble.fit(X, Y, 1, 7, verbose=2, **options)
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == [
        f"Epoch: 000{i + 1} cost = [{histories[0].loss[i]:.9f} {histories[1].loss[i]:.9f}] "
        f"accuracy = [{histories[0].val_accuracy[i]:.4f} {histories[1].val_accuracy[i]:.4f}]"
        for i in range(2)
    ]
    assert re.fullmatch(r"Epoch: 0001 cost = \[\d\.\d{9} \d\.\d{9}\]", last)


def test_summary():
    lines = []
    Ensemble([models.SimpleCNN(), models.Model("m1", seed=1)]).summary(lines.append)
    assert "\n".join(lines).splitlines() == [
        "Ensemble of 2",
        "0: SimpleCNN (SimpleCNN)         50,090",
        "1: m1 (Model)                 1,379,333",
        "Total parameters: 1,429,423",
    ]


# ---- failures and interrupts ----


class Failing(SGD):
    """Its eighth step fails: the second of the second epoch of six."""

    def step(self, parameters, gradients):
        if self.iterations == 7:
            raise ArithmeticError("no further")
        super().step(parameters, gradients)


class Dying(SGD):
    def step(self, parameters, gradients):
        os._exit(1)


FAILURE = r"1 of 3 members failed:\nmember 1 \(tiny1\): ArithmeticError: no further"


def with_bad_member(optimizer):
    return Ensemble([tiny(0), tiny(1, optimizer), tiny(2)])


def test_a_failing_member_on_an_executor(executor):
    ensemble = with_bad_member(Failing)
    with pytest.raises(RuntimeError, match=FAILURE) as error:
        ensemble.fit(X, Y, 3, 7, executor=executor)
    assert isinstance(error.value.__cause__, ArithmeticError)
    assert states(ensemble) == [alone(0, 3), state(tiny(1, Failing)), alone(2, 3)]


def test_a_failing_member_in_turns(capsys):
    ensemble = with_bad_member(Failing)
    with pytest.raises(RuntimeError, match=FAILURE) as error:
        ensemble.fit(X, Y, 3, 7)
    assert isinstance(error.value.__cause__, ArithmeticError)
    assert [states(ensemble)[i] for i in (0, 2)] == [alone(0, 3), alone(2, 3)]
    assert ensemble.models[1].optimizer.iterations == 7
    costs = [re.findall(r"nan|\d\.\d+", line) for line in capsys.readouterr().out.splitlines()]
    assert [[cost == "nan" for cost in line] for line in costs] == [
        [False, False, False],
        [False, True, False],
        [False, True, False],
    ]


def test_a_process_that_dies():
    """It takes the pool with it: whoever was not done is as before, and named."""
    ensemble = with_bad_member(Dying)
    before = states(ensemble)
    with in_processes("spawn") as pool, pytest.raises(RuntimeError, match=r"member 1 .*BrokenProcessPool"):
        ensemble.fit(X, Y, 1, 7, executor=pool)
    after = states(ensemble)
    assert after[1] == before[1]
    assert after[0] in (before[0], alone(0, 1)) and after[2] in (before[2], alone(2, 1))


def test_what_cannot_be_pickled_is_named():
    ensemble = Ensemble([tiny(0), tiny(1)])
    ensemble.models[1].optimizer.learning_rate = lambda step: 0.1
    before = state(ensemble.models[1])
    with in_processes("spawn") as pool, pytest.raises(RuntimeError, match=r"member 1 .*: .*pickle.*lambda"):
        ensemble.fit(X, Y, 1, 7, executor=pool)
    assert states(ensemble) == [alone(0, 1), before]


def test_what_cannot_be_copied_is_named():
    ensemble = Ensemble([tiny(0), tiny(1), tiny(2)])
    ensemble.models[1].optimizer.lock = threading.Lock()
    with ThreadPoolExecutor(2) as pool, pytest.raises(RuntimeError, match=r"1 of 3 .*\nmember 1 .*: .*lock"):
        ensemble.fit(X, Y, 1, 7, executor=pool)
    assert [states(ensemble)[i] for i in (0, 2)] == [alone(0, 1), alone(2, 1)]


def test_an_executor_that_takes_no_jobs():
    ensemble = Ensemble(tiny, 2)
    before = states(ensemble)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match=r"2 of 2 members failed:\nmember 0 .* after shutdown\nmember 1"):
        ensemble.fit(X, Y, executor=pool)
    assert states(ensemble) == before


class Interrupting(SGD):
    """Its thirtieth step is a Ctrl-C, when all jobs are long submitted; the next ones take their time."""

    steps = 0

    def step(self, parameters, gradients):
        super().step(parameters, gradients)
        Interrupting.steps += 1
        if Interrupting.steps == 30:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        if Interrupting.steps >= 30:
            time.sleep(0.05)


def test_an_interrupt_in_threads():
    Interrupting.steps = 0
    ensemble = with_bad_member(Interrupting)
    before = states(ensemble)
    with pytest.raises(KeyboardInterrupt), ThreadPoolExecutor(2) as pool:
        ensemble.fit(X, Y, 40, 7, verbose=0, executor=pool)
    after = states(ensemble)
    assert Interrupting.steps < 240  # nobody waited for the end
    assert after[1] == before[1]
    assert all(after[i] in (before[i], alone(i, 40)) for i in (0, 2))


def test_an_interrupt_of_the_second_member_keeps_the_first():
    class Inline:
        jobs = 0

        def submit(self, function, *arguments):
            future, self.jobs = Future(), self.jobs + 1
            if self.jobs == 2:
                future.set_exception(KeyboardInterrupt())
            else:
                future.set_result(function(*arguments))
            return future

    ensemble = Ensemble(tiny, 3)
    before = states(ensemble)
    with pytest.raises(KeyboardInterrupt):
        ensemble.fit(X, Y, 1, 7, verbose=0, executor=Inline())
    assert states(ensemble) == [alone(0, 1), *before[1:]]


class InterruptedSGD(SGD):
    def step(self, parameters, gradients):
        super().step(parameters, gradients)
        if self.iterations == 7:
            raise KeyboardInterrupt


def test_an_interrupt_in_turns_leaves_whole_steps():
    ensemble = with_bad_member(InterruptedSGD)
    with pytest.raises(KeyboardInterrupt):
        ensemble.fit(X, Y, 3, 7, verbose=0)
    assert [model.optimizer.iterations for model in ensemble.models] == [12, 7, 6]
    assert ensemble.predict(X).shape == (len(X), CLASSES)


# ---- files ----


def test_save_and_load(tmp_path):
    saved, other = Ensemble(tiny, 2), Ensemble(tiny, 2, 8)
    saved.fit(X, Y, 1, 7, verbose=0)
    saved.save(tmp_path / "ensemble")
    assert os.listdir(tmp_path) == ["ensemble"]
    other.train(X, Y)
    other.load(tmp_path / "ensemble")
    assert np.array_equal(other.predict(X), saved.predict(X))
    assert [model.optimizer.iterations for model in other.models] == [0, 0]
    with np.load(tmp_path / "ensemble", allow_pickle=False) as file:
        assert "0/conv2d/kernel" in file.files and "1/batch_normalization/moving_mean" in file.files


def test_a_file_of_another_ensemble_changes_nothing(tmp_path):
    Ensemble(tiny, 2).save(tmp_path / "two")
    three = Ensemble(tiny, 3, 5)
    three.train(X, Y)
    before = states(three)
    with pytest.raises(ValueError, match=r"saved by Ensemble\) does not .*\n- 2/conv2d/kernel is missing"):
        three.load(tmp_path / "two")
    with pytest.raises(ValueError, match="2/dense/bias is not a parameter of this model"):
        three.save(tmp_path / "three")
        Ensemble(tiny, 2).load(tmp_path / "three")
    assert states(three) == before


# ---- checked arguments ----


SHARED = tiny()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ([[]], ValueError, r"models must hold at least one model, not \[\]"),
        ([tiny()], TypeError, "models must be a list of Classifiers, or a factory, not <"),
        (["ab"], TypeError, "models must be a list of Classifiers, or a factory, not 'ab'"),
        ([[tiny(), 3]], TypeError, r"models\[1\] must be a Classifier, not 3"),
        ([[SHARED, tiny(), SHARED]], ValueError, "models must not share anything, but 0 and 2 .* same net"),
        ([lambda seed: SHARED, 2], ValueError, "models must not share anything, but 0 and 1"),
        (
            [[SHARED, Classifier(tiny(1).net, SHARED.optimizer, "b")]],
            ValueError,
            "models must not share anything, but 0 and 1 have the same optimizer",
        ),
        (
            [[tiny(), tiny(classes=4)]],
            ValueError,
            r"models must agree in \(inputs, classes\), not be \[\(36, 3\), \(36, 4\)\]",
        ),
        ([[tiny(), tiny(side=7)]], ValueError, r"not be \[\(36, 3\), \(49, 3\)\]"),
        ([tiny], TypeError, "size must be a whole number, not None"),
        ([tiny, 0], ValueError, "size must be at least 1, not 0"),
        ([tiny, 2, -1], ValueError, "seed must be at least 0, not -1"),
        ([[tiny()], 2], ValueError, r"size and seed belong to a factory of models, not to \["),
        ([[tiny()], None, 0], ValueError, "size and seed belong to a factory"),
        ([lambda seed: None, 2], TypeError, r"models\[0\] must be a Classifier, not None"),
    ],
)
def test_construction_errors(arguments, kind, message):
    with pytest.raises(kind, match=message):
        Ensemble(*arguments)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda e: e.train(X[:, 1:], Y), ValueError, r"x must be \[N, 6, 6, 1\] or \[N, 36\]"),
        (lambda e: e.train(X, Y + 1), ValueError, r"y must lie in 0\.\.2, not 3"),
        (lambda e: e.train(X, Y, 0), ValueError, r"keep_prob must lie in \(0, 1\], not 0"),
        (lambda e: e.predict(X[0]), ValueError, r"x must be \[N, 6, 6, 1\]"),
        (lambda e: e.get_accuracy(X, Y[1:]), ValueError, "y must have one label an example"),
        (lambda e: e.get_accuracy(X, Y, 2), ValueError, "keep_prob must lie in"),
        (lambda e: e.member_accuracies(X, Y + 1), ValueError, "y must lie in"),
        (lambda e: e.evaluate(X, None), TypeError, "y must hold numbers"),
        (lambda e: e.fit(X, Y[1:]), ValueError, "y must have one label an example"),
        (lambda e: e.fit(X, Y, 0), ValueError, "epochs must be at least 1, not 0"),
        (lambda e: e.fit(X, Y, batch_size=0), ValueError, "batch_size must be at least 1, not 0"),
        (lambda e: e.fit(X, Y, verbose=5), ValueError, "verbose must be one of 0, 1, 2, not 5"),
        (lambda e: e.fit(X, Y, keep_prob=-1), ValueError, "keep_prob must lie in .* not -1"),
        (lambda e: e.fit(X, Y, validation_data=3), ValueError, r"validation_data must be \(x, y\), not int"),
        (
            lambda e: e.fit(X, Y, executor="threads"),
            TypeError,
            "executor must have a method submit, not",
        ),
        (lambda e: e.fit(X, Y, workers=2), ValueError, "workers belongs to an executor, .*: 2"),
        (
            lambda e: e.fit(X, Y, executor=ThreadPoolExecutor(), workers=0),
            ValueError,
            "workers must be at le",
        ),
        (lambda e: e.save("nowhere/file"), FileNotFoundError, "path: there is no folder"),
    ],
)
def test_errors_come_first_and_change_nothing(call, kind, message, capsys):
    ensemble = Ensemble(tiny, 2)
    before = states(ensemble)
    with pytest.raises(kind, match=message):
        call(ensemble)
    assert states(ensemble) == before
    assert capsys.readouterr().out == ""


def test_images_that_fit_only_some_members():
    flat = Classifier(Sequential([Dense(CLASSES)], (36,)), Adam(), "flat")
    ensemble = Ensemble([tiny(), flat])
    assert ensemble.train(X, Y)[0].shape == (2,)
    before = states(ensemble)
    for call in (ensemble.predict, lambda x: ensemble.train(x, Y), lambda x: ensemble.fit(x, Y)):
        with pytest.raises(ValueError, match=r"x must be \[N, 36\]"):
            call(X.reshape(-1, 6, 6, 1))
    assert states(ensemble) == before


# ---- the example ----


@pytest.fixture
def example(monkeypatch, tmp_path, capsys):
    """example(*options): the exit code, lines and errors of the example on 20 digits, in an empty folder."""
    train, _, test = mnist.load_sample()
    parts = [mnist.DataSet(d.images[:n], d.labels[:n]) for d, n in ((train, 20), (train, 0), (test, 50))]
    monkeypatch.setattr(mnist, "load_sample", lambda: mnist.DataSets(*parts))
    monkeypatch.chdir(tmp_path)

    def run(*options):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *options])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(EXAMPLE), run_name="__main__")
        out, err = capsys.readouterr()
        return exit_.value.code, out.splitlines(), err

    return run


@pytest.mark.skipif(not EXAMPLE.exists(), reason="no examples here")
def test_the_example_prints_the_documents_lines(example):
    patterns = [
        r"Sample: 20 training images, each also moved by a pixel to the four sides",
        r"2 x DeepCNN, 2,758,666 parameters\. Training images: 100, epochs: 2, accuracy on 50 test images",
        r"Learning Started!",
        r"Epoch: 0001 cost = \[\d+\.\d{9} \d+\.\d{9}\] accuracy = \[[01]\.\d{4} [01]\.\d{4}\]",
        r"Epoch: 0002 cost = .*",
        r"Learning Finished!",
        r"0 Accuracy: [01]\.\d{4}",
        r"1 Accuracy: [01]\.\d{4}",
        r"Ensemble accuracy: [01]\.\d{4}",
        r"Seconds of learning: \d+",
    ]
    options = ["--sample", "--models", "2", "--epochs", "2", "--seed", "3"]
    code, lines, err = example(*options, "--save", "file")
    assert (code, err, len(lines)) == (0, "", len(patterns))
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    assert example(*options, "--executor", "threads")[1][:-1] == lines[:-1]
    ensemble = Ensemble(models.DeepCNN, 2)
    ensemble.load("file")
    test = mnist.load_sample().test
    assert lines[-2] == f"Ensemble accuracy: {ensemble.get_accuracy(test.images, test.labels):.4f}"


class _Chosen:
    """A generator whose numbers turn all images by an angle, move them, and distort them in no other way."""

    def __init__(self, down=0, right=0, degrees=0):
        self.move, self.degrees = (down, right), degrees

    def uniform(self, low, high, size):
        if np.shape(size) == (3,):
            return np.full(size, self.move)
        return np.full(size, self.degrees if high == 10 else 0)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="no examples here")
def test_the_examples_distortions():
    names = runpy.run_path(str(EXAMPLE))
    train = mnist.load_sample().train
    digits = mnist.DataSet(train.images[::400], train.labels[::400])
    more = names["_with_distortions"](digits)
    images, labels = more.images, more.labels
    assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
    np.testing.assert_array_equal(images[:10], digits.images)
    np.testing.assert_array_equal(labels, np.tile(digits.labels, (5, 1)))
    ink = images.reshape(5, 10, -1).sum(axis=2)
    assert (np.abs(ink[1:] / ink[0] - 1) < 0.3).all() and len(np.unique(ink)) == 50
    np.testing.assert_allclose(names["_distorted"](digits.images, _Chosen()), digits.images, atol=1e-6)
    moved = names["_distorted"](digits.images, _Chosen(1, -2.5)).reshape(10, 28, 28)
    square = digits.images.reshape(10, 28, 28)
    np.testing.assert_allclose(moved[:, :-1, 3:], (square[:, 1:, :-3] + square[:, 1:, 1:-2]) / 2, atol=1e-5)
    turned = names["_distorted"](digits.images, _Chosen(degrees=90)).reshape(10, 28, 28)
    np.testing.assert_allclose(turned, np.rot90(square, axes=(2, 1)), atol=1e-5)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="no examples here")
def test_what_the_example_refuses(example, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setattr(Ensemble, "fit", lambda *_, **__: pytest.fail("trained"))
    for options, message in [
        (["--executor", "dask", "--sample"], r'--executor: dask needs pip install "fastconv\[dask\]"'),
        (["--data", "nowhere"], "--data: .*'nowhere' holds none"),
        (["--save", "nowhere/x", "--sample"], "--save: there is no folder"),
        (["--models", "0"], "--models: must be a whole number, at least 1, not '0'"),
    ]:
        code, lines, err = example(*options)
        assert code == 2 and err.count("\n") == 1 and re.search(message, err), err
        assert "Learning Started!" not in lines


@pytest.mark.skipif(not EXAMPLE.exists(), reason="no examples here")
def test_an_interrupt_of_the_example(example, monkeypatch):
    def step(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "_step", step)
    code, _, err = example("--sample", "--models", "2", "--save", "file")
    assert (code, err, os.listdir()) == (130, "Interrupted: nothing was saved\n", [])
