"""Checkpoint files: named float arrays, and what made them. Nothing is ever pickled.

An .npz archive, which `numpy.load` reads too:

    conv2d/kernel.npy, conv2d/bias.npy, ...    one entry per parameter, in the model's dtype
    fastconv.npy                               JSON text: format, version, class of the model

or, where the path ends in .safetensors, a file of that format with the same names and, in its metadata, the
same JSON text with the CRC-32 of each array; this needs the package safetensors (extra `weights`).

A file is written beside its target, flushed to the disk and renamed over it: at whatever moment the writer is
killed, the old file is there or the new one, whole.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

FORMAT = "fastconv checkpoint"
VERSION = 1
_META = "fastconv"

Entries = dict[str, np.ndarray | None]


def save(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], model: str) -> None:
    """Write the arrays to exactly this path (no ".npz" is appended), replacing what was there.

    model: class of the model, for whoever finds the file. FileNotFoundError if the folder does not exist;
    ImportError if the path ends in .safetensors and the package is not there.
    """
    write, _ = _format(path)
    with _replacing(path) as file:
        write(file, arrays, {"format": FORMAT, "version": VERSION, "model": model})


@contextlib.contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place at the end, or is removed after an error."""
    target = os.path.realpath(path)  # a symbolic link stays one: its target is replaced
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"path: there is no folder {folder!r} to save into")
    if os.path.isdir(target):
        raise IsADirectoryError(f"path must be a file, not the folder {target!r}")
    temporary = os.path.join(folder, f".fastconv-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
    _sync_folder(folder)


def load(path: str | os.PathLike[str], into: Mapping[str, np.ndarray]) -> None:
    """Copy a file's arrays into the arrays of the same names, casting to their dtypes.

    Everything is checked before anything is changed: a ValueError lists all that is wrong with the file.
    FileNotFoundError if there is none; ImportError as for save.
    """
    _, read = _format(path)
    with open(path, "rb") as file:
        try:
            model, entries = read(file, into)
        except Exception as error:  # whatever the parsers trip over, it is the file's fault
            reason = str(error) or type(error).__name__
            raise ValueError(f"{os.fspath(path)!r} is damaged or not a {FORMAT}: {reason}") from error
    problems = _differences(entries, into)
    if problems:
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise ValueError(f"{os.fspath(path)!r} (saved by {model}) does not fit this model:\n{lines}")
    # All are cast before the first is written: a cast may raise, with warnings as errors.
    cast = {name: entries[name].astype(array.dtype, copy=False) for name, array in into.items()}
    for name, array in into.items():
        array[...] = cast[name]


def _format(path: str | os.PathLike[str]) -> tuple[Callable[..., None], Callable[..., tuple[str, Entries]]]:
    """How to write and how to read a file of this name."""
    if not os.fsdecode(path).endswith(".safetensors"):
        return _write_npz, _read_npz
    try:
        import safetensors.numpy  # noqa: F401
    except ImportError:
        needs = 'needs the package safetensors: pip install "fastconv[weights]"'
        raise ImportError(f"path: {os.fsdecode(path)!r} {needs}") from None
    return _write_safetensors, _read_safetensors


def _write_npz(file: BinaryIO, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """numpy.savez without its keyword arguments, which a name could collide with."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in {_META: np.array(json.dumps(meta)), **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _read_npz(file: BinaryIO, wanted: Container[str]) -> tuple[str, Entries]:
    """The model's class, and every entry by its name; entries that nobody wants are None, not read."""
    with zipfile.ZipFile(file) as archive:
        meta = json.loads(str(_read(archive, _META)))
        _check(meta["format"], meta["version"])
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        entries = {name: _read(archive, name) if name in wanted else None for name in names if name != _META}
    return str(meta["model"]), entries


def _write_safetensors(file: BinaryIO, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """The format has no checksums, as ZIP has: they go into the text."""
    from safetensors.numpy import save

    checksums = {name: zlib.crc32(array) for name, array in arrays.items()}
    # One entry of metadata: the package writes several in no certain order.
    file.write(save(dict(arrays), {_META: json.dumps({**meta, "crc32": checksums})}))


def _read_safetensors(file: BinaryIO, wanted: Container[str]) -> tuple[str, Entries]:
    """As _read_npz."""
    from safetensors import safe_open

    with safe_open(file.name, "numpy") as content:
        words = content.metadata() or {}
        if _META not in words:
            raise ValueError("its metadata names another maker (weights of PyTorch: load_torch_state_dict)")
        meta = json.loads(words[_META])
        _check(meta["format"], meta["version"])
        names = content.keys()
        entries = {name: content.get_tensor(name) if name in wanted else None for name in names}
    for name, array in entries.items():
        if array is not None and zlib.crc32(array) != meta["crc32"].get(name):
            raise ValueError(f"the checksum of {name} differs")
    return str(meta["model"]), entries


def _check(name: str, version: int) -> None:
    if (name, version) != (FORMAT, VERSION):
        raise ValueError(f"it is a {name!r} of version {version!r}, not {VERSION}")


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One entry; reading it to its end makes ZIP verify its checksum."""
    content = io.BytesIO(archive.read(f"{name}.npy"))
    return np.lib.format.read_array(content, allow_pickle=False)


def _differences(entries: Entries, into: Mapping[str, np.ndarray]) -> list[str]:
    problems = [f"{name} is missing" for name in into if name not in entries]
    for name, entry in entries.items():
        if entry is None:
            problems.append(f"{name} is not a parameter of this model")
        elif entry.shape != into[name].shape:
            problems.append(f"{name} has shape {entry.shape}, the model's is {into[name].shape}")
        elif entry.dtype.kind != "f":
            problems.append(f"{name} has dtype {entry.dtype}, not a float")
    return problems


def _sync_folder(folder: str) -> None:
    """Make the rename itself survive a power cut, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
