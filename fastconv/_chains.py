"""Layers that stand next to each other and are computed as one.

    ConvPool       Conv2D with relu, 2x2 MaxPooling2D, perhaps Dropout
    ConvNorm       Conv2D, BatchNormalization, perhaps ReLU
    NormRelu       BatchNormalization, ReLU
    ResidualRelu   Residual with a BatchNormalization at the end of its branch, ReLU

Groups of one channel have a driver of their own, which neither pools nor scales; as chains are formed before
the channels are known, no convolution of groups takes part in one. The Winograd tiles of filters of one row
or column, and of strided ones, do not hold whole 2x2 windows: such filters take no part in ConvPool.

Each chain is a step, called and prepared for inference like a layer. Results and gradients have the same bits
as those of the layers one after another, but for two: the gradient of ConvPool's bias is summed in another
order, and ConvNorm's result without training, where it is computed in one pass, is rounded less often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import _arguments as arguments
from fastconv import _windows, nn, threads
from fastconv._convolution import Convolution, plan, window
from fastconv._kernels import elementwise, memory

if TYPE_CHECKING:
    from fastconv.layers import BatchNormalization, Conv2D, Dropout, Layer, MaxPooling2D, Residual


def link(layers: Sequence[Layer]) -> list[Any]:
    """The layers as steps: those that form a chain become one, the others stay what they are."""
    steps: list[Any] = []
    rest = list(layers)
    while rest:
        found = ((chain, chain.length(rest)) for chain in (ConvPool, ConvNorm, NormRelu, ResidualRelu))
        chain, length = next(((chain, length) for chain, length in found if length), (None, 1))
        steps.append(rest[0] if chain is None else chain(*rest[:length]))
        del rest[:length]
    return steps


def asked(layers: Sequence[Layer]) -> list[Any]:
    """All that `link` depends on: as long as this stays equal, so do the steps."""
    return [(layer, *[getattr(layer, name) for name in layer.chained_by]) for layer in layers]


def in_turn(steps: Sequence[Any], overwrites: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """What computes the steps one after the other, without training.

    overwrites: nobody else holds the first one's input, so that it may become a result.
    """
    from fastconv.layers import Sequential  # which imports this module

    prepared = []
    for i, step in enumerate(steps):
        if type(step) in (ResidualRelu, Sequential):
            x_is_new = is_new(steps[i - 1]) if i else overwrites
            prepared.append(step.prepare_inference(overwrites=x_is_new))
        else:
            prepared.append(step.prepare_inference())

    def run(x: np.ndarray) -> np.ndarray:
        for compute in prepared:
            x = compute(x)
        return x

    return run


def is_new(step: Any) -> bool:
    """Whether nobody else holds the result of a step that is prepared, so that the next one may overwrite it.

    So it is of chains, and of a Sequential that ends in one. Any other layer may keep its result, if somebody
    derived it, or pass on what it was given.
    """
    from fastconv.layers import Sequential

    if type(step) is Sequential:
        return is_new(step.linked[-1])
    return only_reads(step) or type(step) is ResidualRelu


def only_reads(step: Any) -> bool:
    """Whether the step lets nobody hold its input: so it is of chains without any layer of others inside."""
    return isinstance(step, (ConvPool, ConvNorm, NormRelu))


def sum_gradients(
    layer: Any,
    backward: Callable[..., np.ndarray | None],
    dy: np.ndarray,
    input_gradient: bool,
    others: np.ndarray | None,
) -> np.ndarray | None:
    """The gradient of the input that a layer shares with others, added to theirs (None: it is the first).

    A convolution adds them to each number before it is written: a third less passes through memory. Its
    backward, and that of what begins with one, takes them as side_input.
    """
    if not input_gradient or others is None:
        return backward(dy, input_gradient=input_gradient)
    if _begins_with_convolution(layer):
        return backward(dy, side_input=others)
    return nn.add(backward(dy), others)


def _begins_with_convolution(step: Any) -> bool:
    from fastconv.layers import Conv2D, Sequential  # which import this module

    if type(step) is Sequential and step.rng is None:
        return _begins_with_convolution(step.linked[0])
    return type(step) in (Conv2D, ConvNorm)


def _is_relu(layer: Layer) -> bool:
    from fastconv.layers import Activation, ReLU  # which import this module

    return type(layer) in (Activation, ReLU) and layer.activation == "relu"


class ConvPool:
    """A Conv2D with relu, the MaxPooling2D of 2x2 windows behind it, and perhaps a Dropout.

    A convolution's result is pooled while it lies in the cache and is never written to memory; one byte per
    pooled value remembers which of its window's pixels the gradient goes to, or that it goes nowhere because
    relu or dropout held the value back. So the convolution's gradients read the pooled gradient and these
    bytes, and the dense gradient is never written either.
    """

    def __init__(self, conv: Conv2D, pool: MaxPooling2D, dropout: Dropout | None = None) -> None:
        self.conv, self.pool, self.dropout = conv, pool, dropout

    @staticmethod
    def length(layers: Sequence[Layer]) -> int:
        """How many of the layers, from the first on, form such a chain; 0 if they do not."""
        from fastconv.layers import Conv2D, Dropout, MaxPooling2D

        kinds = [type(layer) for layer in layers[:3]]
        if kinds[:2] != [Conv2D, MaxPooling2D]:
            return 0
        conv, pool = layers[:2]
        in_pairs = pool.pool_size == pool.strides == (2, 2)
        in_pairs = in_pairs and isinstance(pool.padding, str)  # so that windows start at pixel 0
        is_line = min(conv.kernel_size) == 1 < max(conv.kernel_size)
        apart = conv.groups > 1 or is_line or max(conv.strides) > 1
        if conv.activation != "relu" or apart or not in_pairs:
            return 0
        return 3 if kinds[2:] == [Dropout] else 2

    def count_params(self) -> int:
        return self.conv.count_params()

    def __call__(self, x: np.ndarray, training: bool = False) -> tuple[np.ndarray, Any]:
        if not training:
            return self.prepare_inference()(x), None
        conv, weights = self.conv, self.conv.owned_weights()
        bias = arguments.optional(weights.get("bias"), 1)
        x, w, bias = arguments.arrays(x=(x, 4), kernel=(weights["kernel"], 4), bias=bias)
        _check_line("bias", bias, w)
        convolution = plan(x.shape, w.shape, window(*conv.window))
        y = memory.empty(self._pooled(convolution), x.dtype)
        where = memory.empty(y.shape, np.uint8)
        convolution.forward(y, x, w, bias, relu=True, pools=True, where=where)
        scale = 1.0
        if self.dropout is not None:
            scale = _drop(y, where, *self.dropout.draw())

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            dy, images, filters = arguments.arrays(dy=(dy, 4), x=(x, 4), kernel=(w, 4))
            arguments.same_shape("dy", dy, y.shape, "that of the result whose gradient it is")
            unpool = where, scale

            def kernel_gradient(out: np.ndarray | None) -> np.ndarray:
                dw = memory.empty(w.shape, dy.dtype) if out is None else out
                convolution.filter_gradient(dw, images, dy, unpool=unpool)
                return dw

            def bias_gradient(out: np.ndarray | None) -> np.ndarray:
                # Of the values that passed relu and dropout: those are positive.
                return np.multiply(nn.bias_add_grad(nn.relu_grad(dy, y)), scale, dtype=dy.dtype, out=out)

            conv.accumulate("kernel", kernel_gradient)
            if bias is not None:
                conv.accumulate("bias", bias_gradient)
            if not input_gradient:
                return None
            dx = memory.empty(x.shape, dy.dtype)
            convolution.input_gradient(dx, filters, dy, unpool=unpool)
            return dx

        return y, backward

    def prepare_inference(self) -> Callable[[np.ndarray], np.ndarray]:
        """As a layer's."""
        return convolving(self.conv, self.conv.owned_weights().get("bias"), relu=True, pooled=self._pooled)

    def _pooled(self, convolution: Convolution) -> tuple[int, ...]:
        """The shape of the convolution's pool."""
        n, *image = convolution.output_shape
        axes = _windows.pooling((n, *image), 2, 2, self.pool.padding, "x")
        return (n, *(axis.out for axis in axes), image[2])


class ConvNorm:
    """A Conv2D without activation, the BatchNormalization behind it, and perhaps a ReLU.

    Without training the normalization is a factor and a summand of each filter's results, which they get
    before they leave the registers; so they do a side input, the shortcut of a residual block.
    """

    def __init__(self, conv: Conv2D, norm: BatchNormalization, relu: Layer | None = None) -> None:
        self.conv, self.norm = conv, norm
        self.activation = None if relu is None else "relu"

    @staticmethod
    def length(layers: Sequence[Layer]) -> int:
        from fastconv.layers import BatchNormalization, Conv2D

        if [type(layer) for layer in layers[:2]] != [Conv2D, BatchNormalization]:
            return 0
        if layers[0].activation is not None or layers[0].groups > 1:
            return 0
        return 3 if len(layers) > 2 and _is_relu(layers[2]) else 2

    def count_params(self) -> int:
        return self.conv.count_params() + self.norm.count_params()

    def __call__(self, x: np.ndarray, training: bool = False) -> tuple[np.ndarray, Any]:
        if not training:
            return self.prepare_inference()(x), None
        z, backward_conv = self.conv(x, training)
        y, backward_norm = self.norm.normalize(z, training, activation=self.activation)

        def backward(dy: np.ndarray, input_gradient: bool = True, **sums: np.ndarray) -> np.ndarray | None:
            return backward_conv(backward_norm(dy), input_gradient=input_gradient, **sums)

        return y, backward

    def prepare_inference(self) -> Callable[[np.ndarray], np.ndarray]:
        """As a layer's."""
        return self.prepare_sum(self.activation)

    def prepare_sum(self, activation: str | None, overwrites: bool = False) -> Callable[..., np.ndarray]:
        """x -> y, or x, side_input -> y with that added before the activation; overwrites: it becomes y."""
        gain, offset = self.norm.line(self.conv.owned_weights().get("bias"))
        return convolving(self.conv, offset, activation == "relu", gain, overwrites=overwrites)


class NormRelu:
    """A BatchNormalization and the ReLU behind it: one pass forward, and one less over the gradient."""

    def __init__(self, norm: BatchNormalization, relu: Layer) -> None:
        self.norm = norm

    @staticmethod
    def length(layers: Sequence[Layer]) -> int:
        from fastconv.layers import BatchNormalization

        return 2 if type(layers[0]) is BatchNormalization and len(layers) > 1 and _is_relu(layers[1]) else 0

    def count_params(self) -> int:
        return self.norm.count_params()

    def __call__(self, x: np.ndarray, training: bool = False) -> tuple[np.ndarray, Any]:
        return self.norm.normalize(x, training, activation="relu")

    def prepare_inference(self) -> Callable[[np.ndarray], np.ndarray]:
        """As a layer's."""
        return lambda x: self(x)[0]


class ResidualRelu:
    """relu(branch(x) + shortcut(x)): the branch's last BatchNormalization does the sum and the relu, too.

    Without training that is the convolution before it, where the two are a ConvNorm.
    """

    def __init__(self, residual: Residual, relu: Layer) -> None:
        from fastconv.layers import Sequential

        branch = residual.layers[0].layers
        self.residual, self.head, self.norm = residual, Sequential(branch[:-1]), branch[-1]
        *self.first_steps, self.last_step = link(branch)

    @staticmethod
    def length(layers: Sequence[Layer]) -> int:
        from fastconv.layers import BatchNormalization, Residual, Sequential

        if type(layers[0]) is not Residual or len(layers) < 2 or not _is_relu(layers[1]):
            return 0
        branch = layers[0].layers[0]
        ends_in_norm = type(branch) is Sequential and type(branch.layers[-1]) is BatchNormalization
        return 2 if ends_in_norm and len(branch.layers) > 1 else 0

    def count_params(self) -> int:
        return self.residual.count_params()

    def __call__(self, x: np.ndarray, training: bool = False) -> tuple[np.ndarray, Any]:
        if not training:
            return self.prepare_inference()(x), None
        z, backward_head = self.head(x, training)
        past, backward_past = self.residual.past(x)
        y, backward_norm = self.norm.normalize(z, training, side_input=past, activation="relu")

        def backward(dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
            dsum = nn.relu_grad(dy, y)
            past_dx = backward_past(dsum, input_gradient=input_gradient)
            return sum_gradients(self.head, backward_head, backward_norm(dsum), input_gradient, past_dx)

        return y, backward

    def prepare_inference(self, overwrites: bool = False) -> Callable[[np.ndarray], np.ndarray]:
        """As a layer's; overwrites: x, which nobody else holds, may become the result.

        A sum in the shortcut's memory moves a third less of it (ResNet-50 on Zen 3: 1.02 to 1.04 times as
        fast). But the branch's first layer must not keep x, and its last must not read it.
        """
        first, past = in_turn(self.first_steps), self.residual.prepare_past()
        last = self._prepare_last(self._reads_apart() and self.residual.past_is_new(overwrites))
        return lambda x: last(first(x), past(x))

    def _reads_apart(self) -> bool:
        """Whether nobody but the shortcut has the block's input in hand when the branch's end is computed."""
        return bool(self.first_steps) and only_reads(self.first_steps[0]) and is_new(self.first_steps[-1])

    def _prepare_last(self, overwrites: bool) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """What computes the branch's end, the sum and the relu; overwrites: in the shortcut's memory."""
        if type(self.last_step) is ConvNorm:
            return self.last_step.prepare_sum("relu", overwrites)
        return lambda z, past: self.norm.normalize(z, False, side_input=past, activation="relu")[0]


def convolving(
    conv: Conv2D,
    bias: np.ndarray | None,
    relu: bool,
    gain: np.ndarray | None = None,
    pooled: Callable[[Convolution], tuple[int, ...]] | None = None,
    overwrites: bool = False,
) -> Callable[..., np.ndarray]:
    """What computes x convolved * gain + bias + side_input, and relu, in one pass: x, side_input=None -> y.

    gain, bias: [filters], or None. pooled: y is the 2x2 pool of that, and this finds its shape. overwrites:
    y is side_input, if it is an array of the result's dtype. An image of another dtype than the filters' is
    computed as NumPy promotes the two.
    """
    lines = {"bias": arguments.optional(bias, 1), "gain": arguments.optional(gain, 1)}
    filters, bias, gain = arguments.arrays(filters=(conv.owned_weights()["kernel"], 4), **lines)
    _check_line("bias", bias, filters)
    _check_line("gain", gain, filters)
    moves, groups = window(*conv.window), conv.groups
    fixed: dict[str, Any] = {"pools": True} if pooled else {}
    if gain is not None:
        fixed["gain"] = gain

    def run(x: np.ndarray, side_input: np.ndarray | None = None) -> np.ndarray:
        # Short where all is as it should be, for it runs on emptied caches (Layer.prepare_inference).
        w, b, side, epilogue = filters, bias, side_input, fixed
        if not (arguments.is_ready(x, w.dtype, 4) and (side is None or arguments.is_ready(side, w.dtype, 4))):
            given = {"input": (x, 4), "filters": (w, 4), "side_input": arguments.optional(side, 4)}
            x, w, side = arguments.arrays(**given)
            b = None if b is None else b.astype(x.dtype, copy=False)
            if gain is not None:
                epilogue = {**fixed, "gain": gain.astype(x.dtype, copy=False)}
        convolution = plan(x.shape, w.shape, moves, groups)
        shape = pooled(convolution) if pooled else convolution.output_shape
        if side is not None:
            arguments.same_shape("side_input", side, shape, "that of the result")
            epilogue = {**epilogue, "side": side}
        y = side if side is not None and overwrites else memory.empty(shape, x.dtype)
        convolution.forward(y, x, w, b, relu, **epilogue)
        return y

    return run


def _check_line(name: str, line: np.ndarray | None, filters: np.ndarray) -> None:
    arguments.same_shape(name, line, filters.shape[3:], "one number per filter")


def _drop(y: np.ndarray, where: np.ndarray, rate: float, seed: int) -> float:
    """nn.dropout in place, which also marks the pool's bytes; returns the scale of what is kept."""
    scale = 1 / (1 - rate)
    if y.size:
        flat, n = y.reshape(-1), threads.resolve(None, y.size * nn.RANDOM_PASS)
        elementwise.dropout(flat, flat, seed, int(rate * (1 << 32)), scale, n, where.reshape(-1))
    return scale
