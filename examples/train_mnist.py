"""Train a network of the document on MNIST: `python examples/train_mnist.py --help` lists the options.

The same as `python -m fastconv train`.
"""

from __future__ import annotations

import sys

from fastconv.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
