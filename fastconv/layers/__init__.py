"""Layers with Keras' names over fastconv.nn, and Sequential, which owns their parameters.

    y, backward = layer(x, training=True)     x [N, ...] -> y [N, ...]
    dx = backward(dy)                         dy like y  -> dx like x; adds to the layer's gradients

What the gradient needs lives in `backward`, not on the layer: a layer may stand twice in a net, and without
training backward is None and nothing is kept. `backward(dy, input_gradient=False)` skips dx and returns None,
for the first layer of a net.

A Sequential with an input_shape lays all parameters into one flat array and all gradients into another; each
layer inside holds views of its part (`layer.weights["kernel"]`, `layer.grads["kernel"]`).
"""

from __future__ import annotations

from fastconv.layers.affine import Dense
from fastconv.layers.base import Layer, Result
from fastconv.layers.containers import AuxiliaryClassifier, Concatenate, Residual, Sequential
from fastconv.layers.convolution import Conv2D, Conv2DTranspose, DepthwiseConv2D
from fastconv.layers.normalization import BatchNormalization, LocalResponseNormalization
from fastconv.layers.pointwise import Activation, Dropout, Flatten, ReLU, Reshape
from fastconv.layers.pooling import AveragePooling2D, GlobalAveragePooling2D, MaxPooling2D

__all__ = [
    "Activation",
    "AuxiliaryClassifier",
    "AveragePooling2D",
    "BatchNormalization",
    "Concatenate",
    "Conv2D",
    "Conv2DTranspose",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "Layer",
    "LocalResponseNormalization",
    "MaxPooling2D",
    "ReLU",
    "Reshape",
    "Residual",
    "Result",
    "Sequential",
]
