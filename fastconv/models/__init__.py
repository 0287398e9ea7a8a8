"""Networks, ready to train."""

from __future__ import annotations

from fastconv.models.alexnet import AlexNet
from fastconv.models.ensemble import Ensemble
from fastconv.models.googlenet import GoogLeNet, InceptionModule
from fastconv.models.lenet import LeNet5
from fastconv.models.mnist import DeepCNN, LayersModel, Model, SimpleCNN
from fastconv.models.resnet import ResNet, ResNetCIFAR

__all__ = [
    "AlexNet",
    "DeepCNN",
    "Ensemble",
    "GoogLeNet",
    "InceptionModule",
    "LayersModel",
    "LeNet5",
    "Model",
    "ResNet",
    "ResNetCIFAR",
    "SimpleCNN",
]
