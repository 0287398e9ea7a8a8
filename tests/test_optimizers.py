"""Adam and SGD against NumPy twins and hand-computed steps; the loss against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tolerances
from tolerances import assert_close

from fastconv import losses, optimizers
from fastconv._kernels import elementwise

LOSS_STEP = 1e-6  # of central differences in float64


def reference_adam(parameters, gradients, learning_rate, beta_1, beta_2, epsilon):
    """All steps of Adam in float64, TensorFlow's form; gradients [steps, P]."""
    p = parameters.astype(np.float64)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients.astype(np.float64), start=1):
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g * g
        p = p - learning_rate * math.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + epsilon)
    return p


def reference_sgd(parameters, gradients, learning_rate, momentum):
    """All steps of SGD in float64, Keras' form; gradients [steps, P]."""
    p = parameters.astype(np.float64)
    velocity = np.zeros_like(p)
    for g in gradients.astype(np.float64):
        velocity = momentum * velocity - learning_rate * g
        p = p + velocity
    return p


CASES = [
    (
        optimizers.Adam,
        reference_adam,
        {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8},
    ),
    (optimizers.Adam, reference_adam, {"learning_rate": 0.1, "beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}),
    (
        optimizers.Adam,
        reference_adam,
        {"learning_rate": 0.01, "beta_1": 0.0, "beta_2": 0.99, "epsilon": 1e-7},
    ),
    (optimizers.SGD, reference_sgd, {"learning_rate": 0.01, "momentum": 0.0}),
    (optimizers.SGD, reference_sgd, {"learning_rate": 0.05, "momentum": 0.9}),
]


@pytest.mark.parametrize("size", [0, 1, 7, 64, 100_003])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "reference", "options"), CASES)
def test_steps_equal_the_twin(kind, reference, options, dtype, size):
    rng = np.random.default_rng(size)
    start = rng.uniform(0.5, 1.5, size).astype(dtype)
    gradients = rng.standard_normal((20, size)).astype(dtype)
    kept = gradients.copy()
    parameters, optimizer = start.copy(), kind(**options)
    for gradient in gradients:
        optimizer.step(parameters, gradient)
    expected = reference(start, gradients, **options)
    assert_close(parameters, expected, tolerances.OPTIMIZER_STEPS)
    assert np.array_equal(gradients, kept)


def test_first_steps_literal():
    # Adam's first step moves every parameter by learning_rate against its gradient's sign.
    parameters = np.array([1.0, 1.0, 1.0])
    optimizers.Adam(learning_rate=0.5).step(parameters, np.array([1e-3, -4.0, 0.0]))
    np.testing.assert_allclose(parameters, [0.5, 1.5, 1.0], rtol=0, atol=2e-4)
    # momentum 0.5, rate 0.1, gradient 2: velocity -0.2, then -0.3
    parameters, sgd = np.array([1.0]), optimizers.SGD(learning_rate=0.1, momentum=0.5)
    sgd.step(parameters, np.array([2.0]))
    assert parameters[0] == pytest.approx(0.8, abs=1e-15)
    sgd.step(parameters, np.array([2.0]))
    assert parameters[0] == pytest.approx(0.5, abs=1e-15)


def test_defaults_are_the_documented_ones():
    adam, sgd = optimizers.Adam(), optimizers.SGD()
    assert (adam.learning_rate, adam.beta_1, adam.beta_2, adam.epsilon) == (0.001, 0.9, 0.999, 1e-8)
    assert (sgd.learning_rate, sgd.momentum) == (0.01, 0.0)


@pytest.mark.parametrize("optimizer", [optimizers.Adam(), optimizers.SGD(momentum=0.9)])
def test_reset_forgets(optimizer):
    gradients = np.random.default_rng(0).standard_normal((3, 10))
    ends = []
    for _ in range(2):
        optimizer.reset()
        parameters = np.ones(10)
        for gradient in gradients:
            optimizer.step(parameters, gradient)
        ends.append(parameters)
    assert np.array_equal(*ends)
    optimizer.reset()
    optimizer.step(
        np.ones(4, np.float32), np.ones(4, np.float32)
    )  # another size and dtype is fine after a reset


def test_learning_rate_may_change():
    sgd, parameters = optimizers.SGD(1.0), np.zeros(1)
    sgd.step(parameters, np.ones(1))
    sgd.learning_rate = 0.25
    sgd.step(parameters, np.ones(1))
    assert parameters[0] == -1.25


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (optimizers.CosineDecay(0.5, 4), {0: 0.5, 2: 0.25, 4: 0, 5: 0, 1: 0.25 + math.sqrt(2) / 8}),
        (optimizers.CosineDecay(0.5, 4, alpha=0.2), {0: 0.5, 2: 0.3, 4: 0.1, 400: 0.1}),
        (optimizers.ExponentialDecay(0.8, 2, 0.25), {0: 0.8, 1: 0.4, 2: 0.2, 4: 0.05}),
        (optimizers.ExponentialDecay(0.8, 2, 0.25, staircase=True), {0: 0.8, 1: 0.8, 2: 0.2, 3: 0.2}),
    ],
)
def test_schedules_literal(schedule, rates):
    assert {step: schedule(step) for step in rates} == pytest.approx(rates, abs=1e-15)


@pytest.mark.parametrize("kind", [optimizers.Adam, optimizers.SGD])
def test_a_schedule_is_asked_for_the_rate_of_each_step(kind):
    gradients = np.random.default_rng(0).standard_normal((3, 10))
    changed, scheduled = kind(), kind(lambda step: 0.1 / (step + 1))
    for _ in range(2):  # reset goes back to step 0
        ends = np.ones(10), np.ones(10)
        for step, gradient in enumerate(gradients):
            changed.learning_rate = 0.1 / (step + 1)
            changed.step(ends[0], gradient)
            scheduled.step(ends[1], gradient)
        assert np.array_equal(*ends)
        assert changed.iterations == scheduled.iterations == 3
        changed.reset()
        scheduled.reset()


@pytest.mark.parametrize("kind", [optimizers.Adam, optimizers.SGD])
def test_a_rate_out_of_range_changes_nothing(kind):
    optimizer, parameters = kind(lambda step: 0.5 - step), np.zeros(2)
    optimizer.step(parameters, np.ones(2))
    before = parameters.copy()
    with pytest.raises(ValueError, match=r"learning_rate\(1\) must lie in \[0, inf\), not -0.5"):
        optimizer.step(parameters, np.ones(2))
    assert np.array_equal(parameters, before)
    assert optimizer.iterations == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimizers.Adam(learning_rate=-1), r"learning_rate must lie in \[0, inf\), not -1"),
        (lambda: optimizers.Adam(learning_rate=math.nan), "learning_rate must lie in .* not nan"),
        (lambda: optimizers.Adam(beta_1=1.0), r"beta_1 must lie in \[0, 1\), not 1.0"),
        (lambda: optimizers.Adam(beta_2=-0.1), "beta_2 must lie in .* not -0.1"),
        (lambda: optimizers.Adam(epsilon=-1e-8), "epsilon must lie in .* not -1e-08"),
        (lambda: optimizers.SGD(momentum=1.5), r"momentum must lie in \[0, 1\), not 1.5"),
        (lambda: optimizers.SGD(math.inf), "learning_rate must lie in .* not inf"),
        (lambda: optimizers.CosineDecay(-1, 5), "initial_learning_rate must lie in .* not -1"),
        (lambda: optimizers.CosineDecay(1, 0), "decay_steps must be at least 1, not 0"),
        (lambda: optimizers.CosineDecay(1, 5, -0.5), "alpha must lie in .* not -0.5"),
        (
            lambda: optimizers.ExponentialDecay(math.nan, 5, 0.5),
            "initial_learning_rate must lie in .* not nan",
        ),
        (lambda: optimizers.ExponentialDecay(1, -1, 0.5), "decay_steps must be at least 1, not -1"),
        (lambda: optimizers.ExponentialDecay(1, 5, math.inf), "decay_rate must lie in .* not inf"),
    ],
)
def test_options_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimizers.SGD("a"), "learning_rate must be a number, not 'a'"),
        (lambda: optimizers.SGD(np.ones(2)), "learning_rate must be a number, not an array"),
        (lambda: optimizers.SGD().step([1.0], [1.0]), r"parameters must be an array, not \[1.0\]"),
    ],
)
def test_kinds_are_checked(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("kind", [optimizers.Adam, optimizers.SGD])
def test_a_changed_rate_is_checked(kind):
    optimizer, parameters = kind(), np.ones(2)
    optimizer.learning_rate = math.nan
    with pytest.raises(ValueError, match=r"learning_rate must lie in \[0, inf\), not nan"):
        optimizer.step(parameters, np.ones(2))
    assert parameters.tolist() == [1, 1] and optimizer.iterations == 0


@pytest.mark.parametrize("kind", [optimizers.Adam, optimizers.SGD])
@pytest.mark.parametrize(
    ("parameters", "gradients", "message"),
    [
        (np.ones((2, 2)), np.ones((2, 2)), r"parameters must be a contiguous \[P\] array"),
        (np.ones(4)[::2], np.ones(2), "parameters must be a contiguous"),
        (np.ones(2), np.ones(4)[::2], "gradients must be a contiguous"),
        (np.ones(2, np.int64), np.ones(2), "parameters must be .* not int64"),
        (np.ones(2, ">f8"), np.ones(2), "parameters must be .* not >f8"),
        (np.ones(2), np.ones(3), r"gradients must be float64 of shape \(2,\) .* not float64 of shape \(3,\)"),
        (np.ones(2, np.float32), np.ones(2), "gradients must be float32 .* not float64"),
    ],
)
def test_arrays_are_checked(kind, parameters, gradients, message):
    optimizer, before = kind(), parameters.copy()
    with pytest.raises(ValueError, match=message):
        optimizer.step(parameters, gradients)
    assert np.array_equal(parameters, before)
    optimizer.step(np.ones(3), np.ones(3))  # the failed call left no state


@pytest.mark.parametrize("kind", [optimizers.Adam, optimizers.SGD])
def test_an_interrupt_during_a_step_is_behind_it(kind, monkeypatch):
    kernel = getattr(elementwise, kind.__name__.lower())

    def interrupted(*arguments):
        kernel(*arguments)
        raise KeyboardInterrupt

    optimizer, expected = kind(0.1), kind(0.1)
    p, q, g = np.ones(5, np.float32), np.ones(5, np.float32), np.linspace(1, 2, 5, dtype=np.float32)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(elementwise, kind.__name__.lower(), interrupted)
        optimizer.step(p, g)
    optimizer.step(p, g)
    for _ in range(2):
        expected.step(q, g)
    assert optimizer.iterations == 2 and p.tobytes() == q.tobytes()


def test_read_only_parameters_are_refused():
    parameters = np.ones(2)
    parameters.flags.writeable = False
    with pytest.raises(ValueError, match="parameters must be writeable"):
        optimizers.SGD().step(parameters, np.ones(2))


def test_another_size_later_is_refused():
    for optimizer in (optimizers.Adam(), optimizers.SGD()):
        optimizer.step(np.ones(3), np.ones(3))
        with pytest.raises(ValueError, match=r"parameters must be float64 of shape \(3,\)"):
            optimizer.step(np.ones(4), np.ones(4))


# ---- the loss ----


def test_loss_literal():
    loss, gradient = losses.softmax_cross_entropy([0, 1], np.zeros((2, 4)))
    assert loss == pytest.approx(math.log(4), abs=1e-15)
    assert gradient.tolist() == [[-0.375, 0.125, 0.125, 0.125], [0.125, -0.375, 0.125, 0.125]]


def test_loss_gradient_is_a_finite_difference():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((3, 5)), rng.dirichlet(np.ones(5), 3)
    _, gradient = losses.softmax_cross_entropy(labels, logits)
    for index in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[index] = LOSS_STEP
        above, below = (losses.softmax_cross_entropy(labels, logits + s)[0] for s in (step, -step))
        difference = np.array((above - below) / (2 * LOSS_STEP))
        assert_close(gradient[index], difference, tolerances.DIFFERENCES, scale=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_in_both_forms_are_the_same(dtype):
    logits = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
    ids = np.array([2, 0, 1, 1], np.uint8)
    loss, gradient = losses.softmax_cross_entropy(ids, logits)
    same_loss, same_gradient = losses.softmax_cross_entropy(np.eye(3)[ids], logits)
    assert loss == same_loss
    assert gradient.dtype == dtype
    assert np.array_equal(gradient, same_gradient)


def test_loss_is_stable():
    loss, gradient = losses.softmax_cross_entropy([1, 0], np.array([[-1e4, 1e4], [-1e4, 1e4]], np.float32))
    assert loss == 1e4
    assert gradient.tolist() == [[0, 0], [-0.5, 0.5]]


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([0, 3], ValueError, r"labels must lie in 0\.\.2, not 3"),
        ([-1, 0], ValueError, r"labels must lie in 0\.\.2, not -1"),
        ([0], ValueError, "labels must have one label an example, not 1 for 2 examples"),
        ([0.0, 1.0], TypeError, r"labels of shape \[N\] must hold integers, not dtype float64"),
        ([True, False], TypeError, "labels .* must hold integers, not dtype bool"),
        (["a", "b"], TypeError, "labels must hold numbers, not dtype <U1"),
        (None, TypeError, "labels must hold numbers, not dtype object"),
        (
            [[1, 0], [0, 1]],
            ValueError,
            r"labels must be \[N\] integers or \[N, 3\] one-hot, not shape \(2, 2\)",
        ),
        ([[[1, 0, 0]]] * 2, ValueError, r"labels must be .* not shape \(2, 1, 3\)"),
        (
            [[1, 0, 0], [1, 1, 0]],
            ValueError,
            r"labels must have rows >= 0 that sum to 1, not \[1 1 0\] in row 1",
        ),
        ([[1.5, -0.5, 0], [1, 0, 0]], ValueError, "labels must have rows >= 0 .* in row 0"),
        ([[1, 0, 0], [np.nan, 0, 1]], ValueError, "labels must have rows >= 0 .* in row 1"),
    ],
)
def test_labels_are_checked(labels, kind, message):
    with pytest.raises(kind, match=message):
        losses.softmax_cross_entropy(labels, np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 0)])
def test_logits_are_checked(shape):
    with pytest.raises(ValueError, match=r"logits must be \[N, K\] with N and K at least 1, not shape"):
        losses.softmax_cross_entropy([0] * shape[0], np.zeros(shape))
