"""How near the convolutions come to what the machine can do, as a roofline: numbers, and a figure.

    python benchmarks/roofline.py --figure roofline.png

The roof is the lesser of two limits, both measured here: the fastest product of matrices, and the memory's
bandwidth times the multiplications and additions that a layer has for each byte. A layer's bytes are those
that any implementation must move, input, filters and output once each; so all three passes stand at the same
place. Winograd's algorithm needs fewer multiplications than it is credited with here, those of the plain sum,
and may stand above the roof; so may a small layer above its slope, whose arrays the last cache holds from
call to call. Needs matplotlib (the extra `examples`).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import report
import shapes
import timing

import fastconv
from fastconv import nn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PASSES = {
    "conv2d": "forward",
    "conv2d_backprop_input": "gradient of the input",
    "conv2d_backprop_filter": "gradient of the filters",
}
TURNS = 5

# Square float32 matrices; three of the largest take 1.7 MB, and each thread works on its own part.
DENSE_SIZES = (256, 384, 512, 640)
MATMUL_SIZE = 1024

# Each array of the bandwidth's measurement, in last-level caches; the least where nothing tells their size.
CACHES, LEAST_BYTES = 4, 64 << 20

KEY_COLUMNS = 3
_DIRECT, _WINOGRAD, _ROOF = "#1f4e9c", "#c0392b", "#444444"


class Limits(NamedTuple):
    """Of the machine: GFLOP/s of nn.dense and of NumPy's matmul, and GB/s of the memory."""

    dense: float
    matmul: float
    bandwidth: float

    @property
    def peak(self) -> float:
        return max(self.dense, self.matmul)

    def roof(self, intensity: float) -> float:
        """GFLOP/s that a direct convolution of so many FLOP per byte can reach."""
        return min(self.peak, self.bandwidth * intensity)


class Point(NamedTuple):
    op: str
    layer: shapes.Conv
    seconds: float

    @property
    def intensity(self) -> float:
        """FLOP per byte of float32 input, filters and output."""
        numbers = sum(math.prod(shape) for shape in (self.layer.x, self.layer.w, self.layer.y))
        return self.layer.gflop * 1e9 / (4 * numbers)

    @property
    def speed(self) -> float:
        """GFLOP/s, counted as a plain sum."""
        return self.layer.gflop / self.seconds


# ------------------------------------------------------------------------------------------------ measuring


def best(call: Callable[[], Any]) -> float:
    """The shortest of some turns of calls, in seconds."""
    calls = timing.calls_in_turn(timing.seconds(call))
    return min(timing.turn(call, calls) for _ in range(TURNS))


def measure_limits() -> Limits:
    return Limits(max(map(_dense_speed, DENSE_SIZES)), _matmul_speed(MATMUL_SIZE), _bandwidth())


def measure_layers() -> Iterator[Point]:
    for layer in shapes.at_peer_batch(shapes.CONVOLUTIONS):
        x, w, dy = (_normal(shape) for shape in (layer.x, layer.w, layer.y))
        how = layer.stride, layer.padding
        calls = {
            "conv2d": partial(nn.conv2d, x, w, *how),
            "conv2d_backprop_input": partial(nn.conv2d_backprop_input, x.shape, w, dy, *how),
            "conv2d_backprop_filter": partial(nn.conv2d_backprop_filter, x, w.shape, dy, *how),
        }
        yield from (Point(op, layer, best(call)) for op, call in calls.items())


def _dense_speed(size: int) -> float:
    a, b = _normal((size, size)), _normal((size, size))
    return 2e-9 * size**3 / best(partial(nn.dense, a, b))


def _matmul_speed(size: int) -> float:
    a, b = _normal((size, size)), _normal((size, size))
    return 2e-9 * size**3 / best(partial(np.matmul, a, b))


def _bandwidth() -> float:
    """GB/s of c = a + b on arrays that no cache holds, each thread with a part of its own.

    As many Python threads as fastconv uses: NumPy lets go of the GIL. As in STREAM, what is read to be
    overwritten does not count; a convolution's result has that cost, too.
    """
    threads = fastconv.get_num_threads()
    size = max(CACHES * _last_cache_bytes(), LEAST_BYTES) // 4
    a, b, c = (np.ones(size, np.float32) for _ in range(3))
    parts = [slice(i * size // threads, (i + 1) * size // threads) for i in range(threads)]

    def add(part: slice) -> None:
        np.add(a[part], b[part], out=c[part])

    with ThreadPoolExecutor(threads) as pool:
        return 3e-9 * a.nbytes / best(lambda: list(pool.map(add, parts)))


def _last_cache_bytes() -> int:
    """As Linux tells it; 0 elsewhere."""
    units = {"K": 1 << 10, "M": 1 << 20}
    files = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    texts = [file.read_text().strip() for file in files]
    return max((int(text[:-1]) * units[text[-1]] for text in texts if text[-1:] in units), default=0)


def _normal(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


# ------------------------------------------------------------------------------------------------ showing


def describe(limits: Limits, points: list[Point]) -> Iterator[str]:
    threads = fastconv.get_num_threads()
    yield f"nn.dense  {limits.dense:.0f} GFLOP/s at best of {', '.join(map(str, DENSE_SIZES))} squared"
    yield f"matmul    {limits.matmul:.0f} GFLOP/s, NumPy's of {MATMUL_SIZE} squared; the larger is the roof"
    yield f"memory    {limits.bandwidth:.1f} GB/s, c = a + b in NumPy, {threads} threads"
    yield ""
    titles = ["number", "operation", "layer", "algorithm", "ms", "FLOP/byte", "GFLOP/s", "of the roof"]
    body = []
    for number, point in _numbered(points):
        algorithm = "winograd" if point.layer.winograd(point.op) else "direct"
        share = point.speed / limits.roof(point.intensity)
        speeds = [
            f"{point.seconds * 1e3:.3f}",
            f"{point.intensity:.1f}",
            f"{point.speed:.0f}",
            f"{share:.0%}",
        ]
        body.append([str(number), point.op, str(point.layer), algorithm, *speeds])
    yield from report.aligned(titles, body, "><<<>>>>")


def _numbered(points: list[Point]) -> list[tuple[int, Point]]:
    """Points with the numbers of their layers in the figure, from 1."""
    layers = list(dict.fromkeys(point.layer for point in points))
    return [(layers.index(point.layer) + 1, point) for point in points]


def draw(limits: Limits, points: list[Point]) -> Figure:
    """One panel a pass with the roof, numbered points, and a key of the numbers below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8), dpi=120)  # inches
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(PASSES), sharex=True, sharey=True)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.9, bottom=0.33, wspace=0.05)
    threads = fastconv.get_num_threads()
    where = f"{report.cpu()}, {threads} threads, float32"
    figure.suptitle(f"fastconv's convolutions against the machine's limits ({where})", fontsize=15)
    numbered = _numbered(points)
    intensities, speeds = [p.intensity for p in points], [p.speed for p in points]
    panels[0].set_xlim(min(intensities) / 2.5, max(intensities) * 1.6)
    panels[0].set_ylim(min(speeds) / 1.6, max(*speeds, limits.peak) * 1.6)
    panels[0].set_ylabel("speed [GFLOP/s]")
    for axes, (op, title) in zip(panels, PASSES.items(), strict=True):
        _draw_panel(axes, title, limits, [(number, point) for number, point in numbered if point.op == op])
    _draw_key(figure, panels[0], numbered)
    return figure


def _draw_panel(axes: Axes, title: str, limits: Limits, points: list[tuple[int, Point]]) -> None:
    axes.set_title(title)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("intensity [FLOP per byte of input, filters and output]")
    axes.grid(which="both", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    left, right = axes.get_xlim()
    ridge = limits.peak / limits.bandwidth
    label = f"roof of a direct convolution:\n{limits.peak:.0f} GFLOP/s; {limits.bandwidth:.0f} GB/s of memory"
    roof = [limits.roof(x) for x in (left, ridge, right)]
    axes.plot([left, ridge, right], roof, color=_ROOF, linewidth=1.8, label=label, zorder=2)
    for winograd, marker, color, label in (
        (False, "o", _DIRECT, "direct"),
        (True, "D", _WINOGRAD, "Winograd, credited with the\nmultiplications of a direct convolution"),
    ):
        chosen = [point for _, point in points if point.layer.winograd(point.op) == winograd]
        places = [point.intensity for point in chosen], [point.speed for point in chosen]
        axes.plot(*places, marker, color=color, markersize=5, label=label, zorder=3)
    _label(axes, limits, points)


def _label(axes: Axes, limits: Limits, points: list[tuple[int, Point]]) -> None:
    """Put each point's number near it, clear of numbers, points and roof; a line leads to it from afar."""
    scale = 72 / axes.figure.dpi  # pixels to typographic points
    places = axes.transData.transform([(point.intensity, point.speed) for _, point in points]) * scale
    roof = [(x, limits.roof(x)) for x in np.geomspace(*axes.get_xlim(), 150)]
    taken = [(x, y, 4.0, 4.0) for x, y in places]  # centre, half width, half height
    taken += [(x, y, 1.0, 1.0) for x, y in axes.transData.transform(roof) * scale]
    angles = [math.radians(degrees) for degrees in (90, 45, 0, 135, 180, 315, 270, 225)]
    for (number, point), (x, y) in zip(points, places, strict=True):
        color = _WINOGRAD if point.layer.winograd(point.op) else _DIRECT
        half_width = 2.6 * len(str(number)) + 2
        spots = [(r * math.cos(a), r * math.sin(a)) for r in (9, 13, 18, 24, 31, 40) for a in angles]
        boxes = [(x + dx, y + dy, half_width, 4.5) for dx, dy in spots]
        free = [i for i, box in enumerate(boxes) if not any(_overlap(box, other) for other in taken)]
        spot, box = (spots[free[0]], boxes[free[0]]) if free else (spots[0], boxes[0])
        taken.append(box)
        far = math.hypot(*spot) > 9.5
        line = (
            {"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 3, "shrinkB": 2} if far else None
        )
        axes.annotate(
            str(number),
            (point.intensity, point.speed),
            spot,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=color,
            arrowprops=line,
        )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return abs(a[0] - b[0]) < a[2] + b[2] and abs(a[1] - b[1]) < a[3] + b[3]


def _draw_key(figure: Figure, axes: Axes, numbered: list[tuple[int, Point]]) -> None:
    """The legend of the marks, and the layers' numbers, in columns below the panels."""
    handles, labels = axes.get_legend_handles_labels()
    corner: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.045, 0.26)}
    figure.legend(handles, labels, **corner, frameon=False, fontsize=10, labelspacing=0.8)
    layers = {number: point.layer for number, point in numbered}
    rows = -(-len(layers) // KEY_COLUMNS)
    for column in range(KEY_COLUMNS):
        part = list(layers.items())[column * rows : (column + 1) * rows]
        numbers = "\n".join(str(number) for number, _ in part)
        names = "\n".join(f"{layer}, {layer.images} images" for _, layer in part)
        x = 0.3 + 0.235 * column
        style: dict[str, Any] = {"va": "top", "fontsize": 9.5, "linespacing": 1.45}
        figure.text(x, 0.25, numbers, ha="right", **style)
        figure.text(x + 0.007, 0.25, names, **style)


def main() -> None:
    parser = argparse.ArgumentParser(description="fastconv's convolutions against the machine's limits")
    parser.add_argument("--figure", metavar="PATH", default="roofline.png", help="here %(default)s")
    options = parser.parse_args()
    machine = report.machine()
    first = measure_limits()
    points = list(measure_layers())
    limits = Limits(*map(max, first, measure_limits()))  # twice: another program may have disturbed one
    print(*machine, *describe(limits, points), sep="\n")
    draw(limits, points).savefig(options.figure)
    print(f"\ndrawn in {options.figure}")


if __name__ == "__main__":
    main()
