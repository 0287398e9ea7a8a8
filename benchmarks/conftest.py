"""Measures fastconv and NumPy in turn, and prints the table at the end."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import report
import timing

from fastconv import nn, reference

TURNS = 10

ROWS = pytest.StashKey[list[report.Row]]()
MACHINE = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "document: a layer of the document's own MNIST networks")
    config.stash[ROWS] = []
    config.stash[MACHINE] = report.machine()


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """compare(op, layer, *arguments, gflop=None, **keywords): fastconv.nn's op against its NumPy twin.

    They take turns of some calls each, and the best call counts. pytest-benchmark records fastconv's, a round
    being a call; NumPy's best goes into its extra_info. Both must have the same result.
    """

    def run(op: str, layer: Any, *arguments: Any, gflop: float | None = None, **keywords: Any) -> None:
        ours = partial(getattr(nn, op), *arguments, **keywords)
        numpys = partial(getattr(reference, op), *arguments, **keywords)
        calls = timing.calls_in_turn(max(timing.seconds(ours), timing.seconds(numpys)))
        rounds = itertools.count()
        numpy_turns = []

        def before_round() -> None:
            if next(rounds) % calls == 0:
                timing.rest()
                numpy_turns.append(timing.turn(numpys, calls))
                timing.warm_up(ours)

        benchmark.group = op
        benchmark.pedantic(ours, setup=before_round, rounds=TURNS * calls)
        benchmark.extra_info.update(layer=str(layer), gflop=gflop, numpy_seconds=min(numpy_turns))
        _assert_same(ours(), numpys())
        if benchmark.stats:  # none with --benchmark-disable
            seconds = {report.OURS: benchmark.stats["min"], "NumPy": min(numpy_turns)}
            request.config.stash[ROWS].append(report.Row(op, str(layer), gflop, seconds))

    return run


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if rows:
        terminalreporter.section("fastconv against NumPy (im2col + BLAS)")
        machine = [*config.stash[MACHINE], report.numpy_and_blas()]
        for line in [*machine, "", *report.table(rows), "", *report.document_means(rows)]:
            terminalreporter.write_line(line)


def _assert_same(ours: Any, numpys: Any) -> None:
    """Within float32's rounding; NumPy's sums over 78,400 rows lose five digits."""
    for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (ours, numpys)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())
