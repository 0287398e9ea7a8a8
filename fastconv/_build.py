"""Loading the compiled code: is it there, was it built from these sources, and how its OpenMP threads wait.

In a checkout the folder `fastconv` shadows an installed one, so it must hold extensions built in place, from
the sources beside it.  Each build carries a digest of its sources; importing fastconv from a checkout
compares.  An installed package has no sources beside it and compares nothing.  setup.py runs this file too,
before there is anything to import.
"""

import contextlib
import glob
import os
import zlib
from collections.abc import Iterator

HOW_TO_BUILD = "build it in place: pip install -e ."

# libgomp's idle threads spin for milliseconds before they sleep, and meanwhile keep NumPy's BLAS threads from
# running: a NumPy product and a convolution in turn then take ten times as long.  So many rounds take
# some forty microseconds, about the gap between two layers of a network.  Measured on two Zen 4 cores, in
# turn against both apart: 0.7-0.9 with 2000, 1.3 with 5000, 1.6-2.3 with 10000, 4.7 with 30000.  On two of a
# Zen 3: 1.05 with 2000, 1.3 with 3000, 1.4 with 4000, with which a single image passes through MNIST's
# networks 1.1 times as fast.
SPIN_ROUNDS = "2000"
SPIN_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

# Those that this process may use, counted before the OpenMP runtime is loaded: told to bind its threads
# (OMP_PROC_BIND, OMP_PLACES), it leaves the main thread a single one of them.
PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def digest(root: str) -> str:
    """A checksum of everything that is compiled, below the checkout `root`."""
    checksum = 0
    for pattern in ("src_c/*.[ch]", "fastconv/_kernels/*.p[yx][xd]"):
        for path in sorted(glob.glob(os.path.join(root, pattern))):
            with open(path, "rb") as source:
                checksum = zlib.crc32(source.read(), zlib.crc32(os.path.basename(path).encode(), checksum))
    return f"{checksum:08x}"


def load() -> None:
    """Import the extensions; raise ImportError, saying how to build, if they are missing or stale."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    in_checkout = os.path.isfile(os.path.join(root, "src_c", "fastconv.h"))
    try:
        with _brief_spinning():
            from fastconv._kernels import dispatch, team  # noqa: F401  (team brings the OpenMP runtime)
    except ImportError as error:
        where = f"in the checkout {root}" if in_checkout else "in this installation"
        raise ImportError(f"fastconv: no compiled code {where} ({error}); {HOW_TO_BUILD}") from error
    if in_checkout and digest(root) != dispatch.SOURCES:
        raise ImportError(
            f"fastconv: the sources in {root} have changed since they were compiled; {HOW_TO_BUILD}"
        )


@contextlib.contextmanager
def _brief_spinning() -> Iterator[None]:
    """Around the import that loads the OpenMP runtime, which reads its variables then and never again.

    The user's own choice stands, and so does the environment afterwards; a runtime that is already loaded is
    as it is.
    """
    if any(variable in os.environ for variable in SPIN_VARIABLES):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = SPIN_ROUNDS
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]
