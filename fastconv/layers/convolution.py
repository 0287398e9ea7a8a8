"""Layers that slide a kernel over images: convolution, also in groups or depthwise, and its transpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastconv import _arguments as arguments
from fastconv import _chains as chains
from fastconv import geometry, nn
from fastconv.initializers import Initializer
from fastconv.layers.affine import Affine
from fastconv.layers.base import checked_padding
from fastconv.layers.pointwise import ACTIVATIONS


class _Convolving(Affine):
    """What they share: a window, and input [H, W, C]."""

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int],
        padding: Any,
        dilation_rate: int | Sequence[int],
        activation: Any,
        use_bias: bool,
        kernel_initializer: str | Initializer,
        bias_initializer: str | Initializer,
        name: str | None,
    ) -> None:
        super().__init__(activation, use_bias, kernel_initializer, bias_initializer, name)
        self.kernel_size = arguments.pair("kernel_size", kernel_size)
        self.strides = arguments.pair("strides", strides)
        self.padding = checked_padding(padding)
        self.dilation_rate = arguments.pair("dilation_rate", dilation_rate)

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """[H, W, C] -> [OH, OW, channels of the output]"""
        if len(input_shape) != 3:
            raise ValueError(f"{type(self).__name__} needs input [H, W, C], not {input_shape}")
        kernel_shape = self._kernel_shape(input_shape[-1])
        empty = np.empty((0, *input_shape), np.float32)
        output_shape = self._forward(empty, np.zeros(kernel_shape, np.float32), None).shape[1:]
        self._declare(kernel_shape, output_shape[-1])
        return output_shape

    def _kernel_shape(self, channels: int) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def window(self) -> tuple[Any, ...]:
        return self.strides, self.padding, self.dilation_rate


class Conv2D(_Convolving):
    """x [N, H, W, C] convolved with kernel [kh, kw, C / groups, filters] (+ bias, activation) -> [N, OH, OW,
    filters].

    kernel_size, strides, dilation_rate: int or (height, width). padding: "valid", "same", or explicit as in
    nn.conv2d. groups: of the channels and of the filters, as in nn.conv2d. activation: None, "relu",
    "sigmoid" or "tanh", or nn's function of that name. Initializers: a name or function of
    fastconv.initializers.
    """

    chained_by = ("activation", "groups", "kernel_size", "strides")

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Any = "valid",
        *,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        name: str | None = None,
    ) -> None:
        moves = kernel_size, strides, padding, dilation_rate
        super().__init__(*moves, activation, use_bias, kernel_initializer, bias_initializer, name)
        self.filters = arguments.whole("filters", filters, 1)
        self.groups = arguments.whole("groups", groups, 1)
        if self.filters % self.groups:
            raise ValueError(f"groups must divide filters {self.filters}, unlike {self.groups}")

    def _kernel_shape(self, channels: int) -> tuple[int, ...]:
        if channels % self.groups:
            raise ValueError(f"groups must divide the {channels} channels of the input, unlike {self.groups}")
        return (*self.kernel_size, channels // self.groups, self.filters)

    def prepare_inference(self) -> Callable[[np.ndarray], np.ndarray]:
        """One call of the drivers, with what follows the sums."""
        convolve = chains.convolving(self, self.owned_weights().get("bias"), self._fused == "relu")
        if self.activation == self._fused:
            return convolve
        return lambda x: ACTIVATIONS[self.activation][0](convolve(x))

    def _forward(self, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        return nn.conv2d(x, kernel, *self.window, bias=bias, activation=self._fused, groups=self.groups)

    def _kernel_gradient(self, x: np.ndarray, dy: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        shape = self.weights["kernel"].shape
        return nn.conv2d_backprop_filter(x, shape, dy, *self.window, groups=self.groups, out=out)

    def _input_gradient(
        self, x: np.ndarray, dy: np.ndarray, side_input: np.ndarray | None = None
    ) -> np.ndarray:
        kernel, how = self.weights["kernel"], {"groups": self.groups, "side_input": side_input}
        return nn.conv2d_backprop_input(x.shape, kernel, dy, *self.window, **how)


class DepthwiseConv2D(_Convolving):
    """Each channel of x [N, H, W, C] convolved with filters of its own, kernel [kh, kw, C, depth_multiplier]
    (+ bias, activation) -> [N, OH, OW, C * depth_multiplier], those of a channel side by side.

    The other arguments are Conv2D's.
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: Any = "valid",
        depth_multiplier: int = 1,
        *,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        name: str | None = None,
    ) -> None:
        moves = kernel_size, strides, padding, dilation_rate
        super().__init__(*moves, activation, use_bias, kernel_initializer, bias_initializer, name)
        self.depth_multiplier = arguments.whole("depth_multiplier", depth_multiplier, 1)

    def _kernel_shape(self, channels: int) -> tuple[int, ...]:
        return (*self.kernel_size, channels, self.depth_multiplier)

    def _forward(self, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        return nn.depthwise_conv2d(x, kernel, *self.window, bias=bias, activation=self._fused)

    def _kernel_gradient(self, x: np.ndarray, dy: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        shape = self.weights["kernel"].shape
        return nn.depthwise_conv2d_backprop_filter(x, shape, dy, *self.window, out=out)

    def _input_gradient(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        return nn.depthwise_conv2d_backprop_input(x.shape, self.weights["kernel"], dy, *self.window)


class Conv2DTranspose(_Convolving):
    """The transpose of a convolution, x [N, H, W, C] with kernel [kh, kw, filters, C] (+ bias, activation)
    -> [N, OH, OW, filters]: `strides` times larger images.

    Along each axis, of a kernel that reaches over k pixels (with its dilation): OH = H * stride under "same",
    H * stride + max(k - stride, 0) under "valid", as in Keras. padding: one of these two. The other arguments
    are Conv2D's.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        *,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        name: str | None = None,
    ) -> None:
        moves = kernel_size, strides, padding, dilation_rate
        super().__init__(*moves, activation, use_bias, kernel_initializer, bias_initializer, name)
        if not isinstance(padding, str):
            raise ValueError(f'padding must be "valid" or "same", not {arguments.show(padding)}')
        self.filters = arguments.whole("filters", filters, 1)

    def _kernel_shape(self, channels: int) -> tuple[int, ...]:
        return (*self.kernel_size, self.filters, channels)

    def _forward(self, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        sides = [
            geometry.transposed_size(*axis, self.padding)
            for axis in zip(x.shape[1:3], self.kernel_size, self.strides, self.dilation_rate, strict=True)
        ]
        shape = (x.shape[0], *sides, self.filters)
        return nn.conv2d_transpose(x, kernel, shape, *self.window, bias=bias, activation=self._fused)

    def _kernel_gradient(self, x: np.ndarray, dy: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        return nn.conv2d_backprop_filter(dy, self.weights["kernel"].shape, x, *self.window, out=out)

    def _input_gradient(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        return nn.conv2d(dy, self.weights["kernel"], *self.window)
