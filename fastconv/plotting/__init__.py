"""Figures, drawn with matplotlib (the extra `examples`): a training, an image, filters, activation maps.

    figure = activation_maps_figure(model.activations(image, "conv2d")[0], title="conv2d")
    figure.savefig("maps.png")

Nothing is shown, and pyplot with its global state is not even imported.
"""

from __future__ import annotations

from fastconv.plotting.images import MAPS, activation_maps_figure, filters_figure, image_figure
from fastconv.plotting.training import MISTAKES, training_figure

__all__ = [
    "MAPS",
    "MISTAKES",
    "activation_maps_figure",
    "filters_figure",
    "formats",
    "image_figure",
    "training_figure",
]


def formats() -> list[str]:
    """The file name endings that a figure can be saved with. ImportError without matplotlib."""
    from matplotlib.figure import Figure

    return sorted(Figure().canvas.get_supported_filetypes())
