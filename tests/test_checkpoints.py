"""Checkpoint files: what is saved comes back, and no accident loses or half-loads anything."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from fastconv import checkpoints
from fastconv.layers import Conv2D, Dense, Flatten, Sequential
from fastconv.optimizers import Adam
from fastconv.training import Classifier


def classifier(units=3, seed=0, dtype=np.float32):
    net = Sequential([Conv2D(2, 3), Flatten(), Dense(units)], input_shape=(5, 5, 1), seed=seed, dtype=dtype)
    return Classifier(net, Adam(), "tiny")


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.npz"
    classifier(seed=1).save(path)
    return path


def entries_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_entries(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_round_trip(saved):
    source, target = classifier(seed=1), classifier(seed=2)
    assert not np.array_equal(source.net.parameters, target.net.parameters)
    target.load(saved)
    assert np.array_equal(source.net.parameters, target.net.parameters)
    x = np.random.default_rng(0).random((4, 5, 5, 1))
    assert np.array_equal(source.predict(x), target.predict(x))


def test_numpy_reads_the_file(saved):
    with np.load(saved, allow_pickle=False) as file:
        assert file.files == ["fastconv", "conv2d/kernel", "conv2d/bias", "dense/kernel", "dense/bias"]
        assert json.loads(str(file["fastconv"])) == {
            "format": "fastconv checkpoint",
            "version": 1,
            "model": "Classifier",
        }
        assert file["conv2d/kernel"].shape == (3, 3, 1, 2)
        assert file["conv2d/kernel"].dtype == np.float32


def test_the_same_parameters_give_the_same_bytes(saved, tmp_path):
    classifier(seed=1).save(tmp_path / "again")
    assert saved.read_bytes() == (tmp_path / "again").read_bytes()


@pytest.mark.parametrize("name", ["model", "model.npz", "model.ckpt", "a b.ü"])
def test_the_path_is_exactly_the_one_given(tmp_path, name):
    classifier().save(str(tmp_path / name))
    assert os.listdir(tmp_path) == [name]
    classifier().load(tmp_path / name)


def test_saving_replaces(saved):
    model = classifier(seed=3)
    model.save(saved)
    target = classifier()
    target.load(saved)
    assert np.array_equal(target.net.parameters, model.net.parameters)
    assert os.listdir(saved.parent) == [saved.name]


def test_loading_casts(saved, tmp_path):
    source, wide = classifier(seed=1), classifier(dtype=np.float64)
    wide.load(saved)
    assert wide.net.parameters.dtype == np.float64
    assert np.array_equal(wide.net.parameters, source.net.parameters)
    wide.save(tmp_path / "wide")
    narrow = classifier()
    narrow.load(tmp_path / "wide")
    assert np.array_equal(narrow.net.parameters, source.net.parameters)


def test_loading_resets_the_optimizer(saved):
    x, y = np.random.default_rng(0).random((6, 5, 5, 1)), [0, 1, 2, 0, 1, 2]
    fresh, used = classifier(), classifier()
    used.fit(x, y, epochs=2, batch_size=3, verbose=0)
    for model in (fresh, used):
        model.load(saved)
        model.train(x, y)
    assert np.array_equal(fresh.net.parameters, used.net.parameters)


def test_names_that_collide_with_numpy_arguments(tmp_path):
    arrays = {"file": np.ones(2), "allow_pickle": np.zeros(3)}
    checkpoints.save(tmp_path / "odd", arrays, "Odd")
    into = {name: np.full_like(array, 5) for name, array in arrays.items()}
    checkpoints.load(tmp_path / "odd", into)
    assert all(np.array_equal(into[name], arrays[name]) for name in arrays)


@pytest.mark.skipif(os.name != "posix", reason="symbolic links and permissions as on POSIX")
def test_links_stay_and_permissions_are_usual(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "target")
    classifier().save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    classifier().load(tmp_path / "deep" / "target")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "deep" / "target").stat().st_mode == (tmp_path / "plain").stat().st_mode


# ---- accidents ----


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        classifier(seed=9).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


SAVE_FOREVER = """
import sys
import numpy as np
from fastconv import checkpoints
value = 0
while True:
    value += 1
    arrays = {name: np.full(200_000, value, np.float32) for name in ("a", "b", "c")}
    checkpoints.save(sys.argv[1], arrays, "Loop")
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_kill_during_save_loses_nothing(tmp_path):
    path = tmp_path / "model.npz"
    waits, last = random.Random(0), 0
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(path)]) as process:
            written = path.stat().st_mtime_ns if path.exists() else None
            deadline = time.monotonic() + 30
            while not path.exists() or path.stat().st_mtime_ns == written:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(waits.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
        arrays = {name: np.zeros(200_000, np.float32) for name in ("a", "b", "c")}
        checkpoints.load(path, arrays)
        values = {float(value) for array in arrays.values() for value in np.unique(array)}
        assert len(values) == 1  # one save's arrays, whole
        last = max(last, values.pop())
    assert last > 0


def check_refused(path, match):
    """Loading fails with one clear error and changes nothing."""
    model = classifier(seed=5)
    before = model.net.parameters.copy()
    with pytest.raises(ValueError, match=match):
        model.load(path)
    assert np.array_equal(model.net.parameters, before)


def test_truncated_files(saved, tmp_path):
    whole, cut = saved.read_bytes(), tmp_path / "cut"
    for length in [*range(0, 100), *range(100, len(whole), 37), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        check_refused(cut, "is damaged or not a fastconv checkpoint")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_flipped_bytes_are_found_or_harmless(tmp_path, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="needs safetensors")
    whole, target = classifier(seed=1).net.parameters, tmp_path / f"flipped{suffix}"
    classifier(seed=1).save(target)
    content = target.read_bytes()
    rng = random.Random(0)
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 20])):
            damaged[rng.randrange(len(damaged))] ^= rng.randrange(1, 256)
        target.write_bytes(damaged)
        model = classifier(seed=5)
        before = model.net.parameters.copy()
        try:
            model.load(target)
        except ValueError:
            assert np.array_equal(model.net.parameters, before)
        else:  # a flag, a time stamp: something that carries no parameter
            assert np.array_equal(model.net.parameters, whole)


FOREIGN = {
    "empty": b"",
    "text": b"hello\n" * 100,
    "pickle": pickle.dumps({"conv2d/kernel": [1, 2]}),
    "npy": npy(np.ones(3)),
    "zeros": bytes(5000),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    check_refused(path, f"{str(path)!r} is damaged or not a fastconv checkpoint: ".replace("\\", "\\\\"))


def test_foreign_archives(saved, tmp_path):
    path = tmp_path / "foreign.npz"
    np.savez(path, a=np.ones(3))
    check_refused(path, "is damaged or not a fastconv checkpoint")
    entries = entries_of(saved)
    for meta, reason in (
        (npy(np.array("no json")), "Expecting value"),
        (npy(np.array('{"format": "fastconv checkpoint"}')), "version"),
        (npy(np.array('{"format": "other", "version": 1, "model": "A"}')), "it is a 'other' of version 1"),
        (npy(np.array('{"format": "fastconv checkpoint", "version": 2, "model": "A"}')), "version 2, not 1"),
        (npy(np.array([{}], dtype=object)), "allow_pickle=False"),
    ):
        write_entries(path, {**entries, "fastconv.npy": meta})
        check_refused(path, reason)


def test_pickles_inside_are_never_run(saved, tmp_path):
    entries = entries_of(saved)
    path = tmp_path / "bad"
    write_entries(path, {**entries, "dense/bias.npy": npy(np.array([print, print, print], dtype=object))})
    check_refused(path, "allow_pickle=False")


def test_a_header_that_promises_too_much(saved, tmp_path):
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    path = tmp_path / "huge"
    write_entries(path, {**entries_of(saved), "dense/bias.npy": huge.getvalue() + bytes(12)})
    check_refused(path, "is damaged or not")


def test_all_differences_are_listed(saved, tmp_path):
    entries = entries_of(saved)
    del entries["conv2d/bias.npy"]
    entries["conv2d/kernel.npy"] = npy(np.ones((3, 3, 1, 4), np.float32))
    entries["dense/bias.npy"] = npy(np.ones(3, np.int64))
    entries["extra/kernel.npy"] = b"never read"
    path = tmp_path / "other"
    write_entries(path, entries)
    with pytest.raises(ValueError, match="does not fit") as error:
        classifier().load(path)
    assert str(error.value).splitlines() == [
        f"{str(path)!r} (saved by Classifier) does not fit this model:",
        "- conv2d/bias is missing",
        "- conv2d/kernel has shape (3, 3, 1, 4), the model's is (3, 3, 1, 2)",
        "- dense/bias has dtype int64, not a float",
        "- extra/kernel is not a parameter of this model",
    ]
    check_refused(path, "does not fit")


def test_paths_that_cannot_be(tmp_path):
    model = classifier()
    with pytest.raises(FileNotFoundError):
        model.load(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        model.save(tmp_path / "missing" / "model")
    with pytest.raises(IsADirectoryError, match="path must be a file"):
        model.save(tmp_path)
    assert os.listdir(tmp_path) == []


# ---- safetensors, the same promises in another format ----


@pytest.fixture
def safetensors():
    return pytest.importorskip("safetensors.numpy", reason="needs safetensors")


@pytest.fixture
def saved_safetensors(safetensors, tmp_path):
    path = tmp_path / "model.safetensors"
    classifier(seed=1).save(path)
    return path


def test_safetensors_round_trip(saved_safetensors):
    source, target = classifier(seed=1), classifier(seed=2, dtype=np.float64)
    target.load(str(saved_safetensors))
    assert np.array_equal(source.net.parameters, target.net.parameters)
    assert os.listdir(saved_safetensors.parent) == [saved_safetensors.name]


def test_the_package_reads_the_file(safetensors, saved_safetensors):
    arrays = safetensors.load_file(saved_safetensors)
    weights = classifier(seed=1).net.weights
    assert arrays.keys() == weights.keys()
    assert all(np.array_equal(arrays[name], weights[name]) for name in weights)
    assert arrays["conv2d/kernel"].dtype == np.float32


def test_the_same_parameters_give_the_same_bytes_of_safetensors(saved_safetensors, tmp_path):
    classifier(seed=1).save(tmp_path / "again.safetensors")
    assert saved_safetensors.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_damaged_safetensors(saved_safetensors, tmp_path):
    whole, cut = saved_safetensors.read_bytes(), tmp_path / "cut.safetensors"
    for length in [*range(0, len(whole), 29), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        check_refused(cut, "is damaged or not a fastconv checkpoint")
    for content in FOREIGN.values():
        cut.write_bytes(content)
        check_refused(cut, "is damaged or not a fastconv checkpoint")


def test_foreign_safetensors(safetensors, tmp_path):
    path = tmp_path / "torch.safetensors"
    arrays = {name: view.copy() for name, view in classifier().net.weights.items()}
    meta = json.dumps({"format": "fastconv checkpoint", "version": 2, "model": "A"})
    same = json.dumps({"format": "fastconv checkpoint", "version": 1, "model": "A", "crc32": {}})
    for words, reason in (
        (None, "its metadata names another maker"),
        ({"format": "pt"}, r"weights of PyTorch: load_torch_state_dict"),
        ({"fastconv": meta}, "it is a 'fastconv checkpoint' of version 2, not 1"),
        ({"fastconv": same}, "the checksum of .* differs"),
    ):
        safetensors.save_file(arrays, path, words)
        check_refused(path, reason)
    arrays["dense/bias"] = np.ones(4, np.float32)
    arrays["extra"] = arrays.pop("conv2d/bias")
    checkpoints.save(path, arrays, "A")
    check_refused(path, "conv2d/bias is missing\n- dense/bias has shape .*\n- extra is not a parameter")


def test_without_the_package_safetensors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    path, model = tmp_path / "model.safetensors", classifier()
    with pytest.raises(
        ImportError, match=r'needs the package safetensors: pip install "fastconv\[weights\]"'
    ):
        model.save(path)
    path.touch()
    with pytest.raises(
        ImportError, match=r'needs the package safetensors: pip install "fastconv\[weights\]"'
    ):
        model.load(path)
    assert path.read_bytes() == b""
