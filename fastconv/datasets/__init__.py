"""Data sets for the examples: `fastconv.datasets.mnist`. Importing reads no file and opens no connection."""

from __future__ import annotations

from fastconv.datasets import mnist

__all__ = ["mnist"]
