"""What both benchmarks print: the machine, a table with every row, geometric means, and the losses."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from shapes import DOCUMENT

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
    """One operation on one layer. `seconds`: the best time of each opponent, fastconv's under OURS."""

    op: str
    layer: str
    gflop: float | None
    seconds: dict[str, float]

    @property
    def ratio(self) -> float:
        """How many times faster fastconv is than the best of the others; below 1 it lost."""
        return min(time for name, time in self.seconds.items() if name != OURS) / self.seconds[OURS]

    @property
    def in_document(self) -> bool:
        return self.layer.startswith(DOCUMENT)


def machine() -> list[str]:
    """What the figures depend on; to be asked before anything is measured, because of the load."""
    variables = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    threads, origin = fastconv.threads.decide()
    return [
        f"CPU       {_cpu()}, {cores} cores for this process, load {load} before the start",
        f"fastconv  {fastconv.__version__}, {dispatch.selected()}, {threads} threads ({origin}), float32",
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


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of the table, and below it the geometric means of the ratios and the number of losses."""
    names = list(dict.fromkeys(name for row in rows for name in row.seconds))
    op_width = max(len(row.op) for row in rows)
    layer_width = max(len(row.layer) for row in rows)
    titles = [f"{name} ms" for name in names]
    yield "  ".join([f"{'operation':{op_width}}", f"{'layer':{layer_width}}", *titles, "GFLOP/s", "ratio"])
    for row in rows:
        times = [f"{row.seconds[name] * 1e3:{len(name) + 3}.3f}" for name in names]
        speed = f"{row.gflop / row.seconds[OURS]:7.0f}" if row.gflop else f"{'-':>7}"
        cells = [f"{row.op:{op_width}}", f"{row.layer:{layer_width}}", *times, speed, f"{row.ratio:5.2f}"]
        yield "  ".join(cells) + ("  LOSS" if row.ratio < 1 else "")
    yield ""
    yield from _means(rows)


def _means(rows: Sequence[Row]) -> Iterator[str]:
    ops = list(dict.fromkeys(row.op for row in rows))
    groups = {op: [row for row in rows if row.op == op] for op in ops} | {"all": list(rows)}
    title = "geometric mean of the ratios"
    width = max(len(title), *map(len, ops))
    yield f"{title:{width}}  {DOCUMENT + ' layers':>12}  all layers  losses"
    for name, group in groups.items():
        document = geometric_mean(row.ratio for row in group if row.in_document)
        everything = geometric_mean(row.ratio for row in group)
        losses = sum(row.ratio < 1 for row in group)
        yield f"{name:{width}}  {document:12.2f}  {everything:10.2f}  {losses:2} of {len(group)}"


def geometric_mean(ratios: Iterable[float]) -> float:
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
