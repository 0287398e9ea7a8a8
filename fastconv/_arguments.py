"""Checks and normal forms of the arguments that users pass.  Every error names the argument and its value."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastconv import geometry

MOST_PIXELS = 1 << 31  # of a stride, a dilation or a padding: no address computed from them overflows
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

Padding = Any  # "SAME", "VALID", or [[0, 0], [top, bottom], [left, right], [0, 0]]
IntOrInts = Any  # 2, (2, 2) or (1, 2, 2, 1)


def show(value: object) -> str:
    """A value as an error message shows it: an array by its dtype and shape, anything long cut short."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of {value.dtype} with shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def whole(name: str, value: Any, least: int) -> int:
    """A whole number of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {show(value)}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


def optional(value: ArrayLike | None, ndim: int) -> tuple[ArrayLike, int] | None:
    """What `arrays` takes of an argument that may be None."""
    return None if value is None else (value, ndim)


def arrays(**named: tuple[ArrayLike, int] | None) -> list[Any]:
    """C-contiguous native arrays of one dtype, float32 or float64, given (value, number of axes) by name.
    None stays None.

    Integers and float16 count as float32; otherwise NumPy's promotion decides.
    """
    if (ready := _ready(named.values())) is not None:
        return ready
    found: dict[str, NDArray] = {}
    for name, given in named.items():
        if given is None:
            continue
        value, ndim = given
        a = as_array(name, value)
        if a.ndim != ndim:
            raise ValueError(f"{name} must have {ndim} axes, not {a.ndim}: got {show(a)}")
        if a.dtype not in FLOATS and (a.dtype.kind not in "fiub" or a.dtype.itemsize > 8):
            raise TypeError(f"{name} must be real numbers up to float64, not {show(a)}")
        found[name] = a
    # NumPy's byte order is part of the dtype, so 8-byte floats are found by their kind and size.
    double = any(a.dtype.kind == "f" and a.dtype.itemsize == 8 for a in found.values())
    dtype = FLOATS[1] if double else FLOATS[0]
    return [_laid_out(found[name], dtype) if name in found else None for name in named]


def is_ready(a: ArrayLike, dtype: np.dtype, ndim: int) -> bool:
    """Whether `arrays` would return it as it is, beside others of this dtype."""
    return type(a) is np.ndarray and a.dtype is dtype and a.ndim == ndim and a.flags.carray


def _laid_out(a: NDArray, dtype: np.dtype) -> NDArray:
    a = np.asarray(a, dtype, order="C")
    return a if a.flags.aligned else a.copy()


def _ready(named: Iterable[tuple[ArrayLike, int] | None]) -> list[Any] | None:
    """The values, if they are such arrays already, as most are: the checks one by one take longer than a
    small operation."""
    found: list[Any] = []
    dtype = None
    for given in named:
        if given is None:
            found.append(None)
            continue
        value, ndim = given
        if type(value) is not np.ndarray or value.ndim != ndim or not value.flags.carray:
            return None
        if dtype is None and value.dtype in FLOATS:
            dtype = value.dtype
        elif value.dtype is not dtype and value.dtype != dtype:  # (an unpickled array's is a copy)
            return None
        found.append(value)
    return found


def array(name: str, value: ArrayLike) -> NDArray:
    """One array, as `arrays` returns it, with any number of axes."""
    a = as_array(name, value)
    return arrays(**{name: (a, a.ndim)})[0]


def as_array(name: str, value: ArrayLike) -> NDArray:
    """Whatever NumPy takes for an array, as one."""
    if type(value) is np.ndarray:
        return value
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is no array: {show(value)} ({error})") from None


def _listed(value: Any) -> list | None:
    """The numbers of a sequence; None for a single one."""
    if isinstance(value, np.ndarray):
        return list(value) if value.ndim else None
    return list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else None


def listed(name: str, value: Any, or_none: bool = False) -> list | None:
    """The items of a sequence; TypeError, or None if so wished, for anything else."""
    items = _listed(value)
    if items is None and not or_none:
        raise TypeError(f"{name} must be a sequence, not {show(value)}")
    return items


def pair(name: str, value: IntOrInts) -> tuple[int, int]:
    """A whole number of at least 1 for (height, width): given as one number, one for each, or TensorFlow's
    four."""
    height, width = value if type(value) is tuple and len(value) == 2 else (value, value)
    if type(height) is type(width) is int and 1 <= height < MOST_PIXELS and 1 <= width < MOST_PIXELS:
        return height, width
    numbers = _listed(value)
    if numbers is None:
        numbers = [value]
    if len(numbers) == 1:
        numbers = numbers * 2
    elif len(numbers) == 4:
        if numbers[0] != 1 or numbers[3] != 1:
            raise ValueError(f"{name} must be 1 along batch and channels, not {show(value)}")
        numbers = numbers[1:3]
    if len(numbers) != 2:
        raise ValueError(
            f"{name} must be one number, (height, width) or (1, height, width, 1), not {show(value)}"
        )
    try:
        height, width = (operator.index(number) for number in numbers)
    except TypeError:
        raise TypeError(f"{name} must be whole numbers, not {show(value)}") from None
    if min(height, width) < 1:
        raise ValueError(f"{name} must be at least 1, not {show(value)}")
    if max(height, width) >= MOST_PIXELS:
        raise ValueError(f"{name} must be below 2**31, not {show(value)}")
    return height, width


def padding(value: Padding) -> tuple[geometry.Padding, geometry.Padding]:
    """The padding of (height, width), as fastconv.geometry takes it."""
    if isinstance(value, str):
        name = value.upper()
        if name not in ("SAME", "VALID"):
            raise ValueError(f'padding must be "SAME", "VALID" or explicit, not {value!r}')
        return name, name
    try:
        (n0, n1), vertical, horizontal, (c0, c1) = (tuple(operator.index(p) for p in ends) for ends in value)
        ((_, _), (_, _)) = vertical, horizontal
    except (TypeError, ValueError):
        raise ValueError(
            'padding must be "SAME", "VALID" or [[0, 0], [top, bottom], [left, right], [0, 0]] in pixels, '
            f"not {show(value)}"
        ) from None
    if (n0, n1, c0, c1) != (0, 0, 0, 0):
        raise ValueError(f"padding must be 0 along batch and channels, not {show(value)}")
    if not all(0 <= end < MOST_PIXELS for end in vertical + horizontal):
        raise ValueError(f"padding must be at least 0 and below 2**31, not {show(value)}")
    return vertical, horizontal


def nhwc(data_format: str) -> None:
    if not isinstance(data_format, str) or data_format != "NHWC":
        raise ValueError(
            f'data_format must be "NHWC" (batch, height, width, channels), not {show(data_format)}'
        )


def choice(name: str, value: Any, choices: tuple) -> Any:
    """One of `choices`; an array, which compares elementwise, is none of them."""
    if isinstance(value, np.ndarray) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {show(value)}")
    return value


def sizes(name: str, value: Any) -> tuple[int, ...]:
    """The four sizes of an array."""
    if type(value) is tuple and len(value) == 4 and {*map(type, value)} == {int} and min(value) >= 0:
        return value  # as an array's shape is
    numbers = _listed(value)
    if numbers is None or len(numbers) != 4:
        raise ValueError(f"{name} must be the four sizes of an array, not {show(value)}")
    return tuple(whole(name, number, 0) for number in numbers)


def number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, ends: str = "[]"
) -> float:
    """A finite number between low and high; ends: of the interval, "[" and "]" if they are part of it."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, not {show(value)}") from None
    inside = math.isfinite(result) and low <= result <= high
    if not inside or (result == low and ends[0] == "(") or (result == high and ends[1] == ")"):
        closing = ends[1] if high < math.inf else ")"
        wanted = "be finite" if -low == high == math.inf else f"lie in {ends[0]}{low}, {high}{closing}"
        raise ValueError(f"{name} must {wanted}, not {show(value)}")
    return result


def rate(name: str, value: Any) -> float:
    """A number in [0, 1)."""
    return number(name, value, 0, 1, ends="[)")


def same_shape(name: str, a: NDArray | None, shape: tuple[int, ...], why: str) -> None:
    if a is not None and a.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, {why}, not {a.shape}")


def destination(name: str, a: Any, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    """An array to write a result into."""
    if not isinstance(a, np.ndarray) or a.dtype != dtype:
        raise TypeError(f"{name} must be an array of {dtype}, not {show(a)}")
    same_shape(name, a, shape, "that of the result")
    if not (a.flags.c_contiguous and a.flags.writeable and a.flags.aligned):
        raise ValueError(f"{name} must be a C-contiguous, writeable array, not {a.flags}")
    return a
