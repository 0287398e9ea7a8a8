"""fastconv: convolutional networks for NumPy, on the CPU.

    import numpy as np, fastconv
    y = fastconv.nn.conv2d(x, filters, strides=1, padding="SAME")

The operations are in `fastconv.nn`, the layers in `fastconv.layers`, whole networks in `fastconv.models`.
"""

from fastconv import _build

_build.load()

from fastconv import _config  # noqa: E402  (what follows needs the compiled code)

_config.select_isa()

from fastconv import layers, losses, nn, optimizers  # noqa: E402
from fastconv._config import show_config  # noqa: E402
from fastconv._version import __version__  # noqa: E402
from fastconv.threads import get_num_threads, num_threads, set_num_threads  # noqa: E402

__all__ = [
    "__version__",
    "get_num_threads",
    "layers",
    "losses",
    "nn",
    "num_threads",
    "optimizers",
    "set_num_threads",
    "show_config",
]
