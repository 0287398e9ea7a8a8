"""MNIST [LeCun, Bottou, Bengio, Haffner, 1998], handed out as TensorFlow's tutorial `input_data` did.

    mnist = read_data_sets()                    # train 55,000, validation 5,000, test 10,000
    images, labels = mnist.train.next_batch(100)

`load_sample` returns the same with 5,000 digits that fastconv ships: no download.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastconv import _arguments as arguments
from fastconv.datasets import _idx

__all__ = ["DataNotFound", "DataSet", "DataSets", "cache_dir", "load_sample", "read_data_sets"]

# SHA-256 of the decompressed content: mirrors pack the same content with different gzip headers.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# Tried in this order. The first home of MNIST, yann.lecun.com, answers 403 since 2024.
MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
CONNECT_SECONDS = 2.0  # for each address of a mirror: a firewall that drops packets must not cost minutes
SILENCE_SECONDS = 20.0  # a mirror that sends nothing for so long is given up,
FILE_SECONDS = 300.0  # and so is one that takes longer for one file (the largest is 10 MB)

_SAMPLE = Path(__file__).parent / "data"
_ADVICE = (
    f"A folder that holds {', '.join(SHA256)} (plain, or gzipped as .gz) can be named by data_dir=, "
    "by --data on the command line, or by the environment variable FASTCONV_DATA; "
    "fastconv.datasets.mnist.load_sample() needs neither files nor a network."
)


class DataNotFound(FileNotFoundError):
    """The data set is not where it was looked for. The message says where that was, and what can be done."""


class DataSet:
    """Images with their labels, and an endless supply of batches of them.

    images: float32 [N,784] (height x width of other IDX files), 0 is background and 1 is ink
    labels: float32 [N,10], one-hot, or int64 [N]
    epochs_completed: how many times `next_batch` has gone on to the next epoch
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> None:
        if len(images) != len(labels):
            raise ValueError(f"images and labels differ in number: {len(images)} and {len(labels)}")
        self.images = images
        self.labels = labels
        self.epochs_completed = 0
        self._bits = np.random.PCG64(arguments.whole("seed", seed, 0))
        self._order = np.arange(len(images))
        self._start = 0

    @property
    def num_examples(self) -> int:
        """N, the number of images."""
        return len(self.images)

    def next_batch(self, batch_size: int, shuffle: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """The next `batch_size` images and labels, as fresh arrays.

        Each image comes once an epoch. A batch that the epoch's rest does not fill goes on with the start of
        the next epoch; only then, as in TensorFlow's tutorial, `epochs_completed` counts. With `shuffle`, an
        epoch that starts gets an order of its own; without, it keeps the last one. `images` and `labels` stay
        as they are. ValueError for a batch_size below 1 or above num_examples.
        """
        batch_size = arguments.whole("batch_size", batch_size, 0)
        if not 1 <= batch_size <= self.num_examples:
            raise ValueError(f"batch_size={batch_size} is not in 1..num_examples, {self.num_examples} here")
        if shuffle and self._start == 0 and self.epochs_completed == 0:
            self._order = _permutation(self._bits, self.num_examples)
        batch = self._order[self._start : self._start + batch_size]
        self._start += batch_size
        if self._start > self.num_examples:
            self.epochs_completed += 1
            self._start = batch_size - len(batch)
            if shuffle:
                self._order = _permutation(self._bits, self.num_examples)
            batch = np.concatenate([batch, self._order[: self._start]])
        return self.images[batch], self.labels[batch]


class DataSets(NamedTuple):
    """What `read_data_sets` and `load_sample` return."""

    train: DataSet
    validation: DataSet
    test: DataSet


def read_data_sets(
    data_dir: str | os.PathLike[str] | None = None,
    one_hot: bool = True,
    validation_size: int = 5000,
    *,
    seed: int = 0,
) -> DataSets:
    """MNIST, split as in TensorFlow's tutorial: the first `validation_size` training images are validation.

    With `data_dir`, the four IDX files in that folder and no others: MNIST or any set of its form. Without,
    the folder that the environment variable FASTCONV_DATA names, then `cache_dir()`, then a download into it
    (by pooch, of the extra `examples`); what comes from the last two is verified to be MNIST by its SHA-256.
    `seed` decides the order in which `next_batch` hands the images out.

    Returns train (55,000 images), validation (5,000) and test (10,000). The labels are one-hot over as many
    classes as the labels have.
    Raises DataNotFound, an OSError, where there is nothing to read, and ValueError, with the file's name, for
    one that is truncated, corrupt or no IDX file.
    """
    seed = arguments.whole("seed", seed, 0)
    validation_size = arguments.whole("validation_size", validation_size, 0)
    files = _search() if data_dir is None else _read_folder("data_dir", data_dir)
    if files is None:
        raise DataNotFound(f"data_dir={os.fspath(data_dir)!r} holds none of the data set's files. {_ADVICE}")
    images, labels = _idx.parse_pair(*files[:2])
    test = _idx.parse_pair(*files[2:])
    if images.shape[1] != test[0].shape[1]:
        raise ValueError(f"{files[0][0]} and {files[2][0]} hold images of different sizes")
    if validation_size > len(images):
        raise ValueError(f"validation_size={validation_size} exceeds the {len(images)} training images")
    classes = 1 + int(max(labels.max(), test[1].max()))
    images, labels = _finish(images, labels, classes, one_hot)
    return DataSets(
        train=DataSet(images[validation_size:], labels[validation_size:], seed=seed),
        validation=DataSet(images[:validation_size], labels[:validation_size], seed=seed),
        test=DataSet(*_finish(*test, classes, one_hot), seed=seed),
    )


def load_sample(one_hot: bool = True, seed: int = 0) -> DataSets:
    """5,000 digits of MNIST's training set, the first 500 of each class, which fastconv ships.

    `seed` decides which 400 of each class are train (4,000 images) and which 100 are test (1,000), the order
    of both, and that of `next_batch`. Validation is empty.
    """
    paths = [_SAMPLE / f"mnist-sample-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    images, labels = _idx.parse_pair(*map(_read, paths))
    # A stream of its own, so that the split has nothing to do with the batches' order.
    bits = np.random.PCG64([arguments.whole("seed", seed, 0), 1])
    order = _permutation(bits, len(labels))
    is_test = np.zeros(len(labels), bool)
    for digit in range(10):
        is_test[order[labels[order] == digit][:100]] = True
    order = _permutation(bits, len(labels))  # the first order has nearly all of test at its start
    images, labels = _finish(images, labels, 10, one_hot)
    train, test = order[~is_test[order]], order[is_test[order]]
    return DataSets(*[DataSet(images[part], labels[part], seed=seed) for part in (train, train[:0], test)])


def cache_dir() -> Path:
    """The folder in which downloads are kept, whether it exists or not: `fastconv` in the user's cache."""
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path(home, "AppData", "Local"), "fastconv", "Cache")
    if sys.platform == "darwin":
        return Path(home, "Library", "Caches", "fastconv")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(home, ".cache"), "fastconv")


def _permutation(bits: np.random.PCG64, n: int) -> np.ndarray:
    """0..n-1 in a random order. NumPy promises stable bits for PCG64, but not for Generator's methods."""
    return np.argsort(bits.random_raw(n), kind="stable")


def _finish(
    images: np.ndarray, labels: np.ndarray, classes: int, one_hot: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 -> float32 in 0..1; labels uint8 [N] -> float32 [N,classes] or int64 [N]."""
    images = np.divide(images, np.float32(255), dtype=np.float32)
    if not one_hot:
        return images, labels.astype(np.int64)
    return images, (labels[:, np.newaxis] == np.arange(classes)).astype(np.float32)


# From here on a file is (its origin, its decompressed content), and the four are in the order of SHA256.


def _read(path: Path) -> tuple[str, bytes]:
    return str(path), _idx.unpack(str(path), path.read_bytes())


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_folder(option: str, folder: str | os.PathLike[str]) -> list[tuple[str, bytes]] | None:
    """The four files in a folder, or None if it holds none of them; some, but not all, are an error."""
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"{option} must be the path of a folder, not {folder!r}")
    paths = {name: _find(Path(folder).expanduser(), name) for name in SHA256}
    missing = [name for name, path in paths.items() if path is None]
    if len(missing) == len(paths):
        return None
    if missing:
        raise DataNotFound(f"{option}={os.fspath(folder)!r} lacks {', '.join(missing)}. {_ADVICE}")
    return [_read(path) for path in paths.values()]


def _search() -> list[tuple[str, bytes]]:
    """The four files from FASTCONV_DATA, the cache or the mirrors."""
    folder = os.environ.get("FASTCONV_DATA")
    if folder:
        files = _read_folder("FASTCONV_DATA", folder)
        if files is not None:
            return files
        warnings.warn(f"FASTCONV_DATA={folder!r} holds none of MNIST's files: looking further", stacklevel=3)
    files = {name: _read_cached(name) for name in SHA256}
    missing = [name for name, file in files.items() if file is None]
    if missing:
        looked = f"MNIST is neither in FASTCONV_DATA ({folder or 'not set'}) nor in the cache {cache_dir()}"
        files.update(_download(missing, looked))
    return list(files.values())


def _read_cached(name: str) -> tuple[str, bytes] | None:
    """A verified file of the cache. One that is not MNIST's is removed, to be downloaded again."""
    path = _find(cache_dir(), name)
    if path is None:
        return None
    try:
        return str(path), _verified(name, str(path), path.read_bytes())
    except ValueError as error:
        warnings.warn(f"removed from the cache: {error}", stacklevel=4)
        with contextlib.suppress(OSError):  # a read-only cache
            path.unlink()
        return None


def _verified(name: str, origin: str, data: bytes) -> bytes:
    """The decompressed content of `data`; ValueError if it is not that of MNIST's file `name`."""
    import hashlib

    content = _idx.unpack(origin, data)
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise ValueError(f"{origin}: SHA-256 of the content is {digest}, MNIST's is {SHA256[name]}")
    return content


def _download(names: list[str], looked: str) -> dict[str, tuple[str, bytes]]:
    """Fetch the files `names`, each from the first mirror that gives the right content, into the cache."""
    try:
        import pooch
    except ImportError:
        needs = 'downloading it needs pooch: pip install "fastconv[examples]"'
        raise DataNotFound(f"{looked}; {needs}. {_ADVICE}") from None
    fetch = pooch.HTTPDownloader(timeout=(CONNECT_SECONDS, SILENCE_SECONDS))
    mirrors, files = list(MIRRORS), {}
    for name in names:
        failures = []
        for mirror in list(mirrors):
            url, sink = f"{mirror}{name}.gz", _Sink()
            try:
                fetch(url, sink, None)
                files[name] = url, _verified(name, url, sink.getvalue())
            except (OSError, ValueError) as error:  # those of requests are OSErrors
                failures.append(f"\n  {url}: {type(error).__name__}: {error}")
                mirrors.remove(mirror)
                mirrors.append(mirror)  # the last to be asked for the next file
            else:
                _save(cache_dir() / f"{name}.gz", sink.getvalue())
                break
        else:
            raise DataNotFound(f"{looked}, and no mirror gave it:{''.join(failures)}\n{_ADVICE}")
    return files


class _Sink(io.BytesIO):
    """What pooch writes to: memory, so that nothing unverified gets to the disk; only until a deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.deadline = time.monotonic() + FILE_SECONDS

    def write(self, data: bytes) -> int:
        if time.monotonic() > self.deadline:
            raise TimeoutError(f"not complete after {FILE_SECONDS:g} s")
        return super().write(data)


def _save(path: Path, data: bytes) -> None:
    """Write beside and rename, so that a kill leaves no half file of that name. A full disk is a warning."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        warnings.warn(f"{path} cannot be written, the next run will download it again: {error}", stacklevel=5)
        with contextlib.suppress(OSError):
            part.unlink()
