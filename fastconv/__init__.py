"""fastconv: convolutional networks for NumPy, on the CPU.

    import numpy as np, fastconv
    y = fastconv.nn.conv2d(x, filters, strides=1, padding="SAME")

The operations are in `fastconv.nn`, the layers in `fastconv.layers`, whole networks in `fastconv.models`.
"""

import importlib
from typing import Any

from fastconv import _build

_build.load()

from fastconv import _config  # noqa: E402  (what follows needs the compiled code)

_config.select_isa()

from fastconv import nn  # noqa: E402
from fastconv._algorithms import algorithm  # noqa: E402
from fastconv._config import show_config  # noqa: E402
from fastconv._version import __version__  # noqa: E402
from fastconv.threads import get_num_threads, num_threads, set_num_threads  # noqa: E402

# Imported at first use: who only convolves does not wait for the rest.
_LAZY = (
    "datasets",
    "initializers",
    "layers",
    "losses",
    "models",
    "optimizers",
    "plotting",
    "reference",
    "training",
)

__all__ = [
    "__version__",
    "algorithm",
    "get_num_threads",
    "nn",
    "num_threads",
    "set_num_threads",
    "show_config",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"fastconv.{name}")
    raise AttributeError(f"module 'fastconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
