"""The frameworks that `peers.py` compares, each in a process of its own: `python workers.py NAME THREADS`.

A worker waits on stdin and answers each line of JSON with one on stdout:

    (at the start)                             {"version": "torch 2.13.0", "variants": ["NCHW", ...]}
    {"prepare": case}                          {variant: digest of its result, ...}
    {"run": variant, "calls": n}               {"seconds": the best of n calls}

A case is {"op", "x", "w", "y", "taps", "stride", "padding", "before"}: the name of the operation in
fastconv.nn, the NHWC and HWIO shapes (a pool's w is empty), window, stride, "SAME" or "VALID", and the
padding pixels above and to the left. Only NumPy and the worker's own framework are imported here, because
each runs in the virtual environment that has it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import timing
from numpy.typing import NDArray

Case = dict[str, Any]
Call = Callable[[], Any]


class FastConv:
    def __init__(self, threads: int) -> None:
        import fastconv

        fastconv.set_num_threads(threads)
        self.nn = fastconv.nn
        self.version = f"fastconv {fastconv.__version__}"
        self.variants = ("",)

    def prepare(self, case: Case, variant: str) -> Call:
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
        raise ValueError(f"unknown operation {case['op']!r}")

    def to_numpy(self, case: Case, result: Any) -> NDArray:
        return result


class Torch:
    """PyTorch without autograd's bookkeeping: its operators, and the ones that its backward pass calls."""

    AXES = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # x NHWC -> NCHW, w HWIO -> OIHW, dy as x

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.version = f"torch {torch.__version__}"
        self.variants = ("NCHW", "channels_last")

    def prepare(self, case: Case, variant: str) -> Call:
        aten = self.torch.ops.aten
        x, w, dy = (self._tensor(a, axes, variant) for a, axes in zip(arrays(case), self.AXES, strict=True))
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
            case "max_pool2d":
                return lambda: aten.max_pool2d_with_indices(x, *window)[0]  # what F.max_pool2d calls
            case "max_pool_grad":
                indices = aten.max_pool2d_with_indices(x, *window)[1]
                return lambda: aten.max_pool2d_with_indices_backward(dy, x, *window, indices)
        raise ValueError(f"unknown operation {case['op']!r}")

    def _tensor(self, a: NDArray, axes: tuple[int, ...], variant: str) -> Any:
        layout = self.torch.channels_last if variant == "channels_last" else self.torch.contiguous_format
        source = self.torch.from_numpy(a).permute(axes)
        # With one channel .contiguous() would keep strides that say nothing about the layout.
        return self.torch.empty(source.shape, memory_format=layout).copy_(source)

    def to_numpy(self, case: Case, result: Any) -> NDArray:
        axes = (2, 3, 1, 0) if case["op"] == "conv2d_backprop_filter" else (0, 2, 3, 1)
        return result.permute(axes).numpy()


WORKERS = {"fastconv": FastConv, "torch": Torch}


def arrays(case: Case) -> list[NDArray]:
    """x, w and dy of a case, float32, the same in every process."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal(case[name], np.float32) for name in ("x", "w", "y")]


def digest(result: NDArray) -> list[float]:
    """Two numbers that tell results apart: the sum of magnitudes, and a sum with varying weights."""
    values = np.ascontiguousarray(result, np.float64).reshape(-1)
    return [float(np.abs(values).sum()), float(values @ np.cos(np.arange(values.size)))]


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
            prepared = {variant: worker.prepare(case, variant) for variant in worker.variants}
            answer = {v: digest(worker.to_numpy(case, call())) for v, call in prepared.items()}
        else:
            answer = {"seconds": timing.turn(prepared[question["run"]], question["calls"])}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
