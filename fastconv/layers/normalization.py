"""Layers that bring numbers to a common scale: over the batch, or over neighbouring channels."""

from __future__ import annotations

import numpy as np

from fastconv import _arguments as arguments
from fastconv import initializers, nn
from fastconv._kernels import norm as _norm
from fastconv.layers.base import Layer, Result


class LocalResponseNormalization(Layer):
    """x / (bias + alpha * sum of squares) ** beta, x [N, H, W, C] -> the same shape.

    The squares are those of the pixel's channels up to depth_radius away, 2 * depth_radius + 1 of them.

    Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", NIPS 2012, section
    3.3, with TensorFlow's names and defaults; the paper's are 2, 2, 1e-4 and 0.75.
    """

    def __init__(
        self,
        depth_radius: int = 5,
        bias: float = 1.0,
        alpha: float = 1.0,
        beta: float = 0.5,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.depth_radius = arguments.whole("depth_radius", depth_radius, 0)
        self.bias = arguments.number("bias", bias)
        self.alpha = arguments.number("alpha", alpha)
        self.beta = arguments.number("beta", beta)

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        how = (self.depth_radius, self.bias, self.alpha, self.beta)
        y = nn.local_response_normalization(x, *how)

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            return nn.lrn_grad(dy, x, y, *how) if input_gradient else None

        return y, backward if training else None


class BatchNormalization(Layer):
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, x [N, ..., C] -> the same shape.

    In training mean and variance (divided by the number, not one less) are those of the batch, per channel,
    and `moving_mean` and `moving_variance` come closer to them: moving = momentum moving + (1 - momentum)
    batch. Without training the moving ones are used. gamma and beta are trained; the moving ones are part of
    the layer's weights (saved, loaded, copied) but have no gradient.

    `frozen`, False until somebody sets it: as without training, also in training; gamma and beta still learn.

    Ioffe and Szegedy, "Batch normalization", ICML 2015; names, defaults and variance as in Keras.
    """

    def __init__(self, momentum: float = 0.99, epsilon: float = 0.001, *, name: str | None = None) -> None:
        super().__init__(name)
        self.momentum = arguments.number("momentum", momentum, 0, 1)
        self.epsilon = arguments.number("epsilon", epsilon, 0, ends="()")
        self.frozen = False

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """[..., C] -> the same"""
        if not input_shape:
            raise ValueError("BatchNormalization needs channels [..., C], not ()")
        shape = input_shape[-1:]
        if self.specs and self.specs["gamma"][0] != shape:
            raise ValueError(f"the layer has {self.specs['gamma'][0][0]} channels, where it stood before")
        self.specs = {"gamma": (shape, initializers.ones), "beta": (shape, initializers.zeros)}
        self.statistic_specs = {
            "moving_mean": (shape, initializers.zeros),
            "moving_variance": (shape, initializers.ones),
        }
        return input_shape

    def __call__(self, x: np.ndarray, training: bool = False) -> Result:
        return self.normalize(x, training)

    def normalize(
        self,
        x: np.ndarray,
        training: bool,
        *,
        side_input: np.ndarray | None = None,
        activation: str | None = None,
    ) -> Result:
        """The layer, + side_input, and a relu in one pass, as nn.batch_normalization has them.

        The gradient goes through the relu, too, unless there is a side_input: then the caller wants it behind
        the relu himself, for it is also the gradient of side_input, and gives that.
        """
        weights = self.owned_weights()
        gamma, beta = weights["gamma"], weights["beta"]
        of_batch = training and not self.frozen and x.size > 0  # an empty batch has no mean
        if of_batch:
            mean, variance = nn.moments(x)
            self._move(mean, variance)
        else:
            mean, variance = weights["moving_mean"], weights["moving_variance"]
        how = {"side_input": side_input, "activation": activation}
        y = nn.batch_normalization(x, mean, variance, beta, gamma, self.epsilon, **how)
        behind = {"offset": beta, "activation": activation if side_input is None else None}

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            dx, dgamma, dbeta = nn.batch_normalization_grad(
                dy, x, mean, variance, gamma, self.epsilon, is_training=of_batch, **behind
            )
            self.accumulate("gamma", lambda out: _moved(dgamma, out))
            self.accumulate("beta", lambda out: _moved(dbeta, out))
            return dx if input_gradient else None

        return y, backward if training else None

    def line(self, before: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """gain and offset [C]: without training the layer on x + before (or None) is x * gain + offset."""
        weights = self.owned_weights()
        given = {key: (weights[key], 1) for key in ("gamma", "moving_mean", "moving_variance", "beta")}
        arrays = arguments.arrays(**given, bias=arguments.optional(before, 1))
        gain, offset = np.empty_like(arrays[0]), np.empty_like(arrays[0])
        for key, a in zip((*given, "bias"), arrays, strict=True):
            arguments.same_shape(key, a, gain.shape, "that of gamma")
        _norm.line(gain, offset, self.epsilon, *arrays)
        return gain, offset

    def _move(self, mean: np.ndarray, variance: np.ndarray) -> None:
        for key, of_batch in (("moving_mean", mean), ("moving_variance", variance)):
            moving = self.weights[key]
            moving += (1 - self.momentum) * (of_batch - moving)


def _moved(gradient: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """The gradient, in `out` if there is one."""
    if out is None:
        return gradient
    out[...] = gradient
    return out
