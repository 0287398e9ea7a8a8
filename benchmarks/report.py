"""What the benchmarks print: the machine, a table with every row, geometric means, and the losses.

As text to read in a terminal, or as Markdown.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from shapes import DOCUMENT, KIND_3X3, KIND_5X5, KIND_OTHER, KIND_POOL, KIND_STEP

import fastconv
from fastconv._kernels import dispatch

OURS = "fastconv"
THREAD_VARIABLES = (
    "FASTCONV_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
)


class Row(NamedTuple):
    """One operation on one layer. `seconds`: the best time of each opponent, fastconv's under OURS.

    gflop: of the plain sum, in 1e9; executed: what fastconv computes of it; kind: of the layer.
    """

    op: str
    layer: str
    gflop: float | None
    seconds: dict[str, float]
    executed: float | None = None
    kind: str = ""

    @property
    def ratio(self) -> float:
        """How many times faster fastconv is than the best of the others; below 1 it lost."""
        return min(time for name, time in self.seconds.items() if name != OURS) / self.seconds[OURS]

    @property
    def in_document(self) -> bool:
        return self.layer.startswith(DOCUMENT)


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """How many of its cores this process may use."""
    return fastconv.threads.PROCESSORS


def machine(dtype: str = "float32") -> list[str]:
    """What the figures depend on; to be asked before anything is measured, because of the load."""
    variables = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    threads, origin = fastconv.threads.decide()
    return [
        f"CPU       {cpu()}, {cores()} cores for this process, load {load} before the start",
        f"fastconv  {fastconv.__version__}, {dispatch.selected()}, {threads} threads ({origin}), {dtype}",
        f"set       {', '.join(variables) or 'no variable about threads'}",
    ]


def numpy_and_blas() -> str:
    """NumPy and the library that multiplies its matrices."""
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        library = f"{blas['name']} {blas['version']}"
    except (TypeError, KeyError):  # before 1.26 it can only print it
        library = "unknown BLAS"
    return f"NumPy     {np.__version__}, {library}, with the number of threads it chooses itself"


def table(rows: Sequence[Row], markdown: bool = False) -> Iterator[str]:
    """Every row: times, fastconv's speed (as executed, too, if rows say so), the ratio, and LOSS below 1."""
    names = list(dict.fromkeys(name for row in rows for name in row.seconds))
    speeds = ["GFLOP/s", "executed"] if any(row.executed for row in rows) else ["GFLOP/s"]
    titles = ["operation", "layer", *(f"{name} ms" for name in names), *speeds, "ratio", ""]
    body = []
    for row in rows:
        times = [f"{row.seconds[name] * 1e3:.3f}" for name in names]
        counts = [row.gflop, row.executed][: len(speeds)]
        cells = [f"{count / row.seconds[OURS]:.0f}" if count else "-" for count in counts]
        loss = "LOSS" if row.ratio < 1 else ""
        body.append([row.op, row.layer, *times, *cells, f"{row.ratio:.2f}", loss])
    yield from aligned(titles, body, "<<" + ">" * (len(titles) - 3) + "<", markdown)


def document_means(rows: Sequence[Row]) -> Iterator[str]:
    """The geometric means of the ratios of each operation: of the document's layers, and of all."""
    ops = list(dict.fromkeys(row.op for row in rows))
    groups = {op: [row for row in rows if row.op == op] for op in ops} | {"all": list(rows)}
    body = []
    for name, group in groups.items():
        document = geometric_mean(row.ratio for row in group if row.in_document)
        everything = geometric_mean(row.ratio for row in group)
        body.append([name, f"{document:.2f}", f"{everything:.2f}", _losses(group)])
    titles = ["geometric mean of the ratios", f"{DOCUMENT} layers", "all layers", "losses"]
    yield from aligned(titles, body, "<>>>")


def kind_means(rows: Sequence[Row], markdown: bool = False) -> Iterator[str]:
    """The geometric means of the ratios of each kind of layer and operation, and of all but the networks'."""
    layers = [row for row in rows if row.kind != KIND_STEP]
    steps = [row for row in rows if row.kind == KIND_STEP]
    groups = [*_by_kind(layers), ("all layers", "all", layers), *_by_kind(steps)]
    body = [
        [kind, op, f"{geometric_mean(row.ratio for row in group):.2f}", _losses(group)]
        for kind, op, group in groups
        if group
    ]
    yield from aligned(
        ["geometric mean of the ratios", "operation", "mean", "losses"], body, "<<>>", markdown
    )


def scaling_table(
    rows: Sequence[tuple[str, str, list[float]]], threads: int, markdown: bool = False
) -> Iterator[str]:
    """fastconv's own milliseconds on one thread and on all, and how many times as fast it is on all."""
    body = [
        [op, layer, f"{alone * 1e3:.3f}", f"{together * 1e3:.3f}", f"{alone / together:.2f}"]
        for op, layer, (alone, together) in rows
    ]
    titles = ["operation", "network", "1 thread ms", f"{threads} threads ms", "times as fast"]
    yield from aligned(titles, body, "<<>>>", markdown)


def memory_table(peaks: Sequence[tuple[str, str, dict[str, int]]], markdown: bool = False) -> Iterator[str]:
    """The most memory that each opponent's process took, in megabytes, framework and all."""
    names = list(dict.fromkeys(name for *_, sizes in peaks for name in sizes))
    body = [[op, layer, *(f"{sizes[name] / 1e6:.0f}" for name in names)] for op, layer, sizes in peaks]
    titles = ["operation", "network", *(f"{name} MB" for name in names)]
    yield from aligned(titles, body, "<<" + ">" * len(names), markdown)


def _by_kind(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    order = [KIND_3X3, KIND_5X5, KIND_OTHER, KIND_POOL, KIND_STEP]
    pairs = dict.fromkeys((row.kind, row.op) for row in rows)
    groups = [(kind, op, [row for row in rows if (row.kind, row.op) == (kind, op)]) for kind, op in pairs]
    return sorted(groups, key=lambda group: order.index(group[0]))


def _losses(rows: Sequence[Row]) -> str:
    return f"{sum(row.ratio < 1 for row in rows)} of {len(rows)}"


def aligned(titles: list[str], body: list[list[str]], aligns: str, markdown: bool = False) -> Iterator[str]:
    """The lines of a table; `aligns` has < or > for each column."""
    if markdown:
        rules = ["---" if align == "<" else "---:" for align in aligns]
        yield from (f"| {' | '.join(cells)} |" for cells in (titles, rules, *body))
        return
    widths = [max(map(len, column)) for column in zip(titles, *body, strict=True)]
    for cells in (titles, *body):
        columns = zip(cells, aligns, widths, strict=True)
        yield "  ".join(f"{cell:{align}{width}}" for cell, align, width in columns).rstrip()


def geometric_mean(ratios: Iterable[float]) -> float:
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan
