"""fastconv against other frameworks, in turn, on the document's MNIST layers.

    python benchmarks/peers.py --torch PYTHON

PYTHON is the interpreter of a virtual environment that has that framework and NumPy. Each framework runs in a
process of its own (workers.py), with the same number of threads, and only one works at a time. In every round
each has a turn of as many calls as the others; the best call counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import report
import shapes
import timing

import fastconv

ROUNDS = 7

CONVOLUTION_OPS = ("conv2d", "conv2d_backprop_input", "conv2d_backprop_filter")
POOL_OPS = ("max_pool2d", "max_pool_grad")


class Worker:
    """The other end of one process of workers.py."""

    def __init__(self, python: str, name: str, threads: int) -> None:
        script = Path(__file__).with_name("workers.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.name = name
        self.process = subprocess.Popen([python, script, name, str(threads)], text=True, **pipes)
        start = self._answer()
        self.version: str = start["version"]
        self.variants: list[str] = start["variants"]

    def ask(self, **question: Any) -> dict[str, Any]:
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.name} process ended with code {self.process.wait()}")
        return json.loads(line)


class Opponent(NamedTuple):
    worker: Worker
    variant: str

    @property
    def name(self) -> str:
        return f"{self.worker.name} {self.variant}".strip()

    def seconds(self, calls: int) -> float:
        return self.worker.ask(run=self.variant, calls=calls)["seconds"]


def cases() -> Iterator[tuple[str, shapes.Conv | shapes.Pool, dict[str, Any]]]:
    """Each operation on each of the document's MNIST layers, in workers.py's words."""
    for ops, table in ((CONVOLUTION_OPS, shapes.CONVOLUTIONS), (POOL_OPS, shapes.POOLS)):
        for op in ops:
            for layer in table:
                if layer.network == shapes.DOCUMENT:
                    yield op, layer, _case(op, layer)


def _case(op: str, layer: shapes.Conv | shapes.Pool) -> dict[str, Any]:
    filters = layer.w if isinstance(layer, shapes.Conv) else (0, 0, 0, 0)
    arrays = {"x": layer.x, "w": filters, "y": layer.y}
    window = {"taps": layer.taps, "stride": layer.stride, "padding": layer.padding}
    return {"op": op, **arrays, **window, "before": layer.axis.before}


def prepare(workers: list[Worker], case: dict[str, Any]) -> None:
    """Every worker prepares the case; all must have the same result, within float32's rounding."""
    expected, *others = [pair for worker in workers for pair in worker.ask(prepare=case).items()]
    for variant, digest in others:
        if max(abs(a - b) for a, b in zip(digest, expected[1], strict=True)) > 1e-4 * expected[1][0]:
            raise SystemExit(f"{variant} has another result: {digest} instead of {expected[1]} in {case}")


def measure(opponents: list[Opponent]) -> dict[str, float]:
    """The best seconds of each, in turn."""
    slowest = max(opponent.seconds(calls=1) for opponent in opponents)
    calls = timing.calls_in_turn(slowest)
    rounds = [[opponent.seconds(calls) for opponent in opponents] for _ in range(ROUNDS)]
    return {opponent.name: min(turns[i] for turns in rounds) for i, opponent in enumerate(opponents)}


def main() -> None:
    parser = argparse.ArgumentParser(description="fastconv against other frameworks, in turn")
    parser.add_argument("--torch", metavar="PYTHON", required=True, help="interpreter with torch and numpy")
    parser.add_argument("--threads", type=int, default=fastconv.get_num_threads(), help="here %(default)s")
    options = parser.parse_args()

    machine = report.machine()
    pythons = {report.OURS: sys.executable, "torch": options.torch}
    workers = [Worker(python, name, options.threads) for name, python in pythons.items()]
    opponents = [Opponent(worker, variant) for worker in workers for variant in worker.variants]
    rows = []
    for op, layer, case in cases():
        prepare(workers, case)
        rows.append(report.Row(op, str(layer), getattr(layer, "gflop", None), measure(opponents)))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)

    peers = ", ".join(worker.version for worker in workers[1:])
    print(*machine, sep="\n")
    print(f"peers     {peers}; {options.threads} threads each; ratio: the best peer's time to fastconv's")
    print("", *report.table(rows), sep="\n")


if __name__ == "__main__":
    main()
