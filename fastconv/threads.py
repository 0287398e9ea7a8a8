"""How many threads an operation uses, and why.

The first of these that is given decides:

1. the argument `num_threads=` of the call,
2. the innermost `with fastconv.num_threads(n):` around it (in this Python thread),
3. `fastconv.set_num_threads(n)`,
4. the environment variables FASTCONV_NUM_THREADS, then OMP_NUM_THREADS,
5. the processors that this process may use when fastconv is imported: its affinity, or its container's CPU
   quota if that is less.

Whatever is decided, small work takes fewer threads, down to one, because waking a thread costs some
microseconds; and a forked child computes on one thread, because the runtime's other threads did not survive
the fork and waiting for them would never end.  Results have the same bits for every number of threads.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from contextvars import ContextVar

from fastconv import _arguments as arguments
from fastconv._build import PROCESSORS
from fastconv._kernels import team

# Multiply-adds that are worth a thread: about 20 microseconds of one core, some times the cost of waking
# another.
GRAIN = 1 << 20
# What an element that comes from memory costs, in multiply-adds: of a pass over an array, of the filters
# that few pixels wait for.
PASS = 16

# Whatever is asked for: each thread has scratch memory of its own, and the runtime aborts where it cannot
# start one.
MOST_THREADS = 256

_context: ContextVar[int | None] = ContextVar("fastconv_num_threads", default=None)
_process: int | None = None
_home = os.getpid()


def get_num_threads() -> int:
    """The number of threads that a large operation called here and now would use."""
    return decide()[0]


def set_num_threads(n: int | None) -> None:
    """Set the number of threads for the whole process; None goes back to the environment and the machine."""
    global _process
    _process = None if n is None else arguments.whole("n", n, 1)


@contextlib.contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Use n threads inside a `with` block, in this Python thread (or asyncio task) only."""
    token = _context.set(arguments.whole("n", n, 1))
    try:
        yield
    finally:
        _context.reset(token)


def resolve(argument: int | None, work: int) -> int:
    """The number of threads for `work` multiply-adds, given the call's num_threads argument (or None)."""
    n = arguments.whole("num_threads", argument, 1) if argument is not None else _wanted()[0]
    if n == 1 or work < 2 * GRAIN or os.getpid() != _home or not team.OPENMP_VERSION:
        return 1
    return min(n, work // GRAIN, MOST_THREADS)


def decide() -> tuple[int, str]:
    """The number of threads that large work takes here and now, and in words where it came from."""
    if not team.OPENMP_VERSION:
        return 1, "built without OpenMP"
    if os.getpid() != _home:
        return 1, "forked child"
    return _wanted()


def _wanted() -> tuple[int, str]:
    """The number of threads that was asked for, and in words by whom."""
    if (n := _context.get()) is not None:
        return n, "with fastconv.num_threads"
    if _process is not None:
        return _process, "fastconv.set_num_threads"
    return _default()


@functools.lru_cache(maxsize=1)
def _default() -> tuple[int, str]:
    for variable in ("FASTCONV_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").split(",")[0].strip()  # OMP_NUM_THREADS may list nested levels
        if text:
            if not text.isdecimal() or int(text) < 1:
                if variable == "OMP_NUM_THREADS":
                    continue  # not ours to judge
                raise ValueError(f"{variable} must be a positive whole number, not {text!r}")
            return int(text), f"environment variable {variable}"
    quota = cgroup_quota()
    if quota is not None and quota < PROCESSORS:
        return quota, "cgroup CPU quota"
    return PROCESSORS, "processor affinity"


def cgroup_quota(root: str = "/") -> int | None:
    """The container's CPU quota in whole processors, rounded up; None without one.  `root` is for tests."""
    quotas = [quota for folder in _cgroup_folders(root) if (quota := _read_quota(folder)) is not None]
    return min(quotas, default=None)


def _cgroup_folders(root: str) -> Iterator[str]:
    """This process's cgroup (version 2, or version 1's cpu controller) and every one around it."""
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = os.path.join(root, "sys/fs/cgroup", "cpu" if controllers else "")
        yield folder
        for part in path.split("/"):
            if part:
                folder = os.path.join(folder, part)
                yield folder


def _read_quota(folder: str) -> int | None:
    quota, _, period = _read(os.path.join(folder, "cpu.max")).partition(" ")
    if not period:
        quota = _read(os.path.join(folder, "cpu.cfs_quota_us"))
        period = _read(os.path.join(folder, "cpu.cfs_period_us"))
    try:
        microseconds = int(quota)
        return None if microseconds < 0 else max(1, -(-microseconds // int(period)))
    except ValueError:  # "max", or no such files
        return None


def _read(path: str) -> str:
    """A small file's text; nothing if there is none."""
    with contextlib.suppress(OSError), open(path) as file:
        return file.read().strip()
    return ""
