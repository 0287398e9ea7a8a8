"""The frameworks that `peers.py` compares, each in a process of its own: `python workers.py NAME THREADS`.

A worker waits on stdin and answers each line of JSON with one on stdout:

    (at the start)                             {"version": "torch 2.13.0", "variants": ["NCHW", ...]}
    {"prepare": case}                          {variant: digest of its result, ...}
    {"run": variant, "calls": n}               {"seconds": the best of n calls}
    {"memory": case, "variant": variant}       {"bytes": the process' peak after two calls}

A case of one operation is {"op", "dtype", "x", "w", "y", "taps", "stride", "padding", "before", "after"}: its
name in fastconv.nn, the NHWC and HWIO shapes (a pool's w is empty), window, stride, "SAME" or "VALID", and
the padding pixels on both sides. A case of a whole network is {"op", "dtype", "network", "x", "classes",
"description", "sizes", "dropout"}: "train" or "predict", the model's name in fastconv.models with its
arguments, the shape of the images, the number of classes, the net in the words of networks.py, its
parameters' keys and shapes, and whether it has dropout.

Only NumPy and the worker's own framework are imported here, because each runs in the virtual environment that
has it. Where a framework offers several ways to the same result, the fastest was chosen by measuring, and a
comment says so.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timing
from networks import BETA_1, BETA_2, EPSILON, LEARNING_RATE, draw, tensorflow_network, torch_network
from numpy.typing import NDArray

Case = dict[str, Any]
Call = Callable[[], Any]


class FastConv:
    def __init__(self, threads: int) -> None:
        import fastconv

        fastconv.set_num_threads(threads)
        self.fastconv, self.nn = fastconv, fastconv.nn
        self.version = f"fastconv {fastconv.__version__}"
        self.variants = ("",)

    def operation(self, case: Case, variant: str) -> Call:
        x, w, dy = arrays(case)
        nn, stride, padding = self.nn, case["stride"], case["padding"]
        window = case["taps"], stride, padding
        match case["op"]:
            case "conv2d":
                return lambda: nn.conv2d(x, w, stride, padding)
            case "conv2d_backprop_input":
                return lambda: nn.conv2d_backprop_input(x.shape, w, dy, stride, padding)
            case "conv2d_backprop_filter":
                return lambda: nn.conv2d_backprop_filter(x, w.shape, dy, stride, padding)
            case "max_pool2d":
                return lambda: nn.max_pool2d(x, *window)
            case "max_pool_grad":
                y = nn.max_pool2d(x, *window)
                return lambda: nn.max_pool_grad(x, y, dy, *window)
            case "max_pool training":
                return partial(self._pool(case), x, training=True)
            case "max_pool training gradient":
                return partial(self._pool(case)(x, training=True)[1], dy)
        raise ValueError(f"unknown operation {case['op']!r}")

    def _pool(self, case: Case) -> Any:
        """The layer in a model of its own."""
        layers, window = self.fastconv.layers, (case["taps"], case["stride"], case["padding"])
        return layers.Sequential([layers.MaxPooling2D(*window)], case["x"][1:], dtype=case["dtype"])

    def network(self, case: Case, variant: str) -> tuple[Call, Call]:
        name, arguments = case["network"]
        model = getattr(self.fastconv.models, name)(*arguments, learning_rate=LEARNING_RATE)
        model.net.set_weights(parameters(case))
        x, labels = examples(case)
        return partial(model.train, x, labels, None), partial(model.predict, x)

    def to_numpy(self, case: Case, result: Any) -> NDArray:
        return result[0] if case["op"] == "max_pool training" else result


class Torch:
    """PyTorch, eagerly, and for single operations without autograd's bookkeeping: its operators, and the ones
    that its backward pass calls."""

    AXES = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # x NHWC -> NCHW, w HWIO -> OIHW, dy as x

    def __init__(self, threads: int, onednn: bool = True) -> None:
        # Huge pages for large results, as NumPy asks for them: without them the page faults cost more than
        # half of the time of a layer with a result of 50 MB.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        torch.backends.mkldnn.set_flags(onednn)
        self.torch = torch
        self.version = f"torch {torch.__version__}"
        # Without oneDNN it is NNPACK (forward) or im2col and MKL, and channels_last is no faster.
        self.variants = ("NCHW", "channels_last") if onednn else ("",)

    def operation(self, case: Case, variant: str) -> Call:
        aten = self.torch.ops.aten
        x, w, dy = arrays(case)
        if not is_pool(case):
            # SAME's odd pixel below and right, which torch's convolutions cannot say, is a part of the input
            # here; it is put there before the clock starts.
            x = np.pad(x, ((0, 0), odd_end(case), odd_end(case), (0, 0)))
        x, w, dy = (self._tensor(a, axes, variant) for a, axes in zip((x, w, dy), self.AXES, strict=True))
        steps, ends, dilations = [case["stride"]] * 2, [case["before"]] * 2, [1, 1]
        rest = (None, steps, ends, dilations, False, [0, 0], 1)  # no bias, not transposed, one group
        window = ([case["taps"]] * 2, steps, ends, dilations, True)  # True: SAME's odd padding comes last
        match case["op"]:
            case "conv2d":
                return lambda: self.torch.nn.functional.conv2d(x, w, None, steps, ends)
            case "conv2d_backprop_input":
                return lambda: aten.convolution_backward(dy, x, w, *rest, [True, False, False])[0]
            case "conv2d_backprop_filter":
                return lambda: aten.convolution_backward(dy, x, w, *rest, [False, True, False])[1]
            case "max_pool2d" | "max_pool training":
                return lambda: aten.max_pool2d_with_indices(x, *window)[0]  # what F.max_pool2d calls
            case "max_pool_grad" | "max_pool training gradient":
                indices = aten.max_pool2d_with_indices(x, *window)[1]
                return lambda: aten.max_pool2d_with_indices_backward(dy, x, *window, indices)
        raise ValueError(f"unknown operation {case['op']!r}")

    def network(self, case: Case, variant: str) -> tuple[Call, Call]:
        torch = self.torch
        images, classes = examples(case)
        x, labels = self._tensor(images, self.AXES[0], variant), torch.from_numpy(classes)
        net = torch_network(torch, case["description"], parameters(case))
        net = net.to(memory_format=self._layout(variant)).eval()
        # fused: the update of all parameters takes a third of what the other implementations take.
        betas, rate = (BETA_1, BETA_2), LEARNING_RATE
        optimizer = torch.optim.Adam(net.parameters(), rate, betas=betas, eps=EPSILON, fused=True)

        def train() -> Any:
            with torch.enable_grad():
                net.train()  # with dropout
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(net(x), labels)
                loss.backward()
                optimizer.step()
                net.eval()
            return loss

        def predict() -> Any:
            with torch.inference_mode():
                return net(x)

        return train, predict

    def _layout(self, variant: str) -> Any:
        return self.torch.channels_last if variant == "channels_last" else self.torch.contiguous_format

    def _tensor(self, a: NDArray, axes: tuple[int, ...], variant: str) -> Any:
        source = self.torch.from_numpy(a).permute(axes)
        # With one channel .contiguous() would keep strides that say nothing about the layout.
        tensor = self.torch.empty(source.shape, dtype=source.dtype, memory_format=self._layout(variant))
        return tensor.copy_(source)

    def to_numpy(self, case: Case, result: Any) -> NDArray:
        if result.ndim == 2:
            return result.numpy()
        axes = (2, 3, 1, 0) if case["op"] == "conv2d_backprop_filter" else (0, 2, 3, 1)
        y = result.permute(axes).numpy()
        if case["op"] == "conv2d_backprop_input":
            y = y[:, : case["x"][1], : case["x"][2]]  # without the padding that `operation` has added
        return y


class TensorFlow:
    """TensorFlow: single operations eagerly, which saves a tf.function's overhead of 0.1 ms, whole networks
    as compiled graphs."""

    def __init__(self, threads: int, onednn: bool = True) -> None:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(onednn))  # otherwise: Eigen
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
        self.tf = tensorflow
        self.version = f"TensorFlow {tensorflow.__version__}"
        self.variants = ("",)

    def operation(self, case: Case, variant: str) -> Call:
        raw = self.tf.raw_ops  # what tf.nn's functions call after some checks
        x, w, dy = map(self.tf.constant, arrays(case))
        steps = [1, case["stride"], case["stride"], 1]
        how: dict[str, Any] = {"strides": steps, "padding": case["padding"]}
        window = {**how, "ksize": [1, case["taps"], case["taps"], 1]}
        match case["op"]:
            case "conv2d":
                return partial(raw.Conv2D, input=x, filter=w, **how)
            case "conv2d_backprop_input":
                sizes = self.tf.constant(case["x"])
                return partial(raw.Conv2DBackpropInput, input_sizes=sizes, filter=w, out_backprop=dy, **how)
            case "conv2d_backprop_filter":
                sizes = self.tf.constant(case["w"])
                return partial(raw.Conv2DBackpropFilter, input=x, filter_sizes=sizes, out_backprop=dy, **how)
            # In training, too, as Keras has it. MaxPoolGradWithArgmax takes a tenth of MaxPoolGrad's time,
            # but MaxPoolWithArgmax forty times MaxPool's.
            case "max_pool2d" | "max_pool training":
                return partial(raw.MaxPool, input=x, **window)
            case "max_pool_grad" | "max_pool training gradient":
                y = raw.MaxPool(input=x, **window)
                return partial(raw.MaxPoolGrad, orig_input=x, orig_output=y, grad=dy, **window)
        raise ValueError(f"unknown operation {case['op']!r}")

    def network(self, case: Case, variant: str) -> tuple[Call, Call]:
        tf = self.tf
        x, labels = map(tf.constant, examples(case))
        variables, logits_of = tensorflow_network(tf, case["description"], parameters(case))
        keys = [key for key, _ in case["sizes"]]
        weights = [w for key, w in zip(keys, variables, strict=True) if not key.startswith("moving_")]
        adam = self._adam(weights)
        step = tf.Variable(0)

        def train(x: Any, labels: Any) -> Any:
            seeds = itertools.count()

            def drop(x: Any, rate: float) -> Any:
                # A generator of its own: tf.nn.dropout, on the global one, takes four times as long.
                seed = tf.stack([step, next(seeds)])
                return tf.nn.experimental.stateless_dropout(x, rate, seed)

            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits_of(x, drop))
                loss = tf.reduce_mean(losses)
            adam(tape.gradient(loss, weights))
            step.assign_add(1)
            return loss

        def predict(x: Any) -> Any:
            return logits_of(x, None)

        compiled = partial(tf.function, autograph=False, jit_compile=False)
        # Images and labels are arguments: what depends on constants alone could be computed beforehand.
        train_graph = compiled(train).get_concrete_function(x, labels)
        predict_graph = compiled(predict).get_concrete_function(x)
        return partial(train_graph, x, labels), partial(predict_graph, x)

    def _adam(self, weights: list[Any]) -> Callable[[list[Any]], None]:
        """Adam with the kernel that updates a parameter in one pass; Keras' is written in many operations."""
        tf = self.tf
        states = [[tf.Variable(tf.zeros_like(w)) for _ in range(2)] for w in weights]
        powers = [tf.Variable(beta, dtype=weights[0].dtype) for beta in (BETA_1, BETA_2)]
        numbers = {"lr": LEARNING_RATE, "beta1": BETA_1, "beta2": BETA_2, "epsilon": EPSILON}

        def step(gradients: list[Any]) -> None:
            now = {f"beta{i}_power": power.read_value() for i, power in enumerate(powers, 1)}
            for w, (m, v), gradient in zip(weights, states, gradients, strict=True):
                handles = {"var": w.handle, "m": m.handle, "v": v.handle}
                tf.raw_ops.ResourceApplyAdam(**handles, **now, **numbers, grad=gradient)
            for power, beta in zip(powers, (BETA_1, BETA_2), strict=True):
                power.assign(power * beta)

        return step

    def to_numpy(self, case: Case, result: Any) -> NDArray:
        return result.numpy()


WORKERS: dict[str, Callable[[int], Any]] = {
    "fastconv": FastConv,
    "torch": Torch,
    "torch w/o oneDNN": partial(Torch, onednn=False),
    "TF": TensorFlow,
    "TF w/o oneDNN": partial(TensorFlow, onednn=False),
}


def is_network(case: Case) -> bool:
    return "network" in case


def is_pool(case: Case) -> bool:
    return case["op"].startswith("max_pool")


def odd_end(case: Case) -> tuple[int, int]:
    """(0, what SAME's padding after an axis has more than that before it)"""
    return 0, case["after"] - case["before"]


def arrays(case: Case) -> list[NDArray]:
    """x, w and dy of an operation, the same in every process."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal(case[name], np.dtype(case["dtype"])) for name in ("x", "w", "y")]


def examples(case: Case) -> tuple[NDArray, NDArray]:
    """Images of values in 0..1, and labels, of a network; the same in every process."""
    generator = np.random.default_rng(0)
    images = generator.random(case["x"], np.dtype(case["dtype"]))
    return images, generator.integers(case["classes"], size=len(images))


def parameters(case: Case) -> list[NDArray]:
    return draw(case["sizes"], case["dtype"])


def prepare(worker: Any, case: Case, variant: str) -> tuple[Call, NDArray]:
    """What is timed, and what is compared: its result, or the logits after a first step of training."""
    if not is_network(case):
        call = worker.operation(case, variant)
        return call, worker.to_numpy(case, call())
    train, predict = worker.network(case, variant)
    if case["op"] == "train":
        train()
    return train if case["op"] == "train" else predict, worker.to_numpy(case, predict())


def digest(result: NDArray) -> dict[str, Any]:
    """What tells results apart: the shape, the Euclidean norm, and a sum with varying weights.

    The sum of a random error in every n-th number is about norm / sqrt(n): even one wrong pixel shows.
    """
    values = np.ascontiguousarray(result, np.float64).reshape(-1)
    weighted = float(values @ np.cos(np.arange(values.size)))
    return {"shape": result.shape, "norm": float(np.linalg.norm(values)), "sum": weighted}


def main(name: str, threads: int) -> None:
    worker = WORKERS[name](threads)
    prepared: dict[str, Call] = {}
    answer: dict[str, Any] = {"version": worker.version, "variants": worker.variants}
    while True:
        print(json.dumps(answer), flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        question = json.loads(line)
        if case := question.get("prepare"):
            prepared, answer = {}, {}
            for variant in worker.variants:
                prepared[variant], result = prepare(worker, case, variant)
                answer[variant] = digest(result)
        elif case := question.get("memory"):
            answer = {"bytes": peak_memory(worker, case, question["variant"])}
        else:
            answer = {"seconds": timing.turn(prepared[question["run"]], question["calls"])}


def peak_memory(worker: Any, case: Case, variant: str) -> int:
    """The most that this process has had in memory, with its interpreter and framework."""
    train, predict = worker.network(case, variant)
    for _ in range(2):
        train() if case["op"] == "train" else predict()
    # getrusage would begin with what the parent had when this process was made; this is Linux' own account.
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
