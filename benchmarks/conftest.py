"""Measures fastconv and NumPy in turn, and prints the table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import report

from fastconv import nn, reference

ROUNDS = 7
# Small work is noisy: as many more rounds as fit into this time.
SMALL_WORK_SECONDS = 0.1
MOST_ROUNDS = 50
# OpenBLAS' idle threads keep a core busy for some 26 ms after a product (2**26 cycles), which must not slow
# down fastconv's turn. fastconv's own fall asleep within microseconds.
PAUSE_SECONDS = 0.03

ROWS = pytest.StashKey[list[report.Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "document: a layer of the document's own MNIST networks")
    config.stash[ROWS] = []


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """compare(op, layer, *arguments, gflop=None, **keywords): fastconv.nn's op against its NumPy twin.

    Both run in turn in every round, once to wake their threads and once against the clock; pytest-benchmark
    records fastconv's times, NumPy's best goes into its extra_info. Both must have the same result.
    """

    def run(op: str, layer: Any, *arguments: Any, gflop: float | None = None, **keywords: Any) -> None:
        ours = partial(getattr(nn, op), *arguments, **keywords)
        numpys = partial(getattr(reference, op), *arguments, **keywords)
        small = int(SMALL_WORK_SECONDS / (_seconds(ours) + _seconds(numpys)))
        numpy_seconds = []

        def numpys_turn() -> None:
            numpys()
            numpy_seconds.append(_seconds(numpys))
            time.sleep(PAUSE_SECONDS if small <= ROUNDS else 0)
            ours()

        benchmark.group = op
        benchmark.pedantic(ours, setup=numpys_turn, rounds=min(max(small, ROUNDS), MOST_ROUNDS))
        benchmark.extra_info.update(layer=str(layer), gflop=gflop, numpy_seconds=min(numpy_seconds))
        _assert_same(ours(), numpys())
        if benchmark.stats:  # none with --benchmark-disable
            seconds = {report.OURS: benchmark.stats["min"], "NumPy": min(numpy_seconds)}
            request.config.stash[ROWS].append(report.Row(op, str(layer), gflop, seconds))

    return run


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if rows:
        terminalreporter.section("fastconv against NumPy (im2col + BLAS)")
        for line in [*report.machine(), report.numpy_and_blas(), "", *report.table(rows)]:
            terminalreporter.write_line(line)


def _seconds(call: Callable[[], Any]) -> float:
    """One call's time; as in pytest-benchmark's, the result is freed after it."""
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    del result
    return seconds


def _assert_same(ours: Any, numpys: Any) -> None:
    """Within float32's rounding; NumPy's sums over 78,400 rows lose five digits."""
    for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (ours, numpys)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())
