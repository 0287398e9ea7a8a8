"""fastconv against other frameworks, in turn: single layers, and whole networks.

    python benchmarks/peers.py --torch PYTHON --tensorflow PYTHON

PYTHON is the interpreter of a virtual environment that has that framework and NumPy. Each framework runs in a
process of its own (workers.py), with the same number of threads, and only one works at a time. In every round
each has a turn of as many calls as the others; the best call counts, against the best of the others.

A pool has four rows: two of functions, `max_pool2d` (all that inference does) and `max_pool_grad`, which is
given x and y as TensorFlow's; and two of a step of training, as each framework's own layer takes it: forward
with what the gradient needs to remember, and that gradient. fastconv remembers a byte per result, torch an
index of eight bytes, TensorFlow nothing but x and y; and fastconv's layer stands in a model, whose memory is
used again.

The section `scaling` is fastconv's alone: its networks on one thread and on all, in turn.

The frameworks compute with oneDNN wherever they can. `--without-onednn` adds each of them once more without
it (NNPACK or im2col and MKL; Eigen), which wins some rows: with a few input channels, or large filters.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import networks
import report
import shapes
import timing

import fastconv
from fastconv import models

ROUNDS = 7

CONVOLUTION_OPS = ("conv2d", "conv2d_backprop_input", "conv2d_backprop_filter")
POOL_OPS = ("max_pool2d", "max_pool_grad", "max_pool training", "max_pool training gradient")
SECTIONS = ("convolutions", "pools", "steps", "scaling", "memory")

# How far results may be apart, as a share of their norm: by float32's rounding; in the logits after one step
# of training, in which Adam takes but the sign of a gradient, however small; and where each framework drops
# other activations.
ROUNDING, STEPPING, DROPPING = 1e-4, 0.05, 0.3


class Worker:
    """The other end of one process of workers.py."""

    def __init__(self, python: str, name: str, threads: int) -> None:
        script = Path(__file__).with_name("workers.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.name, self.python, self.threads = name, python, threads
        self.process = subprocess.Popen([python, script, name, str(threads)], text=True, **pipes)
        start = self._answer()
        self.version: str = start["version"]
        self.variants: list[str] = start["variants"]

    def ask(self, **question: Any) -> dict[str, Any]:
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return self._answer()

    def again(self) -> Worker:
        return Worker(self.python, self.name, self.threads)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

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


class Task(NamedTuple):
    """One operation on one layer or network, and the same in workers.py's words."""

    op: str
    layer: shapes.Conv | shapes.Pool | shapes.Net
    case: dict[str, Any]

    @property
    def drops(self) -> bool:
        return self.op == "train" and self.case["dropout"]

    @property
    def tolerance(self) -> float:
        if self.op != "train":
            return ROUNDING
        return DROPPING if self.drops else STEPPING

    def row(self, seconds: dict[str, float]) -> report.Row:
        row = report.Row(self.op, str(self.layer), None, seconds, kind=self.layer.kind)
        if isinstance(self.layer, shapes.Conv):
            row = row._replace(gflop=self.layer.gflop, executed=self.layer.executed_gflop(self.op))
        return row


def tasks(sections: list[str], dtype: str) -> Iterator[Task]:
    tables: dict[str, tuple[Sequence[str], Sequence[shapes.Conv | shapes.Pool]]] = {
        "convolutions": (CONVOLUTION_OPS, shapes.at_peer_batch(shapes.CONVOLUTIONS)),
        "pools": (POOL_OPS, shapes.at_peer_batch(shapes.POOLS)),
    }
    for section, (ops, table) in tables.items():
        if section in sections:
            yield from (Task(op, layer, _layer_case(op, layer, dtype)) for op in ops for layer in table)
    if "steps" in sections:
        yield from network_tasks(dtype)


def network_tasks(dtype: str) -> Iterator[Task]:
    for op, nets in (("train", shapes.TRAINED), ("predict", shapes.PREDICTED)):
        yield from (Task(op, net, _net_case(op, net, dtype)) for net in nets)


def _layer_case(op: str, layer: shapes.Conv | shapes.Pool, dtype: str) -> dict[str, Any]:
    filters = layer.w if isinstance(layer, shapes.Conv) else (0, 0, 0, 0)
    arrays = {"x": layer.x, "w": filters, "y": layer.y}
    window = {"taps": layer.taps, "stride": layer.stride, "padding": layer.padding}
    ends = {"before": layer.axis.before, "after": layer.axis.after}
    return {"op": op, "dtype": dtype, **arrays, **window, **ends}


def _net_case(op: str, net: shapes.Net, dtype: str) -> dict[str, Any]:
    facts = _net_facts(net.network, net.arguments)
    x = net.images, *facts["image"]
    return {"op": op, "dtype": dtype, "network": (net.network, net.arguments), "x": x, **facts}


@functools.lru_cache
def _net_facts(network: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    model = getattr(models, network)(*arguments)
    return {
        "image": model.net.input_shape,
        "classes": model.classes,
        "description": networks.describe(model.net, model.net.input_shape),
        "sizes": [(path.rpartition("/")[2], view.shape) for path, view in model.net.weights.items()],
        "dropout": bool(model.dropouts),
    }


def prepare(workers: list[Worker], task: Task) -> None:
    """Every worker prepares the case; all must have the same result, within the tolerance."""
    (_, expected), *others = [pair for worker in workers for pair in _digests(worker, task)]
    allowed = task.tolerance * expected["norm"]
    for name, digest in others:
        # Without some of its units a network gives other sums.
        compared = ("norm",) if task.drops else ("norm", "sum")
        near = all(abs(digest[key] - expected[key]) <= allowed for key in compared)  # not if NaN
        if not near or digest["shape"] != expected["shape"]:
            raise SystemExit(f"{name} has another result: {digest} instead of {expected} in {task.case}")


def _digests(worker: Worker, task: Task) -> list[tuple[str, dict[str, Any]]]:
    answer = worker.ask(prepare=task.case)
    return [(f"{worker.name} {variant}", digest) for variant, digest in answer.items()]


def measure(opponents: list[Opponent], rounds: int) -> list[float]:
    """The best seconds of each, in turns that are as long for all."""
    calls = [timing.calls_in_turn(opponent.seconds(calls=1)) for opponent in opponents]
    in_turn = list(zip(opponents, calls, strict=True))
    turns = [[opponent.seconds(n) for opponent, n in in_turn] for _ in range(rounds)]
    return [min(times) for times in zip(*turns, strict=True)]


def memory(opponents: list[Opponent], task: Task) -> dict[str, int]:
    """The most bytes that each had in memory, in a process that does nothing else."""
    return {opponent.name: _peak(opponent, task) for opponent in opponents}


def _peak(opponent: Opponent, task: Task) -> int:
    fresh = opponent.worker.again()
    peak = fresh.ask(memory=task.case, variant=opponent.variant)["bytes"]
    fresh.close()
    return peak


def scaling(tasks: list[Task], threads: int, rounds: int) -> list[tuple[str, str, list[float]]]:
    """The best seconds of fastconv's steps on one thread and on all, in turn."""
    workers = [Worker(sys.executable, report.OURS, number) for number in (1, threads)]
    opponents = [Opponent(worker, variant) for worker in workers for variant in worker.variants]
    rows = []
    for task in tasks:
        prepare(workers, task)
        rows.append((task.op, str(task.layer), measure(opponents, rounds)))
    for worker in workers:
        worker.close()
    return rows


def facts(options: argparse.Namespace, workers: list[Worker], chosen: list[Task]) -> Iterator[str]:
    """What the table does not say itself."""
    versions = ", ".join(dict.fromkeys(worker.version for worker in workers[1:]))
    yield f"peers     {versions}; {options.threads} threads each; ratio: the best peer's time to fastconv's"
    yield "GFLOP/s   fastconv's, as of the plain sum; executed: of what it computes, less with Winograd"
    layers = [task.layer for task in chosen if not isinstance(task.layer, shapes.Net)]
    if images := {layer.network: layer.images for layer in layers}:
        yield f"images    {', '.join(f'{network} {number}' for network, number in images.items())}"


def main() -> None:
    options = _options()
    chosen = [task for task in tasks(options.sections, options.dtype) if options.only in str(task.layer)]
    remembered = [task for task in network_tasks(options.dtype) if options.only in str(task.layer)]
    scaled = remembered if "scaling" in options.sections and options.threads > 1 else []
    remembered = remembered if "memory" in options.sections else []
    if not (chosen or scaled or remembered):
        raise SystemExit(f"nothing to measure: no layer's name contains {options.only!r}")
    machine = report.machine(options.dtype)
    workers = [Worker(python, name, options.threads) for name, python in _pythons(options).items()]
    opponents = [Opponent(worker, variant) for worker in workers for variant in worker.variants]
    names = [opponent.name for opponent in opponents]
    rows = []
    for task in chosen:
        prepare(workers, task)
        rows.append(task.row(dict(zip(names, measure(opponents, options.rounds), strict=True))))
        print(".", end="", file=sys.stderr, flush=True)
    scales = scaling(scaled, options.threads, options.rounds)
    peaks = [(task.op, str(task.layer), memory(opponents, task)) for task in remembered]
    print(file=sys.stderr)

    fence = ["```"] if options.markdown else []
    print(*fence, *machine, *facts(options, workers, chosen), *fence, sep="\n")
    if rows:
        print("", *report.table(rows, options.markdown), sep="\n")
        print("", *report.kind_means(rows, options.markdown), sep="\n")
    if scales:
        print("", *report.scaling_table(scales, options.threads, options.markdown), sep="\n")
    if peaks:
        print("", *report.memory_table(peaks, options.markdown), sep="\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="fastconv against other frameworks, in turn")
    parser.add_argument("--torch", metavar="PYTHON", help="interpreter with torch and numpy")
    parser.add_argument("--tensorflow", metavar="PYTHON", help="interpreter with tensorflow and numpy")
    parser.add_argument("--without-onednn", action="store_true", help="each also without oneDNN")
    parser.add_argument("--threads", type=int, default=fastconv.get_num_threads(), help="here %(default)s")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each (%(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="%(default)s")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="some of %(default)s")
    parser.add_argument("--only", metavar="SUBSTRING", default="", help="layers whose name contains it")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    options = parser.parse_args()
    options.sections = options.sections.split(",")
    if not (options.torch or options.tensorflow) and options.sections != ["scaling"]:
        parser.error("at least one of --torch and --tensorflow is needed")
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"--sections must be some of {', '.join(SECTIONS)}, not {', '.join(sorted(unknown))}")
    if options.dtype == "float64":
        options.sections = [
            section for section in options.sections if section not in ("steps", "scaling", "memory")
        ]
        print("fastconv.models compute in float32: no whole networks in float64", file=sys.stderr)
    return options


def _pythons(options: argparse.Namespace) -> dict[str, str]:
    """The interpreter of each worker, by its name in workers.py; fastconv's is the first."""
    given = {"torch": options.torch, "TF": options.tensorflow}
    pythons = {report.OURS: sys.executable}
    for name, python in given.items():
        if python:
            pythons[name] = python
            if options.without_onednn:
                pythons[f"{name} w/o oneDNN"] = python
    return pythons


if __name__ == "__main__":
    main()
