"""Networks, ready to train."""

from __future__ import annotations

from fastconv.models.mnist import DeepCNN, LayersModel, Model, SimpleCNN

__all__ = ["DeepCNN", "LayersModel", "Model", "SimpleCNN"]
