"""The checked geometry of a convolution or a pooling: the user's arguments in, two geometry.Axis out."""

from __future__ import annotations

import functools

from fastconv import _arguments as arguments
from fastconv import geometry
from fastconv._arguments import IntOrInts, Padding

# A dilated filter that reaches over so many images sees little but padding, and would need room for it.
MOST_REACH = 16

# Geometries that are kept, of the last so many different calls: to find one takes longer than to compute a
# small operation. The largest has some kilobytes.
KEPT = 256

Pair = tuple[int, int]
Axes = tuple[geometry.Axis, geometry.Axis]


def convolution(
    shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    strides: Pair,
    padding: tuple[geometry.Padding, geometry.Padding],
    dilations: Pair,
    groups: int,
    names: tuple[str, str] = ("input", "filters"),
) -> Axes:
    """The vertical and the horizontal axis of a convolution, after all checks; the arguments as _arguments
    gives them.

    names: of input and filters in error messages.
    """
    input_name, filters_name = names
    if min(filter_shape[:2]) < 1:
        raise ValueError(
            f"{filters_name} must have at least one tap in height and width, not shape {tuple(filter_shape)}"
        )
    if shape[3] % groups or filter_shape[3] % groups:
        name, sizes = (input_name, shape) if shape[3] % groups else (filters_name, filter_shape)
        raise ValueError(f"groups must divide the channels (axis 3) of {name}: {groups}, {tuple(sizes)}")
    if shape[3] != filter_shape[2] * groups:
        of_group = f" in each of {groups} groups" if groups > 1 else ""
        raise ValueError(
            f"{filters_name} must have as many input channels (axis 2) as {input_name} has (axis 3)"
            f"{of_group}: {tuple(filter_shape)} against {tuple(shape)}"
        )
    vertical, horizontal = (
        geometry.axis(shape[1 + i], filter_shape[i], strides[i], dilations[i], padding[i]) for i in range(2)
    )
    _check_fit(vertical, "height", input_name, filters_name)
    _check_fit(horizontal, "width", input_name, filters_name)
    return vertical, horizontal


def pooling(
    shape: tuple[int, ...], ksize: IntOrInts, strides: IntOrInts, padding: Padding, input_name: str
) -> Axes:
    """The vertical and the horizontal axis of a pooling, after all checks."""
    window, steps = arguments.pair("ksize", ksize), arguments.pair("strides", strides)
    return _pooling(shape[1:3], window, steps, arguments.padding(padding), input_name)


@functools.lru_cache(KEPT)
def _pooling(
    shape: Pair,
    window: Pair,
    strides: Pair,
    padding: tuple[geometry.Padding, geometry.Padding],
    input_name: str,
) -> Axes:
    axes = tuple(geometry.axis(shape[i], window[i], strides[i], 1, padding[i]) for i in range(2))
    for axis, name in zip(axes, ("height", "width"), strict=True):
        _check_fit(axis, name, input_name, "ksize")
        if axis.before >= axis.kernel or (axis.out - 1) * axis.stride - axis.before >= axis.size:
            given = [[0, 0], *map(list, padding), [0, 0]]  # explicit: SAME and VALID leave one
            raise ValueError(f"padding must leave every window a pixel of the image, unlike {given}")
    return axes


def _check_fit(axis: geometry.Axis, name: str, input_name: str, window_name: str) -> None:
    reach = axis.dilation * (axis.kernel - 1) + 1
    if axis.size >= 1 and reach > MOST_REACH * (axis.size + axis.kernel):
        raise ValueError(
            f"dilations {axis.dilation} spread {window_name} over {reach} pixels of {name}, "
            f"more than {MOST_REACH} times the {axis.size} of {input_name}"
        )
    if axis.out < 1 or axis.size < 1:
        raise ValueError(
            f"{window_name} reaches over {reach} pixels of {name}, but {input_name} has only {axis.size} "
            f"(+ padding {axis.before} + {axis.after})"
        )
