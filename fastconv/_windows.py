"""The checked geometry of a convolution or a pooling: the user's arguments in, two geometry.Axis out."""

from __future__ import annotations

from fastconv import _arguments as arguments
from fastconv import geometry
from fastconv._arguments import IntOrInts, Padding

# A dilated filter that reaches over so many images sees little but padding, and would need room for it.
MOST_REACH = 16


def convolution(
    shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    strides: IntOrInts,
    padding: Padding,
    dilations: IntOrInts,
    input_name: str,
    filters_name: str = "filters",
    groups: int = 1,
) -> tuple[geometry.Axis, geometry.Axis]:
    """The vertical and the horizontal axis of a convolution, after all checks."""
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
    ends = arguments.padding(padding)
    steps = arguments.pair("strides", strides)
    gaps = arguments.pair("dilations", dilations)
    return tuple(
        _fit(
            geometry.axis(shape[1 + i], filter_shape[i], steps[i], gaps[i], ends[i]),
            name,
            input_name,
            filters_name,
        )
        for i, name in enumerate(("height", "width"))
    )


def pooling(
    shape: tuple[int, ...], ksize: IntOrInts, strides: IntOrInts, padding: Padding, input_name: str
) -> tuple[geometry.Axis, geometry.Axis]:
    """The vertical and the horizontal axis of a pooling, after all checks."""
    ends = arguments.padding(padding)
    window = arguments.pair("ksize", ksize)
    steps = arguments.pair("strides", strides)
    axes = []
    for i, name in enumerate(("height", "width")):
        axis = _fit(geometry.axis(shape[1 + i], window[i], steps[i], 1, ends[i]), name, input_name, "ksize")
        if axis.before >= axis.kernel or (axis.out - 1) * axis.stride - axis.before >= axis.size:
            raise ValueError(
                f"padding must leave every window a pixel of the image, unlike {arguments.show(padding)}"
            )
        axes.append(axis)
    return tuple(axes)


def _fit(axis: geometry.Axis, name: str, input_name: str, window_name: str) -> geometry.Axis:
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
    return axis
