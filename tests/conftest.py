"""What several test files share: fresh interpreters, threads on small work, hypothesis without chance."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fastconv import threads

# A shell's background job ignores interrupts, and so would the processes that it starts; some tests send
# them.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("fastconv", deadline=None, derandomize=True, database=None)
settings.load_profile("fastconv")

TESTS = str(Path(__file__).parent)
THREAD_VARIABLES = ("FASTCONV_NUM_THREADS", "OMP_NUM_THREADS")


@pytest.fixture
def python() -> Callable[..., str]:
    """run(code, **variables): what `code` prints in a fresh interpreter that also finds the tests' modules.

    A variable of None is taken out of the environment; threads' variables are out unless given.
    """

    def run(code: str, **variables: str | None) -> str:
        path = os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])
        changes = {**dict.fromkeys(THREAD_VARIABLES), "PYTHONPATH": path, **variables}
        kept = {name: value for name, value in os.environ.items() if name not in changes}
        env = kept | {name: value for name, value in changes.items() if value is not None}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture
def eager_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """However small the work, it takes all the threads that are asked for."""
    monkeypatch.setattr(threads, "GRAIN", 1)
    yield
