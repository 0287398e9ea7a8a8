"""Which kernels were chosen, and what else a bug report should say."""

from __future__ import annotations

import os
import platform

import numpy as np

from fastconv import _algorithms, threads
from fastconv._kernels import dispatch, team
from fastconv._version import __version__


def select_isa() -> None:
    """Choose the best instruction set of this machine, or the one that FASTCONV_ISA names."""
    supported = dispatch.supported()
    wanted = os.environ.get("FASTCONV_ISA") or supported[0]
    if wanted not in supported:
        known = "this machine lacks it" if wanted in dispatch.built() else "this build has no such kernels"
        raise ImportError(f"FASTCONV_ISA={wanted}: {known}; it can be one of {', '.join(supported)}")
    dispatch.select(wanted)


def show_config() -> None:
    """Print version, instruction set, OpenMP, the number of threads with its origin, and the algorithm."""
    count, origin = threads.decide()
    others = [isa for isa in dispatch.supported() if isa != dispatch.selected()]
    openmp = team.OPENMP_VERSION
    python = f"Python {platform.python_version()}, {platform.machine()}"
    print(f"fastconv  {__version__} (NumPy {np.__version__}, {python})")
    print(f"ISA       {dispatch.selected()} (also here: {', '.join(others) or 'none'}; FASTCONV_ISA chooses)")
    print(f"OpenMP    {f'yes ({openmp})' if openmp else 'no: built without, one thread'}")
    print(f"threads   {count} (from: {origin})")
    print(f"algorithm {_algorithms.current()} (FASTCONV_ALGORITHM or fastconv.algorithm chooses)")
