"""How an opponent's turn is timed. Only the standard library: each framework's own interpreter imports it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# A turn is as many calls as fit into this time. peers.py goes by each opponent's own speed, for one that
# takes seconds would leave the others a single call; against NumPy the slower of the two decides for both.
TURN_SECONDS = 0.15
MOST_CALLS = 50
# Before the clock starts: for the threads to wake and spread over the cores, and the caches to fill.
WARM_SECONDS = 0.03


def calls_in_turn(seconds_of_one: float) -> int:
    return min(max(int(TURN_SECONDS / seconds_of_one), 1), MOST_CALLS)


def turn(call: Callable[[], Any], calls: int) -> float:
    """The shortest of `calls` calls in seconds; afterwards all threads of the process rest."""
    warm_up(call)
    best = min(seconds(call) for _ in range(calls))
    rest()
    return best


def warm_up(call: Callable[[], Any]) -> None:
    end = time.perf_counter() + WARM_SECONDS
    call()
    while time.perf_counter() < end:
        call()


def seconds(call: Callable[[], Any]) -> float:
    """The time of one call, without that of freeing its result."""
    start = time.perf_counter()
    result = call()
    duration = time.perf_counter() - start
    del result
    return duration


def rest() -> None:
    """Wait until no thread of this process is busy.

    The idle threads of a BLAS or an OpenMP runtime look out for new work before they sleep (OpenBLAS' for
    2**28 cycles, a tenth of a second) and would slow down the next opponent.
    """
    give_up = time.perf_counter() + 1
    while time.perf_counter() < give_up:
        before = time.process_time()
        time.sleep(0.005)
        if time.process_time() - before < 0.001:
            return
