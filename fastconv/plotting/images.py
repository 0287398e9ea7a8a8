"""What goes into a convolution, what it is made of and what comes out: an image, filters, activation maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import _arguments as arguments

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAPS = 64  # pictures that are drawn of more filters or maps
COLUMNS = 8  # pictures in a row, where there are several rows
CHANNELS = 8  # of each filter, where they are drawn one below the other
_CELL = 1.2  # inches, a picture with its title
_LEFT, _RIGHT, _TOP = 0.3, 1.2, 0.6  # inches for row names, the bar, the headline with the first titles
_NARROWEST = 4.5  # inches: the headline needs them
_SIGNED, _GREY = "RdBu_r", "gray"


def image_figure(image: Any, *, title: str = "") -> Figure:
    """One image, with its rows and columns numbered.

    image: [H, W], [H, W, 1], or [H*H] as MNIST's: grey, the least value black and the largest white.
    [H, W, 3]: red, green and blue, in 0..255 if they are uint8, else in 0..1.
    ImportError without matplotlib; ValueError for another shape.
    """
    pixels = as_pixels(image)
    height, width = pixels.shape[:2]
    figure = _figure(4.6, 0.8 + 3.4 * min(max(height / width, 0.3), 2))
    axes = figure.subplots()
    drawn = axes.imshow(pixels, cmap=_GREY)
    axes.set_xlabel("column (pixels)")
    axes.set_ylabel("row (pixels)")
    if pixels.ndim == 2:
        figure.colorbar(drawn, ax=axes, label="value")
    figure.suptitle(_headline(title, f"{height}x{width} pixels"))
    return figure


def filters_figure(filters: Any, *, title: str = "") -> Figure:
    """A layer's filters: red is positive, blue is negative, on one scale.

    filters: [KH, KW, C, K], as `model.net.weights["conv2d/kernel"]`. For C = 3 each is one picture in red,
    green and blue, with 0 as the middle grey; for other C its channels stand one below the other. Drawn are
    the first MAPS filters, or COLUMNS of them and CHANNELS channels of each; the headline says so.
    ImportError without matplotlib; ValueError for another shape or none at all.
    """
    (w,) = arguments.arrays(filters=(filters, 4))
    kh, kw, channels, count = w.shape
    if not w.size:
        raise ValueError(f"filters must not be empty, but have the shape {w.shape}")
    headline = _headline(title, f"{_number(count, 'filter')} {kh}x{kw}x{channels}")
    if channels in (1, 3):
        shown = w[..., :MAPS]
        pictures = list(np.moveaxis(_coloured(shown) if channels == 3 else shown[:, :, 0], -1, 0))
        names = [f"filter {k}" for k in range(len(pictures))]
        headline += _left_out(filters=(len(pictures), count))
        return _grid(pictures, names, headline, "weight", signed=True)
    shown = w[..., :CHANNELS, :COLUMNS]
    rows, columns = shown.shape[2:]
    headline += _left_out(filters=(columns, count), channels=(rows, channels))
    return _grid(
        [shown[..., c, k] for c in range(rows) for k in range(columns)],
        [f"filter {k}" for k in range(columns)],
        headline,
        "weight",
        signed=True,
        row_names=[f"channel {c}" for c in range(rows)],
    )


def activation_maps_figure(maps: Any, *, title: str = "") -> Figure:
    """What a layer gives for one image: its maps, on one scale; the bars of a dense layer.

    maps: [H, W, C], as `model.activations(image, "conv2d")[0]`, or [C] of a dense layer. Black is 0 and white
    the largest value, where none is negative; else blue is negative and red positive. Drawn are the first
    MAPS maps; the headline says so.
    ImportError without matplotlib; ValueError for another shape or none at all.
    """
    a = arguments.array("maps", maps)
    if a.ndim not in (1, 3) or not a.size:
        raise ValueError(f"maps must be [H, W, C] or [C], those of one image, not of shape {a.shape}")
    if a.ndim == 1:
        return _bars(a, _headline(title, _number(len(a), "unit")))
    height, width, count = a.shape
    shown = a[..., :MAPS]
    headline = _headline(title, f"{_number(count, 'map')} {height}x{width}")
    headline += _left_out(maps=(shown.shape[-1], count))
    pictures = list(np.moveaxis(shown, -1, 0))
    names = [f"map {c}" for c in range(len(pictures))]
    return _grid(pictures, names, headline, "activation", signed=bool((shown < 0).any()))


def as_pixels(image: Any) -> np.ndarray:
    """[H, W] or [H, W, 3]; ValueError for what is no image."""
    pixels = arguments.as_array("image", image)
    if pixels.dtype.kind not in "biuf":
        raise TypeError(f"image must hold numbers, not dtype {pixels.dtype}")
    side = math.isqrt(pixels.size)
    if pixels.ndim == 1 and side * side == pixels.size:
        pixels = pixels.reshape(side, side)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if not pixels.size or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3)):
        raise ValueError(
            f"image must be [H, W], [H, W, 1], [H, W, 3] or [H*H], not of shape {np.shape(image)}"
        )
    return pixels


def _coloured(filters: np.ndarray) -> np.ndarray:
    """The weights as colours in 0..1, with 0 in the middle."""
    return 0.5 + filters / (2 * _largest(filters))


def _figure(width: float, height: float) -> Figure:
    """Empty, of this size in inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05))


def _grid(
    pictures: Sequence[np.ndarray],
    names: Sequence[str],
    headline: str,
    unit: str,
    *,
    signed: bool,
    row_names: Sequence[str] = (),
) -> Figure:
    """The pictures in rows, on one scale of colours that a bar explains (of `unit`).

    names: one each, or with row_names one for each column.
    """
    columns = len(names) if row_names else min(COLUMNS, len(pictures))
    figure, grid, bar = _empty_grid(math.ceil(len(pictures) / columns), columns)
    high = _largest(np.asarray(pictures))
    colours = {"cmap": _SIGNED if signed else _GREY, "vmin": -high if signed else 0, "vmax": high}
    for axes, picture in zip(grid.flat, pictures, strict=False):
        drawn = axes.imshow(picture, **colours)
    for axes, name in zip(grid.flat, names, strict=False):
        axes.set_title(name, fontsize=9, pad=3)
    for axes, name in zip(grid[:, 0], row_names, strict=False):
        axes.set_ylabel(name, fontsize=9)
    if pictures[0].ndim == 2:
        figure.colorbar(drawn, cax=bar, label=unit)
    else:
        bar.remove()
    figure.suptitle(headline, fontsize=11)
    return figure


def _empty_grid(rows: int, columns: int) -> tuple[Figure, np.ndarray, Axes]:
    """Axes [rows, columns] without frames, and those of a bar to the right.

    Places are computed here: matplotlib's own layout takes many seconds for 64 axes.
    """
    from matplotlib.figure import Figure

    right = max(_RIGHT, _NARROWEST - _LEFT - columns * _CELL)
    width, height = _LEFT + columns * _CELL + right, rows * _CELL + _TOP
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": _LEFT / width,
            "right": 1 - right / width,
            "bottom": 0.1 / height,
            "top": 1 - _TOP / height,
            "wspace": 0.08,
            "hspace": 0.25,
        },
    )
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_frame_on(False)
    bar = figure.add_axes((1 - (right - 0.2) / width, 0.1 / height, 0.12 / width, 1 - (_TOP + 0.1) / height))
    return figure, grid, bar


def _bars(values: np.ndarray, headline: str) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure = _figure(8, 3)
    axes = figure.subplots()
    axes.bar(np.arange(len(values)), values, width=0.9)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("unit")
    axes.set_ylabel("activation")
    figure.suptitle(headline, fontsize=11)
    return figure


def _largest(values: np.ndarray) -> float:
    """The largest magnitude; of what is all NaN or infinite, 1, and of zeros too: a scale needs two ends."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0)) or 1.0


def _headline(title: str, what: str) -> str:
    return f"{title}: {what}" if title else what


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _left_out(**shown_of: tuple[int, int]) -> str:
    """What a headline adds where there are more than are shown: " (the first 8 filters and 8 channels)"."""
    parts = [f"{shown} {kind}" for kind, (shown, count) in shown_of.items() if shown < count]
    return f" (the first {' and '.join(parts)})" if parts else ""
